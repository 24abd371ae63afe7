//! Where a replica was, at the offsets at which others were too.
//!
//! Records are applied in batches, whose ends differ from replica to replica. So a batch also ends at every multiple of
//! [`GRID`]: whoever writes much has those in common, whoever writes little the newest ends, and all of them where they are
//! when nobody writes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use odgm_log::{Hash, NodeId, Offset};
use odgm_projections::Header;

use crate::neighbours::listed;

/// A batch ends at each multiple of this offset.
pub(super) const GRID: u64 = 1_024;

/// Checkpoints that are kept of the grid, and of the newest batches.
const KEPT: usize = 64;

/// What a replica was at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) offset: Offset,
    pub(crate) chain: Hash,
    pub(crate) state: Hash,
}

/// The newest checkpoints of a replica. They are of what was applied, so none is ever taken back.
#[derive(Default)]
pub(super) struct Checkpoints {
    grid: VecDeque<Checkpoint>,
    newest: VecDeque<Checkpoint>,
}

impl Checkpoints {
    /// Notes where the view is after a batch, or after a snapshot took its place.
    pub(super) fn note(&mut self, header: &Header) {
        let Header { applied: offset, chain, state, .. } = *header;
        let ring = if offset.0.is_multiple_of(GRID) { &mut self.grid } else { &mut self.newest };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(Checkpoint { offset, chain, state });
    }

    /// Those at an offset and behind it, in order.
    pub(super) fn since(&self, offset: Offset) -> Vec<Checkpoint> {
        let all = self.grid.iter().chain(&self.newest).filter(|checkpoint| checkpoint.offset >= offset);
        let all: BTreeMap<Offset, Checkpoint> =
            all.map(|checkpoint| (checkpoint.offset, *checkpoint)).collect();
        all.into_values().collect()
    }
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differing {
    /// The records.
    Log,
    /// What was made of the same records.
    View,
}

/// Replicas of a partition that should be equal and are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// What differs.
    pub differing: Differing,
    /// The last offset at which they were seen to be equal; 0 if none was compared.
    pub equal: Offset,
    /// The first offset at which they were seen to differ.
    pub differs: Offset,
    /// The replicas that differ from the majority; none if there is no majority.
    pub odd: BTreeSet<NodeId>,
    /// All that were compared.
    pub compared: BTreeSet<NodeId>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { differing, equal, differs, odd, compared } = self;
        let list = |nodes: &BTreeSet<NodeId>| {
            let plural = if nodes.len() == 1 { "node" } else { "nodes" };
            format!("{plural} {}", listed(nodes))
        };
        let what = match differing {
            Differing::Log => "log",
            Differing::View => "view",
        };
        let from = if equal.next() == *differs {
            format!("from record {differs} on")
        } else {
            format!("from a record between {} and {differs} on", equal.next())
        };
        if odd.is_empty() {
            return write!(
                f,
                "the {what}s on {} differ {from}, and no majority says which is right",
                list(compared)
            );
        }
        let others = compared - odd;
        write!(f, "the {what} on {} differs from that on {} {from}", list(odd), list(&others))
    }
}

impl Divergence {
    /// What an operator does about it; `partition` is how it is named on the command line.
    pub fn remedy(&self, partition: &str) -> String {
        let node = match self.odd.first() {
            Some(node) => format!("node {node}"),
            None => {
                let tell = match self.differing {
                    Differing::Log => "verify",
                    Differing::View => "verify-view",
                };
                format!("the node that is wrong (`odgm partition {tell} {partition}` on each tells)")
            }
        };
        match self.differing {
            Differing::View => {
                format!(
                    "stop {node}, run `odgm view rebuild {partition}` on its data directory, and start it again"
                )
            }
            Differing::Log => format!(
                "keep a copy of the data directory of {node}, then take it out of the cluster and bring it back empty, so that \
                 it gets the partition {partition} from the others"
            ),
        }
    }
}

/// What came of a comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    /// How far each replica was seen to be equal to all that were at the same offset.
    pub(super) equal: BTreeMap<NodeId, Offset>,
    pub(super) divergence: Option<Divergence>,
}

/// Compares what replicas were at the same offsets.
pub(super) fn compare(known: &BTreeMap<NodeId, Vec<Checkpoint>>) -> Compared {
    let mut places: BTreeMap<Offset, BTreeMap<NodeId, Checkpoint>> = BTreeMap::new();
    for (node, checkpoints) in known {
        for checkpoint in checkpoints {
            places.entry(checkpoint.offset).or_default().insert(*node, *checkpoint);
        }
    }
    places.retain(|_, there| there.len() > 1);
    let mut equal = BTreeMap::new();
    let mut through = Offset::ZERO;
    let mut differing = None;
    for (offset, there) in &places {
        if all_equal(there.values()) {
            through = *offset;
            equal.extend(there.keys().map(|node| (*node, *offset)));
        } else {
            differing = Some(*offset);
            break;
        }
    }
    let divergence = differing.map(|differs| {
        // Named by the first place, and judged where most were seen.
        let unequal = places.range(differs..).filter(|(_, there)| !all_equal(there.values()));
        let widest = unequal.max_by_key(|(offset, there)| (there.len(), **offset)).map(|(_, there)| there);
        let first = &places[&differs];
        let same_chain =
            first.values().all(|one| Some(one.chain) == first.values().next().map(|one| one.chain));
        Divergence {
            differing: if same_chain { Differing::View } else { Differing::Log },
            equal: through,
            differs,
            odd: widest.map(odd).unwrap_or_default(),
            compared: widest.unwrap_or(first).keys().copied().collect(),
        }
    });
    Compared { equal, divergence }
}

fn all_equal<'a>(mut checkpoints: impl Iterator<Item = &'a Checkpoint>) -> bool {
    let first = checkpoints.next();
    checkpoints.all(|other| Some(other) == first)
}

/// Those that are not as the majority is.
fn odd(there: &BTreeMap<NodeId, Checkpoint>) -> BTreeSet<NodeId> {
    let like = |one: &Checkpoint| there.values().filter(|other| *other == one).count();
    let majority = there.values().find(|one| 2 * like(one) > there.len());
    majority.map_or_else(BTreeSet::new, |majority| {
        there.iter().filter(|(_, one)| *one != majority).map(|(node, _)| *node).collect()
    })
}

#[cfg(test)]
mod tests {
    use odgm_log::GroupId;

    use super::*;

    fn at(offset: u64, chain: u8, state: u8) -> Checkpoint {
        Checkpoint { offset: Offset(offset), chain: Hash([chain; 32]), state: Hash([state; 32]) }
    }

    fn compared(replicas: &[&[Checkpoint]]) -> Compared {
        let known = (1..).map(NodeId).zip(replicas.iter().map(|checkpoints| checkpoints.to_vec()));
        compare(&known.collect())
    }

    #[test]
    fn replicas_are_compared_where_they_were_at_the_same_offset() {
        let compared = compared(&[
            &[at(3, 3, 3), at(5, 5, 5), at(9, 9, 9)],
            &[at(3, 3, 3), at(8, 8, 8)],
            &[at(9, 9, 9)],
        ]);
        assert_eq!(compared.divergence, None);
        assert_eq!(
            compared.equal,
            [(1, 9), (2, 3), (3, 9)].map(|(node, at)| (NodeId(node), Offset(at))).into()
        );
        assert_eq!(compare(&BTreeMap::new()).divergence, None);
    }

    #[test]
    fn who_differs_from_the_majority_is_named_and_where_and_in_what() {
        let log = [at(3, 3, 3), at(5, 5, 5), at(9, 9, 9)];
        let told = |replicas: &[&[Checkpoint]]| {
            let divergence = compared(replicas).divergence.expect("they differ");
            format!("{divergence}: {}", divergence.remedy("demo/0"))
        };
        insta::assert_snapshot!(told(&[&log, &log, &[at(3, 3, 3), at(5, 5, 6), at(9, 9, 8)]]), @"the view on node 3 differs from that on nodes 1, 2 from a record between 4 and 5 on: stop node 3, run `odgm view rebuild demo/0` on its data directory, and start it again");
        insta::assert_snapshot!(told(&[&[at(3, 3, 3), at(4, 4, 4)], &log[..1], &[at(3, 3, 3), at(4, 1, 4)]]), @"the logs on nodes 1, 3 differ from record 4 on, and no majority says which is right: keep a copy of the data directory of the node that is wrong (`odgm partition verify demo/0` on each tells), then take it out of the cluster and bring it back empty, so that it gets the partition demo/0 from the others");
        insta::assert_snapshot!(told(&[&[at(5, 1, 1)], &log, &log[1..]]), @"the log on node 1 differs from that on nodes 2, 3 from a record between 1 and 5 on: keep a copy of the data directory of node 1, then take it out of the cluster and bring it back empty, so that it gets the partition demo/0 from the others");
    }

    #[test]
    fn the_grid_outlives_the_newest() {
        let mut checkpoints = Checkpoints::default();
        for offset in 1..=3 * GRID {
            let applied = Offset(offset);
            checkpoints.note(&Header { applied, ..Header::new(GroupId(1)) });
        }
        let kept: Vec<u64> = checkpoints.since(Offset(GRID)).iter().map(|kept| kept.offset.0).collect();
        assert_eq!(kept.len(), 3 + KEPT);
        assert_eq!((kept[0], kept[1], kept.last()), (GRID, 2 * GRID, Some(&(3 * GRID))));
        assert_eq!(checkpoints.since(Offset(3 * GRID)).len(), 1);
    }
}
