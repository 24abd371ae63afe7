//! Every bound of the invocation manager, in one place.

use std::time::Duration;

use odgm_replication::Definition;

/// What holds for all functions that a node calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Calls that one connection carries at once before another is opened. No more than the streams that servers commonly
    /// grant a connection, so that a call does not wait within one.
    pub calls_per_connection: usize,
    /// Endpoints that one route may name.
    pub endpoints_per_route: usize,
    /// The largest answer of a function, in bytes. It has to fit into a record with room to spare.
    pub answer_bytes: usize,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a call has to have waited so that it speaks against an endpoint that no answer came: a client that gives
    /// a function one millisecond learns nothing about it.
    pub patience: Duration,
    /// After how long a call that found all connections full may come again.
    pub full_pause: Duration,
    /// An endpoint that no call asked for in so long is forgotten, with all that is known of it. Longer than the longest
    /// pause of its breaker.
    pub forgotten_after: Duration,
    /// When an endpoint does not answer any more.
    pub breaker: BreakerSettings,
    /// How endpoints are asked whether they are well.
    pub health: HealthSettings,
}

/// When an endpoint is left alone, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row after which it is.
    pub failures: u32,
    /// How long at first. It doubles each time that the endpoint is tried and still does not answer.
    pub first_pause: Duration,
    /// How long at most.
    pub longest_pause: Duration,
}

/// How endpoints are asked whether they are well, as long as they are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// How often one that is well.
    pub interval: Duration,
    /// How soon one that is not. It doubles up to `interval` as long as it is not.
    pub first_pause: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            calls_per_connection: 100,
            endpoints_per_route: 64,
            answer_bytes: 32 << 20,
            connect_timeout: Duration::from_secs(3),
            patience: Duration::from_secs(1),
            full_pause: Duration::from_millis(100),
            forgotten_after: Duration::from_secs(90),
            breaker: BreakerSettings::default(),
            health: HealthSettings::default(),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, first_pause: Duration::from_millis(500), longest_pause: Duration::from_secs(30) }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            first_pause: Duration::from_millis(250),
            timeout: Duration::from_secs(2),
        }
    }
}

/// The bounds of the connections to one endpoint, as a collection has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolSettings {
    /// Connections that take calls.
    pub(crate) size: usize,
    /// How long one is kept that carries none.
    pub(crate) idle: Duration,
    /// How long one takes new calls.
    pub(crate) lifetime: Duration,
}

impl PoolSettings {
    /// Those of a collection: `offload_max_pool_size`, `pool_max_idle_lifetime` and `pool_max_lifetime`.
    pub(crate) fn of(definition: &Definition) -> Self {
        let calls = &definition.options.calls;
        Self { size: calls.pool_size, idle: calls.pool_idle, lifetime: calls.pool_lifetime }
    }
}

/// How long it may take to confirm that there is no such class, partition or function.
pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// Classes of which it is kept, until the catalogue changes, what it says of them: those that somebody asked for in vain.
pub(crate) const CONFIRMED_CLASSES: usize = 1_024;

/// After how long a call may come again of which only the catalogue has heard so far, and one of which that is not known.
pub(crate) const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
pub(crate) const UNCONFIRMED_PAUSE: Duration = Duration::from_secs(1);

/// What one request stream of an endpoint may send ahead of being read, and all of a connection together, in bytes.
pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;

/// How long a connection on which nothing comes is left alone, and how often its other side is then asked whether it is
/// there. Asked by TCP: common gRPC servers hang up on a client that sends HTTP/2 pings more often than each five minutes.
pub(crate) const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// Where what was sent is not acknowledged for so long, the other side counts as gone.
#[cfg(target_os = "linux")]
pub(crate) const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// How often a call is sent again because the connection was closed before it was on its way.
pub(crate) const SENDS: usize = 3;

/// The longest text of somebody else that becomes part of an error, in characters.
pub(crate) const TEXT: usize = 256;

/// The least time between two rounds of whoever looks after an endpoint.
pub(crate) const REST: Duration = Duration::from_millis(10);

/// The longest time that a call may take; a client that asks for more gets so much.
pub(crate) const LONGEST_CALL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
