//! What a member of a group is brought up with, and bringing it up.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use odgm_log::body;
use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId};
use openraft::{Config, Raft, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::beating::beat;
use super::comparing;
use super::confirming::{Asker, Reads};
use super::fencing::Fence;
use super::filling::Filler;
use super::group::Group;
use super::hearing::{Silence, listen};
use super::incoming::Incoming;
use super::log::Log;
use super::machine::{Machine, Place};
use super::network::Peers;
use super::proposing::{Proposer, Write};
use super::transfers::Transfers;
use super::types::Types;
use crate::encoding::invalid;
use crate::manager::blocking;
use crate::neighbours::Neighbours;
use crate::proposal::Gate;
use crate::transport::Transport;

/// How quickly members notice that one has gone, or is not as the others are.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a leader that has nothing to say is heard.
    pub heartbeat: Duration,
    /// A follower that hears nothing for the lease, which is the longest, and a time between these two calls an election.
    pub election: (Duration, Duration),
    /// How often replicas are compared.
    pub comparison: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let election = (Duration::from_millis(450), Duration::from_millis(650));
        Self { heartbeat: Duration::from_millis(200), election, comparison: Duration::from_secs(10) }
    }
}

/// What a member of a group is brought up with.
pub(crate) struct Member {
    /// What the partition is called on the command line.
    pub(crate) name: String,
    /// Whether the group goes on from a backup that not all members have from the beginning.
    pub(crate) restored: bool,
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) store: LogStore,
    pub(crate) place: Place,
    pub(crate) transport: Arc<dyn Transport>,
    /// What is known of the other nodes.
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) timing: Timing,
    /// Counts the writes in flight, those of other nodes included.
    pub(crate) gate: Arc<Gate>,
    /// The rules with which the log begins.
    pub(crate) rules: body::Config,
    /// Whether what only the leader can do is passed on to it.
    pub(crate) forward: bool,
    /// Told when the member fails.
    pub(crate) failures: watch::Sender<()>,
    /// Whether it may make the group: then it may be new without being fenced.
    pub(crate) founds: bool,
    /// What all members of the node transfer.
    pub(crate) transfers: Arc<Transfers>,
}

impl Member {
    fn peers(&self, silence: Silence) -> Peers {
        let (transport, transfers) = (Arc::clone(&self.transport), Arc::clone(&self.transfers));
        Peers { transport, group: self.group, node: self.node, silence, transfers }
    }

    fn asker(&self, raft: &Raft<Types, Machine>, log: &Log, machine: &Machine) -> Asker {
        Asker {
            group: self.group,
            node: self.node,
            raft: raft.clone(),
            transport: Arc::clone(&self.transport),
            neighbours: Arc::clone(&self.neighbours),
            forward: self.forward,
            lease: false,
            visible: machine.visible().subscribe(),
            log: log.clone(),
        }
    }

    fn proposer(
        &self,
        raft: &Raft<Types, Machine>,
        log: &Log,
        machine: &Machine,
        queue: mpsc::WeakUnboundedSender<Write>,
    ) -> io::Result<Proposer> {
        let next = AtomicU64::new(getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?);
        Ok(Proposer {
            group: self.group,
            node: self.node,
            raft: raft.clone(),
            log: log.clone(),
            machine: machine.clone(),
            neighbours: Arc::clone(&self.neighbours),
            transport: Arc::clone(&self.transport),
            forward: self.forward,
            rules: self.rules.clone(),
            next,
            queue,
        })
    }
}

impl Group {
    /// Brings the member up. It takes part as soon as the group has been [initialised](Self::initialize) somewhere.
    pub(crate) async fn start(member: Member) -> io::Result<Arc<Self>> {
        let (id, node, timing) = (member.group, member.node, member.timing);
        let snapshots = member.place.snapshots.clone();
        let incoming = Arc::new(Incoming::new(&snapshots, Arc::clone(&member.transfers)));
        let (log, machine) = open(member.store.clone(), id, member.place.clone()).await?;
        let fence = Fence::new(!member.founds && log.is_new());
        let silence = Silence::default();
        let peers = member.peers(silence.clone());
        let config = Arc::new(config(id, timing)?);
        let raft = Raft::new(node.0, config, peers, log.clone(), machine.clone());
        let raft = raft.await.map_err(io::Error::other)?;
        let mut tasks = vec![
            tokio::spawn(listen(raft.clone(), silence, timing.election.1)),
            tokio::spawn(beat(raft.clone(), timing.heartbeat)),
        ];
        let reads = reads(&member.asker(&raft, &log, &machine), &mut tasks);
        // Bounded by the gate, through which every write has come.
        let (writes, queue) = mpsc::unbounded_channel();
        tasks.push(tokio::spawn(member.proposer(&raft, &log, &machine, writes.downgrade())?.run(queue)));
        tokio::spawn(tell_failure(machine.failure(), member.failures));
        let group = Arc::new(Self {
            name: member.name,
            restored: member.restored,
            founds: member.founds,
            id,
            node,
            store: member.store,
            transport: member.transport,
            divergence: watch::Sender::new(None),
            raft,
            machine,
            log,
            rules: member.rules,
            neighbours: member.neighbours,
            incoming,
            transfers: member.transfers,
            fence,
            gate: member.gate,
            writes,
            reads,
            arrived: Mutex::default(),
            closed: Mutex::default(),
            tasks: Mutex::new(tasks),
            runtime: Handle::current(),
        });
        group.keep(tokio::spawn(comparing::run(Arc::downgrade(&group), timing.comparison)));
        group.keep(tokio::spawn(group.filler(snapshots).run()));
        Ok(group)
    }

    fn filler(&self, snapshots: PathBuf) -> Filler {
        let (raft, machine, store) = (self.raft.clone(), self.machine.clone(), self.store.clone());
        let (group, node, transfers) = (self.id, self.node, Arc::clone(&self.transfers));
        let transport = Arc::clone(&self.transport);
        Filler { group, node, raft, machine, store, transport, transfers, snapshots }
    }
}

/// The reads by quorum, and those by lease.
fn reads(asker: &Asker, tasks: &mut Vec<JoinHandle<()>>) -> [Reads; 2] {
    [false, true].map(|lease| {
        let (reads, task) = Reads::start(Asker { lease, ..asker.clone() });
        tasks.push(task);
        reads
    })
}

/// Opens the log and the view of a member.
async fn open(store: LogStore, id: GroupId, place: Place) -> io::Result<(Log, Machine)> {
    blocking(move || {
        let log = Log::open(store, id)?;
        let machine = Machine::open(log.clone(), place)?;
        Ok((log, machine))
    })
    .await
}

/// Tells when a member has failed.
async fn tell_failure(mut failure: watch::Receiver<Option<String>>, failures: watch::Sender<()>) {
    // An error says that the member has gone, and not failed.
    if failure.wait_for(Option::is_some).await.is_ok() {
        failures.send_replace(());
    }
}

fn config(id: GroupId, timing: Timing) -> io::Result<Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: format!("group {id}"),
        // Groups beat by a clock of ours, see `beating`. What openraft takes from this is how often each group wakes up to look
        // at its timers, a fifth of it, and how long it waits for an answer to entries: so it is as long as may be.
        heartbeat_interval: millis(timing.election.0).saturating_sub(1),
        election_timeout_min: millis(timing.election.0),
        election_timeout_max: millis(timing.election.1),
        enable_pre_vote: Some(true),
        // A leader that comes back asks for votes again: what it knew to be committed is not kept.
        enable_leader_restore: Some(false),
        // Snapshots and purging are ours to ask for.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    config.validate().map_err(invalid)
}
