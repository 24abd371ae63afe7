//! The length of the write-ahead file.
//!
//! RocksDB reserves blocks for the file that it appends to, and leaves its length to the writes: so each fdatasync has the
//! file system record a new length as well, for which ext4 commits its journal (docs/adr/0019 has what that costs). Here the file is
//! given the length of what is reserved, a moment after RocksDB has begun to write to it.
//!
//! Behind the last record there are zeros then, which RocksDB's reader passes over (`kZeroType` in its `db/log_reader.cc`).
//! RocksDB writes at its own position, not at the end of the file, and cuts the rest off when it closes it, or deletes it soon.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};

/// A file is looked at this often at most, by whoever syncs.
const REFRESH: Duration = Duration::from_millis(500);

/// What is reserved is taken for the file's length if it is so much more than that. A file's blocks are a few more than what is in
/// it: they hold the list of its blocks as well.
const WORTHWHILE: u64 = 1 << 20;

/// `st_blocks` counts in these, whatever the file system's blocks are (stat(2)).
const BLOCK: u64 = 512;

/// Lengthens the write-ahead file now and then.
pub(super) struct WriteAhead {
    dir: PathBuf,
    /// When that was done last; none if the file system cannot.
    looked: Mutex<Option<Instant>>,
}

impl WriteAhead {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), looked: Mutex::new(Some(Instant::now())) }
    }

    /// Gives the file the length of what is reserved for it, unless that was done a moment ago.
    pub(super) fn refresh(&self) {
        // Whoever else does it will have done it.
        let Some(mut looked) = self.looked.try_lock() else { return };
        if looked.is_none_or(|looked| looked.elapsed() < REFRESH) {
            return;
        }
        *looked = Some(Instant::now());
        if let Err(error) = self.lengthen() {
            // It does no harm, and every sync is a little dearer.
            tracing::debug!(dir = %self.dir.display(), %error, "the write-ahead file grows with each sync");
            if matches!(error.kind(), io::ErrorKind::Unsupported) {
                *looked = None;
            }
        }
    }

    fn lengthen(&self) -> io::Result<()> {
        let Some(path) = self.newest()? else { return Ok(()) };
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => lengthen(&file),
            // RocksDB has begun another one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The file that is written to: the one with the highest number.
    fn newest(&self) -> io::Result<Option<PathBuf>> {
        let mut newest = None;
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
            newest = newest.max(number.map(|number| (number, name)));
        }
        Ok(newest.map(|(_, name)| self.dir.join(name)))
    }
}

/// Nothing that is in the file changes, whoever writes to it meanwhile (fallocate(2), mode 0).
fn lengthen(file: &File) -> io::Result<()> {
    let found = file.metadata()?;
    let reserved = found.blocks() * BLOCK;
    if reserved >= found.len() + WORTHWHILE {
        fallocate(file, FallocateFlags::empty(), 0, reserved)?;
    }
    Ok(())
}
