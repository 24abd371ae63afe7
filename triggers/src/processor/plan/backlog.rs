//! What waits, as far as it is in memory: the first rows of each lane, and where in the view the others begin.
//!
//! A lane is what rows wait for together: a function, or a partition that outcomes go to. Of each lane the rows with the lowest
//! keys are here; what is not here is in the view, at or after the lane's mark, or at or after the mark of all lanes. A lane that
//! is held has no rows here, and one that has too many has no more, so neither is in the way of other lanes however many rows it
//! has. Rows come from the feed as long as all before them are here, and else out of the view, page by page. Lanes have a bound of
//! their own: beyond it the rows of new lanes stay unread until one of those that are known has none left.
//!
//! Three things are relied on. A row that is put into the view after a page was read has a key of at least the
//! page's `as_of`. Whoever hands a page or the end of a row over has handed over what was fed before. And rows only leave
//! the view by [`Backlog::leave`].

mod lane;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use odgm_log::Timestamp;

use self::lane::{Gate, Lane, relist};

/// Bounds on what is in memory.
#[derive(Clone, Copy, Debug)]
pub(in crate::processor) struct Bounds {
    /// Rows.
    pub(in crate::processor) rows: usize,
    /// Lanes that are told apart.
    pub(in crate::processor) lanes: usize,
    /// Rows of a lane that wait.
    pub(in crate::processor) rows_of_one: usize,
}

/// How many rows may be under way at once.
#[derive(Clone, Copy, Debug)]
pub(in crate::processor) struct Allowed {
    /// Of all lanes.
    pub(in crate::processor) total: usize,
    /// Of one lane.
    pub(in crate::processor) of_one: usize,
}

/// A row that was read.
#[derive(Clone, Debug)]
pub(in crate::processor) struct Found<K, L, R> {
    pub(in crate::processor) key: K,
    pub(in crate::processor) lane: L,
    pub(in crate::processor) row: R,
}

/// Rows in the order of their keys, without gaps.
#[derive(Clone, Debug)]
pub(in crate::processor) struct Rows<K, L, R> {
    pub(in crate::processor) rows: Vec<Found<K, L, R>>,
    /// The next key that there is; none if there is none.
    pub(in crate::processor) next: Option<K>,
    /// What is put into the view after they were read has this key or a higher one.
    pub(in crate::processor) as_of: K,
}

/// What waits, and what is under way.
#[derive(Debug)]
pub(in crate::processor) struct Backlog<K, L, R> {
    bounds: Bounds,
    allowed: Allowed,
    rows: BTreeMap<K, Row<L, R>>,
    lanes: BTreeMap<L, Lane<K>>,
    /// The first row of each lane from which one may go.
    ready: BTreeSet<(K, L)>,
    /// The marks of lanes that want more rows.
    hungry: BTreeSet<(K, L)>,
    /// The marks of all lanes.
    marks: BTreeSet<(K, L)>,
    /// Lanes that are held, and until when.
    holds: BTreeSet<(Timestamp, L)>,
    /// Rows of all lanes with lower keys are here or behind the mark of their lane. None: all rows are.
    unread: Option<K>,
    reading: Option<Reading<K>>,
    /// Whether what is unread goes before what lanes want, as they take turns.
    unread_is_next: bool,
    /// What those that wait weigh.
    bytes: usize,
    /// How many are under way.
    out: usize,
}

#[derive(Debug)]
struct Row<L, R> {
    lane: L,
    state: State,
    bytes: usize,
    row: R,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Out,
    /// What came of it is being written.
    Done,
}

/// What happened since a page was asked for.
#[derive(Debug)]
struct Reading<K> {
    from: K,
    /// The lowest key that came and is not here.
    lost: Option<K>,
    /// Rows that were here and have left the view.
    gone: BTreeSet<K>,
}

impl<K: Copy + Ord + Debug, L: Clone + Ord + Debug, R> Backlog<K, L, R> {
    /// Nothing is here yet: all rows from `start` on are to be read.
    pub(in crate::processor) fn new(bounds: Bounds, allowed: Allowed, start: K) -> Self {
        Self {
            bounds,
            allowed,
            rows: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ready: BTreeSet::new(),
            hungry: BTreeSet::new(),
            marks: BTreeSet::new(),
            holds: BTreeSet::new(),
            unread: Some(start),
            reading: None,
            unread_is_next: true,
            bytes: 0,
            out: 0,
        }
    }

    /// How many may be here and under way from now on.
    pub(in crate::processor) fn allow(&mut self, bounds: Bounds, allowed: Allowed) {
        (self.bounds, self.allowed) = (bounds, allowed);
        for lane in self.lanes.keys().cloned().collect::<Vec<_>>() {
            self.refresh(&lane);
        }
    }

    /// A row that has been put into the view.
    pub(in crate::processor) fn offer(&mut self, key: K, lane: &L, row: R, bytes: usize) {
        if self.rows.contains_key(&key) {
            return;
        }
        if self.unread.is_some_and(|unread| unread <= key) {
            // Those before it have to be read first, and it with them.
            return self.lose(key);
        }
        if !self.has_room() || !self.has_lane_for(lane) {
            return self.uncover(key);
        }
        let found = self.lanes.entry(lane.clone()).or_default();
        if found.has_room(self.bounds.rows_of_one) && found.is_next(key) {
            self.insert(key, lane, row, bytes);
        } else {
            self.skip(lane, key);
        }
    }

    /// Whether a row of that key has left the view while a page is read, which may have it still.
    pub(in crate::processor) fn is_gone(&self, key: K) -> bool {
        self.reading.as_ref().is_some_and(|reading| reading.gone.contains(&key))
    }

    /// There may be rows from this key on that are not here.
    pub(in crate::processor) fn uncover(&mut self, from: K) {
        self.unread = Some(self.unread.map_or(from, |unread| unread.min(from)));
        self.lose(from);
    }

    /// From where a page is wanted, of all lanes and of some, as soon as such keys are of use.
    pub(in crate::processor) fn wanted(&self) -> impl Iterator<Item = K> {
        let hungry = self.hungry.first().map(|(mark, _)| *mark);
        self.unread.into_iter().chain(hungry)
    }

    /// From where a page is to be read now, if one is; until it has come there is no other one. Rows with keys above `until` are of
    /// no use yet.
    pub(in crate::processor) fn read(&mut self, until: K) -> Option<K> {
        if self.reading.is_some() || self.size() > self.bounds.rows / 2 {
            return None;
        }
        let of_use = |from: &K| *from <= until;
        // Rows of the lanes that there are come before all that is unread, or when a lane has gone.
        let unread = self.unread.filter(of_use).filter(|_| self.lanes.len() < self.bounds.lanes);
        let hungry = self.hungry.first().map(|(mark, _)| *mark).filter(of_use);
        // A lane may have to be looked for among many rows of others; new ones do not wait for it.
        let from = match (unread, hungry) {
            (Some(unread), Some(hungry)) if self.unread_is_next || unread <= hungry => unread,
            (unread, hungry) => hungry.or(unread)?,
        };
        self.unread_is_next = unread != Some(from);
        self.reading = Some(Reading { from, lost: None, gone: BTreeSet::new() });
        Some(from)
    }

    /// The page could not be read.
    pub(in crate::processor) fn unreadable(&mut self) {
        self.reading = None;
    }

    /// The page that was asked for.
    pub(in crate::processor) fn page(&mut self, page: Rows<K, L, R>) {
        let Some(reading) = self.reading.take() else { return };
        let Rows { rows, next, as_of } = page;
        // What came meanwhile and is not here is behind what was read, or among it.
        let lost = reading.lost.map(|lost| lost.max(as_of));
        let mut end = next.into_iter().chain(lost).min();
        // The first row of each lane that is not taken.
        let mut left: BTreeMap<L, K> = BTreeMap::new();
        for Found { key, lane, row } in rows {
            if end.is_some_and(|end| end <= key) {
                break;
            }
            if self.rows.contains_key(&key) || reading.gone.contains(&key) || left.contains_key(&lane) {
                continue;
            }
            if !self.has_room() {
                end = Some(key);
                break;
            }
            if !self.has_lane_for(&lane) {
                // It is among what is unread, and stays so.
                if self.unread.is_some_and(|unread| unread < reading.from) {
                    continue;
                }
                // Or becomes so: a lane that it was aside in cannot take it, and would have it read again at once.
                self.uncover(key);
                end = Some(key);
                break;
            }
            let found = self.lanes.entry(lane.clone()).or_default();
            if found.mark.is_some_and(|mark| mark < reading.from) {
                // Its mark is before all that was read, and stays.
                continue;
            }
            if found.has_room(self.bounds.rows_of_one) {
                self.insert(key, &lane, row, 0);
            } else {
                left.insert(lane, key);
            }
        }
        self.cover(reading.from, end, left);
    }

    /// All rows from `from` on and before `end` are here, but for those of some lanes from `left` on.
    fn cover(&mut self, from: K, end: Option<K>, left: BTreeMap<L, K>) {
        if self.unread.is_some_and(|unread| from <= unread) {
            self.unread = end.map(|end| self.unread.map_or(end, |unread| unread.max(end)));
        }
        // What begins with all that is unread needs no mark.
        let is_passed = |mark: &K| end.is_none_or(|end| *mark < end) || self.unread == Some(*mark);
        let passed: Vec<_> = {
            let passed = self.marks.iter().skip_while(|(mark, _)| *mark < from);
            passed.take_while(|(mark, _)| is_passed(mark)).cloned().collect()
        };
        for (_, lane) in passed {
            if !left.contains_key(&lane) {
                let last = self.lanes.get(&lane).and_then(|found| found.last_parked);
                let is_before_all = |end: &K| {
                    self.unread.is_none_or(|unread| *end < unread) && last.is_none_or(|last| *end <= last)
                };
                self.mark(&lane, end.filter(is_before_all));
            }
        }
        for (lane, key) in left {
            self.mark(&lane, Some(key));
        }
    }

    /// The next row to go, which is under way then.
    pub(in crate::processor) fn next(&mut self) -> Option<(K, &mut R)> {
        if self.out >= self.allowed.total {
            return None;
        }
        let (key, lane) = self.ready.first().cloned()?;
        self.out += 1;
        if let Some(found) = self.lanes.get_mut(&lane) {
            found.waiting.remove(&key);
            found.out += 1;
            if let Gate::Probing(probe) = &mut found.gate {
                *probe = Some(key);
            }
        }
        self.refresh(&lane);
        let row = self.rows.get_mut(&key)?;
        row.state = State::Out;
        self.bytes -= std::mem::take(&mut row.bytes);
        Some((key, &mut row.row))
    }

    /// A row that is here.
    pub(in crate::processor) fn get(&self, key: K) -> Option<&R> {
        self.rows.get(&key).map(|row| &row.row)
    }

    /// What was under way has ended, and that is being written. Whether `is_answered`: then its lane is open.
    pub(in crate::processor) fn ended(&mut self, key: K, is_answered: bool) {
        let Some(row) = self.rows.get_mut(&key).filter(|row| row.state == State::Out) else { return };
        row.state = State::Done;
        self.out -= 1;
        let lane = row.lane.clone();
        if let Some(found) = self.lanes.get_mut(&lane) {
            found.out -= 1;
            match found.gate {
                Gate::Probing(_) if is_answered => (found.gate, found.holds) = (Gate::Open, 0),
                Gate::Probing(Some(probe)) if probe == key => found.gate = Gate::Probing(None),
                Gate::Open | Gate::Held(_) | Gate::Probing(_) => {}
            }
        }
        self.refresh(&lane);
    }

    /// How often the lane of a row was held since it was open, before it is for this row's sake.
    pub(in crate::processor) fn holds_of(&self, key: K) -> u32 {
        let lane = self.rows.get(&key).and_then(|row| self.lanes.get(&row.lane));
        lane.map_or(0, |lane| match lane.gate {
            // For the sake of another one that went with it.
            Gate::Held(_) => lane.holds - 1,
            Gate::Open | Gate::Probing(_) => lane.holds,
        })
    }

    /// What was under way did not take place, and nothing of its lane will until then: its rows go back to where they were. How
    /// often that has come to pass since the lane was open; none if it is held already.
    pub(in crate::processor) fn hold(&mut self, key: K, until: Timestamp) -> Option<u32> {
        let row = self.rows.remove(&key)?;
        self.out -= usize::from(row.state == State::Out);
        let lane = row.lane;
        let found = self.lanes.get_mut(&lane)?;
        found.out -= usize::from(row.state == State::Out);
        found.here -= 1;
        let is_news = !matches!(found.gate, Gate::Held(_));
        let mut back = std::mem::take(&mut found.waiting);
        found.here -= back.len();
        let before = match found.gate {
            Gate::Held(before) => {
                self.holds.remove(&(before, lane.clone()));
                before
            }
            Gate::Open | Gate::Probing(_) => {
                found.holds = found.holds.saturating_add(1);
                until
            }
        };
        let (until, times) = (until.max(before), found.holds);
        found.gate = Gate::Held(until);
        self.holds.insert((until, lane.clone()));
        for key in &back {
            self.bytes -= self.rows.remove(key).map_or(0, |row| row.bytes);
        }
        back.insert(key);
        if let Some(first) = back.first() {
            self.skip(&lane, *first);
        }
        is_news.then_some(times)
    }

    /// What was under way did not take place, for reasons of its own and not of its lane: it goes back to where it was, behind the
    /// mark of `aside`, a lane that has no rows but those. Until then none of them is looked at again. Whether that lane was
    /// empty.
    pub(in crate::processor) fn park(&mut self, key: K, aside: &L, until: Timestamp) -> bool {
        let Some(row) = self.rows.remove(&key) else { return false };
        self.out -= usize::from(row.state == State::Out);
        if let Some(found) = self.lanes.get_mut(&row.lane) {
            found.out -= usize::from(row.state == State::Out);
            found.here -= 1;
            if found.gate == Gate::Probing(Some(key)) {
                found.gate = Gate::Probing(None);
            }
        }
        self.refresh(&row.lane);
        let found = self.lanes.entry(aside.clone()).or_default();
        let is_news = found.last_parked.is_none();
        found.last_parked = found.last_parked.max(Some(key));
        if !matches!(found.gate, Gate::Held(_)) {
            found.gate = Gate::Held(until);
            self.holds.insert((until, aside.clone()));
        }
        self.skip(aside, key);
        is_news
    }

    /// Lets lanes be probed that were held until now.
    pub(in crate::processor) fn expire(&mut self, now: Timestamp) {
        while let Some((_, lane)) = self.holds.first().filter(|(until, _)| *until <= now).cloned() {
            self.holds.pop_first();
            if let Some(found) = self.lanes.get_mut(&lane) {
                found.gate = Gate::Probing(None);
            }
            self.refresh(&lane);
        }
    }

    /// When [`Self::expire`] has something to do.
    pub(in crate::processor) fn next_expiry(&self) -> Option<Timestamp> {
        self.holds.first().map(|(until, _)| *until)
    }

    /// The row is in the view no more.
    pub(in crate::processor) fn leave(&mut self, key: K) {
        let Some(row) = self.rows.remove(&key) else { return };
        if let Some(reading) = self.reading.as_mut().filter(|reading| reading.from <= key) {
            reading.gone.insert(key);
        }
        self.bytes -= row.bytes;
        self.out -= usize::from(row.state == State::Out);
        if let Some(found) = self.lanes.get_mut(&row.lane) {
            found.waiting.remove(&key);
            found.out -= usize::from(row.state == State::Out);
            found.here -= 1;
        }
        self.refresh(&row.lane);
    }

    /// No row in the view has a lower key. None: there is none.
    pub(in crate::processor) fn lowest(&self) -> Option<K> {
        let here = self.rows.keys().next().copied();
        let skipped = self.marks.first().map(|(mark, _)| *mark);
        here.into_iter().chain(skipped).chain(self.unread).min()
    }

    /// The same for the lane of a row that is here.
    pub(in crate::processor) fn lowest_beside(&self, key: K) -> Option<K> {
        let lane = &self.rows.get(&key)?.lane;
        let here = self.rows.iter().find(|(_, row)| row.lane == *lane).map(|(key, _)| *key);
        let skipped = self.lanes.get(lane).and_then(|lane| lane.mark);
        here.into_iter().chain(skipped).chain(self.unread).min()
    }

    /// How many are under way, or have ended and are in the view still.
    pub(in crate::processor) fn begun(&self) -> usize {
        self.rows.values().filter(|row| row.state != State::Waiting).count()
    }

    /// Lanes that are not open.
    pub(in crate::processor) fn held(&self) -> usize {
        self.lanes.values().filter(|lane| lane.gate != Gate::Open).count()
    }

    /// How many are under way.
    #[cfg(test)]
    pub(in crate::processor) fn out(&self) -> usize {
        self.out
    }

    /// What those that wait weigh.
    pub(in crate::processor) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lanes that are told apart.
    #[cfg(test)]
    pub(in crate::processor) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Rows in memory.
    pub(in crate::processor) fn size(&self) -> usize {
        let gone = self.reading.as_ref().map_or(0, |reading| reading.gone.len());
        self.rows.len() + gone
    }

    fn has_room(&self) -> bool {
        self.size() < self.bounds.rows
    }

    /// Whether rows of that lane can be told apart from those of others.
    fn has_lane_for(&self, lane: &L) -> bool {
        self.lanes.len() < self.bounds.lanes || self.lanes.contains_key(lane)
    }

    fn insert(&mut self, key: K, lane: &L, row: R, bytes: usize) {
        if let Some(found) = self.lanes.get_mut(lane) {
            found.waiting.insert(key);
            found.here += 1;
        }
        self.bytes += bytes;
        self.rows.insert(key, Row { lane: lane.clone(), state: State::Waiting, bytes, row });
        self.refresh(lane);
    }

    /// A row that came is not here.
    fn lose(&mut self, key: K) {
        if let Some(reading) = &mut self.reading {
            reading.lost = Some(reading.lost.map_or(key, |lost| lost.min(key)));
        }
    }

    /// Leaves rows of a lane in the view, from this key on.
    fn skip(&mut self, lane: &L, key: K) {
        let mark = self.lanes.get(lane).and_then(|found| found.mark);
        self.mark(lane, Some(mark.map_or(key, |mark| mark.min(key))));
        self.lose(key);
    }

    fn mark(&mut self, lane: &L, mark: Option<K>) {
        let Some(found) = self.lanes.get_mut(lane) else { return };
        if let Some(before) = std::mem::replace(&mut found.mark, mark) {
            self.marks.remove(&(before, lane.clone()));
        }
        if let Some(mark) = mark {
            self.marks.insert((mark, lane.clone()));
        }
        self.refresh(lane);
    }

    /// Lists a lane as what it is now.
    fn refresh(&mut self, lane: &L) {
        let Some(found) = self.lanes.get_mut(lane) else { return };
        let ready = found.first_ready(self.allowed.of_one);
        relist(&mut self.ready, &mut found.ready, ready, lane);
        let wanted = found.wanted(self.bounds.rows_of_one);
        relist(&mut self.hungry, &mut found.hungry, wanted, lane);
        if found.is_blank() {
            self.lanes.remove(lane);
        }
    }
}
