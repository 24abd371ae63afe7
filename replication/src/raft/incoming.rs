//! Snapshots on their way in: files in a directory beside the snapshots, until all of them are there and whole.
//!
//! What has arrived stays over a lost connection and over a crash, and is not sent again: a file is written in order, so
//! its length says how much of it there is. Whether it is whole is decided by its hash, in the end.

use std::fs;
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use odgm_log::Hash;
use parking_lot::Mutex;

use super::messages::File;
use super::types::{LogId, invalid};

/// The snapshot that is being received; one at a time.
pub(super) struct Incoming {
    parent: PathBuf,
    current: Mutex<Option<Receiving>>,
}

struct Receiving {
    through: LogId,
    files: Vec<File>,
    dir: PathBuf,
}

impl Incoming {
    pub(super) fn new(parent: &Path) -> Self {
        Self { parent: parent.to_path_buf(), current: Mutex::default() }
    }

    /// Answers how much there is of each file. What has arrived of other snapshots is dropped.
    pub(super) fn begin(&self, through: LogId, files: Vec<File>) -> io::Result<Vec<u64>> {
        let mut current = self.current.lock();
        for file in &files {
            let plain = Path::new(&file.name).file_name().is_some_and(|name| name == file.name.as_str());
            if !plain {
                return Err(invalid(format!("{:?} is not the name of a file", file.name)));
            }
        }
        let name = format!("incoming-{}-{}", through.leader_id.term, through.index);
        fs::create_dir_all(&self.parent)?;
        for entry in fs::read_dir(&self.parent)? {
            let entry = entry?;
            let other = entry.file_name();
            if other.to_str().is_some_and(|other| other.starts_with("incoming-") && other != name) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let dir = self.parent.join(name);
        fs::create_dir_all(&dir)?;
        let mut held = Vec::with_capacity(files.len());
        for file in &files {
            let path = dir.join(&file.name);
            let there = fs::metadata(&path).map_or(0, |found| found.len());
            if there > file.bytes {
                fs::remove_file(&path)?;
            }
            held.push(if there > file.bytes { 0 } else { there });
        }
        *current = Some(Receiving { through, files, dir });
        Ok(held)
    }

    /// Writes a piece of a file behind what is there. A piece that is there already changes nothing.
    pub(super) fn piece(&self, through: LogId, file: u32, at: u64, bytes: &[u8]) -> io::Result<()> {
        let current = self.current.lock();
        let receiving = current_of(current.as_ref(), through)?;
        let file = receiving.files.get(file as usize).ok_or_else(|| {
            invalid(format!("the snapshot has {} files, not {file}", receiving.files.len()))
        })?;
        let path = receiving.dir.join(&file.name);
        let mut out = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        let there = out.seek(io::SeekFrom::End(0))?;
        let end = at + bytes.len() as u64;
        if there >= end {
            return Ok(());
        }
        if there != at || end > file.bytes {
            let (name, all) = (&file.name, file.bytes);
            return Err(invalid(format!(
                "{at} to {end} of {name} ({all} bytes) cannot follow {there} bytes"
            )));
        }
        out.write_all(bytes)
    }

    /// Checks that all files are whole, and durable, and answers where they are. `release` follows.
    pub(super) fn finish(&self, through: LogId) -> io::Result<PathBuf> {
        let current = self.current.lock();
        let Receiving { files, dir, .. } = current_of(current.as_ref(), through)?;
        for file in files {
            let path = dir.join(&file.name);
            // An empty file has no pieces.
            let mut found =
                fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let mut hasher = blake3::Hasher::new();
            let bytes = io::copy(&mut found, &mut hasher)?;
            let hash = Hash(*hasher.finalize().as_bytes());
            if (bytes, hash) != (file.bytes, file.hash) {
                fs::remove_file(&path)?;
                let File { name, bytes: all, hash: wanted } = file;
                return Err(invalid(format!(
                    "{name} arrived as {bytes} bytes with hash {hash}, not as {all} bytes with {wanted}: it is sent again"
                )));
            }
            found.sync_all()?;
        }
        fs::File::open(dir)?.sync_all()?;
        Ok(dir.clone())
    }

    /// Removes what was received: it has been taken over.
    pub(super) fn release(&self, through: LogId) -> io::Result<()> {
        let mut current = self.current.lock();
        match current.take_if(|receiving| receiving.through == through) {
            Some(receiving) => fs::remove_dir_all(receiving.dir),
            None => Ok(()),
        }
    }
}

fn current_of(current: Option<&Receiving>, through: LogId) -> io::Result<&Receiving> {
    current
        .filter(|receiving| receiving.through == through)
        .ok_or_else(|| invalid(format!("no snapshot through {through} is being received: begin again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> File {
        File {
            name: name.to_owned(),
            bytes: content.len() as u64,
            hash: Hash(*blake3::hash(content).as_bytes()),
        }
    }

    #[test]
    fn a_snapshot_arrives_in_pieces_over_two_tries() {
        let parent = tempfile::tempdir().expect("a folder");
        let through = LogId::new_term_index(2, 10);
        let files = vec![file("a.sst", b"abcdef"), file("empty", b"")];
        let incoming = Incoming::new(parent.path());
        assert_eq!(incoming.begin(through, files.clone()).expect("begun"), [0, 0]);
        incoming.piece(through, 0, 0, b"abc").expect("written");
        incoming.piece(through, 0, 0, b"abc").expect("the same again");
        assert!(incoming.finish(through).is_err(), "half of it is missing");

        // As after a crash; what `finish` found wrong is gone.
        let incoming = Incoming::new(parent.path());
        assert_eq!(incoming.begin(through, files).expect("begun"), [0, 0]);
        incoming.piece(through, 0, 0, b"abc").expect("written");
        assert!(incoming.piece(through, 0, 4, b"ef").is_err(), "there is a hole");
        assert!(incoming.piece(through, 0, 3, b"defg").is_err(), "it is longer than announced");
        assert!(incoming.piece(through, 2, 0, b"x").is_err(), "there is no such file");
        assert!(incoming.piece(LogId::new_term_index(2, 11), 0, 3, b"def").is_err(), "another snapshot");
        incoming.piece(through, 0, 3, b"def").expect("written");
        let dir = incoming.finish(through).expect("whole");
        assert_eq!(fs::read(dir.join("a.sst")).expect("there"), b"abcdef");
        assert_eq!(fs::read(dir.join("empty")).expect("there"), b"");
        incoming.release(through).expect("removed");
        assert!(!dir.exists());
    }

    #[test]
    fn what_arrived_is_kept_for_the_next_try_and_damage_is_found() {
        let parent = tempfile::tempdir().expect("a folder");
        let through = LogId::new_term_index(2, 10);
        let files = vec![file("a.sst", b"abcdef")];
        let incoming = Incoming::new(parent.path());
        incoming.begin(through, files.clone()).expect("begun");
        incoming.piece(through, 0, 0, b"abX").expect("written");
        let incoming = Incoming::new(parent.path());
        assert_eq!(incoming.begin(through, files.clone()).expect("begun"), [3]);
        incoming.piece(through, 0, 3, b"def").expect("written");
        let error = incoming.finish(through).expect_err("a byte is another");
        assert!(error.to_string().contains("a.sst arrived as 6 bytes"), "{error}");
        assert_eq!(incoming.begin(through, files).expect("begun"), [0], "it is sent again");
        for name in ["", "..", "a/b", "/etc/passwd"] {
            assert!(incoming.begin(through, vec![file(name, b"x")]).is_err(), "{name:?}");
        }
        let other = LogId::new_term_index(3, 12);
        incoming.begin(other, Vec::new()).expect("begun");
        assert!(!parent.path().join("incoming-2-10").exists(), "what nobody will finish is gone");
    }
}
