//! What the nodes of a cluster tell each other of themselves, once a second: that they are there, what their clock says,
//! whether their disk has room, who they were told founds the cluster, and which rules of apply they know ([`vitals`]).
//!
//! From that a node knows why a partition has no leader, whether it had better not lead itself, when a cluster may be
//! founded, and by which rules a partition may be applied. Whoever asks is answered, even a node that is not believed: it
//! learns why.

mod vitals;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId, Offset, Timestamp};
use odgm_projections::SEMANTICS;
use parking_lot::RwLock;

use self::vitals::{Vitals, decode, decode_question, encode, encode_question};
use crate::nodes::Nodes;
use crate::transport::{Call, CallError, Class, GREETING, Transport};

/// How often the others are asked, and how often as long as there is no cluster yet.
pub(crate) const ASK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));

/// How long one may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(800);

/// A node that has not answered for so long counts as silent.
const SILENT_AFTER: Duration = Duration::from_millis(2_500);

/// How far apart the clocks of two nodes may be, unless it is set.
pub(crate) const CLOCK_DRIFT: Duration = Duration::from_secs(5);

/// Why members cannot do what is asked of their group, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// Too few members answer.
    #[error(
        "{needed} of its {members} members have to answer, and {} not answer node {node}: start them, or mend the network \
         between them",
        Named(silent, "does", "do")
    )]
    Silent {
        /// Who asked.
        node: NodeId,
        /// Who did not answer.
        silent: Vec<NodeId>,
        /// How many have to.
        needed: usize,
        /// Of how many.
        members: usize,
    },
    /// This node's clock is not that of most members.
    #[error(
        "the clock of node {node} is {} s {} those of most members, and {} s is the most that is allowed \
         (ODGM_CLOCK_DRIFT_MS): set its clock, best by NTP",
        micros.unsigned_abs() / 1_000_000,
        if *micros > 0 { "ahead of" } else { "behind" },
        bound.as_secs_f64()
    )]
    Clock {
        /// This node.
        node: NodeId,
        /// By how much it is ahead; behind where that is negative.
        micros: i64,
        /// How much is allowed.
        bound: Duration,
    },
    /// Too few members have room.
    #[error(
        "{needed} of its {members} members have to have room, and {} low on disk space: free some there, or lower \
         ODGM_FREE_SPACE_RESERVE",
        Named(full, "is", "are")
    )]
    Space {
        /// Who has none.
        full: Vec<NodeId>,
        /// How many have to.
        needed: usize,
        /// Of how many.
        members: usize,
    },
    /// Some members do not know the rules of apply that the group is to have.
    #[error(
        "{} not know the newest rules of partitions: upgrade to this build there",
        Named(old, "does", "do")
    )]
    Rules {
        /// Who said so.
        old: Vec<NodeId>,
    },
}

/// Nodes, and the word that agrees with them.
struct Named<'a>(&'a [NodeId], &'static str, &'static str);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "node {one} {}", self.1),
            more => write!(f, "nodes {} {}", listed(more), self.2),
        }
    }
}

/// Numbers of nodes, by commas.
pub(crate) fn listed<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    nodes.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The answer of a node, and when it came.
#[derive(Clone, Debug)]
struct Heard {
    at: Instant,
    vitals: Vitals,
    /// Its clock less this node's, and by how much that may be wrong, in microseconds.
    ahead: i64,
    give_or_take: i64,
}

impl Heard {
    /// Whether it is still worth something.
    fn is_fresh(&self) -> bool {
        self.at.elapsed() < 2 * SILENT_AFTER
    }
}

/// Who a node is to the others.
#[derive(Clone, Debug)]
pub(crate) struct Introduction {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// Random, of this process.
    pub(crate) process: u64,
    /// Who founds the cluster, as this node was told.
    pub(crate) founders: BTreeSet<NodeId>,
    /// How far apart clocks may be.
    pub(crate) drift: Duration,
}

/// What this node knows of the others.
pub(crate) struct Neighbours {
    me: Introduction,
    nodes: Arc<Nodes>,
    /// None on a node without a cluster: nobody is asked there.
    log: Option<LogStore>,
    since: Instant,
    heard: RwLock<BTreeMap<NodeId, Heard>>,
    /// Whether anybody is low on space, or has another time: only then it is worth looking closer.
    has_worries: AtomicBool,
}

impl Neighbours {
    /// Of a node in a cluster; it has asked nobody yet.
    pub(crate) fn new(me: Introduction, nodes: Arc<Nodes>, log: LogStore) -> Self {
        Self { log: Some(log), ..Self::with(me, nodes) }
    }

    /// Of a node that asks nobody, and so knows of no trouble.
    pub(crate) fn none(node: NodeId) -> Self {
        let founders = BTreeSet::new();
        let me = Introduction { node, incarnation: 0, process: 0, founders, drift: CLOCK_DRIFT };
        Self::with(me, Arc::default())
    }

    fn with(me: Introduction, nodes: Arc<Nodes>) -> Self {
        let (heard, has_worries) = (RwLock::default(), AtomicBool::new(false));
        Self { me, nodes, log: None, since: Instant::now(), heard, has_worries }
    }

    /// Answers a node that asks.
    pub(crate) fn answer(&self, from: NodeId, question: Bytes) -> io::Result<Bytes> {
        let (incarnation, process) = decode_question(question)?;
        let refusal = self.nodes.greet(from, incarnation, process).err().map(|stranger| stranger.reason);
        Ok(encode(&Vitals {
            clock: Timestamp::now(),
            is_low_on_space: self.log.as_ref().is_some_and(LogStore::is_low_on_space),
            is_founded: self.is_founded(),
            founders: self.me.founders.clone(),
            refusal,
            semantics: SEMANTICS,
        }))
    }

    /// Whether all of these nodes know rules of apply of that version, as they have said lately.
    pub(crate) fn know(&self, semantics: u32, members: &BTreeSet<NodeId>) -> bool {
        let heard = self.heard.read();
        let knows = |node: &NodeId| {
            heard.get(node).is_some_and(|heard| heard.is_fresh() && heard.vitals.semantics >= semantics)
        };
        members.iter().all(|node| *node == self.me.node || knows(node))
    }

    /// Whether a log that has nothing yet may begin with rules of that version: not where one of these members has said
    /// that it does not know them, be it there or not, since it could not go on with the others when it is back; and not yet
    /// where one that may be there has not said so. One that is silent, and of which nothing is known, does not keep the others
    /// from beginning.
    pub(crate) fn may_begin(&self, semantics: u32, members: &[NodeId]) -> Result<bool, Trouble> {
        let silent = self.silent(members);
        let heard = self.heard.read();
        let is_old = |node: &&NodeId| heard.get(node).is_some_and(|heard| heard.vitals.semantics < semantics);
        let old: Vec<_> = members.iter().filter(is_old).copied().collect();
        if !old.is_empty() {
            return Err(Trouble::Rules { old });
        }
        let mut others = members.iter().filter(|node| **node != self.me.node && self.log.is_some());
        Ok(others.all(|node| heard.contains_key(node) || silent.contains(node)))
    }

    /// Whether there is a cluster as far as this node has heard.
    pub(crate) fn is_founded(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.bounds(GroupId::CATALOGUE).last > Offset::ZERO)
    }

    /// Asks all of these nodes, and returns when they have answered or will not.
    pub(crate) async fn ask(&self, transport: &dyn Transport, others: &BTreeSet<NodeId>) {
        if let Some(log) = &self.log {
            log.look_at_space();
        }
        for (node, since) in self.nodes.take_started() {
            transport.forget(node, since);
        }
        join_all(others.iter().map(|node| self.ask_one(transport, *node))).await;
        let worries = {
            let mut heard = self.heard.write();
            heard.retain(|node, _| others.contains(node));
            heard
                .values()
                .filter(|heard| heard.is_fresh())
                .any(|heard| heard.vitals.is_low_on_space || self.is_far(heard.ahead, heard))
        };
        self.has_worries.store(worries, Ordering::Relaxed);
    }

    async fn ask_one(&self, transport: &dyn Transport, node: NodeId) {
        let (begun, clock) = (Instant::now(), Timestamp::now());
        let request = encode_question(self.me.incarnation, self.me.process);
        let call = Call { to: node, class: Class::Urgent, group: GREETING, request, within: ANSWER_WITHIN };
        let vitals = match transport.call(call).await {
            Ok(answer) => decode(answer),
            Err(CallError::Refused { reason, .. }) => Err(io::Error::other(reason)),
            Err(_) => return,
        };
        let vitals = match vitals {
            Ok(vitals) => vitals,
            Err(error) => {
                return tracing::debug!(%node, %error, "what a node says of itself is not understood");
            }
        };
        // Taken in the middle of the way there and back; it may have been at either end.
        let half = i64::try_from(begun.elapsed().as_micros() / 2).unwrap_or(i64::MAX);
        let ahead = difference(vitals.clock, clock).saturating_sub(half);
        self.heard.write().insert(node, Heard { at: Instant::now(), vitals, ahead, give_or_take: half });
    }

    /// Which of these nodes are silent.
    pub(crate) fn silent(&self, members: &[NodeId]) -> Vec<NodeId> {
        if self.log.is_none() {
            return Vec::new();
        }
        let heard = self.heard.read();
        let last = |node: &NodeId| heard.get(node).map_or(self.since, |heard| heard.at);
        let is_silent = |node: &&NodeId| **node != self.me.node && last(node).elapsed() > SILENT_AFTER;
        members.iter().filter(is_silent).copied().collect()
    }

    /// Whether too few members of a group answer.
    pub(crate) fn quorum(&self, members: &[NodeId]) -> Result<(), Trouble> {
        let (silent, needed) = (self.silent(members), majority(members));
        if silent.is_empty() || members.len() - silent.len() >= needed {
            return Ok(());
        }
        Err(Trouble::Silent { node: self.me.node, silent, needed, members: members.len() })
    }

    /// Whether anything may keep this node from leading a group.
    pub(crate) fn has_worries(&self) -> bool {
        self.has_worries.load(Ordering::Relaxed)
    }

    /// Whether this node's clock is that of a quorum of these members. One that is not known counts as right.
    pub(crate) fn clock(&self, members: &[NodeId]) -> Result<(), Trouble> {
        let heard = self.fresh(members);
        let mut far: Vec<i64> =
            heard.values().filter(|heard| self.is_far(heard.ahead, heard)).map(|heard| heard.ahead).collect();
        if far.is_empty() || members.len() - far.len() >= majority(members) {
            return Ok(());
        }
        far.sort_unstable();
        let micros = -far[far.len() / 2];
        Err(Trouble::Clock { node: self.me.node, micros, bound: self.me.drift })
    }

    /// Whether a quorum of these members has room. One that is not known has.
    pub(crate) fn space(&self, members: &[NodeId]) -> Result<(), Trouble> {
        let heard = self.fresh(members);
        let full: Vec<_> =
            heard.iter().filter(|(_, heard)| heard.vitals.is_low_on_space).map(|(node, _)| *node).collect();
        let needed = majority(members);
        if full.is_empty() || members.len() - full.len() >= needed {
            return Ok(());
        }
        Err(Trouble::Space { full, needed, members: members.len() })
    }

    /// Which of the other members could lead: they answer, have room, and the time of a quorum.
    pub(crate) fn fit(&self, members: &[NodeId]) -> Vec<NodeId> {
        let heard = self.fresh(members);
        let agrees = |one: &Heard| {
            let with_others =
                heard.values().filter(|other| !self.is_far(one.ahead - other.ahead, other)).count();
            let with_me = usize::from(!self.is_far(one.ahead, one));
            with_others + with_me >= majority(members)
        };
        let is_fit = |one: &Heard| !one.vitals.is_low_on_space && one.vitals.refusal.is_none() && agrees(one);
        heard.iter().filter(|(_, one)| is_fit(one)).map(|(node, _)| *node).collect()
    }

    /// Why another node does not believe this one, if one does not.
    pub(crate) fn refusal(&self) -> Option<String> {
        let heard = self.heard.read();
        heard
            .values()
            .filter(|heard| heard.at.elapsed() < SILENT_AFTER)
            .find_map(|heard| heard.vitals.refusal.clone())
    }

    /// Whether all who found the cluster are there, were told the same, and there is no cluster yet. Else two of them could
    /// each found one, and neither could tell them apart later.
    pub(crate) fn agree_to_found(&self) -> Result<(), String> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let me = self.me.node;
        let heard = self.heard.read();
        for founder in self.me.founders.iter().filter(|founder| **founder != me) {
            let Some(heard) = heard.get(founder).filter(|heard| heard.at.elapsed() < SILENT_AFTER) else {
                return Err(format!(
                    "the cluster of nodes {} is founded as soon as all of them are there, and node {founder} does not \
                     answer yet: start it, or correct ODGM_MEMBERS",
                    listed(&self.me.founders)
                ));
            };
            if heard.vitals.is_founded {
                return Err(format!(
                    "node {founder} has a cluster already, and this node waits to be taken in: if its disk was lost, run \
                     `odgm cluster readmit {me}`; if it is new, `odgm cluster add`"
                ));
            }
            if heard.vitals.founders != self.me.founders {
                return Err(format!(
                    "ODGM_MEMBERS names nodes {} here and {} at node {founder}: give all of them the same list",
                    listed(&self.me.founders),
                    listed(&heard.vitals.founders)
                ));
            }
        }
        Ok(())
    }

    /// What members said lately.
    fn fresh(&self, members: &[NodeId]) -> BTreeMap<NodeId, Heard> {
        let heard = self.heard.read();
        let fresh = heard.iter().filter(|(node, heard)| members.contains(node) && heard.is_fresh());
        fresh.map(|(node, heard)| (*node, heard.clone())).collect()
    }

    fn is_far(&self, ahead: i64, heard: &Heard) -> bool {
        let bound = i64::try_from(self.me.drift.as_micros()).unwrap_or(i64::MAX);
        ahead.saturating_abs().saturating_sub(heard.give_or_take) > bound
    }
}

/// How many members are a quorum.
fn majority(members: &[NodeId]) -> usize {
    members.len() / 2 + 1
}

#[cfg(test)]
impl Neighbours {
    /// Has another node have said which rules it knows, and by how many seconds its clock is ahead.
    pub(crate) fn hear(&self, node: NodeId, semantics: u32, ahead: i64) {
        let vitals = Vitals { is_low_on_space: false, refusal: None, semantics, ..vitals::tests::vitals() };
        let heard = Heard { at: Instant::now(), vitals, ahead: ahead * 1_000_000, give_or_take: 1_000 };
        let is_far = self.is_far(heard.ahead, &heard);
        self.heard.write().insert(node, heard);
        self.has_worries.store(is_far, Ordering::Relaxed);
    }
}

fn difference(one: Timestamp, other: Timestamp) -> i64 {
    let signed = |time: Timestamp| i64::try_from(time.get()).unwrap_or(i64::MAX);
    signed(one).saturating_sub(signed(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    /// Node 1 of three, and by how many seconds the clocks of the others are ahead of its own.
    fn clocks(others: [i64; 2]) -> Neighbours {
        let neighbours = Neighbours::none(NodeId(1));
        for (node, seconds) in [NodeId(2), NodeId(3)].into_iter().zip(others) {
            neighbours.hear(node, 2, seconds);
        }
        neighbours
    }

    #[test]
    fn rules_are_known_to_all_only_when_everybody_has_said_so() {
        let neighbours = clocks([0, 0]);
        assert!(neighbours.know(2, &ALL.into()));
        assert!(!neighbours.know(3, &ALL.into()));
        assert!(!neighbours.know(2, &[NodeId(1), NodeId(4)].into()), "nobody has heard of node 4");
    }

    #[test]
    fn a_log_does_not_begin_with_rules_that_a_member_does_not_know() {
        let neighbours = clocks([0, 0]);
        assert_eq!(neighbours.may_begin(2, &ALL), Ok(true));
        neighbours.hear(NodeId(3), 1, 0);
        let old = neighbours.may_begin(2, &ALL).expect_err("node 3 would not understand them");
        insta::assert_snapshot!(old, @"node 3 does not know the newest rules of partitions: upgrade to this build there");
        assert_eq!(neighbours.may_begin(1, &ALL), Ok(true));

        let dir = tempfile::tempdir().expect("a folder");
        let log = LogStore::open(dir.path(), odgm_log::store::Options::default()).expect("a log store");
        let mut asking = Neighbours { log: Some(log), ..Neighbours::none(NodeId(1)) };
        asking.hear(NodeId(2), 2, 0);
        assert_eq!(asking.may_begin(2, &ALL), Ok(false), "node 3 has not said yet what it knows");
        asking.since = Instant::now().checked_sub(2 * SILENT_AFTER).expect("the machine has run for longer");
        assert_eq!(asking.may_begin(2, &ALL), Ok(true), "it is not there");
    }

    #[test]
    fn a_node_that_knows_of_no_members_yet_has_no_trouble_with_them() {
        let neighbours = clocks([60, 60]);
        neighbours.clock(&[]).expect("nobody else's time counts");
        neighbours.space(&[]).expect("nobody else has to have room");
        neighbours.quorum(&[]).expect("nobody else has to answer");
    }

    #[test]
    fn the_time_of_a_quorum_counts() {
        for apart in [[0, 0], [4, -4], [3_600, 1], [-3_600, 0]] {
            clocks(apart).clock(&ALL).expect("one other has about the same time");
        }
        let ahead = clocks([-3_600, -3_601]).clock(&ALL).expect_err("nobody else has this time");
        insta::assert_snapshot!(ahead, @"the clock of node 1 is 3600 s ahead of those of most members, and 5 s is the most that is allowed (ODGM_CLOCK_DRIFT_MS): set its clock, best by NTP");
        let behind = clocks([60, 61]).clock(&ALL).expect_err("nobody else has this time");
        assert!(
            behind.to_string().contains("60 s behind") || behind.to_string().contains("61 s behind"),
            "{behind}"
        );
        // Those whose time is a quorum's can lead, and the one with a time of its own cannot.
        assert_eq!(clocks([-3_600, -3_601]).fit(&ALL), ALL[1..]);
        assert_eq!(clocks([0, -3_600]).fit(&ALL), [NodeId(2)]);
        assert_eq!(clocks([50, -3_600]).fit(&ALL), []);
    }

    #[test]
    fn a_quorum_needs_room() {
        let neighbours = clocks([0, 0]);
        let fill = |node| {
            if let Some(heard) = neighbours.heard.write().get_mut(&node) {
                heard.vitals.is_low_on_space = true;
            }
        };
        fill(NodeId(2));
        neighbours.space(&ALL).expect("this one and another have room");
        assert_eq!(neighbours.fit(&ALL), [NodeId(3)]);
        fill(NodeId(3));
        let full = neighbours.space(&ALL).expect_err("only this one has room");
        insta::assert_snapshot!(full, @"2 of its 3 members have to have room, and nodes 2, 3 are low on disk space: free some there, or lower ODGM_FREE_SPACE_RESERVE");
    }
}
