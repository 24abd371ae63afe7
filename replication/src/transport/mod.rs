//! How nodes call each other: a request and its answer, each a block of bytes, within a time.
//!
//! What is asked of a transport is little, so that it can be Zenoh, TCP, or a test that loses, delays, repeats and reorders:
//! a request may arrive never, once or several times, and whoever called learns within the time that it gave up.

mod frame;
mod links;
#[cfg(test)]
pub(crate) mod memory;
mod mux;
mod tcp;
#[cfg(test)]
mod tests;
mod zenoh;

pub(crate) use self::links::{Alone, Links};
pub(crate) use self::mux::{Admission, Stranger};

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId};

/// In the place of a group's id: nodes introduce themselves. What is asked under it is answered to strangers, too, so that
/// they learn why nothing else is. No group gets this id.
pub(crate) const GREETING: GroupId = GroupId(u32::MAX - 1);

/// What a call is about; calls of one class do not hold up those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Votes and heartbeats.
    Urgent,
    /// Entries.
    Log,
    /// Snapshots.
    Bulk,
}

/// A request to another node.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) to: NodeId,
    pub(crate) class: Class,
    pub(crate) group: GroupId,
    pub(crate) request: Bytes,
    pub(crate) within: Duration,
}

/// Why there is no answer. The request may have arrived all the same, except where nobody is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// There is no way to the node at present.
    #[error("node {node} cannot be reached: {reason}")]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Why.
        reason: String,
    },
    /// No answer came in time.
    #[error("node {node} did not answer within {within:?}")]
    Timeout {
        /// The node.
        node: NodeId,
        /// How long was waited.
        within: Duration,
    },
    /// This node closed its ways to others before the answer came.
    #[error("this node closed its connections before node {node} answered")]
    Closed {
        /// The node.
        node: NodeId,
    },
    /// The process that was asked is not there any more.
    #[error("node {node} was started again before it answered")]
    Restarted {
        /// The node.
        node: NodeId,
    },
    /// The node does not want to answer this.
    #[error("node {node} refused: {reason}")]
    Refused {
        /// The node.
        node: NodeId,
        /// What it says.
        reason: String,
    },
}

/// The way to the other nodes.
pub(crate) trait Transport: Send + Sync + 'static {
    /// Asks another node.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Gives up what the process of a node was asked that was replaced by another one at some time: nobody answers it.
    fn forget(&self, _node: NodeId, _before: Instant) {}
}

/// What a node says that answers nothing yet.
pub(crate) const STARTING: &str = "it is starting";

/// Who answers on this node. The error is told to the other side as it is.
pub(crate) trait Service: Send + Sync + 'static {
    /// Answers a request. It may be asked the same several times.
    fn answer(
        &self,
        from: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>>;
}
