//! The small file that says what a directory holds, read before anything else in it is touched.
//!
//! Its name is `storage`, its content one line: `odgm-view <format> <engine>`.

use std::fs;
use std::io;
use std::path::Path;

use super::{Engine, Error, publish};

/// The name of the marker in the directory of a view or snapshot.
pub(super) const FILE: &str = "storage";

/// The format of the directory: raised when the files, not the rows in them, change their meaning.
const FORMAT: u32 = 1;

/// Makes sure that `dir` is a directory of this engine, and makes it one if it is missing or empty.
pub(super) fn claim(dir: &Path, engine: Engine) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("create the directory", dir))?;
    match read(dir)? {
        Some(found) if found == engine => Ok(()),
        Some(found) => Err(Error::OtherEngine { path: dir.to_path_buf(), expected: engine, found }),
        None if is_unused(dir)? => write(dir, engine),
        None => Err(Error::NotAView { path: dir.to_path_buf() }),
    }
}

/// The engine whose rows are in `dir`; an error if it is none.
pub(super) fn engine_of(dir: &Path) -> Result<Engine, Error> {
    read(dir)?.ok_or_else(|| Error::NotAView { path: dir.to_path_buf() })
}

/// Writes the marker, durably.
pub(super) fn write(dir: &Path, engine: Engine) -> Result<(), Error> {
    publish::file(&dir.join(FILE), |out| {
        use io::Write;
        writeln!(out, "odgm-view {FORMAT} {engine}")
    })
}

fn read(dir: &Path) -> Result<Option<Engine>, Error> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path)(error)),
    };
    let mut words = text.split_whitespace();
    let engine = match (words.next(), words.next(), words.next(), words.next()) {
        (Some("odgm-view"), Some(format), Some(engine), None) if format == FORMAT.to_string() => {
            engine.parse().ok()
        }
        _ => None,
    };
    match engine {
        Some(engine) => Ok(Some(engine)),
        None => Err(Error::UnknownFormat { path, found: text.trim().to_owned(), supported: FORMAT }),
    }
}

/// Whether there is nothing in the directory but what a crash before the marker was renamed may have left.
fn is_unused(dir: &Path) -> Result<bool, Error> {
    let leftover = publish::temporary(Path::new(FILE));
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if entry.file_name() != leftover.as_os_str() {
            return Ok(false);
        }
    }
    Ok(true)
}
