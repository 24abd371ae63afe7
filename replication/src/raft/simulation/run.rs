//! One run: what is done to the nodes and the network, step by step, and how it ends.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use odgm_log::NodeId;
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::Plant;
use super::clients::{Client, Running};
use super::interposed::{self, Random};
use super::world::{World, until};
use crate::raft::types::Peer;
use crate::replicator::Replicator as _;
use crate::transport::memory::Weather;

/// How far time goes when nothing can be done at present.
const TICK: Duration = Duration::from_millis(1);

/// Between two looks at all nodes.
const STEP: Duration = Duration::from_millis(5);

/// How long nodes and network are troubled, in milliseconds.
const TROUBLE: std::ops::Range<u64> = 8_000..30_000;

/// In one of so many steps something happens to them.
const TROUBLE_ONE_IN: u64 = 100;

/// How long it may take until all is well again.
const HEALING: Duration = Duration::from_secs(60);

const CLIENTS: u64 = 3;

/// What came of a run.
pub(super) struct Ended {
    /// What was wrong, if anything was.
    pub(super) violation: Option<String>,
    pub(super) trace: String,
    pub(super) events: u64,
    pub(super) acknowledged: usize,
    pub(super) counts: String,
    pub(super) tail: String,
}

/// Runs a seed on this thread, with its files in a directory.
pub(super) fn run(seed: u64, plant: Option<Plant>, dir: &Path) -> Ended {
    let idle: Arc<Mutex<Option<Waker>>> = Arc::default();
    let ticker = Arc::clone(&idle);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        // Timers are looked at after each task, so that none is later than its time.
        .event_interval(1)
        // Nobody can go on: the next millisecond begins.
        .on_thread_park(move || {
            interposed::advance(TICK);
            if let Some(waker) = &*idle.lock() {
                waker.wake_by_ref();
            }
        })
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        // Woken when nothing else is, it keeps the thread from falling asleep.
        tokio::spawn(poll_fn(move |context| {
            *ticker.lock() = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        Run::new(seed, plant, dir).play().await
    })
}

struct Run {
    world: World,
    running: Running,
    random: Random,
    plant: Option<Plant>,
    /// When nodes that are down begin again.
    returns: VecDeque<(Duration, NodeId)>,
    /// The membership change that is under way.
    changing: Option<JoinHandle<()>>,
}

impl Run {
    fn new(seed: u64, plant: Option<Plant>, dir: &Path) -> Self {
        let mut random = Random::new(seed);
        let world = World::new(seed, dir, 3 + random.below(3), plant);
        Self { world, running: Running::default(), random, plant, returns: VecDeque::new(), changing: None }
    }

    async fn play(mut self) -> Ended {
        let clients = self.begin().await;
        let length = self.random.millis(TROUBLE);
        while interposed::now() < length && self.is_well() {
            self.step().await;
            if self.random.one_in(TROUBLE_ONE_IN) {
                self.trouble().await;
            }
        }
        for client in clients {
            client.abort();
            drop(client.await);
        }
        if self.is_well() {
            self.heal().await;
            self.settle().await;
        }
        let World { oracle, trace, .. } = &self.world;
        if let Some(violation) = oracle.violation() {
            trace.note("violation", violation);
        }
        Ended {
            violation: oracle.violation(),
            trace: trace.hash().to_string(),
            events: trace.events(),
            acknowledged: oracle.acknowledged(),
            counts: trace.counts(),
            tail: trace.tail(),
        }
    }

    fn is_well(&self) -> bool {
        self.world.oracle.violation().is_none()
    }

    async fn begin(&mut self) -> Vec<JoinHandle<()>> {
        let all = self.world.all();
        for node in &all {
            self.world.begin(*node).await;
        }
        // Of four or five nodes some come later.
        let founders = if self.random.one_in(2) { &all[..3] } else { &all[..] };
        if let Some(process) = self.world.process(all[0]) {
            process.group.initialize(founders).await.expect("initialised");
        }
        self.note_running();
        let clients = (1..=CLIENTS).map(|number| self.client(number).run());
        clients.collect::<Vec<_>>().into_iter().map(tokio::spawn).collect()
    }

    fn client(&mut self, number: u64) -> Client {
        let World { oracle, trace, gate, .. } = &self.world;
        Client {
            number,
            random: Random::new(self.random.next()),
            running: Arc::clone(&self.running),
            oracle: oracle.clone(),
            trace: trace.clone(),
            gate: Arc::clone(gate),
            plant: self.plant,
        }
    }

    /// Clients learn which nodes run.
    fn note_running(&self) {
        let running = self.world.running().into_iter();
        *self.running.lock() = running.filter_map(|node| Some((node, self.world.process(node)?))).collect();
    }

    async fn step(&mut self) {
        tokio::time::sleep(STEP).await;
        self.world.check();
        while self.returns.front().is_some_and(|(when, _)| *when <= interposed::now()) {
            if let Some((_, node)) = self.returns.pop_front() {
                self.world.begin(node).await;
                self.note_running();
            }
        }
    }

    /// Something happens to somebody.
    async fn trouble(&mut self) {
        if self.plant == Some(Plant::LyingDisk) && self.random.one_in(3) {
            self.world.write_in_truth();
        }
        match self.random.below(20) {
            0 | 1 => self.crash_one(),
            2 => self.crash_leader(),
            3 if self.random.one_in(2) => self.crash_all(),
            4 | 5 => self.isolate(),
            6 | 7 => self.cut_one_way(),
            8 | 9 => self.change_weather(),
            10 | 11 => self.hand_over().await,
            12 | 13 => self.snapshot(),
            14 | 15 => self.change_members(),
            _ => self.mend(),
        }
    }

    fn crash(&mut self, node: NodeId) {
        self.world.crash(node);
        self.note_running();
        let back = interposed::now() + self.random.millis(20..4_000);
        let at = self.returns.partition_point(|(when, _)| *when <= back);
        self.returns.insert(at, (back, node));
    }

    fn crash_one(&mut self) {
        if let Some(node) = self.random.pick(&self.world.running()) {
            self.crash(node);
        }
    }

    fn crash_leader(&mut self) {
        if let Some((node, _)) = self.world.leader() {
            self.crash(node);
        }
    }

    fn crash_all(&mut self) {
        for node in self.world.running() {
            self.crash(node);
        }
    }

    fn isolate(&mut self) {
        let leader = self.world.leader().map(|(node, _)| node);
        let anybody = self.random.pick(&self.world.all());
        let Some(node) = leader.filter(|_| self.random.one_in(2)).or(anybody) else { return };
        self.world.trace.note("isolate", node);
        self.world.network.isolate(node);
    }

    fn cut_one_way(&mut self) {
        let all = self.world.all();
        if let (Some(from), Some(to)) = (self.random.pick(&all), self.random.pick(&all)) {
            self.world.trace.note("cut", format_args!("{from}>{to}"));
            self.world.network.cut(from, to);
        }
    }

    fn change_weather(&mut self) {
        let weather = Weather {
            delay: self.random.millis(0..60),
            repeat_one_in: self.random.below(8),
            lose_one_in: self.random.below(40),
        };
        self.world.trace.note("weather", format_args!("{weather:?}"));
        self.world.network.set_weather(weather);
    }

    fn mend(&self) {
        self.world.trace.note("mend", "");
        self.world.network.heal();
    }

    async fn hand_over(&mut self) {
        let (leader, to) = (self.world.leader(), self.random.pick(&self.world.all()));
        if let (Some((node, process)), Some(to)) = (leader, to) {
            self.world.trace.note("hand-over", format_args!("{node} to {to}"));
            drop(process.group.raft().trigger().transfer_leader(to.0).await);
        }
    }

    /// Somebody takes a snapshot, and forgets what is in it.
    fn snapshot(&mut self) {
        let node = self.random.pick(&self.world.running());
        let leader = self.world.leader().map(|(node, _)| node).filter(|_| self.random.one_in(2));
        let Some(node) = leader.or(node) else { return };
        let Some(process) = self.world.process(node) else { return };
        self.world.trace.note("purge", node);
        tokio::spawn(async move {
            let raft = process.group.raft();
            let Some(at) = crate::raft::types::index(process.group.view().header().applied) else { return };
            let mut metrics = raft.data_metrics();
            let taken = async {
                raft.trigger().snapshot().await.ok()?;
                while metrics.borrow_and_update().snapshot.is_none_or(|taken| taken.index < at) {
                    metrics.changed().await.ok()?;
                }
                raft.trigger().purge_log(at).await.ok()
            };
            drop(tokio::time::timeout(Duration::from_secs(5), taken).await);
        });
    }

    /// Adds a node, or lets others vote.
    fn change_members(&mut self) {
        if self.changing.as_ref().is_some_and(|changing| !changing.is_finished()) {
            return;
        }
        let Some((_, process)) = self.world.leader() else { return };
        let all = self.world.all();
        let mut voters: BTreeSet<NodeId> = self.world.members();
        let Some(node) = self.random.pick(&all) else { return };
        if !voters.remove(&node) {
            voters.insert(node);
        }
        if voters.len() < 2 {
            return;
        }
        self.world.trace.note("change", format_args!("{voters:?}"));
        let trace = self.world.trace.clone();
        self.changing = Some(tokio::spawn(async move {
            let raft = process.group.raft().clone();
            let change = async {
                if voters.contains(&node) {
                    raft.add_learner(node.0, Peer, false).await.ok()?;
                }
                let ids: BTreeSet<u64> = voters.iter().map(|voter| voter.0).collect();
                raft.change_membership(ids, false).await.ok()
            };
            // Only what was committed counts as a change.
            if let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(8), change).await {
                trace.note("members", format_args!("{voters:?}"));
            }
        }));
    }

    /// All is mended, and everybody begins again.
    async fn heal(&mut self) {
        self.world.trace.note("heal", "");
        self.world.network.heal();
        self.world.network.set_weather(Weather::default());
        self.returns.clear();
        for node in self.world.down() {
            self.world.begin(node).await;
        }
        self.note_running();
    }

    /// In the end writes are taken again, members agree, and all that was acknowledged is there.
    async fn settle(&mut self) {
        let since = interposed::now();
        let last = loop {
            self.step().await;
            if !self.is_well() {
                return;
            }
            if interposed::now() - since > HEALING {
                let what = "progress: nothing is acknowledged long after all was mended";
                return self.world.oracle.violated(what.to_owned());
            }
            let Some((node, process)) = self.world.leader() else { continue };
            let write = 9_000_000 + self.random.below(1_000_000);
            if let Some(last) = self.client(9).write(node, &process, write, false).await {
                break last;
            }
        };
        // Asked anew each time: whom a change that is still under way removes, that one learns no more.
        let members = || {
            let members = self.world.members().into_iter();
            members.filter_map(|node| self.world.process(node)).collect::<Vec<_>>()
        };
        let applied =
            || members().iter().map(|member| member.group.view().header().applied).collect::<Vec<_>>();
        let equal = until(HEALING, || {
            let applied = applied();
            applied.first().is_some_and(|first| *first >= last && applied.iter().all(|other| other == first))
        });
        if !equal.await {
            let what =
                format!("progress: members are at {:?}, long after {last} was acknowledged", applied());
            return self.world.oracle.violated(what);
        }
        let members = members();
        self.world.check();
        let objects = self.world.oracle.finish();
        for member in &members {
            for (object, writes) in &objects {
                let found = member.group.view().object(object).expect("readable");
                let version = found.map_or(0, |found| found.version);
                if version != writes.len() as u64 {
                    self.world.oracle.violated(format!(
                        "{object} is at version {version} after {} writes, each of which counts once",
                        writes.len()
                    ));
                }
            }
            let mut dump = Vec::new();
            member.group.view().dump(&mut dump).expect("a dump");
            self.world.trace.note("dump", blake3::hash(&dump));
        }
    }
}
