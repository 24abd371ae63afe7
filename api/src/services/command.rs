//! From a write request to the body of a record: every check that needs no view happens here.

use odgm_log::Body;
use odgm_log::body::{Delete, Merge, Set, SetValues, Triggers};
use odgm_proto::oprc;
use tonic::Status;

use crate::convert::{self, Entries, Rules};
use crate::identity;

/// A checked write.
#[derive(Debug)]
pub(crate) struct Command {
    pub(super) class: String,
    pub(super) partition: u32,
    pub(super) body: Body,
}

/// `Set`.
pub(crate) fn set(rules: &Rules, request: oprc::SetObjectRequest) -> Result<Command, Status> {
    let given = object(rules, request)?;
    let Given { class, partition, object, entries, triggers } = given;
    Ok(Command { class, partition, body: Body::Set(Set { object, entries, triggers }) })
}

/// `Merge`.
pub(super) fn merge(rules: &Rules, request: oprc::SetObjectRequest) -> Result<Command, Status> {
    let given = object(rules, request)?;
    let Given { class, partition, object, entries, triggers } = given;
    Ok(Command { class, partition, body: Body::Merge(Merge { object, entries, triggers }) })
}

/// `Delete`.
pub(crate) fn delete(rules: &Rules, request: oprc::SingleObjectRequest) -> Result<Command, Status> {
    let object = rules.identity.object(request.object_id_str, request.object_id, false)?;
    let partition = identity::partition(request.partition_id)?;
    Ok(Command { class: request.cls_id, partition, body: Body::Delete(Delete { object }) })
}

/// `SetValue`.
pub(super) fn set_value(rules: &Rules, request: oprc::SetKeyRequest) -> Result<Command, Status> {
    let partition = identity::partition(request.partition_id)?;
    let names = Names {
        object: request.object_id_str,
        object_number: request.object_id,
        key: request.key_str,
        key_number: request.key,
    };
    let (object, key) = names.check(rules)?;
    let value =
        request.value.ok_or_else(|| Status::invalid_argument("value required: expected a ValData"))?;
    let puts = vec![(key, convert::value(value)?)];
    let body = SetValues { object, puts, deletes: Vec::new(), expected_version: None };
    Ok(Command { class: request.cls_id, partition, body: Body::SetValues(body) })
}

/// `DeleteValue`.
pub(super) fn delete_value(rules: &Rules, request: oprc::SingleKeyRequest) -> Result<Command, Status> {
    let partition = identity::partition(request.partition_id)?;
    let names = Names {
        object: request.object_id_str,
        object_number: request.object_id,
        key: request.key_str,
        key_number: request.key,
    };
    let (object, key) = names.check(rules)?;
    let body = SetValues { object, puts: Vec::new(), deletes: vec![key], expected_version: None };
    Ok(Command { class: request.cls_id, partition, body: Body::SetValues(body) })
}

/// `BatchSetValues`.
pub(super) fn batch_set_values(
    rules: &Rules,
    request: oprc::BatchSetValuesRequest,
) -> Result<Command, Status> {
    let object = rules.identity.object(request.object_id_str, request.object_id, false)?;
    let partition = identity::partition(request.partition_id)?;
    let puts = rules.entries(request.values, Default::default())?;
    let deletes = rules.deletes(request.delete_keys, &puts)?;
    let body = SetValues { object, puts, deletes, expected_version: request.expected_object_version };
    Ok(Command { class: request.cls_id, partition, body: Body::SetValues(body) })
}

struct Given {
    class: String,
    partition: u32,
    object: String,
    entries: Entries,
    triggers: Option<Triggers>,
}

fn object(rules: &Rules, request: oprc::SetObjectRequest) -> Result<Given, Status> {
    let data = request.object.ok_or_else(|| {
        Status::invalid_argument("object required: expected an ObjData, which may be empty")
    })?;
    // Only clients that speak in numbers fill the numeric column, so an id of 0 was meant.
    let speaks_numbers = !data.entries.is_empty() && data.entries_str.is_empty();
    Ok(Given {
        partition: identity::partition(request.partition_id)?,
        object: rules.identity.object(request.object_id_str, request.object_id, speaks_numbers)?,
        entries: rules.entries(data.entries_str, data.entries)?,
        triggers: data.event.map(|event| rules.triggers(event)).transpose()?,
        class: request.cls_id,
    })
}

/// An object and an entry as two generations of clients name them.
pub(super) struct Names {
    pub(super) object: Option<String>,
    pub(super) object_number: u64,
    pub(super) key: Option<String>,
    pub(super) key_number: u32,
}

impl Names {
    /// The object's id and the entry's key. One number that was sent shows that a 0 in the other was meant.
    pub(super) fn check(self, rules: &Rules) -> Result<(String, String), Status> {
        let object_is_number = self.object.is_none() && self.object_number != 0;
        let key_is_number = self.key.is_none() && self.key_number != 0;
        let object = rules.identity.object(self.object, self.object_number, key_is_number)?;
        let key = rules.identity.key(self.key, self.key_number, object_is_number)?;
        Ok((object, key))
    }
}
