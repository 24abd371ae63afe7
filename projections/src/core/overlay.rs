//! Rows about calls as a batch left them, over those of the storage: what one record of a batch puts, the next may take.

use std::collections::BTreeMap;
use std::collections::btree_map::Range as Those;
use std::iter::Peekable;
use std::ops::Bound;

use bytes::Bytes;

use super::changes::{Changes, Written};
use crate::error::Error;
use crate::keys::Key;
use crate::storage::{Order, Range, Reader, Row, Rows};

/// The rows that the batch put or removed.
#[derive(Default)]
pub(crate) struct Overlay {
    rows: BTreeMap<Vec<u8>, Covering>,
}

#[derive(Default)]
struct Covering {
    /// None if the row is removed.
    value: Option<Bytes>,
    written: Written,
}

impl Overlay {
    /// The value of a row.
    pub(super) fn get(&self, rows: &dyn Reader, key: Key<'_>) -> Result<Option<Bytes>, Error> {
        let key = key.to_vec();
        match self.rows.get(&key) {
            Some(row) => Ok(row.value.clone()),
            None => Ok(rows.get(&key)?),
        }
    }

    /// Sets a row.
    pub(super) fn put(&mut self, changes: &mut Changes, key: Key<'_>, value: Vec<u8>) {
        let row = self.rows.entry(key.to_vec()).or_default();
        changes.put(key, &mut row.written, |out| out.extend_from_slice(&value));
        row.value = Some(value.into());
    }

    /// Removes a row that is there.
    pub(super) fn delete(&mut self, changes: &mut Changes, key: Key<'_>) {
        let row = self.rows.entry(key.to_vec()).or_default();
        changes.delete(key, &mut row.written);
        row.value = None;
    }

    /// The first rows of a range.
    pub(super) fn first(&self, rows: &dyn Reader, range: &Range, limit: usize) -> Result<Vec<Row>, Error> {
        let end = range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(end.max(range.start())));
        let own = (Bound::Included(range.start()), end);
        let mut both = Both {
            rows: &self.rows,
            stored: rows.range(range.clone(), Order::Ascending).peekable(),
            own: self.rows.range::<[u8], _>(own).peekable(),
        };
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = both.next()?
        {
            found.push(row);
        }
        Ok(found)
    }

    /// Ends a batch: what it changed is in the storage now.
    pub(super) fn finish(&mut self) {
        self.rows.clear();
    }
}

/// What is stored and what the batch changed, merged in the order of keys.
struct Both<'a> {
    rows: &'a BTreeMap<Vec<u8>, Covering>,
    stored: Peekable<Rows<'a>>,
    own: Peekable<Those<'a, Vec<u8>, Covering>>,
}

impl Both<'_> {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        while let Some(Ok((key, _))) = self.stored.peek()
            && self.rows.contains_key(key.as_ref())
        {
            self.stored.next();
        }
        while let Some((_, row)) = self.own.peek()
            && row.value.is_none()
        {
            self.own.next();
        }
        let own = self.own.peek();
        let is_stored_first = match (self.stored.peek(), own) {
            (Some(Ok((stored, _))), Some((own, _))) => stored.as_ref() < own.as_slice(),
            (stored, _) => stored.is_some(),
        };
        if is_stored_first {
            return Ok(self.stored.next().transpose()?);
        }
        let own = own.and_then(|(key, row)| Some((Bytes::copy_from_slice(key), row.value.clone()?)));
        if own.is_some() {
            self.own.next();
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::Error as StorageError;

    impl Reader for BTreeMap<Vec<u8>, Bytes> {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
            Ok(BTreeMap::get(self, key).cloned())
        }

        fn range(&self, range: Range, _: Order) -> Rows<'_> {
            let rows = self.iter().filter(move |(key, _)| range.contains(key));
            Box::new(rows.map(|(key, value)| Ok((key.clone().into(), value.clone()))))
        }
    }

    /// A change of the invocation of that name, which is put or removed.
    fn change() -> impl Strategy<Value = (String, Option<u8>)> {
        ("[ab]{0,2}", any::<Option<u8>>())
    }

    proptest! {
        #[test]
        fn what_the_batch_changed_stands_over_what_is_stored(
            stored in prop::collection::vec(change(), 0..8),
            batch in prop::collection::vec(change(), 0..8),
            from in "[ab]{0,2}",
            limit in 0_usize..5,
        ) {
            let (mut rows, mut changes, mut overlay) = (BTreeMap::new(), Changes::new(), Overlay::default());
            for (id, value) in stored {
                rows.insert(Key::Invocation(&id).to_vec(), Bytes::from(vec![value.unwrap_or_default()]));
            }
            let mut expected = rows.clone();
            for (id, value) in &batch {
                let key = Key::Invocation(id);
                match value {
                    Some(value) => {
                        overlay.put(&mut changes, key, vec![*value]);
                        expected.insert(key.to_vec(), vec![*value].into());
                    }
                    None => {
                        overlay.delete(&mut changes, key);
                        expected.remove(&key.to_vec());
                    }
                }
                prop_assert_eq!(overlay.get(&rows, key).unwrap(), expected.get(&key.to_vec()).cloned());
            }
            let range = Range::prefix(b"i").from(&Key::Invocation(&from).to_vec()).until(b"ibb");
            let found = overlay.first(&rows, &range, limit).unwrap();
            let expected = expected.into_iter().filter(|(key, _)| range.contains(key)).take(limit);
            prop_assert_eq!(found, expected.map(|(key, value)| (key.into(), value)).collect::<Vec<Row>>());
        }
    }
}
