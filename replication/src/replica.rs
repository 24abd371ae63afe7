//! One replica of a partition: its log and its view, and how the view follows the log.

use std::sync::Arc;

use odgm_log::store::LogStore;
use odgm_log::{GroupId, Hash, NodeId, Offset};
use odgm_projections::{RebuildError, View};
use tokio::sync::watch;

use crate::feed::Feeder;
use crate::source::Records;

/// The log and the view of one group on this node.
pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) log: LogStore,
    pub(crate) view: View,
    /// The newest offset that is committed and applied here: all that readers may see.
    pub(crate) visible: watch::Sender<Offset>,
    /// Told what records put into the outbox.
    pub(crate) feeder: Arc<Feeder>,
}

/// Why a replica cannot be brought up. Nothing has been overwritten.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The view says it has applied what the log does not hold.
    #[error(
        "the view of group {group} has applied offset {applied}, but its log ends at {end}: the log has lost \
         records or the view belongs to another log; restore the log, or remove the view's folder to rebuild it"
    )]
    ViewAhead {
        /// The group.
        group: GroupId,
        /// What the view has applied.
        applied: Offset,
        /// The last durable offset of the log.
        end: Offset,
    },
    /// The view was made from other records than those in the log.
    #[error(
        "the view of group {group} was made from other records: its chain at offset {offset} is {view}, the log's \
         is {log}; verify the log, then remove the view's folder to rebuild it"
    )]
    OtherLog {
        /// The group.
        group: GroupId,
        /// The offset compared.
        offset: Offset,
        /// The view's chain.
        view: Hash,
        /// The log's chain.
        log: Hash,
    },
    /// The node stopped before it was the replica's turn to be opened.
    #[error("the node is stopping")]
    Stopping,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] odgm_log::store::ReadError),
    /// The view cannot be opened.
    #[error(transparent)]
    View(#[from] odgm_projections::OpenError),
    /// The view cannot follow the log.
    #[error("the view of group {group} cannot follow its log: {source}")]
    CatchUp {
        /// The group.
        group: GroupId,
        /// Why.
        source: RebuildError,
    },
    /// The Raft member of the partition cannot be brought up.
    #[error("the Raft member of group {group}: {source}")]
    Raft {
        /// The group.
        group: GroupId,
        /// Why.
        source: std::io::Error,
    },
}

impl Replica {
    /// Puts log and view together and lets the view catch up. `progress` hears of the applied and the last offset.
    pub(crate) fn open(
        group: GroupId,
        node: NodeId,
        log: LogStore,
        view: View,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Self, ReplicaError> {
        catch_up(group, &log, &view, progress)?;
        let visible = watch::Sender::new(view.header().applied);
        Ok(Self { group, node, log, view, visible, feeder: Arc::default() })
    }
}

/// Applies all that is durable in the log and not yet in the view, after checking that the two belong together.
///
/// # Errors
/// [`ReplicaError`]; the view then holds all records before the one that failed.
pub fn catch_up(
    group: GroupId,
    log: &LogStore,
    view: &View,
    progress: &mut dyn FnMut(Offset, Offset),
) -> Result<(), ReplicaError> {
    catch_up_to(group, log, view, log.bounds(group).durable, progress)
}

/// As [`catch_up`], as far as a record that is durable.
pub(crate) fn catch_up_to(
    group: GroupId,
    log: &LogStore,
    view: &View,
    end: Offset,
    progress: &mut dyn FnMut(Offset, Offset),
) -> Result<(), ReplicaError> {
    let bounds = log.bounds(group);
    let header = view.header();
    if header.applied > bounds.durable {
        return Err(ReplicaError::ViewAhead { group, applied: header.applied, end: bounds.durable });
    }
    // A view that ends below the first record cannot be compared; that there is a gap is found next.
    if header.applied.next() >= bounds.first {
        let in_log = log.chain_at(group, header.applied)?;
        if in_log != header.chain {
            let offset = header.applied;
            return Err(ReplicaError::OtherLog { group, offset, view: header.chain, log: in_log });
        }
    }
    view.catch_up(&Records::through(log, group, end), progress)
        .map_err(|source| ReplicaError::CatchUp { group, source })
}
