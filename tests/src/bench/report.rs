//! What was measured, as JSON and as tables for people.

use std::collections::BTreeMap;
use std::fmt;

use comfy_table::Table as Grid;
use serde::Serialize;

use super::calls::{Calls, Waiting};
use super::catching_up::CatchUp;
use super::failover::Failover;
use super::footprint::Footprint;
use super::goals::Judgement;
use super::group_commit::GroupCommit;
use super::idle::Idle;
use super::load::{Load, Samples};
use super::machine::Machine;
use super::rebuild::Rebuild;
use super::servers::Target;
use super::statistics::{Latencies, Spread};
use super::targets::Subject;
use crate::Result;
use crate::table::{empty, right_align};

/// A whole run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) method: Method,
    pub(super) versions: Vec<(Target, String)>,
    pub(super) tables: Vec<Table>,
    pub(super) footprint: Option<Footprint>,
    pub(super) rebuild: Option<Rebuild>,
    pub(super) failover: Option<Failover>,
    pub(super) idle: Option<Idle>,
    pub(super) catch_up: Option<CatchUp>,
    pub(super) group_commit: Option<GroupCommit>,
    pub(super) calls: Option<Calls>,
    pub(super) waiting: Option<Waiting>,
    pub(super) goals: Vec<Judgement>,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Method {
    pub(super) rounds: usize,
    pub(super) seconds: f64,
    pub(super) warm_up_seconds: f64,
    pub(super) key_space: usize,
    pub(super) value_bytes: usize,
    pub(super) partitions: u32,
}

/// One load on all targets.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) load: Load,
    pub(super) rows: Vec<Row>,
}

/// One load on one target.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) subject: Subject,
    pub(super) ops_per_second: Spread,
    /// Of all rounds together.
    pub(super) latency_us: Latencies,
    /// Rates relative to those of the same round.
    pub(super) ratio_to: BTreeMap<&'static str, Spread>,
    pub(super) rounds: Vec<Round>,
}

/// One visit.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Round {
    pub(super) ops_per_second: f64,
    pub(super) p50_us: f64,
}

impl Row {
    /// From the samples of each round.
    pub(super) fn of(subject: Subject, rounds: &[&Samples]) -> Result<Self> {
        let latency_us = Latencies::of(rounds.iter().copied())?;
        let rounds = rounds
            .iter()
            .map(|samples| {
                let p50_us = Latencies::of([*samples])?.p50;
                Ok(Round { ops_per_second: samples.rate(), p50_us })
            })
            .collect::<Result<Vec<_>>>()?;
        let rates = rounds.iter().map(|round| round.ops_per_second).collect();
        let ops_per_second = Spread::of(rates).ok_or("at least one round is needed")?;
        Ok(Self { subject, ops_per_second, latency_us, ratio_to: BTreeMap::new(), rounds })
    }
}

impl Table {
    /// Adds the ratios to the rows. The ceiling of a stream is the ceiling's stream.
    pub(super) fn new(load: Load, rows: Vec<Row>) -> Self {
        let mut table = Self { load, rows };
        for place in 0..table.rows.len() {
            let row = &table.rows[place];
            let etcd = if row.subject.target.is_cluster() { Target::EtcdCluster } else { Target::Etcd };
            let ceiling = Subject { target: Target::Ceiling, via: row.subject.via };
            let yardsticks = [
                ("ceiling", ceiling),
                ("etcd", Subject::calls(etcd)),
                ("redis", Subject::calls(Target::Redis)),
            ];
            let others = yardsticks.into_iter().filter(|(_, yardstick)| *yardstick != row.subject);
            let ratio_to = others.filter_map(|(name, yardstick)| {
                let ratio = ratios(&row.rounds, &table.row(yardstick)?.rounds, |round| round.ops_per_second);
                ratio.map(|ratio| (name, ratio))
            });
            table.rows[place].ratio_to = ratio_to.collect();
        }
        table
    }

    /// The row of `subject`.
    pub(super) fn row(&self, subject: Subject) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject == subject)
    }
}

/// The ratio of a figure in each round.
pub(super) fn ratios(ours: &[Round], theirs: &[Round], figure: impl Fn(&Round) -> f64) -> Option<Spread> {
    Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)).collect())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Method { rounds, seconds, key_space, value_bytes, partitions, .. } = self.method;
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "{rounds} interleaved rounds of {seconds} s; {key_space} ids, values of {value_bytes} B, \
             {partitions} partition(s); medians, [ranges]"
        )?;
        for (target, version) in &self.versions {
            writeln!(f, "{target}: {version}")?;
        }
        for table in &self.tables {
            writeln!(f, "\n{}\n{}", table.load, grid(table))?;
        }
        if let Some(footprint) = &self.footprint {
            writeln!(f, "\nFootprint\n{footprint}")?;
        }
        if let Some(rebuild) = &self.rebuild {
            writeln!(f, "\nRebuild\n{rebuild}")?;
        }
        if let Some(failover) = &self.failover {
            writeln!(f, "\nLeader killed\n{failover}")?;
        }
        if let Some(idle) = &self.idle {
            writeln!(f, "\nIdle\n{idle}")?;
        }
        if let Some(catch_up) = &self.catch_up {
            writeln!(f, "\nCatch-up\n{catch_up}")?;
        }
        if let Some(group_commit) = &self.group_commit {
            writeln!(f, "\nGroup commit\n{group_commit}")?;
        }
        if let Some(calls) = &self.calls {
            writeln!(f, "\nCalls\n{calls}")?;
        }
        if let Some(waiting) = &self.waiting {
            writeln!(f, "\nCalls that wait\n{waiting}")?;
        }
        writeln!(f, "\nFloors and goals\n{}", verdicts(&self.goals))
    }
}

fn grid(table: &Table) -> Grid {
    let ratio = |row: &Row, to: &str| {
        row.ratio_to.get(to).map_or_else(String::new, |Spread { median, min, max }| {
            format!("{median:.2} [{min:.2}-{max:.2}]")
        })
    };
    let mut grid =
        empty(&["target", "ops/s", "p50 us", "p99 us", "p99.9 us", "x ceiling", "x etcd", "x redis"]);
    for row in &table.rows {
        let Spread { median, min, max } = row.ops_per_second;
        let Latencies { p50, p99, p99_9 } = row.latency_us;
        grid.add_row([
            row.subject.to_string(),
            format!("{median:.0} [{min:.0}-{max:.0}]"),
            format!("{p50:.0}"),
            format!("{p99:.0}"),
            format!("{p99_9:.0}"),
            ratio(row, "ceiling"),
            ratio(row, "etcd"),
            ratio(row, "redis"),
        ]);
    }
    right_align(&mut grid);
    grid
}

fn verdicts(goals: &[Judgement]) -> Grid {
    let mut grid = empty(&["what", "measured", "floor", "", "goal", ""]);
    for judgement in goals {
        let met = |met: Option<bool>| match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        grid.add_row([
            judgement.what.to_owned(),
            judgement.measured.map_or_else(|| "not measured".to_owned(), |measured| format!("{measured:.2}")),
            judgement.floor.to_string(),
            met(judgement.floor_met).to_owned(),
            judgement.goal.to_string(),
            met(judgement.goal_met).to_owned(),
        ]);
    }
    grid
}
