//! Whether this node is the one that writes.

use std::time::Instant;

use odgm_replication::Manager;

use super::limits::{LEADER_WITHIN, LOOK};
use super::places::Place;

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leading {
    /// This node; or none can, as there is no such partition here, and trying says why.
    Here,
    /// Another node.
    Elsewhere,
    /// Nobody, for longer than a write waits.
    Nobody,
}

/// Waits for the partition to have a leader, for a write that came at `since`.
///
/// Several nodes may see the same write. All of them wait, and the one that leads then applies it.
pub(super) async fn leading(manager: &Manager, place: &Place, since: Instant) -> Leading {
    loop {
        let Ok(partition) = manager.partition(place.class(), place.index()) else { return Leading::Here };
        match partition.leader() {
            Some(leader) if leader == manager.node_id() => return Leading::Here,
            Some(_) => return Leading::Elsewhere,
            None if since.elapsed() > LEADER_WITHIN => return Leading::Nobody,
            None => {}
        }
        drop(partition);
        tokio::time::sleep(LOOK.0).await;
    }
}
