//! What rows wait for together.

use std::collections::BTreeSet;

use odgm_log::Timestamp;

/// A lane, as it is known.
#[derive(Debug)]
pub(super) struct Lane<K> {
    /// Rows that wait here.
    pub(super) waiting: BTreeSet<K>,
    /// How many of it are under way.
    pub(super) out: usize,
    /// Rows of it that are here, whatever their state.
    pub(super) here: usize,
    /// Where its rows begin that are not here, if that is before all that is unread.
    pub(super) mark: Option<K>,
    /// The last of the rows that were put aside in it: behind it there are none.
    pub(super) last_parked: Option<K>,
    /// Whether rows may go.
    pub(super) gate: Gate<K>,
    /// How often it was held since it was open.
    pub(super) holds: u32,
    /// As which it is listed.
    pub(super) ready: Option<K>,
    pub(super) hungry: Option<K>,
}

/// Whether rows of a lane may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate<K> {
    /// All may.
    Open,
    /// None may until then.
    Held(Timestamp),
    /// One may go to see, or has gone.
    Probing(Option<K>),
}

impl<K> Default for Lane<K> {
    fn default() -> Self {
        Self {
            waiting: BTreeSet::new(),
            out: 0,
            here: 0,
            mark: None,
            last_parked: None,
            gate: Gate::Open,
            holds: 0,
            ready: None,
            hungry: None,
        }
    }
}

impl<K: Copy + Ord> Lane<K> {
    /// Whether one row more may wait here.
    pub(super) fn has_room(&self, rows_of_one: usize) -> bool {
        match self.gate {
            Gate::Open => self.waiting.len() < rows_of_one,
            Gate::Held(_) => false,
            Gate::Probing(_) => self.waiting.is_empty(),
        }
    }

    /// Whether a row goes before all that are not here.
    pub(super) fn is_next(&self, key: K) -> bool {
        self.mark.is_none_or(|mark| key < mark)
    }

    /// The first row, if one may go.
    pub(super) fn first_ready(&self, of_one: usize) -> Option<K> {
        let may_go = match self.gate {
            Gate::Open => self.out < of_one,
            Gate::Held(_) => false,
            // Those that went before it was held do not tell.
            Gate::Probing(probe) => probe.is_none() && self.out < of_one,
        };
        self.waiting.first().copied().filter(|_| may_go)
    }

    /// Its mark, if it wants more rows.
    pub(super) fn wanted(&self, rows_of_one: usize) -> Option<K> {
        let wants = match self.gate {
            Gate::Open => self.waiting.len() <= rows_of_one / 2,
            Gate::Held(_) => false,
            Gate::Probing(probe) => self.waiting.is_empty() && probe.is_none(),
        };
        self.mark.filter(|_| wants)
    }

    /// Whether there is nothing to know about it.
    pub(super) fn is_blank(&self) -> bool {
        self.here == 0 && self.mark.is_none() && !matches!(self.gate, Gate::Held(_))
    }
}

/// Has a list say of a lane what holds now.
pub(super) fn relist<K: Copy + Ord, L: Clone + Ord>(
    list: &mut BTreeSet<(K, L)>,
    listed: &mut Option<K>,
    now: Option<K>,
    lane: &L,
) {
    if *listed == now {
        return;
    }
    if let Some(before) = std::mem::replace(listed, now) {
        list.remove(&(before, lane.clone()));
    }
    if let Some(now) = now {
        list.insert((now, lane.clone()));
    }
}
