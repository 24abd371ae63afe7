//! What is written and read: ids, values, and the choice among them.

use bytes::Bytes;

pub(super) use crate::random::Random;

/// Ids that the loads choose from, uniformly.
pub(super) const KEY_SPACE: usize = 10_000;

/// Bytes of each value.
pub(super) const VALUE_BYTES: usize = 256;

/// The entry key that every object of the load has its value under.
pub(super) const ENTRY: &str = "value";

const POOL_BYTES: usize = 1 << 20;

/// The ids and a pool of random bytes that values are cut from without copying.
#[derive(Debug)]
pub(super) struct Workload {
    ids: Vec<String>,
    pool: Bytes,
}

impl Workload {
    /// The same ids and bytes for the same number of ids.
    pub(super) fn new(ids: usize) -> Self {
        Self::of("object", ids)
    }

    /// So many ids that begin with `name`.
    pub(super) fn of(name: &str, ids: usize) -> Self {
        let mut random = Random::new(0);
        let pool: Vec<u8> = (0..POOL_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
        Self { ids: (0..ids).map(|number| format!("{name}-{number:06}")).collect(), pool: pool.into() }
    }

    /// All ids in order.
    pub(super) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The number of an id.
    pub(super) fn any(&self, random: &mut Random) -> usize {
        random.below(self.ids.len())
    }

    /// Incompressible bytes.
    pub(super) fn value(&self, random: &mut Random) -> Bytes {
        let start = random.below(POOL_BYTES - VALUE_BYTES);
        self.pool.slice(start..start + VALUE_BYTES)
    }
}
