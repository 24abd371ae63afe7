//! One replica of a partition: its log and its view, and how the view follows the log.

use odgm_log::store::{LogStore, ReadLimit};
use odgm_log::{GroupId, Hash, NodeId, Offset};
use odgm_projections::{ApplyError, Committed, View};
use tokio::sync::watch;

use crate::limits::{REPLAY_BYTES, REPLAY_RECORDS};

/// The log and the view of one group on this node.
pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) log: LogStore,
    pub(crate) view: View,
    /// The newest offset that is committed and applied here: all that readers may see.
    pub(crate) visible: watch::Sender<Offset>,
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
    /// The records that the view needs next have been trimmed.
    #[error(
        "the view of group {group} needs the records from offset {next}, but its log begins at {first}: bring back a \
         snapshot of offset {} or later", first.previous()
    )]
    Gap {
        /// The group.
        group: GroupId,
        /// The first offset needed.
        next: Offset,
        /// The first offset kept.
        first: Offset,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] odgm_log::store::ReadError),
    /// A record cannot be decoded.
    #[error("group {group}, offset {offset}: {source}")]
    Payload {
        /// The group.
        group: GroupId,
        /// The record.
        offset: Offset,
        /// What is wrong with it.
        source: odgm_log::PayloadError,
    },
    /// The view cannot be opened.
    #[error(transparent)]
    View(#[from] odgm_projections::OpenError),
    /// The view cannot apply a record.
    #[error(transparent)]
    Apply(#[from] ApplyError),
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
        Ok(Self { group, node, log, view, visible })
    }

    /// The newest offset that readers may see.
    pub(crate) fn visible(&self) -> Offset {
        *self.visible.borrow()
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
    let bounds = log.bounds(group);
    let header = view.header();
    if header.applied > bounds.durable {
        return Err(ReplicaError::ViewAhead { group, applied: header.applied, end: bounds.durable });
    }
    let mut next = header.applied.next();
    if next < bounds.first {
        return Err(ReplicaError::Gap { group, next, first: bounds.first });
    }
    let in_log = log.chain_at(group, header.applied)?;
    if in_log != header.chain {
        return Err(ReplicaError::OtherLog {
            group,
            offset: header.applied,
            view: header.chain,
            log: in_log,
        });
    }
    while next <= bounds.durable {
        let limit = ReadLimit { records: REPLAY_RECORDS, bytes: REPLAY_BYTES };
        let mut records = log.read(group, next, limit)?;
        records.retain(|record| record.offset <= bounds.durable);
        let committed = decode(group, records)?;
        let Some(last) = committed.last().map(|last| last.record.offset) else { break };
        view.apply(&committed)?;
        progress(last, bounds.durable);
        next = last.next();
    }
    Ok(())
}

fn decode(group: GroupId, records: Vec<odgm_log::Record>) -> Result<Vec<Committed>, ReplicaError> {
    records
        .into_iter()
        .map(|record| match record.decode() {
            Ok(payload) => Ok(Committed { record, payload }),
            Err(source) => Err(ReplicaError::Payload { group, offset: record.offset, source }),
        })
        .collect()
}
