//! The JSON that is in the field: collection definitions, objects and trigger payloads of both generations.

#![allow(clippy::expect_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;

use odgm_proto::oprc::{
    CreateCollectionRequest, EventInfo, EventType, InvocationResponse, ObjData, ObjMeta, ObjectEvent,
    TriggerPayload, TriggerTarget, ValData, ValType,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the JSON is valid")
}

fn refusal<T: DeserializeOwned>(value: Value) -> String {
    serde_json::from_value::<T>(value).err().expect("the JSON is refused").to_string()
}

fn text<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).expect("a message is JSON")
}

fn value(data: &'static str) -> ValData {
    ValData { data: data.into(), r#type: ValType::Byte.into() }
}

#[test]
fn the_documented_collection_example_parses() {
    let collections: Vec<CreateCollectionRequest> = parse(json!([{
        "name": "objects",
        "partition_count": 3,
        "replica_count": 2,
        "shard_type": "raft",
        "options": { "invoke_only_primary": "true", "mst_sync_interval": "5000" },
        "invocations": {
            "fn_routes": { "doSomething": { "url": "http://localhost:8080/invoke/doSomething" } },
            "disabled_fn": []
        }
    }]));

    let [collection] = &collections[..] else { panic!("one collection") };
    assert_eq!((collection.name.as_str(), collection.shard_type.as_str()), ("objects", "raft"));
    assert_eq!((collection.partition_count, collection.replica_count), (3, 2));
    assert_eq!(collection.options["mst_sync_interval"], "5000");
    let route = &collection.invocations.as_ref().expect("routes").fn_routes["doSomething"];
    assert_eq!((route.url.as_str(), route.stateless), ("http://localhost:8080/invoke/doSomething", false));
}

#[test]
fn a_collection_has_defaults_for_everything_but_the_assignments() {
    assert_eq!(parse::<CreateCollectionRequest>(json!({})), CreateCollectionRequest::default());
    let message = refusal::<CreateCollectionRequest>(json!({ "shard_assignments": [{ "primary": 1 }] }));
    assert!(message.contains("missing field `replica`"), "{message}");
}

#[test]
fn an_unknown_field_is_refused_by_its_name() {
    let message = refusal::<CreateCollectionRequest>(json!({ "name": "a", "partitions": 3 }));
    assert!(
        message.starts_with("unknown field `partitions`, expected one of `name`, `partition_count`"),
        "{message}"
    );

    let message = refusal::<CreateCollectionRequest>(json!({ "invocations": { "fn_route": {} } }));
    assert!(message.contains("unknown field `fn_route`"), "{message}");

    let message = refusal::<ObjData>(json!({ "entries": {}, "entry": {} }));
    assert!(message.contains("unknown field `entry`"), "{message}");
}

#[test]
fn what_the_mapping_requires_is_named_when_it_is_missing() {
    assert!(refusal::<ValData>(json!({ "data": "" })).contains("missing field `type`"));
    assert!(refusal::<ObjData>(json!({})).contains("missing field `entries`"));
    assert!(refusal::<ObjectEvent>(json!({ "func_trigger": {} })).contains("missing field `data_trigger`"));
    assert!(
        refusal::<ValData>(json!({ "data": "not base64", "type": 0 })).contains("expected standard base64")
    );
    let negative = json!({ "cls_id": "a", "partition_id": 0, "object_id": -1 });
    assert!(refusal::<ObjMeta>(negative).contains("a string or a number that is not negative"));
}

#[test]
fn an_object_of_the_string_generation_goes_both_ways() {
    let written = concat!(
        r#"{"metadata":{"cls_id":"plane","partition_id":3,"object_id":"n101"},"#,
        r#""entries":{"altitude":{"data":"MzUwMDA=","type":0},"crew":{"data":"/+8=","type":1}},"event":null}"#
    );
    let object: ObjData = serde_json::from_str(written).expect("valid");

    let meta = object.metadata.as_ref().expect("metadata");
    assert_eq!((meta.object_id, meta.object_id_str.as_deref()), (0, Some("n101")));
    assert_eq!(object.entries_str["altitude"], value("35000"));
    assert_eq!(object.entries_str["crew"].r#type(), ValType::CrdtMap);
    assert_eq!(text(&object), written);
}

#[test]
fn an_object_of_the_numeric_generation_is_understood() {
    let object: ObjData = parse(json!({
        "metadata": { "cls_id": "plane", "partition_id": 3, "object_id": 101 },
        "entries": { "7": { "data": "MzUwMDA=", "type": 0 } },
    }));

    let meta = object.metadata.as_ref().expect("metadata");
    assert_eq!((meta.object_id, &meta.object_id_str), (101, &None));
    assert_eq!(object.entries_str, BTreeMap::from([("7".into(), value("35000"))]));
}

#[test]
fn an_object_of_the_dual_generation_is_understood_and_the_string_wins() {
    let object: ObjData = parse(json!({
        "metadata": { "cls_id": "plane", "partition_id": 3, "object_id": 0, "object_id_str": "n101" },
        "entries": { "7": { "data": "AA==", "type": 0 } },
        "entries_str": { "7": { "data": "MQ==", "type": 0 } },
    }));
    assert_eq!(object.metadata.as_ref().and_then(|meta| meta.object_id_str.as_deref()), Some("n101"));
    assert_eq!(object.entries_str, BTreeMap::from([("7".into(), value("1"))]));
}

#[test]
fn both_columns_of_a_message_become_one_field() {
    let object = ObjData {
        metadata: Some(ObjMeta { cls_id: "a".into(), object_id: 42, ..Default::default() }),
        entries: BTreeMap::from([(1, value("numeric")), (2, value("numeric"))]),
        entries_str: BTreeMap::from([("2".into(), value("string"))]),
        event: None,
    };
    let json: Value = serde_json::from_str(&text(&object)).expect("valid");
    assert_eq!(json["metadata"]["object_id"], 42);
    assert_eq!(json["entries"]["1"]["data"], "bnVtZXJpYw==");
    assert_eq!(json["entries"]["2"]["data"], "c3RyaW5n");
    assert!(json.get("entries_str").is_none());
}

#[test]
fn triggers_go_both_ways() {
    let written = concat!(
        r#"{"func_trigger":{"land":{"on_complete":[],"on_error":[{"cls_id":"ops","partition_id":0,"object_id":0,"#,
        r#""fn_id":"page","req_options":{"level":"high"}}]}},"#,
        r#""data_trigger":{"altitude":{"on_create":[],"on_update":[{"cls_id":"ops","partition_id":0,"object_id":"desk","#,
        r#""fn_id":"log","req_options":{}},{"cls_id":"ops","partition_id":0,"object_id":null,"fn_id":"log","#,
        r#""req_options":{}}],"on_delete":[]}}}"#
    );
    let event: ObjectEvent = serde_json::from_str(written).expect("valid");

    let targets = &event.data_trigger_str["altitude"].on_update;
    assert_eq!((targets[0].object_id, targets[0].object_id_str.as_deref()), (None, Some("desk")));
    assert_eq!((targets[1].object_id, &targets[1].object_id_str), (None, &None));
    let on_error: &TriggerTarget = &event.func_trigger["land"].on_error[0];
    assert_eq!(on_error.object_id, Some(0), "0 was sent");
    assert_eq!(text(&event), written);
}

#[test]
fn a_trigger_payload_reads_as_the_string_generation_writes_it() {
    let payload = TriggerPayload {
        event_info: Some(EventInfo {
            source_cls_id: "plane".into(),
            source_partition_id: 3,
            source_object_id: 101,
            event_type: EventType::DataUpdate.into(),
            key: Some("7".into()),
            timestamp: 1_700_000_000_000,
            source_object_id_str: Some("101".into()),
            ..Default::default()
        }),
        original_payload: Some("hi".into()),
    };
    let written = concat!(
        r#"{"event_info":{"source_cls_id":"plane","source_partition_id":3,"source_object_id":"101","event_type":4,"#,
        r#""fn_id":null,"key":"7","timestamp":1700000000000,"context":{}},"original_payload":"aGk="}"#
    );
    assert_eq!(text(&payload), written);

    let numeric: TriggerPayload = parse(json!({ "event_info": { "source_object_id": 101, "key": 7 } }));
    let info = numeric.event_info.expect("event_info");
    assert_eq!((info.source_object_id, info.key.as_deref()), (101, Some("7")));
    assert_eq!(parse::<TriggerPayload>(json!({})), TriggerPayload::default());
}

#[test]
fn an_absent_payload_is_null_and_may_be_missing() {
    let response: InvocationResponse = parse(json!({ "status": 2, "headers": {}, "invocation_id": "i1" }));
    assert_eq!(response.payload, None);
    assert_eq!(text(&response), r#"{"payload":null,"status":2,"headers":{},"invocation_id":"i1"}"#);
}
