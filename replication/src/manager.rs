//! The partitions of a node, until it is closed.

mod starting;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::store::{self, LogStore, Stats};
use odgm_log::{GroupId, NodeId};
use odgm_projections::storage::Resources;
use parking_lot::RwLock;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub use self::starting::{OpenError, Options};

use crate::administration::CatalogueError;
use crate::catalogue::Catalogue;
use crate::collection::{Collection, LookupError};
use crate::data_dir::DataDir;
use crate::definition::Definition;
use crate::limits::Limits;
use crate::nodes::Nodes;
use crate::opening::{self, Blueprint, Opener};
use crate::partition::Partition;
use crate::raft::Members;
use crate::reading::{Consistency, ReadError};
use crate::replica::ReplicaError;
use crate::restoring::Restoring;
use crate::sessions::{Opened, Sessions};
use crate::transport::Links;

/// How many partitions are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Catching up with their log; and one more until the node knows the cluster's catalogue.
    pub starting: usize,
    /// Being opened: of those that are starting.
    pub opening: usize,
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
    /// What is being restored.
    pub(crate) restoring: parking_lot::Mutex<Restoring>,
    /// Held while what runs here is made to match the catalogue.
    pub(crate) reconciling: Mutex<()>,
    /// Held while a view is proven: it costs the disk and a core.
    pub(crate) proving: parking_lot::Mutex<()>,
    pub(crate) nodes: Arc<Nodes>,
    /// Where clients reach this node.
    pub(crate) address: Option<String>,
    /// The nodes of a cluster as they were told; none on a node alone.
    members: Option<Vec<NodeId>>,
    /// Why this node is not of the cluster, if it was told so.
    outside: RwLock<Option<String>>,
    sessions: Option<Box<dyn Opened>>,
    pub(crate) links: Option<Links>,
    readiness: watch::Sender<Readiness>,
    /// Whether the node knows the catalogue as it is, and is known in it.
    knows_catalogue: AtomicBool,
    /// Whether what runs here was made to match since then: what is not here is not in the cluster.
    has_joined: AtomicBool,
    opening: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// Partitions that catch up with their logs at once.
const OPENING_AT_ONCE: usize = 2;

impl Manager {
    /// Creates the collections that have never been proposed this way. In a cluster this goes on in the background,
    /// until there is a leader and it has been done.
    ///
    /// # Errors
    /// [`CatalogueError`] of the first that could not be created, on a node alone.
    pub fn bootstrap(
        self: &Arc<Self>,
        definitions: Vec<Definition>,
    ) -> BoxFuture<'_, Result<(), CatalogueError>> {
        async move {
            if self.members.is_none() {
                return self.create_missing(&definitions).await;
            }
            tokio::spawn(Arc::clone(self).join(definitions, self.stopping.clone()));
            Ok(())
        }
        .boxed()
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
        collections.get(class).ok_or_else(|| self.missing(class))?.partition(partition)
    }

    /// Why there is no collection of a name here.
    pub fn missing(&self, name: &str) -> LookupError {
        let name = name.to_owned();
        if let Some(reason) = self.outside() {
            LookupError::Outside { reason }
        } else if self.has_joined() {
            LookupError::NoCollection { name }
        } else {
            LookupError::Joining { name }
        }
    }

    /// The nodes that have a partition, if this one has not or has not all of it yet; none too for what there is not at all.
    pub fn elsewhere(&self, class: &str, partition: u32) -> Option<Vec<NodeId>> {
        self.collections.read().get(class)?.elsewhere(partition, self.node_id())
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

    /// The node's Zenoh sessions, if it speaks Zenoh.
    pub fn sessions(&self) -> Option<&Sessions> {
        self.sessions.as_deref().map(Opened::get)
    }

    /// Whether what another node has to do is passed on to it.
    pub fn forwards(&self) -> bool {
        self.opener.forward
    }

    /// How many partitions are in which state, and news of it.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// Waits until no partition is starting, and the node knows its cluster.
    pub async fn ready(&self) -> Readiness {
        self.when(|readiness| readiness.starting == 0).await
    }

    async fn when(&self, reached: impl FnMut(&Readiness) -> bool) -> Readiness {
        let mut readiness = self.readiness.subscribe();
        // The sender lives as long as self: this cannot fail while we wait.
        readiness.wait_for(reached).await.map(|now| *now).unwrap_or_default()
    }

    /// Waits until no partition of this node is being opened.
    pub(crate) async fn settled(&self) {
        self.when(|readiness| readiness.opening == 0).await;
    }

    /// Set when the disk has failed and the node must stop.
    pub fn failure(&self) -> watch::Receiver<Option<store::SyncError>> {
        self.opener.log.failure()
    }

    /// Whether the node is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Stops taking writes, answers those under way, makes the views durable and closes the log.
    pub fn shutdown(&self) -> BoxFuture<'_, ()> {
        self.close().boxed()
    }

    async fn close(&self) {
        self.stopping.cancel();
        let _unchanging = self.changing.lock().await;
        let _steady = self.reconciling.lock().await;
        // Those that are catching up hold their files until they have; those that wait for their turn give up.
        self.settled().await;
        let mut partitions: Vec<_> = self
            .collections()
            .iter()
            .flat_map(|collection| collection.partitions().flatten().collect::<Vec<_>>())
            .collect();
        partitions.push(Arc::clone(&self.catalogue));
        let opener = Arc::clone(&self.opener);
        blocking(move || {
            for partition in partitions {
                opener.close(&partition, "the node is stopping");
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
        if let Some(links) = &self.links {
            links.close();
        }
        if let Some(sessions) = &self.sessions {
            sessions.get().close().await;
        }
    }

    /// Brings partitions of a collection up in the background.
    pub(crate) fn start(self: &Arc<Self>, collection: &Arc<Collection>, partitions: Vec<usize>) {
        self.recount();
        let restored = collection.is_restored();
        for index in partitions {
            let Some(placed) = collection.placement(index) else { continue };
            let definition = collection.definition();
            let blueprint = Blueprint::partition(definition, index, placed, restored, &self.opener.rules);
            let manager = Arc::clone(self);
            let collection = Arc::clone(collection);
            tokio::spawn(async move {
                // Never closed: the permit only spaces the work out.
                let _permit = manager.opening.acquire().await;
                if manager.stopping.is_cancelled() {
                    manager.settle(&collection, index, Err(ReplicaError::Stopping));
                    return;
                }
                let opened = opening::open(&manager.opener, blueprint).await;
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
                readiness.opening += of_one.opening;
                readiness.ready += of_one.ready;
                readiness.failed += of_one.failed;
            }
            let joining = usize::from(!self.has_joined() || self.outside.read().is_some());
            readiness.starting = readiness.opening + joining;
        });
    }

    /// The node knows the catalogue as it is, and is known in it.
    pub(crate) async fn joined(self: &Arc<Self>) {
        self.knows_catalogue.store(true, Ordering::Release);
        if let Err(error) = self.reconcile().await {
            tracing::error!(%error, "the catalogue of collections cannot be followed");
        }
        self.recount();
    }

    pub(crate) fn knows_catalogue(&self) -> bool {
        self.knows_catalogue.load(Ordering::Acquire)
    }

    /// What runs here matches the catalogue as it is.
    pub(crate) fn has_followed_catalogue(&self) {
        self.has_joined.store(true, Ordering::Release);
    }

    pub(crate) fn has_joined(&self) -> bool {
        self.has_joined.load(Ordering::Acquire)
    }

    /// The nodes that found the cluster, as this one was told; none on a node alone.
    pub(crate) fn founders(&self) -> &[NodeId] {
        self.members.as_deref().unwrap_or_default()
    }

    /// Whether this node is one of those that found the cluster.
    pub(crate) fn founds(&self) -> bool {
        self.founders().contains(&self.node_id())
    }

    /// Why this node is not of the cluster, or not any more, and what to do; none if it is, or has not been told.
    pub fn outside(&self) -> Option<String> {
        self.outside.read().clone()
    }

    pub(crate) fn set_outside(&self, reason: Option<String>) {
        *self.outside.write() = reason;
        self.recount();
    }

    /// Returns when the catalogue here holds all that was written before.
    pub(crate) async fn confirm_catalogue(&self) -> Result<(), ReadError> {
        self.catalogue.confirm(Consistency::Linearizable).await
    }

    /// What the catalogue says of a collection, as far as this node has the catalogue; what runs here follows it a moment later. None
    /// if it names no such collection.
    ///
    /// # Errors
    /// [`OpenError`], if the catalogue cannot be read.
    pub fn definition(&self, name: &str) -> Result<Option<Definition>, OpenError> {
        Ok(self.read_catalogue()?.collections.remove(name).map(|placed| placed.definition))
    }

    pub(crate) fn read_catalogue(&self) -> Result<Catalogue, OpenError> {
        let object = self.catalogue.view().object(crate::catalogue::OBJECT)?;
        Ok(Catalogue::read(object.as_ref())?)
    }

    /// Who is in the catalogue's group, as far as this node has heard; none on a node alone.
    pub(crate) fn council(&self) -> Option<Members> {
        self.opener.groups.get(GroupId::CATALOGUE).map(|group| group.standing().members)
    }

    /// The nodes on which new partitions are placed: those that follow the catalogue and stay.
    pub(crate) fn places(&self, catalogue: &Catalogue) -> Vec<NodeId> {
        let Some(members) = self.council() else { return vec![self.node_id()] };
        let stays = |node: &NodeId| catalogue.nodes.get(node).is_none_or(|entry| entry.state.is_member());
        members.all().into_iter().filter(stays).collect()
    }
}

/// Runs what may block where blocking is allowed.
#[allow(clippy::expect_used)]
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(test)]
    if crate::raft::is_simulated() {
        // Another thread would finish when it likes.
        return work();
    }
    tokio::task::spawn_blocking(work).await.expect("invariant: blocking work does not panic")
}
