//! Chaos: clients at work on a cluster whose nodes are killed, paused, stopped and cut off from each other, and then a
//! judgement of everything that they, a subscriber, and the replicas have to say.
//!
//! How to run it and how to read what it prints is in `tests/CHAOS.md`.

mod client;
mod events;
mod faults;
mod histories;
mod journal;
mod logged;
mod nemesis;
mod options;
mod report;
mod subscriber;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;

pub use self::faults::Fault;
pub use self::options::{Level, Options};
pub use self::report::Report;

use self::client::Client;
use self::journal::{Journal, Key};
use self::nemesis::Nemesis;
use self::report::Outcome;
use self::subscriber::{Subscriber, Wants};
use crate::Result;
use crate::harness::{Cluster, Layout, Replica};
use crate::random::Random;

const NODES: u64 = 3;
const CLASS: &str = "objects";

/// Objects that are written at one time; few, so that clients meet.
const OBJECTS: u32 = 5;

/// After so long other objects take the place of those that are written: a search takes much longer for one long history
/// than for several short ones.
const GENERATION: Duration = Duration::from_secs(20);

/// What all that takes part in a run shares.
struct Run {
    cluster: Cluster,
    journal: Journal,
    level: Level,
    partitions: u32,
    /// Clients end when it is set.
    over: AtomicBool,
}

impl Run {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// One of the objects that are written now.
    fn any_object(&self, random: &mut Random) -> Key {
        let count = OBJECTS.max(self.partitions);
        // Below `count`, which is a u32.
        let number = u32::try_from(random.below(count as usize)).unwrap_or_default();
        let generation = self.journal.elapsed().as_secs() / GENERATION.as_secs();
        Key { partition: number % self.partitions, object: format!("object-{number}.{generation}") }
    }
}

/// Runs what the options say. What did not hold is in the report.
///
/// # Errors
/// When the cluster could not be started at all.
pub async fn run(options: &Options) -> Result<Report> {
    let seed = options.seed();
    eprintln!("chaos: seed {seed}");
    let layout = Layout::of(NODES)
        .wire(options.wire)
        .collection(CLASS, options.partitions())
        .within(options.dir.clone())
        .program(options.odgm.clone());
    let layout = if options.logs.is_some() { layout.quiet() } else { layout };
    let cluster = layout.start().await?;
    for partition in 0..options.partitions() {
        cluster.leader(CLASS, partition).await?;
    }
    let run = Arc::new(Run {
        cluster,
        journal: Journal::begin(),
        level: options.consistency,
        partitions: options.partitions(),
        over: AtomicBool::new(false),
    });
    let mut random = Random::new(seed);
    let subscriber = Subscriber::start(&run, Wants::Everything, Random::new(random.next()))?;
    let idle = Subscriber::start(&run, Wants::Nothing, Random::new(random.next()))?;
    let mut clients = JoinSet::new();
    for _ in 0..options.clients {
        clients.spawn(Client::new(&run, Random::new(random.next()))?.work());
    }
    let mut outcome = Outcome::new(options, seed);
    let mut nemesis = Nemesis::new(&run, options.faults(), random);
    if let Err(error) = nemesis.work(Duration::from_secs(options.seconds)).await {
        outcome.failed(format!("while faults were made: {error}"));
    }
    run.over.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    outcome.faults(nemesis.made, nemesis.leader_changes);
    match settle(&run).await {
        Ok(replicas) => {
            let targets = replicas.iter().map(|(partition, replica)| (*partition, replica.applied));
            let targets: BTreeMap<u32, u64> = targets.collect();
            for (subscriber, whose) in [(&subscriber, "the subscriber"), (&idle, "the idle subscriber")] {
                if let Err(error) = subscriber.reach(&targets).await {
                    outcome.failed(format!("{whose} {error}"));
                }
            }
            outcome.replicas(replicas);
        }
        Err(error) => outcome.failed(format!("after everything was healed: {error}")),
    }
    outcome.errors(logged::errors(&run.cluster)?);
    let report = outcome.judge(run.journal.take(), subscriber.end(), idle.end(), options).await?;
    if let Some(folder) = options.logs.as_deref().filter(|_| !report.passed()) {
        run.cluster.save_outputs(folder)?;
        report.save_histories(folder)?;
        eprintln!("chaos: what the nodes have logged and the histories are in {}", folder.display());
    }
    Ok(report)
}

/// Has the cluster come back, reads every object once more, and answers what all replicas hold.
async fn settle(run: &Arc<Run>) -> Result<BTreeMap<u32, Replica>> {
    run.cluster.mend().await?;
    for partition in 0..run.partitions {
        run.cluster.leader(CLASS, partition).await?;
    }
    client::read_all(run).await?;
    let replicas = run.cluster.converged(CLASS).await?;
    if replicas.len() != run.partitions as usize {
        return Err(format!("the nodes list {} partitions, not {}", replicas.len(), run.partitions).into());
    }
    run.cluster.prove(CLASS, run.partitions).await?;
    run.cluster.check()?;
    Ok(replicas)
}
