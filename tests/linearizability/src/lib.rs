//! Tells whether what concurrent clients saw of one object could have happened one after the other.
//!
//! A history is linearizable if each operation can be given one moment between its call and its return such that all of
//! them in that order give the answers that were seen (Herlihy and Wing, 1990). The search is that of Wing and Gong with
//! Lowe's memory of what was tried (Lowe, 2017). An operation whose answer never came stays open: it may have happened at
//! any moment after its call, or not at all. A search that takes more steps than it may have is no pass: it is unknown.

pub mod object;

use std::collections::HashSet;
use std::hash::Hash;

/// What one object does.
pub trait Model {
    /// All that operations depend on.
    type State: Clone + Eq + Hash + Default;
    /// What is asked.
    type Input;
    /// What is answered.
    type Output;

    /// The state after an operation; none if it cannot have answered `output` in `state`. Without an answer any is right.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;
}

/// One operation of a history.
#[derive(Clone, Debug)]
pub struct Operation<I, O> {
    /// When it was called.
    pub called: u64,
    /// When its answer came, and the answer; none if it never came.
    pub returned: Option<(u64, O)>,
    /// What was asked.
    pub input: I,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none. The longest that was found explains so many operations.
    NotLinearizable {
        /// How many.
        explained: usize,
    },
    /// The steps ran out before it was decided.
    Unknown,
}

/// Searches for an order that explains a history, in at most `steps` steps.
pub fn check<M: Model>(history: &[Operation<M::Input, M::Output>], steps: usize) -> Verdict {
    let mut search = Search::<M>::new(history);
    search.run(steps)
}

/// The head of the list of events.
const HEAD: usize = 0;

/// Calls and returns in the order of time, as a list from which what has its place in the order is taken out.
struct Search<'a, M: Model> {
    history: &'a [Operation<M::Input, M::Output>],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    state: M::State,
    placed: Bits,
    /// The order so far: each with the state before it.
    order: Vec<(usize, M::State)>,
    tried: HashSet<(Bits, M::State)>,
    longest: usize,
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With the place of its return in the list.
    Call {
        returns: usize,
    },
    Return,
    /// The return of an operation whose answer never came, after all others.
    Never,
}

/// A set of operations.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(size: usize) -> Self {
        Self(vec![0; size.div_ceil(64)])
    }

    fn set(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn clear(&mut self, bit: usize) {
        self.0[bit / 64] &= !(1 << (bit % 64));
    }
}

impl<'a, M: Model> Search<'a, M> {
    fn new(history: &'a [Operation<M::Input, M::Output>]) -> Self {
        // At one time calls come first: operations that touch are taken to overlap.
        let mut timeline: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
        for (operation, Operation { called, returned, .. }) in history.iter().enumerate() {
            timeline.push((*called, false, operation));
            timeline.push((returned.as_ref().map_or(u64::MAX, |(at, _)| *at), true, operation));
        }
        // Returns that never came are last even where a clock shows the largest number.
        timeline.sort_by_key(|(at, is_return, operation)| {
            (*is_return && history[*operation].returned.is_none(), *at, *is_return)
        });
        let mut place = vec![0; history.len()];
        for (index, (_, is_return, operation)) in timeline.iter().enumerate() {
            if *is_return {
                place[*operation] = index + 1;
            }
        }
        let head = Event { operation: usize::MAX, kind: Kind::Return };
        let events = timeline.iter().map(|(_, is_return, operation)| {
            let operation = *operation;
            let kind = match (is_return, &history[operation].returned) {
                (false, _) => Kind::Call { returns: place[operation] },
                (true, Some(_)) => Kind::Return,
                (true, None) => Kind::Never,
            };
            Event { operation, kind }
        });
        let events: Vec<Event> = std::iter::once(head).chain(events).collect();
        let count = events.len();
        Self {
            history,
            next: (1..=count).collect(),
            previous: (0..count).map(|index| index.saturating_sub(1)).collect(),
            events,
            state: M::State::default(),
            placed: Bits::none(history.len()),
            order: Vec::new(),
            tried: HashSet::new(),
            longest: 0,
        }
    }

    fn run(&mut self, steps: usize) -> Verdict {
        let mut at = self.next[HEAD];
        for _ in 0..steps {
            let Some(event) = self.events.get(at).copied() else { return Verdict::Linearizable };
            at = match event.kind {
                Kind::Call { returns } => {
                    if self.place(event.operation, at, returns) {
                        self.next[HEAD]
                    } else {
                        self.next[at]
                    }
                }
                // All that has returned has its place; what never returned need not have happened.
                Kind::Never => return Verdict::Linearizable,
                // It has returned without a place: one before it was placed wrongly.
                Kind::Return => match self.take_back() {
                    Some(call) => self.next[call],
                    None => return Verdict::NotLinearizable { explained: self.longest },
                },
            };
        }
        Verdict::Unknown
    }

    /// Lets an operation happen next, if it can have and this was not tried before.
    fn place(&mut self, operation: usize, call: usize, returns: usize) -> bool {
        let Operation { input, returned, .. } = &self.history[operation];
        let Some(after) = M::step(&self.state, input, returned.as_ref().map(|(_, output)| output)) else {
            return false;
        };
        self.placed.set(operation);
        if !self.tried.insert((self.placed.clone(), after.clone())) {
            self.placed.clear(operation);
            return false;
        }
        self.order.push((call, std::mem::replace(&mut self.state, after)));
        self.longest = self.longest.max(self.order.len());
        self.unlink(call);
        self.unlink(returns);
        true
    }

    /// Takes the newest operation out of the order; answers its call.
    fn take_back(&mut self) -> Option<usize> {
        let (call, state) = self.order.pop()?;
        self.state = state;
        self.placed.clear(self.events[call].operation);
        if let Kind::Call { returns } = self.events[call].kind {
            self.link(returns);
        }
        self.link(call);
        Some(call)
    }

    fn unlink(&mut self, index: usize) {
        let (before, after) = (self.previous[index], self.next[index]);
        self.next[before] = after;
        if let Some(previous) = self.previous.get_mut(after) {
            *previous = before;
        }
    }

    fn link(&mut self, index: usize) {
        let (before, after) = (self.previous[index], self.next[index]);
        self.next[before] = index;
        if let Some(previous) = self.previous.get_mut(after) {
            *previous = index;
        }
    }
}
