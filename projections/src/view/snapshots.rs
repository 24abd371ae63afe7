//! Snapshots: a view as it was at an offset, kept beside it in a directory named by the offset.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odgm_log::Offset;
use parking_lot::Mutex;

use super::{View, ViewOptions, header_of};
use crate::error::{Error, OpenError};
use crate::header::Header;
use crate::keys::{Key, Table};
use crate::limits::OPEN_SNAPSHOTS;
use crate::object::Members;
use crate::rows::damaged;
use crate::storage::{self, Reader, Resources};

/// The snapshots of one view.
pub(super) struct Snapshots {
    dir: PathBuf,
    resources: Resources,
    kept: Mutex<Vec<Offset>>,
    /// Those that were read last.
    open: Mutex<VecDeque<(Offset, Arc<dyn Reader>)>>,
}

impl View {
    /// Takes a snapshot of the view as it is now, unless there is one, and answers its offset. Applying waits
    /// meanwhile, reading does not.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn snapshot(&self) -> Result<Offset, Error> {
        let core = self.inner.core.lock();
        let offset = core.header().applied;
        let snapshots = &self.inner.snapshots;
        if offset > Offset::ZERO && !snapshots.list().contains(&offset) {
            self.inner.storage.snapshot(&snapshots.path(offset))?;
            fail::fail_point!("view-after-snapshot");
            snapshots.add(offset);
        }
        Ok(offset)
    }

    /// Makes the directory `into`, which must not exist and is on the same file system, a snapshot of the view as it is
    /// now that is not among its own, and answers what the view says of itself there.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn snapshot_to(&self, into: &Path) -> Result<Header, Error> {
        let core = self.inner.core.lock();
        self.inner.storage.snapshot(into)?;
        Ok(core.header().clone())
    }

    /// The offsets of all snapshots, in order.
    pub fn snapshots(&self) -> Vec<Offset> {
        self.inner.snapshots.list()
    }

    /// Where the files of a snapshot are. They do not change as long as it is kept.
    pub fn snapshot_dir(&self, offset: Offset) -> PathBuf {
        self.inner.snapshots.path(offset)
    }

    /// What the view said of itself and of its members at a snapshot of its own.
    ///
    /// # Errors
    /// If it cannot be read, or there is none at that offset.
    pub fn snapshot_state(&self, offset: Offset) -> Result<(Header, Option<Members>), Error> {
        state_of(&*self.inner.snapshots.reader(offset)?)
    }

    /// As [`Self::snapshot_state`], of a snapshot that is elsewhere.
    ///
    /// # Errors
    /// If the files are not those of a snapshot, or cannot be read.
    pub fn state_of_files(&self, files: &Path) -> Result<(Header, Option<Members>), Error> {
        state_of(&*storage::open_snapshot(files, &self.inner.snapshots.resources)?)
    }

    /// Takes a snapshot from elsewhere among its own, unless it has one of that offset; large files become hard links.
    ///
    /// # Errors
    /// If it could not be written.
    pub fn adopt_snapshot(&self, files: &Path, offset: Offset) -> Result<(), Error> {
        let snapshots = &self.inner.snapshots;
        if !snapshots.list().contains(&offset) {
            storage::restore(files, &snapshots.path(offset))?;
            snapshots.add(offset);
        }
        Ok(())
    }

    /// Removes the snapshots below an offset. One that is being read is still read to its end.
    ///
    /// # Errors
    /// If a directory could not be removed; the others below it are gone then.
    pub fn drop_snapshots_below(&self, below: Offset) -> Result<(), Error> {
        self.inner.snapshots.drop_below(below)
    }
}

fn state_of(rows: &dyn Reader) -> Result<(Header, Option<Members>), Error> {
    let header = header_of(rows)?.ok_or(damaged(Table::Header, "it is missing"))?;
    let members = rows.get(&Key::Members.to_vec())?.map(|row| Members::read(&row)).transpose()?;
    Ok((header, members))
}

impl Snapshots {
    /// Finds the snapshots in the directory of `options`.
    pub(super) fn open(options: &ViewOptions) -> Result<Self, OpenError> {
        let dir = options.snapshots.clone();
        let io = |source| OpenError::Io { path: dir.clone(), source };
        fs::create_dir_all(&dir).map_err(io)?;
        let mut kept = Vec::new();
        for entry in fs::read_dir(&dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            // Other names are those of snapshots that a crash left unfinished.
            if let Some(offset) = name.to_str().and_then(|name| name.parse().ok()) {
                kept.push(Offset(offset));
            }
        }
        kept.sort_unstable();
        let resources = options.resources.clone();
        Ok(Self { dir, resources, kept: Mutex::new(kept), open: Mutex::default() })
    }

    pub(super) fn list(&self) -> Vec<Offset> {
        self.kept.lock().clone()
    }

    /// The newest snapshot at or before `offset`.
    pub(super) fn at_or_before(&self, offset: Offset) -> Option<Offset> {
        self.kept.lock().iter().copied().rfind(|kept| *kept <= offset)
    }

    /// The oldest snapshot.
    pub(super) fn oldest(&self) -> Option<Offset> {
        self.kept.lock().first().copied()
    }

    pub(super) fn path(&self, offset: Offset) -> PathBuf {
        self.dir.join(offset.to_string())
    }

    /// Makes `dir`, a view to which nothing was applied, a view that begins at a snapshot.
    pub(super) fn restore(&self, offset: Offset, dir: &Path) -> Result<(), OpenError> {
        fs::remove_dir_all(dir).map_err(|source| OpenError::Io { path: dir.to_path_buf(), source })?;
        Ok(storage::restore(&self.path(offset), dir)?)
    }

    /// The rows of a snapshot.
    pub(super) fn reader(&self, offset: Offset) -> Result<Arc<dyn Reader>, Error> {
        let mut open = self.open.lock();
        if let Some((_, reader)) = open.iter().find(|(opened, _)| *opened == offset) {
            return Ok(reader.clone());
        }
        let reader: Arc<dyn Reader> = storage::open_snapshot(&self.path(offset), &self.resources)?.into();
        if open.len() == OPEN_SNAPSHOTS {
            open.pop_front();
        }
        open.push_back((offset, reader.clone()));
        Ok(reader)
    }

    fn add(&self, offset: Offset) {
        let mut kept = self.kept.lock();
        let at = kept.partition_point(|other| *other < offset);
        kept.insert(at, offset);
    }

    fn drop_below(&self, below: Offset) -> Result<(), Error> {
        let dropped: Vec<Offset> = {
            let mut kept = self.kept.lock();
            let split = kept.partition_point(|offset| *offset < below);
            kept.drain(..split).collect()
        };
        self.open.lock().retain(|(offset, _)| *offset >= below);
        for offset in dropped {
            let path = self.path(offset);
            fs::remove_dir_all(&path).map_err(|source| Error::Io { path, source })?;
        }
        Ok(())
    }
}
