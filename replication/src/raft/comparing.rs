//! Replicas that should be equal are compared, and one that is not is taken out of service.
//!
//! Now and then the leader asks the others what they were at offsets at which it was too. Where they differ the majority says
//! who is wrong: that replica answers no reads and does not lead until it has been mended; it still votes, and keeps what
//! the others send. Where no majority is to be had, both go on and say so, since nobody knows which of them is wrong.
//!
//! As bytes, a checkpoint is its offset (u64), chain and state (32 bytes each). A verdict is 0 if not all have been compared,
//! 1 if all are equal, and else 2, 1 for the log or 2 for the view, the last offset that is equal and the first that differs
//! (u64 each), and the nodes that are wrong and all that were compared (number u32, then each u64). Numbers are big-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use odgm_log::{Hash, NodeId, Offset};
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::MissedTickBehavior;

use super::checkpoints::{Checkpoint, Differing, Divergence, compare};
use super::group::Group;
use super::messages::{Request, whole};
use super::{COMPARE_TIMEOUT, NARROWING_QUESTIONS};
use crate::encoding::{get_hash, get_some_hash, invalid, put_length, put_some_hash};
use crate::transport::{Call, Class};

/// What the leader says of the last comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not all have been compared yet: what was said before stands.
    #[default]
    Open,
    Equal,
    Diverged(Divergence),
}

/// What a leader remembers from one round to the next.
#[derive(Default)]
struct Rounds {
    /// How far each replica was equal.
    equal: BTreeMap<NodeId, Offset>,
    verdict: Verdict,
}

/// Compares whenever this member leads, until it is gone.
pub(super) async fn run(group: Weak<Group>, every: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    loop {
        ticks.tick().await;
        let Some(group) = group.upgrade() else { return };
        if group.leader() != Some(group.node()) {
            // Whoever leads next goes on from what it was told.
            rounds = Rounds::after(group.told().borrow().clone());
            continue;
        }
        if rounds.go(&group).await {
            // Those whom it is about are told at once.
            rounds.go(&group).await;
        }
        if group.is_odd().is_some() {
            group.hand_over().await;
        }
        group.raise_semantics().await;
    }
}

impl Rounds {
    fn after(told: Option<Divergence>) -> Self {
        Self { verdict: told.map_or(Verdict::Open, Verdict::Diverged), ..Self::default() }
    }

    /// Asks everybody once; answers whether there is something new to say.
    async fn go(&mut self, group: &Arc<Group>) -> bool {
        let others = group.others();
        let asked = others.iter().map(|node| self.ask(group, *node));
        let answers = join_all(asked).await;
        let mut known: BTreeMap<NodeId, Vec<Checkpoint>> =
            others.iter().copied().zip(answers).filter_map(|(node, answer)| Some((node, answer?))).collect();
        known.insert(group.node(), group.checkpoints(Offset::ZERO));
        let mut compared = compare(&known);
        if let Some(divergence) =
            compared.divergence.as_mut().filter(|found| found.differing == Differing::Log)
        {
            narrow(group, divergence).await;
        }
        let all = others.iter().copied().chain([group.node()]).collect();
        let verdict = match compared.divergence {
            Some(divergence) => Verdict::Diverged(self.same_or(divergence)),
            None if self.are_equal(&all, &compared.equal) => Verdict::Equal,
            None => self.verdict.clone(),
        };
        self.equal.append(&mut compared.equal);
        group.learn(&verdict);
        let is_new = self.verdict != verdict && !matches!(verdict, Verdict::Open);
        self.verdict = verdict;
        is_new
    }

    /// A divergence as it was found first, if it is one of the same replicas: later rounds see only its newer part, and
    /// perhaps no majority.
    fn same_or(&self, found: Divergence) -> Divergence {
        match &self.verdict {
            Verdict::Diverged(known)
                if known.differing == found.differing && (known.odd == found.odd || found.odd.is_empty()) =>
            {
                known.clone()
            }
            _ => found,
        }
    }

    /// Whether all that is in question was seen to be equal; where something differed, at that place or behind it.
    fn are_equal(&self, all: &BTreeSet<NodeId>, seen: &BTreeMap<NodeId, Offset>) -> bool {
        let from = match &self.verdict {
            Verdict::Diverged(known) => known.differs,
            Verdict::Open | Verdict::Equal => Offset::ZERO,
        };
        self.in_question(all).iter().all(|node| seen.get(node).is_some_and(|at| *at >= from))
    }

    /// Those of whom it has to be seen that they are equal before it is said of all.
    fn in_question<'a>(&'a self, all: &'a BTreeSet<NodeId>) -> &'a BTreeSet<NodeId> {
        match &self.verdict {
            Verdict::Diverged(known) if known.odd.is_empty() => &known.compared,
            Verdict::Diverged(known) => &known.odd,
            Verdict::Open | Verdict::Equal => all,
        }
    }

    /// What a member was since it was last equal.
    async fn ask(&self, group: &Group, node: NodeId) -> Option<Vec<Checkpoint>> {
        let since = self.equal.get(&node).copied().unwrap_or(Offset::ZERO);
        let request = Request::Compare { since, verdict: self.verdict.clone() };
        let answer = group.call(node, request).await?;
        decode_checkpoints(answer).ok()
    }
}

/// Finds the first record that differs: chains tell of each offset that both logs still have.
async fn narrow(group: &Arc<Group>, divergence: &mut Divergence) {
    let here = group.node();
    // Somebody on the other side of the difference.
    let odd_here = divergence.odd.contains(&here);
    let mut others = divergence.compared.iter().filter(|node| divergence.odd.contains(*node) != odd_here);
    let other = others.next().or_else(|| divergence.compared.iter().find(|node| **node != here));
    let Some(other) = other.copied() else { return };
    let mut search = Search::new(divergence.equal, divergence.differs);
    for _ in 0..NARROWING_QUESTIONS {
        let Some(at) = search.next() else { break };
        let there = match group.call(other, Request::Chain { at }).await {
            Some(answer) => decode_chain(answer).ok().flatten(),
            None => break,
        };
        match (there, group.chain_at(at).await) {
            (Some(there), Some(here)) => search.note(at, there == here),
            // Trimmed since: what it was then has to do.
            _ if search.unsure => search.note(at, true),
            _ => break,
        }
    }
    (divergence.equal, divergence.differs) = (search.equal, search.differs);
}

/// The search for the first record that differs, by halving what is between one that does not and one that does.
struct Search {
    equal: Offset,
    differs: Offset,
    /// Whether the lower end has to be asked for first: what was equal once may have been changed since, on a disk that a
    /// restarted member has read again.
    unsure: bool,
}

impl Search {
    fn new(equal: Offset, differs: Offset) -> Self {
        Self { equal, differs, unsure: equal > Offset::ZERO }
    }

    /// What to compare next; nothing when it is found.
    fn next(&self) -> Option<Offset> {
        let middle = Offset(self.equal.0 + (self.differs.0 - self.equal.0) / 2);
        match self.unsure {
            true => Some(self.equal),
            false => (middle > self.equal).then_some(middle),
        }
    }

    fn note(&mut self, at: Offset, is_equal: bool) {
        if is_equal {
            self.equal = at;
        } else {
            self.differs = at;
            if self.unsure {
                self.equal = Offset::ZERO;
            }
        }
        self.unsure = false;
    }
}

impl Group {
    /// Takes note of what the leader says of this replica and others.
    pub(super) fn learn(&self, verdict: &Verdict) {
        let divergence = match verdict {
            Verdict::Open => return,
            Verdict::Equal => None,
            Verdict::Diverged(divergence) => Some(divergence.clone()),
        };
        let is_new = self.told().send_if_modified(|known| {
            let is_new = *known != divergence;
            known.clone_from(&divergence);
            is_new
        });
        if !is_new {
            return;
        }
        let partition = self.name();
        let odd = match &divergence {
            Some(divergence) => {
                let remedy = divergence.remedy(partition);
                tracing::error!(partition, group = %self.id(), "replicas differ: {divergence}; {remedy}");
                divergence.odd.contains(&self.node())
            }
            None => {
                tracing::info!(partition, group = %self.id(), "all replicas are equal again");
                false
            }
        };
        self.raft().runtime_config().elect(!odd);
    }

    /// Why this replica answers no reads, if the others say that it is wrong.
    pub(super) fn is_odd(&self) -> Option<Divergence> {
        let known = self.told().borrow();
        known.as_ref().filter(|divergence| divergence.odd.contains(&self.node())).cloned()
    }

    /// Everybody else in the group, those who only listen included.
    fn others(&self) -> Vec<NodeId> {
        let metrics = self.raft().server_metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.nodes().map(|(node, _)| NodeId(*node));
        nodes.filter(|node| *node != self.node()).collect()
    }

    /// The chain up to a record, if that can be read.
    pub(super) async fn chain_at(&self, at: Offset) -> Option<Hash> {
        let (store, group) = (self.store().clone(), self.id());
        crate::manager::blocking(move || store.chain_at(group, at)).await.ok()
    }

    pub(super) async fn call(&self, to: NodeId, request: Request) -> Option<Bytes> {
        let (group, class, within) = (self.id(), Class::Log, COMPARE_TIMEOUT);
        let request = request.encode(group).ok()?;
        // Whoever cannot be asked is compared another time.
        self.transport().call(Call { to, class, group, request, within }).await.ok()
    }
}

pub(super) fn put_verdict(verdict: &Verdict, out: &mut BytesMut) {
    let Divergence { differing, equal, differs, odd, compared } = match verdict {
        Verdict::Open => return out.put_u8(0),
        Verdict::Equal => return out.put_u8(1),
        Verdict::Diverged(divergence) => divergence,
    };
    out.put_u8(2);
    out.put_u8(match differing {
        Differing::Log => 1,
        Differing::View => 2,
    });
    out.put_u64(equal.get());
    out.put_u64(differs.get());
    for nodes in [odd, compared] {
        put_length(nodes.len(), out);
        nodes.iter().for_each(|node| out.put_u64(node.0));
    }
}

pub(super) fn get_verdict(input: &mut Bytes) -> io::Result<Verdict> {
    match input.try_get_u8()? {
        0 => return Ok(Verdict::Open),
        1 => return Ok(Verdict::Equal),
        2 => {}
        other => return Err(invalid(format!("there is no verdict of kind {other}"))),
    }
    let differing = match input.try_get_u8()? {
        1 => Differing::Log,
        2 => Differing::View,
        other => return Err(invalid(format!("nothing of kind {other} differs"))),
    };
    let (equal, differs) = (Offset(input.try_get_u64()?), Offset(input.try_get_u64()?));
    let mut nodes = || -> io::Result<BTreeSet<NodeId>> {
        let number = input.try_get_u32()?;
        (0..number).map(|_| Ok(NodeId(input.try_get_u64()?))).collect()
    };
    let (odd, compared) = (nodes()?, nodes()?);
    Ok(Verdict::Diverged(Divergence { differing, equal, differs, odd, compared }))
}

pub(super) fn encode_checkpoints(checkpoints: &[Checkpoint]) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + 72 * checkpoints.len());
    put_length(checkpoints.len(), &mut out);
    for Checkpoint { offset, chain, state } in checkpoints {
        out.put_u64(offset.get());
        out.put_slice(&chain.0);
        out.put_slice(&state.0);
    }
    out.freeze()
}

fn decode_checkpoints(bytes: Bytes) -> io::Result<Vec<Checkpoint>> {
    whole(bytes, |input| {
        let number = input.try_get_u32()?;
        let checkpoint = |_| {
            let offset = Offset(input.try_get_u64()?);
            Ok(Checkpoint { offset, chain: get_hash(input)?, state: get_hash(input)? })
        };
        (0..number).map(checkpoint).collect()
    })
}

pub(super) fn encode_chain(chain: Option<Hash>) -> Bytes {
    let mut out = BytesMut::with_capacity(33);
    put_some_hash(chain, &mut out);
    out.freeze()
}

fn decode_chain(bytes: Bytes) -> io::Result<Option<Hash>> {
    whole(bytes, get_some_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_that_differs_is_found_whatever_was_equal_once() {
        const END: u64 = 33;
        for first in 1..=END {
            for equal_once in 0..END {
                let mut search = Search::new(Offset(equal_once), Offset(END));
                while let Some(at) = search.next() {
                    search.note(at, at < Offset(first));
                }
                let found = (search.equal, search.differs);
                assert_eq!(found, (Offset(first - 1), Offset(first)), "equal once up to {equal_once}");
            }
        }
    }

    #[test]
    fn who_leads_next_takes_no_divergence_back_before_it_is_seen_to_be_mended() {
        let divergence = Divergence {
            differing: Differing::Log,
            equal: Offset(9),
            differs: Offset(10),
            odd: [NodeId(3)].into(),
            compared: [1, 2, 3].map(NodeId).into(),
        };
        let all: BTreeSet<_> = [1, 2, 3].map(NodeId).into();
        let seen = |at: [u64; 3]| (1..).map(NodeId).zip(at.map(Offset)).collect();
        let told = Rounds::after(Some(divergence.clone()));
        assert!(!told.are_equal(&all, &seen([50, 50, 9])), "equal before the place, which it always was");
        assert!(told.are_equal(&all, &seen([1, 1, 10])), "equal at the place, by whoever was in question");
        // Nobody is known to be right: all of them are in question.
        let torn = Rounds::after(Some(Divergence { odd: BTreeSet::new(), ..divergence }));
        assert!(!torn.are_equal(&all, &seen([10, 9, 10])));
        assert!(torn.are_equal(&all, &seen([10, 10, 10])));
        assert!(Rounds::after(None).are_equal(&all, &seen([1, 1, 1])));
        assert!(!Rounds::after(None).are_equal(&all, &BTreeMap::from([(NodeId(1), Offset(1))])));
    }

    #[test]
    fn what_is_compared_arrives_as_it_was_sent() {
        let divergence = Divergence {
            differing: Differing::View,
            equal: Offset(3),
            differs: Offset(0x0104),
            odd: [NodeId(3)].into(),
            compared: [NodeId(1), NodeId(3)].into(),
        };
        let mut out = BytesMut::new();
        let verdict = Verdict::Diverged(divergence);
        put_verdict(&verdict, &mut out);
        let golden = b"\x02\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\x01\x04\0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x03";
        assert_eq!(out.as_ref(), golden);
        let bytes = out.freeze();
        for end in 0..bytes.len() {
            assert!(whole(bytes.slice(..end), get_verdict).is_err(), "cut at {end}");
        }
        assert_eq!(whole(bytes, get_verdict).expect("whole"), verdict);
        for (verdict, golden) in [(Verdict::Open, b"\0"), (Verdict::Equal, b"\x01")] {
            let mut out = BytesMut::new();
            put_verdict(&verdict, &mut out);
            assert_eq!(out.as_ref(), golden);
            assert_eq!(whole(out.freeze(), get_verdict).expect("whole"), verdict);
        }

        let checkpoint = Checkpoint { offset: Offset(7), chain: Hash([1; 32]), state: Hash([2; 32]) };
        let bytes = encode_checkpoints(&[checkpoint]);
        assert_eq!(bytes[..12], *b"\0\0\0\x01\0\0\0\0\0\0\0\x07");
        assert_eq!((&bytes[12..44], &bytes[44..]), (&[1; 32][..], &[2; 32][..]));
        assert_eq!(decode_checkpoints(bytes).expect("whole"), [checkpoint]);
        for chain in [None, Some(Hash([7; 32]))] {
            assert_eq!(decode_chain(encode_chain(chain)).expect("whole"), chain);
        }
    }
}
