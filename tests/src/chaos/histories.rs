//! Whether what clients saw of each object could have happened one after the other.

use odgm_linearizability::merging::Merging;
use odgm_linearizability::{Verdict, check};
use serde::Serialize;

use super::journal::{Done, Key};

/// What was found of one object.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Judged {
    pub(super) object: String,
    pub(super) operations: usize,
    /// Writes that were never answered.
    pub(super) open: usize,
    pub(super) verdict: Finding,
}

/// What the search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Finding {
    Linearizable,
    /// The steps ran out.
    Undecided,
    NotLinearizable {
        /// How many operations the longest order has that was found.
        explained: usize,
    },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizable"),
            Self::Undecided => f.write_str("undecided"),
            Self::NotLinearizable { explained } => {
                write!(f, "NOT LINEARIZABLE: at most {explained} are explained")
            }
        }
    }
}

/// Searches for an order in at most so many steps.
pub(super) fn judge(key: &Key, history: &[Done], steps: usize) -> Judged {
    let verdict = match check::<Merging>(history, steps) {
        Verdict::Linearizable => Finding::Linearizable,
        Verdict::Unknown => Finding::Undecided,
        Verdict::NotLinearizable { explained } => Finding::NotLinearizable { explained },
    };
    Judged {
        object: key.to_string(),
        operations: history.len(),
        open: history.iter().filter(|operation| operation.returned.is_none()).count(),
        verdict,
    }
}

/// A history for people: one operation in a line, in the order of calls, times in microseconds.
pub(super) fn text(history: &[Done]) -> String {
    let mut operations: Vec<&Done> = history.iter().collect();
    operations.sort_by_key(|operation| operation.called);
    let lines = operations.into_iter().map(|operation| {
        let called = operation.called / 1_000;
        match &operation.returned {
            Some((at, output)) => {
                format!("{called:>12} {:>12} {:?} -> {output:?}\n", at / 1_000, operation.input)
            }
            None => format!("{called:>12} {:>12} {:?}\n", "never", operation.input),
        }
    });
    lines.collect()
}
