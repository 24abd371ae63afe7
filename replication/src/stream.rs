//! A partition's events in order, from any place in its log and on as they come.
//!
//! A reader looks at every visible record after its place and gives an event for each that changed something. It
//! reads from the log at its own pace and holds nothing back: not a write, and not a trim.

use std::sync::Arc;

use odgm_log::store::{ReadError, ReadLimit};
use odgm_log::{Offset, Payload, PayloadError, Timestamp};
use odgm_projections::{Change, RecordSource};
use tokio::sync::watch;

use crate::limits::{STREAM_BYTES, STREAM_RECORDS};
use crate::partition::Partition;

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPoint {
    /// At the first record that is kept.
    Earliest,
    /// After the newest visible record.
    Latest,
    /// At this offset.
    Offset(Offset),
    /// After this offset.
    After(Offset),
    /// At the first record at or after this time.
    Time(Timestamp),
}

/// What one record changed, and the record's payload.
#[derive(Clone, Debug)]
pub struct Event {
    /// The classification that apply made.
    pub change: Change,
    /// The operation and its cause.
    pub payload: Payload,
}

/// Events, and how far the reader has got.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// One for each record that changed something, in order.
    pub events: Vec<Event>,
    /// Every record up to here has been looked at.
    pub progress: Offset,
    /// The newest visible offset when the batch was made.
    pub head: Offset,
}

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The records after the reader's place have been trimmed.
    #[error(
        "offset {requested} has been trimmed: the first record kept is {first}; read the state from the snapshot at \
         {snapshot} and go on from {first}"
    )]
    BelowFloor {
        /// The first offset that was wanted.
        requested: Offset,
        /// The first that there is.
        first: Offset,
        /// The newest offset that the state before `first` covers.
        snapshot: Offset,
    },
    /// The records after the reader's place are kept, but not on this replica, which came back through a snapshot.
    #[error(
        "this replica came back through a snapshot and has records from {first} on only; it fetches those from {kept} on \
         from another one"
    )]
    Missing {
        /// The first record that it has.
        first: Offset,
        /// The first that the partition keeps.
        kept: Offset,
    },
    /// The place is beyond the log.
    #[error("offset {requested} is beyond the head {head} of the partition: this cursor is of another log")]
    Ahead {
        /// What was asked for.
        requested: Offset,
        /// The newest visible offset.
        head: Offset,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(ReadError),
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] odgm_projections::Error),
    /// A record cannot be decoded.
    #[error("offset {offset}: {source}")]
    Payload {
        /// The record.
        offset: Offset,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// The partition has been deleted or the node stops.
    #[error("the partition is closed")]
    Closed,
}

/// Reads the events of one partition.
pub struct EventReader {
    partition: Arc<Partition>,
    visible: watch::Receiver<Offset>,
    /// Everything up to here has been looked at.
    progress: Offset,
}

impl EventReader {
    /// A reader at `start`. May read from the disk: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`StreamError::BelowFloor`] and [`StreamError::Ahead`] for places that the log does not have.
    pub fn open(partition: Arc<Partition>, start: StartPoint) -> Result<Self, StreamError> {
        let visible = partition.visible();
        let head = *visible.borrow();
        let first = first_kept(&partition);
        let progress = match start {
            StartPoint::Earliest => match partition.missing_from() {
                // What is earliest here is not where the partition begins.
                Some(kept) => return Err(StreamError::Missing { first, kept }),
                None => first.previous(),
            },
            StartPoint::Latest => head,
            StartPoint::Offset(offset) => offset.previous(),
            StartPoint::After(offset) => offset,
            StartPoint::Time(time) => {
                let before = Timestamp(time.0.saturating_sub(1));
                partition.view().offset_at(before, &partition.records())?
            }
        };
        if progress > head {
            let requested = match start {
                StartPoint::Offset(offset) | StartPoint::After(offset) => offset,
                _ => progress,
            };
            return Err(StreamError::Ahead { requested, head });
        }
        if progress.next() < first {
            return Err(below_floor(&partition, progress.next()));
        }
        Ok(Self { partition, visible, progress })
    }

    /// Everything up to here has been looked at.
    pub fn progress(&self) -> Offset {
        self.progress
    }

    /// The partition.
    pub fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Waits until there is something after the reader's place.
    ///
    /// # Errors
    /// [`StreamError::Closed`] if there never will be.
    pub async fn ready(&mut self) -> Result<(), StreamError> {
        let progress = self.progress;
        tokio::select! {
            visible = self.visible.wait_for(|visible| *visible > progress) => {
                visible.map(|_| ()).map_err(|_| StreamError::Closed)
            }
            () = self.partition.closed().cancelled() => Err(StreamError::Closed),
        }
    }

    /// Looks at the next records, at once; without any, the batch is empty. May read from the disk: call it where
    /// blocking is allowed.
    ///
    /// # Errors
    /// [`StreamError::BelowFloor`] where records have been trimmed under the reader.
    pub fn read(&mut self) -> Result<EventBatch, StreamError> {
        let limit = ReadLimit { records: STREAM_RECORDS, bytes: STREAM_BYTES };
        let next = self.progress.next();
        let records = self.partition.records().read_limited(next, limit).map_err(|error| match error {
            ReadError::BelowFloor { requested, .. } => below_floor(&self.partition, requested),
            other => StreamError::Log(other),
        })?;
        let mut events = Vec::with_capacity(records.len());
        for record in &records {
            let payload =
                record.decode().map_err(|source| StreamError::Payload { offset: record.offset, source })?;
            if let Some(object) = payload.body.subject()
                && let Some(change) = self.partition.view().change(object, record.offset)?
            {
                events.push(Event { change, payload });
            }
        }
        // Looked at last: what the view no longer answered, it had forgotten by now.
        let first = first_kept(&self.partition);
        if next < first {
            return Err(below_floor(&self.partition, next));
        }
        if let Some(last) = records.last() {
            self.progress = last.offset;
        }
        Ok(EventBatch { events, progress: self.progress, head: *self.visible.borrow() })
    }
}

/// The first record of which view and log both know. Once a trim is applied the view has forgotten what is below,
/// while the log may still hold it.
fn first_kept(partition: &Partition) -> Offset {
    partition.records().first().max(partition.view().header().floor)
}

/// Why there is no record at an offset: nobody keeps it, or only this replica has not got it.
fn below_floor(partition: &Partition, requested: Offset) -> StreamError {
    let first = first_kept(partition);
    match partition.missing_from() {
        Some(kept) if requested >= kept => StreamError::Missing { first, kept },
        _ => StreamError::BelowFloor { requested, first, snapshot: first.previous() },
    }
}
