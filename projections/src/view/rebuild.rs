//! Catching up with the log, and building a view anew from it.

use std::sync::mpsc::sync_channel;
use std::thread;

use odgm_log::{Hash, Offset, PayloadError};

use super::{View, ViewOptions, is_missing};
use crate::error::{ApplyError, Error, OpenError};
use crate::limits::{REBUILD_BATCHES, REBUILD_RECORDS};
use crate::outcome::Committed;
use crate::source::{RecordSource, SourceError};

/// Where a rebuild begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record. The log must still have it.
    Beginning,
    /// At the snapshot of that offset.
    Snapshot(Offset),
}

/// Why a view could not be brought up to its log.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is a view already.
    #[error("there is a view in {dir} already: rebuild into an empty directory")]
    Exists {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// The view could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log does not have the record that the view needs next.
    #[error(
        "the view needs record {next} next, but the log begins at {first}: start from a snapshot at {last} or later",
        last = .first.previous()
    )]
    Gap {
        /// The record needed.
        next: Offset,
        /// The first record in the log.
        first: Offset,
    },
    /// The log could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A record cannot be understood.
    #[error("record {offset}: {source}")]
    Payload {
        /// The record.
        offset: Offset,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// A record could not be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The view could not be written out.
    #[error(transparent)]
    View(#[from] Error),
}

/// Builds the view of `options` in its directory, which must be missing or empty, from a log, and waits until it is
/// on disk. `progress` hears after each batch of the applied and the last offset.
///
/// # Errors
/// [`RebuildError`]; the directory then holds what was built so far.
pub fn rebuild(
    options: &ViewOptions,
    start: Start,
    log: &dyn RecordSource,
    progress: &mut dyn FnMut(Offset, Offset),
) -> Result<View, RebuildError> {
    if !is_missing(&options.dir)? {
        return Err(RebuildError::Exists { dir: options.dir.clone() });
    }
    let snapshot = match start {
        Start::Beginning => None,
        Start::Snapshot(offset) => Some(offset),
    };
    let view = View::open_from(options, |_| snapshot)?;
    view.catch_up(log, progress)?;
    view.flush()?;
    Ok(view)
}

impl View {
    /// Applies all records of `log` that the view does not have yet. Reading and decoding run on a thread of their
    /// own. `progress` hears after each batch of the applied and the last offset.
    ///
    /// # Errors
    /// [`RebuildError`]; the view then holds the batches before the one that failed.
    pub fn catch_up(
        &self,
        log: &dyn RecordSource,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<(), RebuildError> {
        let next = self.header().applied.next();
        let (first, last) = (log.first(), log.last());
        if next > last {
            return Ok(());
        }
        if next < first {
            return Err(RebuildError::Gap { next, first });
        }
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(REBUILD_BATCHES);
            let mut chain = self.header().chain;
            scope.spawn(move || {
                let mut next = next;
                while next <= last {
                    let batch = read_batch(log, next, last, &mut chain);
                    next = match &batch {
                        Ok(batch) if !batch.is_empty() => Offset(next.get() + batch.len() as u64),
                        _ => last.next(),
                    };
                    // Nobody receives any more once a batch could not be applied.
                    if sender.send(batch).is_err() {
                        break;
                    }
                }
            });
            for batch in receiver {
                self.apply(&batch?)?;
                progress(self.header().applied, last);
            }
            Ok(())
        })
    }
}

/// `chain` is the log's chain up to the record before `from`, and then up to the last of the batch.
fn read_batch(
    log: &dyn RecordSource,
    from: Offset,
    last: Offset,
    chain: &mut Hash,
) -> Result<Vec<Committed>, RebuildError> {
    let records = log.read(from, REBUILD_RECORDS)?;
    records
        .into_iter()
        .take_while(|record| record.offset <= last)
        .map(|record| match record.decode() {
            Ok(payload) => {
                let committed = Committed::new(*chain, record, payload);
                *chain = committed.chain;
                Ok(committed)
            }
            Err(source) => Err(RebuildError::Payload { offset: record.offset, source }),
        })
        .collect()
}
