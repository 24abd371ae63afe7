//! Remembered request ids: each request is applied once, and asked again it gets the same answer.
//!
//! An id is forgotten when it is too old, when there are too many newer ones, or when they take too many bytes,
//! always the oldest first and a bounded number for each record. An id past its time is never answered from, even
//! while it waits to be removed.

use std::collections::{BTreeSet, VecDeque};

use foldhash::HashMap;
use odgm_log::{Offset, Timestamp};

use super::changes::{Changes, Written};
use crate::error::Error;
use crate::header::Header;
use crate::keys::{Key, Table};
use crate::limits::{MAX_REQUESTS_EVICTED, REQUEST_BYTES};
pub(crate) use crate::object::Request as Known;
use crate::rows::{damaged, read_request_order, write_request_order};
use crate::storage::{Order, Range, Reader};

/// So many rows of the order are read at a time.
const PAGE: usize = 64;

/// The remembered ids, as far as the batch changed them or their removal is near.
#[derive(Default)]
pub(crate) struct Requests {
    /// Ids that the batch added, or removed.
    batch: HashMap<Box<str>, Option<Known>>,
    /// The oldest ids in the storage, in order.
    front: VecDeque<Row>,
    /// Where reading goes on after `front`; none if there is no more in the storage.
    resume: Option<Offset>,
    /// The ids that the batch added, in order. All are newer than those in the storage.
    fresh: VecDeque<Row>,
    /// What the batch removed from the order.
    gone: BTreeSet<Offset>,
    started: bool,
}

/// What is known of an id.
pub(super) enum Lookup {
    /// Nothing.
    Unknown,
    /// Nothing that counts any more.
    Past,
    /// What became of its request.
    Known(Known),
}

/// A row of the order in which ids are forgotten.
struct Row {
    offset: Offset,
    time: Timestamp,
    id: Box<str>,
}

impl Requests {
    /// What is known of an id at `now`. Of one that is past its time the row is left, and no place in the order: whoever asks
    /// writes over it ([`Self::remember`]), or removes it ([`Self::forget_past`]).
    pub(super) fn look_up(
        &mut self,
        rows: &dyn Reader,
        header: &mut Header,
        changes: &mut Changes,
        now: Timestamp,
        id: &str,
    ) -> Result<Lookup, Error> {
        let known = match self.batch.get(id) {
            Some(known) => known.clone(),
            None => rows.get(&Key::Request(id).to_vec())?.map(|row| Known::read(&row)).transpose()?,
        };
        match known {
            Some(known) if is_past(header, known.time, now) => {
                self.remove_from_order(rows, header, changes, known.offset, id)?;
                Ok(Lookup::Past)
            }
            Some(known) => Ok(Lookup::Known(known)),
            None => Ok(Lookup::Unknown),
        }
    }

    /// Removes the row of an id that was past its time when it was looked up, and is not remembered again.
    pub(super) fn forget_past(&mut self, changes: &mut Changes, id: &str) {
        changes.delete(Key::Request(id), &mut Written::default());
        self.batch.insert(id.into(), None);
    }

    /// Remembers an id that is not known.
    pub(super) fn remember(&mut self, header: &mut Header, changes: &mut Changes, id: &str, known: Known) {
        changes.put(Key::Request(id), &mut Written::default(), |out| known.write(out));
        changes.put(Key::RequestOrder(known.offset), &mut Written::default(), |out| {
            write_request_order(known.time, id, out);
        });
        header.requests.count += 1;
        header.requests.bytes += weight(id);
        header.requests.oldest.get_or_insert((known.time, known.offset));
        self.fresh.push_back(Row { offset: known.offset, time: known.time, id: id.into() });
        self.batch.insert(id.into(), Some(known));
    }

    /// Forgets the oldest ids as far as the rules ask for it.
    pub(super) fn evict(
        &mut self,
        rows: &dyn Reader,
        header: &mut Header,
        changes: &mut Changes,
        now: Timestamp,
    ) -> Result<(), Error> {
        for _ in 0..MAX_REQUESTS_EVICTED {
            let Some((time, offset)) = header.requests.oldest else { break };
            let over = header.requests.count > header.config.dedup_max_ids
                || header.requests.bytes > header.config.dedup_max_bytes
                || is_past(header, time, now);
            if !over {
                break;
            }
            let id = self
                .peek(rows, header)?
                .filter(|row| row.offset == offset)
                .map(|row| row.id.clone())
                .ok_or(damaged(Table::RequestOrder, "it does not begin where the header says"))?;
            changes.delete(Key::Request(&id), &mut Written::default());
            self.remove_from_order(rows, header, changes, offset, &id)?;
            self.batch.insert(id, None);
        }
        Ok(())
    }

    /// Ends a batch: what it added is in the storage now.
    pub(super) fn finish(&mut self) {
        if self.started && self.resume.is_none() {
            self.resume = self.fresh.front().map(|row| row.offset);
        }
        // An unread front begins at the oldest row again.
        self.started &= self.resume.is_some() || !self.front.is_empty();
        self.batch.clear();
        self.fresh.clear();
        self.gone.clear();
    }

    fn remove_from_order(
        &mut self,
        rows: &dyn Reader,
        header: &mut Header,
        changes: &mut Changes,
        offset: Offset,
        id: &str,
    ) -> Result<(), Error> {
        changes.delete(Key::RequestOrder(offset), &mut Written::default());
        header.requests.count -= 1;
        header.requests.bytes -= weight(id);
        self.gone.insert(offset);
        for queue in [&mut self.front, &mut self.fresh] {
            if let Ok(at) = queue.binary_search_by(|row| row.offset.cmp(&offset)) {
                queue.remove(at);
            }
        }
        if header.requests.oldest.is_some_and(|(_, oldest)| oldest == offset) {
            header.requests.oldest = self.peek(rows, header)?.map(|row| (row.time, row.offset));
        }
        Ok(())
    }

    /// The oldest row.
    fn peek(&mut self, rows: &dyn Reader, header: &Header) -> Result<Option<&Row>, Error> {
        if !self.started {
            self.started = true;
            self.resume = header.requests.oldest.map(|(_, offset)| offset);
        }
        while self.front.is_empty()
            && let Some(from) = self.resume
        {
            self.read_page(rows, from)?;
        }
        Ok(self.front.front().or(self.fresh.front()))
    }

    fn read_page(&mut self, rows: &dyn Reader, from: Offset) -> Result<(), Error> {
        let range = Range::prefix(&[Table::RequestOrder as u8]).from(&Key::RequestOrder(from).to_vec());
        self.resume = None;
        for row in rows.range(range, Order::Ascending).take(PAGE) {
            let (key, value) = row?;
            let Some(Key::RequestOrder(offset)) = Key::parse(&key) else {
                return Err(damaged(Table::RequestOrder, "its key is not an offset"));
            };
            let (time, id) = read_request_order(&value)?;
            self.resume = Some(offset.next());
            if !self.gone.contains(&offset) {
                self.front.push_back(Row { offset, time, id: id.into() });
            }
        }
        Ok(())
    }
}

/// Whether an id of that time is no longer remembered at `now`.
fn is_past(header: &Header, time: Timestamp, now: Timestamp) -> bool {
    now.get().saturating_sub(time.get()) > Timestamp::from_millis(header.config.dedup_window_ms).get()
}

fn weight(id: &str) -> u64 {
    2 * id.len() as u64 + REQUEST_BYTES
}
