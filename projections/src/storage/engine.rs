//! The engines by name, and opening what they wrote.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use super::memory::Memory;
use super::rocks::Rocks;
use super::{Error, Reader, Resources, SnapshotCapableStorage, marker, publish};

/// A storage engine: the option `storage` of a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// On disk; memory is bounded by [`Resources`].
    #[default]
    RocksDb,
    /// All rows in memory, written out whole by each flush: for tests and small caches.
    Memory,
}

/// A name that is no engine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown storage {0:?}: expected \"rocksdb\" or \"memory\"")]
pub struct UnknownEngine(pub String);

impl Engine {
    /// Every engine.
    pub const ALL: [Self; 2] = [Self::RocksDb, Self::Memory];

    /// Its name in options and on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RocksDb => "rocksdb",
            Self::Memory => "memory",
        }
    }

    /// Opens the storage in `dir`, or makes an empty one if `dir` is missing or empty. A directory may be open once.
    ///
    /// # Errors
    /// If the directory is not this engine's, is damaged, or cannot be read.
    pub fn open(self, dir: &Path, resources: &Resources) -> Result<Box<dyn SnapshotCapableStorage>, Error> {
        marker::claim(dir, self)?;
        Ok(match self {
            Self::RocksDb => Box::new(Rocks::open(dir, resources)?),
            Self::Memory => Box::new(Memory::open(dir)?),
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|engine| engine.name() == name)
            .ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// Opens a snapshot for reading; nothing in its directory is changed. With RocksDB this costs a few small reads; with
/// the memory engine it reads all rows.
///
/// # Errors
/// If `dir` is not a snapshot, is damaged, or cannot be read.
pub fn open_snapshot(dir: &Path, resources: &Resources) -> Result<Box<dyn Reader>, Error> {
    Ok(match marker::engine_of(dir)? {
        Engine::RocksDb => Box::new(Rocks::open_snapshot(dir, resources)?),
        Engine::Memory => Box::new(Memory::open_snapshot(dir)?),
    })
}

/// Makes `dir`, which must not exist, a view directory with the rows of a snapshot; the snapshot stays as it is.
/// Large files, which no engine ever changes in place, are hard links; so both must be on one file system.
///
/// # Errors
/// [`Error::Exists`] if there is something at `dir`; otherwise if it could not be made.
pub fn restore(snapshot: &Path, dir: &Path) -> Result<(), Error> {
    marker::engine_of(snapshot)?;
    publish::directory(dir, |prepared| {
        fs::create_dir(prepared).map_err(Error::io("create the directory", prepared))?;
        for entry in fs::read_dir(snapshot).map_err(Error::io("list", snapshot))? {
            let from = entry.map_err(Error::io("list", snapshot))?.path();
            let Some(name) = from.file_name() else { continue };
            let to = prepared.join(name);
            let immutable =
                from.extension().is_some_and(|extension| extension == "sst" || extension == "image");
            let copied = if immutable { fs::hard_link(&from, &to) } else { fs::copy(&from, &to).map(|_| ()) };
            copied.map_err(Error::io("copy", &from))?;
        }
        Ok(())
    })
}
