//! Reading a range of a RocksDB database.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{DBRawIterator, ReadOptions};

use crate::storage::{Error, Order, Range, Row, Rows};

/// The rows of a range, in one direction.
pub(super) struct Scan<'a> {
    /// `None` after an error.
    rows: Option<DBRawIterator<'a>>,
    order: Order,
    dir: &'a Path,
}

impl<'a> Scan<'a> {
    /// Starts a scan on an iterator that `open` makes with the bounds of the range.
    pub(super) fn rows(
        range: &Range,
        order: Order,
        dir: &'a Path,
        open: impl FnOnce(ReadOptions) -> DBRawIterator<'a>,
    ) -> Rows<'a> {
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(range.start());
        if let Some(end) = range.end() {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = open(options);
        match order {
            Order::Ascending => rows.seek_to_first(),
            Order::Descending => rows.seek_to_last(),
        }
        Box::new(Self { rows: Some(rows), order, dir })
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Row, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows.as_mut()?;
        match rows.item() {
            Some((key, value)) => {
                let row = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                match self.order {
                    Order::Ascending => rows.next(),
                    Order::Descending => rows.prev(),
                }
                Some(Ok(row))
            }
            None => {
                let status = rows.status();
                self.rows = None;
                status.err().map(|error| Err(Error::rocksdb(self.dir)(error)))
            }
        }
    }
}
