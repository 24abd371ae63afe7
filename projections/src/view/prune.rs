//! Pruning: the rows of history, time index and causes that retention no longer shows are removed bit by bit.

use odgm_log::Offset;

use super::View;
use crate::error::Error;
use crate::keys::{Key, Table};
use crate::storage::{Batch, Order, Range, Reader};

/// How far pruning has come.
pub(super) struct Pruning {
    /// The floor that it works towards, or has reached.
    floor: Offset,
    /// Where in which table it goes on; none if it is done.
    next: Option<(Table, Vec<u8>)>,
}

impl Default for Pruning {
    /// Below the first record there is nothing.
    fn default() -> Self {
        Self { floor: Offset(1), next: None }
    }
}

impl View {
    /// Removes up to `max_rows` rows of history, time index and causes that are below the floor, and answers how many it
    /// removed; fewer than `max_rows` means that all are gone. What reads and dumps show does not change.
    ///
    /// # Errors
    /// If the storage cannot be read or written.
    pub fn prune(&self, max_rows: usize) -> Result<usize, Error> {
        let mut pruning = self.inner.pruning.lock();
        let floor = self.inner.header.read().floor;
        if pruning.floor < floor {
            *pruning = Pruning { floor, next: Some((Table::History, Vec::new())) };
        }
        let mut batch = Batch::new();
        let mut next = pruning.next.clone();
        let rows = self.inner.storage.reader()?;
        while batch.len() < max_rows
            && let Some((table, from)) = next.take()
        {
            next = collect(&*rows, table, &from, floor, max_rows, &mut batch)?;
        }
        drop(rows);
        let removed = batch.len();
        if removed > 0 {
            // Rows are written by one at a time, and the header stays as it is.
            let _core = self.inner.core.lock();
            self.inner.storage.write(batch)?;
        }
        pruning.next = next;
        Ok(removed)
    }
}

/// Adds rows below the floor to the batch until it is full or the table ends; answers where to go on.
fn collect(
    rows: &dyn Reader,
    table: Table,
    from: &[u8],
    floor: Offset,
    max_rows: usize,
    batch: &mut Batch,
) -> Result<Option<(Table, Vec<u8>)>, Error> {
    for row in rows.range(Range::prefix(&[table as u8]).from(from), Order::Ascending) {
        let (key, _) = row?;
        let below = match Key::parse(&key) {
            Some(Key::History(_, offset)) => offset < floor,
            // The time index is in the order of offsets too.
            Some(Key::Time(_, offset)) if offset >= floor => break,
            Some(Key::Time(..)) => true,
            Some(Key::Caused(_, offset)) => offset < floor,
            _ => return Err(super::read::misplaced(table)),
        };
        if below {
            if batch.len() == max_rows {
                return Ok(Some((table, key.to_vec())));
            }
            batch.delete(key);
        }
    }
    let next = match table {
        Table::History => Some(Table::Time),
        Table::Time => Some(Table::Caused),
        _ => None,
    };
    Ok(next.map(|table| (table, Vec::new())))
}
