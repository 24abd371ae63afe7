//! Every bound of the Zenoh routes, in one place.

use std::time::Duration;

/// Queries that wait or are being answered; and as many PUTs and DELETEs. What comes beyond them is refused or lost.
pub(super) const REQUESTS: usize = 4_096;

/// The bytes of those queries, and of those PUTs. A larger one is taken in where nothing else waits.
pub(super) const REQUEST_BYTES: usize = 64 << 20;

/// Queries that are being answered at once.
pub(super) const ANSWERED_AT_ONCE: u32 = 256;

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
