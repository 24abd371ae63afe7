//! A collection on this node: its definition and the state of its partitions.

use std::sync::{Arc, OnceLock};

use odgm_log::{GroupId, NodeId, Timestamp};

use crate::catalogue::{Placed, Placement};
use crate::definition::Definition;
use crate::manager::Readiness;
use crate::partition::Partition;

/// A collection with its partitions.
pub struct Collection {
    definition: Definition,
    created: Timestamp,
    /// Whether its partitions began with the data of a backup, each on the first of its nodes.
    restored: bool,
    slots: Vec<Slot>,
}

struct Slot {
    placed: Placement,
    /// Whether it is on this node.
    here: bool,
    /// Whether it is to be on this node and perhaps not all of it is yet.
    joining: bool,
    /// Set once, when the partition is up or cannot be brought up.
    partition: Arc<OnceLock<Result<Arc<Partition>, String>>>,
}

/// What has become of a collection on this node after its options were changed, or its partitions moved.
pub(crate) struct Changed {
    /// The collection as it is now; what stays is shared with the one before.
    pub(crate) collection: Arc<Collection>,
    /// Numbers of the partitions that are to be brought up.
    pub(crate) come: Vec<usize>,
    /// Partitions that are here no more.
    pub(crate) gone: Vec<Arc<Partition>>,
}

/// Why a partition does not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// There is no collection of that name.
    #[error("there is no collection {name:?}")]
    NoCollection {
        /// The name.
        name: String,
    },
    /// The node does not know yet which collections the cluster has.
    #[error("this node is still finding out what the cluster has, {name:?} perhaps: try again in a moment")]
    Joining {
        /// The name.
        name: String,
    },
    /// The node is not part of the cluster, or not any more.
    #[error("{reason}")]
    Outside {
        /// Why, and what to do.
        reason: String,
    },
    /// The collection has no such partition.
    #[error("collection {name:?} has {count} partitions, 0 to {}: there is no partition {partition}", count - 1)]
    NoPartition {
        /// The collection.
        name: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        count: u32,
    },
    /// The partition is catching up with its log.
    #[error("partition {name}/{partition} is starting: try again in a moment")]
    Starting {
        /// The collection.
        name: String,
        /// The partition.
        partition: u32,
    },
    /// The partition is on other nodes.
    #[error("partition {name}/{partition} is not on this node but on {}", list(.nodes))]
    Elsewhere {
        /// The collection.
        name: String,
        /// The partition.
        partition: u32,
        /// Where it is.
        nodes: Vec<NodeId>,
    },
    /// The partition could not be brought up.
    #[error("partition {name}/{partition} is out of service: {reason}")]
    Failed {
        /// The collection.
        name: String,
        /// The partition.
        partition: u32,
        /// Why.
        reason: String,
    },
}

impl Collection {
    pub(crate) fn new(placed: &Placed, node: NodeId) -> Arc<Self> {
        let slots = placed.partitions.iter().map(|placed| Slot::new(placed, node)).collect();
        let (definition, created) = (placed.definition.clone(), placed.created);
        Arc::new(Self { definition, created, restored: placed.restored, slots })
    }

    /// Whether it is what the catalogue says: one of the same name may have taken the place of a deleted one.
    pub(crate) fn is(&self, placed: &Placed) -> bool {
        self.groups().eq(placed.partitions.iter().map(|placed| placed.group))
    }

    /// What it becomes where its options are others now, or its partitions have other places; none if all is as it was.
    pub(crate) fn changed(&self, placed: &Placed, node: NodeId) -> Option<Changed> {
        let pairs = || self.slots.iter().zip(&placed.partitions).enumerate();
        if self.definition == placed.definition && pairs().all(|(_, (slot, placed))| slot.placed == *placed) {
            return None;
        }
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        let slots = pairs().map(|(index, (slot, placed))| {
            let mut next = Slot::new(placed, node);
            match (slot.here, next.here) {
                (true, true) => next.partition = Arc::clone(&slot.partition),
                (false, true) => come.push(index),
                (true, false) => gone.extend(slot.partition.get().and_then(|opened| opened.clone().ok())),
                (false, false) => {}
            }
            next
        });
        let slots = slots.collect();
        let (definition, created) = (placed.definition.clone(), self.created);
        let collection = Arc::new(Self { definition, created, restored: self.restored, slots });
        for partition in collection.partitions().flatten() {
            partition.read_by(collection.definition.options.consistency);
        }
        Some(Changed { collection, come, gone })
    }

    /// What it is.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Whether its groups go on from a backup.
    pub(crate) fn is_restored(&self) -> bool {
        self.restored
    }

    /// When it was created.
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The group of each partition.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.slots.iter().map(|slot| slot.placed.group)
    }

    /// The numbers of the partitions that are on this node.
    pub(crate) fn here(&self) -> Vec<usize> {
        let slots = self.slots.iter().enumerate().filter(|(_, slot)| slot.here);
        slots.map(|(index, _)| index).collect()
    }

    /// Where a partition is as the catalogue has it.
    pub(crate) fn placement(&self, index: usize) -> Option<&Placement> {
        self.slots.get(index).map(|slot| &slot.placed)
    }

    /// The nodes that a partition is to be on, the one that is to lead first.
    pub fn replicas(&self, index: u32) -> &[NodeId] {
        self.slots.get(index as usize).map_or(&[], |slot| &slot.placed.replicas)
    }

    /// The nodes that have a partition, if this one has not, or not all of it.
    pub(crate) fn elsewhere(&self, index: u32, node: NodeId) -> Option<Vec<NodeId>> {
        let slot = self.slots.get(index as usize).filter(|slot| !slot.here || slot.joining)?;
        let mut holders = slot.placed.holders();
        holders.retain(|holder| *holder != node);
        Some(holders)
    }

    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        self.definition.partitions
    }

    /// One of its partitions.
    ///
    /// # Errors
    /// [`LookupError`], unless the partition serves.
    pub fn partition(&self, index: u32) -> Result<Arc<Partition>, LookupError> {
        let name = || self.definition.name.clone();
        let slot = self.slots.get(index as usize).ok_or_else(|| LookupError::NoPartition {
            name: name(),
            partition: index,
            count: self.partition_count(),
        })?;
        match slot.partition.get() {
            Some(Ok(partition)) => Ok(Arc::clone(partition)),
            Some(Err(reason)) => {
                Err(LookupError::Failed { name: name(), partition: index, reason: reason.clone() })
            }
            None if !slot.here => {
                Err(LookupError::Elsewhere { name: name(), partition: index, nodes: slot.placed.holders() })
            }
            None => Err(LookupError::Starting { name: name(), partition: index }),
        }
    }

    /// Every partition, or why it does not serve here, in order.
    pub fn partitions(&self) -> impl Iterator<Item = Result<Arc<Partition>, LookupError>> + '_ {
        (0..self.partition_count()).map(|index| self.partition(index))
    }

    /// How many of its partitions are in which state.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut readiness = Readiness::default();
        for slot in self.slots.iter().filter(|slot| slot.here) {
            match slot.partition.get() {
                None => readiness.opening += 1,
                Some(Ok(partition)) if !partition.has_failed() => readiness.ready += 1,
                Some(_) => readiness.failed += 1,
            }
        }
        readiness
    }

    /// The partition is up, or cannot be brought up. Said once.
    pub(crate) fn settle(&self, index: usize, outcome: Result<Arc<Partition>, String>) {
        if let Some(slot) = self.slots.get(index) {
            let first = slot.partition.set(outcome).is_ok();
            debug_assert!(first, "a partition is opened once");
        }
    }
}

impl Slot {
    fn new(placed: &Placement, node: NodeId) -> Self {
        Self {
            here: placed.is_on(node),
            joining: placed.is_joined_by(node),
            placed: placed.clone(),
            partition: Arc::default(),
        }
    }
}

fn list(nodes: &[NodeId]) -> String {
    let nodes: Vec<_> = nodes.iter().map(|node| format!("node {node}")).collect();
    nodes.join(", ")
}
