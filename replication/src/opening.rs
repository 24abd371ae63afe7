//! Bringing a partition up: view, catching up, first records.

use std::sync::Arc;

use odgm_log::body::{Config, Semantics};
use odgm_log::store::LogStore;
use odgm_log::{Body, Cause, GroupId, Offset, Payload};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{SEMANTICS, View, ViewOptions};

use crate::data_dir::DataDir;
use crate::definition::Definition;
use crate::limits::Limits;
use crate::local::Workers;
use crate::partition::Partition;
use crate::replica::{Replica, ReplicaError};

/// What every partition of a node is brought up with.
pub(crate) struct Opener {
    pub(crate) data: DataDir,
    pub(crate) log: LogStore,
    pub(crate) resources: Resources,
    pub(crate) workers: Arc<Workers>,
    pub(crate) limits: Limits,
    pub(crate) rules: Config,
}

/// The class under which the catalogue's own partition is known.
pub const CATALOGUE_CLASS: &str = "_catalogue";

/// Brings the catalogue's partition up.
pub(crate) fn catalogue(opener: &Opener, group: GroupId) -> Result<Arc<Partition>, ReplicaError> {
    open(opener, CATALOGUE_CLASS, 0, group, Engine::RocksDb, opener.rules.clone())
}

/// Brings one partition of a collection up.
pub(crate) fn partition(
    opener: &Opener,
    definition: &Definition,
    index: usize,
    group: GroupId,
) -> Result<Arc<Partition>, ReplicaError> {
    fail::fail_point!("partition-before-open");
    let rules = Config { set_mode: definition.options.set_mode, ..opener.rules.clone() };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    open(opener, &definition.name, index, group, definition.options.storage, rules)
}

fn open(
    opener: &Opener,
    class: &str,
    index: u32,
    group: GroupId,
    engine: Engine,
    rules: Config,
) -> Result<Arc<Partition>, ReplicaError> {
    let view = View::open(&ViewOptions {
        group,
        engine,
        dir: opener.data.view(group),
        snapshots: opener.data.snapshots(group),
        resources: opener.resources.clone(),
    })?;
    let from = view.header().applied;
    let mut reported = from;
    let replica =
        Replica::open(group, opener.data.node_id(), opener.log.clone(), view, &mut |applied, last| {
            // One line for a hundred thousand records: enough to see that a long start moves.
            if applied.0 - reported.0 >= 100_000 {
                tracing::info!(class, partition = index, %group, %applied, %last, "catching up with the log");
                reported = applied;
            }
        })?;
    let applied = replica.view.header().applied;
    tracing::debug!(class, partition = index, %group, %from, %applied, "the view is up to date");
    let partition = Partition::new(class, index, replica, &opener.workers, opener.limits);
    begin(&partition, applied, rules);
    Ok(partition)
}

/// The first two records of every log: the rules it begins with. A crash may have left only the first.
fn begin(partition: &Partition, applied: Offset, rules: Config) {
    let first = [Body::Semantics(Semantics { version: SEMANTICS }), Body::Config(rules)];
    let (sender, receiver) = crossbeam_channel::bounded(first.len());
    for body in first.into_iter().skip(usize::try_from(applied.0).unwrap_or(usize::MAX)) {
        let sender = sender.clone();
        let answered = move |answer| drop(sender.send(answer));
        partition.submit(Payload { cause: Cause::default(), body }, answered);
    }
    drop(sender);
    for answer in receiver {
        if let Err(error) = answer {
            // The partition then refuses writes by itself and says why.
            tracing::error!(group = %partition.group(), %error, "the first records could not be written");
        }
    }
}
