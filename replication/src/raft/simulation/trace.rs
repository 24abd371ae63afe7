//! What happened in a simulation: a hash of all of it, and the end of it in words.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Display;
use std::sync::Arc;

use odgm_log::Hash;
use parking_lot::Mutex;

use super::interposed;

/// Lines that a failure shows.
const TAIL: usize = 60;

/// The trace. Clones are handles of the same one.
#[derive(Clone, Default)]
pub(super) struct Trace {
    shared: Arc<Mutex<Lines>>,
}

#[derive(Default)]
struct Lines {
    hasher: blake3::Hasher,
    events: u64,
    tail: VecDeque<String>,
    /// How often each kind of thing happened.
    counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    /// Notes an event that is part of the hash and of what a failure shows.
    pub(super) fn note(&self, kind: &'static str, what: impl Display) {
        let line = format!("{:>9.3} {kind} {what}", interposed::now().as_secs_f64());
        let mut lines = self.shared.lock();
        lines.hasher.update(line.as_bytes());
        lines.events += 1;
        *lines.counts.entry(kind).or_default() += 1;
        if std::env::var_os("ODGM_SIMULATION_TRACE").is_some() {
            println!("{line}");
        }
        if lines.tail.len() == TAIL {
            lines.tail.pop_front();
        }
        lines.tail.push_back(line);
    }

    pub(super) fn hash(&self) -> Hash {
        Hash(*self.shared.lock().hasher.finalize().as_bytes())
    }

    pub(super) fn events(&self) -> u64 {
        self.shared.lock().events
    }

    /// How often each kind of thing happened, in one line.
    pub(super) fn counts(&self) -> String {
        let lines = self.shared.lock();
        let counts = lines.counts.iter().map(|(kind, count)| format!("{kind}={count}"));
        counts.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn tail(&self) -> String {
        self.shared.lock().tail.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}
