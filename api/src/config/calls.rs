//! The settings of triggers, functions and their calls. A collection may say each of them for itself, but for the bounds of
//! the node.

use std::ops::RangeInclusive;
use std::time::Duration;

use odgm_replication::definition::PayloadFormat;
use odgm_triggers::{functions, processor};

use super::parse::{self, Expected};
use super::table::{Effect, Setting, boolean, checked, count, now};

/// Settings of the first implementation's event queues.
const NO_QUEUE: Effect = Effect::None("events are read from the log, so no queue is there to bound");
/// Switches between its ways of handling events.
const ONE_WAY: Effect = Effect::None("triggers are called from the log, and there is no other way to choose");

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
const YEAR_MS: u64 = 365 * DAY_MS;
const TIB: u64 = 1 << 40;
/// A record has to hold an answer with room to spare.
const LARGEST_ANSWER: u64 = 48 << 20;

/// Who makes calls, and how.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// How what triggers ask for is called.
    pub processor: processor::Settings,
    /// How functions are reached.
    pub functions: functions::Settings,
}

/// In the order in which they are read and listed.
pub(super) const SETTINGS: &[Setting] = &[
    // Rules of new partitions; kept in the partition's log from its creation on.
    now("ODGM_EVENTS_ENABLED", "true", "new partitions: match changes against triggers", |c, v| {
        c.store.rules.events_enabled = parse::boolean(v)?;
        Ok(())
    }),
    now(
        "ODGM_MAX_TRIGGER_DEPTH",
        "10",
        "new partitions: deepest chain of triggers that is called",
        |c, v| {
            c.store.rules.max_trigger_depth = parse::number(v, 0..=1_000_000)?;
            Ok(())
        },
    ),
    now(
        "ODGM_OUTBOX_MAX_ROWS",
        "10000000",
        "new partitions: calls that wait; writes that add more are refused",
        |c, v| {
            c.store.rules.max_outbox_rows = parse::number(v, 0..=1_000_000_000)?;
            Ok(())
        },
    ),
    now("ODGM_OUTBOX_MAX_BYTES", "4GiB", "new partitions: bytes of those calls", |c, v| {
        c.store.rules.max_outbox_bytes = parse::bytes(v, 0..=TIB)?;
        Ok(())
    }),
    now(
        "ODGM_RESULT_RETENTION_MS",
        "86400000",
        "new partitions: how long the result of an invocation is kept, ms",
        |c, v| {
            c.store.rules.result_retention_ms = parse::number(v, 0..=YEAR_MS)?;
            Ok(())
        },
    ),
    now("ODGM_RESULT_MAX_BYTES", "1GiB", "new partitions: bytes of results that are kept", |c, v| {
        c.store.rules.max_result_bytes = parse::bytes(v, 0..=TIB)?;
        Ok(())
    }),
    // Calls that triggers ask for.
    now(
        "ODGM_MAX_CONCURRENT_TRIGGERS",
        "100",
        "calls of one partition that are under way at once",
        |c, v| {
            c.calls.processor.max_concurrent_triggers = parse::number(v, 1..=100_000)?;
            Ok(())
        },
    ),
    now("ODGM_TRIGGER_TIMEOUT_MS", "30000", "longest attempt at a call, ms", |c, v| {
        c.calls.processor.trigger_timeout = millis_within(v, 1..=DAY_MS)?;
        Ok(())
    }),
    now("ODGM_TRIGGER_MAX_ATTEMPTS", "20", "attempts before a call is given up", |c, v| {
        c.calls.processor.trigger_max_attempts = parse::number(v, 1..=1_000_000)?;
        Ok(())
    }),
    now("ODGM_TRIGGER_BACKOFF_MS", "100", "pause before the second attempt, ms; then it doubles", |c, v| {
        c.calls.processor.trigger_backoff = millis_within(v, 1..=DAY_MS)?;
        Ok(())
    }),
    now("ODGM_TRIGGER_BACKOFF_MAX_MS", "60000", "longest such pause, ms", |c, v| {
        c.calls.processor.trigger_backoff_max = millis_within(v, 1..=DAY_MS)?;
        Ok(())
    }),
    now("ODGM_ENABLE_EVENT_LOGGING", "true", "log a line for each call of a trigger that ended", |c, v| {
        c.calls.processor.event_logging = parse::boolean(v)?;
        Ok(())
    }),
    now(
        "ODGM_PAYLOAD_FORMAT",
        "json",
        "what triggers send to functions: json, protobuf or protobuf-numeric",
        |c, v| {
            c.calls.processor.payload_format =
                PayloadFormat::parse(v).ok_or("json, protobuf or protobuf-numeric")?;
            Ok(())
        },
    ),
    now("ODGM_DEAD_LETTER_AGE_MS", "2592000000", "dead letters older than this are dropped, ms", |c, v| {
        c.calls.processor.dead_letter_age = millis_within(v, 1..=10 * YEAR_MS)?;
        Ok(())
    }),
    now(
        "ODGM_DEAD_LETTER_MAX_BYTES",
        "256MiB",
        "bytes of dead letters of one partition; beyond them the oldest are dropped",
        |c, v| {
            c.calls.processor.dead_letter_bytes = parse::bytes(v, 0..=TIB)?;
            Ok(())
        },
    ),
    now(
        "ODGM_MAX_TRIGGER_BYTES",
        "256MiB",
        "bytes of what calls of triggers send that are under way on this node; more wait",
        |c, v| {
            c.calls.processor.payload_bytes = parse::bytes(v, 1024..=TIB)?;
            Ok(())
        },
    ),
    // Calls whose clients wait.
    now(
        "ODGM_INVOKE_TIMEOUT_MS",
        "300000",
        "longest call whose client does not say how long it waits, ms",
        |c, v| {
            c.limits.call_timeout = millis_within(v, 1..=DAY_MS)?;
            Ok(())
        },
    ),
    now(
        "ODGM_MAX_CONCURRENT_CALLS",
        "4096",
        "calls of this node whose clients wait; more are refused",
        |c, v| {
            c.limits.calls = parse::number(v, 1..=1_000_000)?;
            Ok(())
        },
    ),
    now("ODGM_MAX_CALL_BYTES", "256MiB", "bytes of their requests; more are refused", |c, v| {
        c.limits.call_bytes = parse::bytes(v, 1024..=TIB)?;
        Ok(())
    }),
    // The endpoints of functions.
    now(
        "ODGM_FUNCTION_CONNECT_TIMEOUT_MS",
        "3000",
        "how long a connection to a function may take to come about, ms",
        |c, v| {
            c.calls.functions.connect_timeout = millis_within(v, 1..=DAY_MS)?;
            Ok(())
        },
    ),
    now(
        "ODGM_FUNCTION_MAX_ANSWER_BYTES",
        "32MiB",
        "largest answer of a function; a larger one ends the call as failed",
        |c, v| {
            c.calls.functions.answer_bytes = parse::bytes(v, 1024..=LARGEST_ANSWER)?;
            Ok(())
        },
    ),
    now(
        "ODGM_FUNCTION_BREAKER_FAILURES",
        "5",
        "failures in a row after which an endpoint of functions is left alone",
        |c, v| {
            c.calls.functions.breaker.failures = parse::number(v, 1..=1_000_000)?;
            Ok(())
        },
    ),
    now(
        "ODGM_FUNCTION_BREAKER_PAUSE_MS",
        "500",
        "for how long at first, ms; it doubles while the endpoint does not answer",
        |c, v| {
            c.calls.functions.breaker.first_pause = millis_within(v, 1..=DAY_MS)?;
            Ok(())
        },
    ),
    now("ODGM_FUNCTION_BREAKER_PAUSE_MAX_MS", "30000", "for how long at most, ms", |c, v| {
        let longest = millis_within(v, 1..=DAY_MS)?;
        let functions = &mut c.calls.functions;
        functions.breaker.longest_pause = longest;
        // What is known of an endpoint outlives the pause.
        functions.forgotten_after = functions.forgotten_after.max(longest * 3);
        Ok(())
    }),
    now(
        "ODGM_FUNCTION_HEALTH_INTERVAL_MS",
        "5000",
        "how often endpoints of functions that are used are asked how they are, ms",
        |c, v| {
            c.calls.functions.health.interval = millis_within(v, 10..=DAY_MS)?;
            Ok(())
        },
    ),
    // Of the first implementation.
    checked("ODGM_EVENT_PIPELINE_V2", "true", "the event pipeline", ONE_WAY, boolean),
    checked("ODGM_EVENT_PIPELINE_BRIDGE", "true", "the event pipeline", ONE_WAY, boolean),
    checked("ODGM_EVENT_QUEUE_BOUND", "1024", "event queue of a partition", NO_QUEUE, count),
    checked("ODGM_EVENT_BCAST_BOUND", "256", "event broadcast of a partition", NO_QUEUE, count),
    checked("ODGM_MAX_BATCH_TRIGGER_FANOUT", "256", "keys of one batch that can trigger", NO_QUEUE, count),
    checked("ODGM_EVENT_SUMMARY_KEY_SAMPLE", "32", "keys named when events were left out", NO_QUEUE, count),
];

fn millis_within(value: &str, range: RangeInclusive<u64>) -> Result<Duration, Expected> {
    parse::number(value, range).map(Duration::from_millis)
}
