//! Reads of the past: from the newest snapshot before it, the object's history, and its records in the log.
//!
//! The history says which records still matter for the object as it was: walked from the newest, a key is settled
//! by the first record that wrote it without merging. Only those records are read and applied again.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use odgm_log::body::{Body, SetMode};
use odgm_log::{BodyType, Hash, Offset, Record, Timestamp};

use super::read::{history_range, misplaced, parse_change, read_object};
use super::{View, header_of};
use crate::change::{Change, ChangeKind};
use crate::core::Core;
use crate::error::Error;
use crate::header::Header;
use crate::keys::{Key, Table, object_prefix};
use crate::limits::TIME_INDEX_RECORDS;
use crate::object::{Moment, Object};
use crate::outcome::Committed;
use crate::rows::ObjectRow;
use crate::source::RecordSource;
use crate::storage::{self, Order, Range, Reader, Rows, Share};

impl View {
    /// The object as it was after the record at `offset`; none if there was no such object then. Costs the
    /// object's history since the newest snapshot before, and the records that still mattered then.
    ///
    /// # Errors
    /// [`Error::Ahead`] above what is applied, [`Error::BelowFloor`] below what is kept, and all that reading can
    /// meet.
    pub fn object_at(
        &self,
        id: &str,
        offset: Offset,
        log: &dyn RecordSource,
    ) -> Result<Option<Object>, Error> {
        let rows = self.inner.storage.reader()?;
        let header = self.header_in(&*rows)?;
        if offset > header.applied {
            return Err(Error::Ahead { requested: offset, applied: header.applied });
        }
        let base = self.inner.snapshots.at_or_before(offset);
        let reach = base.map_or(Offset(1), Offset::next).max(header.floor);
        let created = present_creation(&*rows, id)?.filter(|created| created.offset <= offset);
        let mut past = Past { created, ..Past::default() };
        let range = history_range(id, reach).through(&Key::History(id, offset).to_vec());
        for row in rows.range(range, Order::Descending) {
            if past.see(parse_change(&row?)?) {
                break;
            }
        }
        drop(rows);
        let base = match base {
            _ if past.complete => None,
            Some(base) if base.next() >= header.floor => Some(self.inner.snapshots.reader(base)?),
            None if header.floor <= Offset(1) => None,
            _ => return Err(self.below_floor(offset, header.floor)),
        };
        past.restore(id, &header, base.as_deref(), log)
    }

    /// The last offset whose time is not after `time`; 0 if `time` is before the first record.
    ///
    /// # Errors
    /// [`Error::BelowFloor`] for a time before what is kept, and all that reading can meet.
    pub fn offset_at(&self, time: Timestamp, log: &dyn RecordSource) -> Result<Offset, Error> {
        let rows = self.inner.storage.reader()?;
        let header = self.header_in(&*rows)?;
        if time >= header.time {
            return Ok(header.applied);
        }
        let first = Key::Time(Timestamp(time.get() + 1), Offset::ZERO).to_vec();
        let mut index = rows.range(Range::prefix(&[Table::Time as u8]).until(&first), Order::Descending);
        let indexed = match index.next().transpose()? {
            None => None,
            Some((key, _)) => match Key::parse(&key) {
                Some(Key::Time(time, offset)) => Some(Moment { offset, time }),
                _ => return Err(misplaced(Table::Time)),
            },
        };
        drop(index);
        drop(rows);
        let start = match indexed {
            Some(moment) if moment.offset >= header.floor => moment,
            None if header.floor <= Offset(1) => return Ok(Offset::ZERO),
            _ => self.moment_at_floor(&header)?.filter(|moment| moment.time <= time).ok_or_else(|| {
                // The exact offset is not known any more, only that it is below this one.
                self.below_floor(header.floor.previous(), header.floor)
            })?,
        };
        last_not_after(time, start, header.applied, log)
    }

    /// The offset and the time just below the floor, if the snapshot there is kept.
    fn moment_at_floor(&self, header: &Header) -> Result<Option<Moment>, Error> {
        let offset = header.floor.previous();
        if self.inner.snapshots.at_or_before(offset) != Some(offset) {
            return Ok(None);
        }
        let snapshot = header_of(&*self.inner.snapshots.reader(offset)?)?;
        Ok(snapshot.map(|snapshot| Moment { offset, time: snapshot.time }))
    }

    fn below_floor(&self, requested: Offset, floor: Offset) -> Error {
        Error::BelowFloor { requested, first: floor, snapshot: self.inner.snapshots.oldest() }
    }
}

/// Reads on from `start`, whose time is not after `time`, to the last record of which that is true.
fn last_not_after(
    time: Timestamp,
    start: Moment,
    applied: Offset,
    log: &dyn RecordSource,
) -> Result<Offset, Error> {
    let page = usize::try_from(TIME_INDEX_RECORDS).unwrap_or(usize::MAX);
    let mut last = start;
    while last.offset < applied {
        let records = log.read(last.offset.next(), page)?;
        if records.is_empty() {
            break;
        }
        for record in records {
            let next = last.time.max(record.stamp);
            if next > time || record.offset > applied {
                return Ok(last.offset);
            }
            last = Moment { offset: record.offset, time: next };
        }
    }
    Ok(last.offset)
}

fn present_creation(rows: &dyn Reader, id: &str) -> Result<Option<Moment>, Error> {
    let row = rows.get(&Key::Object(id).to_vec())?;
    Ok(row.map(|row| ObjectRow::read_summary(&row)).transpose()?.map(|object| object.created))
}

/// What matters for an object as it was, found walking its history from the newest change.
#[derive(Default)]
struct Past {
    /// The newest change.
    newest: Option<Change>,
    /// The changes whose records have to be applied again, newest first.
    needed: Vec<Change>,
    /// The keys that no older change can matter to.
    settled: HashSet<String>,
    /// The same for all keys.
    entries_settled: bool,
    triggers_settled: bool,
    /// Where the object was created, once known.
    created: Option<Moment>,
    /// Nothing older matters.
    complete: bool,
}

impl Past {
    /// Takes the next older change; true if nothing older matters.
    fn see(&mut self, change: Change) -> bool {
        if change.kind.is_of_function() {
            // The object was as before.
            return self.complete;
        }
        if change.kind == ChangeKind::Deleted {
            self.newest.get_or_insert(change);
            self.complete = true;
            return true;
        }
        let created = change.kind == ChangeKind::Created;
        let entries = !self.entries_settled
            && (change.replaced || change.keys.iter().any(|(key, _)| !self.settled.contains(key)));
        let triggers = !self.triggers_settled && change.triggers_changed;
        if created {
            self.created = Some(Moment { offset: change.offset, time: change.time });
        }
        if change.operation != BodyType::Merge && entries {
            self.settled.extend(change.keys.iter().map(|(key, _)| key.clone()));
        }
        self.entries_settled |= change.replaced || created;
        self.triggers_settled |= change.triggers_changed || created;
        if self.newest.is_none() {
            self.newest = Some(change.clone());
        }
        if entries || triggers || created {
            self.needed.push(change);
        }
        self.complete = self.entries_settled && self.triggers_settled && self.created.is_some();
        self.complete
    }

    /// Builds the object from a snapshot's rows and the records that matter.
    fn restore(
        self,
        id: &str,
        header: &Header,
        base: Option<&dyn Reader>,
        log: &dyn RecordSource,
    ) -> Result<Option<Object>, Error> {
        let Some(newest) = self.newest else {
            return base.map_or(Ok(None), |base| read_object(base, id));
        };
        if newest.kind == ChangeKind::Deleted {
            return Ok(None);
        }
        let mut scratch = Scratch::new(header);
        let mut created = self.created;
        if let Some(base) = base {
            scratch.copy_object(base, id)?;
            created = created.or(present_creation(base, id)?);
        }
        for change in self.needed.iter().rev() {
            scratch.replay(change, log.get(change.offset)?)?;
        }
        let object = read_object(&scratch, id)?;
        Ok(object.map(|object| Object {
            version: newest.version,
            created: created.unwrap_or(object.created),
            updated: Moment { offset: newest.offset, time: newest.time },
            ..object
        }))
    }
}

/// The rows of one object while its past is built.
struct Scratch {
    rows: BTreeMap<Bytes, Bytes>,
    /// Of a view that holds nothing else.
    header: Header,
}

impl Scratch {
    fn new(header: &Header) -> Self {
        let header = Header { semantics: header.semantics, ..Header::new(header.group) };
        Self { rows: BTreeMap::new(), header }
    }

    fn copy_object(&mut self, from: &dyn Reader, id: &str) -> Result<(), Error> {
        let key = Key::Object(id).to_vec();
        let Some(object) = from.get(&key)? else { return Ok(()) };
        self.header.objects = 1;
        self.header.entries = ObjectRow::read_summary(&object)?.entry_count;
        self.rows.insert(key.into(), object);
        for row in from.range(Range::prefix(&object_prefix(Table::Entry, id)), Order::Ascending) {
            let (key, value) = row?;
            self.rows.insert(key, value);
        }
        Ok(())
    }

    /// Applies a record that was applied before, under what is known of how that went.
    fn replay(&mut self, change: &Change, record: Record) -> Result<(), Error> {
        let mut payload =
            record.decode().map_err(|source| Error::Payload { offset: record.offset, source })?;
        // It was not a repetition, its expectation was met and its documents were small enough, or it would not
        // have changed anything. Records in between may be left out, so none of that can be asked again.
        payload.cause.request_id = None;
        // What it asked for and what it was caused by is known, and nothing of the object.
        payload.cause.parent = None;
        if let Body::SetValues(body) = &mut payload.body {
            body.expected_version = None;
        }
        let mut then = self.header.clone();
        then.applied = record.offset.previous();
        then.time = change.time;
        then.config.set_mode = if change.replaced { SetMode::Replace } else { SetMode::Upsert };
        then.config.max_crdt_bytes = u64::MAX;
        then.config.events_enabled = false;
        let mut core = Core::new(then, Share::none());
        core.apply(&*self, &Committed::new(Hash::ZERO, record, payload)).map_err(Box::new)?;
        for (key, value) in core.finish().operations() {
            match value {
                Some(value) => self.rows.insert(key.clone(), value.clone()),
                None => self.rows.remove(key),
            };
        }
        self.header = core.header().clone();
        Ok(())
    }
}

impl Reader for Scratch {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, storage::Error> {
        Ok(self.rows.get(key).cloned())
    }

    fn range(&self, range: Range, order: Order) -> Rows<'_> {
        let rows = self.rows.iter().map(|(key, value)| (key.clone(), value.clone()));
        let inside = rows.filter(move |(key, _)| range.contains(key)).map(Ok);
        match order {
            Order::Ascending => Box::new(inside),
            Order::Descending => Box::new(inside.rev()),
        }
    }
}
