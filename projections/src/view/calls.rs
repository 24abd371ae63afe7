//! Reads of calls: those that wait, what was given up, what is known of invocations, and what caused what.

use bincode::Decode;
use odgm_log::body::Parent;
use odgm_log::body::calls::{Place, RowKey};
use odgm_log::{Offset, Timestamp};

use super::View;
use super::read::misplaced;
use crate::calls::{DeadLetter, DeliveryRow, Invocation, OutboxRow};
use crate::error::Error;
use crate::keys::{Key, Table};
use crate::rows::calls::decode;
use crate::storage::{Order, Range, Reader};

impl View {
    /// Up to `limit` rows of the outbox in the order in which they are due: those at or after `from`, and due at `until` or
    /// before.
    ///
    /// # Errors
    /// If the storage cannot be read, as for all reads.
    pub fn outbox(
        &self,
        from: RowKey,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<(RowKey, OutboxRow)>, Error> {
        let last = RowKey { due: until, offset: Offset(u64::MAX), index: u32::MAX };
        let range = table(Table::Outbox).from(&Key::Outbox(from).to_vec());
        let range = range.through(&Key::Outbox(last).to_vec());
        let rows = self.inner.storage.reader()?;
        read_rows(&*rows, Table::Outbox, range, limit, |key| match key {
            Key::Outbox(key) => Some(key),
            _ => None,
        })
    }

    /// Up to `limit` outcomes that are to be delivered, in the order of their places, at or after `from`.
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn deliveries(&self, from: Place, limit: usize) -> Result<Vec<(Place, DeliveryRow)>, Error> {
        let range = table(Table::Delivery).from(&Key::Delivery(from).to_vec());
        let rows = self.inner.storage.reader()?;
        read_rows(&*rows, Table::Delivery, range, limit, |key| match key {
            Key::Delivery(place) => Some(place),
            _ => None,
        })
    }

    /// Up to `limit` dead letters in the order of their places, after `after`.
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn dead_letters(
        &self,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<(Place, DeadLetter)>, Error> {
        let mut range = table(Table::DeadLetter);
        if let Some(after) = after {
            range = range.after(&Key::DeadLetter(after).to_vec());
        }
        let rows = self.inner.storage.reader()?;
        read_rows(&*rows, Table::DeadLetter, range, limit, |key| match key {
            Key::DeadLetter(place) => Some(place),
            _ => None,
        })
    }

    /// One dead letter.
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn dead_letter(&self, place: Place) -> Result<Option<DeadLetter>, Error> {
        let row = self.inner.storage.get(&Key::DeadLetter(place).to_vec())?;
        row.map(|row| decode(Table::DeadLetter, &row)).transpose()
    }

    /// What is remembered of an invocation. Its result may be past its time and still be there: see
    /// [`Invocation::is_past`].
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn invocation(&self, id: &str) -> Result<Option<Invocation>, Error> {
        let row = self.inner.storage.get(&Key::Invocation(id).to_vec())?;
        row.map(|row| decode(Table::Invocation, &row)).transpose()
    }

    /// The offsets, in order, of up to `limit` records that `parent` caused here, those after `after`. Those below the
    /// floor are not shown.
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn caused_by(&self, parent: Parent, after: Offset, limit: usize) -> Result<Vec<Offset>, Error> {
        let rows = self.inner.storage.reader()?;
        let after = after.max(self.header_in(&*rows)?.floor.previous());
        let last = Key::Caused(parent, Offset(u64::MAX)).to_vec();
        let range = Range::all().after(&Key::Caused(parent, after).to_vec()).through(&last);
        rows.range(range, Order::Ascending)
            .take(limit)
            .map(|row| match Key::parse(&row?.0) {
                Some(Key::Caused(_, offset)) => Ok(offset),
                _ => Err(misplaced(Table::Caused)),
            })
            .collect()
    }

    /// The first record that a call in the outbox still needs; none if there is no such call. Looks at all of them.
    ///
    /// # Errors
    /// As [`Self::outbox`].
    pub fn first_needed(&self) -> Result<Option<Offset>, Error> {
        let rows = self.inner.storage.reader()?;
        let mut first = None;
        for row in rows.range(table(Table::Outbox), Order::Ascending) {
            let (key, value) = row?;
            let Some(Key::Outbox(key)) = Key::parse(&key) else { return Err(misplaced(Table::Outbox)) };
            // Most come after the first that is due, and need not be read.
            if first.is_none_or(|first| key.offset < first)
                && decode::<OutboxRow>(Table::Outbox, &value)?.payload.is_none()
            {
                first = Some(key.offset);
            }
        }
        Ok(first)
    }
}

fn table(table: Table) -> Range {
    Range::prefix(&[table as u8])
}

/// Rows of a range of one table, with the part of their keys that `part` takes.
fn read_rows<K, T: Decode<()>>(
    rows: &dyn Reader,
    table: Table,
    range: Range,
    limit: usize,
    part: impl Fn(Key<'_>) -> Option<K>,
) -> Result<Vec<(K, T)>, Error> {
    rows.range(range, Order::Ascending)
        .take(limit)
        .map(|row| {
            let (key, value) = row?;
            let key = Key::parse(&key).and_then(&part).ok_or(misplaced(table))?;
            Ok((key, decode(table, &value)?))
        })
        .collect()
}
