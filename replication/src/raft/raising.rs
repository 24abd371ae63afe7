//! Newer rules of apply for groups that began under older ones, once every member knows them.

use std::sync::Arc;

use odgm_log::body::Semantics;
use odgm_log::{Body, BodyType, Cause, Payload, Term};
use odgm_projections::SEMANTICS;
use tokio::sync::oneshot;

use super::beginning::missing;
use super::group::Group;
use super::proposing::Write;
use crate::proposal::{Answer, Proposal, ProposeError, Reply};

impl Group {
    /// Writes that the newest rules hold from here on, if this member leads, the group is behind them, and all of its
    /// members have said that they know them. Who leads later does it if this one cannot.
    ///
    /// What older rules did not ask for, such as how many calls may wait, the group is told at the same time, as it is
    /// configured now.
    pub(super) async fn raise_semantics(self: &Arc<Self>) {
        let is_behind = self.machine.view().header().semantics < SEMANTICS;
        if !is_behind || self.leader() != Some(self.node) || self.is_odd().is_some() || !self.has_begun() {
            return;
        }
        let members = self.standing().members.all();
        if !self.neighbours.know(SEMANTICS, &members) {
            return;
        }
        let Ok(term) = self.leading_term().await else { return };
        // Where only the first is written, both are again: the second one is what ends it.
        let rules = self.machine.view().header().config.with_calls_of(&self.rules);
        let bodies = [Body::Config(rules), Body::Semantics(Semantics { version: SEMANTICS })];
        for body in bodies {
            if let Err(error) = self.write_as_leader(Term(term), body).await {
                return tracing::debug!(group = %self.id, %error, "newer rules are tried again later");
            }
        }
        tracing::info!(group = %self.id, semantics = SEMANTICS, "newer rules hold from here on");
    }

    /// Whether the log says by which rules it is applied. One that does not begins with the newest.
    fn has_begun(&self) -> bool {
        // One that cannot be read is not written to either.
        missing(self.log.store(), self.id, &self.rules)
            .is_ok_and(|missing| missing.iter().all(|body| body.body_type() != BodyType::Semantics))
    }

    /// Writes one of the group's own records, as all others are: in their order, and not with a clock that is wrong.
    async fn write_as_leader(&self, term: Term, body: Body) -> Answer {
        let payload = Payload { cause: Cause::default(), body };
        let (kind, encoded) = payload.encode().map_err(ProposeError::TooLarge)?;
        let admission = self.gate.admit(encoded.len(), false)?;
        let (sender, answer) = oneshot::channel();
        let (needs_room, until, term, reply) = (false, None, Some(term), Reply::Channel(sender));
        self.enter(Write::new(Proposal {
            payload,
            kind,
            encoded,
            needs_room,
            until,
            term,
            reply,
            admission,
        }));
        let stopped =
            || ProposeError::Unknown { reason: "the partition's Raft member has stopped".to_owned() };
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}
