//! What clients have asked and what they know of the answers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use odgm_linearizability::Operation;
use odgm_linearizability::merging::Request;
use odgm_linearizability::object::{Input, Output};
use parking_lot::Mutex;
use serde::Serialize;

use crate::harness::Acknowledged;

/// One operation on one object.
pub(super) type Done = Operation<Request, Output>;

/// Complaints that are kept; more say nothing new.
const COMPLAINTS: usize = 20;

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) partition: u32,
    pub(super) object: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.object)
    }
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) enum Kind {
    GetValue,
    Get,
    SetValue,
    BatchSetValues,
    Merge,
    Delete,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::GetValue, Self::Get, Self::SetValue, Self::BatchSetValues, Self::Merge, Self::Delete];

    pub(super) fn is_write(self) -> bool {
        !matches!(self, Self::GetValue | Self::Get)
    }
}

/// What is known of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Unknown,
    /// It was refused, or had another version in its way: it must never be seen.
    NotApplied,
    /// It was acknowledged.
    Applied(Acknowledged),
}

/// A write. Each has a number of its own, which is also what it writes.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) fate: Fate,
}

/// What came of a request.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// It was answered; a write that became a record has a place.
    Answered(Output, Option<Acknowledged>),
    /// It may have been applied, or may yet be.
    Unknown,
    /// As if it had not been asked.
    Refused,
}

/// How often what came of a kind of request.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Tally {
    pub(super) answered: u64,
    pub(super) unknown: u64,
    pub(super) refused: u64,
}

/// Everything that was written down.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) histories: BTreeMap<Key, Vec<Done>>,
    pub(super) sent: BTreeMap<u64, Sent>,
    pub(super) tallies: BTreeMap<Kind, Tally>,
    /// How often requests failed with which code.
    pub(super) codes: BTreeMap<String, u64>,
    /// What no client should ever be told.
    pub(super) complaints: Vec<String>,
    /// When the last write was acknowledged; or since when silences are measured, if that is later.
    acknowledged: Option<Instant>,
    /// The longest time without an acknowledged write since then.
    silence: Duration,
}

/// Takes down what all clients do, on one clock.
#[derive(Debug)]
pub(super) struct Journal {
    begun: Instant,
    next: AtomicU64,
    records: Mutex<Records>,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) key: Key,
    pub(super) kind: Kind,
    pub(super) input: Request,
    /// What it writes; without a meaning for reads.
    pub(super) number: u64,
    pub(super) called: u64,
}

impl Journal {
    pub(super) fn begin() -> Self {
        // 0 is what a version is before anything was written; no value looks like it.
        Self { begun: Instant::now(), next: AtomicU64::new(1), records: Mutex::default() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes that something is going to be asked, before it is.
    pub(super) fn call(&self, key: Key, kind: Kind, expected: u64) -> Call {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let input = match kind {
            Kind::GetValue => Request::Entry(Input::Read),
            Kind::Get => Request::ReadWhole,
            Kind::SetValue => Request::Entry(Input::Write(number)),
            Kind::BatchSetValues => Request::Entry(Input::CompareAndSet { expected, value: number }),
            Kind::Merge => Request::Merge(number),
            Kind::Delete => Request::Entry(Input::Delete),
        };
        if kind.is_write() {
            let sent = Sent { key: key.clone(), kind, fate: Fate::Unknown };
            self.records.lock().sent.insert(number, sent);
        }
        Call { key, kind, input, number, called: self.now() }
    }

    /// Notes what came of it.
    pub(super) fn returned(&self, call: Call, asked: Asked) {
        let now = self.now();
        let Call { key, kind, input, number, called } = call;
        let mut records = self.records.lock();
        let tally = records.tallies.entry(kind).or_default();
        let (returned, fate) = match asked {
            Asked::Answered(output, place) => {
                tally.answered += 1;
                (Some((now, output)), place.map_or(Fate::NotApplied, Fate::Applied))
            }
            Asked::Unknown if kind.is_write() => {
                tally.unknown += 1;
                (None, Fate::Unknown)
            }
            Asked::Unknown | Asked::Refused => {
                tally.refused += 1;
                records.settle(number, Fate::NotApplied);
                return;
            }
        };
        records.settle(number, fate);
        records.histories.entry(key).or_default().push(Operation { called, returned, input });
    }

    /// Measures silences from now on.
    pub(super) fn begin_silence(&self) {
        let mut records = self.records.lock();
        (records.acknowledged, records.silence) = (Some(Instant::now()), Duration::ZERO);
    }

    /// The longest time without an acknowledged write since then, up to now.
    pub(super) fn silence(&self) -> Duration {
        let mut records = self.records.lock();
        records.heard();
        records.silence
    }

    /// Counts a code that a request failed with.
    pub(super) fn failed(&self, code: String) {
        *self.records.lock().codes.entry(code).or_default() += 1;
    }

    /// Notes what should not have been answered.
    pub(super) fn complain(&self, complaint: String) {
        let complaints = &mut self.records.lock().complaints;
        if complaints.len() < COMPLAINTS {
            complaints.push(complaint);
        }
    }

    /// Every object that something is known of.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.records.lock().histories.keys().cloned().collect()
    }

    /// Everything.
    pub(super) fn take(&self) -> Records {
        std::mem::take(&mut *self.records.lock())
    }
}

impl Records {
    fn settle(&mut self, number: u64, fate: Fate) {
        // Reads are not among them.
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.fate = fate;
        if matches!(fate, Fate::Applied(_)) {
            self.heard();
        }
    }

    /// Ends a silence.
    fn heard(&mut self) {
        let now = Instant::now();
        let last = self.acknowledged.replace(now);
        let silence = last.map_or(Duration::ZERO, |last| now.duration_since(last));
        self.silence = self.silence.max(silence);
    }
}
