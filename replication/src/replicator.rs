//! The way from a command to a committed record, and to what may be read of it.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use odgm_log::{NodeId, Offset, Term};
use odgm_projections::View;
use tokio::sync::watch;

use crate::feed::Feeder;
use crate::proposal::{Proposal, ProposeError};
use crate::raft::Divergence;
use crate::reading::{Consistency, ReadError};

/// Makes proposals into committed, applied records and answers them.
///
/// Every way keeps this contract: proposals of one partition are given offsets in the order in which they came;
/// a proposal is answered exactly once, after its record is durable by the partition's rule and applied where it was
/// proposed; an answer of [`ProposeError::Unknown`] is the only one after which the record may still appear.
pub(crate) trait Replicator: Send + Sync {
    /// Takes a proposal in. On an error nothing was written, and the proposal's reply has been called with it.
    fn propose(&self, proposal: Proposal);

    /// Returns when the view here holds all that a read may not miss. None says that it always does.
    fn confirm(&self, consistency: Consistency) -> Option<BoxFuture<'_, Result<(), ReadError>>>;

    /// The view as it is now; a snapshot that is installed puts another one in its place.
    fn view(&self) -> View;

    /// The newest offset that is committed and applied here: all that readers may see.
    fn visible(&self) -> &watch::Sender<Offset>;

    /// Takes a snapshot of the view as it is now, unless there is one. Blocks.
    fn snapshot(&self) -> io::Result<Offset>;

    /// Asks that records below an offset may be deleted here, which a snapshot has; answers below which they may be now.
    fn release(&self, below: Offset) -> io::Result<Offset>;

    /// Where what records put into the outbox is told.
    fn feeder(&self) -> &Arc<Feeder>;

    /// Waits until this node makes the proposals of all nodes into records, and its view holds all that was written before;
    /// the term in which it does.
    fn lead(&self) -> BoxFuture<'_, Result<Term, ReadError>>;

    /// Returns when this node does so no more, or in another term.
    fn deposed(&self, term: Term) -> BoxFuture<'_, ()>;

    /// Who makes the proposals of all nodes into records, as far as is known here.
    fn leader(&self) -> Option<NodeId>;

    /// Why nothing can be proposed or confirmed at present, if that is known.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Why a log that has nothing yet cannot begin, by the newest rules of apply, if it cannot.
    fn cannot_begin(&self) -> Option<String> {
        None
    }

    /// What is wrong between the replicas, as far as is known here.
    fn divergence(&self) -> Option<Divergence> {
        None
    }

    /// Takes no more proposals, answers those that were taken in, and returns when that is done. Blocks.
    fn stop(&self, reason: &str);

    /// Why no proposals are taken (any more).
    fn failure(&self) -> Option<ProposeError>;

    /// Whether proposals are refused because one could not be written or applied.
    fn has_failed(&self) -> bool;
}
