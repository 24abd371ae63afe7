//! The rows that a batch of records changes, and the hash over them.
//!
//! `state(n) = blake3(state(n-1) ‖ rows)` for a record that changes rows, and `state(n-1)` for one that changes
//! none. `rows` are the record's row changes in the order of their keys, each as key length (u32), key, and
//! either 0 for a removed row or 1, value length (u32) and value; lengths are big-endian. The header row is not
//! among them, nor is what pruning removes. So the hash depends on the records alone, not on how they are batched.

use std::ops::Range;

use bytes::Bytes;
use odgm_log::Hash;

use crate::keys::Key;

/// The row changes of a batch. A row that several records of the batch change is written once.
#[derive(Default)]
pub(crate) struct Changes {
    /// Which batch this is; tells stale [`Written`] from current ones.
    batch: u64,
    /// The rows of the batch. Those of the current record have empty keys until it is sealed.
    rows: Vec<(Bytes, Option<Bytes>)>,
    /// The current record's rows, as they are hashed.
    record: Vec<u8>,
    /// Where in `record` each row is.
    pending: Vec<Pending>,
}

/// Where a row's newest change is within a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    batch: u64,
    index: usize,
}

struct Pending {
    /// In [`Changes::rows`].
    index: usize,
    /// In [`Changes::record`], with lengths.
    all: Range<usize>,
    key: Range<usize>,
    value: Option<Range<usize>>,
}

const LENGTH: usize = 4;

impl Changes {
    /// No changes yet.
    pub(crate) fn new() -> Self {
        // Batch 0 is never used, so that `Written::default()` is always stale.
        Self { batch: 1, ..Self::default() }
    }

    /// Sets a row. `written` remembers its place, so that the next change within the batch takes it over.
    pub(crate) fn put(&mut self, key: Key<'_>, written: &mut Written, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.record.len();
        let key = self.write_key(key);
        self.record.push(1);
        let value_start = self.record.len() + LENGTH;
        self.record.extend_from_slice(&[0; LENGTH]);
        value(&mut self.record);
        self.write_length(value_start);
        let end = self.record.len();
        self.push(written, Pending { index: 0, all: start..end, key, value: Some(value_start..end) });
    }

    /// Removes a row.
    pub(crate) fn delete(&mut self, key: Key<'_>, written: &mut Written) {
        let start = self.record.len();
        let key = self.write_key(key);
        self.record.push(0);
        let end = self.record.len();
        self.push(written, Pending { index: 0, all: start..end, key, value: None });
    }

    /// The newest value of a row that an earlier record of this batch changed; none if none did.
    pub(crate) fn value(&self, written: Written) -> Option<&Bytes> {
        let row = self.rows.get(written.index).filter(|_| written.batch == self.batch)?;
        row.1.as_ref()
    }

    /// Ends a record: folds its rows into the state hash.
    pub(crate) fn seal(&mut self, state: Hash) -> Hash {
        if self.pending.is_empty() {
            return state;
        }
        let record = &self.record;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&state.0);
        if self.pending.is_sorted_by(|a, b| record[a.key.clone()] <= record[b.key.clone()]) {
            hasher.update(record);
        } else {
            let mut sorted: Vec<&Pending> = self.pending.iter().collect();
            sorted.sort_by(|a, b| record[a.key.clone()].cmp(&record[b.key.clone()]));
            for row in sorted {
                hasher.update(&record[row.all.clone()]);
            }
        }
        // One allocation holds all rows of the record; the batch's rows are slices of it.
        let record = Bytes::copy_from_slice(record);
        for row in self.pending.drain(..) {
            self.rows[row.index] = (record.slice(row.key), row.value.map(|value| record.slice(value)));
        }
        self.record.clear();
        Hash(*hasher.finalize().as_bytes())
    }

    /// Ends the batch and hands over its rows. Where a key occurs twice, the newer change comes later.
    pub(crate) fn finish(&mut self) -> Vec<(Bytes, Option<Bytes>)> {
        self.batch += 1;
        let room = self.rows.len();
        std::mem::replace(&mut self.rows, Vec::with_capacity(room))
    }

    /// Forgets the batch.
    pub(crate) fn abandon(&mut self) {
        self.batch += 1;
        self.rows.clear();
        self.record.clear();
        self.pending.clear();
    }

    fn push(&mut self, written: &mut Written, mut row: Pending) {
        if written.batch != self.batch {
            *written = Written { batch: self.batch, index: self.rows.len() };
            self.rows.push((Bytes::new(), None));
        }
        row.index = written.index;
        self.pending.push(row);
    }

    fn write_key(&mut self, key: Key<'_>) -> Range<usize> {
        let start = self.record.len() + LENGTH;
        self.record.extend_from_slice(&[0; LENGTH]);
        key.write(&mut self.record);
        self.write_length(start);
        start..self.record.len()
    }

    /// Fills in the length of what begins at `start` and ends here.
    fn write_length(&mut self, start: usize) {
        // A record's payload is at most 64 MiB, and a removed object's keys are in rows of their own.
        #[allow(clippy::cast_possible_truncation)]
        let length = (self.record.len() - start) as u32;
        self.record[start - LENGTH..start].copy_from_slice(&length.to_be_bytes());
    }
}
