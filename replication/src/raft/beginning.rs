//! The rules with which every log begins.

use std::io;

use odgm_log::body::{Config, Semantics};
use odgm_log::store::{LogStore, ReadLimit};
use odgm_log::{Body, BodyType, Cause, GroupId, Offset, Payload, Timestamp};
use odgm_projections::SEMANTICS;

use super::leading::members_of;
use super::proposing::Proposer;
use super::types::Command;
use crate::neighbours::Trouble;
use crate::proposal::ProposeError;

/// Records at the beginning of a log that are looked at once.
const BEGINNING: ReadLimit = ReadLimit { records: 64, bytes: 1 << 20 };

impl Proposer {
    /// Writes the rules with which every log begins, unless they are there. A member that does not know them could apply
    /// nothing of the log, so they are not written where there is one.
    pub(super) async fn begin(&self) -> Result<(), ProposeError> {
        let late = ProposeError::NotLeader { leader: None };
        let missing = missing(self.log.store(), self.group, &self.rules).map_err(|error| {
            tracing::error!(group = %self.group, %error, "the beginning of the log cannot be read");
            late.clone()
        })?;
        if missing.is_empty() {
            return Ok(());
        }
        let members = members_of(&self.raft);
        let may_begin = self.neighbours.may_begin(SEMANTICS, &members);
        let unavailable = |trouble: Trouble| ProposeError::Unavailable {
            reason: format!("the partition takes no writes yet: {trouble}"),
        };
        if !may_begin.map_err(unavailable)? {
            // Those that are there say it within a second.
            return Err(late);
        }
        self.neighbours.clock(&members).map_err(unavailable)?;
        for body in missing {
            let payload = Payload { cause: Cause::default(), body };
            let (kind, encoded) = payload.encode().map_err(ProposeError::TooLarge)?;
            let command = Command { stamp: Timestamp::now(), origin: self.node, kind, encoded };
            self.raft.client_write(command).await.map_err(|_| late.clone())?;
        }
        Ok(())
    }
}

/// Which of the records with which a log begins are not in it. What is in the log of a leader stays in it.
pub(super) fn missing(store: &LogStore, group: GroupId, rules: &Config) -> io::Result<Vec<Body>> {
    let mut first = vec![Body::Semantics(Semantics { version: SEMANTICS }), Body::Config(rules.clone())];
    let mut next = store.bounds(group).first;
    if next > Offset(1) {
        // What came before has been trimmed, or a snapshot has it.
        return Ok(Vec::new());
    }
    while !first.is_empty() {
        let records = store.read(group, next, BEGINNING).map_err(io::Error::other)?;
        let Some(last) = records.last() else { break };
        next = last.offset.next();
        let types = records.iter().map(|record| record.kind.body_type);
        for found in types.filter(|found| !matches!(found, BodyType::Blank | BodyType::Membership)) {
            first.retain(|body| body.body_type() != found);
            if !matches!(found, BodyType::Semantics | BodyType::Config) {
                // Nothing else is written before them.
                return Ok(Vec::new());
            }
        }
    }
    Ok(first)
}
