//! The time of a log, as its leader goes on with it.

use std::time::Duration;

use odgm_log::Timestamp;
use tokio::time::Instant;

use super::plan::{Now, micros};

/// Beyond this nothing is planned by the machine's time.
const FORESEEN: Duration = Duration::from_secs(60 * 60);

/// Goes on at the rate of the machine, never back, and is never behind the log or the wall clock. A log whose earlier leader had
/// a clock that was ahead is ahead of the wall clock for a while; pauses have their length even then.
#[derive(Debug)]
pub(super) struct Clock {
    at: Instant,
    time: Timestamp,
}

impl Clock {
    pub(super) fn new(log: Timestamp, wall: Timestamp, at: Instant) -> Self {
        Self { at, time: log.max(wall) }
    }

    /// The time, of which it is known what the log and the wall clock say.
    pub(super) fn now(&mut self, log: Timestamp, wall: Timestamp, at: Instant) -> Now {
        let passed = micros(at.saturating_duration_since(self.at));
        let time = Timestamp(self.time.0.saturating_add(passed)).max(log).max(wall);
        (self.at, self.time) = (at, time);
        Now { time, at }
    }

    /// When it will be that time, if nothing else moves it on.
    pub(super) fn moment_of(&self, time: Timestamp) -> Instant {
        self.at + Duration::from_micros(time.0.saturating_sub(self.time.0)).min(FORESEEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back_and_is_never_behind() {
        let start = Instant::now();
        let second = |n: u64| Timestamp(n * 1_000_000);
        let later = |n: u64| start + Duration::from_secs(n);
        // The log is ahead of the wall clock, which is set back, too.
        let mut clock = Clock::new(second(100), second(10), start);
        assert_eq!(clock.now(second(100), second(11), later(1)).time, second(101));
        assert_eq!(clock.now(second(100), second(5), later(3)).time, second(103));
        assert_eq!(clock.moment_of(second(110)), later(10));
        assert_eq!(clock.moment_of(second(1)), later(3), "what has passed is now");
        // The wall clock is set right, then a record comes from the future.
        assert_eq!(clock.now(second(100), second(200), later(4)).time, second(200));
        assert_eq!(clock.now(second(300), second(201), later(5)).time, second(300));
    }
}
