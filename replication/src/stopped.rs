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
use crate::opening::CATALOGUE_CLASS;
use crate::replica::{ReplicaError, catch_up};

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
    /// The group of each partition.
    pub groups: Vec<GroupId>,
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

    /// The group and engine of one partition.
    ///
    /// # Errors
    /// [`StoppedError::NoPartition`], which lists what there is.
    pub fn partition(&self, class: &str, partition: u32) -> Result<(GroupId, Engine), StoppedError> {
        self.collections
            .get(class)
            .and_then(|stored| Some((*stored.groups.get(partition as usize)?, stored.engine)))
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
        let (group, engine) = self.partition(class, partition)?;
        let (old, new) = (self.data.view(group), self.data.scratch(group));
        remove(&new)?;
        let replaced = self.build(group, engine, &new, progress).and_then(|header| {
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
        group: GroupId,
        engine: Engine,
        dir: &Path,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Header, StoppedError> {
        let view = self.open_view(group, engine, dir.to_owned())?;
        catch_up(group, &self.log, &view, progress)?;
        view.flush()?;
        Ok(view.header())
    }

    /// The view of a partition, up to date with its log.
    ///
    /// # Errors
    /// [`StoppedError`].
    pub fn view(
        &self,
        class: &str,
        partition: u32,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<View, StoppedError> {
        let (group, engine) = self.partition(class, partition)?;
        let view = self.open_view(group, engine, self.data.view(group))?;
        catch_up(group, &self.log, &view, progress)?;
        Ok(view)
    }

    fn open_view(&self, group: GroupId, engine: Engine, dir: PathBuf) -> Result<View, StoppedError> {
        let options = ViewOptions {
            group,
            engine,
            dir,
            snapshots: self.data.snapshots(group),
            resources: self.resources.clone(),
        };
        Ok(View::open(&options).map_err(ReplicaError::View)?)
    }

    fn read_catalogue(&self) -> Result<BTreeMap<String, Stored>, StoppedError> {
        let dir = self.data.view(GroupId::CATALOGUE);
        let view = self.open_view(GroupId::CATALOGUE, Engine::RocksDb, dir)?;
        catch_up(GroupId::CATALOGUE, &self.log, &view, &mut |_, _| {})?;
        let catalogue = Catalogue::read(view.object(OBJECT)?.as_ref())?;
        let itself = Stored { engine: Engine::RocksDb, groups: vec![GroupId::CATALOGUE] };
        let collections = catalogue.collections.into_iter().map(|(name, placed)| {
            (name, Stored { engine: placed.definition.options.storage, groups: placed.groups })
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
