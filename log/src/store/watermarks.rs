//! The side file `watermarks`: how far each log was synced.
//!
//! Recovery replays what the disk kept. This file says what the disk must have kept at least, so that a log that
//! lost synced records is noticed instead of being continued. It is written after each sync by a plain write without
//! a sync of its own: a stale value is lower, and a lower promise is kept as well. Only lowering (before records are
//! removed from the end of a log) is synced first.
//!
//! All numbers are big-endian.
//!
//! ```text
//! header   0   magic    8  "ODGMWMRK"      copy   0   state       4  0 free, 1 log, 2 sequence number
//!          8   version  4  1                      4   group       4
//!          12  zero    16                         8   generation  8  the larger one of a slot's two copies counts
//!          28  CRC-32C  4                         16  value       8  offset, or RocksDB's sequence number
//!          32  slots                              24  zero        4
//! slot     two copies                             28  CRC-32C     4  of bytes 0..28
//! ```
//!
//! A slot is written to its two copies in turn, so that a write torn by a power cut leaves the one before it.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::OpenError;
use crate::ids::{GroupId, Offset};

/// The name of the file in the log's directory.
pub(super) const FILE_NAME: &str = "watermarks";

const MAGIC: [u8; 8] = *b"ODGMWMRK";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const COPY: usize = 32;
const SLOT: usize = 2 * COPY;

/// What a slot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Log(GroupId),
    Sequence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    subject: Option<Subject>,
    generation: u64,
    value: u64,
}

/// The file, its lock, and its content in memory.
pub(super) struct Watermarks {
    path: PathBuf,
    file: File,
    /// What is (or is about to be) in the file.
    image: Vec<u8>,
    slots: Vec<Entry>,
    places: HashMap<Subject, usize>,
    free: Vec<usize>,
    /// The part of the image that is not yet written.
    dirty: Option<(usize, usize)>,
}

impl Watermarks {
    /// Opens and locks the file, creating it if `create` says so. While it is open, no other process opens the log.
    pub(super) fn open(dir: &Path, create: bool) -> Result<Self, OpenError> {
        let path = dir.join(FILE_NAME);
        let io_error = |source| OpenError::Io { path: path.clone(), source };
        let file = match OpenOptions::new().read(true).write(true).create(create).truncate(false).open(&path)
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(path)),
            opened => opened.map_err(io_error)?,
        };
        lock(&file, dir, &path)?;
        let mut image = Vec::new();
        io::Read::read_to_end(&mut &file, &mut image).map_err(io_error)?;
        let mut marks = Self {
            path,
            file,
            image,
            slots: Vec::new(),
            places: HashMap::new(),
            free: Vec::new(),
            dirty: None,
        };
        // A file without any content promises nothing; that is also how an operator accepts a log as it is.
        if marks.image.is_empty() {
            marks.image = header().to_vec();
            marks.dirty = Some((0, HEADER));
        } else {
            marks.parse().map_err(|reason| OpenError::Watermarks { path: marks.path.clone(), reason })?;
        }
        Ok(marks)
    }

    fn parse(&mut self) -> Result<(), String> {
        const REPAIR: &str = "to accept the log as it is, empty this file (truncate -s 0)";
        let head = self.image.first_chunk::<HEADER>().ok_or("the header is cut off")?;
        if head[..8] != MAGIC {
            return Err(format!("this is no watermark file; {REPAIR}"));
        }
        let version = number32(head, 8);
        if version != VERSION {
            return Err(format!("format {version}; this build reads format {VERSION}: upgrade the node"));
        }
        if *head != header() {
            return Err(format!("the header is damaged; {REPAIR}"));
        }
        // A torn write may have left part of a slot at the end: nothing was promised in it yet.
        for index in 0..(self.image.len() - HEADER) / SLOT {
            let at = HEADER + index * SLOT;
            let copies = [at, at + COPY].map(|at| decode(&self.image[at..at + COPY]));
            let entry = copies.into_iter().flatten().max_by_key(|entry| entry.generation);
            let entry = entry.ok_or_else(|| format!("both copies of slot {index} are damaged; {REPAIR}"))?;
            match entry.subject {
                Some(subject) => drop(self.places.insert(subject, index)),
                None => self.free.push(index),
            }
            self.slots.push(entry);
        }
        self.image.truncate(HEADER + self.slots.len() * SLOT);
        Ok(())
    }

    pub(super) fn promises_anything(&self) -> bool {
        !self.places.is_empty()
    }

    /// What was promised: a group and the last offset that was synced.
    pub(super) fn logs(&self) -> impl Iterator<Item = (GroupId, Offset)> + '_ {
        self.places.iter().filter_map(|(subject, index)| match subject {
            Subject::Log(group) => Some((*group, Offset(self.slots[*index].value))),
            Subject::Sequence => None,
        })
    }

    /// The last offset of a group that was synced.
    pub(super) fn log(&self, group: GroupId) -> Offset {
        self.places.get(&Subject::Log(group)).map_or(Offset::ZERO, |index| Offset(self.slots[*index].value))
    }

    /// The RocksDB sequence number that was synced.
    pub(super) fn sequence(&self) -> u64 {
        self.places.get(&Subject::Sequence).map_or(0, |index| self.slots[*index].value)
    }

    pub(super) fn set_log(&mut self, group: GroupId, offset: Offset) {
        self.set(Subject::Log(group), offset.0);
    }

    pub(super) fn set_sequence(&mut self, sequence: u64) {
        self.set(Subject::Sequence, sequence);
    }

    /// Forgets a group.
    pub(super) fn remove(&mut self, group: GroupId) {
        if let Some(index) = self.places.remove(&Subject::Log(group)) {
            self.put(index, None, 0);
            self.free.push(index);
        }
    }

    fn set(&mut self, subject: Subject, value: u64) {
        let index = match self.places.get(&subject) {
            Some(index) if self.slots[*index].value == value => return,
            Some(index) => *index,
            None => {
                let index = self.free.pop().unwrap_or_else(|| self.grow());
                self.places.insert(subject, index);
                index
            }
        };
        self.put(index, Some(subject), value);
    }

    /// A new slot at the end; its second copy says "free" until the slot is written again.
    fn grow(&mut self) -> usize {
        let entry = Entry { subject: None, generation: 0, value: 0 };
        self.slots.push(entry);
        self.image.extend_from_slice(&encode(entry));
        self.image.extend_from_slice(&encode(entry));
        self.touch(self.image.len() - SLOT, SLOT);
        self.slots.len() - 1
    }

    fn put(&mut self, index: usize, subject: Option<Subject>, value: u64) {
        let entry = Entry { subject, generation: self.slots[index].generation + 1, value };
        self.slots[index] = entry;
        let at = HEADER + index * SLOT + if entry.generation.is_multiple_of(2) { 0 } else { COPY };
        self.image[at..at + COPY].copy_from_slice(&encode(entry));
        self.touch(at, COPY);
    }

    fn touch(&mut self, at: usize, length: usize) {
        let (from, to) = self.dirty.unwrap_or((at, at));
        self.dirty = Some((from.min(at), to.max(at + length)));
    }

    /// Writes what changed, in one write and without a sync.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if let Some((from, to)) = self.dirty {
            self.file.write_all_at(&self.image[from..to], from as u64)?;
            self.dirty = None;
        }
        Ok(())
    }

    /// Writes what changed and makes it durable.
    pub(super) fn write_synced(&mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync_data()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(file: &File, dir: &Path, path: &Path) -> Result<(), OpenError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse { dir: dir.to_owned() },
        TryLockError::Error(source) => OpenError::Io { path: path.to_owned(), source },
    })
}

fn missing(path: PathBuf) -> OpenError {
    let reason = "the file is missing, so nothing tells whether synced records were lost; to accept the log as it is, \
                  create it empty";
    OpenError::Watermarks { path, reason: reason.to_owned() }
}

fn header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_be_bytes());
    seal(&mut header);
    header
}

fn encode(entry: Entry) -> [u8; COPY] {
    let (state, group) = match entry.subject {
        None => (0u32, 0),
        Some(Subject::Log(group)) => (1, group.0),
        Some(Subject::Sequence) => (2, 0),
    };
    let mut copy = [0; COPY];
    copy[..4].copy_from_slice(&state.to_be_bytes());
    copy[4..8].copy_from_slice(&group.to_be_bytes());
    copy[8..16].copy_from_slice(&entry.generation.to_be_bytes());
    copy[16..24].copy_from_slice(&entry.value.to_be_bytes());
    seal(&mut copy);
    copy
}

/// `None` if the copy is damaged.
fn decode(copy: &[u8]) -> Option<Entry> {
    let copy: &[u8; COPY] = copy.try_into().ok()?;
    if number32(copy, 28) != crc32c::crc32c(&copy[..28]) {
        return None;
    }
    let subject = match number32(copy, 0) {
        0 => None,
        1 => Some(Subject::Log(GroupId(number32(copy, 4)))),
        2 => Some(Subject::Sequence),
        _ => return None,
    };
    Some(Entry { subject, generation: number64(copy, 8), value: number64(copy, 16) })
}

fn seal(block: &mut [u8; 32]) {
    let crc = crc32c::crc32c(&block[..28]);
    block[28..].copy_from_slice(&crc.to_be_bytes());
}

fn number32(block: &[u8; 32], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&block[at..at + 4]);
    u32::from_be_bytes(bytes)
}

fn number64(block: &[u8; 32], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&block[at..at + 8]);
    u64::from_be_bytes(bytes)
}
