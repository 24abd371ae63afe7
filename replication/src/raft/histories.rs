//! What concurrent clients see while nodes are cut off and messages are lost is linearizable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use odgm_linearizability::object::{Input, Object, Output};
use odgm_linearizability::{Operation, Verdict, check};
use odgm_log::body::{Delete, SetValues, Value};
use odgm_log::{Body, NodeId, Offset};
use odgm_projections::Outcome;
use parking_lot::Mutex;

use super::scenarios::{ALL, Cluster};
use crate::replicator::Replicator as _;
use crate::transport::memory::Weather;

type Done = Operation<Input, Output>;

const OBJECTS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: u64 = 4;
const LENGTH: Duration = Duration::from_secs(15);

/// How long a client waits for an answer: shorter than a node is cut off, so that some never learn what came of a write.
const PATIENCE: Duration = Duration::from_millis(500);

/// Steps that the search may take for one object before it gives up, which is no pass.
const STEPS: usize = 20_000_000;

struct Run {
    cluster: Cluster,
    /// Whether nodes pass on to the leader what only it can do.
    forward: bool,
    begun: Instant,
    over: AtomicBool,
    /// Values are never written twice, so that a read tells which write it saw.
    values: AtomicU64,
    histories: [Mutex<Vec<Done>>; OBJECTS.len()],
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

impl Run {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One client: asks anybody where nodes pass requests on, else whom it believes to lead.
    async fn client(self: Arc<Self>, mut random: Random) {
        let mut seen = [0; OBJECTS.len()];
        while !self.over.load(Ordering::Relaxed) {
            let node = ALL[usize::try_from(random.below(3)).unwrap_or(0)];
            let leader = self.cluster.group(node).leader().filter(|_| !self.forward);
            let node = leader.unwrap_or(node);
            let object = usize::try_from(random.below(3)).unwrap_or(0);
            let input = self.input(&mut random, seen[object]);
            let called = self.now();
            let answered = self.ask(node, OBJECTS[object], &input).await;
            let returned = match answered {
                Asked::Answered(output) => {
                    if let Output::Changed(version) | Output::Found(Some((version, _))) = output {
                        seen[object] = version;
                    }
                    Some((self.now(), output))
                }
                Asked::Unknown => None,
                // As if it had not been asked.
                Asked::NotApplied => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            };
            self.histories[object].lock().push(Operation { called, returned, input });
        }
    }

    fn input(&self, random: &mut Random, seen: u64) -> Input {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        match random.below(10) {
            0..=2 => Input::Write(value),
            3 | 4 => Input::CompareAndSet { expected: seen, value },
            5 => Input::Delete,
            _ => Input::Read,
        }
    }

    async fn ask(&self, node: NodeId, object: &str, input: &Input) -> Asked {
        let put = |value: &u64, expected_version| {
            Body::SetValues(SetValues {
                object: object.into(),
                puts: vec![("k".into(), Value::bytes(value.to_string()))],
                deletes: Vec::new(),
                expected_version,
            })
        };
        let body = match input {
            Input::Read => return self.read(node, object).await,
            Input::Write(value) => put(value, None),
            Input::CompareAndSet { expected, value } => put(value, Some(*expected)),
            Input::Delete => Body::Delete(Delete { object: object.into() }),
        };
        let asked = tokio::time::timeout(PATIENCE, self.cluster.propose_body(node, body));
        match asked.await {
            Ok(Ok(applied)) => Asked::Answered(match applied.outcome {
                Outcome::Changed { version } => Output::Changed(version),
                Outcome::Unchanged { .. } => Output::Unchanged,
                Outcome::VersionMismatch { current, .. } => Output::Mismatch(current),
                other => panic!("{other:?} is no answer to {input:?}"),
            }),
            Ok(Err(error)) if error.not_applied() => Asked::NotApplied,
            Ok(Err(_)) | Err(_) => Asked::Unknown,
        }
    }

    async fn read(&self, node: NodeId, object: &str) -> Asked {
        let group = self.cluster.group(node);
        let asked = tokio::time::timeout(PATIENCE, group.linearizable()).await;
        let Ok(Ok(_)) = asked else { return Asked::NotApplied };
        let read = group.view().value(object, "k").expect("readable");
        let value = read.value.map(|value| String::from_utf8(value.data.into()).expect("text"));
        let found = read.object_version.zip(value);
        Asked::Answered(Output::Found(
            found.map(|(version, value)| (version, value.parse().expect("a number"))),
        ))
    }

    /// Cuts nodes off, one way or both, and lets messages be late, lost and repeated.
    async fn disturb(self: Arc<Self>, mut random: Random) {
        for kind in (0..4).cycle() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let network = self.cluster.network();
            let node = ALL[usize::try_from(random.below(3)).unwrap_or(0)];
            // Whoever it believes to lead: that is where it hurts.
            let leader = self.cluster.group(node).leader().unwrap_or(node);
            match kind {
                0 => network.isolate(leader),
                1 => ALL.into_iter().for_each(|other| network.cut(leader, other)),
                2 => network.set_weather(Weather {
                    delay: Duration::from_millis(1 + random.below(20)),
                    repeat_one_in: 4,
                    lose_one_in: 30,
                }),
                _ => {
                    let raft = self.cluster.group(leader).raft();
                    raft.trigger().transfer_leader(node.0).await.expect("the member runs");
                }
            }
            // Long enough that the others find another leader meanwhile.
            tokio::time::sleep(Duration::from_millis(1_500 + random.below(1_000))).await;
            network.heal();
            network.set_weather(Weather::default());
            tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        }
    }
}

enum Asked {
    Answered(Output),
    Unknown,
    NotApplied,
}

/// Answers whether it was decided for every object.
async fn story(seed: u64, forward: bool) -> bool {
    let cluster = if forward { Cluster::start_forwarding(seed).await } else { Cluster::start(seed).await };
    let leader = cluster.leader_of(&ALL).await;
    let first_term = cluster.group(leader).view().header().term;
    let run = Arc::new(Run {
        cluster,
        forward,
        begun: Instant::now(),
        over: AtomicBool::new(false),
        values: AtomicU64::new(1),
        histories: Default::default(),
    });
    let clients = (0..CLIENTS).map(|client| Arc::clone(&run).client(Random(seed * 1_000 + client + 1)));
    let clients: Vec<_> = clients.map(tokio::spawn).collect();
    let faults = tokio::spawn(Arc::clone(&run).disturb(Random(seed + 1)));
    tokio::time::sleep(LENGTH).await;
    run.over.store(true, Ordering::Relaxed);
    for task in clients.into_iter().chain([faults]) {
        task.await.expect("no panic");
    }
    let mut never_answered = 0;
    for (object, history) in OBJECTS.iter().zip(&run.histories) {
        let history = history.lock();
        let open = history.iter().filter(|operation| operation.returned.is_none()).count();
        println!("seed {seed}, object {object}: {} operations, {open} of them open", history.len());
        never_answered += open;
        assert!(history.len() > 100, "too little happened to show anything");
        match check::<Object>(&history, STEPS) {
            Verdict::Linearizable => {}
            Verdict::Unknown => return false,
            found @ Verdict::NotLinearizable { .. } => panic!("seed {seed}, object {object}: {found:?}"),
        }
    }
    assert!(never_answered > 0, "every write was answered: nothing was shown of those that are not");
    let faults = run.cluster.network().faults();
    println!("seed {seed}: {faults:?}");
    assert!(faults.cut > 0 && faults.lost > 0 && faults.repeated > 0, "a fault never came: {faults:?}");
    let last_term = run.cluster.applied(ALL[0], Offset(1)).await.term;
    println!("seed {seed}: terms {first_term} to {last_term}");
    assert!(last_term > first_term, "nobody else ever led");
    let last = run.cluster.write(&ALL, "end", "there").await.expect("acknowledged").offset;
    run.cluster.expect_equal(last).await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_of_the_leader_see_while_nodes_are_cut_off_is_linearizable() {
    decided(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_of_any_node_see_while_nodes_are_cut_off_is_linearizable() {
    decided(true).await;
}

async fn decided(forward: bool) {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    // An undecided history says nothing, so another one is asked.
    for seed in seed..seed + 3 {
        if story(seed, forward).await {
            return;
        }
    }
    panic!("three histories in a row could not be decided");
}
