//! Opening a node's directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body::Config;
use odgm_log::store::{self, LogStore};
use odgm_log::{GroupId, NodeId, Offset};
use odgm_projections::storage::{Budget, Resources};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Manager, OPENING_AT_ONCE, Readiness, blocking};
use crate::catalogue::DamagedEntry;
use crate::cluster::ClusterOptions;
use crate::data_dir::{self, DataDir, NodeName};
use crate::limits::Limits;
use crate::local::Workers;
use crate::neighbours::{Introduction, Neighbours};
use crate::nodes::{Nodes, incarnation};
use crate::opening::{self, Blueprint, Founders, Opener};
use crate::raft::{Groups, Timing};
use crate::replica::ReplicaError;
use crate::retention;
use crate::sessions::{Opened, Sessions, ZenohOptions};
use crate::transport::{Alone, Links, Transport};

/// How a node keeps its partitions.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's directory.
    pub data_dir: PathBuf,
    /// Who the node is; without a name the directory keeps its own, or gets a random one.
    pub node: Option<NodeName>,
    /// The log store's settings.
    pub log: store::Options,
    /// Memory of all views together.
    pub views: Budget,
    /// What a partition takes in.
    pub limits: Limits,
    /// The rules that new partitions begin with; `set_mode` comes from each collection.
    pub rules: Config,
    /// Workers that serve the partitions, each with a thread that appends and one that applies.
    pub workers: usize,
    /// How often retention is looked after.
    pub retention_interval: Duration,
    /// Where clients reach this node, as host:port.
    pub address: Option<String>,
    /// How it is part of a cluster, if it is.
    pub cluster: Option<ClusterOptions>,
    /// How it speaks Zenoh, if it does; a node of a cluster always does.
    pub zenoh: Option<ZenohOptions>,
}

impl Options {
    /// The defaults, in that directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            node: None,
            log: store::Options::default(),
            views: Budget::default(),
            limits: Limits::default(),
            rules: Config::default(),
            workers: std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4),
            retention_interval: Duration::from_secs(10),
            address: None,
            cluster: None,
            zenoh: None,
        }
    }
}

/// Why a node's partitions cannot be opened. Nothing has been overwritten.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// The log store refuses.
    #[error(transparent)]
    Log(#[from] store::OpenError),
    /// The catalogue's partition cannot be brought up.
    #[error("the catalogue of collections: {0}")]
    Catalogue(ReplicaError),
    /// The catalogue's view cannot be read.
    #[error("the catalogue of collections: {0}")]
    View(#[from] odgm_projections::Error),
    /// The catalogue cannot be understood.
    #[error(transparent)]
    Entry(#[from] DamagedEntry),
    /// The way to the other nodes cannot be opened.
    #[error("the way to the other nodes: {0}")]
    Links(String),
    /// What the node was told of its cluster does not fit the directory.
    #[error("{0}")]
    Membership(String),
    /// The worker threads cannot be started.
    #[error("starting the partition workers: {0}")]
    Threads(std::io::Error),
}

impl Manager {
    /// Opens a node's directory. Returns when the catalogue is up; partitions follow in the background
    /// ([`Manager::ready`]).
    ///
    /// # Errors
    /// [`OpenError`]; nothing has been overwritten.
    // Boxed, as is all that callers await: else each of them has the compiler look through all of Raft and Zenoh.
    pub fn open(options: Options) -> BoxFuture<'static, Result<Arc<Self>, OpenError>> {
        Self::open_all(options).boxed()
    }

    async fn open_all(options: Options) -> Result<Arc<Self>, OpenError> {
        let (limits, interval) = (options.limits, options.retention_interval);
        let (address, cluster) = (options.address.clone(), options.cluster.clone());
        let (data, log, workers) = blocking({
            let options = options.clone();
            move || open_store(&options)
        })
        .await?;
        let members = cluster.as_ref().map(|cluster| members(cluster, &data, &log)).transpose()?;
        let nodes = Arc::new(Nodes::default());
        let groups = Arc::new(Groups::default());
        let neighbours = neighbours(cluster.as_ref(), &data, &nodes, &log)?;
        groups.introduce(&neighbours);
        let (sessions, links) = open_links(&options, &data, &nodes, &groups).await?;
        let transport: Arc<dyn Transport> = match &links {
            Some(links) => links.transport(),
            None => Arc::new(Alone),
        };
        let opener = Arc::new(Opener {
            data,
            log,
            resources: Resources::new(options.views),
            workers,
            limits,
            rules: options.rules.clone(),
            groups,
            transport,
            neighbours,
            timing: cluster.as_ref().map_or_else(Timing::default, |cluster| cluster.timing),
            forward: cluster.as_ref().is_some_and(|cluster| cluster.forward),
            transfers: Arc::default(),
        });
        let founders = members.clone().map(|nodes| Founders { nodes, first_only: false, restored: false });
        let blueprint = Blueprint::catalogue(opener.rules.clone(), founders);
        let catalogue = opening::open(&opener, blueprint).await.map_err(OpenError::Catalogue)?;
        let failures = opener.workers.failures();
        let is_alone = members.is_none();
        let manager = Arc::new(Self {
            limits,
            opener,
            catalogue,
            collections: RwLock::default(),
            changing: Mutex::default(),
            restoring: parking_lot::Mutex::default(),
            reconciling: Mutex::default(),
            proving: parking_lot::Mutex::default(),
            nodes,
            address,
            members,
            outside: RwLock::default(),
            sessions: sessions.map(|sessions| Box::new(sessions) as Box<dyn Opened>),
            links,
            readiness: watch::Sender::new(Readiness::default()),
            knows_catalogue: AtomicBool::new(is_alone),
            has_joined: AtomicBool::new(is_alone),
            opening: Arc::new(Semaphore::new(OPENING_AT_ONCE)),
            stopping: CancellationToken::new(),
        });
        manager.meet_neighbours()?;
        // Until it has joined its cluster it is not ready, with or without partitions.
        manager.recount();
        manager.reconcile().await?;
        tokio::spawn(Self::watch_failures(Arc::downgrade(&manager), failures));
        tokio::spawn(Self::follow_catalogue(Arc::downgrade(&manager), manager.stopping.clone()));
        if manager.members.is_some() {
            manager.run_errands();
            tokio::spawn(Self::keep_steering(Arc::downgrade(&manager), manager.stopping.clone()));
        }
        tokio::spawn(retention::run(Arc::downgrade(&manager), interval, manager.stopping.clone()));
        Ok(manager)
    }

    /// Checks that the members are those that the directory knows, and begins to look after them.
    fn meet_neighbours(self: &Arc<Self>) -> Result<(), OpenError> {
        if self.members.is_some() {
            self.check_members()?;
            tokio::spawn(Self::watch_neighbours(Arc::downgrade(self), self.stopping.clone()));
        }
        Ok(())
    }
}

fn open_store(options: &Options) -> Result<(DataDir, LogStore, Arc<Workers>), OpenError> {
    let data = DataDir::open(&options.data_dir, options.node.as_ref())?;
    let log = LogStore::open(&data.log(), options.log.clone())?;
    let workers = Workers::start(options.workers).map_err(OpenError::Threads)?;
    Ok((data, log, workers))
}

/// What this node is to know of the others.
fn neighbours(
    cluster: Option<&ClusterOptions>,
    data: &DataDir,
    nodes: &Arc<Nodes>,
    log: &LogStore,
) -> Result<Arc<Neighbours>, OpenError> {
    let node = data.node_id();
    let Some(cluster) = cluster else { return Ok(Arc::new(Neighbours::none(node))) };
    let process = getrandom::u64().map_err(|error| OpenError::DataDir(data_dir::Error::Random(error)))?;
    let me = Introduction {
        node,
        incarnation: incarnation(&data.identity().incarnation),
        process,
        founders: cluster.members.iter().map(NodeName::node_id).collect(),
        drift: cluster.clock_drift,
    };
    Ok(Arc::new(Neighbours::new(me, Arc::clone(nodes), log.clone())))
}

/// Opens the way to others: Zenoh where it is asked for, and what nodes say to each other in a cluster.
async fn open_links(
    options: &Options,
    data: &DataDir,
    nodes: &Arc<Nodes>,
    groups: &Arc<Groups>,
) -> Result<(Option<Sessions>, Option<Links>), OpenError> {
    let zenoh = options.zenoh.clone().or_else(|| options.cluster.is_some().then(ZenohOptions::default));
    let Some(zenoh) = zenoh else { return Ok((None, None)) };
    let failed = |error: &dyn std::fmt::Display| OpenError::Links(error.to_string());
    let sessions = Sessions::open(&zenoh).await.map_err(|error| failed(&error))?;
    let Some(cluster) = &options.cluster else { return Ok((Some(sessions), None)) };
    let service = Arc::clone(groups) as Arc<_>;
    let links = Links::open(cluster, &sessions, options.address.as_deref(), data, nodes, service).await;
    Ok((Some(sessions), Some(links.map_err(|error| failed(&error))?)))
}

/// The members that a cluster begins with, after checking that the directory can be one of theirs.
fn members(cluster: &ClusterOptions, data: &DataDir, log: &LogStore) -> Result<Vec<NodeId>, OpenError> {
    let members: Vec<NodeId> = cluster.members.iter().map(NodeName::node_id).collect();
    let is_alone = log.bounds(GroupId::CATALOGUE).last > Offset::ZERO
        && log
            .get_meta(GroupId::CATALOGUE, crate::raft::VOTE)
            .map_err(ReplicaError::Log)
            .map_err(OpenError::Catalogue)?
            .is_none();
    if is_alone {
        return Err(OpenError::Membership(format!(
            "the data directory {} is of a node that was never part of a cluster, and ODGM_MEMBERS names {} nodes: start \
             it without ODGM_MEMBERS, or begin the cluster on empty directories and import what this one exports",
            data.root().display(),
            members.len()
        )));
    }
    Ok(members)
}
