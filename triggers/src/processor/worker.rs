//! The task of one partition: while this node leads it, it does what the plan says.

mod loading;
mod notes;
mod shift;

use std::sync::Arc;

use odgm_log::Term;
use odgm_replication::{Partition, ReadError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(super) use self::loading::Room;
use self::shift::Shift;
use super::limits::RESTART_PAUSE;
use super::plan::{Home, doubled};
use super::settings::Settings;
use crate::invoker::Invoker;
use crate::post::{Announce, Post};

/// What all workers share: who makes the calls, and who brings outcomes away.
pub(super) struct Means<I> {
    pub(super) invoker: Arc<I>,
    pub(super) post: Arc<dyn Post>,
    pub(super) announce: Option<Arc<dyn Announce>>,
    /// For what calls are called with.
    pub(super) room: Arc<Room>,
}

/// How a term's work has ended.
enum End {
    /// The node stops.
    Stopped,
    /// Somebody else leads, or another term has begun; or there is no reason not to go on at once.
    Deposed,
    /// Nothing was recorded.
    InVain,
}

/// The worker of a partition.
pub(super) struct Worker<I> {
    means: Arc<Means<I>>,
    partition: Arc<Partition>,
    home: Home,
    settings: watch::Receiver<Settings>,
}

impl<I: Invoker> Worker<I> {
    pub(super) fn new(
        means: Arc<Means<I>>,
        partition: Arc<Partition>,
        settings: watch::Receiver<Settings>,
    ) -> Self {
        let (group, class, index) = (partition.group(), partition.class().to_owned(), partition.index());
        Self { means, partition, home: Home { group, class, index }, settings }
    }

    /// Works whenever this node leads the partition, until that is closed or the node stops. What is under way when the lead is
    /// lost is dropped: nothing is recorded of it, and who leads next begins it again.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut in_vain: u32 = 0;
        loop {
            let led = tokio::select! {
                () = stop.cancelled() => return,
                led = self.partition.lead() => led,
            };
            let end = match led {
                Ok(term) if self.partition.failure().is_none() => self.lead(term, &stop).await,
                // A partition that records nothing would have its calls made again and again.
                Ok(_) => End::InVain,
                Err(ReadError::Closed) => return,
                Err(error) => {
                    let Home { class, index, .. } = &self.home;
                    tracing::debug!(class, partition = index, %error, "the partition's calls wait for a leader");
                    End::InVain
                }
            };
            in_vain = match end {
                End::Stopped => return,
                End::Deposed => 0,
                End::InVain => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(doubled(RESTART_PAUSE, in_vain)) => in_vain.saturating_add(1),
                    }
                }
            };
        }
    }

    /// Works in a term.
    async fn lead(&self, term: Term, stop: &CancellationToken) -> End {
        let Home { class, index, .. } = &self.home;
        let mut shift = Shift::new(&self.means, &self.partition, &self.home, self.settings.clone(), term);
        let reason = tokio::select! {
            () = stop.cancelled() => None,
            () = self.partition.deposed(term) => None,
            reason = shift.run() => Some(reason),
        };
        shift.end().await;
        let is_deposed = match reason {
            None => !stop.is_cancelled(),
            // Who finds out first is chance.
            Some(_) => tokio::time::timeout(RESTART_PAUSE.0, self.partition.deposed(term)).await.is_ok(),
        };
        if is_deposed {
            shift.count_lost();
        }
        let Some(reason) = reason else {
            return if is_deposed { End::Deposed } else { End::Stopped };
        };
        if is_deposed || shift.has_recorded() {
            tracing::debug!(class, partition = index, %term, reason, "the partition's calls are left to its leader");
            return End::Deposed;
        }
        tracing::warn!(class, partition = index, %term, reason, "the partition's calls are begun again");
        End::InVain
    }
}
