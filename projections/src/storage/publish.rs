//! Files and directories that appear whole or not at all: written under a temporary name beside, synced, renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Error;

/// The name under which `path` is prepared. A leftover of a crash is replaced by the next attempt.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}

/// Writes the file at `path`, in place of what was there; durable on return.
pub(super) fn file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Error> {
    let prepared = temporary(path);
    let created = File::create(&prepared).map_err(Error::io("create", &prepared))?;
    let mut out = BufWriter::with_capacity(1 << 16, created);
    write(&mut out)
        .and_then(|()| out.flush())
        .and_then(|()| out.get_ref().sync_all())
        .map_err(Error::io("write", &prepared))?;
    rename(&prepared, path)
}

/// Makes the directory at `path`, which must not exist. `fill` gets a path that does not exist yet, and must make a
/// directory without sub-directories there. Durable on return.
pub(super) fn directory(path: &Path, fill: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
    if path.try_exists().map_err(Error::io("look at", path))? {
        return Err(Error::Exists { path: path.to_path_buf() });
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io("create the directory", parent))?;
    }
    let prepared = temporary(path);
    remove_leftover(&prepared)?;
    fill(&prepared)?;
    for entry in fs::read_dir(&prepared).map_err(Error::io("list", &prepared))? {
        sync(&entry.map_err(Error::io("list", &prepared))?.path())?;
    }
    sync(&prepared)?;
    rename(&prepared, path)
}

/// Waits until a file, or the names in a directory, are on disk.
fn sync(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("rename", from))?;
    match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

fn remove_leftover(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}
