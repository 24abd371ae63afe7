//! Ranges of keys.

/// In which direction a range is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// A range of keys in byte order: from `start`, included, to `end`, excluded. It begins as all keys or those with a
/// prefix and is narrowed by each call.
///
/// ```
/// use odgm_projections::storage::Range;
///
/// let page = Range::prefix(b"plane/").after(b"plane/d-abcd");
/// assert!(page.contains(b"plane/d-abce") && !page.contains(b"plane/d-abcd") && !page.contains(b"planf"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl Range {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: after_prefix(prefix) }
    }

    /// Only the keys at or above `key`.
    #[must_use]
    #[allow(clippy::wrong_self_convention, reason = "a bound, as in `from ... until`; nothing is converted")]
    pub fn from(self, key: &[u8]) -> Self {
        self.starting_at(key.to_vec())
    }

    /// Only the keys above `key`.
    #[must_use]
    pub fn after(self, key: &[u8]) -> Self {
        self.starting_at(successor(key))
    }

    /// Only the keys below `key`.
    #[must_use]
    pub fn until(self, key: &[u8]) -> Self {
        self.ending_at(key.to_vec())
    }

    /// Only the keys at or below `key`.
    #[must_use]
    pub fn through(self, key: &[u8]) -> Self {
        self.ending_at(successor(key))
    }

    /// Whether a key lies in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.start() && self.end().is_none_or(|end| key < end)
    }

    /// The smallest key that may be in it.
    pub(crate) fn start(&self) -> &[u8] {
        &self.start
    }

    /// The smallest key above it; `None` if it has no upper bound.
    pub(crate) fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether no key can lie in it.
    pub(super) fn is_empty(&self) -> bool {
        self.end().is_some_and(|end| end <= self.start())
    }

    fn starting_at(mut self, key: Vec<u8>) -> Self {
        self.start = self.start.max(key);
        self
    }

    fn ending_at(mut self, key: Vec<u8>) -> Self {
        self.end = Some(match self.end {
            Some(end) => end.min(key),
            None => key,
        });
        self
    }
}

/// The smallest key above `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// The smallest key above all that begin with `prefix`; `None` if there is none, since all its bytes are 0xff.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
