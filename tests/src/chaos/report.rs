//! What a run has shown, as JSON and as tables for people.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use comfy_table::Table;
use serde::Serialize;

use super::faults::{Fault, Made};
use super::histories::{self, Finding, Judged};
use super::journal::{Done, Key, Kind, Records, Tally};
use super::options::{Level, Options};
use super::subscriber::Seen;
use super::{NODES, events, logged};
use crate::Result;
use crate::harness::{Replica, Wire};
use crate::table::{empty, right_align};

/// Complaints of one kind that are shown.
const SHOWN: usize = 20;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    seed: u64,
    seconds: u64,
    wire: Wire,
    consistency: Level,
    partitions: u32,
    clients: usize,
    operations: BTreeMap<Kind, Tally>,
    /// How often requests failed with which code; those that were sent again are among them.
    codes: BTreeMap<String, u64>,
    faults: BTreeMap<Fault, Made>,
    leader_changes: u64,
    objects: Vec<Judged>,
    subscriber: Subscribed,
    /// Of the one whose filter matches nothing.
    idle: Subscribed,
    /// What all replicas of each partition held in the end.
    replicas: BTreeMap<u32, Replica>,
    /// Errors that the nodes have logged, by who logged them.
    errors: BTreeMap<String, u64>,
    /// What did not hold.
    failures: Vec<String>,
    /// Of objects whose history is not right or not decided.
    #[serde(skip)]
    histories: BTreeMap<String, Vec<Done>>,
}

/// What a subscriber saw.
#[derive(Debug, Default, Serialize)]
struct Subscribed {
    events: usize,
    /// How often it was told how far its streams were, and how far that was in the end, by partition.
    responses: u64,
    progress: BTreeMap<u32, u64>,
    subscriptions: u64,
    ends: BTreeMap<String, u64>,
}

impl From<Seen> for Subscribed {
    fn from(seen: Seen) -> Self {
        let Seen { events, responses, progress, subscriptions, ends, .. } = seen;
        let events = events.values().map(Vec::len).sum();
        Self { events, responses, progress, subscriptions, ends }
    }
}

/// What is gathered for the report on the way.
pub(super) struct Outcome {
    report: Report,
}

impl Outcome {
    pub(super) fn new(options: &Options, seed: u64) -> Self {
        let report = Report {
            seed,
            seconds: options.seconds,
            wire: options.wire,
            consistency: options.consistency,
            partitions: options.partitions(),
            clients: options.clients,
            operations: BTreeMap::new(),
            codes: BTreeMap::new(),
            faults: BTreeMap::new(),
            leader_changes: 0,
            objects: Vec::new(),
            subscriber: Subscribed::default(),
            idle: Subscribed::default(),
            replicas: BTreeMap::new(),
            errors: BTreeMap::new(),
            failures: Vec::new(),
            histories: BTreeMap::new(),
        };
        Self { report }
    }

    /// Something did not hold.
    pub(super) fn failed(&mut self, failure: String) {
        eprintln!("chaos: {failure}");
        self.report.failures.push(failure);
    }

    /// What was made of faults.
    pub(super) fn faults(&mut self, made: BTreeMap<Fault, Made>, leader_changes: u64) {
        self.report.leader_changes = leader_changes;
        self.report.faults = made;
        let never = self.report.faults.iter().filter(|(_, made)| made.fired == 0);
        let never: Vec<Fault> = never.map(|(fault, _)| *fault).collect();
        for fault in never {
            self.failed(format!("the fault {fault} never took hold: nothing was shown of it"));
        }
    }

    /// What the nodes have logged.
    pub(super) fn errors(&mut self, errors: BTreeMap<String, u64>) {
        let panics = logged::panics(&errors);
        if panics > 0 {
            self.failed(format!("the nodes have panicked {panics} times: --logs keeps what they said"));
        }
        self.report.errors = errors;
    }

    pub(super) fn replicas(&mut self, replicas: BTreeMap<u32, Replica>) {
        self.report.replicas = replicas;
    }

    /// Judges what clients, the subscriber to everything, and the one to nothing have written down.
    pub(super) async fn judge(
        mut self,
        records: Records,
        mut seen: Seen,
        mut idle: Seen,
        options: &Options,
    ) -> Result<Report> {
        self.silences(options);
        self.all_of("clients", records.complaints);
        self.all_of("the subscriber", std::mem::take(&mut seen.complaints));
        self.all_of("the idle subscriber", std::mem::take(&mut idle.complaints));
        self.all_of("events", events::judge(&records.sent, &seen.events));
        (self.report.subscriber, self.report.idle) = (seen.into(), idle.into());
        if self.report.idle.events > 0 {
            self.failed(format!(
                "the idle subscriber got {} events, and wants none",
                self.report.idle.events
            ));
        }
        self.report.codes = records.codes;
        self.report.operations = records.tallies;
        for kind in Kind::ALL {
            let tally = self.report.operations.entry(kind).or_default();
            if tally.answered == 0 {
                self.failed(format!("no {kind:?} was ever answered: nothing was shown of it"));
            }
        }
        let steps = options.steps;
        let judged = tokio::task::spawn_blocking(move || judge_all(records.histories, steps)).await?;
        for (judged, history) in judged {
            let is_wrong = match judged.verdict {
                Finding::Linearizable => false,
                Finding::Undecided => !options.allow_undecided,
                Finding::NotLinearizable { .. } => true,
            };
            if is_wrong {
                self.failed(format!("{}: {}", judged.object, judged.verdict));
                self.report.histories.insert(judged.object.clone(), history);
            }
            self.report.objects.push(judged);
        }
        Ok(self.report)
    }

    fn silences(&mut self, options: &Options) {
        let too_long = self.report.faults.values().filter(|made| made.silence_ms > options.max_silence);
        let too_long: Vec<String> = too_long
            .map(|made| format!("no write was acknowledged for {} ms: {}", made.silence_ms, made.silenced_by))
            .collect();
        too_long.into_iter().for_each(|failure| self.failed(failure));
    }

    fn all_of(&mut self, whose: &str, complaints: Vec<String>) {
        let more = complaints.len().saturating_sub(SHOWN);
        for complaint in complaints.into_iter().take(SHOWN) {
            self.failed(format!("{whose}: {complaint}"));
        }
        if more > 0 {
            self.failed(format!("{whose}: and {more} more"));
        }
    }
}

fn judge_all(histories: BTreeMap<Key, Vec<Done>>, steps: usize) -> Vec<(Judged, Vec<Done>)> {
    let judged =
        histories.into_iter().map(|(key, history)| (histories::judge(&key, &history, steps), history));
    judged.collect()
}

impl Report {
    /// Whether everything held.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// How many histories no order explains.
    pub fn contradictions(&self) -> usize {
        let verdicts = self.objects.iter().map(|judged| judged.verdict);
        verdicts.filter(|verdict| matches!(verdict, Finding::NotLinearizable { .. })).count()
    }

    /// Writes the histories that are not right or not decided into a directory, one file for each.
    pub(super) fn save_histories(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        for (object, history) in &self.histories {
            let name = format!("history-{}.txt", object.replace('/', "-"));
            std::fs::write(folder.join(name), histories::text(history))?;
        }
        Ok(())
    }

    /// All that clients asked, that was answered, and that was not.
    fn total(&self) -> Tally {
        self.operations.values().fold(Tally::default(), |sum, tally| Tally {
            answered: sum.answered + tally.answered,
            unknown: sum.unknown + tally.unknown,
            refused: sum.refused + tally.refused,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, seconds, wire, consistency, partitions, clients, .. } = self;
        writeln!(
            f,
            "seed {seed}; {seconds} s of faults; {NODES} nodes over {wire}; {partitions} partition(s); {clients} \
             clients; {consistency} reads"
        )?;
        writeln!(f, "\nOperations\n{}", operations(self))?;
        if !self.codes.is_empty() {
            writeln!(f, "requests that failed, repeats included: {}", counted(&self.codes))?;
        }
        writeln!(f, "\nFaults\n{}", faults(self))?;
        if let Some(made) = self.faults.values().max_by_key(|made| made.silence_ms) {
            writeln!(
                f,
                "longest silence, {} ms without an acknowledged write: {}",
                made.silence_ms, made.silenced_by
            )?;
        }
        writeln!(f, "other leaders seen: {}", self.leader_changes)?;
        writeln!(f, "\nObjects\n{}", objects(self))?;
        let Subscribed { events, subscriptions, ends, .. } = &self.subscriber;
        writeln!(
            f,
            "subscriber: {events} events over {subscriptions} subscriptions; ended by {}",
            counted(ends)
        )?;
        let Subscribed { responses, progress, subscriptions, ends, .. } = &self.idle;
        let progress: Vec<String> = progress.values().map(u64::to_string).collect();
        writeln!(
            f,
            "subscriber that nothing matches: at offset {} by {responses} words of progress over {subscriptions} \
             subscriptions; ended by {}",
            progress.join(", "),
            counted(ends)
        )?;
        for (partition, Replica { applied, chain, state_hash }) in &self.replicas {
            let (chain, state) = (beginning(chain), beginning(state_hash));
            writeln!(
                f,
                "partition {partition}: equal on all nodes at offset {applied}, chain {chain}, state {state}"
            )?;
        }
        writeln!(f, "errors logged by the nodes: {}", counted(&self.errors))?;
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        writeln!(f, "{}", if self.passed() { "All of it holds." } else { "It does not hold." })
    }
}

/// Enough of a hash to compare it by eye.
fn beginning(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

fn counted(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if counts.is_empty() { "nothing".to_owned() } else { counts.join("; ") }
}

fn operations(report: &Report) -> Table {
    let mut table = empty(&["", "answered", "unknown", "refused"]);
    let row = |name: String, Tally { answered, unknown, refused }: Tally| {
        [name, answered.to_string(), unknown.to_string(), refused.to_string()]
    };
    for (kind, tally) in &report.operations {
        table.add_row(row(format!("{kind:?}"), *tally));
    }
    table.add_row(row("all".to_owned(), report.total()));
    right_align(&mut table);
    table
}

fn faults(report: &Report) -> Table {
    let mut table =
        empty(&["", "made", "took hold", "of a leader", "bytes held", "held", "closed", "silence ms"]);
    for (fault, Made { tried, fired, leaders, harm, silence_ms, .. }) in &report.faults {
        let figures = [*tried, *fired, *leaders, harm.held_bytes, harm.held, harm.closed];
        let figures = figures.map(|figure| if figure == 0 { "-".to_owned() } else { figure.to_string() });
        let row = std::iter::once(fault.to_string()).chain(figures);
        table.add_row(row.chain(std::iter::once(silence_ms.to_string())));
    }
    right_align(&mut table);
    table
}

/// One row for all generations of an object, which have its name and a number.
fn objects(report: &Report) -> Table {
    let mut table = empty(&["", "histories", "operations", "open", "longest", "undecided", "verdict"]);
    let mut rows: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for judged in &report.objects {
        let name = judged.object.split_once('.').map_or(judged.object.as_str(), |(name, _)| name);
        rows.entry(name).or_default().push(judged);
    }
    for (name, judged) in rows {
        let sum = |figure: fn(&Judged) -> usize| judged.iter().map(|judged| figure(judged)).sum::<usize>();
        let longest = judged.iter().map(|judged| judged.operations).max().unwrap_or_default();
        let undecided = judged.iter().filter(|judged| judged.verdict == Finding::Undecided).count();
        let worst = judged.iter().map(|judged| judged.verdict).max();
        table.add_row([
            name.to_owned(),
            judged.len().to_string(),
            sum(|judged| judged.operations).to_string(),
            sum(|judged| judged.open).to_string(),
            longest.to_string(),
            undecided.to_string(),
            worst.map_or_else(String::new, |worst| worst.to_string()),
        ]);
    }
    right_align(&mut table);
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::chaos::faults::Hit;

    /// A run in which clients got all kinds of answers, and each of these faults was made once and took hold, or did not.
    async fn run(hits: [(Fault, bool); 2]) -> Result<Report> {
        let options = Options::try_parse_from(["chaos"])?;
        let mut outcome = Outcome::new(&options, 1);
        let made = hits.map(|(fault, has_fired)| {
            let mut made = Made::default();
            made.add(Hit { has_fired, ..Hit::default() }, Duration::from_secs(1));
            (fault, made)
        });
        outcome.faults(BTreeMap::from(made), 0);
        let answered = Tally { answered: 1, ..Tally::default() };
        let mut records = Records::default();
        records.tallies.extend(Kind::ALL.map(|kind| (kind, answered)));
        outcome.judge(records, Seen::default(), Seen::default(), &options).await
    }

    #[tokio::test]
    async fn a_fault_that_was_made_and_never_took_hold_fails_the_run() -> Result<()> {
        let shown = run([(Fault::Kill, true), (Fault::Isolate, true)]).await?;
        assert!(shown.passed(), "{shown}");
        let not_shown = run([(Fault::Kill, true), (Fault::Isolate, false)]).await?;
        assert!(!not_shown.passed());
        assert_eq!(not_shown.failures, ["the fault isolate never took hold: nothing was shown of it"]);
        Ok(())
    }
}
