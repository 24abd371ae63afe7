//! Calls: which one is made next, and what comes of an attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::calls::{Attempt, Blob, Finished, RowKey, Status, Verdict};
use odgm_log::{Offset, Timestamp};
use odgm_projections::{OutboxRow, Subject};

use super::backlog::{Allowed, Backlog, Bounds, Found, Rows};
use super::proposals::Ending;
use super::{Attempted, Dispatch, Effect, Home, Note, Now, Page, Unread, doubled, micros};
use crate::invoker::{Answer, Failure};
use crate::processor::limits::{
    READ_PAUSE, REASON_BYTES, SHARE, SHORTEST_HOLD, SUSPENDED_PAUSE, WAITING_BYTES,
};
use crate::processor::settings::Settings;

/// What calls wait for together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Function {
        class: String,
        name: String,
    },
    /// That their records can be read here. No call is of it but those that were put aside.
    Records,
}

#[derive(Debug)]
struct Waiting {
    row: Arc<OutboxRow>,
    payload: Option<Bytes>,
}

#[derive(Debug)]
pub(super) struct Calls {
    home: Home,
    room: Bounds,
    backlog: Backlog<RowKey, Arc<Lane>, Waiting>,
    /// When the newest record was applied that was fed, as far as that is known.
    fed: Timestamp,
    /// Until then the view is not read, after that has failed.
    unreadable_until: Option<Timestamp>,
}

/// What came of an attempt.
#[derive(Debug)]
pub(super) enum Came {
    /// A record.
    Ended(Ending),
    /// No attempt, as it turned out, and none for a while.
    Held(Note),
    /// Nothing that is news.
    Nothing,
}

/// What an attempt says of its call.
enum Judged {
    /// It was not made.
    Held { pause: Duration, reason: String },
    /// It has come to its end.
    Ended(Finished),
    /// It may end better another time.
    Failed { reason: String, finished: Finished },
    /// It cannot be made.
    Hopeless { reason: String },
}

/// The keys of all rows that are due at a moment or before are at most this.
fn through(time: Timestamp) -> RowKey {
    RowKey { due: time, offset: Offset(u64::MAX), index: u32::MAX }
}

/// The keys of all rows that are due at a moment or later are at least this.
fn from(time: Timestamp) -> RowKey {
    RowKey { due: time, ..RowKey::default() }
}

/// What one of many may take of so much.
pub(super) fn share(of: usize) -> usize {
    (of.saturating_mul(SHARE.0) / SHARE.1).max(1)
}

/// What may be in memory and under way. Where many may be under way, so many have to be in memory.
fn bounds(settings: &Settings, room: Bounds) -> (Bounds, Allowed) {
    let total = settings.max_concurrent_triggers.max(1);
    let (rows, rows_of_one) = (room.rows.max(4 * total), room.rows_of_one.max(total));
    let bounds = Bounds { rows, rows_of_one, ..room };
    (bounds, Allowed { total, of_one: share(total) })
}

impl Calls {
    pub(super) fn new(home: Home, settings: &Settings, room: Bounds, opened: Timestamp) -> Self {
        let (bounds, allowed) = bounds(settings, room);
        let backlog = Backlog::new(bounds, allowed, RowKey::default());
        Self { home, room, backlog, fed: opened, unreadable_until: None }
    }

    pub(super) fn allow(&mut self, settings: &Settings) {
        let (bounds, allowed) = bounds(settings, self.room);
        self.backlog.allow(bounds, allowed);
    }

    /// No row is due before; none if there is no row.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        self.backlog.lowest().map(|key| key.due)
    }

    /// Functions of which no calls are made for now, or single ones to see.
    pub(super) fn held(&self) -> usize {
        self.backlog.held()
    }

    /// Calls that are being made, or have been and are not settled.
    pub(super) fn begun(&self) -> usize {
        self.backlog.begun()
    }

    /// Calls that are being made.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.backlog.out()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.backlog.size(), self.backlog.lanes())
    }

    /// Whether a row has the key of another one, whose end is not known here or may be in a page that is being read. One that is
    /// redriven may, where the time of the log stands still.
    pub(super) fn is_mistakable(&self, key: RowKey, row: &OutboxRow) -> bool {
        let is_other =
            |known: &Waiting| (known.row.generation, known.row.attempt) != (row.generation, row.attempt);
        self.backlog.is_gone(key) || self.backlog.get(key).is_some_and(is_other)
    }

    /// A row that a record has put into the outbox.
    pub(super) fn fed(&mut self, key: RowKey, row: OutboxRow, payload: Option<Bytes>) {
        // Of a row that is here for the first time this is when its record was applied, of others earlier.
        self.fed = self.fed.max(row.created);
        let payload = payload.filter(|payload| self.backlog.bytes() + payload.len() <= WAITING_BYTES);
        let bytes = payload.as_ref().map_or(0, Bytes::len);
        let lane = self.lane(&row);
        // What it has of its payload is not needed twice.
        let row = Arc::new(OutboxRow { payload: None, ..row });
        self.backlog.offer(key, &lane, Waiting { row, payload }, bytes);
    }

    /// A row whose last attempt has failed: it is read when it is due. Whoever had it tried, this plan or one before.
    pub(super) fn later(&mut self, key: RowKey) {
        self.backlog.uncover(key);
    }

    /// Rows that come behind all that was fed are not due before.
    pub(super) fn horizon(&self) -> Timestamp {
        self.fed
    }

    /// There are rows in the outbox that are due at that time or later, and were not fed.
    pub(super) fn missed(&mut self, since: Timestamp) {
        self.backlog.uncover(from(since));
    }

    /// A page of the outbox.
    pub(super) fn page(&mut self, now: Now, page: Result<Page<RowKey, OutboxRow>, String>) -> Option<Note> {
        match page {
            Ok(Page { rows, next, as_of }) => {
                let found = rows.into_iter().map(|(key, row)| {
                    let lane = self.lane(&row);
                    Found { key, lane, row: Waiting { row: Arc::new(row), payload: None } }
                });
                let rows = found.collect();
                self.backlog.page(Rows { rows, next, as_of: from(as_of.time) });
                None
            }
            Err(reason) => {
                self.backlog.unreadable();
                self.unreadable_until = Some(now.after(READ_PAUSE));
                Some(Note::Unreadable { reason })
            }
        }
    }

    /// The row's outcome, or that it has none, is in the log.
    pub(super) fn settled(&mut self, key: RowKey) {
        self.backlog.leave(key);
    }

    pub(super) fn effects(&mut self, now: Now, has_room: bool, effects: &mut Vec<Effect>) {
        self.backlog.expire(now.time);
        while has_room && let Some((key, waiting)) = self.backlog.next() {
            let row = Arc::clone(&waiting.row);
            effects.push(Effect::Dispatch(Dispatch { key, row, payload: waiting.payload.take() }));
        }
        self.unreadable_until = self.unreadable_until.filter(|until| *until > now.time);
        if self.unreadable_until.is_none()
            && let Some(from) = self.backlog.read(through(now.time))
        {
            effects.push(Effect::ReadOutbox { from, until: now.time });
        }
    }

    /// When there is more to do, after `now`.
    pub(super) fn wake(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.backlog.wanted().map(|key| key.due).filter(|due| *due > now);
        due.chain(self.backlog.next_expiry()).chain(self.unreadable_until).min()
    }

    /// Decides what becomes of a call.
    pub(super) fn attempted(&mut self, now: Now, attempted: Attempted, settings: &Settings) -> Came {
        let Attempted { key, payload, took, result, chance } = attempted;
        let Some(row) = self.backlog.get(key).map(|waiting| Arc::clone(&waiting.row)) else {
            return Came::Nothing;
        };
        let attempts = row.attempt.saturating_add(1);
        let (is_answered, verdict) = match judge(now, result, took) {
            Judged::Held { pause, reason } => {
                let times = self.backlog.hold(key, now.after(pause));
                let note = times.map(|times| Note::Held { row, pause, reason, is_first: times == 1 });
                return note.map_or(Came::Nothing, Came::Held);
            }
            Judged::Ended(finished) => (true, Verdict::Ended(finished)),
            Judged::Failed { reason, .. } if attempts < settings.trigger_max_attempts => {
                let pause = backoff(settings, row.attempt, chance);
                (false, Verdict::Retry { at: now.after(pause), reason })
            }
            Judged::Failed { reason, finished } => {
                let reason = format!("given up after {attempts} attempts: {reason}");
                (false, Verdict::Dead { reason, payload: Some(Blob(payload)), finished: Some(finished) })
            }
            Judged::Hopeless { reason } => {
                (true, Verdict::Dead { reason, payload: Some(Blob(payload)), finished: None })
            }
        };
        self.ended(key, row, verdict, is_answered)
    }

    /// A call was not made, which is no attempt: it waits until its record can be read, or is given up if it never can.
    pub(super) fn unread(&mut self, now: Now, unread: Unread) -> Came {
        let Unread { key, reason, is_gone } = unread;
        let Some(row) = self.backlog.get(key).map(|waiting| Arc::clone(&waiting.row)) else {
            return Came::Nothing;
        };
        if is_gone {
            let verdict = Verdict::Dead { reason: brief(reason), payload: None, finished: None };
            return self.ended(key, row, verdict, false);
        }
        let is_first = self.backlog.park(key, &Arc::new(Lane::Records), now.after(READ_PAUSE));
        Came::Held(Note::Unread { key, row, reason, is_first })
    }

    fn ended(&mut self, key: RowKey, row: Arc<OutboxRow>, verdict: Verdict, is_answered: bool) -> Came {
        self.backlog.ended(key, is_answered);
        let attempt = Attempt { row: key, generation: row.generation, attempt: row.attempt };
        let is_own = self.is_own(&row);
        Came::Ended(Ending { attempt, row, verdict, is_own })
    }

    /// Whether the call is of a function of this partition.
    fn is_own(&self, row: &OutboxRow) -> bool {
        matches!(row.subject, Subject::Invocation { .. })
            || self.home.is(&row.target.class, row.target.partition)
    }

    fn lane(&self, row: &OutboxRow) -> Arc<Lane> {
        let class = match row.subject {
            Subject::Invocation { .. } => &self.home.class,
            Subject::Data { .. } | Subject::Function { .. } => &row.target.class,
        };
        Arc::new(Lane::Function { class: class.clone(), name: row.target.function.clone() })
    }
}

/// The pause before the attempt after so many failed ones: at least half of what has been doubled, by chance up to all of it.
fn backoff(settings: &Settings, failed: u32, chance: u32) -> Duration {
    let full = doubled((settings.trigger_backoff, settings.trigger_backoff_max), failed);
    let half = full / 2;
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

fn judge(now: Now, result: Result<Answer, Failure>, took: Duration) -> Judged {
    let took_us = micros(took);
    match result {
        Ok(Answer { status, payload, headers }) => {
            let reason = if status.is_complete() { String::new() } else { answered(status, &payload) };
            let detail = reason.clone();
            let headers = headers.into_iter().collect();
            let finished = Finished { status, detail, payload: Blob(payload), headers, took_us };
            match status {
                Status::SystemError => Judged::Failed { reason, finished },
                Status::Completed | Status::InvalidRequest | Status::ApplicationError => {
                    Judged::Ended(finished)
                }
            }
        }
        Err(Failure::Held { until, reason }) => {
            let pause = until.saturating_duration_since(now.at).max(SHORTEST_HOLD);
            Judged::Held { pause, reason }
        }
        // Somebody has said so for now, and will say when that is over.
        Err(failure @ (Failure::Disabled { .. } | Failure::Standby { .. })) => {
            Judged::Held { pause: SUSPENDED_PAUSE, reason: brief(failure.to_string()) }
        }
        Err(
            failure @ (Failure::NoClass { .. }
            | Failure::NoPartition { .. }
            | Failure::NoFunction { .. }
            | Failure::Misconfigured { .. }),
        ) => Judged::Hopeless { reason: brief(failure.to_string()) },
        Err(failure) => {
            let reason = brief(failure.to_string());
            let (status, detail) = (failure.status(), reason.clone());
            let finished = Finished { status, detail, took_us, ..Finished::default() };
            if failure.is_temporary() { Judged::Failed { reason, finished } } else { Judged::Ended(finished) }
        }
    }
}

/// What an answer says that is no success: its first line, if it is text.
fn answered(status: Status, payload: &[u8]) -> String {
    let line = std::str::from_utf8(payload).unwrap_or_default().lines().next().unwrap_or_default().trim();
    let name = status.name();
    brief(if line.is_empty() {
        format!("the function answered with {name}")
    } else {
        format!("the function answered with {name}: {line}")
    })
}

/// What is kept of a reason.
fn brief(mut reason: String) -> String {
    if reason.len() > REASON_BYTES {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES));
        reason.push_str("...");
    }
    reason
}
