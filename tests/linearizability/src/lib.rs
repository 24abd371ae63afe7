//! Tells whether what concurrent clients saw of one object could have happened one after the other.
//!
//! A history is linearizable if each operation can be given one moment between its call and its return such that all of
//! them in that order give the answers that were seen (Herlihy and Wing, 1990). The search is that of Wing and Gong with
//! Lowe's memory of what was tried (Lowe, 2017). An operation whose answer never came stays open: it may have happened at
//! any moment after its call, or not at all. A search that takes more steps than it may have is no pass: it is unknown.

pub mod merging;
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

    /// Whether an operation can answer `output` in `state` or in any that comes after it. It may say so where it cannot:
    /// that only makes the search longer.
    fn is_still_possible(_state: &Self::State, _output: &Self::Output) -> bool {
        true
    }

    /// Whether an answer tells if the operation changed anything. One that does not may have changed nothing here and
    /// something elsewhere.
    fn is_telling(_output: &Self::Output) -> bool {
        true
    }
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
///
/// Operations that were never answered are not in the list. They are tried only where nothing that was answered can come
/// next: each of them could be anywhere, so that trying them first would try all their subsets at every place.
struct Search<'a, M: Model> {
    history: &'a [Operation<M::Input, M::Output>],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Never answered: which, and the place in the list behind which each may happen. The newest are first: one that did
    /// happen mostly did so soon.
    open: Vec<(usize, usize)>,
    state: M::State,
    placed: Vec<bool>,
    /// A hash of which operations are placed; of 128 bits, so that no two sets share one.
    placed_hash: u128,
    /// The order so far.
    order: Vec<Step<M::State>>,
    tried: HashSet<(u128, M::State)>,
    longest: usize,
}

#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    /// For a call, the place of its return in the list.
    returns: Option<usize>,
}

/// What was let happen next, and the state before it.
struct Step<S> {
    candidate: Candidate,
    before: S,
    /// Whether it was answered that it changed nothing. Then it is right here if it is anywhere: nothing else has to be
    /// tried in its place.
    is_settled: bool,
}

/// What may be tried next, in this order.
#[derive(Clone, Copy)]
enum Candidate {
    /// From this place in the list on.
    Answered(usize),
    /// From this place among the open ones on.
    Open(usize),
}

/// What stands at a place.
enum Found {
    /// It was let happen.
    Placed,
    /// Nothing more can be tried here.
    Stuck,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(history: &'a [Operation<M::Input, M::Output>]) -> Self {
        // At one time calls come first: operations that touch are taken to overlap.
        let mut timeline: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * history.len());
        for (operation, Operation { called, returned, .. }) in history.iter().enumerate() {
            if let Some((at, _)) = returned {
                timeline.push((*called, false, operation));
                timeline.push((*at, true, operation));
            }
        }
        timeline.sort_unstable();
        let mut place = vec![None; history.len()];
        for (index, (_, is_return, operation)) in timeline.iter().enumerate() {
            if *is_return {
                place[*operation] = Some(index + 1);
            }
        }
        let open = history.iter().enumerate().filter(|(_, operation)| operation.returned.is_none());
        let open = open.map(|(operation, Operation { called, .. })| {
            (operation, timeline.partition_point(|(at, is_return, _)| (*at, *is_return) < (*called, true)))
        });
        let mut open: Vec<(usize, usize)> = open.collect();
        open.sort_unstable_by_key(|(_, behind)| std::cmp::Reverse(*behind));
        let head = Event { operation: usize::MAX, returns: None };
        let events = timeline.iter().map(|&(_, is_return, operation)| {
            let returns = if is_return { None } else { place[operation] };
            Event { operation, returns }
        });
        let events: Vec<Event> = std::iter::once(head).chain(events).collect();
        let count = events.len();
        Self {
            history,
            next: (1..=count).collect(),
            previous: (0..count).map(|index| index.saturating_sub(1)).collect(),
            events,
            open,
            state: M::State::default(),
            placed: vec![false; history.len()],
            placed_hash: 0,
            order: Vec::new(),
            tried: HashSet::new(),
            longest: 0,
        }
    }

    fn run(&mut self, steps: usize) -> Verdict {
        let mut candidate = Candidate::Answered(self.next[HEAD]);
        for _ in 0..steps {
            if self.next[HEAD] == self.events.len() {
                // All that was answered has its place; what was not need not have happened.
                return Verdict::Linearizable;
            }
            candidate = match self.try_from(candidate) {
                Found::Placed => Candidate::Answered(self.next[HEAD]),
                Found::Stuck => match self.take_back_to_choice() {
                    Some(Candidate::Answered(call)) => Candidate::Answered(self.next[call]),
                    Some(Candidate::Open(at)) => Candidate::Open(at + 1),
                    None => return Verdict::NotLinearizable { explained: self.longest },
                },
            };
        }
        Verdict::Unknown
    }

    /// Lets the first that can happen next do so, of those from `candidate` on.
    fn try_from(&mut self, candidate: Candidate) -> Found {
        let mut first_open = 0;
        match candidate {
            Candidate::Answered(mut at) => {
                while let Some(Event { operation, returns: Some(returns) }) = self.events.get(at).copied() {
                    if self.place(operation, Candidate::Answered(at)) {
                        self.unlink(at);
                        self.unlink(returns);
                        return Found::Placed;
                    }
                    at = self.next[at];
                }
            }
            Candidate::Open(at) => first_open = at,
        }
        // Whoever returns next has no place yet, so that something must happen before.
        let mut limit = self.next[HEAD];
        while self.events.get(limit).is_some_and(|event| event.returns.is_some()) {
            limit = self.next[limit];
        }
        for at in first_open..self.open.len() {
            let (operation, behind) = self.open[at];
            if behind < limit && !self.placed[operation] && self.place(operation, Candidate::Open(at)) {
                return Found::Placed;
            }
        }
        Found::Stuck
    }

    /// Lets an operation happen next, if it can have and this was not tried before.
    fn place(&mut self, operation: usize, candidate: Candidate) -> bool {
        let Operation { input, returned, .. } = &self.history[operation];
        let Some(after) = M::step(&self.state, input, returned.as_ref().map(|(_, output)| output)) else {
            return false;
        };
        // Without an answer and without an effect it need not have happened.
        if returned.is_none() && after == self.state {
            return false;
        }
        if !self.leaves_possible(operation, &after) {
            return false;
        }
        let placed_hash = self.placed_hash ^ scattered(operation);
        if !self.tried.insert((placed_hash, after.clone())) {
            return false;
        }
        self.placed[operation] = true;
        self.placed_hash = placed_hash;
        let is_telling = returned.as_ref().is_some_and(|(_, output)| M::is_telling(output));
        let is_settled = is_telling && after == self.state;
        self.order.push(Step { candidate, before: std::mem::replace(&mut self.state, after), is_settled });
        self.longest = self.longest.max(self.order.len());
        true
    }

    /// Whether those that have been called, and must have happened when the next of them returns, still can after
    /// `operation`.
    fn leaves_possible(&self, operation: usize, after: &M::State) -> bool {
        let mut at = self.next[HEAD];
        while let Some(Event { operation: other, returns: Some(_) }) = self.events.get(at).copied() {
            let possible = match &self.history[other].returned {
                Some((_, output)) if other != operation => M::is_still_possible(after, output),
                _ => true,
            };
            if !possible {
                return false;
            }
            at = self.next[at];
        }
        true
    }

    /// Takes operations out of the order up to the newest in whose place another may be tried, and answers that one.
    fn take_back_to_choice(&mut self) -> Option<Candidate> {
        while let Some((candidate, is_settled)) = self.take_back() {
            if !is_settled {
                return Some(candidate);
            }
        }
        None
    }

    /// Takes the newest operation out of the order, and answers what it was and whether it is settled.
    fn take_back(&mut self) -> Option<(Candidate, bool)> {
        let Step { candidate, before, is_settled } = self.order.pop()?;
        self.state = before;
        let operation = match candidate {
            Candidate::Answered(call) => {
                let Event { operation, returns } = self.events[call];
                if let Some(returns) = returns {
                    self.link(returns);
                }
                self.link(call);
                operation
            }
            Candidate::Open(at) => self.open[at].0,
        };
        self.placed[operation] = false;
        self.placed_hash ^= scattered(operation);
        Some((candidate, is_settled))
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

/// Bits of its own for each operation (Zobrist, 1970), by two rounds of splitmix64.
fn scattered(operation: usize) -> u128 {
    let round = |seed: u64| {
        let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let seed = operation as u64 + 1;
    u128::from(round(seed)) << 64 | u128::from(round(seed ^ 0x5851_f42d_4c95_7f2d))
}
