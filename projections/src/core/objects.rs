//! What apply knows of objects: those that the batch touched, and as many from before as memory allows.
//!
//! Of an entry it keeps only that it is there and of what kind; values stay in the rows. Within a batch this is
//! the truth, since the storage does not have the batch yet; between batches it is a cache. It holds two
//! generations: what is used moves to the young one, and when that is full the old one is dropped.

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};
use odgm_log::body::ValueKind;

use crate::core::changes::Written;
use crate::error::Error;
use crate::keys::{Key, Table, object_prefix};
use crate::rows::{EntryRow, ObjectRow, TombstoneRow};
use crate::storage::{Order, Range, Reader, Share};

/// Objects by id.
pub(crate) struct Objects {
    young: HashMap<Box<str>, Slot>,
    old: HashMap<Box<str>, Slot>,
    /// About how many bytes the young generation holds.
    weight: usize,
    /// How many bytes both generations may hold together, about.
    limit: Share,
}

/// What is known of one object.
#[derive(Default)]
pub(crate) struct Slot {
    /// The object, if it exists.
    pub(crate) object: Option<ObjectRow>,
    /// Its tombstone, if it is deleted and remembered.
    pub(crate) tombstone: Option<TombstoneRow>,
    /// Where its object row is in this batch.
    pub(crate) written: Written,
    /// The entries that were looked at.
    pub(crate) entries: HashMap<Box<str>, EntryState>,
    /// Whether `entries` has every entry.
    pub(crate) whole: bool,
}

/// What is known of one entry.
#[derive(Clone, Copy, Default)]
pub(crate) struct EntryState {
    /// The kind of its value; none if there is no such entry.
    pub(crate) kind: Option<ValueKind>,
    /// Where its row is in this batch.
    pub(crate) written: Written,
}

impl Objects {
    /// Knows nothing yet.
    pub(crate) fn new(limit: Share) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), weight: 0, limit }
    }

    /// The object, read if it is not known; `tombstones` says whether there are any at all.
    pub(crate) fn load(&mut self, rows: &dyn Reader, id: &str, tombstones: bool) -> Result<&mut Slot, Error> {
        // Looked up twice because a reference that is returned early borrows for the whole function.
        if !self.young.contains_key(id) {
            let (id, slot) = match self.old.remove_entry(id) {
                Some(known) => known,
                None => (id.into(), Slot::read(rows, id, tombstones)?),
            };
            self.weight += SLOT_BYTES + slot.entries.len() * ENTRY_BYTES;
            self.young.insert(id, slot);
        }
        self.young
            .get_mut(id)
            .ok_or(Error::Damaged { table: "object", reason: "it vanished while it was read" })
    }

    /// Notes that a slot knows so many entries more.
    pub(crate) fn grew(&mut self, entries: usize) {
        self.weight += entries * ENTRY_BYTES;
    }

    /// Ends a batch: drops what there is no room for.
    pub(crate) fn finish(&mut self) {
        if self.weight > self.limit.bytes() / 2 {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.weight = 0;
    }
}

/// About what a slot and an entry cost with their names.
const SLOT_BYTES: usize = 256;
const ENTRY_BYTES: usize = 96;

impl Slot {
    fn read(rows: &dyn Reader, id: &str, tombstones: bool) -> Result<Self, Error> {
        let object = rows.get(&Key::Object(id).to_vec())?;
        let tombstone = match object {
            None if tombstones => rows.get(&Key::Tombstone(id).to_vec())?,
            _ => None,
        };
        let mut slot = Self {
            object: object.map(|row| ObjectRow::read(&row)).transpose()?,
            tombstone: tombstone.map(|row| TombstoneRow::read(&row)).transpose()?,
            ..Self::default()
        };
        slot.whole = slot.object.as_ref().is_none_or(|object| object.entry_count == 0);
        Ok(slot)
    }

    /// Makes sure that it is known which of `keys` exist.
    pub(crate) fn load_keys<'k>(
        &mut self,
        rows: &dyn Reader,
        id: &str,
        keys: impl Iterator<Item = &'k str>,
    ) -> Result<(), Error> {
        if self.whole {
            return Ok(());
        }
        let missing: Vec<&str> = keys.filter(|key| !self.entries.contains_key(*key)).collect();
        let row_keys: Vec<Vec<u8>> = missing.iter().map(|key| Key::Entry(id, key).to_vec()).collect();
        let row_keys: Vec<&[u8]> = row_keys.iter().map(Vec::as_slice).collect();
        let found = match row_keys.as_slice() {
            [] => return Ok(()),
            [key] => vec![rows.get(key)?],
            keys => rows.get_many(keys)?,
        };
        for (key, row) in missing.into_iter().zip(found) {
            let kind = row.map(|row| EntryRow::kind(&row)).transpose()?;
            self.entries.insert(key.into(), EntryState { kind, written: Written::default() });
        }
        Ok(())
    }

    /// Makes sure that all entries are known.
    pub(crate) fn load_all(&mut self, rows: &dyn Reader, id: &str) -> Result<(), Error> {
        if self.whole {
            return Ok(());
        }
        let prefix = object_prefix(Table::Entry, id);
        for row in rows.range(Range::prefix(&prefix), Order::Ascending) {
            let (key, value) = row?;
            let key = std::str::from_utf8(&key[prefix.len()..])
                .map_err(|_| Error::Damaged { table: Table::Entry.name(), reason: "its key is not text" })?;
            if !self.entries.contains_key(key) {
                let kind = Some(EntryRow::kind(&value)?);
                self.entries.insert(key.into(), EntryState { kind, written: Written::default() });
            }
        }
        self.whole = true;
        Ok(())
    }

    /// The stored value of an entry that is there and was not written in this batch.
    pub(crate) fn stored(rows: &dyn Reader, id: &str, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(rows.get(&Key::Entry(id, key).to_vec())?)
    }

    /// The keys of all entries, sorted; only after [`Self::load_all`].
    pub(crate) fn keys(&self) -> Vec<Box<str>> {
        let mut keys: Vec<Box<str>> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.kind.is_some())
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// The object's version, 0 if there is none.
    pub(crate) fn version(&self) -> u64 {
        self.object.as_ref().map_or(0, |object| object.version)
    }
}
