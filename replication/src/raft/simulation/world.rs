//! The nodes of a simulation, on real logs and views, and the network between them.
//!
//! A node's process is its member of the group. When it crashes, what the disk has at that moment is copied, and it starts
//! from the copy: the log store keeps in memory what is not synced, so that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::Config;
use odgm_log::store::{LogStore, Options};
use odgm_log::{NodeId, Term};
use odgm_projections::storage::{Engine, Resources};
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::VoteRequest;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::interposed::Random;
use super::oracle::{Oracle, Seen};
use super::trace::Trace;
use super::{GROUP, Plant};
use crate::limits::Limits;
use crate::neighbours::Neighbours;
use crate::proposal::Gate;
use crate::raft::group::Group;
use crate::raft::groups::Groups;
use crate::raft::machine::Place;
use crate::raft::messages::Request;
use crate::raft::notes::VOTE;
use crate::raft::starting::{Member, Timing};
use crate::raft::types::{LogId, Types};
use crate::replicator::Replicator as _;
use crate::transport::memory::Network;

/// All that there is.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) network: Network,
    pub(super) oracle: Oracle,
    pub(super) trace: Trace,
    pub(super) gate: Arc<Gate>,
    nodes: BTreeMap<NodeId, Node>,
    plant: Option<Plant>,
}

/// A node, whether it runs or not.
struct Node {
    /// Where its directories are: one for each time it began.
    dir: PathBuf,
    begun: u32,
    process: Option<Process>,
    /// What its vote was when it crashed.
    vote: Option<Bytes>,
}

/// A node that runs.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) group: Arc<Group>,
    store: LogStore,
    /// Cancelled when it crashes: what it answers then, nobody hears.
    pub(super) crashed: CancellationToken,
    disk: Arc<JoinHandle<()>>,
}

impl World {
    pub(super) fn new(seed: u64, dir: &Path, nodes: u64, plant: Option<Plant>) -> Self {
        let (network, oracle, trace) = (Network::new(seed), Oracle::default(), Trace::default());
        let (watching, noting) = (oracle.clone(), trace.clone());
        network.tap(Arc::new(move |from, to, _, request| {
            observe(&watching, &noting, (from, to), plant, request)
        }));
        let node = |node: u64| {
            let dir = dir.join(node.to_string());
            (NodeId(node), Node { dir, begun: 0, process: None, vote: None })
        };
        let (random, gate) = (Random::new(seed ^ 0xd15c), Gate::new(Limits::default()));
        Self { random, network, oracle, trace, gate, nodes: (1..=nodes).map(node).collect(), plant }
    }

    pub(super) fn all(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(id, _)| *id).collect()
    }

    pub(super) fn down(&self) -> Vec<NodeId> {
        self.nodes.iter().filter(|(_, node)| node.process.is_none()).map(|(id, _)| *id).collect()
    }

    pub(super) fn process(&self, node: NodeId) -> Option<Process> {
        self.nodes.get(&node)?.process.clone()
    }

    /// A node that believes that it leads; of several, the one with the newest term.
    pub(super) fn leader(&self) -> Option<(NodeId, Process)> {
        let leaders = self.nodes.iter().filter_map(|(id, node)| {
            let process = node.process.clone()?;
            Some((process.leads()?, *id, process))
        });
        leaders.max_by_key(|(term, ..)| *term).map(|(_, id, process)| (id, process))
    }

    /// Starts a node on what its disk has.
    pub(super) async fn begin(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.process.is_none()) else { return };
        self.trace.note("begin", id);
        let dir = node.dir.join(node.begun.to_string());
        let options = Options { free_space_reserve: 0, sync_thread: false, ..Options::default() };
        let store = match LogStore::open(&dir.join("log"), options) {
            Ok(store) => store,
            Err(error) => return self.oracle.violated(format!("node {id} does not open its log: {error}")),
        };
        match (self.plant, &node.vote) {
            (Some(Plant::ForgottenVote), Some(_)) => store.delete_meta(GROUP, VOTE).expect("forgotten"),
            // The disk lies of records only, so that it is their loss that shows.
            (Some(Plant::LyingDisk), Some(vote)) => store.put_meta(GROUP, VOTE, vote).expect("kept"),
            _ => {}
        }
        let place = Place {
            engine: Engine::Memory,
            views: dir.join("views"),
            snapshots: dir.join("snapshots"),
            resources: Resources::default(),
        };
        let member = Member {
            restored: false,
            name: "demo/0".to_owned(),
            group: GROUP,
            node: id,
            store: store.clone(),
            place,
            transport: Arc::new(self.network.endpoint(id)),
            neighbours: Arc::new(Neighbours::none(id)),
            timing: Timing { comparison: Duration::from_secs(1), ..Timing::default() },
            gate: Arc::clone(&self.gate),
            rules: Config::default(),
            forward: true,
            failures: watch::Sender::new(()),
            transfers: Arc::default(),
            founds: true,
        };
        let group = match Group::start(member).await {
            Ok(group) => group,
            Err(error) => return self.oracle.violated(format!("node {id} does not start: {error}")),
        };
        let groups = Arc::new(Groups::default());
        groups.add(Arc::clone(&group));
        self.network.join(id, groups);
        let disk = tokio::spawn(sync_now_and_then(store.clone(), Random::new(self.random.next())));
        let (crashed, disk) = (CancellationToken::new(), Arc::new(disk));
        node.process = Some(Process { group, store, crashed, disk });
    }

    /// Ends a node's process between two steps, as a power cut does.
    pub(super) fn crash(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(Process { group, store, crashed, disk }) = node.process.take() else { return };
        self.trace.note("crash", id);
        self.network.leave(id);
        disk.abort();
        crashed.cancel();
        self.oracle.crashed(id);
        node.vote = store.get_meta(GROUP, VOTE).expect("readable");
        let shadow = node.dir.join("shadow");
        let from = if shadow.exists() { shadow.clone() } else { node.dir.join(node.begun.to_string()) };
        node.begun += 1;
        copy(&from, &node.dir.join(node.begun.to_string())).expect("copied");
        if shadow.exists() {
            fs::remove_dir_all(shadow).expect("removed");
        }
        // What is left of the process is cut off from everything.
        tokio::spawn(async move { group.shutdown().await });
    }

    /// Of a disk that lies: what it has written in truth by now.
    pub(super) fn write_in_truth(&mut self) {
        for node in self.nodes.values().filter(|node| node.process.is_some()) {
            let shadow = node.dir.join("shadow");
            if shadow.exists() {
                fs::remove_dir_all(&shadow).expect("removed");
            }
            copy(&node.dir.join(node.begun.to_string()), &shadow).expect("copied");
        }
    }

    /// Looks at all nodes.
    pub(super) fn check(&self) {
        for (id, node) in &self.nodes {
            let Some(process) = &node.process else { continue };
            if process.group.has_failed() {
                let failure = process.group.failure();
                self.oracle.violated(format!("node {id} has failed: {failure:?}"));
            }
            if let Some(divergence) = process.group.told().borrow().clone() {
                self.oracle.violated(format!("node {id} was told that {divergence}"));
            }
            let (header, leads) = (process.group.view().header(), process.leads());
            self.oracle.look(&Seen { node: *id, header, store: &process.store, leads });
        }
    }

    /// Who votes, as the leader has it.
    pub(super) fn members(&self) -> BTreeSet<NodeId> {
        self.leader().map(|(_, process)| process.group.standing().members.voters).unwrap_or_default()
    }
}

impl Process {
    /// The term that it leads, as it believes.
    pub(super) fn leads(&self) -> Option<Term> {
        let metrics = self.group.raft().metrics();
        let metrics = metrics.borrow_watched();
        metrics.state.is_leader().then_some(Term(metrics.current_term))
    }
}

/// The disk of a node: what was appended becomes durable after a while.
async fn sync_now_and_then(store: LogStore, mut random: Random) {
    let slowest = 2 + random.below(20);
    loop {
        tokio::time::sleep(random.millis(1..slowest + 1)).await;
        store.sync().expect("the disk works");
    }
}

/// Sees each request on its way, and changes those that a planted bug is about.
fn observe(
    oracle: &Oracle,
    trace: &Trace,
    (from, to): (NodeId, NodeId),
    plant: Option<Plant>,
    bytes: Bytes,
) -> Bytes {
    let request = match Request::decode(GROUP, bytes.clone()) {
        Ok(request) => request,
        Err(error) => {
            oracle.violated(format!("node {from} sent node {to} what cannot be read: {error}"));
            return bytes;
        }
    };
    let kind = match &request {
        Request::Append(append) => {
            oracle.leads(from, Term(append.vote.leader_id.term));
            if append.entries.is_empty() { "heartbeat" } else { "append" }
        }
        Request::Vote(_) => "vote",
        Request::PreVote(_) => "pre-vote",
        Request::Transfer(_) => "transfer",
        Request::Snapshot { .. } | Request::Piece { .. } | Request::Install { .. } => "snapshot",
        Request::Propose { .. } => "propose",
        Request::Confirm { .. } => "confirm",
        Request::Lead => "lead",
        Request::Compare { .. } | Request::Chain { .. } => "compare",
        Request::Links { .. }
        | Request::Records { .. }
        | Request::Base { .. }
        | Request::BasePiece { .. } => "fill",
    };
    trace.note(kind, format_args!("{from}>{to}"));
    match (plant, request) {
        (Some(Plant::BlindVote), Request::Vote(mut vote)) => {
            blind(&mut vote);
            Request::Vote(vote).encode(GROUP).unwrap_or(bytes)
        }
        (Some(Plant::BlindVote), Request::PreVote(mut vote)) => {
            blind(&mut vote);
            Request::PreVote(vote).encode(GROUP).unwrap_or(bytes)
        }
        _ => bytes,
    }
}

/// Makes a candidate's log look longer than any. Not where it is where logs begin: who has nothing votes only there.
fn blind(vote: &mut VoteRequest<Types>) {
    if vote.last_log_id.is_some_and(|last| last.index > 0) {
        vote.last_log_id = Some(LogId::new_term_index(vote.vote.leader_id.term, u64::MAX / 2));
    }
}

/// Copies a directory as it stands.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&from, &to)?;
        } else {
            match fs::copy(&from, &to) {
                // A file that was just being replaced.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                copied => drop(copied?),
            }
        }
    }
    Ok(())
}

/// Waits until something is so, looking every few milliseconds.
pub(super) async fn until(within: Duration, mut reached: impl FnMut() -> bool) -> bool {
    let looking = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(within, looking).await.is_ok()
}
