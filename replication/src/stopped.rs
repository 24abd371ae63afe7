//! The data directory of a node that is not running, for looking at its logs and views.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use odgm_log::store::{self, LogStore};
use odgm_log::{GroupId, Offset};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Header, View, ViewOptions};

use crate::catalogue::{Catalogue, DamagedEntry, OBJECT};
use crate::data_dir::{self, DataDir, Identity};
use crate::definition::Replication;
use crate::opening::CATALOGUE_CLASS;
use crate::replica::{ReplicaError, catch_up_to};

/// A data directory that no node is running on. Logs are only read; views may be rebuilt from them.
pub struct StoppedNode {
    data: DataDir,
    log: LogStore,
    resources: Resources,
    collections: BTreeMap<String, Stored>,
}

/// A collection of a stopped node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The engine of its views.
    pub engine: Engine,
    /// Whether its partitions have several replicas.
    pub replicated: bool,
    /// The group of each partition.
    pub groups: Vec<GroupId>,
}

/// One partition of a stopped node.
#[derive(Clone, Copy)]
struct Place {
    group: GroupId,
    engine: Engine,
    replicated: bool,
}

/// Why a stopped node's directory cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// It cannot be opened, or a node is running on it.
    #[error(transparent)]
    DataDir(#[from] data_dir::Error),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] store::OpenError),
    /// A view cannot be brought up.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// A view cannot be read.
    #[error(transparent)]
    View(#[from] odgm_projections::Error),
    /// The catalogue cannot be understood.
    #[error(transparent)]
    Entry(#[from] DamagedEntry),
    /// A file cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// There is no such partition.
    #[error("there is no partition {class}/{partition} here; there are: {known}")]
    NoPartition {
        /// The class asked for.
        class: String,
        /// The partition asked for.
        partition: u32,
        /// What there is.
        known: String,
    },
}

impl StoppedNode {
    /// Opens a directory, unless a node is running on it.
    ///
    /// # Errors
    /// [`StoppedError`]; nothing has been changed.
    pub fn open(root: &Path) -> Result<Self, StoppedError> {
        let data = DataDir::open_existing(root)?;
        let log = LogStore::open_read_only(&data.log())?;
        let resources = Resources::default();
        let mut node = Self { data, log, resources, collections: BTreeMap::new() };
        node.collections = node.read_catalogue()?;
        Ok(node)
    }

    /// Whose directory it is.
    pub fn identity(&self) -> &Identity {
        self.data.identity()
    }

    /// Its logs, for reading.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// Its collections, with the catalogue itself.
    pub fn collections(&self) -> &BTreeMap<String, Stored> {
        &self.collections
    }

    /// The group of one partition.
    ///
    /// # Errors
    /// [`StoppedError::NoPartition`], which lists what there is.
    pub fn group(&self, class: &str, partition: u32) -> Result<GroupId, StoppedError> {
        self.place(class, partition).map(|place| place.group)
    }

    fn place(&self, class: &str, partition: u32) -> Result<Place, StoppedError> {
        self.collections
            .get(class)
            .and_then(|stored| {
                let group = *stored.groups.get(partition as usize)?;
                Some(Place { group, engine: stored.engine, replicated: stored.replicated })
            })
            .ok_or_else(|| StoppedError::NoPartition {
                class: class.to_owned(),
                partition,
                known: self.known(),
            })
    }

    /// Makes the view of a partition again from the log (from the newest snapshot, if there is one), and then throws
    /// the old one away. `progress` hears of the applied and the last offset.
    ///
    /// # Errors
    /// [`StoppedError`]; the log is never changed, so it can be tried again. The old view is still there unless the
    /// new one was complete.
    pub fn rebuild_view(
        &self,
        class: &str,
        partition: u32,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Header, StoppedError> {
        let place = self.place(class, partition)?;
        let end = self.end(place)?;
        let (old, new) = (self.dir(place)?, self.data.scratch(place.group));
        remove(&new)?;
        let replaced = self.build(place, &new, end, progress).and_then(|header| {
            remove(&old)?;
            rename(&new, &old)?;
            Ok(header)
        });
        if replaced.is_err()
            && let Err(error) = remove(&new)
        {
            tracing::warn!(%error, "an unfinished view was not removed");
        }
        replaced
    }

    /// Builds a view in an empty place and closes it.
    fn build(
        &self,
        place: Place,
        dir: &Path,
        end: Offset,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Header, StoppedError> {
        let view = self.open_view(place, dir.to_owned())?;
        catch_up_to(place.group, &self.log, &view, end, progress)?;
        view.flush()?;
        Ok(view.header())
    }

    /// The view of a partition, up to date with its log. Of several replicas it is made anew: the log may end with
    /// records that were never committed.
    ///
    /// # Errors
    /// [`StoppedError`].
    pub fn view(
        &self,
        class: &str,
        partition: u32,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<View, StoppedError> {
        self.view_of(self.place(class, partition)?, progress)
    }

    fn view_of(&self, place: Place, progress: &mut dyn FnMut(Offset, Offset)) -> Result<View, StoppedError> {
        // Of several replicas the last records may not be committed: they must not get into the view that is kept.
        let dir = if place.replicated { self.data.scratch(place.group) } else { self.data.view(place.group) };
        if place.replicated {
            remove(&dir)?;
        }
        let view = self.open_view(place, dir)?;
        let end = self.log.bounds(place.group).durable;
        catch_up_to(place.group, &self.log, &view, end, progress)?;
        Ok(view)
    }

    /// Where the view of a partition is. One with several replicas has a directory for each snapshot that it began at;
    /// the newest is the one in use.
    fn dir(&self, place: Place) -> Result<PathBuf, StoppedError> {
        let dir = self.data.view(place.group);
        if !place.replicated {
            return Ok(dir);
        }
        let failed = |source| StoppedError::Io { path: dir.display().to_string(), source };
        let started = crate::raft::newest_view(&dir).map_err(failed)?.unwrap_or(Offset::ZERO);
        Ok(dir.join(started.to_string()))
    }

    /// The last record of the log that is known to be committed: what the kept view has, where there are several replicas.
    fn end(&self, place: Place) -> Result<Offset, StoppedError> {
        if place.replicated {
            return Ok(self.open_view(place, self.dir(place)?)?.header().applied);
        }
        Ok(self.log.bounds(place.group).durable)
    }

    fn open_view(&self, place: Place, dir: PathBuf) -> Result<View, StoppedError> {
        let options = ViewOptions {
            group: place.group,
            engine: place.engine,
            dir,
            snapshots: self.data.snapshots(place.group),
            resources: self.resources.clone(),
        };
        Ok(View::open(&options).map_err(ReplicaError::View)?)
    }

    fn read_catalogue(&self) -> Result<BTreeMap<String, Stored>, StoppedError> {
        let vote = self.log.get_meta(GroupId::CATALOGUE, crate::raft::VOTE).map_err(ReplicaError::Log)?;
        let replicated = vote.is_some();
        let place = Place { group: GroupId::CATALOGUE, engine: Engine::RocksDb, replicated };
        let view = self.view_of(place, &mut |_, _| {})?;
        let catalogue = Catalogue::read(view.object(OBJECT)?.as_ref())?;
        let itself = Stored { engine: Engine::RocksDb, replicated, groups: vec![GroupId::CATALOGUE] };
        let collections = catalogue.collections.into_iter().map(|(name, placed)| {
            let replicated = placed.definition.replication == Replication::Raft;
            let groups = placed.partitions.iter().map(|placed| placed.group).collect();
            (name, Stored { engine: placed.definition.options.storage, replicated, groups })
        });
        Ok(collections.chain([(CATALOGUE_CLASS.to_owned(), itself)]).collect())
    }

    fn known(&self) -> String {
        let known = self.collections.iter().map(|(name, stored)| match stored.groups.len() {
            1 => format!("{name}/0"),
            count => format!("{name}/0 to {name}/{}", count - 1),
        });
        known.collect::<Vec<_>>().join(", ")
    }
}

fn remove(folder: &Path) -> Result<(), StoppedError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoppedError::Io { path: folder.display().to_string(), source })
        }
        _ => Ok(()),
    }
}

/// Renames a folder so that a crash does not undo it.
fn rename(from: &Path, to: &Path) -> Result<(), StoppedError> {
    let failed = |source| StoppedError::Io { path: to.display().to_string(), source };
    std::fs::rename(from, to).map_err(failed)?;
    match to.parent() {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed),
        None => Ok(()),
    }
}
