//! What a change of the cluster's nodes means for the catalogue: which partitions go where.
//!
//! A plan is made of the catalogue alone, and is one record that comes about only if nothing else was changed meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use odgm_log::{GroupId, NodeId, Payload};

use crate::catalogue::{Catalogue, Moving, NodeEntry, NodeState, Placed};
use crate::definition::{Definition, Replication};
use crate::placement::{Seat, fill, level, spread_leaders};

/// A change of a partition's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The collection.
    pub class: String,
    /// The partition.
    pub partition: u32,
    /// Its group.
    pub group: GroupId,
    /// The nodes that it is on, the one that is to lead first.
    pub from: Vec<NodeId>,
    /// The nodes that it is to be on.
    pub to: Vec<NodeId>,
}

impl Move {
    /// Whether data goes to another node; else only the leader is to be another one.
    pub fn moves_data(&self) -> bool {
        self.to.iter().any(|node| !self.from.contains(node))
    }
}

/// A plan, and the record that begins it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) moves: Vec<Move>,
    pub(crate) change: Payload,
}

/// Why there is no such plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The node is not known.
    #[error("there is no node {0} in this cluster: `odgm cluster list` shows those there are")]
    NoNode(NodeId),
    /// The node is there.
    #[error("node {0} is part of this cluster already")]
    IsMember(NodeId),
    /// Something else is under way with it.
    #[error("node {0} is leaving: wait until it has gone (`odgm cluster status`)")]
    IsLeaving(NodeId),
    /// Nobody would be left.
    #[error(
        "node {0} is the only one that stays: a cluster keeps at least one node, so let another one in first (`odgm cluster add`)"
    )]
    LastNode(NodeId),
    /// The node gets its place back with a new disk.
    #[error("node {0} is being readmitted: wait until it has begun anew (`odgm cluster status`)")]
    IsReadmitted(NodeId),
    /// Too few nodes would be left.
    #[error(
        "without node {node} there are {left} nodes, and partition {class}/{partition} has {replicas} replicas: let another node in \
         first (`odgm cluster add`), or say that fewer replicas are enough (--fewer-replicas)"
    )]
    TooFew {
        /// The node that is to go.
        node: NodeId,
        /// How many nodes would be left.
        left: usize,
        /// A partition that would have fewer replicas.
        class: String,
        /// Its number.
        partition: u32,
        /// How many it has.
        replicas: usize,
    },
    /// The node has the only copy of something.
    #[error(
        "partition {class}/{partition} is not replicated and is on node {node} alone: export the collection and delete it, or say \
         that the partition may begin empty elsewhere (--drop-local)"
    )]
    OnlyCopy {
        /// The node that is to go.
        node: NodeId,
        /// The collection.
        class: String,
        /// The partition.
        partition: u32,
    },
}

/// What may be given up to let a node go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sacrifice {
    /// Partitions may have fewer replicas than they had.
    pub fewer_replicas: bool,
    /// Partitions that are not replicated may begin empty elsewhere.
    pub drop_local: bool,
}

impl Catalogue {
    /// Where the partitions of a new collection go.
    pub(crate) fn places(&self, definition: &Definition, nodes: &[NodeId]) -> Vec<Vec<NodeId>> {
        let available: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let mut seats = self.seats();
        seats.iter_mut().for_each(|seat| seat.movable = false);
        let existing = seats.len();
        let collection = self.collections.len();
        let new = Seat { replicas: Vec::new(), wanted: definition.replicas, collection, movable: true };
        seats.extend((0..definition.partitions).map(|_| new.clone()));
        fill(&mut seats, &available);
        spread_leaders(&mut seats, &available);
        seats.split_off(existing).into_iter().map(|seat| seat.replicas).collect()
    }

    /// Lets a node in.
    pub(crate) fn admit(&self, node: NodeId, entry: &NodeEntry) -> Result<Plan, PlanError> {
        match self.nodes.get(&node) {
            Some(known) if known.state.is_member() => Err(PlanError::IsMember(node)),
            Some(known) => Err(busy(node, known)),
            None => Ok(Plan { moves: Vec::new(), change: self.register(node, entry) }),
        }
    }

    /// Takes all partitions off a node, after which it leaves.
    pub(crate) fn drain(&self, node: NodeId, sacrifice: Sacrifice) -> Result<Plan, PlanError> {
        let mut entry = self.member(node)?.clone();
        entry.state = NodeState::Leaving;
        let nodes = self.members_but(node);
        let mut seats = self.seats();
        self.check_losses(&seats, node, nodes.len(), sacrifice)?;
        free(&mut seats, node, sacrifice);
        fill(&mut seats, &nodes);
        Ok(self.plan(&seats, [(node, entry)]))
    }

    /// Puts a node into the places of another one, which leaves.
    pub(crate) fn replace(&self, old: NodeId, new: NodeId, sacrifice: Sacrifice) -> Result<Plan, PlanError> {
        let mut entry = self.member(old)?.clone();
        self.member(new)?;
        entry.state = NodeState::Leaving;
        let nodes = self.members_but(old);
        let mut seats = self.seats();
        self.check_losses(&seats, old, nodes.len(), sacrifice)?;
        free(&mut seats, old, sacrifice);
        for seat in seats.iter_mut().filter(|seat| seat.movable && !seat.replicas.contains(&new)) {
            for on in seat.replicas.iter_mut().filter(|on| **on == old) {
                *on = new;
            }
        }
        // Where the new one was already, another node takes the place.
        fill(&mut seats, &nodes);
        Ok(self.plan(&seats, [(old, entry)]))
    }

    /// Takes a node whose disk was lost out of all groups; [`Catalogue::dismiss`] then lets it begin anew.
    pub(crate) fn readmit(
        &self,
        node: NodeId,
        incarnation: String,
        drop_local: bool,
    ) -> Result<Plan, PlanError> {
        let mut entry = self.member(node)?.clone();
        entry.state = NodeState::Readmitting { incarnation };
        let nodes = self.members_but(node);
        let mut seats = self.seats();
        let sacrifice = Sacrifice { fewer_replicas: true, drop_local };
        self.check_losses(&seats, node, nodes.len(), sacrifice)?;
        free(&mut seats, node, sacrifice);
        for seat in seats.iter_mut().filter(|seat| seat.movable && seat.replicas.len() > 1) {
            seat.replicas.retain(|on| *on != node);
        }
        // The last copies are gone with the disk; and so that partitions are not copied twice, nothing else is filled.
        seats.iter_mut().for_each(|seat| seat.wanted = seat.replicas.len());
        fill(&mut seats, &nodes);
        Ok(self.plan(&seats, [(node, entry)]))
    }

    /// Spreads replicas and leaders anew, or leaders alone; partitions that have too few replicas get more. `led` says who
    /// leads each group now, where that is known.
    pub(crate) fn rebalance(&self, leaders_only: bool, led: &BTreeMap<GroupId, NodeId>) -> Plan {
        let nodes = self.members();
        let mut seats = self.seats();
        if !leaders_only {
            fill(&mut seats, &nodes);
            level(&mut seats, &nodes);
        }
        spread_leaders(&mut seats, &nodes);
        let mut plan = Planned::new(self);
        for (seat, (name, number, placed)) in seats.iter().zip(self.placements()) {
            let misled = led.get(&placed.group).is_some_and(|leader| seat.replicas.first() != Some(leader));
            if seat.movable && (seat.replicas != placed.replicas || misled) {
                plan.put(name, number, &seat.replicas);
            }
        }
        plan.finish([], [])
    }

    /// Notes that partitions are where they are to be.
    pub(crate) fn settle(&self, settled: &[(GroupId, Moving)]) -> Option<Payload> {
        let mut changed: BTreeMap<String, Placed> = BTreeMap::new();
        for (name, number, placed) in self.placements() {
            let moving = placed.moving.as_ref();
            if settled.iter().any(|(group, done)| *group == placed.group && Some(done) == moving) {
                let collection =
                    changed.entry(name.to_owned()).or_insert_with(|| self.collections[name].clone());
                let partition = &mut collection.partitions[number];
                partition.moving = None;
                // It was led, so it has been made: nobody makes it again.
                partition.founders = Vec::new();
            }
        }
        (!changed.is_empty()).then(|| self.edit(changed, [], []))
    }

    /// Whether a partition is on a node, or is still to be taken off it.
    pub(crate) fn counts_on(&self, node: NodeId) -> bool {
        self.placements().any(|(_, _, placed)| !placed.replicas.is_empty() && placed.is_on(node))
    }

    /// Forgets a node that no group counts on any more; or lets it begin anew, and gives partitions with too few replicas
    /// more.
    pub(crate) fn dismiss(&self, node: NodeId) -> Option<Plan> {
        let mut entry = self.nodes.get(&node)?.clone();
        match std::mem::take(&mut entry.state) {
            NodeState::Member => None,
            NodeState::Leaving => Some(Planned::new(self).finish([], [node])),
            NodeState::Readmitting { incarnation } => {
                entry.incarnation = incarnation;
                let mut nodes = self.members();
                nodes.insert(node);
                let mut seats = self.seats();
                fill(&mut seats, &nodes);
                Some(self.plan(&seats, [(node, entry)]))
            }
        }
    }

    /// The nodes that stay. Those that have partitions and have not said yet who they are founded the cluster.
    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        let known = self.nodes.iter().filter(|(_, entry)| entry.state.is_member()).map(|(node, _)| *node);
        let placed = self.placements().flat_map(|(_, _, placed)| placed.replicas.iter().copied());
        known.chain(placed.filter(|node| !self.nodes.contains_key(node))).collect()
    }

    fn members_but(&self, gone: NodeId) -> BTreeSet<NodeId> {
        let mut members = self.members();
        members.remove(&gone);
        members
    }

    fn member(&self, node: NodeId) -> Result<&NodeEntry, PlanError> {
        let entry = self.nodes.get(&node).ok_or(PlanError::NoNode(node))?;
        if entry.state.is_member() { Ok(entry) } else { Err(busy(node, entry)) }
    }

    /// Every partition, in the order of [`Catalogue::placements`].
    fn seats(&self) -> Vec<Seat> {
        let collections = self.collections.values().enumerate();
        let seats = collections.flat_map(|(collection, placed)| {
            let Definition { replicas: wanted, replication, .. } = placed.definition;
            let movable = replication == Replication::Raft;
            placed.partitions.iter().map(move |placed| Seat {
                replicas: placed.replicas.clone(),
                wanted,
                collection,
                movable,
            })
        });
        seats.collect()
    }

    fn check_losses(
        &self,
        seats: &[Seat],
        node: NodeId,
        left: usize,
        sacrifice: Sacrifice,
    ) -> Result<(), PlanError> {
        if left == 0 {
            return Err(PlanError::LastNode(node));
        }
        let lost = seats.iter().zip(self.placements()).filter(|(seat, _)| seat.replicas.contains(&node));
        for (seat, (name, number, _)) in lost {
            let (class, partition) = (name.to_owned(), u32::try_from(number).unwrap_or(u32::MAX));
            let replicas = seat.replicas.len();
            if !seat.movable && !sacrifice.drop_local {
                return Err(PlanError::OnlyCopy { node, class, partition });
            }
            if seat.movable && replicas > left && !sacrifice.fewer_replicas {
                return Err(PlanError::TooFew { node, left, class, partition, replicas });
            }
        }
        Ok(())
    }

    fn plan(&self, seats: &[Seat], nodes: impl IntoIterator<Item = (NodeId, NodeEntry)>) -> Plan {
        let mut plan = Planned::new(self);
        for (seat, (name, number, placed)) in seats.iter().zip(self.placements()) {
            if seat.replicas != placed.replicas {
                plan.put(name, number, &seat.replicas);
            }
        }
        plan.finish(nodes, [])
    }
}

/// Why a node that is not simply a member cannot be changed now.
fn busy(node: NodeId, entry: &NodeEntry) -> PlanError {
    match entry.state {
        NodeState::Readmitting { .. } => PlanError::IsReadmitted(node),
        NodeState::Member | NodeState::Leaving => PlanError::IsLeaving(node),
    }
}

/// Lets the partitions of a node that are not replicated go elsewhere, if they may.
fn free(seats: &mut [Seat], node: NodeId, sacrifice: Sacrifice) {
    for seat in seats.iter_mut().filter(|seat| !seat.movable && seat.replicas.contains(&node)) {
        seat.movable = sacrifice.drop_local;
    }
}

/// A plan that is being written down.
struct Planned<'a> {
    catalogue: &'a Catalogue,
    collections: BTreeMap<String, Placed>,
    moves: Vec<Move>,
}

impl<'a> Planned<'a> {
    fn new(catalogue: &'a Catalogue) -> Self {
        Self { catalogue, collections: BTreeMap::new(), moves: Vec::new() }
    }

    fn put(&mut self, name: &str, number: usize, replicas: &[NodeId]) {
        let Some(known) = self.catalogue.collections.get(name) else { return };
        let placed = self.collections.entry(name.to_owned()).or_insert_with(|| known.clone());
        let replicated = placed.definition.replication == Replication::Raft;
        let partition = &mut placed.partitions[number];
        self.moves.push(Move {
            class: name.to_owned(),
            partition: u32::try_from(number).unwrap_or(u32::MAX),
            group: partition.group,
            from: partition.replicas.clone(),
            to: replicas.to_vec(),
        });
        let from = partition.holders();
        partition.replicas = replicas.to_vec();
        if replicated {
            partition.moving = Some(Moving { from, since: self.catalogue.version() });
        } else {
            partition.founders = replicas.to_vec();
        }
    }

    fn finish(
        self,
        nodes: impl IntoIterator<Item = (NodeId, NodeEntry)>,
        forgotten: impl IntoIterator<Item = NodeId>,
    ) -> Plan {
        Plan { change: self.catalogue.edit(self.collections, nodes, forgotten), moves: self.moves }
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::Timestamp;
    use odgm_proto::oprc::CreateCollectionRequest;

    use super::*;

    fn node(number: u64) -> NodeId {
        NodeId(number)
    }

    fn entry(incarnation: &str) -> NodeEntry {
        let (name, address) = (None, String::new());
        NodeEntry { name, address, incarnation: incarnation.to_owned(), state: NodeState::Member }
    }

    /// Nodes 1 to 3 with these collections: name, type, partitions.
    fn catalogue(collections: &[(&str, &str, i32)]) -> Catalogue {
        let mut catalogue = Catalogue::read(None).expect("empty");
        for number in 1..=3 {
            let plan = catalogue.admit(node(number), &entry("old")).expect("new");
            catalogue = catalogue.after(&plan.change);
        }
        for (name, shard_type, partition_count) in collections {
            let wire = CreateCollectionRequest {
                name: (*name).to_owned(),
                shard_type: (*shard_type).to_owned(),
                partition_count: *partition_count,
                ..Default::default()
            };
            let definition = Definition::from_wire(wire).expect("valid");
            let nodes: Vec<NodeId> = catalogue.members().into_iter().collect();
            catalogue = catalogue.after(&catalogue.create(&definition, &nodes, false, Timestamp(1)));
        }
        catalogue
    }

    fn add(catalogue: &Catalogue, number: u64) -> Catalogue {
        catalogue.after(&catalogue.admit(node(number), &entry("new")).expect("new").change)
    }

    /// As it is when all that moves has arrived.
    fn settled(catalogue: &Catalogue) -> Catalogue {
        let moving =
            catalogue.placements().filter_map(|(_, _, placed)| Some((placed.group, placed.moving.clone()?)));
        let moving: Vec<_> = moving.collect();
        catalogue.settle(&moving).map_or_else(|| catalogue.clone(), |change| catalogue.after(&change))
    }

    fn replicas(catalogue: &Catalogue) -> Vec<Vec<u64>> {
        let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        catalogue.placements().map(|(_, _, placed)| numbers(&placed.replicas)).collect()
    }

    #[test]
    fn a_node_leaves_when_nothing_counts_on_it_any_more() {
        let four = add(&catalogue(&[("orders", "raft", 2)]), 4);
        assert_eq!(replicas(&four), [[2, 1, 3], [1, 2, 3]]);
        let plan = four.drain(node(3), Sacrifice::default()).expect("there is room");
        assert_eq!(plan.moves.len(), 2);
        let draining = four.after(&plan.change);
        assert_eq!(replicas(&draining), [[2, 1, 4], [1, 2, 4]]);
        for (_, _, placed) in draining.placements() {
            assert!(!placed.founders.contains(&node(4)), "who comes does not make its group again");
            assert!(placed.is_on(node(3)), "until another one has it");
        }
        assert!(draining.counts_on(node(3)));
        assert!(!draining.members().contains(&node(3)), "nothing new goes there");

        let drained = settled(&draining);
        assert!(!drained.counts_on(node(3)));
        assert!(drained.placements().all(|(_, _, placed)| placed.founders.is_empty()), "it has been made");
        assert!(drained.is_stray(GroupId(1), node(3)) && !drained.is_stray(GroupId(1), node(4)));
        let gone = drained.after(&drained.dismiss(node(3)).expect("it may go").change);
        assert!(!gone.nodes.contains_key(&node(3)));
        assert!(gone.dismiss(node(4)).is_none(), "who stays is not dismissed");
    }

    #[test]
    fn a_change_that_was_overtaken_settles_nothing() {
        let four = add(&catalogue(&[("orders", "raft", 1)]), 4);
        let first = four.after(&four.drain(node(3), Sacrifice::default()).expect("there is room").change);
        let (_, _, placed) = first.placements().next().expect("one");
        let old = (placed.group, placed.moving.clone().expect("it moves"));
        let five = add(&first, 5);
        let second =
            five.after(&five.replace(node(4), node(5), Sacrifice::default()).expect("can be").change);
        assert_eq!(second.settle(&[old]), None);
        let (_, _, placed) = second.placements().next().expect("one");
        assert_eq!(placed.holders(), [1, 2, 3, 4, 5].map(node), "all that may have some of it");
    }

    #[test]
    fn a_node_takes_the_places_of_another_one() {
        let four = add(&catalogue(&[("orders", "raft", 2)]), 4);
        let replaced =
            four.after(&four.replace(node(1), node(4), Sacrifice::default()).expect("can be").change);
        assert_eq!(replicas(&replaced), [[2, 4, 3], [4, 2, 3]]);
        assert_eq!(
            replaced.replace(node(1), node(4), Sacrifice::default()).err(),
            Some(PlanError::IsLeaving(node(1)))
        );
    }

    #[test]
    fn a_wiped_node_is_taken_out_before_it_begins_anew() {
        let three = catalogue(&[("orders", "raft", 2)]);
        let plan = three.readmit(node(3), "new".to_owned(), false).expect("can be");
        let out = three.after(&plan.change);
        assert_eq!(replicas(&out), [[2, 1], [1, 2]]);
        assert_eq!(out.nodes[&node(3)].incarnation, "old", "it is still refused");
        let out = settled(&out);
        let anew = out.after(&out.dismiss(node(3)).expect("nothing counts on it").change);
        assert_eq!(anew.nodes[&node(3)], entry("new"));
        assert_eq!(replicas(&anew), [[2, 1, 3], [1, 2, 3]]);
    }

    #[test]
    fn a_new_node_gets_its_share_once() {
        let four = add(&catalogue(&[("orders", "raft", 4)]), 4);
        let plan = four.rebalance(false, &BTreeMap::new());
        assert!(plan.moves.iter().filter(|change| change.moves_data()).count() == 3, "{:?}", plan.moves);
        let level = settled(&four.after(&plan.change));
        assert!(level.rebalance(false, &BTreeMap::new()).moves.is_empty());
        let (_, _, placed) = level.placements().next().expect("one");
        let led = BTreeMap::from([(placed.group, placed.replicas[1])]);
        let back = level.rebalance(true, &led).moves;
        assert_eq!((back.len(), back[0].moves_data()), (1, false), "only who leads is another one");
    }

    #[test]
    fn refusals_say_what_to_do() {
        let three = catalogue(&[("orders", "raft", 1), ("sessions", "basic", 3)]);
        let refused = |sacrifice| match three.drain(node(3), sacrifice) {
            Err(error) => error.to_string(),
            Ok(plan) => format!("{:?}", plan.moves),
        };
        insta::assert_snapshot!(refused(Sacrifice::default()), @"without node 3 there are 2 nodes, and partition orders/0 has 3 replicas: let another node in first (`odgm cluster add`), or say that fewer replicas are enough (--fewer-replicas)");
        let fewer = Sacrifice { fewer_replicas: true, drop_local: false };
        insta::assert_snapshot!(refused(fewer), @"partition sessions/2 is not replicated and is on node 3 alone: export the collection and delete it, or say that the partition may begin empty elsewhere (--drop-local)");
        let all = Sacrifice { drop_local: true, ..fewer };
        let without = three.after(&three.drain(node(3), all).expect("all is given up").change);
        assert!(!settled(&without).counts_on(node(3)));
        assert_eq!(three.drain(node(9), all).err(), Some(PlanError::NoNode(node(9))));
    }
}
