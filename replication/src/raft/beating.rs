//! Heartbeats of all groups at the same moments, so that those to one node share frames and wake it once.
//!
//! openraft has each group beat in a phase of its own. With many groups that have nothing to say, most of what a node then
//! costs is waking up for one small message at a time.

use std::sync::OnceLock;
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::machine::Machine;
use super::types::Types;

/// From when on the beats of this process are counted.
static BEGINNING: OnceLock<Instant> = OnceLock::new();

/// Beats for a group whenever this member leads it, until the task is ended.
pub(super) async fn beat(raft: Raft<Types, Machine>, every: Duration) {
    raft.runtime_config().heartbeat(false);
    let beginning = *BEGINNING.get_or_init(Instant::now);
    let since = beginning.elapsed().as_nanos() / every.as_nanos().max(1);
    let next = beginning + every * u32::try_from(since + 1).unwrap_or(u32::MAX);
    let mut beats = interval_at(next, every);
    // A beat that was missed is made up for by the next one, in step with the others.
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let metrics = raft.server_metrics();
    loop {
        beats.tick().await;
        let leads = metrics.borrow_watched().state.is_leader();
        if leads && raft.trigger().heartbeat().await.is_err() {
            return;
        }
    }
}
