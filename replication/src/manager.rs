//! The partitions of a node, from opening the data directory to closing it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use odgm_log::body::Config;
use odgm_log::store::{self, LogStore, Stats};
use odgm_log::{GroupId, NodeId};
use odgm_projections::storage::{Budget, Resources};
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::catalogue::{Catalogue, DamagedEntry};
use crate::collection::{Collection, LookupError};
use crate::data_dir::{self, DataDir, NodeName};
use crate::limits::Limits;
use crate::local::Workers;
use crate::opening::{self, Opener};
use crate::partition::Partition;
use crate::replica::ReplicaError;
use crate::retention;

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
    /// The worker threads cannot be started.
    #[error("starting the partition workers: {0}")]
    Threads(std::io::Error),
}

/// How many partitions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Catching up with their log.
    pub starting: usize,
    /// In service.
    pub ready: usize,
    /// Out of service.
    pub failed: usize,
}

impl Readiness {
    /// Whether every partition is in service.
    pub fn all_ready(&self) -> bool {
        self.starting == 0 && self.failed == 0
    }
}

/// The catalogue and the partitions of this node.
pub struct Manager {
    pub(crate) limits: Limits,
    pub(crate) opener: Arc<Opener>,
    pub(crate) catalogue: Arc<Partition>,
    pub(crate) collections: RwLock<BTreeMap<String, Arc<Collection>>>,
    /// Held while the catalogue is changed.
    pub(crate) changing: Mutex<()>,
    /// Held while a view is proven: it costs the disk and a core.
    pub(crate) proving: parking_lot::Mutex<()>,
    readiness: watch::Sender<Readiness>,
    opening: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// Partitions that catch up with their logs at once.
const OPENING_AT_ONCE: usize = 2;

impl Manager {
    /// Opens a node's directory. Returns when the catalogue is up; partitions follow in the background
    /// ([`Manager::ready`]).
    ///
    /// # Errors
    /// [`OpenError`]; nothing has been overwritten.
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let limits = options.limits;
        let interval = options.retention_interval;
        let (opener, catalogue) = blocking(move || open_catalogue(options)).await?;
        let manager = Arc::new(Self {
            limits,
            opener,
            catalogue,
            collections: RwLock::default(),
            changing: Mutex::default(),
            proving: parking_lot::Mutex::default(),
            readiness: watch::Sender::new(Readiness::default()),
            opening: Arc::new(Semaphore::new(OPENING_AT_ONCE)),
            stopping: CancellationToken::new(),
        });
        let failures = manager.opener.workers.failures();
        let catalogue = manager.read_catalogue()?;
        manager.finish_removals(&catalogue).await;
        for (name, placed) in &catalogue.collections {
            let collection = Collection::new(placed);
            manager.collections.write().insert(name.clone(), Arc::clone(&collection));
            manager.start(&collection);
        }
        tokio::spawn(Self::watch_failures(Arc::downgrade(&manager), failures));
        tokio::spawn(retention::run(Arc::downgrade(&manager), interval, manager.stopping.clone()));
        Ok(manager)
    }

    /// The node's number.
    pub fn node_id(&self) -> NodeId {
        self.opener.data.node_id()
    }

    /// All collections, by name.
    pub fn collections(&self) -> Vec<Arc<Collection>> {
        self.collections.read().values().map(Arc::clone).collect()
    }

    /// One collection.
    pub fn collection(&self, name: &str) -> Option<Arc<Collection>> {
        self.collections.read().get(name).map(Arc::clone)
    }

    /// A partition that serves.
    ///
    /// # Errors
    /// [`LookupError`], which says why there is none.
    pub fn partition(&self, class: &str, partition: u32) -> Result<Arc<Partition>, LookupError> {
        let collections = self.collections.read();
        let collection =
            collections.get(class).ok_or_else(|| LookupError::NoCollection { name: class.to_owned() })?;
        collection.partition(partition)
    }

    /// The partition of the catalogue.
    pub fn catalogue(&self) -> &Arc<Partition> {
        &self.catalogue
    }

    /// The directory of this node.
    pub fn data_dir(&self) -> &DataDir {
        &self.opener.data
    }

    /// The log store of this node.
    pub fn log(&self) -> &LogStore {
        &self.opener.log
    }

    /// What the log store has done so far.
    pub fn log_stats(&self) -> Stats {
        self.opener.log.stats()
    }

    /// The memory that the views of this node share.
    pub fn resources(&self) -> &Resources {
        &self.opener.resources
    }

    /// How many partitions are in which state, and news of it.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Waits until no partition is starting.
    pub async fn ready(&self) -> Readiness {
        let mut readiness = self.readiness.subscribe();
        // The sender lives as long as self: this cannot fail while we wait.
        readiness.wait_for(|readiness| readiness.starting == 0).await.map(|now| *now).unwrap_or_default()
    }

    /// Set when the disk has failed and the node must stop.
    pub fn failure(&self) -> watch::Receiver<Option<store::SyncError>> {
        self.opener.log.failure()
    }

    /// Stops taking writes, answers those under way, makes the views durable and closes the log.
    pub async fn shutdown(&self) {
        self.stopping.cancel();
        let _unchanging = self.changing.lock().await;
        // Those that are catching up hold their files until they have; those that wait for their turn give up.
        self.ready().await;
        let mut partitions: Vec<_> = self
            .collections()
            .iter()
            .flat_map(|collection| collection.partitions().flatten().collect::<Vec<_>>())
            .collect();
        partitions.push(Arc::clone(&self.catalogue));
        let opener = Arc::clone(&self.opener);
        blocking(move || {
            for partition in partitions {
                partition.close("the node is stopping");
                if let Err(error) = partition.view().flush() {
                    // Nothing is lost: the view is brought up to date from the log at the next start.
                    tracing::warn!(group = %partition.group(), %error, "the view was not flushed");
                }
            }
            opener.workers.stop();
            if let Err(error) = opener.log.close() {
                tracing::error!(%error, "the log was not closed cleanly");
            }
        })
        .await;
    }

    /// Brings the partitions of a collection up in the background.
    pub(crate) fn start(self: &Arc<Self>, collection: &Arc<Collection>) {
        self.recount();
        for (index, group) in collection.groups().enumerate() {
            let manager = Arc::clone(self);
            let collection = Arc::clone(collection);
            tokio::spawn(async move {
                // Never closed: the permit only spaces the work out.
                let _permit = manager.opening.acquire().await;
                if manager.stopping.is_cancelled() {
                    manager.settle(&collection, index, Err(ReplicaError::Stopping));
                    return;
                }
                let opener = Arc::clone(&manager.opener);
                let definition = collection.definition().clone();
                let opened = blocking(move || opening::partition(&opener, &definition, index, group)).await;
                manager.settle(&collection, index, opened);
            });
        }
    }

    /// Notices partitions that fail while they run.
    async fn watch_failures(manager: Weak<Self>, mut failures: watch::Receiver<()>) {
        // Ends with the last partition of the node.
        while failures.changed().await.is_ok() {
            let Some(manager) = manager.upgrade() else { return };
            manager.recount();
        }
    }

    fn settle(&self, collection: &Collection, index: usize, opened: Result<Arc<Partition>, ReplicaError>) {
        let name = &collection.definition().name;
        let opened = opened.map_err(|error| error.to_string());
        if let Err(reason) = &opened
            && !self.stopping.is_cancelled()
        {
            tracing::error!(collection = %name, partition = index, reason, "the partition is out of service");
        }
        collection.settle(index, opened);
        self.recount();
    }

    /// Counts again how many partitions are in which state, and tells of it.
    pub(crate) fn recount(&self) {
        // Counted under the lock of what is told, so that of two counts the newer one stays.
        self.readiness.send_modify(|readiness| {
            *readiness = Readiness::default();
            for collection in self.collections.read().values() {
                let of_one = collection.readiness();
                readiness.starting += of_one.starting;
                readiness.ready += of_one.ready;
                readiness.failed += of_one.failed;
            }
        });
    }

    pub(crate) fn read_catalogue(&self) -> Result<Catalogue, OpenError> {
        let object = self.catalogue.view().object(crate::catalogue::OBJECT)?;
        Ok(Catalogue::read(object.as_ref())?)
    }
}

fn open_catalogue(options: Options) -> Result<(Arc<Opener>, Arc<Partition>), OpenError> {
    let data = DataDir::open(&options.data_dir, options.node.as_ref())?;
    let log = LogStore::open(&data.log(), options.log)?;
    let workers = Workers::start(options.workers).map_err(OpenError::Threads)?;
    let resources = Resources::new(options.views);
    let opener = Opener { data, log, resources, workers, limits: options.limits, rules: options.rules };
    let catalogue = opening::catalogue(&opener, GroupId::CATALOGUE).map_err(OpenError::Catalogue)?;
    Ok((Arc::new(opener), catalogue))
}

/// Runs what may block where blocking is allowed.
#[allow(clippy::expect_used)]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("invariant: blocking work does not panic")
}
