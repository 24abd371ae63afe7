//! What came of an import.

use std::time::Duration;

use serde::Serialize;

use crate::cli::{
    error::Error,
    output::{Human, Style, Tint},
};

/// So many lines with a problem are reported one by one; all are counted.
const REPORTED: usize = 100;

/// Counts, and the lines that went wrong.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Operations that changed something.
    pub(crate) changed: u64,
    /// Operations that were recorded but found nothing to change.
    pub(crate) unchanged: u64,
    /// Operations that the server refused.
    pub(crate) refused: u64,
    /// Lines that are no operation; they were not sent.
    pub(crate) invalid: u64,
    /// Operations whose acknowledgement never came: they may have been applied.
    pub(crate) unknown: u64,
    /// The import was stopped before the end of its input.
    pub(crate) stopped: bool,
    /// Stopped by Ctrl-C.
    pub(crate) interrupted: bool,
    /// Why the input or a connection broke.
    pub(crate) broken: Option<Error>,
    problems: Vec<Problem>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Problem {
    line: u64,
    reason: String,
}

impl Tally {
    /// A line that is no operation.
    pub(crate) fn invalid(&mut self, line: u64, reason: String) {
        self.invalid += 1;
        self.problem(line, reason);
    }

    /// An operation that the server refused.
    pub(crate) fn refused(&mut self, line: u64, reason: String) {
        self.refused += 1;
        self.problem(line, reason);
    }

    /// An operation without an answer.
    pub(crate) fn unknown(&mut self, line: u64) {
        self.unknown += 1;
        self.problem(line, "no acknowledgement came; it may have been applied".to_owned());
    }

    fn problem(&mut self, line: u64, reason: String) {
        if self.problems.len() < REPORTED {
            self.problems.push(Problem { line, reason });
        }
    }

    /// Adds what another part of the import came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.refused += other.refused;
        self.invalid += other.invalid;
        self.unknown += other.unknown;
        self.stopped |= other.stopped;
        self.interrupted |= other.interrupted;
        self.broken = self.broken.take().or(other.broken);
        self.problems.extend(other.problems);
        self.problems.sort();
        self.problems.truncate(REPORTED);
    }
}

/// The end of an import, as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    operations: u64,
    changed: u64,
    unchanged: u64,
    refused: u64,
    invalid: u64,
    unknown: u64,
    stopped: bool,
    elapsed_ms: u64,
    problems: Vec<Problem>,
    #[serde(skip)]
    interrupted: bool,
    #[serde(skip)]
    broken: Option<Error>,
}

impl Summary {
    /// After so long.
    pub(crate) fn new(tally: Tally, elapsed: Duration) -> Self {
        let Tally { changed, unchanged, refused, invalid, unknown, stopped, interrupted, broken, problems } =
            tally;
        Self {
            operations: changed + unchanged + refused + unknown,
            changed,
            unchanged,
            refused,
            invalid,
            unknown,
            stopped,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            problems,
            interrupted,
            broken,
        }
    }

    /// Whether the import succeeded, for the exit code.
    pub(crate) fn take_verdict(&mut self) -> Result<(), Error> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.interrupted {
            return Err(Error::Interrupted);
        }
        let problems = self.refused + self.invalid + self.unknown;
        match (problems, self.stopped) {
            (0, _) => Ok(()),
            (_, true) => Err(Error::Failed(
                "stopped at a bad line or a refused operation; what was acknowledged stays applied. Correct the \
                 input, or use --keep-going to import the rest"
                    .to_owned(),
            )),
            (count, false) => Err(Error::Failed(format!("lines that were not imported: {count}"))),
        }
    }

    fn per_second(&self) -> u64 {
        (self.operations.saturating_mul(1_000)).checked_div(self.elapsed_ms).unwrap_or(0)
    }
}

impl Human for Summary {
    fn human(&self, style: Style) -> String {
        // Tenths of a second are what a person reads.
        let (seconds, tenths) = (self.elapsed_ms / 1_000, self.elapsed_ms % 1_000 / 100);
        let mut text = format!(
            "{} operations in {seconds}.{tenths} s, {} a second\n",
            self.operations,
            self.per_second()
        );
        let mut count = |number: u64, what: &str, tint: Tint| {
            let line = format!("{number:>10}  {what}");
            text += &if number > 0 { style.paint(tint, &line) } else { line };
            text.push('\n');
        };
        count(self.changed, "changed something", Tint::Good);
        count(self.unchanged, "found nothing to change", Tint::Faint);
        count(self.refused, "were refused", Tint::Bad);
        if self.invalid > 0 {
            count(self.invalid, "lines are no operation and were not sent", Tint::Bad);
        }
        if self.unknown > 0 {
            count(self.unknown, "were sent, but their outcome is unknown", Tint::Bad);
        }
        for Problem { line, reason } in &self.problems {
            text += &format!("line {line}: {reason}\n");
        }
        let hidden = (self.refused + self.invalid + self.unknown).saturating_sub(self.problems.len() as u64);
        if hidden > 0 {
            text += &format!("and {hidden} more\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(tally: Tally) -> Summary {
        Summary::new(tally, Duration::from_millis(7_250))
    }

    #[test]
    fn a_clean_import_is_three_counts() {
        let mut summary = summary(Tally { changed: 333_492, unchanged: 772, ..Tally::default() });
        assert!(summary.take_verdict().is_ok());
        insta::assert_snapshot!(summary.human(Style::PLAIN), @"
        334264 operations in 7.2 s, 46105 a second
            333492  changed something
               772  found nothing to change
                 0  were refused
        ");
        insta::assert_json_snapshot!(summary, @r#"
        {
          "operations": 334264,
          "changed": 333492,
          "unchanged": 772,
          "refused": 0,
          "invalid": 0,
          "unknown": 0,
          "stopped": false,
          "elapsed_ms": 7250,
          "problems": []
        }
        "#);
    }

    #[test]
    fn what_went_wrong_is_named_by_line_in_their_order() {
        let mut tally = Tally { changed: 2, ..Tally::default() };
        tally.refused(9, "the id is longer than 160 bytes".to_owned());
        let mut other = Tally { stopped: true, ..Tally::default() };
        other.invalid(3, "missing field `id` (column 14)".to_owned());
        other.unknown(11);
        tally.add(other);
        let mut summary = summary(tally);
        insta::assert_snapshot!(summary.human(Style::PLAIN), @"
        4 operations in 7.2 s, 0 a second
                 2  changed something
                 0  found nothing to change
                 1  were refused
                 1  lines are no operation and were not sent
                 1  were sent, but their outcome is unknown
        line 3: missing field `id` (column 14)
        line 9: the id is longer than 160 bytes
        line 11: no acknowledgement came; it may have been applied
        ");
        let error = summary.take_verdict().expect_err("it did not succeed");
        assert_eq!(error.exit_code(), 1);
        insta::assert_snapshot!(error.to_string(), @"stopped at a bad line or a refused operation; what was acknowledged stays applied. Correct the input, or use --keep-going to import the rest");
    }

    #[test]
    fn many_problems_are_counted_and_the_first_are_named() {
        let mut tally = Tally::default();
        for line in 1..=250 {
            tally.invalid(line, "no JSON".to_owned());
        }
        let text = summary(tally).human(Style::PLAIN);
        assert!(text.contains("line 100: no JSON\n") && text.ends_with("and 150 more\n"), "{text}");
    }
}
