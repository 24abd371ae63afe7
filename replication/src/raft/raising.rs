//! Newer rules of apply for groups that began under older ones, once every member knows them.

use std::sync::Arc;

use odgm_log::body::Semantics;
use odgm_log::{Body, Cause, Payload, Timestamp};
use odgm_projections::SEMANTICS;

use super::group::Group;
use super::types::Command;

impl Group {
    /// Writes that the newest rules hold from here on, if this member leads, the group is behind them, and all of its
    /// members have said that they know them. Who leads later does it if this one cannot.
    pub(super) async fn raise_semantics(self: &Arc<Self>) {
        let header = self.machine.view().header();
        // A log that has not begun begins with the newest.
        let is_behind = header.semantics < SEMANTICS && header.applied > odgm_log::Offset::ZERO;
        if !is_behind || self.leader() != Some(self.node) {
            return;
        }
        let members = self.standing().members.all();
        if !self.neighbours.know(SEMANTICS, &members) {
            return;
        }
        let body = Body::Semantics(Semantics { version: SEMANTICS });
        let Ok((kind, encoded)) = (Payload { cause: Cause::default(), body }).encode() else { return };
        let command = Command { stamp: Timestamp::now(), origin: self.node, kind, encoded };
        match self.raft.client_write(command).await {
            Ok(_) => tracing::info!(group = %self.id, semantics = SEMANTICS, "newer rules hold from here on"),
            Err(error) => tracing::debug!(group = %self.id, %error, "newer rules are tried again later"),
        }
    }
}
