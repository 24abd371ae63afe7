//! A circuit breaker: whether an endpoint is called, by what came of the calls before.
//!
//! Closed, it admits every call. After some failures in a row it opens and admits none for a pause. Then it lets one call
//! through to try: if that goes well it closes, else it opens again and the pause doubles. A call that is let through and
//! comes to no end, because it hangs or was given up, does not hold the next one back for longer than a pause.
//!
//! It is pure: the time is passed in. Of the crates that offer one, `failsafe` and `recloser` let all calls through once
//! the pause is over, however slow they are to fail; `tower-resilience` counts what is let through, but its pause does not
//! grow and an endpoint that hangs keeps it half-open. None tells until when it is open, which a trigger is put off to;
//! all read a clock that tests cannot move.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::BreakerSettings;

/// The breaker of one endpoint.
pub(crate) struct Breaker {
    settings: BreakerSettings,
    position: Position,
    /// Counts how often it opened: what came of calls from before says nothing any more.
    era: u64,
    /// Counts the calls that were let through to try.
    tries: u64,
}

enum Position {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call was let through; the next one not before `until`.
    Trying {
        until: Instant,
        pause: Duration,
        which: u64,
    },
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// The endpoint is called.
    #[default]
    Closed,
    /// It is tried with single calls.
    HalfOpen,
    /// It is left alone.
    Open,
}

/// A call that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    era: u64,
    try_of_era: u64,
}

/// What came of a call, as far as the endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered, whatever.
    Good,
    /// It did not.
    Bad,
    /// The call was given up before that could be said.
    Nothing,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self { settings, position: Position::Closed { failures: 0 }, era: 0, tries: 0 }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.position {
            Position::Closed { .. } => BreakerState::Closed,
            Position::Trying { .. } => BreakerState::HalfOpen,
            Position::Open { .. } => BreakerState::Open,
        }
    }

    /// Until when a call would be held back; none if one would be admitted.
    pub(crate) fn closed_until(&self, now: Instant) -> Option<Instant> {
        match self.position {
            Position::Closed { .. } => None,
            Position::Open { until, .. } | Position::Trying { until, .. } => (until > now).then_some(until),
        }
    }

    /// Admits a call, or says until when none is.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Ticket, Instant> {
        if let Some(until) = self.closed_until(now) {
            return Err(until);
        }
        let pause = match self.position {
            Position::Closed { .. } => return Ok(self.ticket()),
            Position::Open { pause, .. } => pause,
            // The call that was let through before has no end yet.
            Position::Trying { pause, .. } => self.longer(pause),
        };
        self.tries += 1;
        self.position = Position::Trying { until: now + pause, pause, which: self.tries };
        Ok(self.ticket())
    }

    /// Takes in what came of a call.
    pub(crate) fn settle(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        if ticket.era != self.era {
            return;
        }
        match (&mut self.position, verdict) {
            (position, Verdict::Good) => *position = Position::Closed { failures: 0 },
            (Position::Closed { failures }, Verdict::Bad) => {
                *failures += 1;
                if *failures >= self.settings.failures {
                    self.era += 1;
                    let pause = self.settings.first_pause;
                    self.position = Position::Open { until: now + pause, pause };
                }
            }
            // Of an earlier call that was let through nothing is expected any more.
            (Position::Trying { which, .. }, _) if *which != ticket.try_of_era => {}
            (&mut Position::Trying { pause, .. }, Verdict::Bad) => {
                let pause = self.longer(pause);
                self.position = Position::Open { until: now + pause, pause };
            }
            (&mut Position::Trying { pause, .. }, Verdict::Nothing) => {
                self.position = Position::Open { until: now, pause };
            }
            (Position::Closed { .. }, Verdict::Nothing) | (Position::Open { .. }, _) => {}
        }
    }

    /// The endpoint can be reached again: it may be tried at once.
    pub(crate) fn reachable(&mut self, now: Instant) {
        if let Position::Open { until, .. } = &mut self.position {
            *until = now.min(*until);
        }
    }

    fn ticket(&self) -> Ticket {
        Ticket { era: self.era, try_of_era: self.tries }
    }

    fn longer(&self, pause: Duration) -> Duration {
        pause.saturating_mul(2).min(self.settings.longest_pause)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        first_pause: Duration::from_secs(1),
        longest_pause: Duration::from_secs(4),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A breaker that has just opened.
    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..3 {
            let ticket = breaker.admit(now).expect("closed");
            breaker.settle(ticket, Verdict::Bad, now);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_others_do_not() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        for verdict in
            [Verdict::Bad, Verdict::Bad, Verdict::Good, Verdict::Bad, Verdict::Nothing, Verdict::Bad]
        {
            let ticket = breaker.admit(now).expect("closed");
            breaker.settle(ticket, verdict, now);
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        let ticket = breaker.admit(now).expect("closed");
        breaker.settle(ticket, Verdict::Bad, now);
        assert_eq!(breaker.admit(now), Err(now + seconds(1)));
    }

    #[test]
    fn one_call_tries_and_the_pause_grows_until_it_goes_well() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause in [1, 2, 4, 4] {
            assert_eq!(breaker.closed_until(now), Some(now + seconds(pause)));
            now += seconds(pause);
            let ticket = breaker.admit(now).expect("the pause is over");
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            assert!(breaker.admit(now).is_err(), "one is enough");
            breaker.settle(ticket, Verdict::Bad, now);
        }
        now += seconds(4);
        let ticket = breaker.admit(now).expect("the pause is over");
        breaker.settle(ticket, Verdict::Good, now);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(breaker.closed_until(now), None);
    }

    #[test]
    fn calls_from_before_it_opened_do_not_count() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        let tickets: Vec<_> = (0..5).map(|_| breaker.admit(now).expect("closed")).collect();
        for ticket in &tickets[..3] {
            breaker.settle(*ticket, Verdict::Bad, now);
        }
        breaker.settle(tickets[3], Verdict::Good, now);
        breaker.settle(tickets[4], Verdict::Bad, now);
        assert_eq!(breaker.closed_until(now), Some(now + seconds(1)));
    }

    #[test]
    fn a_try_that_hangs_or_is_given_up_does_not_keep_others_out() {
        let start = Instant::now();
        let mut breaker = opened(start);
        let first = breaker.admit(start + seconds(1)).expect("the pause is over");
        assert_eq!(breaker.admit(start + seconds(1)), Err(start + seconds(2)));
        let second = breaker.admit(start + seconds(2)).expect("the first one hangs");
        breaker.settle(first, Verdict::Bad, start + seconds(2));
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "nobody waits for the first one any more");
        breaker.settle(second, Verdict::Nothing, start + seconds(2));
        let third = breaker.admit(start + seconds(2)).expect("the second one was given up");
        breaker.settle(first, Verdict::Good, start + seconds(3));
        assert_eq!(breaker.state(), BreakerState::Closed, "an answer is an answer, however late");
        breaker.settle(third, Verdict::Bad, start + seconds(3));
        assert_eq!(breaker.state(), BreakerState::Closed, "one failure");
    }

    #[test]
    fn an_endpoint_that_can_be_reached_again_is_tried_at_once() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.reachable(now);
        assert_eq!(breaker.closed_until(now), None);
        let _ticket = breaker.admit(now).expect("tried");
        breaker.reachable(now);
        assert!(breaker.admit(now).is_err(), "one is enough");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Call,
        End(usize, Verdict),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let verdict =
            prop_oneof![1 => Just(Verdict::Good), 3 => Just(Verdict::Bad), 1 => Just(Verdict::Nothing)];
        let step = prop_oneof![
            3 => Just(Step::Call),
            3 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Step::End(which, verdict)),
            1 => (0..5_000_u64).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// What it promises, whatever comes: closed, all are admitted and it opens after three failures in a row; else one
        /// in each pause is, no pause is shorter than the first or longer than the longest, and it never stays shut for ever.
        #[test]
        fn it_keeps_its_word(steps in steps()) {
            let mut now = Instant::now();
            let mut breaker = Breaker::new(SETTINGS);
            let mut under_way: Vec<Ticket> = Vec::new();
            let mut in_a_row = 0;
            for step in steps {
                match step {
                    Step::Pass(millis) => now += Duration::from_millis(millis),
                    Step::Call => {
                        let was_closed = breaker.state() == BreakerState::Closed;
                        let held = breaker.closed_until(now);
                        match breaker.admit(now) {
                            Ok(ticket) => {
                                prop_assert_eq!(held, None);
                                under_way.push(ticket);
                                if !was_closed {
                                    let next = breaker.closed_until(now).expect("one is enough") - now;
                                    prop_assert!(SETTINGS.first_pause <= next && next <= SETTINGS.longest_pause);
                                }
                            }
                            Err(until) => {
                                prop_assert!(!was_closed);
                                prop_assert_eq!(held, Some(until));
                                prop_assert!(until > now && until - now <= SETTINGS.longest_pause);
                            }
                        }
                    }
                    Step::End(which, verdict) if !under_way.is_empty() => {
                        let ticket = under_way.swap_remove(which % under_way.len());
                        let before = breaker.state();
                        let counts = ticket.era == breaker.era;
                        breaker.settle(ticket, verdict, now);
                        match (before, verdict) {
                            _ if !counts => prop_assert_eq!(breaker.state(), before),
                            (_, Verdict::Good) => {
                                in_a_row = 0;
                                prop_assert_eq!(breaker.state(), BreakerState::Closed);
                            }
                            (BreakerState::Closed, Verdict::Bad) => {
                                in_a_row += 1;
                                let opens = in_a_row == SETTINGS.failures;
                                prop_assert_eq!(breaker.state() == BreakerState::Open, opens);
                                in_a_row = if opens { 0 } else { in_a_row };
                            }
                            (BreakerState::Closed, Verdict::Nothing) => prop_assert_eq!(breaker.state(), before),
                            _ => prop_assert_ne!(breaker.state(), BreakerState::Closed),
                        }
                    }
                    Step::End(..) => {}
                }
            }
        }
    }
}
