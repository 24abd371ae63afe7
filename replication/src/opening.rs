//! Bringing a partition up: view, catching up, first records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_log::body::{Config, Semantics};
use odgm_log::store::LogStore;
use odgm_log::{Body, Cause, GroupId, NodeId, Offset, Payload};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{SEMANTICS, View, ViewOptions};

use crate::catalogue::Placement;
use crate::data_dir::DataDir;
use crate::definition::{Definition, Replication};
use crate::limits::Limits;
use crate::local::{Local, Workers};
use crate::manager::blocking;
use crate::neighbours::Neighbours;
use crate::partition::Partition;
use crate::proposal::Gate;
use crate::raft::{Group, Groups, Member, Place, Timing, Transfers};
use crate::reading::Consistency;
use crate::replica::{Replica, ReplicaError};
use crate::transport::Transport;

/// What every partition of a node is brought up with.
pub(crate) struct Opener {
    pub(crate) data: DataDir,
    pub(crate) log: LogStore,
    pub(crate) resources: Resources,
    pub(crate) workers: Arc<Workers>,
    pub(crate) limits: Limits,
    pub(crate) rules: Config,
    /// The members of Raft groups on this node.
    pub(crate) groups: Arc<Groups>,
    pub(crate) transport: Arc<dyn Transport>,
    /// What is known of the other nodes.
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) timing: Timing,
    /// Whether what another node has to do is passed on to it.
    pub(crate) forward: bool,
    /// What the members of groups on this node send and fetch beside entries.
    pub(crate) transfers: Arc<Transfers>,
}

impl Opener {
    /// Ends a partition; other nodes are told that it is not here before it stops. Blocks.
    pub(crate) fn close(&self, partition: &Partition, reason: &str) {
        self.groups.remove(partition.group());
        partition.close(reason);
    }

    /// Ends partitions whose data are to be removed, and waits until nobody holds their files any more. Blocks.
    pub(crate) fn give_up(&self, partitions: Vec<Arc<Partition>>, reason: &str) {
        let close = |partition: Arc<Partition>| {
            self.close(&partition, reason);
            partition.view()
        };
        let views: Vec<_> = partitions.into_iter().map(close).collect();
        let since = Instant::now();
        while views.iter().any(View::is_shared) {
            if since.elapsed() > RELEASE_PATIENCE {
                tracing::warn!("files of partitions that are not here any more are still read");
                return;
            }
            std::thread::sleep(RELEASE_LOOK);
        }
    }
}

/// What is to be brought up.
#[derive(Clone)]
pub(crate) struct Blueprint {
    pub(crate) class: String,
    pub(crate) index: u32,
    pub(crate) group: GroupId,
    pub(crate) engine: Engine,
    pub(crate) rules: Config,
    /// How fresh a read is that does not say so itself.
    pub(crate) consistency: Consistency,
    /// The replicas that the group begins with, the one that is to lead first; none for a single replica.
    pub(crate) founders: Option<Founders>,
}

/// Who makes a new group of replicas.
#[derive(Clone)]
pub(crate) struct Founders {
    pub(crate) nodes: Vec<NodeId>,
    /// Whether nobody but the first does.
    pub(crate) first_only: bool,
    /// Whether the group goes on from a backup that only the first has.
    pub(crate) restored: bool,
}

/// The class under which the catalogue's own partition is known.
pub const CATALOGUE_CLASS: &str = "_catalogue";

/// How long the node that is to lead may take to make a new group before others do.
const FOUNDING_PATIENCE: Duration = Duration::from_secs(2);

/// How long the files of a partition that has ended may be in use, by a dump perhaps, before they are removed all the same.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is looked whether they are.
const RELEASE_LOOK: Duration = Duration::from_millis(5);

/// How often it is looked whether the founders of a cluster agree.
const AGREE_EVERY: Duration = Duration::from_millis(50);

impl Blueprint {
    /// The catalogue's partition.
    pub(crate) fn catalogue(rules: Config, founders: Option<Founders>) -> Self {
        Self {
            class: CATALOGUE_CLASS.to_owned(),
            index: 0,
            group: GroupId::CATALOGUE,
            engine: Engine::RocksDb,
            rules,
            consistency: Consistency::Linearizable,
            founders,
        }
    }

    /// One partition of a collection.
    pub(crate) fn partition(
        definition: &Definition,
        index: usize,
        placed: &Placement,
        restored: bool,
        rules: &Config,
    ) -> Self {
        let founders = match definition.replication {
            Replication::Local => None,
            Replication::Raft => {
                // Only the first has the backup.
                let first_only = restored || definition.options.raft_init_leader_only;
                Some(Founders { nodes: placed.founders.clone(), first_only, restored })
            }
        };
        Self {
            class: definition.name.clone(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            group: placed.group,
            engine: definition.options.storage,
            rules: Config {
                set_mode: definition.options.set_mode,
                ..definition.options.calls.rules.over(rules)
            },
            consistency: definition.options.consistency,
            founders,
        }
    }
}

/// Brings a partition up.
pub(crate) async fn open(opener: &Arc<Opener>, blueprint: Blueprint) -> Result<Arc<Partition>, ReplicaError> {
    match blueprint.founders.clone() {
        Some(founders) => open_group(opener, &blueprint, founders).await,
        None => {
            let opener = Arc::clone(opener);
            blocking(move || {
                if blueprint.group != GroupId::CATALOGUE {
                    fail::fail_point!("partition-before-open");
                }
                open_local(&opener, &blueprint)
            })
            .await
        }
    }
}

/// Brings the member of a group up; the group need not have a leader for that, nor exist yet.
async fn open_group(
    opener: &Opener,
    blueprint: &Blueprint,
    founders: Founders,
) -> Result<Arc<Partition>, ReplicaError> {
    let Blueprint { group: id, engine, rules, .. } = blueprint.clone();
    let node = opener.data.node_id();
    let founds = founders.nodes.contains(&node);
    let gate = Gate::new(opener.limits);
    let member = Member {
        restored: founders.restored && founds,
        name: format!("{}/{}", blueprint.class, blueprint.index),
        group: id,
        node,
        store: opener.log.clone(),
        place: Place {
            engine,
            views: opener.data.view(id),
            snapshots: opener.data.snapshots(id),
            resources: opener.resources.clone(),
        },
        transport: Arc::clone(&opener.transport),
        neighbours: Arc::clone(&opener.neighbours),
        timing: opener.timing,
        gate: Arc::clone(&gate),
        rules,
        // What is asked of the catalogue the node asks itself: it could neither join nor create anything without.
        forward: opener.forward || id == GroupId::CATALOGUE,
        failures: opener.workers.failed(),
        transfers: Arc::clone(&opener.transfers),
        founds,
    };
    let group = Group::start(member).await.map_err(|source| ReplicaError::Raft { group: id, source })?;
    opener.groups.add(Arc::clone(&group));
    // Whoever does not found a cluster waits to be let in, and says so itself.
    let neighbours = (id == GroupId::CATALOGUE && founds).then(|| Arc::clone(&opener.neighbours));
    let founding = Arc::clone(&group);
    group.keep(tokio::spawn(async move {
        if let Some(neighbours) = neighbours {
            agree(&founding, &neighbours).await;
        }
        found(founding, node, founders).await;
    }));
    Ok(Partition::new(blueprint, opener.log.clone(), gate, Box::new(group)))
}

/// Waits until all founders of a cluster are there and mean the same one, or there is a cluster already.
async fn agree(group: &Group, neighbours: &Neighbours) {
    let (mut told, mut reason, mut since) = (String::new(), String::new(), Instant::now());
    while !matches!(group.is_initialized().await, Ok(true)) {
        let Err(found) = neighbours.agree_to_found() else { return };
        if found != reason {
            (reason, since) = (found, Instant::now());
        } else if since.elapsed() > FOUNDING_PATIENCE && told != reason {
            tracing::warn!(reason, "this node is part of no cluster yet");
            told.clone_from(&reason);
        }
        tokio::time::sleep(AGREE_EVERY).await;
    }
}

/// Makes the group, if nobody has. The first founder does so at once, and then leads.
async fn found(group: Arc<Group>, node: NodeId, founders: Founders) {
    let Founders { nodes, first_only, .. } = founders;
    let is_first = nodes.first() == Some(&node);
    if !nodes.contains(&node) || (first_only && !is_first) {
        return;
    }
    if !is_first {
        tokio::time::sleep(FOUNDING_PATIENCE).await;
    }
    match group.initialize(&nodes).await {
        Ok(()) if nodes.len() == 1 => group.campaign().await,
        Ok(()) => {}
        Err(error) => tracing::warn!(group = %group.id(), error, "the group of replicas could not be made"),
    }
}

fn open_local(opener: &Opener, blueprint: &Blueprint) -> Result<Arc<Partition>, ReplicaError> {
    let Blueprint { class, index, group, engine, rules, .. } = blueprint.clone();
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
    let replicator = Local::new(&opener.workers, replica, opener.limits);
    let gate = Gate::new(opener.limits);
    let partition = Partition::new(blueprint, opener.log.clone(), gate, Box::new(replicator));
    begin(&partition, applied, rules);
    Ok(partition)
}

/// The first two records of every log: the rules it begins with. A crash may have left only the first. A log that was begun
/// under older rules goes on under the newest, and is told what the older ones did not ask for: those last, so that both are
/// written again where a crash left only one.
fn begin(partition: &Partition, applied: Offset, rules: Config) {
    let newest = Body::Semantics(Semantics { version: SEMANTICS });
    let missing = match applied {
        Offset::ZERO => vec![newest, Body::Config(rules)],
        Offset(1) => vec![Body::Config(rules)],
        _ if partition.view().header().semantics < SEMANTICS => {
            vec![Body::Config(partition.view().header().config.with_calls_of(&rules)), newest]
        }
        _ => Vec::new(),
    };
    let (sender, receiver) = crossbeam_channel::bounded(missing.len());
    for body in missing {
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
