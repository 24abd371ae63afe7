//! Where a view reads records that it applied long ago.

use odgm_log::{Offset, Record};

/// The committed records of the view's partition.
pub trait RecordSource: Send + Sync {
    /// The first offset that is kept; one above [`Self::last`] if there is none.
    fn first(&self) -> Offset;

    /// The last offset, 0 if there has never been one.
    fn last(&self) -> Offset;

    /// Up to `limit` records in order beginning at `from`: at least one if `from` is at most [`Self::last`],
    /// none above it. An implementation may return fewer than `limit` to bound the bytes.
    ///
    /// # Errors
    /// If a record at or above `from` cannot be read, or is below [`Self::first`].
    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError>;

    /// One record.
    ///
    /// # Errors
    /// As [`Self::read`]; also if there is no such record yet.
    fn get(&self, offset: Offset) -> Result<Record, SourceError> {
        self.read(offset, 1)?
            .into_iter()
            .next()
            .filter(|record| record.offset == offset)
            .ok_or(SourceError::Missing { offset, first: self.first(), last: self.last() })
    }
}

/// Why a record could not be read from the log.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such record, or none any more.
    #[error("record {offset} is not in the log, which holds {first} to {last}")]
    Missing {
        /// The record that was asked for.
        offset: Offset,
        /// The first that is kept.
        first: Offset,
        /// The last.
        last: Offset,
    },
    /// The log could not be read.
    #[error("reading the log failed: {0}")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Records in memory, contiguous and in order; for tests and tools.
impl RecordSource for [Record] {
    fn first(&self) -> Offset {
        <[Record]>::first(self).map_or(Offset(1), |record| record.offset)
    }

    fn last(&self) -> Offset {
        <[Record]>::last(self).map_or(Offset::ZERO, |record| record.offset)
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        let first = RecordSource::first(self);
        let Some(skip) = from.get().checked_sub(first.get()) else {
            return Err(SourceError::Missing { offset: from, first, last: RecordSource::last(self) });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Ok(self.iter().skip(skip).take(limit).cloned().collect())
    }
}
