//! The log of a group, as openraft wants it: the records of [`odgm_log`], on the node's one log store.
//!
//! An append is readable when it returns and durable when its callback is called, from the store's one fsync thread, so
//! all groups of a node share their fsyncs. Purging is logical: it moves the floor that openraft sees. Records are deleted by
//! retention, and by a snapshot that takes the place of a log that does not lead to it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures_util::Stream;
use odgm_log::store::{LogStore, MAX_APPEND_BYTES, OnDurable, ReadError, ReadLimit, SyncError};
use odgm_log::{GroupId, Hash, Offset, Record};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::notes::{
    FIRST_VOTE, INSTALLING, PURGED, VOTE, decode_installing, decode_purged, decode_vote, encode_installing,
    encode_purged, encode_vote,
};
use super::types::{Entry, LogId, Types, Vote, log_id, offset, to_entry, to_record};
use super::{READ_BYTES, READ_RECORDS};
use crate::encoding::invalid;
use crate::manager::blocking;

/// A group's log. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    store: LogStore,
    group: GroupId,
    /// What the notes say, so that reading an entry costs no look-up of them.
    notes: Mutex<Notes>,
    /// Raised when records have become durable.
    flushed: watch::Sender<()>,
}

#[derive(Clone, Copy, Default)]
struct Notes {
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// Whether the member has voted where the log began.
    has_voted_first: bool,
}

impl Log {
    /// Opens the log of a group; it may be empty.
    pub(crate) fn open(store: LogStore, group: GroupId) -> io::Result<Self> {
        let note = |name| store.get_meta(group, name).map_err(io::Error::other);
        let vote = note(VOTE)?.map(|note| decode_vote(&note)).transpose()?;
        let purged = note(PURGED)?.map(|note| decode_purged(&note)).transpose()?;
        let has_voted_first = note(FIRST_VOTE)?.is_some();
        let notes = Mutex::new(Notes { vote, purged, has_voted_first });
        Ok(Self { shared: Arc::new(Shared { store, group, notes, flushed: watch::Sender::new(()) }) })
    }

    pub(crate) fn store(&self) -> &LogStore {
        &self.shared.store
    }

    pub(crate) fn group(&self) -> GroupId {
        self.shared.group
    }

    /// Whether there is neither a record nor a vote.
    pub(crate) fn is_new(&self) -> bool {
        let Shared { store, group, notes, .. } = &*self.shared;
        let Notes { vote, purged, .. } = *notes.lock();
        vote.is_none() && purged.is_none() && store.bounds(*group).last == Offset::ZERO
    }

    /// Whether nothing of the log has been lost here since it began: the store still has the note of the vote by which it did.
    pub(crate) fn has_voted_first(&self) -> bool {
        self.shared.notes.lock().has_voted_first
    }

    /// Notes that the member has voted in that term for the one with whom the log begins, and holds nothing yet.
    pub(crate) fn note_first_vote(&self, term: u64) -> io::Result<()> {
        let Shared { store, group, notes, .. } = &*self.shared;
        store.put_meta(*group, FIRST_VOTE, &term.to_be_bytes()).map_err(io::Error::other)?;
        notes.lock().has_voted_first = true;
        Ok(())
    }

    /// The snapshot that was being installed, if that was not finished.
    pub(crate) fn installing(&self) -> io::Result<Option<Offset>> {
        let Shared { store, group, .. } = &*self.shared;
        let note = store.get_meta(*group, INSTALLING).map_err(io::Error::other)?;
        note.map(|note| decode_installing(&note)).transpose()
    }

    /// Notes that the snapshot at an offset is being installed.
    pub(crate) fn begin_installing(&self, snapshot: Offset) -> io::Result<()> {
        let Shared { store, group, .. } = &*self.shared;
        store.put_meta(*group, INSTALLING, &encode_installing(snapshot)).map_err(io::Error::other)
    }

    /// Notes that nothing is being installed.
    pub(crate) fn installed(&self) -> io::Result<()> {
        let Shared { store, group, .. } = &*self.shared;
        store.delete_meta(*group, INSTALLING).map_err(io::Error::other)
    }

    /// Lets the log go on behind an entry that a snapshot holds, where the chain is `chain`. If the log leads there its
    /// records stay, those behind included: they may be part of what a quorum has. Else all of them go.
    pub(crate) fn go_on_behind(&self, through: LogId, chain: Hash) -> io::Result<()> {
        let Shared { store, group, .. } = &*self.shared;
        let at = offset(through.index);
        if !self.leads_to(at, chain)? {
            store.restart_after(*group, at, chain).map_err(io::Error::other)?;
        }
        self.shared.note_purged(through)
    }

    /// Whether the log has the record at an offset, and the chain there is `chain`. A log that cannot be read is an
    /// error: nothing may be deleted on the strength of that.
    pub(crate) fn leads_to(&self, at: Offset, chain: Hash) -> io::Result<bool> {
        let Shared { store, group, .. } = &*self.shared;
        match store.chain_at(*group, at) {
            Ok(here) => Ok(here == chain),
            Err(ReadError::AboveHead { .. }) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Waits until the record at an offset is durable here.
    pub(crate) async fn durable(&self, offset: Offset) -> io::Result<()> {
        let mut flushed = self.shared.flushed.subscribe();
        let mut failure = self.shared.store.failure();
        loop {
            flushed.mark_unchanged();
            if self.shared.durable() >= offset {
                return Ok(());
            }
            tokio::select! {
                // It is not closed while this log is borrowed.
                _ = flushed.changed() => {}
                failed = failure.wait_for(Option::is_some) => {
                    let failed = failed.ok().and_then(|failed| failed.clone());
                    return Err(failed.map_or_else(|| io::Error::other("the log store has gone"), io::Error::other));
                }
            }
        }
    }
}

impl Shared {
    fn durable(&self) -> Offset {
        self.store.bounds(self.group).durable
    }

    /// The newest entry, or the purged one if there is none behind it.
    fn last(&self) -> io::Result<Option<LogId>> {
        let purged = self.notes.lock().purged;
        let last = self.store.bounds(self.group).last;
        if purged.is_some_and(|purged| offset(purged.index) >= last) {
            return Ok(purged);
        }
        let records = self.read(last, ReadLimit { records: 1, bytes: usize::MAX })?;
        Ok(records.first().and_then(|record| log_id(record.term, record.offset)))
    }

    fn read(&self, from: Offset, limit: ReadLimit) -> io::Result<Vec<Record>> {
        self.store.read(self.group, from, limit).map_err(io::Error::other)
    }

    /// The offsets that a range of indexes means here: from the first that is not purged to the last that is there.
    fn offsets(&self, range: &impl RangeBounds<u64>) -> (Offset, Offset) {
        let first = match range.start_bound() {
            Bound::Included(index) => offset(*index),
            Bound::Excluded(index) => offset(*index).next(),
            Bound::Unbounded => Offset(1),
        };
        let last = match range.end_bound() {
            Bound::Included(index) => Offset(index.saturating_add(1)),
            Bound::Excluded(index) => Offset(*index),
            Bound::Unbounded => Offset(u64::MAX),
        };
        let kept = self.notes.lock().purged.map_or(Offset(1), |purged| offset(purged.index).next());
        (first.max(kept), last.min(self.store.bounds(self.group).last))
    }

    /// The next entries of a range; none at its end.
    fn read_part(&self, from: Offset, last: Offset) -> io::Result<Vec<Record>> {
        if from > last {
            return Ok(Vec::new());
        }
        let left = usize::try_from(last.0 - from.0 + 1).unwrap_or(usize::MAX);
        self.read(from, ReadLimit { records: left.min(READ_RECORDS), bytes: READ_BYTES })
    }

    /// Appends records, in as many parts as the store's limit asks for. `durable` is told of the last.
    fn append(&self, mut records: &[Record], durable: OnDurable) -> io::Result<()> {
        let mut bytes = 0;
        loop {
            let fits = records.iter().take_while(|record| {
                bytes += record.payload.len();
                bytes <= MAX_APPEND_BYTES
            });
            let (part, rest) = records.split_at(fits.count());
            if rest.is_empty() || part.is_empty() {
                return self.store.append(self.group, records, durable).map(drop).map_err(io::Error::other);
            }
            self.store.append(self.group, part, Box::new(drop)).map_err(io::Error::other)?;
            (records, bytes) = (rest, 0);
        }
    }

    fn note_purged(&self, through: LogId) -> io::Result<()> {
        self.store.put_meta(self.group, PURGED, &encode_purged(through)).map_err(io::Error::other)?;
        self.notes.lock().purged = Some(through);
        Ok(())
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let (mut next, last) = self.shared.offsets(&range);
        let mut entries = Vec::new();
        loop {
            let records = self.shared.read_part(next, last)?;
            let Some(newest) = records.last() else { return Ok(entries) };
            next = newest.offset.next();
            for record in records {
                entries.push(to_entry(record)?);
            }
        }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let (first, last) = self.shared.offsets(&(start..end));
        self.shared.read_part(first, last)?.into_iter().map(to_entry).collect()
    }

    /// In parts, so that a long way to catch up is not in memory at once.
    async fn entries_stream<R>(&mut self, range: R) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let shared = Arc::clone(&self.shared);
        let (first, last) = shared.offsets(&range);
        let parts = futures_util::stream::try_unfold(first, move |next| {
            let shared = Arc::clone(&shared);
            async move {
                let records = shared.read_part(next, last)?;
                let after = records.last().map(|record| record.offset.next());
                let entries = records.into_iter().map(to_entry);
                Ok::<_, io::Error>(after.map(|after| (futures_util::stream::iter(entries), after)))
            }
        });
        Box::pin(futures_util::TryStreamExt::try_flatten(parts))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.notes.lock().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_purged_log_id = self.shared.notes.lock().purged;
        Ok(LogState { last_purged_log_id, last_log_id: self.shared.last()? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (shared, vote) = (Arc::clone(&self.shared), *vote);
        blocking(move || {
            let note = encode_vote(&vote);
            shared.store.put_meta(shared.group, VOTE, &note).map_err(io::Error::other)?;
            shared.notes.lock().vote = Some(vote);
            Ok(())
        })
        .await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records = entries.into_iter().map(to_record).collect::<io::Result<Vec<_>>>()?;
        let last = records.last().map_or(Offset::ZERO, |record| record.offset);
        let shared = Arc::clone(&self.shared);
        let durable = move |synced: Result<(), SyncError>| {
            let synced = synced.map_err(io::Error::other);
            // A newer append of this group was synced with this one and reports for both: openraft only looks at the
            // newest report, and a second one within a microsecond costs it a sleep.
            if synced.is_err() || shared.durable() <= last || matches!(callback, IOFlushed::Signal(_)) {
                callback.io_completed(synced);
            }
            shared.flushed.send_replace(());
        };
        self.shared.append(&records, Box::new(durable))
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let Shared { store, group, .. } = &*shared;
            let keep = keep.map_or(Offset::ZERO, |keep| offset(keep.index));
            let last = store.bounds(*group).last;
            if keep >= last {
                return Ok(());
            }
            store.truncate_after(*group, keep).map_err(io::Error::other)
        })
        .await
    }

    async fn purge(&mut self, through: LogId) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let end = shared.store.bounds(shared.group).last;
            if offset(through.index) > end {
                // Installing the snapshot has let the log go on behind it; without one nothing leads there.
                return Err(invalid(format!(
                    "the log of group {} ends at {end}, before {through}",
                    shared.group
                )));
            }
            shared.note_purged(through)
        })
        .await
    }
}
