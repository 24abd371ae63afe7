//! Tombstones: what is remembered of deleted objects, so that versions are never used again.
//!
//! They are in a table of their own, so that lists of objects cost what they return, with a second table in the
//! order of the deletions, from which `CollectTombstones` forgets the oldest.

use std::collections::BTreeMap;

use odgm_log::Offset;

use crate::core::changes::{Changes, Written};
use crate::error::Error;
use crate::keys::{Key, Table};
use crate::rows::{TombstoneRow, damaged};
use crate::storage::{Order, Range, Reader};

/// The order of deletions as far as the batch changed it: an id where one was added, none where one was removed.
#[derive(Default)]
pub(crate) struct Graves {
    order: BTreeMap<Offset, Option<Box<str>>>,
}

impl Graves {
    /// Remembers a deletion.
    pub(crate) fn dig(&mut self, changes: &mut Changes, id: &str, tombstone: TombstoneRow) {
        changes.put(Key::Tombstone(id), &mut Written::default(), |out| tombstone.write(out));
        changes.put(Key::TombstoneOrder(tombstone.deleted), &mut Written::default(), |out| {
            out.extend_from_slice(id.as_bytes());
        });
        self.order.insert(tombstone.deleted, Some(id.into()));
    }

    /// Forgets a deletion.
    pub(crate) fn fill(&mut self, changes: &mut Changes, id: &str, tombstone: TombstoneRow) {
        changes.delete(Key::Tombstone(id), &mut Written::default());
        changes.delete(Key::TombstoneOrder(tombstone.deleted), &mut Written::default());
        self.order.insert(tombstone.deleted, None);
    }

    /// The ids of the first `limit` deletions at or below `through`, oldest first.
    pub(crate) fn oldest(
        &self,
        rows: &dyn Reader,
        through: Offset,
        limit: usize,
    ) -> Result<Vec<Box<str>>, Error> {
        let mut ids = Vec::new();
        let range =
            Range::prefix(&[Table::TombstoneOrder as u8]).through(&Key::TombstoneOrder(through).to_vec());
        let mut stored = rows.range(range, Order::Ascending);
        while ids.len() < limit
            && let Some(row) = stored.next()
        {
            let (key, value) = row?;
            let Some(Key::TombstoneOrder(offset)) = Key::parse(&key) else {
                return Err(damaged(Table::TombstoneOrder, "its key is not an offset"));
            };
            if !self.order.contains_key(&offset) {
                let id = std::str::from_utf8(&value)
                    .map_err(|_| damaged(Table::TombstoneOrder, "the id is not text"))?;
                ids.push(id.into());
            }
        }
        // Those of this batch are newer than all that are stored.
        let room = limit - ids.len();
        ids.extend(self.order.range(..=through).filter_map(|(_, id)| id.clone()).take(room));
        Ok(ids)
    }

    /// Ends a batch.
    pub(crate) fn finish(&mut self) {
        self.order.clear();
    }
}
