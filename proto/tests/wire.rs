//! Clients of the numeric and of the string generation, as messages declared here by hand from the contract: what they
//! encode is understood, and what is answered in both columns reads right for each of them.

#![allow(clippy::expect_used, reason = "a test says what it expects by failing")]

use std::collections::BTreeMap;

use odgm_proto::oprc;
use prost::Message;

/// Messages as the numeric generation (G1) declares them.
mod numeric {
    use std::collections::HashMap;

    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ValData {
        #[prost(bytes = "vec", tag = "1")]
        pub(crate) data: Vec<u8>,
        #[prost(int32, tag = "2")]
        pub(crate) kind: i32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjMeta {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(uint64, tag = "3")]
        pub(crate) object_id: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct TriggerTarget {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(uint64, optional, tag = "3")]
        pub(crate) object_id: Option<u64>,
        #[prost(string, tag = "4")]
        pub(crate) fn_id: String,
        #[prost(map = "string, string", tag = "5")]
        pub(crate) req_options: HashMap<String, String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct DataTrigger {
        #[prost(message, repeated, tag = "1")]
        pub(crate) on_create: Vec<TriggerTarget>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) on_update: Vec<TriggerTarget>,
        #[prost(message, repeated, tag = "3")]
        pub(crate) on_delete: Vec<TriggerTarget>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjectEvent {
        #[prost(map = "uint32, message", tag = "2")]
        pub(crate) data_trigger: HashMap<u32, DataTrigger>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjData {
        #[prost(message, optional, tag = "1")]
        pub(crate) metadata: Option<ObjMeta>,
        #[prost(map = "uint32, message", tag = "2")]
        pub(crate) entries: HashMap<u32, ValData>,
        #[prost(message, optional, tag = "3")]
        pub(crate) event: Option<ObjectEvent>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SetObjectRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(int32, tag = "2")]
        pub(crate) partition_id: i32,
        #[prost(uint64, tag = "3")]
        pub(crate) object_id: u64,
        #[prost(message, optional, tag = "4")]
        pub(crate) object: Option<ObjData>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SetKeyRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(int32, tag = "2")]
        pub(crate) partition_id: i32,
        #[prost(uint64, tag = "3")]
        pub(crate) object_id: u64,
        #[prost(uint32, tag = "4")]
        pub(crate) key: u32,
        #[prost(message, optional, tag = "5")]
        pub(crate) value: Option<ValData>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SingleKeyRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(uint64, tag = "3")]
        pub(crate) object_id: u64,
        #[prost(uint32, tag = "4")]
        pub(crate) key: u32,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjectInvocationRequest {
        #[prost(uint32, tag = "1")]
        pub(crate) partition_id: u32,
        #[prost(uint64, tag = "2")]
        pub(crate) object_id: u64,
        #[prost(string, tag = "3")]
        pub(crate) cls_id: String,
        #[prost(string, tag = "4")]
        pub(crate) fn_id: String,
        #[prost(map = "string, string", tag = "5")]
        pub(crate) options: HashMap<String, String>,
        #[prost(bytes = "vec", tag = "6")]
        pub(crate) payload: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct EventInfo {
        #[prost(string, tag = "1")]
        pub(crate) source_cls_id: String,
        #[prost(uint64, tag = "3")]
        pub(crate) source_object_id: u64,
        #[prost(int32, tag = "4")]
        pub(crate) event_type: i32,
        #[prost(uint32, optional, tag = "6")]
        pub(crate) key: Option<u32>,
        #[prost(uint64, tag = "7")]
        pub(crate) timestamp: u64,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct TriggerPayload {
        #[prost(message, optional, tag = "1")]
        pub(crate) event_info: Option<EventInfo>,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub(crate) original_payload: Option<Vec<u8>>,
    }
}

/// Messages as the string generation (G3) declares them.
mod string {
    use std::collections::HashMap;

    use prost::Message;

    pub(crate) use super::numeric::ValData;

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjMeta {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(string, optional, tag = "4")]
        pub(crate) object_id: Option<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ObjData {
        #[prost(message, optional, tag = "1")]
        pub(crate) metadata: Option<ObjMeta>,
        #[prost(map = "string, message", tag = "4")]
        pub(crate) entries: HashMap<String, ValData>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SetObjectRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(int32, tag = "2")]
        pub(crate) partition_id: i32,
        #[prost(message, optional, tag = "4")]
        pub(crate) object: Option<ObjData>,
        #[prost(string, optional, tag = "5")]
        pub(crate) object_id: Option<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SetKeyRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(int32, tag = "2")]
        pub(crate) partition_id: i32,
        #[prost(message, optional, tag = "5")]
        pub(crate) value: Option<ValData>,
        #[prost(string, optional, tag = "6")]
        pub(crate) key: Option<String>,
        #[prost(string, optional, tag = "7")]
        pub(crate) object_id: Option<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct SingleKeyRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(string, optional, tag = "5")]
        pub(crate) key: Option<String>,
        #[prost(string, optional, tag = "6")]
        pub(crate) object_id: Option<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct BatchSetValuesRequest {
        #[prost(string, tag = "1")]
        pub(crate) cls_id: String,
        #[prost(uint32, tag = "2")]
        pub(crate) partition_id: u32,
        #[prost(string, optional, tag = "4")]
        pub(crate) object_id: Option<String>,
        #[prost(map = "string, message", tag = "5")]
        pub(crate) values: HashMap<String, ValData>,
        #[prost(string, repeated, tag = "6")]
        pub(crate) delete_keys: Vec<String>,
        #[prost(uint64, optional, tag = "7")]
        pub(crate) expected_object_version: Option<u64>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct ValueResponse {
        #[prost(message, optional, tag = "1")]
        pub(crate) value: Option<ValData>,
        #[prost(uint64, optional, tag = "2")]
        pub(crate) object_version: Option<u64>,
        #[prost(string, optional, tag = "3")]
        pub(crate) key: Option<String>,
        #[prost(bool, optional, tag = "4")]
        pub(crate) deleted: Option<bool>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(crate) struct EventInfo {
        #[prost(string, tag = "1")]
        pub(crate) source_cls_id: String,
        #[prost(int32, tag = "4")]
        pub(crate) event_type: i32,
        #[prost(string, optional, tag = "6")]
        pub(crate) key: Option<String>,
        #[prost(uint64, tag = "7")]
        pub(crate) timestamp: u64,
        #[prost(string, optional, tag = "9")]
        pub(crate) source_object_id: Option<String>,
    }
}

/// Sends one message over the wire and reads it as the other.
fn read_as<T: Message + Default>(sent: &impl Message) -> T {
    T::decode(sent.encode_to_vec().as_slice()).expect("the other side understands the bytes")
}

fn value(data: &str) -> numeric::ValData {
    numeric::ValData { data: data.into(), kind: 0 }
}

fn ours(data: &'static str) -> oprc::ValData {
    oprc::ValData { data: data.into(), r#type: oprc::ValType::Byte.into() }
}

#[test]
fn numeric_requests_arrive_in_the_numeric_column() {
    let set: oprc::SetObjectRequest = read_as(&numeric::SetObjectRequest {
        cls_id: "plane".into(),
        partition_id: 3,
        object_id: u64::MAX,
        object: Some(numeric::ObjData {
            metadata: None,
            entries: [(7, value("a"))].into(),
            event: Some(numeric::ObjectEvent {
                data_trigger: [(
                    7,
                    numeric::DataTrigger {
                        on_update: vec![numeric::TriggerTarget { object_id: Some(0), ..Default::default() }],
                        ..Default::default()
                    },
                )]
                .into(),
            }),
        }),
    });
    assert_eq!((set.cls_id.as_str(), set.partition_id), ("plane", 3));
    assert_eq!((set.object_id, set.object_id_str), (u64::MAX, None));
    let object = set.object.expect("object");
    assert_eq!(object.entries, BTreeMap::from([(7, ours("a"))]));
    assert!(object.entries_str.is_empty());
    let target = &object.event.expect("event").data_trigger[&7].on_update[0];
    assert_eq!((target.object_id, &target.object_id_str), (Some(0), &None));

    let sent = numeric::SetKeyRequest { object_id: 1, key: 7, value: Some(value("b")), ..Default::default() };
    let set_key: oprc::SetKeyRequest = read_as(&sent);
    assert_eq!((set_key.object_id, set_key.key, set_key.value), (1, 7, Some(ours("b"))));
    assert_eq!((set_key.object_id_str, set_key.key_str), (None, None));

    let sent = numeric::SingleKeyRequest { object_id: 1, key: 7, ..Default::default() };
    let get: oprc::SingleKeyRequest = read_as(&sent);
    assert_eq!((get.object_id, get.key, get.object_id_str, get.key_str), (1, 7, None, None));

    let sent = numeric::ObjectInvocationRequest {
        partition_id: 3,
        object_id: 1,
        cls_id: "plane".into(),
        fn_id: "land".into(),
        options: [("a".into(), "b".into())].into(),
        payload: vec![1],
    };
    let invoke: oprc::ObjectInvocationRequest = read_as(&sent);
    assert_eq!((invoke.object_id, invoke.object_id_str.clone()), (1, None));
    assert_eq!(
        (invoke.cls_id.as_str(), invoke.fn_id.as_str(), &invoke.payload[..]),
        ("plane", "land", &[1][..])
    );
    assert_eq!(read_as::<numeric::ObjectInvocationRequest>(&invoke), sent);
}

#[test]
fn string_requests_arrive_in_the_string_column() {
    let set: oprc::SetObjectRequest = read_as(&string::SetObjectRequest {
        cls_id: "plane".into(),
        partition_id: -1,
        object: Some(string::ObjData { metadata: None, entries: [("altitude".into(), value("a"))].into() }),
        object_id: Some("n101".into()),
    });
    assert_eq!((set.partition_id, set.object_id, set.object_id_str.as_deref()), (-1, 0, Some("n101")));
    let object = set.object.expect("object");
    assert_eq!(object.entries_str, BTreeMap::from([("altitude".into(), ours("a"))]));
    assert!(object.entries.is_empty());

    let set_key: oprc::SetKeyRequest = read_as(&string::SetKeyRequest {
        value: Some(value("b")),
        key: Some("altitude".into()),
        object_id: Some("n101".into()),
        ..Default::default()
    });
    assert_eq!(
        (set_key.object_id_str.as_deref(), set_key.key_str.as_deref()),
        (Some("n101"), Some("altitude"))
    );
    assert_eq!(set_key.value, Some(ours("b")));

    let sent =
        string::SingleKeyRequest { key: Some("k".into()), object_id: Some("o".into()), ..Default::default() };
    let get: oprc::SingleKeyRequest = read_as(&sent);
    assert_eq!((get.object_id_str.as_deref(), get.key_str.as_deref()), (Some("o"), Some("k")));

    let batch: oprc::BatchSetValuesRequest = read_as(&string::BatchSetValuesRequest {
        object_id: Some("o".into()),
        values: [("k".into(), value("c"))].into(),
        delete_keys: vec!["d".into()],
        expected_object_version: Some(0),
        ..Default::default()
    });
    assert_eq!(batch.values, BTreeMap::from([("k".into(), ours("c"))]));
    assert_eq!((batch.object_id_str.as_deref(), &batch.delete_keys[..]), (Some("o"), &["d".to_owned()][..]));
    assert_eq!(batch.expected_object_version, Some(0), "0 is not the same as not given");
}

#[test]
fn an_answer_in_both_columns_reads_right_for_each_generation() {
    let answer = oprc::ObjData {
        metadata: Some(oprc::ObjMeta {
            cls_id: "plane".into(),
            partition_id: 3,
            object_id: 101,
            object_id_str: Some("101".into()),
        }),
        entries: BTreeMap::from([(7, ours("a"))]),
        entries_str: BTreeMap::from([("7".into(), ours("a")), ("altitude".into(), ours("b"))]),
        event: None,
    };

    let read: numeric::ObjData = read_as(&answer);
    assert_eq!(
        read.metadata.map(|meta| (meta.cls_id, meta.partition_id, meta.object_id)),
        Some(("plane".into(), 3, 101))
    );
    assert_eq!(read.entries, [(7, value("a"))].into());

    let read: string::ObjData = read_as(&answer);
    assert_eq!(read.metadata.and_then(|meta| meta.object_id).as_deref(), Some("101"));
    assert_eq!(read.entries, [("7".into(), value("a")), ("altitude".into(), value("b"))].into());

    let answer = oprc::ValueResponse { object_version: Some(0), key: Some("k".into()), ..Default::default() };
    let read: string::ValueResponse = read_as(&answer);
    assert_eq!((read.value, read.object_version, read.key.as_deref()), (None, Some(0), Some("k")));
}

#[test]
fn the_one_clash_is_served_by_a_message_of_its_own() {
    let event = oprc::EventInfo {
        source_cls_id: "plane".into(),
        source_object_id: 101,
        event_type: oprc::EventType::DataUpdate.into(),
        key: Some("7".into()),
        timestamp: 5,
        source_object_id_str: Some("101".into()),
        ..Default::default()
    };
    let read: string::EventInfo = read_as(&event);
    assert_eq!((read.key.as_deref(), read.source_object_id.as_deref()), (Some("7"), Some("101")));
    let bytes = event.encode_to_vec();
    assert!(
        numeric::EventInfo::decode(bytes.as_slice()).is_err(),
        "a number cannot be read where a string is"
    );

    let payload = oprc::NumericTriggerPayload {
        event_info: Some(oprc::NumericEventInfo {
            source_cls_id: "plane".into(),
            source_object_id: 101,
            event_type: oprc::EventType::DataUpdate.into(),
            key: Some(7),
            timestamp: 5,
            ..Default::default()
        }),
        original_payload: Some("hi".into()),
    };
    let read: numeric::TriggerPayload = read_as(&payload);
    let info = read.event_info.expect("event_info");
    assert_eq!((info.source_object_id, info.event_type, info.key, info.timestamp), (101, 4, Some(7), 5));
    assert_eq!(read.original_payload.as_deref(), Some(&b"hi"[..]));
}

#[test]
fn the_services_are_those_of_the_contract() {
    let set =
        prost_types::FileDescriptorSet::decode(odgm_proto::FILE_DESCRIPTOR_SET).expect("a descriptor set");
    let services: BTreeMap<String, Vec<String>> = (set.file.iter())
        .flat_map(|file| file.service.iter().map(move |service| (file.package(), service)))
        .map(|(package, service)| {
            let methods = service.method.iter().map(|method| method.name().to_owned()).collect();
            (format!("{package}.{}", service.name()), methods)
        })
        .collect();
    let data = [
        "Get",
        "GetValue",
        "Delete",
        "Set",
        "SetValue",
        "Merge",
        "DeleteValue",
        "BatchSetValues",
        "ListObjects",
        "ListValues",
        "Stats",
        "Capabilities",
    ];
    assert_eq!(services["oprc.DataService"], data);
    assert_eq!(services["oprc.OprcFunction"], ["InvokeFn", "InvokeObj"]);
    let own = ["Admin", "Calls", "Streams", "Writes"];
    assert!(own.iter().all(|name| services.contains_key(&format!("odgm.v1.{name}"))));
}
