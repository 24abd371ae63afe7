//! How messages look in JSON: in `ODGM_COLLECTION`, in object bodies, in the payloads of triggers.
//!
//! - Names are those of the string generation, in snake_case: `object_id`, `entries`, `data_trigger`.
//! - `bytes` are standard base64 with padding; enums are integers; absent optional fields are `null`.
//! - Every field that is not optional is required, except in collection definitions, routes and trigger payloads.
//! - A field that is not known is refused by its name.
//!
//! The numeric and the string column are one field. An id may be a number or a string on the way in and goes to its own
//! column; maps go to the string column, since the keys of a JSON object are strings in every generation. On the way
//! out the string wins, and of the entries of both columns with the same key the one of the string column. The names
//! of the dual generation, with `_str`, are understood too.
//!
//! The types of this module are the shapes of those messages; `build.rs` attaches the mapping to each of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oprc;

/// An id or key of either column.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "an id, which is a string or a number that is not negative")]
pub(crate) enum Id<N> {
    Number(N),
    Text(String),
}

impl<N: Copy + Default + PartialEq + ToString> Id<N> {
    /// The string column if there is one, else a number that was sent.
    fn of(number: N, text: Option<String>) -> Option<Self> {
        text.map(Self::Text).or_else(|| (number != N::default()).then_some(Self::Number(number)))
    }

    /// The columns, from the name that all generations share and the one of the dual generation.
    fn columns(id: Option<Self>, text: Option<String>) -> (Option<N>, Option<String>) {
        match id {
            Some(Self::Number(number)) => (Some(number), text),
            Some(Self::Text(id)) => (None, text.or(Some(id))),
            None => (None, text),
        }
    }

    fn into_text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

/// One map of both columns; the string column wins.
fn merged<V>(numeric: BTreeMap<u32, V>, text: BTreeMap<String, V>) -> BTreeMap<String, V> {
    let mut all: BTreeMap<String, V> =
        numeric.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
    all.extend(text);
    all
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjData {
    metadata: Option<oprc::ObjMeta>,
    entries: BTreeMap<String, oprc::ValData>,
    #[serde(default, skip_serializing)]
    entries_str: BTreeMap<String, oprc::ValData>,
    event: Option<oprc::ObjectEvent>,
}

impl From<ObjData> for oprc::ObjData {
    fn from(json: ObjData) -> Self {
        let mut entries_str = json.entries;
        entries_str.extend(json.entries_str);
        Self { metadata: json.metadata, entries: BTreeMap::new(), event: json.event, entries_str }
    }
}

impl From<oprc::ObjData> for ObjData {
    fn from(object: oprc::ObjData) -> Self {
        Self {
            metadata: object.metadata,
            entries: merged(object.entries, object.entries_str),
            entries_str: BTreeMap::new(),
            event: object.event,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjMeta {
    cls_id: String,
    partition_id: u32,
    object_id: Option<Id<u64>>,
    #[serde(skip_serializing)]
    object_id_str: Option<String>,
}

impl From<ObjMeta> for oprc::ObjMeta {
    fn from(json: ObjMeta) -> Self {
        let (number, object_id_str) = Id::columns(json.object_id, json.object_id_str);
        let object_id = number.unwrap_or_default();
        Self { cls_id: json.cls_id, partition_id: json.partition_id, object_id, object_id_str }
    }
}

impl From<oprc::ObjMeta> for ObjMeta {
    fn from(meta: oprc::ObjMeta) -> Self {
        Self {
            cls_id: meta.cls_id,
            partition_id: meta.partition_id,
            object_id: Id::of(meta.object_id, meta.object_id_str),
            object_id_str: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectEvent {
    func_trigger: BTreeMap<String, oprc::FuncTrigger>,
    data_trigger: BTreeMap<String, oprc::DataTrigger>,
    #[serde(default, skip_serializing)]
    data_trigger_str: BTreeMap<String, oprc::DataTrigger>,
}

impl From<ObjectEvent> for oprc::ObjectEvent {
    fn from(json: ObjectEvent) -> Self {
        let mut data_trigger_str = json.data_trigger;
        data_trigger_str.extend(json.data_trigger_str);
        Self { func_trigger: json.func_trigger, data_trigger: BTreeMap::new(), data_trigger_str }
    }
}

impl From<oprc::ObjectEvent> for ObjectEvent {
    fn from(event: oprc::ObjectEvent) -> Self {
        Self {
            func_trigger: event.func_trigger,
            data_trigger: merged(event.data_trigger, event.data_trigger_str),
            data_trigger_str: BTreeMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TriggerTarget {
    cls_id: String,
    partition_id: u32,
    object_id: Option<Id<u64>>,
    #[serde(skip_serializing)]
    object_id_str: Option<String>,
    fn_id: String,
    req_options: BTreeMap<String, String>,
}

impl From<TriggerTarget> for oprc::TriggerTarget {
    fn from(json: TriggerTarget) -> Self {
        let (object_id, object_id_str) = Id::columns(json.object_id, json.object_id_str);
        Self {
            cls_id: json.cls_id,
            partition_id: json.partition_id,
            object_id,
            fn_id: json.fn_id,
            req_options: json.req_options,
            object_id_str,
        }
    }
}

impl From<oprc::TriggerTarget> for TriggerTarget {
    fn from(target: oprc::TriggerTarget) -> Self {
        Self {
            cls_id: target.cls_id,
            partition_id: target.partition_id,
            // Here 0 that was sent and nothing that was sent are not the same.
            object_id: target.object_id_str.map(Id::Text).or(target.object_id.map(Id::Number)),
            object_id_str: None,
            fn_id: target.fn_id,
            req_options: target.req_options,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct EventInfo {
    source_cls_id: String,
    source_partition_id: u32,
    source_object_id: Option<Id<u64>>,
    #[serde(skip_serializing)]
    source_object_id_str: Option<String>,
    event_type: i32,
    fn_id: Option<String>,
    key: Option<Id<u32>>,
    timestamp: u64,
    context: BTreeMap<String, String>,
}

impl From<EventInfo> for oprc::EventInfo {
    fn from(json: EventInfo) -> Self {
        let (number, source_object_id_str) = Id::columns(json.source_object_id, json.source_object_id_str);
        Self {
            source_cls_id: json.source_cls_id,
            source_partition_id: json.source_partition_id,
            source_object_id: number.unwrap_or_default(),
            event_type: json.event_type,
            fn_id: json.fn_id,
            key: json.key.map(Id::into_text),
            timestamp: json.timestamp,
            context: json.context,
            source_object_id_str,
        }
    }
}

impl From<oprc::EventInfo> for EventInfo {
    fn from(event: oprc::EventInfo) -> Self {
        Self {
            source_cls_id: event.source_cls_id,
            source_partition_id: event.source_partition_id,
            source_object_id: Id::of(event.source_object_id, event.source_object_id_str),
            source_object_id_str: None,
            event_type: event.event_type,
            fn_id: event.fn_id,
            key: event.key.map(Id::Text),
            timestamp: event.timestamp,
            context: event.context,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ObjectInvocationRequest {
    partition_id: u32,
    object_id: Option<Id<u64>>,
    #[serde(skip_serializing)]
    object_id_str: Option<String>,
    cls_id: String,
    fn_id: String,
    options: BTreeMap<String, String>,
    #[serde(with = "base64")]
    payload: Bytes,
}

impl From<ObjectInvocationRequest> for oprc::ObjectInvocationRequest {
    fn from(json: ObjectInvocationRequest) -> Self {
        let (number, object_id_str) = Id::columns(json.object_id, json.object_id_str);
        Self {
            partition_id: json.partition_id,
            object_id: number.unwrap_or_default(),
            cls_id: json.cls_id,
            fn_id: json.fn_id,
            options: json.options,
            payload: json.payload,
            object_id_str,
        }
    }
}

impl From<oprc::ObjectInvocationRequest> for ObjectInvocationRequest {
    fn from(request: oprc::ObjectInvocationRequest) -> Self {
        Self {
            partition_id: request.partition_id,
            object_id: Id::of(request.object_id, request.object_id_str),
            object_id_str: None,
            cls_id: request.cls_id,
            fn_id: request.fn_id,
            options: request.options,
            payload: request.payload,
        }
    }
}

/// A `bytes` field.
pub(crate) mod base64 {
    use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(bytes, &STANDARD))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text);
        bytes.map(Bytes::from).map_err(|error| D::Error::custom(format!("expected standard base64: {error}")))
    }
}

/// An optional `bytes` field.
pub(crate) mod optional_base64 {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Encoded(#[serde(with = "super::base64")] Bytes);

    // By reference, because serde hands the field over so.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Encoded).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Ok(Option::<Encoded>::deserialize(deserializer)?.map(|encoded| encoded.0))
    }
}
