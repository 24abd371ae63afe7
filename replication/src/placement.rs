//! On which nodes partitions are to be: the one plan behind creating, draining, replacing and rebalancing.
//!
//! Every node is to have as many replicas as any other, give or take one, and to lead as many partitions as its replicas
//! allow; and as little as possible moves. No partition is twice on a node.
//!
//! Replicas are levelled by moving one at a time from a node that has most to one that has least, as long as the two differ
//! by more than one: each move is then one that any plan to that end has to make. Leaders are levelled by the order of the
//! replicas alone, along chains in which each node gives one partition up and takes another: so no data moves for them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use odgm_log::NodeId;

/// A partition that is to be placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    /// The nodes that it is on, the one that is to lead first.
    pub(crate) replicas: Vec<NodeId>,
    /// How many it should be on; fewer where there are not so many nodes.
    pub(crate) wanted: usize,
    /// Partitions of one collection are spread over the nodes where the choice is free.
    pub(crate) collection: usize,
    /// Whether replicas that are on a node may go to another one.
    pub(crate) movable: bool,
}

/// Takes partitions off the nodes that are not among `nodes`, and gives each as many replicas as it should have, as far as
/// there are nodes. What is on a node that stays does not move, and leads if it did.
pub(crate) fn fill(seats: &mut [Seat], nodes: &BTreeSet<NodeId>) {
    let mut load = Load::of(seats.iter(), nodes);
    for seat in seats.iter_mut().filter(|seat| seat.movable) {
        let lost: Vec<usize> =
            (0..seat.replicas.len()).filter(|at| !nodes.contains(&seat.replicas[*at])).collect();
        let mut freed = lost.into_iter();
        // A replacement takes the place of what has gone, and leads if that was to.
        while seat.replicas.iter().filter(|on| nodes.contains(on)).count() < seat.wanted.min(nodes.len()) {
            let Some(node) = load.least_beside(seat) else { break };
            load.add(node, seat.collection);
            match freed.next() {
                Some(at) => seat.replicas[at] = node,
                None => seat.replicas.push(node),
            }
        }
        seat.replicas.retain(|on| nodes.contains(on));
    }
}

/// Moves replicas until no node has two more than another one. [`fill`] comes first.
pub(crate) fn level(seats: &mut [Seat], nodes: &BTreeSet<NodeId>) {
    let mut load = Load::of(seats.iter().filter(|seat| seat.movable), nodes);
    while let Some((from, to)) = load.extremes() {
        // The partition whose collection gains most by it; the first of equals, so that the plan is the same each time.
        let gain =
            |seat: &Seat| load.of_collection(from, seat.collection) - load.of_collection(to, seat.collection);
        let free =
            |seat: &Seat| seat.movable && seat.replicas.contains(&from) && !seat.replicas.contains(&to);
        let best = (0..seats.len()).filter(|at| free(&seats[*at])).rev().max_by_key(|at| gain(&seats[*at]));
        let Some(best) = best else { return };
        let seat = &mut seats[best];
        load.remove(from, seat.collection);
        load.add(to, seat.collection);
        for on in seat.replicas.iter_mut().filter(|on| **on == from) {
            *on = to;
        }
    }
}

/// Spreads the leaders, by putting other replicas first.
pub(crate) fn spread_leaders(seats: &mut [Seat], nodes: &BTreeSet<NodeId>) {
    loop {
        let mut leads: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
        for leader in seats.iter().filter_map(|seat| seat.replicas.first()) {
            *leads.entry(*leader).or_default() += 1;
        }
        let mut busiest: Vec<(NodeId, usize)> = leads.iter().map(|(node, count)| (*node, *count)).collect();
        busiest.sort_by_key(|(node, count)| (std::cmp::Reverse(*count), *node));
        let chain = busiest.iter().find_map(|(from, most)| chain(seats, &leads, *from, *most));
        let Some(chain) = chain else { return };
        for (seat, leader) in chain {
            let replicas = &mut seats[seat].replicas;
            if let Some(at) = replicas.iter().position(|on| *on == leader) {
                replicas[..=at].rotate_right(1);
            }
        }
    }
}

/// Partitions and who is to lead each of them instead, so that `from` leads one less and a node that leads at least two fewer
/// leads one more.
fn chain(
    seats: &[Seat],
    leads: &BTreeMap<NodeId, usize>,
    from: NodeId,
    most: usize,
) -> Option<Vec<(usize, NodeId)>> {
    // For each node that is reached: the node that gives it a partition, and which.
    let mut reached: BTreeMap<NodeId, (NodeId, usize)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(giver) = queue.pop_front() {
        let led = seats
            .iter()
            .enumerate()
            .filter(|(_, seat)| seat.movable && seat.replicas.first() == Some(&giver));
        for (at, seat) in led {
            for taker in seat.replicas.iter().copied().skip(1) {
                if taker == from || reached.contains_key(&taker) || !leads.contains_key(&taker) {
                    continue;
                }
                reached.insert(taker, (giver, at));
                if leads[&taker] + 2 <= most {
                    let mut steps = vec![(at, taker)];
                    let mut node = giver;
                    while node != from {
                        let (before, at) = reached[&node];
                        steps.push((at, node));
                        node = before;
                    }
                    return Some(steps);
                }
                queue.push_back(taker);
            }
        }
    }
    None
}

/// How many replicas each node has.
struct Load {
    all: BTreeMap<NodeId, usize>,
    by_collection: BTreeMap<(NodeId, usize), isize>,
}

impl Load {
    fn of<'a>(seats: impl Iterator<Item = &'a Seat>, nodes: &BTreeSet<NodeId>) -> Self {
        let all = nodes.iter().map(|node| (*node, 0)).collect();
        let mut load = Self { all, by_collection: BTreeMap::new() };
        for seat in seats {
            for node in seat.replicas.iter().filter(|on| nodes.contains(on)) {
                load.add(*node, seat.collection);
            }
        }
        load
    }

    fn add(&mut self, node: NodeId, collection: usize) {
        *self.all.entry(node).or_default() += 1;
        *self.by_collection.entry((node, collection)).or_default() += 1;
    }

    fn remove(&mut self, node: NodeId, collection: usize) {
        if let Some(count) = self.all.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        *self.by_collection.entry((node, collection)).or_default() -= 1;
    }

    fn of_collection(&self, node: NodeId, collection: usize) -> isize {
        self.by_collection.get(&(node, collection)).copied().unwrap_or_default()
    }

    /// The node with the fewest replicas, of those that have none of this partition.
    fn least_beside(&self, seat: &Seat) -> Option<NodeId> {
        let free = self.all.iter().filter(|(node, _)| !seat.replicas.contains(node));
        let least =
            free.min_by_key(|(node, count)| (**count, self.of_collection(**node, seat.collection), **node));
        least.map(|(node, _)| *node)
    }

    /// A node with most replicas and one with least, if they differ by more than one.
    fn extremes(&self) -> Option<(NodeId, NodeId)> {
        let (most, many) = self.all.iter().rev().max_by_key(|(_, count)| **count)?;
        let (least, few) = self.all.iter().min_by_key(|(_, count)| **count)?;
        (many - few > 1).then_some((*most, *least))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;
    use proptest::sample::{Index, subsequence};

    use super::*;

    fn nodes(count: u64) -> BTreeSet<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    fn seat(replicas: &[u64], wanted: usize) -> Seat {
        Seat {
            replicas: replicas.iter().copied().map(NodeId).collect(),
            wanted,
            collection: 0,
            movable: true,
        }
    }

    fn counts(seats: &[Seat], nodes: &BTreeSet<NodeId>) -> Vec<usize> {
        let on = |node: &NodeId| seats.iter().filter(|seat| seat.replicas.contains(node)).count();
        nodes.iter().map(on).collect()
    }

    fn leads(seats: &[Seat], nodes: &BTreeSet<NodeId>) -> Vec<usize> {
        let by = |node: &NodeId| seats.iter().filter(|seat| seat.replicas.first() == Some(node)).count();
        nodes.iter().map(by).collect()
    }

    fn spread(counts: &[usize]) -> usize {
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }

    /// Replicas that are where they were not.
    fn moves(before: &[Seat], after: &[Seat]) -> usize {
        let new = |(before, after): (&Seat, &Seat)| {
            after.replicas.iter().filter(|on| !before.replicas.contains(on)).count()
        };
        before.iter().zip(after).map(new).sum()
    }

    #[test]
    fn new_partitions_spread_over_three_nodes() {
        let mut seats = vec![seat(&[], 3); 6];
        fill(&mut seats, &nodes(3));
        spread_leaders(&mut seats, &nodes(3));
        assert_eq!(counts(&seats, &nodes(3)), [6, 6, 6]);
        assert_eq!(leads(&seats, &nodes(3)), [2, 2, 2]);
    }

    #[test]
    fn a_fourth_node_takes_its_share_and_nothing_else_moves() {
        let mut seats =
            vec![seat(&[1, 2, 3], 3), seat(&[2, 3, 1], 3), seat(&[3, 1, 2], 3), seat(&[1, 2, 3], 3)];
        let before = seats.clone();
        level(&mut seats, &nodes(4));
        spread_leaders(&mut seats, &nodes(4));
        assert_eq!(counts(&seats, &nodes(4)), [3, 3, 3, 3]);
        assert_eq!(leads(&seats, &nodes(4)), [1, 1, 1, 1]);
        assert_eq!(moves(&before, &seats), 3);
    }

    #[test]
    fn a_replacement_takes_the_very_place() {
        let mut seats = vec![seat(&[3, 1, 2], 3), seat(&[1, 3], 2)];
        let left: BTreeSet<_> = [1, 2, 4].map(NodeId).into();
        fill(&mut seats, &left);
        assert_eq!(seats, [seat(&[4, 1, 2], 3), seat(&[1, 2], 2)]);
    }

    #[test]
    fn what_cannot_be_moved_stays() {
        let mut seats = vec![Seat { movable: false, ..seat(&[1], 1) }; 4];
        level(&mut seats, &nodes(2));
        spread_leaders(&mut seats, &nodes(2));
        assert_eq!(counts(&seats, &nodes(2)), [4, 0]);
    }

    /// Any placement on up to nine nodes.
    fn placed() -> impl Strategy<Value = Vec<Seat>> {
        let all: Vec<u64> = (1..=9).collect();
        let one = (subsequence(all, 0..=5), 1_usize..=5, 0_usize..3, any::<Index>());
        let one = one.prop_map(|(mut on, wanted, collection, first)| {
            if !on.is_empty() {
                let first = first.index(on.len());
                on.rotate_left(first);
            }
            Seat { collection, ..seat(&on, wanted) }
        });
        vec(one, 0..24)
    }

    fn check_places(seats: &[Seat], nodes: &BTreeSet<NodeId>) -> Result<(), TestCaseError> {
        for seat in seats {
            let distinct: BTreeSet<_> = seat.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), seat.replicas.len(), "twice on a node: {:?}", seat);
            prop_assert!(
                seat.replicas.iter().all(|on| nodes.contains(on)),
                "on a node that is not there: {:?}",
                seat
            );
            prop_assert!(seat.replicas.len() >= seat.wanted.min(nodes.len()), "too few: {:?}", seat);
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn filling_moves_nothing_that_can_stay(
            before in placed(),
            left in btree_set((1_u64..=9).prop_map(NodeId), 1..=9),
        ) {
            let mut after = before.clone();
            fill(&mut after, &left);
            check_places(&after, &left)?;
            for (before, after) in before.iter().zip(&after) {
                for on in before.replicas.iter().filter(|on| left.contains(on)) {
                    prop_assert!(after.replicas.contains(on), "{:?} became {:?}", before, after);
                }
                let added = after.replicas.iter().filter(|on| !before.replicas.contains(on)).count();
                let kept = before.replicas.iter().filter(|on| left.contains(on)).count();
                prop_assert_eq!(added, before.wanted.min(left.len()).saturating_sub(kept), "{:?} became {:?}", before, after);
            }
        }

        #[test]
        fn levelling_ends_within_one_by_the_fewest_moves(before in placed(), count in 1_u64..=9) {
            let nodes = nodes(count);
            let mut before = before;
            fill(&mut before, &nodes);
            let mut after = before.clone();
            level(&mut after, &nodes);
            check_places(&after, &nodes)?;
            prop_assert!(spread(&counts(&after, &nodes)) <= 1, "{:?}", counts(&after, &nodes));
            let loads = counts(&before, &nodes);
            let all: usize = loads.iter().sum();
            let (floor, ceiling) = (all / loads.len(), all.div_ceil(loads.len()));
            let over: usize = loads.iter().map(|load| load.saturating_sub(ceiling)).sum();
            let under: usize = loads.iter().map(|load| floor.saturating_sub(*load)).sum();
            prop_assert!(moves(&before, &after) <= over.max(under), "{} moves of {:?}", moves(&before, &after), loads);
            let mut again = after.clone();
            level(&mut again, &nodes);
            prop_assert_eq!(again, after, "a level placement stays");
        }

        #[test]
        fn leaders_spread_without_moving_data(before in placed(), count in 1_u64..=9) {
            let nodes = nodes(count);
            let mut before = before;
            fill(&mut before, &nodes);
            let mut after = before.clone();
            spread_leaders(&mut after, &nodes);
            check_places(&after, &nodes)?;
            prop_assert_eq!(moves(&before, &after), 0);
            prop_assert!(spread(&leads(&after, &nodes)) <= spread(&leads(&before, &nodes)));
            // With a replica of everything everywhere nothing is in the way.
            if after.iter().all(|seat| seat.replicas.len() == nodes.len()) {
                prop_assert!(spread(&leads(&after, &nodes)) <= 1, "{:?}", leads(&after, &nodes));
            }
        }
    }
}
