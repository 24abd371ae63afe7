//! The comparison: every load on every target, in rounds.

use std::sync::Arc;

use super::calls::{Calls, Waiting};
use super::catching_up::CatchUp;
use super::failover::Failover;
use super::footprint::Footprint;
use super::goals;
use super::group_commit::GroupCommit;
use super::idle::Idle;
use super::load::{Load, Operation, Samples, Timing};
use super::machine::{self, Machine};
use super::options::{Options, Part};
use super::rebuild::Rebuild;
use super::report::{Method, Report, Row, Table};
use super::servers::{Server, Target};
use super::targets::{self, Subject};
use super::workload::{KEY_SPACE, VALUE_BYTES, Workload};
use crate::Result;

/// Measures all parts that are asked for.
pub(super) async fn run(options: &Options) -> Result<Report> {
    machine::require_disk(&options.dir)?;
    let asked = |part| options.parts.contains(&part);
    let has_node = options.targets.contains(&Target::Odgm);
    let (mut versions, mut tables) = (Vec::new(), Vec::new());
    let parts = [
        (Part::Loads, &Target::SINGLE[..], Load::all().collect::<Vec<_>>()),
        (Part::Clusters, &Target::CLUSTERS[..], Load::of_clusters().collect()),
    ];
    for (part, targets, of_part) in parts {
        let targets: Vec<_> =
            targets.iter().filter(|target| options.targets.contains(target)).copied().collect();
        if asked(part) && !targets.is_empty() {
            let (found, measured) = loads(options, &targets, of_part).await?;
            versions.extend(found);
            tables.extend(measured);
        }
    }
    let footprint = part(asked(Part::Footprint) && has_node, Footprint::measure(options)).await?;
    let rebuild = match asked(Part::Rebuild) && has_node {
        true if options.flights.exists() => Some(Rebuild::measure(&options.flights, options).await?),
        true => {
            eprintln!("no rebuild: there is no {}; name the file with --flights", options.flights.display());
            None
        }
        false => None,
    };
    let has_cluster = options.targets.contains(&Target::Cluster);
    let failover = part(asked(Part::Failover) && has_cluster, Failover::measure(options)).await?;
    let idle = part(asked(Part::Idle) && has_cluster, Idle::measure(options)).await?;
    let catch_up = part(asked(Part::CatchUp) && has_cluster, CatchUp::measure(options)).await?;
    let group_commit = part(asked(Part::GroupCommit) && has_cluster, GroupCommit::measure(options)).await?;
    let calls = part(asked(Part::Calls) && has_node, Calls::measure(options)).await?;
    let calls = calls.map(|(found, calls)| {
        let new = found.into_iter().filter(|(target, _)| !versions.iter().any(|(known, _)| known == target));
        versions.extend(new.collect::<Vec<_>>());
        calls
    });
    let waiting = part(asked(Part::Waiting) && has_node, Waiting::measure(options)).await?;
    let mut goals = goals::judge(&tables, footprint.as_ref(), rebuild.as_ref());
    goals.push(goals::catch_up(catch_up.as_ref()));
    goals.push(goals::group_commit(group_commit.as_ref()));
    goals.extend(goals::calls(calls.as_ref()));
    goals.extend(goals::lasting(failover.as_ref(), idle.as_ref()));
    Ok(Report {
        machine: Machine::this(),
        method: Method {
            rounds: options.rounds,
            seconds: options.seconds,
            warm_up_seconds: options.warm_up,
            key_space: KEY_SPACE,
            value_bytes: VALUE_BYTES,
            partitions: options.partitions,
        },
        versions,
        tables,
        footprint,
        rebuild,
        failover,
        idle,
        catch_up,
        group_commit,
        calls,
        waiting,
        goals,
    })
}

/// Measures a part if it is wanted.
async fn part<T>(is_wanted: bool, measuring: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    if is_wanted { measuring.await.map(Some) } else { Ok(None) }
}

/// Starts the servers, visits them, and stops them.
async fn loads(
    options: &Options,
    targets: &[Target],
    loads: Vec<Load>,
) -> Result<(Vec<(Target, String)>, Vec<Table>)> {
    let workload = Arc::new(Workload::new(KEY_SPACE));
    let servers = start(options, targets, &workload).await?;
    let mut tables = Vec::new();
    let mut written = workload.ids().len() as u64;
    for load in loads.into_iter().filter(|load| load.to_string().contains(&options.load)) {
        let subjects = Subject::all(targets, load.operation);
        let rounds = rounds(&servers, &subjects, load, &workload, options).await?;
        written += acknowledged_by_the_node(load, &subjects, &rounds);
        tables.push(table(load, &subjects, &rounds)?);
    }
    if let Some(node) = servers.iter().find(|server| server.target == Target::Odgm) {
        let kept = targets::data_service::durable_records(node.address()).await?;
        if kept < written {
            return Err(format!("{written} writes were acknowledged, but only {kept} are durable").into());
        }
    }
    let versions = servers.iter().map(|server| (server.target, server.version.clone())).collect();
    Ok((versions, tables))
}

async fn start(options: &Options, targets: &[Target], workload: &Workload) -> Result<Vec<Server>> {
    let mut servers = Vec::with_capacity(targets.len());
    for &target in targets {
        let server = Server::start(target, options).await?;
        targets::fill(&server, workload).await?;
        eprintln!(
            "{target} (process {}) holds {KEY_SPACE} values in {}",
            server.id(),
            server.dir().display()
        );
        servers.push(server);
    }
    Ok(servers)
}

/// Samples of each round, in the order of `subjects`.
async fn rounds(
    servers: &[Server],
    subjects: &[Subject],
    load: Load,
    workload: &Arc<Workload>,
    options: &Options,
) -> Result<Vec<Vec<Samples>>> {
    let timing = Timing::of(options)?;
    let mut rounds = Vec::with_capacity(options.rounds);
    for round in 0..options.rounds {
        let mut visits: Vec<_> = subjects.iter().enumerate().collect();
        // There and back, so that nobody always has the same neighbour before it.
        if round % 2 == 1 {
            visits.reverse();
        }
        let mut samples = Vec::with_capacity(visits.len());
        for (place, subject) in visits {
            let server = servers.iter().find(|server| server.target == subject.target);
            let server = server.ok_or("invariant: every subject's server has been started")?;
            let visit = targets::visit(server, subject.via, load, workload, timing).await;
            let visit = visit.map_err(|error| format!("{load} on {subject}: {error}"))?;
            eprintln!("{load}, round {}: {subject} {:.0} ops/s", round + 1, visit.rate());
            samples.push((place, visit));
        }
        samples.sort_by_key(|(place, _)| *place);
        rounds.push(samples.into_iter().map(|(_, samples)| samples).collect());
    }
    Ok(rounds)
}

fn acknowledged_by_the_node(load: Load, subjects: &[Subject], rounds: &[Vec<Samples>]) -> u64 {
    if load.operation != Operation::SetValue {
        return 0;
    }
    let visits = rounds.iter().flat_map(|round| subjects.iter().zip(round));
    visits.filter(|(subject, _)| subject.target == Target::Odgm).map(|(_, samples)| samples.answered).sum()
}

fn table(load: Load, subjects: &[Subject], rounds: &[Vec<Samples>]) -> Result<Table> {
    let mut rows = Vec::with_capacity(subjects.len());
    for (place, &subject) in subjects.iter().enumerate() {
        let own: Vec<&Samples> = rounds.iter().filter_map(|round| round.get(place)).collect();
        rows.push(Row::of(subject, &own)?);
    }
    Ok(Table::new(load, rows))
}
