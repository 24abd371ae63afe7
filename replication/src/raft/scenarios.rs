//! Stories of a group of three in one process, on real logs and views, over a network that fails on request.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use odgm_log::body::{Config, SetValues, Value};
use odgm_log::store::{LogStore, Options, ReadLimit};
use odgm_log::{Body, Cause, GroupId, NodeId, Offset, Payload, Term};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Applied, Header};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{oneshot, watch};

use super::group::Group;
use super::groups::Groups;
use super::machine::Place;
use super::starting::{Member, Timing};
use super::transfers::Transfers;
use crate::limits::Limits;
use crate::neighbours::Neighbours;
use crate::proposal::{Answer, Gate, Proposal, ProposeError, Reply};
use crate::reading::{Consistency, ReadError};
use crate::replicator::Replicator as _;
use crate::transport::memory::{Network, Weather};

pub(super) const GROUP: GroupId = GroupId(5);

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Three nodes, each with its directory; nodes can go away and come back.
pub(super) struct Cluster {
    dir: tempfile::TempDir,
    network: Network,
    members: BTreeMap<NodeId, Node>,
    gate: Arc<Gate>,
    /// Whether nodes pass on to the leader what only it can do.
    forward: bool,
    /// The rules with which the log begins.
    rules: Config,
}

struct Node {
    group: Arc<Group>,
    store: LogStore,
    transfers: Arc<Transfers>,
}

/// All of a small log.
const WHOLE: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

impl Cluster {
    pub(super) async fn start(seed: u64) -> Self {
        Self::start_with(seed, false, Config::default()).await
    }

    /// As [`Self::start`], of nodes that pass on to the leader what only it can do.
    pub(super) async fn start_forwarding(seed: u64) -> Self {
        Self::start_with(seed, true, Config::default()).await
    }

    /// As [`Self::start`], of a partition that begins with other rules than the usual ones.
    pub(super) async fn start_by(seed: u64, rules: Config) -> Self {
        Self::start_with(seed, false, rules).await
    }

    async fn start_with(seed: u64, forward: bool, rules: Config) -> Self {
        let cluster = Self::begin_all(seed, forward, rules).await;
        cluster.group(NodeId(1)).initialize(&ALL).await.expect("initialised");
        cluster
    }

    /// Three nodes of which none has made the group yet.
    pub(super) async fn begin_all(seed: u64, forward: bool, rules: Config) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let gate = Gate::new(Limits::default());
        let (network, members) = (Network::new(seed), BTreeMap::new());
        let mut cluster = Self { dir, network, members, gate, forward, rules };
        for node in ALL {
            cluster.begin(node).await;
        }
        cluster
    }

    /// Where a node's files are.
    pub(super) fn dir_of(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    /// Starts a node on its directory, and lets the others reach it.
    pub(super) async fn begin(&mut self, node: NodeId) {
        self.begin_as(node, ALL.contains(&node), false).await;
    }

    /// The same, for a node that may make the group or must not, and a group that goes on from a backup or does not.
    pub(super) async fn begin_as(&mut self, node: NodeId, founds: bool, restored: bool) {
        let dir = self.dir_of(node);
        let options = Options { free_space_reserve: 0, ..Options::default() };
        let store = LogStore::open(&dir.join("log"), options).expect("a log store");
        let place = Place {
            engine: Engine::RocksDb,
            views: dir.join("views"),
            snapshots: dir.join("snapshots"),
            resources: Resources::default(),
        };
        let transfers = Arc::<Transfers>::default();
        let member = Member {
            restored,
            name: "demo/0".to_owned(),
            group: GROUP,
            node,
            store: store.clone(),
            place,
            transport: Arc::new(self.network.endpoint(node)),
            neighbours: Arc::new(Neighbours::none(node)),
            timing: Timing { comparison: Duration::from_millis(200), ..Timing::default() },
            gate: Arc::clone(&self.gate),
            rules: self.rules.clone(),
            forward: self.forward,
            failures: watch::Sender::new(()),
            transfers: Arc::clone(&transfers),
            founds,
        };
        let group = Group::start(member).await.expect("a member");
        let groups = Arc::new(Groups::default());
        groups.add(Arc::clone(&group));
        self.network.join(node, groups);
        self.members.insert(node, Node { group, store, transfers });
    }

    /// Removes what a node that has ended has on disk.
    pub(super) fn wipe(&self, node: NodeId) {
        std::fs::remove_dir_all(self.dir_of(node)).expect("removed");
    }

    /// Ends a node; what it has on disk stays.
    pub(super) async fn end(&mut self, node: NodeId) {
        self.network.leave(node);
        if let Some(Node { group, store, .. }) = self.members.remove(&node) {
            group.shutdown().await;
            store.close().expect("closed");
        }
    }

    pub(super) fn group(&self, node: NodeId) -> &Arc<Group> {
        &self.members[&node].group
    }

    /// Proposes a value on one node.
    pub(super) async fn propose(&self, node: NodeId, object: &str, value: &str) -> Answer {
        let body = Body::SetValues(SetValues {
            object: object.into(),
            puts: vec![("k".into(), Value::bytes(value.to_owned()))],
            deletes: Vec::new(),
            expected_version: None,
        });
        self.propose_body(node, body).await
    }

    pub(super) async fn propose_body(&self, node: NodeId, body: Body) -> Answer {
        self.propose_in(None, node, body).await
    }

    /// Proposes on one node, only if it leads in that term where one is named.
    pub(super) async fn propose_in(&self, term: Option<Term>, node: NodeId, body: Body) -> Answer {
        let payload = Payload { cause: Cause::default(), body };
        let (kind, encoded) = payload.encode().expect("a record");
        let admission = self.gate.admit(encoded.len(), true).expect("room");
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Channel(sender);
        let needs_room = true;
        let until = None;
        self.group(node).propose(Proposal {
            payload,
            kind,
            encoded,
            needs_room,
            until,
            term,
            reply,
            admission,
        });
        answer.await.expect("every proposal is answered")
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// The newest term that a node knows.
    pub(super) fn term(&self, node: NodeId) -> u64 {
        self.group(node).raft().metrics().borrow_watched().current_term
    }

    /// Who leads as all of `nodes` see it, once they agree.
    pub(super) async fn leader_of(&self, nodes: &[NodeId]) -> NodeId {
        patiently(async {
            loop {
                let mut leaders = Vec::new();
                for node in nodes {
                    leaders.push(self.group(*node).leader());
                }
                if let Some(leader) = leaders[0]
                    && nodes.contains(&leader)
                    && leaders.iter().all(|other| *other == Some(leader))
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Lets one of `nodes` lead.
    pub(super) async fn lead(&self, nodes: &[NodeId], node: NodeId) {
        patiently(async {
            loop {
                let leader = self.leader_of(nodes).await;
                if leader == node {
                    return;
                }
                self.group(leader).raft().trigger().transfer_leader(node.0).await.expect("the member runs");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Writes on whoever of `nodes` leads, until it is acknowledged. A write that may have been applied is not repeated.
    pub(super) async fn write(&self, nodes: &[NodeId], object: &str, value: &str) -> Option<Applied> {
        patiently(async {
            loop {
                let leader = self.leader_of(nodes).await;
                match self.propose(leader, object, value).await {
                    Ok(applied) => return Some(applied),
                    Err(error) if error.not_applied() => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(_) => return None,
                }
            }
        })
        .await
    }

    /// Waits until a node has applied a record.
    pub(super) async fn applied(&self, node: NodeId, offset: Offset) -> Header {
        let mut metrics = self.group(node).raft().metrics();
        patiently(async {
            while self.group(node).view().header().applied < offset {
                metrics.changed().await.expect("the member runs");
            }
        })
        .await;
        self.group(node).view().header()
    }

    /// The last offset in the log of a node.
    pub(super) fn last(&self, node: NodeId) -> Offset {
        self.members[&node].store.bounds(GROUP).last
    }

    /// Waits until a node has all records from the first on.
    async fn is_whole(&self, node: NodeId) {
        patiently(async {
            while self.members[&node].store.bounds(GROUP).first > Offset(1) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    pub(super) async fn confirm(&self, node: NodeId, consistency: Consistency) -> Result<(), ReadError> {
        self.group(node).confirm(consistency).expect("replicas have to be asked").await
    }

    pub(super) fn value(&self, node: NodeId, object: &str) -> Option<String> {
        let value = self.group(node).view().value(object, "k").expect("readable").value?;
        Some(String::from_utf8(value.data.into()).expect("text"))
    }

    /// Checks that all nodes have the same records and the same rows up to an offset.
    pub(super) async fn expect_equal(&self, through: Offset) {
        let mut seen = Vec::new();
        for (node, member) in &self.members {
            let header = self.applied(*node, through).await;
            let mut dump = Vec::new();
            member.group.view().dump(&mut dump).expect("a dump");
            let chain = member.store.chain_at(GROUP, header.applied).expect("in the log");
            assert_eq!(chain, header.chain, "node {node}: the view is of this log");
            assert_eq!(*member.group.told().borrow(), None, "a false alarm on node {node}");
            seen.push((
                *node,
                header.applied,
                header.chain,
                header.state,
                String::from_utf8(dump).expect("text"),
            ));
        }
        for pair in seen.windows(2) {
            let ((_, at, chain, state, dump), (_, other_at, other_chain, other_state, other_dump)) =
                (&pair[0], &pair[1]);
            assert_eq!((at, chain, state), (other_at, other_chain, other_state));
            assert_eq!(dump, other_dump);
        }
    }
}

pub(super) async fn patiently<T>(story: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, story).await.expect("it comes about before patience ends")
}

pub(super) const ALL: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

pub(super) fn others(node: NodeId) -> Vec<NodeId> {
    ALL.into_iter().filter(|other| *other != node).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_quorum_has_is_on_every_node() {
    let cluster = Cluster::start(1).await;
    let leader = cluster.leader_of(&ALL).await;
    let mut last = Offset::ZERO;
    for n in 0..200 {
        let applied =
            cluster.propose(leader, &format!("o{}", n % 7), &n.to_string()).await.expect("acknowledged");
        assert!(applied.offset > last, "in order");
        last = applied.offset;
    }
    assert_eq!(
        cluster.value(leader, "o3"),
        Some("199".into()),
        "acknowledged is applied where it was answered"
    );
    let read = cluster.group(leader).linearizable().await.expect("the leader reads");
    assert!(read >= last, "{read} >= {last}");
    cluster.expect_equal(last).await;

    let follower = others(leader)[0];
    let refused = cluster.propose(follower, "o1", "elsewhere").await.expect_err("it does not lead");
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(leader) });
    assert!(refused.not_applied());
    assert!(cluster.group(follower).linearizable().await.is_err(), "nor does it read for itself");
    let members = cluster.group(follower).view().members().expect("readable").expect("a record says so");
    assert_eq!(members.membership.voters, [ALL.to_vec()]);
    assert_eq!(members.offset, Offset(1), "the group begins with its members");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_writes_and_confirms_reads() {
    let mut cluster = Cluster::start_forwarding(5).await;
    let leader = cluster.leader_of(&ALL).await;
    let mut last = Offset::ZERO;
    for n in 0..60 {
        let applied = cluster.propose(ALL[n % 3], "o", &n.to_string()).await.expect("acknowledged");
        assert!(applied.offset > last, "in order");
        last = applied.offset;
        for consistency in [Consistency::Linearizable, Consistency::Lease] {
            let reader = ALL[(n + 1) % 3];
            cluster.confirm(reader, consistency).await.expect("confirmed");
            assert_eq!(cluster.value(reader, "o"), Some(n.to_string()), "on node {reader}");
        }
    }
    let follower = others(leader)[0];
    cluster.end(leader).await;
    let rest = others(leader);
    cluster.propose(follower, "o", "after").await.expect("it waits for the new leader");
    cluster.confirm(rest[1], Consistency::Linearizable).await.expect("confirmed");
    assert_eq!(cluster.value(rest[1], "o"), Some("after".into()));

    cluster.end(rest[1]).await;
    let refused = cluster.confirm(follower, Consistency::Linearizable).await.expect_err("no quorum");
    assert!(matches!(refused, ReadError::NoLeader | ReadError::Unconfirmed { .. }), "{refused}");
    assert_eq!(cluster.value(follower, "o"), Some("after".into()), "what it has can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_leader_loses_nothing_and_its_last_words_do_not_count() {
    let mut cluster = Cluster::start(2).await;
    let old = cluster.leader_of(&ALL).await;
    for n in 0..50 {
        cluster.propose(old, "before", &n.to_string()).await.expect("acknowledged");
    }
    cluster.network.isolate(old);
    let alone = cluster.propose(old, "alone", "never");
    let elsewhere = async {
        let rest = others(old);
        let applied = cluster.write(&rest, "after", "the new leader's").await;
        cluster.network.heal();
        applied
    };
    let (alone, elsewhere) = tokio::join!(alone, elsewhere);
    let alone = alone.expect_err("no quorum has it");
    let elsewhere = elsewhere.expect("acknowledged");
    let last = cluster.write(&ALL, "after", "all together").await.expect("acknowledged").offset;
    assert!(last > elsewhere.offset);
    cluster.expect_equal(last).await;
    for node in ALL {
        assert_eq!(cluster.value(node, "before"), Some("49".into()));
        assert_eq!(cluster.value(node, "alone"), None, "answered with: {alone}");
        assert_eq!(cluster.value(node, "after"), Some("all together".into()));
    }
    assert!(cluster.network.faults().cut > 0, "the link was cut while somebody used it");

    for node in ALL {
        cluster.end(node).await;
    }
    for node in ALL {
        cluster.begin(node).await;
    }
    let last = cluster.write(&ALL, "after", "a night's sleep").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
    assert_eq!(cluster.value(NodeId(2), "before"), Some("49".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_weather_changes_nothing_but_the_time_it_takes() {
    let cluster = Cluster::start(3).await;
    cluster.leader_of(&ALL).await;
    let weather = Weather { delay: Duration::from_millis(15), repeat_one_in: 5, lose_one_in: 40 };
    cluster.network.set_weather(weather);
    let mut acknowledged = Vec::new();
    for n in 0..100 {
        // One that is unknown may be there or not: nothing is said of it.
        if cluster.write(&ALL, &format!("o{n}"), "there").await.is_some() {
            acknowledged.push(format!("o{n}"));
        }
    }
    cluster.network.set_weather(Weather::default());
    let last = cluster.write(&ALL, "end", "there").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
    assert!(acknowledged.len() > 50, "most are acknowledged: {}", acknowledged.len());
    for object in acknowledged {
        assert_eq!(cluster.value(NodeId(1), &object), Some("there".into()), "{object}");
    }
    let faults = cluster.network.faults();
    assert!(faults.lost > 0 && faults.repeated > 0, "{faults:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_for_longer_than_the_log_comes_back_through_a_snapshot() {
    let mut cluster = Cluster::start(4).await;
    let leader = cluster.leader_of(&ALL).await;
    let away = others(leader)[0];
    cluster.propose(leader, "early", "1").await.expect("acknowledged");
    cluster.end(away).await;
    let mut last = Offset::ZERO;
    for n in 0..300 {
        let value = format!("{n}").repeat(100);
        last = cluster.propose(leader, &format!("o{n}"), &value).await.expect("acknowledged").offset;
    }
    let raft = cluster.group(leader).raft().clone();
    raft.trigger().snapshot().await.expect("asked for");
    let at = super::types::index(last).expect("above 0");
    patiently(async {
        let mut metrics = raft.metrics();
        while metrics.borrow_watched().snapshot.is_none_or(|snapshot| snapshot.index < at) {
            metrics.changed().await.expect("the member runs");
        }
        raft.trigger().purge_log(at).await.expect("asked for");
        while metrics.borrow_watched().purged.is_none_or(|purged| purged.index < at) {
            metrics.changed().await.expect("the member runs");
        }
    })
    .await;

    cluster.begin(away).await;
    cluster.applied(away, last).await;
    let counts = cluster.members[&away].transfers.counts();
    assert!(counts.snapshot_bytes_received > 0, "it did not get the records but the snapshot: {counts:?}");
    cluster.is_whole(away).await;
    let store = &cluster.members[&away].store;
    store.verify(GROUP, &mut |_, _| ()).expect("the records before the snapshot are those of the others");
    let (here, there) =
        (store.read(GROUP, Offset(1), WHOLE), cluster.members[&leader].store.read(GROUP, Offset(1), WHOLE));
    let count = usize::try_from(last.0).expect("few");
    assert_eq!(here.expect("readable")[..count], there.expect("readable")[..count]);
    // They are counted after they are there.
    patiently(async {
        while cluster.members[&away].transfers.counts().filled_records < last.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let counts = cluster.members[&away].transfers.counts();
    assert_eq!(counts.filled_records, last.0, "each was fetched once");
    let last = cluster.write(&ALL, "late", "1").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
    assert_eq!(cluster.value(away, "early"), Some("1".into()));
    assert_eq!(cluster.value(away, "o299"), Some("299".repeat(100)));

    cluster.end(away).await;
    cluster.begin(away).await;
    assert!(
        cluster.group(away).view().header().applied >= at_least(last, 1),
        "it starts from what it was given"
    );
    let last = cluster.write(&ALL, "later", "1").await.expect("acknowledged").offset;
    cluster.expect_equal(last).await;
}

/// An offset less a few that a restart may have left to be applied again.
fn at_least(offset: Offset, less: u64) -> Offset {
    Offset(offset.0 - less)
}
