//! The way from a command to a committed and applied record.

use crate::proposal::{Proposal, ProposeError};

/// Makes proposals into committed, applied records and answers them.
///
/// Every way keeps this contract: proposals of one partition are given offsets in the order in which they came;
/// a proposal is answered exactly once, after its record is durable by the partition's rule and applied here; an
/// answer of [`ProposeError::Unknown`] is the only one after which the record may still appear.
pub(crate) trait Replicator: Send + Sync {
    /// Takes a proposal in. On an error nothing was written, and the proposal's reply has been called with it.
    fn propose(&self, proposal: Proposal);

    /// Takes no more proposals, answers those that were taken in, and returns when that is done.
    fn stop(&self, reason: &str);

    /// Why no proposals are taken (any more).
    fn failure(&self) -> Option<ProposeError>;

    /// Whether proposals are refused because one could not be written or applied.
    fn has_failed(&self) -> bool;
}
