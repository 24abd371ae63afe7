//! The processor: it makes the calls that outboxes have, and records what came of them.
//!
//! Each partition on this node has a [`worker`], which works as long as the node leads the partition. What it does is
//! decided by a [`plan`] without I/O; rows that wait stay in the view, whatever their number. A call that was begun and
//! has no outcome in the log is begun again, by this node or by the one that leads next: functions are called at least once,
//! and each outcome stands in the log once.

mod clock;
mod limits;
mod payload;
mod plan;
mod reading;
mod settings;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odgm_log::GroupId;
use odgm_replication::{Manager, Partition};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub use self::settings::Settings;

use self::limits::PARTITIONS;
use self::worker::{Means, Room, Worker};
use crate::invoker::Invoker;
use crate::post::{Announce, Post};

/// The processor of a node.
pub struct Processor {
    running: JoinHandle<()>,
}

impl Processor {
    /// Begins to make the calls of all partitions that this node leads, until `stop` is cancelled.
    pub fn start<I: Invoker>(
        manager: Arc<Manager>,
        invoker: Arc<I>,
        post: Arc<dyn Post>,
        announce: Option<Arc<dyn Announce>>,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        let room = Arc::new(Room::new(settings.payload_bytes));
        let means = Arc::new(Means { invoker, post, announce, room });
        let workers = Workers { manager, means, settings, running: BTreeMap::new(), tasks: JoinSet::new() };
        Self { running: tokio::spawn(workers.run(stop)) }
    }

    /// Waits until it has ended after `stop` was cancelled. Calls that are under way then are dropped, and made again by the
    /// next leader.
    pub async fn ended(mut self, within: Duration) {
        if tokio::time::timeout(within, &mut self.running).await.is_err() {
            tracing::warn!(
                ?within,
                "the processor of calls was still at work when the time to stop was over"
            );
            self.running.abort();
        }
    }
}

/// The workers of the partitions that are here.
struct Workers<I> {
    manager: Arc<Manager>,
    means: Arc<Means<I>>,
    /// What holds where a collection does not say otherwise.
    settings: Settings,
    running: BTreeMap<GroupId, Running>,
    tasks: JoinSet<()>,
}

struct Running {
    task: Id,
    settings: watch::Sender<Settings>,
}

impl<I: Invoker> Workers<I> {
    async fn run(mut self, stop: CancellationToken) {
        let mut readiness = self.manager.readiness();
        let mut looks = tokio::time::interval(PARTITIONS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                // Counted again whenever a partition has come, gone or failed.
                changed = readiness.changed() => if changed.is_err() { break },
                // Options change without it.
                _ = looks.tick() => {}
                Some(ended) = self.tasks.join_next_with_id() => {
                    // Looked for at the next look, should it still be there.
                    self.ended(ended);
                    continue;
                }
            }
            self.follow(&stop);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Has each partition that is here worked on, by the options of its collection.
    fn follow(&mut self, stop: &CancellationToken) {
        for collection in self.manager.collections() {
            let settings = self.settings.with(&collection.definition().options.calls);
            for partition in collection.partitions().flatten() {
                match self.running.get(&partition.group()) {
                    Some(running) => {
                        running.settings.send_if_modified(|told| {
                            let is_news = *told != settings;
                            if is_news {
                                told.clone_from(&settings);
                            }
                            is_news
                        });
                    }
                    None => self.begin(partition, settings.clone(), stop),
                }
            }
        }
    }

    fn begin(&mut self, partition: Arc<Partition>, settings: Settings, stop: &CancellationToken) {
        let group = partition.group();
        let (settings, told) = watch::channel(settings);
        let worker = Worker::new(Arc::clone(&self.means), partition, told);
        let task = self.tasks.spawn(worker.run(stop.clone())).id();
        self.running.insert(group, Running { task, settings });
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match ended {
            Ok((task, ())) => task,
            Err(error) => {
                tracing::error!(%error, "the worker of a partition's calls ended by a panic; it is started again");
                error.id()
            }
        };
        self.running.retain(|_, running| running.task != task);
    }
}
