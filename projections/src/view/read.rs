//! Reads of the present. Each is from one moment, and costs what it answers.

use odgm_log::Offset;

use super::View;
use crate::change::Change;
use crate::error::Error;
use crate::keys::{Key, Table, object_prefix};
use crate::object::{Cursor, Entry, EntryRead, Members, Object, ObjectSummary, Request};
use crate::rows::{EntryRow, ObjectRow, damaged, read_change};
use crate::storage::{Order, Range, Reader};

impl View {
    /// A whole object.
    ///
    /// # Errors
    /// If the storage cannot be read, as for all reads.
    pub fn object(&self, id: &str) -> Result<Option<Object>, Error> {
        read_object(&*self.inner.storage.reader()?, id)
    }

    /// One entry, with the version of its object.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn value(&self, id: &str, key: &str) -> Result<EntryRead, Error> {
        let (object, entry) = (Key::Object(id).to_vec(), Key::Entry(id, key).to_vec());
        let mut rows = self.inner.storage.get_many(&[&object, &entry])?;
        let entry = rows.pop().flatten().map(|row| EntryRow::read(&row)).transpose()?;
        let object = rows.pop().flatten().map(|row| ObjectRow::read_summary(&row)).transpose()?;
        let (value, version) = entry.map_or((None, 0), |entry| (Some(entry.value), entry.version));
        Ok(EntryRead { object_version: object.map(|object| object.version), value, version })
    }

    /// Up to `limit` objects in byte order of their ids, those that begin with `prefix` and come after `after`.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn list_objects(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ObjectSummary>, Error> {
        let mut range = Range::prefix(&Key::Object(prefix).to_vec());
        if let Some(after) = after {
            range = range.after(&Key::Object(after).to_vec());
        }
        let rows = self.inner.storage.reader()?;
        rows.range(range, Order::Ascending)
            .take(limit)
            .map(|row| {
                let (key, value) = row?;
                let Some(Key::Object(id)) = Key::parse(&key) else { return Err(misplaced(Table::Object)) };
                let object = ObjectRow::read_summary(&value)?;
                Ok(ObjectSummary {
                    id: id.to_owned(),
                    version: object.version,
                    entry_count: object.entry_count,
                })
            })
            .collect()
    }

    /// Up to `limit` entries of an object in byte order of their keys, those that begin with `prefix` and come
    /// after `after`. Empty if there is no such object.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn list_values(
        &self,
        id: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, Error> {
        let mut range = Range::prefix(&Key::Entry(id, prefix).to_vec());
        if let Some(after) = after {
            range = range.after(&Key::Entry(id, after).to_vec());
        }
        read_entries(&*self.inner.storage.reader()?, range, limit)
    }

    /// Up to `limit` changes of an object beginning at `from`, which is included: upwards, or downwards if
    /// `newest_first`. Under the empty id are the partition's own records.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn history(
        &self,
        id: &str,
        from: Offset,
        newest_first: bool,
        limit: usize,
    ) -> Result<Vec<Change>, Error> {
        let rows = self.inner.storage.reader()?;
        let floor = self.header_in(&*rows)?.floor;
        let (range, order) = if newest_first {
            (history_range(id, floor).through(&Key::History(id, from).to_vec()), Order::Descending)
        } else {
            (history_range(id, floor.max(from)), Order::Ascending)
        };
        rows.range(range, order).take(limit).map(|row| parse_change(&row?)).collect()
    }

    /// What one record changed of an object; none if nothing, or if the record is below the floor.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn change(&self, id: &str, offset: Offset) -> Result<Option<Change>, Error> {
        if offset < self.inner.header.read().floor {
            return Ok(None);
        }
        let row = self.inner.storage.get(&Key::History(id, offset).to_vec())?;
        row.map(|row| read_change(id, offset, &row)).transpose()
    }

    /// All named cursors, by name.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn cursors(&self) -> Result<Vec<Cursor>, Error> {
        let rows = self.inner.storage.reader()?;
        rows.range(Range::prefix(&[Table::Cursor as u8]), Order::Ascending)
            .map(|row| {
                let (key, value) = row?;
                let Some(Key::Cursor(name)) = Key::parse(&key) else { return Err(misplaced(Table::Cursor)) };
                Cursor::read(name, &value)
            })
            .collect()
    }

    /// Who replicates the partition, if a record says so: partitions with one replica have none.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn members(&self) -> Result<Option<Members>, Error> {
        let row = self.inner.storage.get(&Key::Members.to_vec())?;
        row.map(|row| Members::read(&row)).transpose()
    }

    /// What is remembered of a request id. It may be past its time, or forgotten before the next record is
    /// applied: apply decides, this only saves proposing what is known.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn request(&self, id: &str) -> Result<Option<Request>, Error> {
        let row = self.inner.storage.get(&Key::Request(id).to_vec())?;
        row.map(|row| Request::read(&row)).transpose()
    }

    /// The deletion that is remembered after `n` older ones: up to where `CollectTombstones` forgets `n` + 1. None if
    /// there are not so many.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub fn nth_oldest_tombstone(&self, n: usize) -> Result<Option<Offset>, Error> {
        if self.inner.header.read().tombstones == 0 {
            return Ok(None);
        }
        let rows = self.inner.storage.reader()?;
        let mut order = rows.range(Range::prefix(&[Table::TombstoneOrder as u8]), Order::Ascending);
        let Some(row) = order.nth(n) else { return Ok(None) };
        match Key::parse(&row?.0) {
            Some(Key::TombstoneOrder(offset)) => Ok(Some(offset)),
            _ => Err(misplaced(Table::TombstoneOrder)),
        }
    }
}

/// A whole object out of the rows of one moment.
pub(super) fn read_object(rows: &dyn Reader, id: &str) -> Result<Option<Object>, Error> {
    let Some(row) = rows.get(&Key::Object(id).to_vec())? else { return Ok(None) };
    let object = ObjectRow::read(&row)?;
    let entries = if object.entry_count == 0 {
        Vec::new()
    } else {
        read_entries(rows, Range::prefix(&object_prefix(Table::Entry, id)), usize::MAX)?
    };
    Ok(Some(Object {
        id: id.to_owned(),
        version: object.version,
        entries: entries.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        triggers: object.triggers.map(|triggers| *triggers),
        created: object.created,
        updated: object.updated,
    }))
}

/// The history of an object at and above an offset.
pub(super) fn history_range(id: &str, from: Offset) -> Range {
    Range::prefix(&object_prefix(Table::History, id)).from(&Key::History(id, from).to_vec())
}

pub(super) fn parse_change((key, value): &crate::storage::Row) -> Result<Change, Error> {
    let Some(Key::History(object, offset)) = Key::parse(key) else { return Err(misplaced(Table::History)) };
    read_change(object, offset, value)
}

fn read_entries(rows: &dyn Reader, range: Range, limit: usize) -> Result<Vec<Entry>, Error> {
    rows.range(range, Order::Ascending)
        .take(limit)
        .map(|row| {
            let (key, value) = row?;
            let Some(Key::Entry(_, key)) = Key::parse(&key) else { return Err(misplaced(Table::Entry)) };
            let entry = EntryRow::read(&value)?;
            Ok(Entry { key: key.to_owned(), value: entry.value, version: entry.version })
        })
        .collect()
}

/// A row whose key is not one of its table.
pub(super) const fn misplaced(table: Table) -> Error {
    damaged(table, "its key cannot be read")
}
