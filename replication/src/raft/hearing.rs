//! A leader that no quorum answers falls silent, so that the others elect another one.
//!
//! Raft has a leader step down when it hears of a newer term. One whose messages arrive, but who hears nothing, as behind a link
//! that is cut in one direction, never does: its heartbeats keep the others from an election, and nothing is committed. Such
//! a leader sends no entries and heartbeats, except now and then, to find out whether it is heard again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Instant as _, Raft};

use super::machine::Machine;
use super::types::Types;

/// Of so many of the longest election timeouts without a word from a quorum a leader takes notice of one.
const PATIENCE: u32 = 2;

/// Of so many of them, a silent leader speaks in one: an election is over in the others.
const SPEAKS_ONE_IN: u32 = 6;

/// Whether a member keeps its entries and heartbeats to itself. Clones are handles of the same.
#[derive(Clone, Default)]
pub(super) struct Silence(Arc<AtomicBool>);

impl Silence {
    pub(super) fn is_kept(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Watches over a member until it ends.
pub(super) async fn listen(raft: Raft<Types, Machine>, silence: Silence, election: Duration) {
    let metrics = raft.metrics();
    let mut ticks = tokio::time::interval(election);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent_for = 0;
    loop {
        ticks.tick().await;
        let is_deaf = {
            let metrics = metrics.borrow_watched();
            let has_others = metrics.membership_config.voter_ids().nth(1).is_some();
            let unanswered =
                metrics.last_quorum_acked.is_none_or(|acked| acked.elapsed() > PATIENCE * election);
            has_others && metrics.state.is_leader() && unanswered
        };
        silent_for = if is_deaf { silent_for + 1 } else { 0 };
        if silent_for == 1 {
            tracing::warn!(
                node = raft.node_id(),
                "no quorum answers this leader: it lets others elect another one"
            );
        }
        // A leader that has just been elected has not been answered yet either.
        let speaks = silent_for <= PATIENCE || silent_for % SPEAKS_ONE_IN == 0;
        silence.0.store(is_deaf && !speaks, Ordering::Relaxed);
    }
}
