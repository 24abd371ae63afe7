//! What both test binaries share: records to write, and images of a directory as a crash would leave it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use odgm_log::body::{SetValues, Value};
use odgm_log::store::{LogStore, Options, ReadLimit, SyncError};
use odgm_log::{Body, Cause, GroupId, NodeId, Offset, Payload, Record, Term, Timestamp};

pub(crate) const GROUP: GroupId = GroupId(7);
pub(crate) const OTHER: GroupId = GroupId(8);
pub(crate) const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

/// A small write at an offset; `text` tells records of the same offset apart.
pub(crate) fn record(offset: u64, text: &str) -> Record {
    let body = Body::SetValues(SetValues {
        object: format!("object-{}", offset % 10),
        puts: vec![("key".to_owned(), Value::bytes(text.to_owned()))],
        deletes: Vec::new(),
        expected_version: None,
    });
    let (kind, payload) = Payload { cause: Cause::default(), body }.encode().unwrap();
    Record {
        offset: Offset(offset),
        term: Term(0),
        stamp: Timestamp(1_000_000 + offset),
        origin: NodeId(1),
        kind,
        payload,
    }
}

pub(crate) fn records(offsets: impl IntoIterator<Item = u64>) -> Vec<Record> {
    offsets.into_iter().map(|offset| record(offset, &format!("value-{offset}"))).collect()
}

pub(crate) fn open(dir: &Path) -> LogStore {
    LogStore::open(dir, small()).unwrap()
}

/// Options under which a test reaches the disk: nothing stays in the tail cache.
pub(crate) fn small() -> Options {
    Options { tail_cache_bytes: 0, free_space_reserve: 0, ..Options::default() }
}

/// Appends and waits until it is durable.
pub(crate) fn append(store: &LogStore, group: GroupId, records: &[Record]) {
    append_later(store, group, records).recv().unwrap().unwrap();
}

/// Appends; the outcome comes later.
pub(crate) fn append_later(
    store: &LogStore,
    group: GroupId,
    records: &[Record],
) -> mpsc::Receiver<Result<(), SyncError>> {
    let (done, outcome) = mpsc::channel();
    store.append(group, records, Box::new(move |result| drop(done.send(result)))).unwrap();
    outcome
}

/// Everything that can be read.
pub(crate) fn read_all(store: &LogStore, group: GroupId) -> Vec<Record> {
    store.read(group, store.bounds(group).first, ALL).unwrap()
}

/// Copies a directory that is in use: what a crash at this moment would leave, as far as it was written to files.
pub(crate) fn crash_image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for (name, bytes) in files(dir) {
        fs::write(image.path().join(name), bytes).unwrap();
    }
    image
}

/// The content of every file of a directory.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect()
}

/// The largest file with that extension.
pub(crate) fn largest(dir: &Path, extension: &str) -> PathBuf {
    let names = files(dir);
    let (name, _) = names
        .iter()
        .filter(|(name, _)| Path::new(name).extension().is_some_and(|found| found == extension))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    dir.join(name)
}

/// Inverts the byte at a place.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// Where the records of a write-ahead file end; behind that there may be zeros that are only reserved. A record is a checksum of
/// four bytes, its length in two, its type in one, and then itself; none crosses the end of a block of 32 KiB.
pub(crate) fn written(path: &Path) -> usize {
    const BLOCK: usize = 32 << 10;
    let (bytes, mut at) = (fs::read(path).unwrap(), 0);
    while let Some(header) = bytes.get(at..at + 7) {
        match (BLOCK - at % BLOCK, header[6]) {
            (left @ ..7, _) => at += left,
            (_, 0) => return at,
            _ => at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]])),
        }
    }
    bytes.len()
}

/// Takes bytes off the end of what was written to a file.
pub(crate) fn cut(path: &Path, bytes: usize) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len((written(path) - bytes) as u64).unwrap();
}
