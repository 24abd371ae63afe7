//! The records of a group, as far as somebody may see them.

use odgm_log::store::{LogStore, ReadError, ReadLimit};
use odgm_log::{GroupId, Offset, Record};
use odgm_projections::{Header, RecordSource, SourceError};
use tokio::sync::watch;

use crate::limits::{REBUILD_BYTES, STREAM_BYTES};

/// The first record that the partition keeps and a replica's log does not have, because the replica came back through a
/// snapshot; none if the log is whole.
pub(crate) fn missing_from(log: &LogStore, group: GroupId, header: &Header) -> Option<Offset> {
    let floor = header.floor.max(Offset(1));
    (header.applied > Offset::ZERO && log.bounds(group).first > floor).then_some(floor)
}

/// The records of a group up to an end.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    log: &'a LogStore,
    group: GroupId,
    end: End<'a>,
}

#[derive(Clone, Copy)]
enum End<'a> {
    /// Moves with what is committed and applied on this replica.
    Visible(&'a watch::Sender<Offset>),
    Fixed(Offset),
}

impl<'a> Records<'a> {
    /// Those that are committed and applied on a replica, now and later.
    pub(crate) fn visible(log: &'a LogStore, group: GroupId, visible: &'a watch::Sender<Offset>) -> Self {
        Self { log, group, end: End::Visible(visible) }
    }

    /// Those up to an offset that is durable.
    pub(crate) fn through(log: &'a LogStore, group: GroupId, last: Offset) -> Self {
        Self { log, group, end: End::Fixed(last) }
    }

    /// Records from `from` on, as many as the limit and the end allow; at least one if there is one.
    ///
    /// # Errors
    /// [`ReadError::BelowFloor`] for what has been trimmed; other errors name the damaged record.
    pub fn read_limited(&self, from: Offset, limit: ReadLimit) -> Result<Vec<Record>, ReadError> {
        let last = self.last();
        if from > last {
            return Ok(Vec::new());
        }
        let mut records = self.log.read(self.group, from, limit)?;
        let seen = records.partition_point(|record| record.offset <= last);
        records.truncate(seen);
        Ok(records)
    }
}

impl RecordSource for Records<'_> {
    fn first(&self) -> Offset {
        self.log.bounds(self.group).first
    }

    fn last(&self) -> Offset {
        match self.end {
            End::Visible(visible) => *visible.borrow(),
            End::Fixed(last) => last,
        }
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        let bytes = match self.end {
            End::Visible(_) => STREAM_BYTES,
            End::Fixed(_) => REBUILD_BYTES,
        };
        let limit = ReadLimit { records: limit, bytes };
        self.read_limited(from, limit).map_err(|error| match error {
            ReadError::BelowFloor { requested, first, .. } => {
                SourceError::Missing { offset: requested, first, last: self.last() }
            }
            other => SourceError::Log(Box::new(other)),
        })
    }
}
