//! Every bound of the Zenoh routes, in one place.

use std::time::Duration;

/// Queries that wait or are being answered; as many calls of functions; as many PUTs and DELETEs of objects; and as many
/// calls that are PUT. What comes beyond them is refused or lost.
pub(super) const REQUESTS: usize = 4_096;

/// The bytes of each of these. A larger one is taken in where nothing else waits.
pub(super) const REQUEST_BYTES: usize = 64 << 20;

/// Queries that are being answered at once.
pub(super) const ANSWERED_AT_ONCE: u32 = 256;

/// Calls whose clients wait that are being made at once. How long each may take is the collection's to say.
pub(super) const CALLED_AT_ONCE: u32 = 1_024;

/// Calls of one partition that are being accepted at once.
pub(super) const ACCEPTED_AT_ONCE: usize = 256;

/// Calls that listeners are still to be told of; they are told of no others.
pub(super) const ANNOUNCED: usize = 4_096;

/// Tokens of shards that are remembered.
pub(super) const LIVE_SHARDS: usize = 1 << 20;

/// How much longer than the caller Zenoh waits for an answer, so that the caller's own time is over first.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Queries beyond the bounds that wait to be told so; those beyond these are told nothing.
pub(super) const REFUSED: usize = 4_096;

/// The largest attachment.
pub(super) const ATTACHMENT_BYTES: usize = 64 << 10;

/// How long a query may take. Whoever asks waits for 10 s if nothing is said.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a write waits for the partition to have a leader.
pub(super) const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// How often it is looked who leads: by a write that waits for it, and to declare what only the leader does.
pub(super) const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// How often a loss is told of, at most.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);
