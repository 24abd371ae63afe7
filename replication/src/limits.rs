//! Every bound of this crate, in one place.

use std::time::Duration;

/// Bounds on what a partition takes in. A proposal beyond them is refused before anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Proposals of one partition that wait for their record to be durable and applied.
    pub in_flight_proposals: usize,
    /// The bytes of those proposals.
    pub in_flight_bytes: usize,
    /// Records that one append writes.
    pub batch_records: usize,
    /// Payload bytes that one append writes; a larger record goes alone.
    pub batch_bytes: usize,
    /// Partitions of all collections on this node.
    pub partitions: usize,
    /// Deleted objects that a partition remembers; beyond them it forgets the oldest deletions, and raises the version
    /// that new objects begin at above theirs.
    pub tombstones: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_proposals: 16_384,
            in_flight_bytes: 64 << 20,
            batch_records: 1_024,
            batch_bytes: 8 << 20,
            partitions: 1_024,
            tombstones: 100_000,
        }
    }
}

/// One part in so many is what may be in flight beyond [`Limits::in_flight_proposals`] and [`Limits::in_flight_bytes`] of
/// proposals that a partition cannot do without: settlements and outcomes of calls, which make room, trims, its rules.
pub(crate) const RESERVE: usize = 8;

/// How long proposals that nobody waits for wait for others to share their sync with, as long as there were some lately: a
/// sync of their own would keep the next write waiting.
pub(crate) const COMPANY_PATIENCE: Duration = Duration::from_millis(1);

/// What is lately.
pub(crate) const COMPANY_LATELY: Duration = Duration::from_millis(5);

/// So many appends in a row have at most one record that somebody is answered by, before whoever writes alone does the work of
/// the thread that appends.
pub(crate) const ALONE: u32 = 16;

/// The longest that any of them may have taken, with its sync. While whoever proposes waits for the disk, its thread of the
/// runtime serves nobody else.
pub(crate) const QUICK: Duration = Duration::from_micros(500);

/// Bytes of payloads that news of an outbox hold until they are taken; what is beyond is read from the view.
pub(crate) const FEED_BYTES: usize = 16 << 20;

/// Records that one batch of an event stream looks at.
pub(crate) const STREAM_RECORDS: usize = 512;

/// Payload bytes that one batch of an event stream looks at.
pub(crate) const STREAM_BYTES: usize = 1 << 20;

/// Payload bytes that are read at once to bring a view up to its log.
pub(crate) const REBUILD_BYTES: usize = 4 << 20;

/// Snapshots that a partition with a retention keeps; the span between two is its share of what is kept.
pub(crate) const RETENTION_SNAPSHOTS: u32 = 8;

/// Within how many group ids those of a restored collection begin that cannot be the ones that it had: far enough apart that
/// they are none of a cluster that the backup may know of, and few enough that there are some for thousands of restores.
pub(crate) const RESTORED_APART: u32 = 1 << 22;

/// Rows below the floor that are deleted from a view at once.
pub(crate) const PRUNE_ROWS: usize = 10_000;
