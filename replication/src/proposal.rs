//! A command on its way to becoming a committed record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use odgm_log::{Kind, NodeId, Payload, PayloadError, Term};
use odgm_projections::Applied;
use tokio::sync::oneshot;

use crate::limits::{Limits, RESERVE};

/// Why a command did not become an applied record, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is in flight already. Not applied.
    #[error("the partition has {in_flight} {what} in flight, its limit: not applied; try again later")]
    Overloaded {
        /// `proposals` or `bytes of proposals`.
        what: &'static str,
        /// How many.
        in_flight: usize,
    },
    /// The disk is nearly full. Not applied.
    #[error(
        "only {free} bytes are free where the log is, {reserve} are kept in reserve: not applied; free some space"
    )]
    LowSpace {
        /// Free bytes.
        free: u64,
        /// The configured reserve.
        reserve: u64,
    },
    /// The operation does not fit a record. Not applied.
    #[error("not applied: {0}")]
    TooLarge(PayloadError),
    /// The partition does not take commands (any more). Not applied.
    #[error("the partition takes no writes: {reason}; not applied")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// Another node leads the partition. Not applied.
    #[error("{}; not applied", not_leader(*.leader))]
    NotLeader {
        /// Who leads, if that is known.
        leader: Option<NodeId>,
    },
    /// The members of the partition cannot take it now. Not applied.
    #[error("{reason}; not applied")]
    Unavailable {
        /// Why, and what to do.
        reason: String,
    },
    /// The record may or may not be in the log.
    #[error("it is unknown whether the write was applied: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

impl ProposeError {
    /// What there may be too many of.
    pub(crate) const PROPOSALS: &str = "proposals";
    pub(crate) const BYTES: &str = "bytes of proposals";

    /// Whether the write was certainly not applied, now or later.
    pub fn not_applied(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

fn not_leader(leader: Option<NodeId>) -> String {
    match leader {
        Some(node) => format!("node {node} leads the partition: ask there"),
        None => "the partition has no leader at present: try again in a moment".to_owned(),
    }
}

/// What came of a command.
pub type Answer = Result<Applied, ProposeError>;

/// Who waits for the answer.
pub(crate) enum Reply {
    /// A task that awaits it.
    Channel(oneshot::Sender<Answer>),
    /// A function to call with it. It must not block.
    Call(Box<dyn FnOnce(Answer) + Send>),
}

impl Reply {
    pub(crate) fn send(self, answer: Answer) {
        match self {
            // Nobody waits any more: the client has gone; its write stands.
            Self::Channel(channel) => drop(channel.send(answer)),
            Self::Call(call) => call(answer),
        }
    }
}

/// An encoded command, admitted into a partition.
pub(crate) struct Proposal {
    pub(crate) payload: Payload,
    pub(crate) kind: Kind,
    pub(crate) encoded: Bytes,
    /// Whether it is refused while space is low.
    pub(crate) needs_room: bool,
    /// Until when a leader may be waited for, if not for as long as that is worth it.
    pub(crate) until: Option<Instant>,
    /// Only if this node leads in this term: then it goes to no other node, and is not tried again.
    pub(crate) term: Option<Term>,
    pub(crate) reply: Reply,
    /// Held until the answer is out.
    pub(crate) admission: Admission,
}

/// Counts what a partition has in flight.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    proposals: AtomicUsize,
    bytes: AtomicUsize,
}

/// A place among what is in flight, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, proposals: AtomicUsize::new(0), bytes: AtomicUsize::new(0) })
    }

    /// How many proposals are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.proposals.load(Ordering::Relaxed)
    }

    /// Takes a proposal of that many bytes in, or says which bound is reached. Those that are not `deferrable` have a reserve
    /// of their own: what makes room must not have to wait until there is some.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize, deferrable: bool) -> Result<Admission, ProposeError> {
        // Counted first and judged after: the guard takes it back if it is refused.
        let proposals = self.proposals.fetch_add(1, Ordering::Relaxed);
        let in_flight = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let admission = Admission { gate: Arc::clone(self), bytes };
        let most = |limit: usize| if deferrable { limit } else { limit.saturating_add(limit / RESERVE) };
        if proposals >= most(self.limits.in_flight_proposals) {
            return Err(ProposeError::Overloaded { what: ProposeError::PROPOSALS, in_flight: proposals });
        }
        // One that is larger than the bound goes alone.
        if in_flight > 0 && in_flight + bytes > most(self.limits.in_flight_bytes) {
            return Err(ProposeError::Overloaded { what: ProposeError::BYTES, in_flight });
        }
        Ok(admission)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.gate.proposals.fetch_sub(1, Ordering::Relaxed);
        self.gate.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_refuses_at_its_bounds_and_takes_in_again_below_them() {
        let limits = Limits { in_flight_proposals: 2, in_flight_bytes: 100, ..Limits::default() };
        let gate = Gate::new(limits);
        let first = gate.admit(60, true).expect("room for the first");
        assert!(matches!(
            gate.admit(60, true),
            Err(ProposeError::Overloaded { what: "bytes of proposals", .. })
        ));
        let second = gate.admit(10, true).expect("room for a small one");
        assert!(matches!(
            gate.admit(1, true),
            Err(ProposeError::Overloaded { what: "proposals", in_flight: 2 })
        ));
        drop((first, second));
        assert_eq!(gate.in_flight(), 0);
        gate.admit(1_000, true).expect("one that is larger than the bound goes alone");
    }

    #[test]
    fn what_makes_room_finds_some_where_clients_find_none() {
        let limits =
            Limits { in_flight_proposals: RESERVE, in_flight_bytes: 100 * RESERVE, ..Limits::default() };
        let gate = Gate::new(limits);
        let clients: Vec<_> = (0..RESERVE).map(|_| gate.admit(100, true).expect("room")).collect();
        gate.admit(1, true).expect_err("no more for clients");
        let _settlement = gate.admit(100, false).expect("an eighth more for what has to be");
        let refused = gate.admit(0, false).expect_err("that is bounded, too");
        assert!(matches!(refused, ProposeError::Overloaded { what: "proposals", .. }), "{refused}");
        drop(clients);
        let refused = gate.admit(100 * RESERVE + 1, false).expect_err("and so are its bytes");
        assert!(matches!(refused, ProposeError::Overloaded { what: "bytes of proposals", .. }), "{refused}");
    }
}
