//! What a function is called with: the request of an invocation, or word of what happened, in the form that its callers chose.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::Target;
use odgm_log::body::calls::RowKey;
use odgm_projections::{Action, OutboxRow, Subject};
use odgm_proto::canonical;
use odgm_proto::oprc::{EventInfo, EventType, NumericEventInfo, NumericTriggerPayload, TriggerPayload};
use odgm_replication::definition::PayloadFormat;
use prost::Message as _;

use super::plan::Home;
use super::settings::Settings;
use crate::call::{Call, IdempotencyKey};

/// How calls are made, as far as it shows in them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    format: PayloadFormat,
    timeout: Duration,
}

impl From<&Settings> for Manner {
    fn from(settings: &Settings) -> Self {
        Self { format: settings.payload_format, timeout: settings.trigger_timeout }
    }
}

/// The call of a row, of which `payload` is what its record has.
pub(super) fn call(home: &Home, key: RowKey, row: &OutboxRow, payload: Bytes, manner: Manner) -> Call {
    let cause = home.cause(row.origin, key.offset);
    let name = IdempotencyKey { cause, target: key.index }.to_string();
    let target = match row.subject {
        Subject::Invocation { .. } => {
            Target { class: home.class.clone(), partition: home.index, ..row.target.clone() }
        }
        Subject::Data { .. } | Subject::Function { .. } => row.target.clone(),
    };
    let payload = match event(home, key, row, &name) {
        Some(event) => {
            let written = (!is_deletion(&row.subject)).then_some(payload);
            encode(event, written, manner.format)
        }
        None => payload,
    };
    Call {
        key: name,
        target,
        payload,
        depth: row.depth,
        cause: Some(cause),
        traceparent: row.traceparent.clone(),
        timeout: manner.timeout,
        is_given_its_time: true,
    }
}

/// What happened; none where a client asked for the call.
fn event(home: &Home, key: RowKey, row: &OutboxRow, name: &str) -> Option<EventInfo> {
    let (object, kind, function, entry, version) = match &row.subject {
        Subject::Data { object, key, action, version } => {
            let kind = match action {
                Action::Created => EventType::DataCreate,
                Action::Updated => EventType::DataUpdate,
                Action::Deleted => EventType::DataDelete,
            };
            (object, kind, None, Some(key.clone()), version)
        }
        Subject::Function { object, function, is_complete, version } => {
            let kind = if *is_complete { EventType::FuncComplete } else { EventType::FuncError };
            (object, kind, Some(function.clone()), None, version)
        }
        Subject::Invocation { .. } => return None,
    };
    let context = [
        ("depth", row.depth.to_string()),
        ("group", home.group.to_string()),
        ("idempotency_key", name.to_owned()),
        ("offset", key.offset.to_string()),
        ("origin", row.origin.to_string()),
        ("version", version.to_string()),
    ];
    Some(EventInfo {
        source_cls_id: home.class.clone(),
        source_partition_id: home.index,
        source_object_id: canonical(object).unwrap_or_default(),
        event_type: kind.into(),
        fn_id: function,
        key: entry,
        timestamp: row.created.as_millis(),
        context: context
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<BTreeMap<_, _>>(),
        source_object_id_str: Some(object.clone()),
    })
}

fn is_deletion(subject: &Subject) -> bool {
    matches!(subject, Subject::Data { action: Action::Deleted, .. })
}

#[allow(clippy::expect_used)]
fn encode(event: EventInfo, original_payload: Option<Bytes>, format: PayloadFormat) -> Bytes {
    match format {
        PayloadFormat::Json => {
            let payload = TriggerPayload { event_info: Some(event), original_payload };
            let json = serde_json::to_vec(&payload);
            json.expect("invariant: texts, numbers and maps with texts as keys are JSON").into()
        }
        PayloadFormat::Protobuf => {
            TriggerPayload { event_info: Some(event), original_payload }.encode_to_vec().into()
        }
        PayloadFormat::ProtobufNumeric => {
            let event = NumericEventInfo {
                source_cls_id: event.source_cls_id,
                source_partition_id: event.source_partition_id,
                source_object_id: event.source_object_id,
                event_type: event.event_type,
                fn_id: event.fn_id,
                key: event.key.as_deref().and_then(canonical),
                timestamp: event.timestamp,
                context: event.context,
            };
            NumericTriggerPayload { event_info: Some(event), original_payload }.encode_to_vec().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use odgm_log::{GroupId, NodeId, Offset, Timestamp};

    use super::*;

    fn home() -> Home {
        Home { group: GroupId(7), class: "room".into(), index: 3 }
    }

    fn row(subject: Subject) -> OutboxRow {
        OutboxRow {
            subject,
            target: Target {
                class: "house".into(),
                partition: 1,
                object: Some("o".into()),
                function: "count".into(),
                options: vec![("lang".into(), "en".into())],
            },
            depth: 2,
            generation: 0,
            attempt: 4,
            origin: NodeId(5),
            created: Timestamp::from_millis(1_700_000_000_123),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
            last_error: "too slow".into(),
            payload: None,
        }
    }

    fn data(object: &str, key: &str, action: Action) -> OutboxRow {
        row(Subject::Data { object: object.into(), key: key.into(), action, version: 9 })
    }

    fn made(row: &OutboxRow, format: PayloadFormat) -> Call {
        let key = RowKey { due: Timestamp(99), offset: Offset(42), index: 6 };
        let settings = Settings { payload_format: format, ..Settings::default() };
        call(&home(), key, row, Bytes::from_static(b"21.5"), Manner::from(&settings))
    }

    fn json(row: &OutboxRow) -> String {
        String::from_utf8(made(row, PayloadFormat::Json).payload.into()).expect("text")
    }

    #[test]
    fn events_as_json() {
        let function = |is_complete| {
            let (object, function) = ("lamp".into(), "switch".into());
            row(Subject::Function { object, function, is_complete, version: 0 })
        };
        let events = [
            json(&data("lamp", "temp", Action::Created)),
            json(&data("12", "7", Action::Updated)),
            json(&data("lamp", "temp", Action::Deleted)),
            json(&function(true)),
            json(&function(false)),
        ];
        insta::assert_snapshot!(events.join("\n"));
    }

    #[test]
    fn events_as_messages_of_either_generation() {
        let call = made(&data("12", "7", Action::Updated), PayloadFormat::Protobuf);
        let payload = TriggerPayload::decode(call.payload).expect("a message");
        let event = payload.event_info.expect("an event");
        assert_eq!((event.source_object_id, event.source_object_id_str.as_deref()), (12, Some("12")));
        assert_eq!(event.key.as_deref(), Some("7"));
        assert_eq!(payload.original_payload.as_deref(), Some(b"21.5".as_slice()));

        let call = made(&data("12", "7", Action::Updated), PayloadFormat::ProtobufNumeric);
        let payload = NumericTriggerPayload::decode(call.payload).expect("a message");
        let event = payload.event_info.expect("an event");
        assert_eq!((event.source_object_id, event.key), (12, Some(7)));
        let call = made(&data("lamp", "007", Action::Deleted), PayloadFormat::ProtobufNumeric);
        let payload = NumericTriggerPayload::decode(call.payload).expect("a message");
        let event = payload.event_info.expect("an event");
        assert_eq!((event.source_object_id, event.key), (0, None), "what is no number has none");
        assert_eq!(payload.original_payload, None);
    }

    #[test]
    fn an_invocation_is_called_with_its_own_payload_in_its_own_partition() {
        let mut row = row(Subject::Invocation { invocation: "i".into() });
        (row.target.class, row.target.partition) = (String::new(), 0);
        let call = made(&row, PayloadFormat::Json);
        assert_eq!(call.payload, Bytes::from_static(b"21.5"));
        assert_eq!((call.target.class.as_str(), call.target.partition), ("room", 3));
        assert_eq!((call.key.as_str(), call.depth), ("7/5/42/6", 2));
        assert_eq!(call.cause, Some(home().cause(NodeId(5), Offset(42))));
        assert_eq!(call.timeout, Duration::from_secs(30));
        assert_eq!(call.traceparent, row.traceparent);
    }
}
