//! Every bound of the processor, in one place.

use std::time::Duration;

/// Rows of a partition's outbox that are in memory at once; all else waits in the view.
pub(super) const ROWS: usize = 4_096;

/// Of those, rows of one function that wait.
pub(super) const ROWS_OF_ONE: usize = 1_024;

/// The same for outcomes that are to be delivered, and for the partition that they go to.
pub(super) const DELIVERY_ROWS: usize = 1_024;
/// Of those, rows for one partition that wait.
pub(super) const DELIVERY_ROWS_OF_ONE: usize = 256;

/// Functions that rows of an outbox are for, and partitions that outcomes go to, which are told apart at once: some hundred bytes
/// each. While so many have rows that cannot go, those of others wait until one has none left.
pub(super) const LANES: usize = 16_384;

/// Payloads that wait in memory with their rows, in bytes; beyond them they are read when their turn comes. The same for
/// outcomes that are to be delivered.
pub(super) const WAITING_BYTES: usize = 1 << 20;

/// How often a payload that is under way is in memory: as its record has it, and as it is sent.
pub(super) const PAYLOAD_COPIES: usize = 2;

/// Reads of payloads at once; what is to be read meanwhile is read together. Each has a thread, which keeps some MiB of memory.
pub(super) const LOADS_AT_ONCE: usize = 2;

/// Rows that are read at once.
pub(super) const PAGE: usize = 256;

/// Rows that are read before their bytes are looked at: few, since some hold their payload.
pub(super) const PART_OF_A_PAGE: usize = 32;

/// Bytes of the rows of a page, as they are in the view; a larger row ends it.
pub(super) const PAGE_BYTES: usize = 4 << 20;

/// News of a partition that wait until they are taken.
pub(super) const FEED: usize = 1_024;

/// Which part of what is under way at once one function, or one partition that is delivered to, may take: so much of so much,
/// but at least one.
pub(super) const SHARE: (usize, usize) = (3, 4);

/// Calls that have ended and whose records are not applied yet. At that, no further ones are made.
pub(super) const ENDED: usize = 4_096;
/// The same for the bytes of what they answered.
pub(super) const ENDED_BYTES: usize = 16 << 20;

/// Settlements, or deliveries, that one record tells of.
pub(super) const IN_ONE_RECORD: usize = 256;
/// Their bytes; a larger one goes alone.
pub(super) const BYTES_IN_ONE_RECORD: usize = 1 << 20;

/// Records of settlements that are under way at once; meanwhile others gather for the next.
pub(super) const RECORDS_AT_ONCE: usize = 4;

/// Outcomes that are being delivered at once.
pub(super) const DELIVERIES_AT_ONCE: usize = 64;

/// The pause after a partition could not take an outcome: it doubles from the first up to the second.
pub(super) const DELIVERY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// The pause after a record was refused, as the partition has too much to do or too little space: it doubles from the first
/// up to the second.
pub(super) const REFUSED_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pause after the view could not be read.
pub(super) const READ_PAUSE: Duration = Duration::from_secs(1);

/// The shortest time for which a function is left alone whose calls are held back.
pub(super) const SHORTEST_HOLD: Duration = Duration::from_millis(20);

/// For how long a function is left alone that is disabled or on standby.
pub(super) const SUSPENDED_PAUSE: Duration = Duration::from_secs(1);

/// How often dead letters are looked through, and after how long it is gone on with the next ones. While there are more of them than
/// may be there is no pause.
pub(super) const LOOK: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(100));

/// Dead letters that one look goes through, and that one record drops: some ten bytes of it each.
pub(super) const LETTERS: usize = 4_096;
/// Their bytes, as they have to be read where they are dropped; a larger one goes alone.
pub(super) const LETTER_BYTES: u64 = 16 << 20;

/// The longest reason that is kept of a failure, in bytes.
pub(super) const REASON_BYTES: usize = 1 << 10;

/// The pause before a worker begins again of whose records it is unknown whether they count, or whose partition has failed: it
/// doubles from the first up to the second as long as nothing is recorded.
pub(super) const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// How long an outcome may take to arrive in another partition.
pub(super) const DELIVER_WITHIN: Duration = Duration::from_secs(30);

/// Calls that were announced and then held back, of which that is remembered, so that they are not announced again.
pub(super) const ANNOUNCED: usize = 1_024;

/// How often a worker looks at the partition's counts and options without a reason.
pub(super) const GAUGES: Duration = Duration::from_secs(1);

/// How often partitions are looked for that have come or gone without news of it.
pub(super) const PARTITIONS: Duration = Duration::from_secs(1);
