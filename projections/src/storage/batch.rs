//! A batch of changes.

use bytes::Bytes;

/// Puts and deletes that take effect together. If a key occurs more than once, its last operation counts.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    operations: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch with room for so many operations.
    #[must_use]
    pub fn with_capacity(operations: usize) -> Self {
        Self { operations: Vec::with_capacity(operations), bytes: 0 }
    }

    /// Sets the value of a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(key.into(), Some(value.into()));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.push(key.into(), None);
    }

    fn push(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.operations.push((key, value));
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// The bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The operations in order; a value of `None` deletes.
    pub fn into_operations(self) -> impl Iterator<Item = (Bytes, Option<Bytes>)> {
        self.operations.into_iter()
    }

    /// As [`Self::into_operations`], for one who only looks.
    pub fn operations(&self) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        self.operations.iter().map(|(key, value)| (key, value.as_ref()))
    }
}
