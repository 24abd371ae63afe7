//! Rows in memory in front of the database: the newest, which it does not have yet, and some that were read.
//!
//! Rows that are written gather here and reach the database later, many batches as one: a row that several of them
//! change is written once, and neighbours are written together, which costs the database a fraction of what row by row
//! does. A crash loses no more than it would anyway, since the database itself keeps rows in memory until they are
//! flushed. Rows that were read are kept in two generations: when the young one is full, the old one is dropped.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;

use crate::storage::Batch;

/// Rows by key; none where a row was removed.
pub(super) type Written = HashMap<Bytes, Option<Bytes>>;

/// About what a row costs besides its bytes.
const ROW_BYTES: usize = 96;

/// Larger rows are not kept when they are read.
const LARGEST_KEPT: usize = 16 << 10;

/// The rows in memory. It does no I/O.
#[derive(Default)]
pub(super) struct Front {
    /// What the database does not have.
    written: Written,
    /// What all batches since rows last left weigh, rows that were written over included.
    written_weight: usize,
    /// An empty table to gather in next, as large as the last one had become: growing one anew each time costs more
    /// than filling it.
    spare: Written,
    /// What is being written to the database; newer than the rows there, older than `written`.
    leaving: Arc<Written>,
    young: HashMap<Bytes, Bytes>,
    young_bytes: usize,
    old: HashMap<Bytes, Bytes>,
    /// Raised by each batch: what was read before it may be outdated.
    version: u64,
}

impl Front {
    /// The row as it is now, if it is known here: none inside if there is no such row.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.written
            .get(key)
            .or_else(|| self.leaving.get(key))
            .cloned()
            .or_else(|| self.young.get(key).or_else(|| self.old.get(key)).cloned().map(Some))
    }

    /// Which batch was the last.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// What was written since rows last left takes so many bytes of memory, about.
    pub(super) fn written_weight(&self) -> usize {
        self.written_weight
    }

    /// Takes a batch in.
    pub(super) fn write(&mut self, batch: Batch) {
        self.version += 1;
        self.written_weight += batch.bytes() + batch.len() * ROW_BYTES;
        self.written.extend(batch.into_operations());
    }

    /// Makes all that was written leave. It stays visible until [`Self::left`]; if that is not called because the
    /// database refused the rows, the next call gives them again, and their weight keeps counting.
    pub(super) fn leave(&mut self) -> Arc<Written> {
        if self.written.is_empty() {
            return Arc::clone(&self.leaving);
        }
        let mut leaving = std::mem::replace(&mut self.written, std::mem::take(&mut self.spare));
        if self.leaving.is_empty() {
            self.written_weight = 0;
        }
        for (key, value) in self.leaving.iter() {
            leaving.entry(key.clone()).or_insert_with(|| value.clone());
        }
        self.leaving = Arc::new(leaving);
        Arc::clone(&self.leaving)
    }

    /// What was leaving is in the database. Rows that were read are brought up to date with it. Answers what left, to be
    /// emptied without holding anybody up and given to [`Self::reuse`].
    pub(super) fn left(&mut self) -> Arc<Written> {
        let left = std::mem::take(&mut self.leaving);
        if !self.young.is_empty() || !self.old.is_empty() {
            for (key, value) in left.iter() {
                self.renew(key, value.as_ref().filter(|value| value.len() <= LARGEST_KEPT));
            }
        }
        left
    }

    /// Takes back an emptied table.
    pub(super) fn reuse(&mut self, table: Written) {
        debug_assert!(table.is_empty(), "its rows have left");
        self.spare = table;
    }

    fn renew(&mut self, key: &Bytes, value: Option<&Bytes>) {
        let known = match self.young.remove_entry(key) {
            Some((key, known)) => {
                self.young_bytes -= weight(&key, &known);
                self.old.remove(&key);
                Some(key)
            }
            None => self.old.remove_entry(key).map(|(key, _)| key),
        };
        if let (Some(key), Some(value)) = (known, value) {
            self.young_bytes += weight(&key, value);
            // Copied: a written row is a part of a larger block that it would keep alive.
            self.young.insert(key, copied(value));
        }
    }

    /// Keeps a row that was read from the database, unless there has been a batch since `version`; all of them
    /// together weigh at most `limit` bytes.
    pub(super) fn keep(&mut self, version: u64, key: &[u8], value: &Bytes, limit: usize) {
        if version != self.version || value.len() > LARGEST_KEPT {
            return;
        }
        if self.young_bytes > limit / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += weight(key, value);
        if let Some(known) = self.young.insert(copied(key), value.clone()) {
            self.young_bytes -= weight(key, &known);
        }
    }
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn weight(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ROW_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1 << 20;

    fn batch(rows: &[(&'static str, Option<&'static str>)]) -> Batch {
        let mut batch = Batch::new();
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(*key, *value),
                None => batch.delete(*key),
            }
        }
        batch
    }

    fn get(front: &Front, key: &str) -> Option<Option<String>> {
        front.get(key.as_bytes()).map(|row| row.map(|row| String::from_utf8_lossy(&row).into_owned()))
    }

    #[test]
    fn the_newest_row_counts_wherever_it_is_on_its_way() {
        let mut front = Front::default();
        front.keep(0, b"a", &Bytes::from("read"), ROOM);
        assert_eq!(get(&front, "a"), Some(Some("read".into())));
        front.write(batch(&[("a", Some("1")), ("b", Some("1")), ("c", None)]));
        assert_eq!(get(&front, "a"), Some(Some("1".into())));
        assert_eq!(get(&front, "c"), Some(None), "it is known that there is none");
        assert_eq!(get(&front, "d"), None, "only the database knows");
        let leaving = front.leave();
        assert_eq!((leaving.len(), front.written_weight()), (3, 0));
        front.write(batch(&[("b", Some("2"))]));
        assert_eq!(get(&front, "a"), Some(Some("1".into())), "it has not arrived yet");
        assert_eq!(get(&front, "b"), Some(Some("2".into())));
        front.left();
        assert_eq!(get(&front, "a"), Some(Some("1".into())), "what was read is kept up to date");
        assert_eq!(get(&front, "c"), None);
        assert_eq!(get(&front, "b"), Some(Some("2".into())));
    }

    #[test]
    fn rows_that_were_refused_leave_again_with_what_came_since() {
        let mut front = Front::default();
        front.write(batch(&[("a", Some("1")), ("b", Some("1"))]));
        front.leave();
        front.write(batch(&[("b", Some("2"))]));
        let again = front.leave();
        assert!(front.written_weight() > 0, "whoever writes learns that rows do not leave");
        let value = |key: &'static str| again[key.as_bytes()].clone();
        assert_eq!((value("a"), value("b")), (Some(Bytes::from("1")), Some(Bytes::from("2"))));
    }

    #[test]
    fn what_was_read_before_a_batch_is_not_kept_after_it() {
        let mut front = Front::default();
        let before = front.version();
        front.write(batch(&[("a", Some("new"))]));
        front.leave();
        front.left();
        front.keep(before, b"a", &Bytes::from("old"), ROOM);
        assert_eq!(get(&front, "a"), None);
    }

    #[test]
    fn rows_that_were_read_stay_within_their_room() {
        let mut front = Front::default();
        let key = |number: u32| format!("row-{number:04}").into_bytes();
        for number in 0..1_000 {
            front.keep(0, &key(number), &Bytes::from("value"), 20 * weight(&key(number), b"value"));
        }
        let kept = (0..1_000).filter(|number| front.get(&key(*number)).is_some()).count();
        assert!((10..=22).contains(&kept), "{kept}");
        assert!(front.get(&key(999)).is_some(), "the newest is among them");
    }

    #[test]
    fn a_removed_row_is_not_answered_from_what_was_read() {
        let mut front = Front::default();
        front.keep(0, b"a", &Bytes::from("1"), ROOM);
        front.write(batch(&[("a", None)]));
        front.leave();
        front.left();
        assert_eq!(get(&front, "a"), None);
    }
}
