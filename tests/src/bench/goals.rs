//! The floors and goals that the figures are held against. A miss is reported and fails nothing.

use std::fmt;

use serde::Serialize;

use super::calls::{Calls, Work};
use super::catching_up::CatchUp;
use super::failover::Failover;
use super::footprint::Footprint;
use super::group_commit::GroupCommit;
use super::idle::Idle;
use super::load::{Load, Operation, Shape};
use super::rebuild::Rebuild;
use super::report::{Table, ratios};
use super::servers::Target;
use super::targets::{Subject, Via};

/// Where a figure should lie.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

impl Bound {
    fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= bound,
            Self::AtMost(bound) => figure <= bound,
            Self::Below(bound) => figure < bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::Below(bound) => write!(f, "< {bound}"),
        }
    }
}

/// One figure with its floor and goal.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Judgement {
    pub(super) what: &'static str,
    /// None when the targets that it compares were not all measured.
    pub(super) measured: Option<f64>,
    pub(super) floor: Bound,
    pub(super) floor_met: Option<bool>,
    pub(super) goal: Bound,
    pub(super) goal_met: Option<bool>,
}

impl Judgement {
    /// Holds `measured` against its bounds.
    pub(super) fn new(what: &'static str, measured: Option<f64>, floor: Bound, goal: Bound) -> Self {
        let floor_met = measured.map(|figure| floor.holds(figure));
        let goal_met = measured.map(|figure| goal.holds(figure));
        Self { what, measured, floor, floor_met, goal, goal_met }
    }
}

const SPREAD: Shape = Shape { connections: 6, in_flight: 32 };

/// Holds the medians of the tables, and what else was measured, against the floors and goals.
pub(super) fn judge(
    tables: &[Table],
    footprint: Option<&Footprint>,
    rebuild: Option<&Rebuild>,
) -> Vec<Judgement> {
    use Bound::{AtLeast, AtMost, Below};
    use Operation::{GetValue, SetValue};

    let find = |operation, shape| tables.iter().find(|table| table.load == Load { operation, shape });
    let ratio = |operation, subject, to: &str| {
        let row = find(operation, Shape::MANY)?.row(subject)?;
        row.ratio_to.get(to).map(|spread| spread.median)
    };
    let calls = Subject::calls(Target::Odgm);
    let stream = Subject::stream(Target::Odgm);
    let put_latency = || {
        let table = find(SetValue, Shape::ONE)?;
        let (ours, etcd) = (table.row(calls)?, table.row(Subject::calls(Target::Etcd))?);
        ratios(&ours.rounds, &etcd.rounds, |round| round.p50_us).map(|spread| spread.median)
    };
    let judge = Judgement::new;
    let mut judged = clusters(tables);
    judged.extend([
        judge(
            "SetValue 4x32, of the ceiling",
            ratio(SetValue, calls, "ceiling"),
            AtLeast(0.55),
            AtLeast(0.65),
        ),
        judge("SetValue 4x32, of etcd", ratio(SetValue, calls, "etcd"), AtLeast(1.5), AtLeast(2.0)),
        judge("GetValue 4x32, of the ceiling", ratio(GetValue, calls, "ceiling"), AtLeast(0.8), AtLeast(0.9)),
        judge("GetValue 4x32, of etcd", ratio(GetValue, calls, "etcd"), AtLeast(1.25), AtLeast(1.25)),
        judge("SetValue 1x1, p50, of etcd's", put_latency(), AtMost(1.2), Below(1.0)),
        judge(
            "write stream 4x32, of Redis SET 4x32",
            ratio(SetValue, stream, "redis"),
            AtLeast(0.8),
            AtLeast(1.0),
        ),
        judge(
            "rebuild, records/s",
            rebuild.map(|r| r.rebuild_per_second),
            AtLeast(100_000.0),
            AtLeast(500_000.0),
        ),
        judge("rebuild, of the import at 4x32", rebuild.map(|r| r.of_import), AtLeast(3.0), AtLeast(3.0)),
        judge(
            "1,000,000 objects, MiB resident",
            footprint.map(|f| f.peak_resident_mib),
            Below(512.0),
            Below(512.0),
        ),
        judge(
            "bytes written per byte of payload",
            footprint.map(|f| f.written_per_byte),
            Below(8.0),
            Below(4.0),
        ),
    ]);
    judged
}

/// A follower that comes back through a snapshot, against the same files sent by hand.
pub(super) fn catch_up(measured: Option<&CatchUp>) -> Judgement {
    let measured = measured.map(|catch_up| catch_up.of_files.median);
    let (floor, goal) = (Bound::AtLeast(0.6), Bound::AtLeast(0.6));
    Judgement::new("follower through a snapshot, of the files by hand", measured, floor, goal)
}

/// Writes to many groups at once, against one write at a time.
pub(super) fn group_commit(measured: Option<&GroupCommit>) -> Judgement {
    let (floor, goal) = (Bound::Below(1.0), Bound::AtMost(0.25));
    Judgement::new(
        "syncs of a write among 256, of those of one alone",
        measured.and_then(GroupCommit::ratio),
        floor,
        goal,
    )
}

/// Triggers and calls, against a write without, a proxy that keeps nothing, and Restate.
pub(super) fn calls(measured: Option<&Calls>) -> Vec<Judgement> {
    use Bound::{AtLeast, AtMost, Below};

    let judge = Judgement::new;
    let rate = |ours, theirs| measured?.rate_ratio(ours, theirs);
    let entry = measured.and_then(|calls| calls.entry);
    let ms = |us: f64| us / 1_000.0;
    let acknowledged = entry.map(|entry| entry.since_acknowledged_us);
    let with_round_trip = entry.map(|entry| entry.with_round_trip_us);
    let (settled, latency, syncs) = (
        measured.and_then(Calls::settled_per_second),
        measured.and_then(Calls::write_latency_ratio),
        measured.and_then(Calls::syncs_beyond_the_proxy),
    );
    let (p50, p99) = (Below(1.0), Below(5.0));
    vec![
        judge(
            "acknowledgement to function entry, p50, ms",
            acknowledged.map(|least| ms(least.p50)),
            p50,
            p50,
        ),
        judge(
            "acknowledgement to function entry, p99, ms",
            acknowledged.map(|least| ms(least.p99)),
            p99,
            p99,
        ),
        judge("same with a round trip, p50, ms", with_round_trip.map(|most| ms(most.p50)), p50, p50),
        judge("same with a round trip, p99, ms", with_round_trip.map(|most| ms(most.p99)), p99, p99),
        judge("triggers settled a second", settled, AtLeast(5_000.0), AtLeast(8_000.0)),
        judge("write with a trigger 1x1, p50, of one without", latency, AtMost(1.3), AtMost(1.3)),
        judge("InvokeFn 4x32, of the proxy", rate(Work::InvokeFn, Work::Proxy), AtLeast(0.7), AtLeast(0.7)),
        judge("InvokeFn 1x1, p50 beyond the proxy's, in syncs", syncs, AtMost(1.5), AtMost(1.5)),
        judge("InvokeFn 4x32, of Restate", rate(Work::InvokeFn, Work::Restate), AtLeast(2.0), AtLeast(2.0)),
        judge(
            "Invoke 4x32, settled, of Restate",
            rate(Work::Invoke, Work::Restate),
            AtLeast(2.0),
            AtLeast(2.0),
        ),
    ]
}

/// The figures of three nodes, against etcd's three.
fn clusters(tables: &[Table]) -> Vec<Judgement> {
    use Bound::{AtLeast, AtMost, Below};
    use Operation::{GetValue, SetValue};

    let find = |operation, shape| tables.iter().find(|table| table.load == Load { operation, shape });
    let ratio = |operation, subject| {
        let row = find(operation, SPREAD)?.row(subject)?;
        row.ratio_to.get("etcd").map(|spread| spread.median)
    };
    let latency = |operation| {
        let table = find(operation, Shape::ONE)?;
        let ours = table.row(Subject::calls(Target::Cluster))?;
        let etcd = table.row(Subject::calls(Target::EtcdCluster))?;
        ratios(&ours.rounds, &etcd.rounds, |round| round.p50_us).map(|spread| spread.median)
    };
    let one = Subject::calls(Target::Cluster);
    let three = Subject::calls(Target::ClusterOfThree);
    let lease = Subject { target: Target::Cluster, via: Via::Lease };
    let judge = Judgement::new;
    vec![
        judge("three nodes, SetValue 6x32, of etcd", ratio(SetValue, one), AtLeast(1.6), AtLeast(2.5)),
        judge("same with three partitions", ratio(SetValue, three), AtLeast(1.3), AtLeast(2.5)),
        judge("three nodes, GetValue 6x32, of etcd", ratio(GetValue, one), AtLeast(1.5), AtLeast(2.0)),
        judge("same by lease", ratio(GetValue, lease), AtLeast(1.75), AtLeast(2.5)),
        judge("three nodes, SetValue 1x1, p50, of etcd's", latency(SetValue), AtMost(1.0), Below(1.0)),
        judge("three nodes, GetValue 1x1, p50, of etcd's", latency(GetValue), AtMost(1.0), Below(1.0)),
    ]
}

/// What three nodes do when one of them is lost, and when there is nothing to do.
pub(super) fn lasting(failover: Option<&Failover>, idle: Option<&Idle>) -> [Judgement; 4] {
    use Bound::{AtMost, Below};

    let judge = Judgement::new;
    let (zenoh, tcp) = (failover.map(|f| f.zenoh.median), failover.map(|f| f.tcp.median));
    [
        judge("leader killed, s until written again", zenoh, AtMost(2.0), AtMost(2.0)),
        judge("same over TCP", tcp, AtMost(2.0), AtMost(2.0)),
        judge("64 idle groups, % of a core per node", idle.and_then(Idle::percent), Below(5.0), Below(5.0)),
        // Pages that were never touched before; a leak of a word for each heartbeat is more.
        judge("64 idle groups, MiB grown", idle.and_then(Idle::growth_mib), Below(2.0), Below(1.0)),
    ]
}
