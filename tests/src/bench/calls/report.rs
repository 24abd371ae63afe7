//! The tables of calls, and how they are shown.

use std::fmt;

use comfy_table::Table as Grid;
use serde::Serialize;

use super::super::load::Shape;
use super::super::report::{Round, ratios};
use super::super::statistics::{Latencies, Spread};
use super::{Calls, Visit, Work, spread};
use crate::Result;
use crate::table::{empty, right_align};

/// Several things that are compared with each other.
#[derive(Debug, Serialize)]
pub(in super::super) struct Table {
    pub(super) name: String,
    #[serde(skip)]
    pub(super) shape: Shape,
    pub(super) rows: Vec<Row>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    work: Work,
    pub(super) per_second: Spread,
    /// Of all rounds together: until the answer, which for triggers and `Invoke` comes before the call.
    latency_us: Latencies,
    /// How many calls were not settled when nothing more was asked for.
    waiting: Option<Spread>,
    rounds: Vec<Round>,
}

impl Row {
    /// From the visits of all rounds.
    pub(super) fn of(work: Work, visits: &[Visit]) -> Result<Self> {
        let round = |visit: &Visit| {
            let p50_us = Latencies::of([&visit.samples])?.p50;
            Ok(Round { ops_per_second: visit.per_second, p50_us })
        };
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let waiting = visits.iter().filter_map(|visit| visit.waiting).map(|waiting| waiting as f64);
        Ok(Self {
            work,
            per_second: spread(visits.iter().map(|visit| visit.per_second).collect())?,
            latency_us: Latencies::of(visits.iter().map(|visit| &visit.samples))?,
            waiting: Spread::of(waiting.collect()),
            rounds: visits.iter().map(round).collect::<Result<_>>()?,
        })
    }
}

impl Table {
    /// The row of `work`.
    pub(super) fn row(&self, work: Work) -> Option<&Row> {
        self.rows.iter().find(|row| row.work == work)
    }

    /// The ratio of rates within each round.
    pub(super) fn rate_ratio(&self, ours: Work, theirs: Work) -> Option<Spread> {
        ratios(&self.row(ours)?.rounds, &self.row(theirs)?.rounds, |round| round.ops_per_second)
    }

    /// The ratio of median latencies within each round.
    pub(super) fn latency_ratio(&self, ours: Work, theirs: Work) -> Option<Spread> {
        ratios(&self.row(ours)?.rounds, &self.row(theirs)?.rounds, |round| round.p50_us)
    }

    /// By how many syncs of the disk the median latency of one is above the other's, within each round.
    pub(super) fn syncs_beyond(&self, ours: Work, theirs: Work) -> Option<Spread> {
        let rounds = |work| Some(self.row(work)?.rounds.iter().map(|round| round.p50_us));
        let (ours, theirs, syncs) = (rounds(ours)?, rounds(theirs)?, rounds(Work::Sync)?);
        Spread::of(ours.zip(theirs).zip(syncs).map(|((ours, theirs), sync)| (ours - theirs) / sync).collect())
    }

    /// What the rows are held against: the others of the table that somebody else does, or the write without a trigger.
    fn yardsticks(&self) -> impl Iterator<Item = Work> {
        let yardsticks = [Work::Write, Work::Proxy, Work::Restate];
        yardsticks.into_iter().filter(|work| self.row(*work).is_some())
    }

    /// One in flight is about latencies, many are about rates.
    fn ratio(&self, ours: Work, theirs: Work) -> Option<Spread> {
        match self.shape {
            Shape::ONE => self.latency_ratio(ours, theirs),
            _ => self.rate_ratio(ours, theirs),
        }
    }

    fn grid(&self) -> Grid {
        let compared = if self.shape == Shape::ONE { "p50 x" } else { "x" };
        let mut header = ["what", "per second", "p50 us", "p99 us"].map(str::to_owned).to_vec();
        header.extend(self.yardsticks().map(|yardstick| format!("{compared} {yardstick}")));
        header.push("unsettled".to_owned());
        let mut grid = empty(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for row in &self.rows {
            let Spread { median, min, max } = row.per_second;
            let mut cells = vec![
                row.work.to_string(),
                format!("{median:.0} [{min:.0}-{max:.0}]"),
                format!("{:.0}", row.latency_us.p50),
                format!("{:.0}", row.latency_us.p99),
            ];
            cells.extend(self.yardsticks().map(|yardstick| match row.work == yardstick {
                true => String::new(),
                false => shown(self.ratio(row.work, yardstick)),
            }));
            cells.push(row.waiting.map_or_else(String::new, |waiting| format!("{:.0}", waiting.median)));
            grid.add_row(cells);
        }
        right_align(&mut grid);
        grid
    }
}

fn shown(ratio: Option<Spread>) -> String {
    ratio.map_or_else(String::new, |Spread { median, min, max }| format!("{median:.2} [{min:.2}-{max:.2}]"))
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "{}\n{}", table.name, table.grid())?;
            if let Some(syncs) = table.syncs_beyond(Work::InvokeFn, Work::Proxy) {
                writeln!(f, "p50 of InvokeFn beyond the proxy's, in syncs: {}", shown(Some(syncs)))?;
            }
        }
        if let Some(entry) = &self.entry {
            write!(f, "{entry}")?;
        }
        Ok(())
    }
}
