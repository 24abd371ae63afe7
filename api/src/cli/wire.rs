//! Requests of `oprc.DataService` in their string column, and what its answers carry beside the message.

use std::collections::BTreeMap;

use odgm_proto::{
    metadata,
    oprc::{
        BatchSetValuesRequest, ObjData, ObjectEvent, SetKeyRequest, SetObjectRequest, SingleKeyRequest,
        SingleObjectRequest, ValData,
    },
};
use tonic::{Request, metadata::MetadataMap};

use super::{client::Place, error::Error};

/// For Get and Delete.
pub(crate) fn single_object(place: Place) -> SingleObjectRequest {
    SingleObjectRequest {
        cls_id: place.class,
        partition_id: place.partition.into(),
        object_id_str: Some(place.id),
        ..Default::default()
    }
}

/// For GetValue and DeleteValue.
pub(crate) fn single_key(place: Place, key: String) -> SingleKeyRequest {
    SingleKeyRequest {
        cls_id: place.class,
        partition_id: place.partition.into(),
        object_id_str: Some(place.id),
        key_str: Some(key),
        ..Default::default()
    }
}

/// For Set and Merge.
pub(crate) fn set_object(
    place: Place,
    entries: BTreeMap<String, ValData>,
    triggers: Option<ObjectEvent>,
) -> SetObjectRequest {
    SetObjectRequest {
        cls_id: place.class,
        partition_id: place.partition.into(),
        object_id_str: Some(place.id),
        object: Some(ObjData { entries_str: entries, event: triggers, ..Default::default() }),
        ..Default::default()
    }
}

/// For SetValue.
pub(crate) fn set_key(place: Place, key: String, value: ValData) -> SetKeyRequest {
    SetKeyRequest {
        cls_id: place.class,
        partition_id: place.partition.into(),
        object_id_str: Some(place.id),
        key_str: Some(key),
        value: Some(value),
        ..Default::default()
    }
}

/// For BatchSetValues.
pub(crate) fn batch(
    place: Place,
    values: BTreeMap<String, ValData>,
    delete_keys: Vec<String>,
    expected_object_version: Option<u64>,
) -> BatchSetValuesRequest {
    BatchSetValuesRequest {
        cls_id: place.class,
        partition_id: place.partition.into(),
        object_id_str: Some(place.id),
        values,
        delete_keys,
        expected_object_version,
        ..Default::default()
    }
}

/// The request under a request id, if there is one.
pub(crate) fn with_request_id<T>(message: T, id: Option<&str>) -> Result<Request<T>, Error> {
    let mut request = Request::new(message);
    if let Some(id) = id {
        let value = id.parse().map_err(|_| {
            Error::Usage(format!("the request id {id:?} is wrong: expected visible ASCII characters"))
        })?;
        request.metadata_mut().insert(metadata::REQUEST_ID, value);
    }
    Ok(request)
}

/// The object's version that an answer names beside its message.
pub(crate) fn version(beside: &MetadataMap) -> Option<u64> {
    beside.get(metadata::VERSION)?.to_str().ok()?.parse().ok()
}
