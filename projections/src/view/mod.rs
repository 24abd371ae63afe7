//! A view: the rows of one partition, written by [`View::apply`] and read by everything else.

mod calls;
pub(crate) mod dump;
mod prune;
mod read;
mod rebind;
mod rebuild;
mod snapshots;
mod travel;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use odgm_log::{GroupId, Offset};
use parking_lot::{Mutex, RwLock};

use self::prune::Pruning;
use self::snapshots::Snapshots;
use crate::core::Core;
use crate::error::{ApplyError, Error, OpenError};
use crate::header::{Header, HeaderError, SEMANTICS};
use crate::keys::Key;
use crate::outcome::{Applied, Committed};
use crate::rows::damaged;
use crate::storage::{Engine, Live, Reader, Resources, SnapshotCapableStorage};

pub use self::rebind::rebind;
pub use self::rebuild::{RebuildError, Start, rebuild};

/// Where a view is and what it may use.
#[derive(Clone, Debug)]
pub struct ViewOptions {
    /// The partition's group.
    pub group: GroupId,
    /// The engine that holds the rows.
    pub engine: Engine,
    /// The view's own directory.
    pub dir: PathBuf,
    /// The directory of the view's snapshots, on the same file system.
    pub snapshots: PathBuf,
    /// What all views of the node share.
    pub resources: Resources,
}

/// A view. Clones are handles to the same one. One thread applies at a time; any number read meanwhile, each
/// read from one moment between two batches.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

impl View {
    /// Whether there are other handles to it: then its files are in use.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

struct Inner {
    storage: Box<dyn SnapshotCapableStorage>,
    /// Held while rows are written.
    core: Mutex<Core>,
    /// As of the last written batch.
    header: RwLock<Header>,
    snapshots: Snapshots,
    pruning: Mutex<Pruning>,
}

impl View {
    /// Opens the view in the directory of `options`. If there is none it is started from the newest snapshot, or
    /// empty if there is no snapshot either; then the log has to be applied from there.
    ///
    /// # Errors
    /// [`OpenError`] if the directory is of another partition, format or engine, or damaged. Nothing is changed then.
    pub fn open(options: &ViewOptions) -> Result<Self, OpenError> {
        Self::open_from(options, |snapshots| snapshots.last().copied())
    }

    /// As [`Self::open`], but a view that does not exist is started from the snapshot at `offset`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(options: &ViewOptions, offset: Offset) -> Result<Self, OpenError> {
        Self::open_from(options, |snapshots| snapshots.contains(&offset).then_some(offset))
    }

    /// Opens the view; if there is none, it is started from the snapshot that `choose` takes, or empty.
    fn open_from(
        options: &ViewOptions,
        choose: impl FnOnce(&[Offset]) -> Option<Offset>,
    ) -> Result<Self, OpenError> {
        let snapshots = Snapshots::open(options)?;
        let mut storage = options.engine.open(&options.dir, &options.resources)?;
        let mut header = storage.get(&Key::Header.to_vec())?;
        if header.is_none()
            && let Some(chosen) = choose(&snapshots.list())
        {
            drop(storage);
            snapshots.restore(chosen, &options.dir)?;
            storage = options.engine.open(&options.dir, &options.resources)?;
            header = storage.get(&Key::Header.to_vec())?;
        }
        let header = match header {
            Some(row) => read_header(&row, &options.dir, options.group)?,
            None => Header::new(options.group),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                storage,
                core: Mutex::new(Core::new(header.clone(), options.resources.object_cache())),
                header: RwLock::new(header),
                snapshots,
                pruning: Mutex::default(),
            }),
        })
    }

    /// Where the view is, as of the last batch.
    pub fn header(&self) -> Header {
        self.inner.header.read().clone()
    }

    /// Applies the next records as one batch: readers see all of it or nothing, and after a crash so does the view.
    /// The first must be the one after the last applied.
    ///
    /// # Errors
    /// [`ApplyError`]; the view is then as it was.
    pub fn apply(&self, committed: &[Committed]) -> Result<Vec<Applied>, ApplyError> {
        if committed.is_empty() {
            return Ok(Vec::new());
        }
        let mut core = self.inner.core.lock();
        let applied = self.apply_with(&mut core, committed);
        match &applied {
            Ok(_) => self.inner.header.write().clone_from(core.header()),
            Err(_) => core.abandon(self.header()),
        }
        applied
    }

    /// Waits until what was applied is on disk.
    ///
    /// # Errors
    /// If the storage cannot write.
    pub fn flush(&self) -> Result<Offset, Error> {
        self.inner.storage.flush()?;
        self.durable()
    }

    /// The last offset that a crash at this moment would leave in the view. Not for hot paths.
    ///
    /// # Errors
    /// If the storage cannot be read.
    pub fn durable(&self) -> Result<Offset, Error> {
        match self.inner.storage.get_durable(&Key::Header.to_vec())? {
            Some(row) => Ok(decode_header(&row)?.applied),
            None => Ok(Offset::ZERO),
        }
    }

    /// The header as of the moment of `rows`, which are this view's.
    fn header_in(&self, rows: &dyn Reader) -> Result<Header, Error> {
        let found = header_of(rows)?;
        Ok(found.unwrap_or_else(|| Header::new(self.inner.header.read().group)))
    }

    fn apply_with(&self, core: &mut Core, committed: &[Committed]) -> Result<Vec<Applied>, ApplyError> {
        let rows = Live::new(&*self.inner.storage);
        let applied =
            committed.iter().map(|committed| core.apply(&rows, committed)).collect::<Result<_, _>>()?;
        drop(rows);
        fail::fail_point!("view-before-write");
        self.inner.storage.write(core.finish()).map_err(ApplyError::Write)?;
        fail::fail_point!("view-after-write");
        Ok(applied)
    }
}

/// The header of the rows of one moment.
fn header_of(rows: &dyn Reader) -> Result<Option<Header>, Error> {
    rows.get(&Key::Header.to_vec())?.map(|row| decode_header(&row)).transpose()
}

fn decode_header(row: &[u8]) -> Result<Header, Error> {
    Header::decode(row).map_err(|_| damaged(crate::keys::Table::Header, "it is not a header of this format"))
}

/// Checks that a header found in `dir` is one that this build can go on from.
fn read_header(row: &[u8], dir: &Path, group: GroupId) -> Result<Header, OpenError> {
    let dir = dir.to_path_buf();
    let header = match Header::decode(row) {
        Ok(header) => header,
        Err(HeaderError::Format(found)) => {
            return Err(OpenError::Format { dir, found, supported: crate::header::FORMAT });
        }
        Err(HeaderError::Damaged(reason)) => return Err(OpenError::Header { dir, reason }),
    };
    if header.group != group {
        return Err(OpenError::Group { dir, expected: group, found: header.group });
    }
    if header.semantics > SEMANTICS {
        return Err(OpenError::Semantics { dir, found: header.semantics, supported: SEMANTICS });
    }
    Ok(header)
}

/// Whether there is no directory, or an empty one.
fn is_missing(dir: &Path) -> Result<bool, OpenError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(OpenError::Io { path: dir.to_path_buf(), source }),
    }
}
