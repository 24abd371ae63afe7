//! The bounds of this crate, in one place. Those that decide what apply does are part of its rules: a change is a
//! new version of [`crate::SEMANTICS`].

/// Rule: one `CollectTombstones` record forgets at most so many; another one goes on.
pub const MAX_COLLECTED: usize = 1_000;

/// Rule: each record forgets at most so many request ids.
pub(crate) const MAX_REQUESTS_EVICTED: usize = 8;

/// Rule: what a remembered request id is counted as besides twice its length (it is in two rows), in bytes.
pub(crate) const REQUEST_BYTES: u64 = 96;

/// Rule: each record forgets at most so many results of invocations.
pub(crate) const MAX_RESULTS_FORGOTTEN: usize = 8;

/// Rule: each outcome that comes from another partition removes at most so many keys of earlier ones.
pub(crate) const MAX_DELIVERED_FORGOTTEN: usize = 64;

/// Rule: they are removed when their source's floor has risen by so many of its records, since looking for them costs more
/// than removing one.
pub(crate) const DELIVERED_STEP: u64 = 64;

/// Rule: what the key of a call in the outbox is counted as.
pub(crate) const OUTBOX_KEY_BYTES: usize = 21;

/// Rule: what the key of a dead letter, or of an outcome that is to be delivered, is counted as.
pub(crate) const PLACE_KEY_BYTES: usize = 13;

/// Rule: the dead letters that one record's own calls become at once hold together at most so many bytes of payload,
/// besides the first of them. The record has it once, and without this a trigger with many targets would copy it for each.
pub(crate) const LETTER_PAYLOADS: u64 = 1 << 20;

/// Rule: a time-index row is written at least once for so many records, so that finding the offset of a time
/// reads at most that many.
pub(crate) const TIME_INDEX_RECORDS: u64 = 1_024;

/// Records are read from the log and applied so many at a time when a view is rebuilt.
pub(crate) const REBUILD_RECORDS: usize = 16_384;

/// So many of these batches wait, read and decoded, while one is applied.
pub(crate) const REBUILD_BATCHES: usize = 2;

/// So many snapshots stay open for time travel.
pub(crate) const OPEN_SNAPSHOTS: usize = 2;
