//! The catalogue of collections: one object of group 0, an ordinary object in an ordinary partition.
//!
//! Every change is one compare-and-set record, so the catalogue has a history, can be watched, and two nodes that
//! change it at once cannot both win. Its entries:
//!
//! ```text
//! collection/NAME     JSON: the definition, and of each partition the group, the nodes it is to be on, and where it comes from
//! bootstrapped/NAME   empty: once proposed by ODGM_COLLECTION; a deleted collection does not come back
//! next-group          decimal: the next group id to give out
//! node/ID             JSON: who the node is, where clients reach it, and whether it stays
//! ```
//!
//! Group ids are never given out again, so a group below the next one that no collection has is one whose data can go.
//! Where partitions are to be is what the catalogue says; the leader of each group makes it so, and then notes that it is.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use odgm_log::body::{SetValues, Value};
use odgm_log::{Body, Cause, GroupId, NodeId, Payload, Timestamp};
use odgm_projections::Object;
use odgm_proto::oprc::CreateCollectionRequest;
use serde::{Deserialize, Serialize};

use crate::definition::Definition;
use crate::raft::CLUSTER;

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

/// A collection and where its partitions are.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) definition: Definition,
    pub(crate) partitions: Vec<Placement>,
    /// Whether the first node of each has begun with the data of a backup: nobody else may make the group.
    pub(crate) restored: bool,
    pub(crate) created: Timestamp,
}

/// Where a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) group: GroupId,
    /// The nodes that it is to be on, the one that is to lead first. Empty on a node alone: it is there.
    pub(crate) replicas: Vec<NodeId>,
    /// The nodes that may make the group. Empty once it was moved, which shows that it has been made: a node that comes to it
    /// later must not make another one under its id.
    pub(crate) founders: Vec<NodeId>,
    /// Set from when its replicas are changed to when they are where they are to be.
    pub(crate) moving: Option<Moving>,
}

/// A change of a partition's replicas that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moving {
    /// The nodes that had it before, and keep it until the change is done.
    #[serde(with = "numbers")]
    pub(crate) from: Vec<NodeId>,
    /// The version of the catalogue that the change was made on: no two changes of a partition are the same.
    pub(crate) since: u64,
}

impl Placement {
    /// Of a new partition.
    fn new(group: GroupId, replicas: Vec<NodeId>) -> Self {
        Self { group, founders: replicas.clone(), replicas, moving: None }
    }

    /// Whether a node has the partition, or is to have it.
    pub(crate) fn is_on(&self, node: NodeId) -> bool {
        self.replicas.is_empty() || self.replicas.contains(&node) || self.comes_from(node)
    }

    fn comes_from(&self, node: NodeId) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.from.contains(&node))
    }

    /// Whether a node is to have the partition and perhaps has not all of it yet.
    pub(crate) fn is_joined_by(&self, node: NodeId) -> bool {
        self.moving.is_some() && self.replicas.contains(&node) && !self.comes_from(node)
    }

    /// The nodes that have the partition: those that keep it, those that it leaves, and those that it comes to.
    pub(crate) fn holders(&self) -> Vec<NodeId> {
        let Some(Moving { from, .. }) = &self.moving else { return self.replicas.clone() };
        let (keep, come): (Vec<_>, Vec<_>) = self.replicas.iter().partition(|node| from.contains(node));
        let leave = from.iter().filter(|node| !self.replicas.contains(node));
        keep.into_iter().chain(leave.copied()).chain(come).collect()
    }
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
    /// Of partitions that were moved, by number; those of others are their replicas.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    founders: BTreeMap<usize, Vec<u64>>,
    /// Of partitions that are being moved, by number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    moving: BTreeMap<usize, Moving>,
    /// The first node of each partition has begun with the data of a backup.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    restored: bool,
    created_us: u64,
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
    /// Whether it stays.
    #[serde(default, skip_serializing_if = "NodeState::is_member")]
    pub state: NodeState,
}

/// Whether a node stays in the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It does, and takes partitions.
    #[default]
    Member,
    /// Its partitions go to other nodes, and then it leaves.
    Leaving,
    /// Its disk was lost. Once no group counts on it any more it begins anew with another data directory.
    Readmitting {
        /// The one that it begins anew with.
        incarnation: String,
    },
}

impl NodeState {
    /// Whether it stays as it is.
    pub fn is_member(&self) -> bool {
        *self == Self::Member
    }
}

/// Nodes as their numbers.
mod numbers {
    use odgm_log::NodeId;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(nodes: &[NodeId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(nodes.iter().map(|node| node.0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeId>, D::Error> {
        Ok(Vec::<u64>::deserialize(deserializer)?.into_iter().map(NodeId).collect())
    }
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
            let partitions = placements(&entry);
            let definition =
                Definition::from_catalogue(entry.definition).map_err(|error| error.to_string())?;
            let placed = Placed {
                definition,
                partitions,
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

    /// Whether a group was given out and is of no collection, or not on this node, (any more).
    pub(crate) fn is_stray(&self, group: GroupId, node: NodeId) -> bool {
        group != GroupId::CATALOGUE
            && group.get() < self.next_group
            && !self.placements().any(|(_, _, placed)| placed.group == group && placed.is_on(node))
    }

    /// Every partition with the name of its collection and its number, in a fixed order.
    pub(crate) fn placements(&self) -> impl Iterator<Item = (&str, usize, &Placement)> {
        self.collections.iter().flat_map(|(name, placed)| {
            let numbered = placed.partitions.iter().enumerate();
            numbered.map(move |(number, placement)| (name.as_str(), number, placement))
        })
    }

    /// How many partitions there are in all collections.
    pub(crate) fn partitions(&self) -> usize {
        self.collections.values().map(|placed| placed.partitions.len()).sum()
    }

    /// Counts its changes.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The record that creates a collection, and gives its partitions their groups and places among `nodes`.
    pub(crate) fn create(
        &self,
        definition: &Definition,
        nodes: &[NodeId],
        bootstrap: bool,
        now: Timestamp,
    ) -> Payload {
        let groups = (self.next_group..).take(definition.partitions as usize).map(GroupId);
        let next = self.next_group + definition.partitions;
        let partitions =
            groups.zip(self.places(definition, nodes)).map(|(group, on)| Placement::new(group, on));
        let placed = Placed {
            definition: definition.clone(),
            partitions: partitions.collect(),
            restored: false,
            created: now,
        };
        let mut puts = vec![
            collection_entry(&definition.name, &placed),
            (NEXT_GROUP.to_owned(), Value::bytes(next.to_string())),
        ];
        if bootstrap {
            puts.push((format!("{BOOTSTRAPPED}{}", definition.name), Value::bytes(Bytes::new())));
        }
        self.change(puts, Vec::new())
    }

    /// The groups for a collection that is to be restored, and the record by which nobody else gets them: those that it had
    /// where it was backed up, if they have not been given out here, else new ones. What was restored may know calls by the
    /// names of any group that there was where it was backed up, so new ones are `apart` from those that come next.
    pub(crate) fn reserve(&self, wanted: &[GroupId], count: u32, apart: u32) -> (Vec<GroupId>, Payload) {
        let mut distinct = wanted.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let is_free = |group: &GroupId| (self.next_group..CLUSTER.get()).contains(&group.get());
        let groups: Vec<GroupId> = if distinct.len() == count as usize
            && wanted.len() == distinct.len()
            && wanted.iter().all(is_free)
        {
            wanted.to_vec()
        } else {
            let fits = CLUSTER.get().saturating_sub(self.next_group).saturating_sub(count);
            (self.next_group + apart.min(fits)..).take(count as usize).map(GroupId).collect()
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
        let partitions = groups.iter().map(|group| Placement::new(*group, replicas.to_vec())).collect();
        let placed = Placed { definition: definition.clone(), partitions, restored: true, created: now };
        self.change(vec![collection_entry(&definition.name, &placed)], Vec::new())
    }

    /// The record that deletes a collection.
    pub(crate) fn delete(&self, name: &str) -> Option<Payload> {
        let _known = self.collections.get(name)?;
        Some(self.change(Vec::new(), vec![format!("{COLLECTION}{name}")]))
    }

    /// The record that says who a node is.
    pub(crate) fn register(&self, node: NodeId, entry: &NodeEntry) -> Payload {
        self.change(vec![node_entry(node, entry)], Vec::new())
    }

    /// The record that says something else of collections and nodes, and forgets others.
    pub(crate) fn edit(
        &self,
        collections: impl IntoIterator<Item = (String, Placed)>,
        nodes: impl IntoIterator<Item = (NodeId, NodeEntry)>,
        forgotten: impl IntoIterator<Item = NodeId>,
    ) -> Payload {
        let collections = collections.into_iter().map(|(name, placed)| collection_entry(&name, &placed));
        let nodes = nodes.into_iter().map(|(node, entry)| node_entry(node, &entry));
        let forgotten = forgotten.into_iter().map(|node| format!("{NODE}{node}"));
        self.change(collections.chain(nodes).collect(), forgotten.collect())
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

fn placements(entry: &CollectionEntry) -> Vec<Placement> {
    let nodes = |numbers: &[u64]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
    let replicas = entry.replicas.iter().map(|on| nodes(on)).chain(std::iter::repeat(Vec::new()));
    let placed = entry.groups.iter().zip(replicas).enumerate();
    let placed = placed.map(|(number, (group, replicas))| Placement {
        group: GroupId(*group),
        founders: entry.founders.get(&number).map_or_else(|| replicas.clone(), |founders| nodes(founders)),
        replicas,
        moving: entry.moving.get(&number).cloned(),
    });
    placed.collect()
}

// Maps with string keys, plain numbers and plain text always have a JSON form.
fn json(entry: &impl Serialize) -> Value {
    Value::bytes(serde_json::to_vec(entry).unwrap_or_default())
}

fn collection_entry(name: &str, placed: &Placed) -> (String, Value) {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<_>>();
    let partitions = placed.partitions.iter().enumerate();
    let moved = partitions.clone().filter(|(_, placed)| placed.founders != placed.replicas);
    let entry = CollectionEntry {
        definition: placed.definition.wire.clone(),
        groups: placed.partitions.iter().map(|placed| placed.group.get()).collect(),
        replicas: placed.partitions.iter().map(|placed| numbers(&placed.replicas)).collect(),
        founders: moved.map(|(number, placed)| (number, numbers(&placed.founders))).collect(),
        moving: partitions.filter_map(|(number, placed)| Some((number, placed.moving.clone()?))).collect(),
        restored: placed.restored,
        created_us: placed.created.0,
    };
    (format!("{COLLECTION}{name}"), json(&entry))
}

fn node_entry(node: NodeId, entry: &NodeEntry) -> (String, Value) {
    (format!("{NODE}{node}"), json(entry))
}

#[cfg(test)]
impl Catalogue {
    /// As it is after a change.
    pub(crate) fn after(&self, change: &Payload) -> Self {
        let Body::SetValues(SetValues { puts, deletes, expected_version, .. }) = &change.body else {
            panic!("expected a change of entries: {change:?}");
        };
        assert_eq!(*expected_version, Some(self.version), "two changes at once do not both come about");
        let mut catalogue = Self { version: self.version + 1, ..self.clone() };
        for key in deletes {
            let node = key.strip_prefix(NODE).and_then(|node| node.parse().ok()).map(NodeId);
            catalogue.nodes.remove(&node.expect("a node is forgotten"));
        }
        for (key, value) in puts {
            catalogue.read_entry(key, &value.data).expect("readable");
        }
        catalogue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(replicas: &[u64], from: Option<&[u64]>) -> Placement {
        let nodes = |numbers: &[u64]| numbers.iter().copied().map(NodeId).collect::<Vec<_>>();
        Placement {
            group: GroupId(3),
            replicas: nodes(replicas),
            founders: Vec::new(),
            moving: from.map(|from| Moving { from: nodes(from), since: 7 }),
        }
    }

    #[test]
    fn an_entry_of_the_first_clusters_is_read_and_one_that_moves_comes_back() {
        let old = br#"{"definition":{"name":"a","shard_type":"raft"},"groups":[3],"replicas":[[2,3,1]],"created_us":5}"#;
        let entry: CollectionEntry = serde_json::from_slice(old).expect("readable");
        let nodes = [2, 3, 1].map(NodeId).to_vec();
        let expected =
            Placement { group: GroupId(3), replicas: nodes.clone(), founders: nodes, moving: None };
        assert_eq!(placements(&entry), std::slice::from_ref(&expected));

        let definition = Definition::from_catalogue(entry.definition).expect("valid");
        let moving = placement(&[2, 3, 4], Some(&[2, 3, 1]));
        let (partitions, created) = (vec![expected, moving], Timestamp(5));
        let placed = Placed { definition, partitions, restored: false, created };
        let (key, value) = collection_entry("a", &placed);
        assert_eq!(key, "collection/a");
        let read: CollectionEntry = serde_json::from_slice(&value.data).expect("readable");
        insta::assert_snapshot!(serde_json::to_string(&read.moving).expect("JSON"), @r#"{"1":{"from":[2,3,1],"since":7}}"#);
        assert_eq!(placements(&read), placed.partitions);
        let node = r#"{"address":"h:1","incarnation":"00ff"}"#;
        let node: NodeEntry = serde_json::from_str(node).expect("readable");
        assert!(node.state.is_member());
    }

    #[test]
    fn a_restored_collection_has_its_groups_again_or_others_that_nobody_has_had() {
        let catalogue = Catalogue { next_group: 3, ..Catalogue::default() };
        let reserve = |wanted: &[u32], apart| {
            let wanted: Vec<_> = wanted.iter().copied().map(GroupId).collect();
            let groups = catalogue.reserve(&wanted, 2, apart).0;
            groups.into_iter().map(GroupId::get).collect::<Vec<_>>()
        };
        assert_eq!(reserve(&[7, 5], 1_000), [7, 5]);
        assert_eq!(reserve(&[2, 5], 1_000), [1_003, 1_004], "somebody has had 2");
        assert_eq!(reserve(&[], 1_000), [1_003, 1_004], "it may not have its own");
        let last = CLUSTER.get() - 1;
        assert_eq!(reserve(&[], u32::MAX), [last - 1, last], "there are no more");
    }

    #[test]
    fn a_partition_that_moves_is_on_all_its_nodes() {
        let moving = placement(&[2, 4, 3], Some(&[2, 3, 1]));
        assert_eq!(moving.holders(), [2, 3, 1, 4].map(NodeId));
        assert!([1, 2, 3, 4].into_iter().all(|node| moving.is_on(NodeId(node))));
        assert!(!moving.is_on(NodeId(5)));
        assert!(moving.is_joined_by(NodeId(4)) && !moving.is_joined_by(NodeId(3)));
        let settled = placement(&[2, 4, 3], None);
        assert!(!settled.is_on(NodeId(1)) && !settled.is_joined_by(NodeId(4)));
        assert!(placement(&[], None).is_on(NodeId(9)), "of a node alone");
    }
}
