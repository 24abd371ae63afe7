//! The records of a partition, as readers may see them.

use odgm_log::store::{ReadError, ReadLimit};
use odgm_log::{Offset, Record};
use odgm_projections::{RecordSource, SourceError};

use crate::limits::STREAM_BYTES;
use crate::replica::Replica;

/// The committed records that are applied on this replica.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    replica: &'a Replica,
}

impl<'a> Records<'a> {
    pub(crate) fn new(replica: &'a Replica) -> Self {
        Self { replica }
    }

    /// Records from `from` on, as many as both limits and what is visible allow; at least one if there is one.
    ///
    /// # Errors
    /// [`ReadError::BelowFloor`] for what has been trimmed; other errors name the damaged record.
    pub fn read_limited(&self, from: Offset, limit: ReadLimit) -> Result<Vec<Record>, ReadError> {
        let visible = self.replica.visible();
        if from > visible {
            return Ok(Vec::new());
        }
        let mut records = self.replica.log.read(self.replica.group, from, limit)?;
        let seen = records.partition_point(|record| record.offset <= visible);
        records.truncate(seen);
        Ok(records)
    }
}

impl RecordSource for Records<'_> {
    fn first(&self) -> Offset {
        self.replica.log.bounds(self.replica.group).first
    }

    fn last(&self) -> Offset {
        self.replica.visible()
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        let limit = ReadLimit { records: limit, bytes: STREAM_BYTES };
        self.read_limited(from, limit).map_err(|error| match error {
            ReadError::BelowFloor { requested, first, .. } => {
                SourceError::Missing { offset: requested, first, last: self.last() }
            }
            other => SourceError::Log(Box::new(other)),
        })
    }
}
