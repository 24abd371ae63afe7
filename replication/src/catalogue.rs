//! The catalogue of collections: one object of group 0, an ordinary object in an ordinary partition.
//!
//! Every change is one compare-and-set record, so the catalogue has a history, can be watched, and two nodes that
//! change it at once cannot both win. Its entries:
//!
//! ```text
//! collection/NAME     JSON: the definition, and of each partition the group and the nodes it is on
//! bootstrapped/NAME   empty: once proposed by ODGM_COLLECTION; a deleted collection does not come back
//! next-group          decimal: the next group id to give out
//! node/ID             JSON: who the node is and where clients reach it
//! ```
//!
//! Group ids are never given out again, so a group below the next one that no collection has is one whose data can go.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use odgm_log::body::{SetValues, Value};
use odgm_log::{Body, Cause, GroupId, NodeId, Payload, Timestamp};
use odgm_projections::Object;
use odgm_proto::oprc::CreateCollectionRequest;
use serde::{Deserialize, Serialize};

use crate::definition::Definition;

/// The id of the catalogue's object in group 0.
pub const OBJECT: &str = "catalogue";

const COLLECTION: &str = "collection/";
const BOOTSTRAPPED: &str = "bootstrapped/";
const NODE: &str = "node/";
const NEXT_GROUP: &str = "next-group";

/// All collections, as of one version of the catalogue's object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    version: u64,
    pub(crate) collections: BTreeMap<String, Placed>,
    pub(crate) nodes: BTreeMap<NodeId, NodeEntry>,
    bootstrapped: BTreeSet<String>,
    next_group: u32,
}

/// A collection and the groups of its partitions.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) definition: Definition,
    pub(crate) groups: Vec<GroupId>,
    /// The nodes that each partition is on, the one that is to lead first.
    pub(crate) replicas: Vec<Vec<NodeId>>,
    /// Whether the first of them has begun with the data of a backup: nobody else may make the group.
    pub(crate) restored: bool,
    pub(crate) created: Timestamp,
}

/// An entry of the catalogue that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {key:?} of the catalogue cannot be read: {reason}")]
pub struct DamagedEntry {
    key: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct CollectionEntry {
    definition: CreateCollectionRequest,
    groups: Vec<u32>,
    /// Missing where a lone node wrote it before there were clusters: then all are on that node.
    #[serde(default)]
    replicas: Vec<Vec<u64>>,
    /// The first node of each partition has begun with the data of a backup.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    restored: bool,
    created_us: u64,
}

impl CollectionEntry {
    fn value(&self) -> Value {
        // Maps with string keys and plain numbers always have a JSON form.
        Value::bytes(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// A node as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// The name it was given, if it was not a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where clients reach it, as host:port; empty if it was not told.
    pub address: String,
    /// Made with its data directory: another one under the same id is a wiped disk, and is refused.
    pub incarnation: String,
}

impl Catalogue {
    /// Reads the catalogue's object; without one nothing has been created yet.
    pub(crate) fn read(object: Option<&Object>) -> Result<Self, DamagedEntry> {
        let mut catalogue = Self { next_group: GroupId::CATALOGUE.0 + 1, ..Self::default() };
        let Some(object) = object else { return Ok(catalogue) };
        catalogue.version = object.version;
        for (key, value) in &object.entries {
            catalogue
                .read_entry(key, &value.data)
                .map_err(|reason| DamagedEntry { key: key.clone(), reason })?;
        }
        Ok(catalogue)
    }

    fn read_entry(&mut self, key: &str, data: &[u8]) -> Result<(), String> {
        if let Some(name) = key.strip_prefix(COLLECTION) {
            let entry: CollectionEntry = serde_json::from_slice(data).map_err(|error| error.to_string())?;
            let definition =
                Definition::from_catalogue(entry.definition).map_err(|error| error.to_string())?;
            let placed = Placed {
                definition,
                groups: entry.groups.into_iter().map(GroupId).collect(),
                replicas: entry.replicas.into_iter().map(|on| on.into_iter().map(NodeId).collect()).collect(),
                restored: entry.restored,
                created: Timestamp(entry.created_us),
            };
            self.collections.insert(name.to_owned(), placed);
        } else if let Some(name) = key.strip_prefix(BOOTSTRAPPED) {
            self.bootstrapped.insert(name.to_owned());
        } else if let Some(node) = key.strip_prefix(NODE) {
            let node = node.parse().map_err(|_| "expected the number of a node".to_owned())?;
            let entry = serde_json::from_slice(data).map_err(|error| error.to_string())?;
            self.nodes.insert(NodeId(node), entry);
        } else if key == NEXT_GROUP {
            let text = std::str::from_utf8(data).map_err(|error| error.to_string())?;
            self.next_group = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
        } else {
            return Err("unknown entry: a newer build wrote it; upgrade the node".to_owned());
        }
        Ok(())
    }

    /// Whether ODGM_COLLECTION has already proposed a collection of this name.
    pub(crate) fn was_bootstrapped(&self, name: &str) -> bool {
        self.bootstrapped.contains(name)
    }

    /// Whether a group was given out and belongs to no collection (any more).
    pub(crate) fn is_stray(&self, group: GroupId) -> bool {
        group != GroupId::CATALOGUE
            && group.get() < self.next_group
            && !self.collections.values().any(|placed| placed.groups.contains(&group))
    }

    /// How many partitions there are in all collections.
    pub(crate) fn partitions(&self) -> usize {
        self.collections.values().map(|placed| placed.groups.len()).sum()
    }

    /// The record that creates a collection, and gives its partitions their groups and places among `nodes`.
    pub(crate) fn create(
        &self,
        definition: &Definition,
        nodes: &[NodeId],
        bootstrap: bool,
        now: Timestamp,
    ) -> Payload {
        let groups: Vec<u32> = (self.next_group..).take(definition.partitions as usize).collect();
        let next = self.next_group + definition.partitions;
        let replicas =
            groups.iter().map(|group| place(GroupId(*group), definition.replicas, nodes)).collect();
        let definition_wire = definition.wire.clone();
        let restored = false;
        let entry =
            CollectionEntry { definition: definition_wire, groups, replicas, restored, created_us: now.0 };
        let mut puts = vec![
            (format!("{COLLECTION}{}", definition.name), entry.value()),
            (NEXT_GROUP.to_owned(), Value::bytes(next.to_string())),
        ];
        if bootstrap {
            puts.push((format!("{BOOTSTRAPPED}{}", definition.name), Value::bytes(Bytes::new())));
        }
        self.change(puts, Vec::new())
    }

    /// The groups for a collection that is to be restored, and the record by which nobody else gets them: those that it had
    /// where it was backed up, if they have not been given out here, else new ones.
    pub(crate) fn reserve(&self, wanted: &[GroupId], count: u32) -> (Vec<GroupId>, Payload) {
        let mut distinct = wanted.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let is_free = |group: &GroupId| group.get() >= self.next_group && group.get() < GroupId::LAST.get();
        let groups: Vec<GroupId> = if distinct.len() == count as usize
            && wanted.len() == distinct.len()
            && wanted.iter().all(is_free)
        {
            wanted.to_vec()
        } else {
            (self.next_group..).take(count as usize).map(GroupId).collect()
        };
        let next = groups.iter().map(|group| group.get() + 1).max().unwrap_or(self.next_group);
        (groups, self.change(vec![(NEXT_GROUP.to_owned(), Value::bytes(next.to_string()))], Vec::new()))
    }

    /// The record that creates a collection whose data are on the first of `replicas`.
    pub(crate) fn create_restored(
        &self,
        definition: &Definition,
        groups: &[GroupId],
        replicas: &[NodeId],
        now: Timestamp,
    ) -> Payload {
        let nodes: Vec<u64> = replicas.iter().map(|node| node.0).collect();
        let entry = CollectionEntry {
            definition: definition.wire.clone(),
            groups: groups.iter().map(|group| group.get()).collect(),
            replicas: vec![nodes; groups.len()],
            restored: true,
            created_us: now.0,
        };
        self.change(vec![(format!("{COLLECTION}{}", definition.name), entry.value())], Vec::new())
    }

    /// The record that deletes a collection.
    pub(crate) fn delete(&self, name: &str) -> Option<Payload> {
        let _known = self.collections.get(name)?;
        Some(self.change(Vec::new(), vec![format!("{COLLECTION}{name}")]))
    }

    /// The record that says who a node is.
    pub(crate) fn register(&self, node: NodeId, entry: &NodeEntry) -> Payload {
        // Plain text always has a JSON form.
        let json = serde_json::to_vec(entry).unwrap_or_default();
        self.change(vec![(format!("{NODE}{node}"), Value::bytes(json))], Vec::new())
    }

    fn change(&self, mut puts: Vec<(String, Value)>, mut deletes: Vec<String>) -> Payload {
        puts.sort_by(|a, b| a.0.cmp(&b.0));
        deletes.sort();
        Payload {
            cause: Cause::default(),
            body: Body::SetValues(SetValues {
                object: OBJECT.to_owned(),
                puts,
                deletes,
                expected_version: Some(self.version),
            }),
        }
    }
}

/// The nodes of a new group: neighbours in the circle of all, so that groups with consecutive ids spread replicas and
/// leaders evenly. Fewer than asked for where there are not so many.
fn place(group: GroupId, replicas: usize, nodes: &[NodeId]) -> Vec<u64> {
    let first = group.get() as usize;
    (0..replicas.min(nodes.len())).map(|n| nodes[(first + n) % nodes.len()].0).collect()
}
