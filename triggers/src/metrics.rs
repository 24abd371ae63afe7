//! What is counted of calls, under which names, and with which words it is described.
//!
//! Told to the `metrics` facade; a binary that shows them installs its recorder before the first partition is brought up,
//! and calls [`describe`] then.

use std::time::Duration;

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};
use odgm_log::body::calls::Status;

use crate::functions::BreakerState;

/// Attempts at calls that triggers or invocations asked for.
pub const DISPATCHED: &str = "odgm_calls_dispatched_total";
/// Those whose function completed.
pub const SUCCEEDED: &str = "odgm_calls_succeeded_total";
/// Those that ended in an error.
pub const FAILED: &str = "odgm_calls_failed_total";
/// Those that are tried again.
pub const RETRIED: &str = "odgm_calls_retried_total";
/// Calls and deliveries that were given up.
pub const DEAD: &str = "odgm_calls_dead_total";
/// Outcomes that have arrived in other partitions.
pub const DELIVERED: &str = "odgm_calls_delivered_total";
/// Outcomes and settlements that came too late to count, and calls that a leader had under way when it was none any more.
pub const STALE: &str = "odgm_calls_stale_total";
/// Calls that were put off because their record could not be read.
pub const UNREAD: &str = "odgm_calls_unread_total";
/// Calls that are under way.
pub const IN_FLIGHT: &str = "odgm_calls_in_flight";
/// Calls that wait in the outbox.
pub const OUTBOX_ROWS: &str = "odgm_outbox_rows";
/// Their bytes.
pub const OUTBOX_BYTES: &str = "odgm_outbox_bytes";
/// For how long the first of them has been due.
pub const OUTBOX_AGE: &str = "odgm_outbox_age_seconds";
/// Functions whose calls wait.
pub const HELD: &str = "odgm_functions_held";
/// Dead letters.
pub const DEAD_LETTERS: &str = "odgm_dead_letters";
/// Outcomes that are still to be delivered.
pub const DELIVERIES: &str = "odgm_deliveries_waiting";
/// The breaker of an endpoint.
pub const ENDPOINT_STATE: &str = "odgm_endpoint_state";
/// Invocations of clients that have ended.
pub const INVOCATIONS: &str = "odgm_invocations_total";

/// Labels.
const CLASS: &str = "class";
const PARTITION: &str = "partition";
const STATUS: &str = "status";
const URL: &str = "url";

/// Describes all of them to the recorder.
pub fn describe() {
    let counters = [
        (DISPATCHED, "Attempts at calls that triggers and invocations asked for"),
        (SUCCEEDED, "Calls whose function completed"),
        (FAILED, "Calls that ended in an error of the function"),
        (RETRIED, "Attempts that failed and are made again"),
        (DEAD, "Calls and deliveries that were given up as dead letters"),
        (DELIVERED, "Outcomes that have arrived in other partitions"),
        (
            STALE,
            "Outcomes that came too late to count, those of calls that a deposed leader had under way among them",
        ),
        (UNREAD, "Calls that were put off, which is no attempt, because their record could not be read here"),
        (INVOCATIONS, "Invocations of clients that have ended, by status"),
    ];
    for (name, words) in counters {
        describe_counter!(name, Unit::Count, words);
    }
    let gauges = [
        (IN_FLIGHT, Unit::Count, "Calls of triggers and invocations that are under way"),
        (OUTBOX_ROWS, Unit::Count, "Calls that wait in the outbox of a partition led here"),
        (OUTBOX_BYTES, Unit::Bytes, "Bytes of the outbox of a partition led here"),
        (OUTBOX_AGE, Unit::Seconds, "For how long the first call in the outbox has been due"),
        (HELD, Unit::Count, "Functions of which a partition led here makes no calls for now"),
        (DEAD_LETTERS, Unit::Count, "Dead letters of a partition led here"),
        (DELIVERIES, Unit::Count, "Outcomes that are still to be delivered to other partitions"),
        (ENDPOINT_STATE, Unit::Count, "Breaker of an endpoint of functions: 0 closed, 1 half-open, 2 open"),
    ];
    for (name, unit, words) in gauges {
        describe_gauge!(name, unit, words);
    }
}

/// What is counted for one partition. Its gauges go back to 0 when this is dropped, with the lead.
pub struct Meters {
    dispatched: Counter,
    succeeded: Counter,
    failed: Counter,
    retried: Counter,
    dead: Counter,
    delivered: Counter,
    stale: Counter,
    unread: Counter,
    in_flight: Gauge,
    rows: Gauge,
    bytes: Gauge,
    age: Gauge,
    held: Gauge,
    dead_letters: Gauge,
    deliveries: Gauge,
}

/// How much waits in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Calls in the outbox.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// For how long the first of them has been due; zero if none is.
    pub age: Duration,
    /// Functions whose calls are held back.
    pub held: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Outcomes to be delivered.
    pub deliveries: u64,
}

impl Meters {
    /// Those of a partition.
    pub fn of(class: &str, partition: u32) -> Self {
        let count = |name: &'static str| counter!(name, CLASS => class.to_owned(), PARTITION => partition.to_string());
        let gauge =
            |name: &'static str| gauge!(name, CLASS => class.to_owned(), PARTITION => partition.to_string());
        Self {
            dispatched: count(DISPATCHED),
            succeeded: count(SUCCEEDED),
            failed: count(FAILED),
            retried: count(RETRIED),
            dead: count(DEAD),
            delivered: count(DELIVERED),
            stale: count(STALE),
            unread: count(UNREAD),
            in_flight: gauge(IN_FLIGHT),
            rows: gauge(OUTBOX_ROWS),
            bytes: gauge(OUTBOX_BYTES),
            age: gauge(OUTBOX_AGE),
            held: gauge(HELD),
            dead_letters: gauge(DEAD_LETTERS),
            deliveries: gauge(DELIVERIES),
        }
    }

    /// An attempt begins. It counts as under way until what this returns is dropped.
    pub fn dispatched(&self) -> InFlight {
        self.dispatched.increment(1);
        self.in_flight.increment(1.0);
        InFlight(self.in_flight.clone())
    }

    /// A call has ended, well or not.
    pub fn ended(&self, status: Status) {
        if status.is_complete() { self.succeeded.increment(1) } else { self.failed.increment(1) }
    }

    /// A call is tried again.
    pub fn retried(&self) {
        self.retried.increment(1);
    }

    /// So many calls or deliveries were given up.
    pub fn dead(&self, count: u64) {
        self.dead.increment(count);
    }

    /// So many outcomes have arrived.
    pub fn delivered(&self, count: u64) {
        self.delivered.increment(count);
    }

    /// So many outcomes or settlements came too late.
    pub fn stale(&self, count: u64) {
        self.stale.increment(count);
    }

    /// A call was put off because its record could not be read.
    pub fn unread(&self) {
        self.unread.increment(1);
    }

    /// So much waits now.
    pub fn backlog(&self, backlog: &Backlog) {
        self.rows.set(float(backlog.rows));
        self.bytes.set(float(backlog.bytes));
        self.age.set(backlog.age.as_secs_f64());
        self.held.set(float(backlog.held));
        self.dead_letters.set(float(backlog.dead_letters));
        self.deliveries.set(float(backlog.deliveries));
    }
}

impl Drop for Meters {
    fn drop(&mut self) {
        self.backlog(&Backlog::default());
    }
}

/// A call that is under way.
#[must_use = "the call counts as ended when this is dropped"]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// An invocation of a client has ended.
pub fn invocation_ended(status: Status) {
    counter!(INVOCATIONS, STATUS => status.name()).increment(1);
}

/// The breaker of an endpoint stands so.
pub fn endpoint_state(url: &str, state: BreakerState) {
    let value = match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
    };
    gauge!(ENDPOINT_STATE, URL => url.to_owned()).set(value);
}

/// Exact up to 2^53, and near enough beyond.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{Histogram, Key, KeyName, Metadata, Recorder, SharedString, with_local_recorder};
    use parking_lot::Mutex;

    use super::*;

    /// Keeps what it is told.
    #[derive(Default)]
    struct Notes {
        described: Mutex<BTreeMap<String, String>>,
        counters: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
        gauges: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    }

    impl Notes {
        fn describe(&self, name: &KeyName, words: &SharedString) {
            let twice = self.described.lock().insert(name.as_str().to_owned(), words.to_string());
            assert_eq!(twice, None, "one description for each");
        }

        fn find(all: &Mutex<BTreeMap<String, Arc<AtomicU64>>>, key: &Key) -> Arc<AtomicU64> {
            let labels = key.labels().map(|label| format!(" {}={}", label.key(), label.value()));
            let name = key.name().to_owned() + &labels.collect::<String>();
            Arc::clone(all.lock().entry(name).or_default())
        }

        /// What is not 0.
        fn read(&self) -> String {
            let value = |value: &AtomicU64| value.load(Ordering::Relaxed);
            let counters = self.counters.lock();
            let counters = counters.iter().map(|(name, count)| (name.clone(), value(count).to_string()));
            let gauges = self.gauges.lock();
            let gauges =
                gauges.iter().map(|(name, gauge)| (name.clone(), f64::from_bits(value(gauge)).to_string()));
            let all = counters.chain(gauges).filter(|(_, value)| value != "0");
            all.map(|(name, value)| format!("{name}: {value}\n")).collect()
        }
    }

    impl Recorder for Notes {
        fn describe_counter(&self, key: KeyName, _: Option<Unit>, words: SharedString) {
            self.describe(&key, &words);
        }

        fn describe_gauge(&self, key: KeyName, _: Option<Unit>, words: SharedString) {
            self.describe(&key, &words);
        }

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Self::find(&self.counters, key))
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Self::find(&self.gauges, key))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn what_is_told_is_found_under_its_name() {
        let notes = Notes::default();
        with_local_recorder(&notes, || {
            describe();
            let meters = Meters::of("c", 3);
            let under_way = [meters.dispatched(), meters.dispatched()];
            meters.ended(Status::Completed);
            meters.ended(Status::ApplicationError);
            meters.retried();
            meters.dead(2);
            meters.delivered(3);
            meters.stale(4);
            meters.unread();
            let age = Duration::from_millis(1_500);
            meters.backlog(&Backlog { rows: 5, bytes: 6, age, held: 9, dead_letters: 7, deliveries: 8 });
            invocation_ended(Status::SystemError);
            endpoint_state("http://h:80", BreakerState::Open);
            insta::assert_snapshot!(notes.read(), @"
            odgm_calls_dead_total class=c partition=3: 2
            odgm_calls_delivered_total class=c partition=3: 3
            odgm_calls_dispatched_total class=c partition=3: 2
            odgm_calls_failed_total class=c partition=3: 1
            odgm_calls_retried_total class=c partition=3: 1
            odgm_calls_stale_total class=c partition=3: 4
            odgm_calls_succeeded_total class=c partition=3: 1
            odgm_calls_unread_total class=c partition=3: 1
            odgm_invocations_total status=system_error: 1
            odgm_calls_in_flight class=c partition=3: 2
            odgm_dead_letters class=c partition=3: 7
            odgm_deliveries_waiting class=c partition=3: 8
            odgm_endpoint_state url=http://h:80: 2
            odgm_functions_held class=c partition=3: 9
            odgm_outbox_age_seconds class=c partition=3: 1.5
            odgm_outbox_bytes class=c partition=3: 6
            odgm_outbox_rows class=c partition=3: 5
            ");
            drop((under_way, meters));
            endpoint_state("http://h:80", BreakerState::Closed);
            assert!(
                notes
                    .gauges
                    .lock()
                    .values()
                    .all(|gauge| f64::from_bits(gauge.load(Ordering::Relaxed)) == 0.0)
            );
        });
        let names = notes.described.lock().keys().cloned().collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(names, @"
        odgm_calls_dead_total
        odgm_calls_delivered_total
        odgm_calls_dispatched_total
        odgm_calls_failed_total
        odgm_calls_in_flight
        odgm_calls_retried_total
        odgm_calls_stale_total
        odgm_calls_succeeded_total
        odgm_calls_unread_total
        odgm_dead_letters
        odgm_deliveries_waiting
        odgm_endpoint_state
        odgm_functions_held
        odgm_invocations_total
        odgm_outbox_age_seconds
        odgm_outbox_bytes
        odgm_outbox_rows
        ");
    }
}
