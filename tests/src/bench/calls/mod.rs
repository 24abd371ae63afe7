//! Calls of functions: what a trigger costs a write, how soon it enters the function, and what a durable call costs, held
//! against a proxy that keeps nothing and against Restate.

mod accepted;
mod disk;
mod entry;
pub(super) mod function;
mod invoke;
mod node;
pub(super) mod proxy;
mod report;
pub(super) mod restate;
mod stage;
mod waiting;

use serde::Serialize;

pub(super) use entry::Entry;
pub(super) use report::Table;
pub(super) use waiting::Waiting;

use super::load::{Samples, Shape, Timing};
use super::options::Options;
use super::servers::Target;
use super::statistics::Spread;
use crate::Result;
use report::Row;
use stage::Stage;

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// A write to an object without triggers.
    Write,
    /// A write to an object with a trigger that calls the function. With many in flight it counts when that is settled.
    Trigger,
    /// `InvokeFn` of the node: answered when the outcome is in the log.
    InvokeFn,
    /// `Invoke` of the node: accepted when the request is in the log, and called by and by. It counts when it is settled.
    Invoke,
    /// `InvokeFn` of the proxy: nothing is kept.
    Proxy,
    /// A call through Restate.
    Restate,
    /// A record at the end of a file, and a sync: what the disk costs.
    Sync,
    /// The same at the pace of calls: a disk and a processor that rest in between take longer.
    RestedSync,
}

impl Work {
    /// What has to be running.
    fn target(self) -> Target {
        match self {
            Self::Proxy => Target::Proxy,
            Self::Restate => Target::Restate,
            Self::Write | Self::Trigger | Self::InvokeFn | Self::Invoke | Self::Sync | Self::RestedSync => {
                Target::Odgm
            }
        }
    }
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write => "write",
            Self::Trigger => "write with a trigger",
            Self::InvokeFn => "odgm, InvokeFn",
            Self::Invoke => "odgm, Invoke",
            Self::Proxy => "proxy",
            Self::Restate => "restate",
            Self::Sync => "append and sync",
            Self::RestedSync => "append and sync, rested",
        })
    }
}

/// The tables: what each compares, and with how much in flight.
const TABLES: [(&str, Shape, &[Work]); 4] = [
    ("Write", Shape::ONE, &[Work::Write, Work::Trigger]),
    ("Write", Shape::MANY, &[Work::Write, Work::Trigger]),
    ("Call", Shape::ONE, &[Work::InvokeFn, Work::Sync, Work::RestedSync, Work::Proxy, Work::Restate]),
    ("Call", Shape::MANY, &[Work::InvokeFn, Work::Invoke, Work::Proxy, Work::Restate]),
];

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Calls {
    tables: Vec<Table>,
    pub(super) entry: Option<Entry>,
}

/// One visit.
#[derive(Debug)]
struct Visit {
    per_second: f64,
    samples: Samples,
    /// How many calls were not settled when nothing more was asked for; None where each waits for its end.
    waiting: Option<u64>,
}

impl From<Samples> for Visit {
    fn from(samples: Samples) -> Self {
        Self { per_second: samples.rate(), samples, waiting: None }
    }
}

impl Calls {
    /// Starts the servers, visits them in rounds, and stops them. Answers their versions, too.
    pub(super) async fn measure(options: &Options) -> Result<(Vec<(Target, String)>, Self)> {
        let stage = Stage::set(options).await?;
        let timing = Timing::of(options)?;
        let mut tables = Vec::new();
        for (name, shape, works) in TABLES {
            let name = format!("{name} {shape}");
            let works: Vec<_> = works.iter().filter(|work| stage.has(work.target())).copied().collect();
            if name.contains(&options.load) {
                tables.push(table(&stage, name, shape, &works, options.rounds, timing).await?);
            }
        }
        let entry = match Entry::NAME.contains(&options.load) {
            true => Some(Entry::measure(&stage, options.rounds, timing).await?),
            false => None,
        };
        Ok((stage.versions(), Self { tables, entry }))
    }

    /// Triggers settled in a second.
    pub(super) fn settled_per_second(&self) -> Option<f64> {
        Some(self.row(Shape::MANY, Work::Trigger)?.per_second.median)
    }

    /// The latency of a write with a trigger, of that of one without.
    pub(super) fn write_latency_ratio(&self) -> Option<f64> {
        let table = self.table(Shape::ONE, Work::Trigger)?;
        Some(table.latency_ratio(Work::Trigger, Work::Write)?.median)
    }

    /// The rate of durable calls, of that of something else.
    pub(super) fn rate_ratio(&self, ours: Work, theirs: Work) -> Option<f64> {
        Some(self.table(Shape::MANY, ours)?.rate_ratio(ours, theirs)?.median)
    }

    /// By how many syncs of the disk a durable call takes longer than one through the proxy.
    pub(super) fn syncs_beyond_the_proxy(&self) -> Option<f64> {
        let table = self.table(Shape::ONE, Work::InvokeFn)?;
        Some(table.syncs_beyond(Work::InvokeFn, Work::Proxy)?.median)
    }

    fn table(&self, shape: Shape, work: Work) -> Option<&Table> {
        self.tables.iter().find(|table| table.shape == shape && table.row(work).is_some())
    }

    fn row(&self, shape: Shape, work: Work) -> Option<&Row> {
        self.table(shape, work)?.row(work)
    }
}

/// Visits all of `works` in each round, there and back.
async fn table(
    stage: &Stage,
    name: String,
    shape: Shape,
    works: &[Work],
    rounds: usize,
    timing: Timing,
) -> Result<Table> {
    let mut visits: Vec<Vec<Visit>> = works.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        let mut order: Vec<_> = (0..works.len()).collect();
        // So that nobody always has the same neighbour before it.
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let work = works[place];
            let visit = stage.visit(work, shape, timing).await;
            let visit = visit.map_err(|error| format!("{name}, {work}: {error}"))?;
            eprintln!("{name}, round {}: {work} {:.0}/s", round + 1, visit.per_second);
            visits[place].push(visit);
        }
    }
    let rows = works.iter().zip(&visits).map(|(work, visits)| Row::of(*work, visits));
    Ok(Table { name, shape, rows: rows.collect::<Result<_>>()? })
}

/// The spread of at least one figure.
fn spread(figures: Vec<f64>) -> Result<Spread> {
    Spread::of(figures).ok_or_else(|| "at least one round is needed".into())
}
