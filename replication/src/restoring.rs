//! Collections that begin with the data of a backup.
//!
//! All of it is put in place on one node first, under groups that belong to no collection yet; the one record that makes the
//! collection comes last. So a crash before leaves data of groups without a collection, which the next start removes, and
//! one after has lost nothing. Where a partition has several replicas, its log goes on with a membership: the nodes that it
//! is on now. The others are empty and get everything from the first, as a member does that was away for long.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body::Membership;
use odgm_log::store::{AppendError, ChangeError, SyncError};
use odgm_log::{Body, Cause, GroupId, NodeId, Offset, Payload, Record, Term, Timestamp};
use odgm_projections::storage;
use odgm_projections::{OpenError as ViewError, View, ViewOptions, rebind};

use crate::administration::{CatalogueError, stands};
use crate::bundle::{Begin, BundleError, Part, Reader};
use crate::collection::{Collection, LookupError};
use crate::definition::{Definition, Replication};
use crate::manager::{Manager, blocking};
use crate::opening::Opener;
use crate::pieces::Arriving;
use crate::reading::{Consistency, ReadError};
use crate::{raft, reconcile};

/// Payload bytes that are appended before their sync is waited for.
const APPEND_BYTES: usize = 16 << 20;

/// How long a restored partition may take until a majority of its replicas has it, before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Why a collection was not restored. Unless it says otherwise, there is nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The catalogue does not take it.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The backup is damaged, or cannot be read.
    #[error("partition {partition}: {source}")]
    Bundle {
        /// The partition that was read.
        partition: usize,
        /// What is wrong.
        source: BundleError,
    },
    /// There are more or fewer partitions than the collection has.
    #[error("the backup has {found} partitions, and the collection {expected}")]
    Partitions {
        /// How many the definition says.
        expected: u32,
        /// How many came.
        found: usize,
    },
    /// What is in the backup does not belong together.
    #[error("partition {partition}: its snapshot {what} is {found}, and the backup says {expected}")]
    OtherState {
        /// The partition.
        partition: usize,
        /// What differs.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// What others know of its calls must not be taken for what it does from now on.
    #[error(
        "partition {partition} has named calls by its group {group}, so what is restored has to have another one: restore it \
         without asking for its groups"
    )]
    SameGroup {
        /// The partition.
        partition: usize,
        /// The group that it had.
        group: GroupId,
    },
    /// A log with terms goes on under terms.
    #[error(
        "partition {partition} was replicated by raft, and the collection is not to be: restore it with the type raft, \
         which on a node alone has one replica"
    )]
    NeedsRaft {
        /// The partition.
        partition: usize,
    },
    /// This node keeps no partitions.
    #[error("this node keeps no partitions: restore through one of {0}")]
    NotHere(String),
    /// The log cannot be written.
    #[error("the log: {0}")]
    Log(String),
    /// The view cannot be made.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The snapshot cannot be made.
    #[error(transparent)]
    Snapshot(#[from] odgm_projections::Error),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The log does not take a record.
    #[error(transparent)]
    Payload(#[from] odgm_log::PayloadError),
}

impl RestoreError {
    /// Whether the collection may have been created in spite of the error.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Catalogue(CatalogueError::Propose(error)) if !error.not_applied())
    }
}

impl From<AppendError> for RestoreError {
    fn from(error: AppendError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<ChangeError> for RestoreError {
    fn from(error: ChangeError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<storage::Error> for RestoreError {
    fn from(error: storage::Error) -> Self {
        Self::View(error.into())
    }
}

/// A collection that was restored.
pub struct Restored {
    /// It.
    pub collection: Arc<Collection>,
    /// Whether its partitions have the groups that they had: cursors that subscribers were given hold.
    pub same_groups: bool,
}

impl Manager {
    /// Creates a collection whose partitions begin with what the bundles say that follow each other in `input`, and waits
    /// until a majority of the replicas of each has it. `wanted` are the groups that the partitions had; they get them
    /// again if nobody has had them here. Of partitions that have named calls by their groups none may be wanted.
    ///
    /// # Errors
    /// [`RestoreError`]; then there is no such collection, unless it [is unknown](RestoreError::is_unknown).
    pub fn restore(
        self: &Arc<Self>,
        definition: Definition,
        wanted: Vec<GroupId>,
        input: impl Read + Send + 'static,
    ) -> BoxFuture<'static, Result<Restored, RestoreError>> {
        // Ends with its own task: a client that goes away must not leave half of it.
        let manager = Arc::clone(self);
        let restored =
            tokio::spawn(async move { manager.restore_here(definition, wanted, input).await }.boxed());
        async move { restored.await.unwrap_or_else(|error| Err(stands(&error).into())) }.boxed()
    }

    async fn restore_here(
        self: Arc<Self>,
        definition: Definition,
        wanted: Vec<GroupId>,
        input: impl Read + Send + 'static,
    ) -> Result<Restored, RestoreError> {
        let replicas = self.replicas_from_here(definition.replicas)?;
        let groups = self.reserve_groups(&definition, &wanted).await?;
        let installed = {
            let (opener, definition) = (Arc::clone(&self.opener), definition.clone());
            let (groups, replicas) = (groups.clone(), replicas.clone());
            blocking(move || install_all(&opener, &definition, &groups, &replicas, input)).await
        };
        let created = match installed {
            Ok(()) => self.create_restored(&definition, &groups, &replicas).await.map_err(RestoreError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = created {
            // Where the collection may have been created all the same, its data stay until the next start at least.
            if !error.is_unknown() {
                self.restoring.lock().retain(|group| !groups.contains(group));
                self.discard(groups).await;
            }
            return Err(error);
        }
        self.restoring.lock().retain(|group| !groups.contains(group));
        self.settled().await;
        let collection = self.collection(&definition.name);
        let collection = collection.ok_or_else(|| stands(&"the collection was deleted again"))?;
        self.spread(&collection).await?;
        Ok(Restored { collection, same_groups: groups == wanted })
    }

    /// The nodes of a partition that begins on this one, which is the first.
    fn replicas_from_here(&self, replicas: usize) -> Result<Vec<NodeId>, RestoreError> {
        let catalogue = self.read_catalogue().map_err(CatalogueError::from)?;
        let mut nodes = self.places(&catalogue);
        let Some(here) = nodes.iter().position(|node| *node == self.node_id()) else {
            let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
            return Err(RestoreError::NotHere(nodes.join(", ")));
        };
        nodes.rotate_left(here);
        nodes.truncate(replicas.max(1));
        Ok(nodes)
    }

    /// Returns when a majority of each partition's replicas has its data, or the partition or the node is closed.
    async fn spread(&self, collection: &Collection) -> Result<(), RestoreError> {
        for partition in collection.partitions() {
            let partition = match partition {
                Ok(partition) => partition,
                Err(error @ LookupError::Failed { .. }) => return Err(stands(&error).into()),
                Err(_) => continue,
            };
            while !self.is_stopping() {
                match partition.confirm(Consistency::Linearizable).await {
                    Ok(()) | Err(ReadError::Closed) => break,
                    Err(_) => tokio::time::sleep(ASK_AGAIN).await,
                }
            }
        }
        Ok(())
    }

    /// Removes the data of groups that did not become those of a collection. What fails is tried again at the next change of
    /// the catalogue.
    async fn discard(&self, groups: Vec<GroupId>) {
        let opener = Arc::clone(&self.opener);
        blocking(move || {
            for group in groups {
                if let Err(error) = reconcile::remove(&opener, group) {
                    tracing::warn!(%group, error, "data that were to be restored were not removed");
                }
            }
        })
        .await;
    }
}

/// Groups whose data are being put in place: no collection has them yet, and they stay all the same.
pub(crate) type Restoring = BTreeSet<GroupId>;

/// Puts the data of all partitions in place.
fn install_all(
    opener: &Opener,
    definition: &Definition,
    groups: &[GroupId],
    replicas: &[NodeId],
    input: impl Read,
) -> Result<(), RestoreError> {
    let mut reader = Reader::new(input);
    for (partition, group) in groups.iter().enumerate() {
        let read = |source| RestoreError::Bundle { partition, source };
        let Some(begin) = reader.begin().map_err(read)? else {
            return Err(RestoreError::Partitions { expected: definition.partitions, found: partition });
        };
        let install = Install { opener, definition, replicas, partition, group: *group, begin };
        install.run(&mut reader)?;
        fail::fail_point!("restore-after-partition");
    }
    let after = |source| RestoreError::Bundle { partition: groups.len(), source };
    match reader.begin().map_err(after)? {
        None => Ok(()),
        Some(_) => Err(RestoreError::Partitions { expected: definition.partitions, found: groups.len() + 1 }),
    }
}

/// One partition that is put in place.
struct Install<'a> {
    opener: &'a Opener,
    definition: &'a Definition,
    replicas: &'a [NodeId],
    partition: usize,
    group: GroupId,
    begin: Begin,
}

impl Install<'_> {
    fn run(&self, reader: &mut Reader<impl Read>) -> Result<(), RestoreError> {
        let scratch = self.opener.data.scratch_folder(&format!("restore-{}", self.group))?;
        let Begin { first, before, offset, term, .. } = self.begin;
        if self.definition.replication == Replication::Local && term > Term(0) {
            return Err(RestoreError::NeedsRaft { partition: self.partition });
        }
        if self.begin.names_calls && self.begin.group == self.group {
            return Err(RestoreError::SameGroup { partition: self.partition, group: self.group });
        }
        if first > Offset(1) {
            self.opener.log.restart_after(self.group, first.previous(), before)?;
        }
        let mut arriving: Option<(Offset, Arriving)> = None;
        let mut gathered = 0;
        while let Some(part) = reader.next().map_err(|source| self.damaged(source))? {
            match part {
                Part::Records(records) => {
                    gathered += records.iter().map(Record::weight).sum::<usize>();
                    let wait = gathered > APPEND_BYTES;
                    self.append(&records, wait)?;
                    gathered = if wait { 0 } else { gathered };
                }
                Part::Snapshot(at, files) => {
                    if let Some((at, mut files)) = arriving.take() {
                        self.base(at, files.finish()?)?;
                    }
                    arriving = Some((at, Arriving::begin(&scratch.path().join(at.to_string()), files)?));
                }
                Part::Piece(piece) => {
                    if let Some((_, arriving)) = &mut arriving {
                        arriving.take(&piece)?;
                    }
                }
            }
        }
        self.append(&[], true)?;
        if let Some((at, mut files)) = arriving.take() {
            debug_assert_eq!(at, offset, "the reader has seen that it is the last");
            self.head(&files.finish()?)?;
        }
        Ok(())
    }

    /// Appends records; with `wait` they and all before them are durable on return.
    fn append(&self, records: &[Record], wait: bool) -> Result<(), RestoreError> {
        let (done, synced) = crossbeam_channel::bounded::<Result<(), SyncError>>(1);
        let told = move |outcome| drop(done.send(outcome));
        self.opener.log.append(self.group, records, Box::new(told))?;
        if wait {
            let stopped = |_| RestoreError::Log("the node is stopping".to_owned());
            synced.recv().map_err(stopped)?.map_err(|error| RestoreError::Log(error.to_string()))?;
        }
        Ok(())
    }

    /// The snapshot before the first record becomes one of the partition.
    fn base(&self, at: Offset, files: PathBuf) -> Result<(), RestoreError> {
        let options = self.options(files);
        let header = rebind(&options, None)?;
        self.expect("offset", &header.applied, &at)?;
        self.expect("chain", &header.chain, &self.begin.before)?;
        View::open(&options)?.snapshot()?;
        Ok(())
    }

    /// The state becomes the view of the partition.
    fn head(&self, files: &Path) -> Result<(), RestoreError> {
        let Begin { offset, term, chain, state, first, .. } = self.begin;
        // Without records nothing is known of how it came about.
        let floor = (first > offset).then_some(first);
        let header = rebind(&self.options(files.to_path_buf()), floor)?;
        self.expect("offset", &header.applied, &offset)?;
        self.expect("term", &header.term, &term)?;
        self.expect("chain", &header.chain, &chain)?;
        self.expect("state", &header.state, &state)?;
        let is_replicated = self.definition.replication == Replication::Raft;
        let mut dir = self.opener.data.view(self.group);
        if is_replicated {
            dir = dir.join(offset.to_string());
        }
        storage::restore(files, &dir)?;
        let view = View::open(&self.options(dir))?;
        if is_replicated || floor.is_some() {
            // The others begin with it; and without records it is what the view is made from again.
            view.snapshot()?;
        }
        if is_replicated {
            self.go_on()?;
        }
        Ok(())
    }

    /// The log goes on with the nodes that the partition is on now.
    fn go_on(&self) -> Result<(), RestoreError> {
        let Begin { offset, term, .. } = self.begin;
        let nodes = {
            let mut nodes = self.replicas.to_vec();
            nodes.sort_unstable();
            nodes
        };
        let body = Body::Membership(Membership { voters: vec![nodes.clone()], nodes });
        let (kind, payload) = Payload { cause: Cause::default(), body }.encode()?;
        let (stamp, origin) = (Timestamp(0), NodeId(0));
        let record = Record { offset: offset.next(), term, stamp, origin, kind, payload };
        self.append(&[record], true)?;
        let (log, node) = (&self.opener.log, self.opener.data.node_id());
        Ok(raft::restored(log, self.group, node, term, offset)?)
    }

    fn options(&self, dir: PathBuf) -> ViewOptions {
        ViewOptions {
            group: self.group,
            engine: self.definition.options.storage,
            dir,
            snapshots: self.opener.data.snapshots(self.group),
            resources: self.opener.resources.clone(),
        }
    }

    fn expect<T: PartialEq + ToString>(
        &self,
        what: &'static str,
        found: &T,
        expected: &T,
    ) -> Result<(), RestoreError> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.to_string(), expected.to_string());
        Err(RestoreError::OtherState { partition: self.partition, what, found, expected })
    }

    fn damaged(&self, source: BundleError) -> RestoreError {
        RestoreError::Bundle { partition: self.partition, source }
    }
}
