//! Which connection of an endpoint carries a call, when another one is opened, and when one is closed.
//!
//! Pools of connections lend each one to one borrower; HTTP/2 carries many calls over each. tonic's channels are one
//! connection each that is made anew by itself, behind a queue in which every call waits for an attempt of its own while
//! the endpoint cannot be reached, and do not tell whether a call was sent. So here is a small pool, pure, with the time
//! passed in; a connection is closed by dropping it, which hyper does once its last call has ended.

use tokio::time::Instant;

use super::settings::PoolSettings;

/// What a pool has to know of a connection.
pub(crate) trait Line: Clone {
    fn standing(&self) -> Standing;
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is being made; calls may wait for it.
    Opening,
    /// It carries calls.
    Open,
    /// It did not come about, or was closed.
    Gone,
}

/// The connections to one endpoint.
pub(crate) struct Pool<L> {
    settings: PoolSettings,
    calls_per_connection: usize,
    /// Those that take calls, in the order in which they were opened.
    serving: Vec<Slot<L>>,
    /// Those that are too old and end with their last call. No more than may serve.
    leaving: Vec<Slot<L>>,
    next: u64,
}

struct Slot<L> {
    id: u64,
    line: L,
    calls: usize,
    opened: Instant,
    /// When it carried a call last.
    used: Instant,
}

/// Names a connection of a pool.
pub(crate) type SlotId = u64;

impl<L: Line> Pool<L> {
    pub(crate) fn new(settings: PoolSettings, calls_per_connection: usize) -> Self {
        Self { settings, calls_per_connection, serving: Vec::new(), leaving: Vec::new(), next: 0 }
    }

    /// A connection for one more call: the oldest with room, so that those that are not needed fall idle. If none has
    /// room another is opened; none if there are as many as there may be.
    pub(crate) fn take(&mut self, now: Instant, open: impl FnOnce() -> L) -> Option<(SlotId, L)> {
        self.tidy(now);
        let limit = self.calls_per_connection;
        let with_room =
            |standing: Standing| move |slot: &Slot<L>| slot.calls < limit && slot.line.standing() == standing;
        let found = self.serving.iter().position(with_room(Standing::Open));
        let found = found.or_else(|| self.serving.iter().position(with_room(Standing::Opening)));
        let at = match found {
            Some(at) => at,
            None if self.serving.len() < self.settings.size => {
                self.add(now, open());
                self.serving.len() - 1
            }
            None => return None,
        };
        let slot = &mut self.serving[at];
        slot.calls += 1;
        slot.used = now;
        Some((slot.id, slot.line.clone()))
    }

    /// A connection to look at how the endpoint is. That is not using it.
    pub(crate) fn look(&mut self, now: Instant, open: impl FnOnce() -> L) -> L {
        self.tidy(now);
        let is = |standing: Standing| move |slot: &&Slot<L>| slot.line.standing() == standing;
        let serving = || self.serving.iter();
        if let Some(slot) =
            serving().find(is(Standing::Open)).or_else(|| serving().find(is(Standing::Opening)))
        {
            return slot.line.clone();
        }
        let line = open();
        self.add(now, line.clone());
        line
    }

    fn add(&mut self, now: Instant, line: L) {
        self.serving.push(Slot { id: self.next, line, calls: 0, opened: now, used: now });
        self.next += 1;
    }

    /// A call has ended.
    pub(crate) fn give_back(&mut self, id: SlotId, now: Instant) {
        // One that has gone is in neither.
        if let Some(slot) = self.serving.iter_mut().chain(&mut self.leaving).find(|slot| slot.id == id) {
            slot.calls -= 1;
            slot.used = now;
        }
        self.leaving.retain(|slot| slot.calls > 0);
    }

    /// Forgets a connection that turned out to be closed.
    pub(crate) fn forget(&mut self, id: SlotId) {
        self.serving.retain(|slot| slot.id != id);
        self.leaving.retain(|slot| slot.id != id);
    }

    /// Forgets those that have gone, lets go of those that are too old, and closes those that nobody uses.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let PoolSettings { idle, lifetime, size } = self.settings;
        self.serving.retain(|slot| slot.line.standing() != Standing::Gone);
        self.leaving.retain(|slot| slot.line.standing() != Standing::Gone);
        self.serving.retain(|slot| slot.calls > 0 || now < (slot.used + idle).min(slot.opened + lifetime));
        while self.leaving.len() < size
            && let Some(at) = self.serving.iter().position(|slot| slot.opened + lifetime <= now)
        {
            self.leaving.push(self.serving.remove(at));
        }
    }

    /// When there may be one to close, or to let go of.
    pub(crate) fn next_due(&self, now: Instant) -> Option<Instant> {
        let PoolSettings { idle, lifetime, .. } = self.settings;
        let due = self.serving.iter().map(|slot| {
            // One that is in use may fall idle at any time.
            let unused = if slot.calls > 0 { now } else { slot.used } + idle;
            let old = slot.opened + lifetime;
            // One that is too old may have to wait for others that are.
            if now < old { unused.min(old) } else { unused }
        });
        due.min()
    }

    /// How many there are, with those that are on their way out.
    pub(crate) fn connections(&self) -> usize {
        self.serving.len() + self.leaving.len()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SETTINGS: PoolSettings =
        PoolSettings { size: 2, idle: Duration::from_secs(10), lifetime: Duration::from_secs(60) };

    #[derive(Clone)]
    struct Fake(Rc<Cell<Standing>>);

    impl Line for Fake {
        fn standing(&self) -> Standing {
            self.0.get()
        }
    }

    fn open() -> Fake {
        Fake(Rc::new(Cell::new(Standing::Open)))
    }

    fn pool() -> Pool<Fake> {
        Pool::new(SETTINGS, 2)
    }

    fn take(pool: &mut Pool<Fake>, now: Instant) -> Option<SlotId> {
        pool.take(now, open).map(|(id, _)| id)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn another_is_opened_only_when_all_are_full_and_there_may_be_more() {
        let (mut pool, now) = (pool(), Instant::now());
        let taken: Vec<_> = (0..5).map(|_| take(&mut pool, now)).collect();
        assert_eq!(taken, [Some(0), Some(0), Some(1), Some(1), None]);
        pool.give_back(0, now);
        assert_eq!(take(&mut pool, now), Some(0), "the oldest with room");
    }

    #[test]
    fn one_that_is_being_opened_is_waited_for_only_if_no_other_has_room() {
        let (mut pool, now) = (pool(), Instant::now());
        let first = Fake(Rc::new(Cell::new(Standing::Opening)));
        let clone = first.clone();
        assert!(pool.take(now, || clone).is_some_and(|(id, _)| id == 0));
        assert_eq!(take(&mut pool, now), Some(0), "both wait for it");
        assert_eq!(take(&mut pool, now), Some(1));
        pool.give_back(0, now);
        assert_eq!(take(&mut pool, now), Some(1), "it is open");
        assert_eq!(take(&mut pool, now), Some(0), "the other is full");
        first.0.set(Standing::Gone);
        pool.give_back(1, now);
        assert_eq!(take(&mut pool, now), Some(1));
        assert_eq!(take(&mut pool, now), Some(2), "one that has gone gives its place up");
        pool.give_back(0, now);
        assert_eq!(pool.connections(), 2);
    }

    #[test]
    fn what_is_not_used_is_closed_and_what_is_old_ends_with_its_last_call() {
        let (mut pool, start) = (pool(), Instant::now());
        for id in [0, 0, 1] {
            assert_eq!(take(&mut pool, start), Some(id));
        }
        pool.give_back(1, start + seconds(5));
        assert_eq!(pool.next_due(start + seconds(5)), Some(start + seconds(15)));
        pool.tidy(start + seconds(14));
        assert_eq!(pool.connections(), 2);
        pool.tidy(start + seconds(15));
        assert_eq!(pool.connections(), 1, "the second fell idle");
        assert_eq!(pool.next_due(start + seconds(55)), Some(start + seconds(60)));
        let old = start + seconds(60);
        assert_eq!(take(&mut pool, old), Some(2), "the first is too old for new calls");
        assert_eq!(pool.connections(), 2);
        pool.give_back(0, old);
        assert_eq!(pool.connections(), 2, "it still has one");
        pool.give_back(0, old);
        assert_eq!(pool.connections(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        End(usize),
        Break(usize),
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Take),
            3 => any::<usize>().prop_map(Step::End),
            1 => any::<usize>().prop_map(Step::Break),
            2 => (0..40_u64).prop_map(Step::Pass),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever comes: no more connections than may be, none with more calls than it may carry, none that is too old or
        /// closed is given out, no call is refused while there is room, and at the end nothing is left.
        #[test]
        fn it_stays_within_its_bounds(steps in steps()) {
            let mut now = Instant::now();
            let mut pool = pool();
            let mut calls: Vec<SlotId> = Vec::new();
            let mut lines: Vec<(Fake, Instant)> = Vec::new();
            for step in steps {
                match step {
                    Step::Pass(time) => now += seconds(time),
                    Step::Take => {
                        let taken = pool.take(now, || {
                            lines.push((open(), now));
                            lines[lines.len() - 1].0.clone()
                        });
                        match taken {
                            Some((id, line)) => {
                                prop_assert_eq!(line.standing(), Standing::Open);
                                let (_, opened) = lines[usize::try_from(id).expect("small")];
                                prop_assert!(now < opened + SETTINGS.lifetime || pool.leaving.len() == SETTINGS.size);
                                calls.push(id);
                                prop_assert!(calls.iter().filter(|call| **call == id).count() <= 2);
                            }
                            None => prop_assert!(pool.serving.iter().all(|slot| slot.calls == 2)),
                        }
                    }
                    Step::End(which) if !calls.is_empty() => {
                        let id = calls.swap_remove(which % calls.len());
                        pool.give_back(id, now);
                    }
                    Step::Break(which) if !lines.is_empty() => {
                        let at = which % lines.len();
                        lines[at].0.0.set(Standing::Gone);
                    }
                    Step::End(_) | Step::Break(_) => {}
                }
                prop_assert!(pool.serving.len() <= SETTINGS.size && pool.leaving.len() <= SETTINGS.size);
            }
            for id in calls {
                pool.give_back(id, now);
            }
            pool.tidy(now + SETTINGS.idle);
            prop_assert_eq!(pool.connections(), 0);
        }
    }
}
