//! The keys of one node.

/// Keys in ascending order, one after another in one buffer. A search stays within a few neighbouring cache lines,
/// where keys of their own would cost a miss each.
#[derive(Clone, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<usize>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        &self.bytes[self.start(index)..self.ends[index]]
    }

    /// The number of keys that are `below`, which is true up to some key.
    pub(super) fn partition_point(&self, below: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if below(self.get(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Where a key is, or else where it belongs.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let index = self.partition_point(|candidate| candidate < key);
        if index < self.len() && self.get(index) == key { Ok(index) } else { Err(index) }
    }

    pub(super) fn insert(&mut self, index: usize, key: &[u8]) {
        let start = self.start(index);
        self.bytes.extend_from_slice(key);
        self.bytes[start..].rotate_right(key.len());
        self.ends.insert(index, start);
        self.ends[index..].iter_mut().for_each(|end| *end += key.len());
    }

    pub(super) fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn remove(&mut self, index: usize) {
        let (start, end) = (self.start(index), self.ends.remove(index));
        self.bytes.drain(start..end);
        self.ends[index..].iter_mut().for_each(|later| *later -= end - start);
    }

    /// Cuts off the keys from `index` on.
    pub(super) fn split_off(&mut self, index: usize) -> Self {
        let start = self.start(index);
        let mut ends = self.ends.split_off(index);
        ends.iter_mut().for_each(|end| *end -= start);
        Self { bytes: self.bytes.split_off(start), ends }
    }

    pub(super) fn append(&mut self, more: &Self) {
        (0..more.len()).for_each(|index| self.push(more.get(index)));
    }

    fn start(&self, index: usize) -> usize {
        if index == 0 { 0 } else { self.ends[index - 1] }
    }
}
