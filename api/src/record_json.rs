//! Records as JSON, for people who look at a log.
//!
//! Text stays text; other bytes are `{"base64": …}`, and CRDT values `{"crdt": …}`.

mod calls;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use odgm_log::body::{
    Body, Cause, Config, CursorMoved, DataTrigger, FunctionTrigger, Membership, SetMode, SetValues, Target,
    Triggers, Value, ValueKind,
};
use odgm_log::{NodeId, Payload, PayloadError, Record};
use odgm_proto::odgm::v1::LogRecord;
use serde_json::{Map, Value as Json, json};

/// A record as `odgm.v1.Admin.DumpLog` answers it.
///
/// # Errors
/// If the payload cannot be decoded.
pub fn log_record(record: &Record) -> Result<LogRecord, PayloadError> {
    let payload = record.decode()?;
    Ok(LogRecord {
        offset: record.offset.get(),
        term: record.term.get(),
        stamp_us: record.stamp.get(),
        origin: record.origin.get(),
        body_type: record.kind.body_type.name().to_owned(),
        payload_bytes: record.payload.len() as u64,
        json: payload_json(&payload).to_string(),
    })
}

/// A payload: what it says, and why.
pub fn payload_json(payload: &Payload) -> Json {
    let mut json = body(&payload.body);
    let cause = cause(&payload.cause);
    if !cause.is_empty() {
        json.insert("cause".into(), cause.into());
    }
    json.into()
}

fn body(body: &Body) -> Map<String, Json> {
    match body {
        Body::Set(set) => object(&set.object, "entries", &set.entries, set.triggers.as_ref()),
        Body::Merge(merge) => object(&merge.object, "entries", &merge.entries, merge.triggers.as_ref()),
        Body::Delete(delete) => map([("object", json!(delete.object))]),
        Body::SetValues(values) => set_values(values),
        Body::CursorMoved(moved) => cursor(moved),
        Body::Config(config) => rules(config),
        Body::Semantics(semantics) => map([("version", json!(semantics.version))]),
        Body::Trimmed(trimmed) => map([("below", json!(trimmed.below.get()))]),
        Body::Blank => Map::new(),
        Body::Membership(membership) => members(membership),
        Body::CollectTombstones(collect) => map([("through", json!(collect.through.get()))]),
        Body::Invoke(invoke) => calls::invoke(invoke),
        Body::Outcome(outcome) => calls::outcome(outcome),
        Body::TriggerSettled(settled) => calls::settled(settled),
        Body::Delivered(delivered) => calls::delivered(delivered),
        Body::Redrive(redrive) => calls::redrive(redrive),
        Body::Discard(discard) => calls::discard(discard),
    }
}

fn members(body: &Membership) -> Map<String, Json> {
    let ids = |set: &Vec<NodeId>| set.iter().map(|node| json!(node.0)).collect::<Json>();
    let voters = body.voters.iter().map(ids).collect::<Json>();
    map([("voters", voters), ("nodes", ids(&body.nodes))])
}

fn object(
    id: &str,
    name: &str,
    entries: &[(String, Value)],
    triggers: Option<&Triggers>,
) -> Map<String, Json> {
    let mut json = map([("object", json!(id)), (name, values(entries))]);
    if let Some(triggers) = triggers {
        json.insert("triggers".into(), triggers_json(triggers));
    }
    json
}

fn set_values(body: &SetValues) -> Map<String, Json> {
    let mut json = object(&body.object, "puts", &body.puts, None);
    if !body.deletes.is_empty() {
        json.insert("deletes".into(), json!(body.deletes));
    }
    if let Some(expected) = body.expected_version {
        json.insert("expected_version".into(), json!(expected));
    }
    json
}

fn cursor(moved: &CursorMoved) -> Map<String, Json> {
    let position = moved.position.map(|position| position.get());
    map([
        ("cursor", json!(moved.name)),
        ("position", json!(position)),
        ("allowed_lag", json!(moved.allowed_lag)),
    ])
}

fn rules(config: &Config) -> Map<String, Json> {
    let set_mode = match config.set_mode {
        SetMode::Replace => "replace",
        SetMode::Upsert => "upsert",
    };
    map([
        ("events_enabled", json!(config.events_enabled)),
        ("max_trigger_depth", json!(config.max_trigger_depth)),
        ("set_mode", json!(set_mode)),
        ("max_crdt_bytes", json!(config.max_crdt_bytes)),
        ("dedup_window_ms", json!(config.dedup_window_ms)),
        ("dedup_max_ids", json!(config.dedup_max_ids)),
        ("dedup_max_bytes", json!(config.dedup_max_bytes)),
        ("time_index_interval_ms", json!(config.time_index_interval_ms)),
        ("max_outbox_rows", json!(config.max_outbox_rows)),
        ("max_outbox_bytes", json!(config.max_outbox_bytes)),
        ("result_retention_ms", json!(config.result_retention_ms)),
        ("max_result_bytes", json!(config.max_result_bytes)),
    ])
}

fn cause(cause: &Cause) -> Map<String, Json> {
    let mut json = Map::new();
    if let Some(id) = &cause.request_id {
        json.insert("request_id".into(), json!(id));
    }
    if cause.depth != 0 {
        json.insert("depth".into(), json!(cause.depth));
    }
    if let Some(parent) = &cause.parent {
        let parent = json!({
            "group": parent.group.get(), "origin": parent.origin.get(), "offset": parent.offset.get(),
        });
        json.insert("parent".into(), parent);
    }
    if let Some(trace) = &cause.traceparent {
        json.insert("traceparent".into(), json!(trace));
    }
    json
}

fn values(entries: &[(String, Value)]) -> Json {
    entries.iter().map(|(key, entry)| (key.clone(), value(entry))).collect::<Map<_, _>>().into()
}

fn value(value: &Value) -> Json {
    match value.kind {
        ValueKind::Bytes => bytes(&value.data),
        ValueKind::CrdtMap => json!({ "crdt": STANDARD.encode(&value.data) }),
    }
}

fn bytes(data: &[u8]) -> Json {
    match std::str::from_utf8(data) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": STANDARD.encode(data) }),
    }
}

fn texts(pairs: &[(String, String)]) -> Json {
    pairs.iter().map(|(name, text)| (name.clone(), json!(text))).collect::<Map<_, _>>().into()
}

fn triggers_json(triggers: &Triggers) -> Json {
    let functions = triggers.functions.iter().map(|(function, trigger)| {
        let FunctionTrigger { on_complete, on_error } = trigger;
        (function.clone(), json!({ "on_complete": targets(on_complete), "on_error": targets(on_error) }))
    });
    let data = triggers.data.iter().map(|(key, trigger)| {
        let DataTrigger { on_create, on_update, on_delete } = trigger;
        let trigger = json!({
            "on_create": targets(on_create), "on_update": targets(on_update), "on_delete": targets(on_delete),
        });
        (key.clone(), trigger)
    });
    json!({ "functions": functions.collect::<Map<_, _>>(), "data": data.collect::<Map<_, _>>() })
}

fn targets(targets: &[Target]) -> Json {
    let target = |target: &Target| {
        json!({
            "class": target.class,
            "partition": target.partition,
            "object": target.object,
            "function": target.function,
            "options": texts(&target.options),
        })
    };
    targets.iter().map(target).collect()
}

fn map<const N: usize>(fields: [(&str, Json); N]) -> Map<String, Json> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use odgm_log::body::{Delete, Parent, Set};
    use odgm_log::{GroupId, NodeId, Offset};

    use super::*;

    fn shown(cause: Cause, body: Body) -> String {
        payload_json(&Payload { cause, body }).to_string()
    }

    #[test]
    fn records_say_what_was_asked_for_and_why() {
        let entries =
            vec![("bin".into(), Value::bytes(vec![0xff, 0])), ("city".into(), Value::bytes("Łódź"))];
        let target = Target { class: "c".into(), function: "f".into(), ..Target::default() };
        let trigger = DataTrigger { on_update: vec![target], ..DataTrigger::default() };
        let triggers = Triggers { functions: Vec::new(), data: vec![("city".into(), trigger)] };
        let set = Body::Set(Set { object: "alice".into(), entries, triggers: Some(triggers) });
        let parent = Parent { group: GroupId(7), origin: NodeId(1), offset: Offset(9) };
        let caused =
            Cause { request_id: Some("r1".into()), depth: 1, parent: Some(parent), traceparent: None };
        let compare = Body::SetValues(SetValues {
            object: "alice".into(),
            puts: vec![("doc".into(), Value::crdt_map(vec![1, 2, 3]))],
            deletes: vec!["bin".into()],
            expected_version: Some(0),
        });
        let lines = [
            shown(caused, set),
            shown(Cause::default(), compare),
            shown(Cause::default(), Body::Delete(Delete { object: "alice".into() })),
            shown(Cause::default(), Body::Config(Config::default())),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"cause":{"depth":1,"parent":{"group":7,"offset":9,"origin":1},"request_id":"r1"},"entries":{"bin":{"base64":"/wA="},"city":"Łódź"},"object":"alice","triggers":{"data":{"city":{"on_create":[],"on_delete":[],"on_update":[{"class":"c","function":"f","object":null,"options":{},"partition":0}]}},"functions":{}}}
        {"deletes":["bin"],"expected_version":0,"object":"alice","puts":{"doc":{"crdt":"AQID"}}}
        {"object":"alice"}
        {"dedup_max_bytes":268435456,"dedup_max_ids":1000000,"dedup_window_ms":86400000,"events_enabled":true,"max_crdt_bytes":1048576,"max_outbox_bytes":4294967296,"max_outbox_rows":10000000,"max_result_bytes":1073741824,"max_trigger_depth":10,"result_retention_ms":86400000,"set_mode":"replace","time_index_interval_ms":1000}
        "#);
    }
}
