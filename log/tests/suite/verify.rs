//! Tampering that RocksDB's own checksums do not see: rows are replaced through RocksDB itself.

use std::path::Path;

use odgm_log::envelope::encode_stored;
use odgm_log::store::{LogStore, OpenError};
use odgm_log::{Offset, Record};

use crate::support::{GROUP, append, open, record, records, small};

/// A stopped log of 3,000 records of which one was replaced; `None` deletes it.
fn tampered(offset: u64, replacement: Option<Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=3_000));
    store.close().unwrap();
    drop(store);
    let raw =
        rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), ["default", "log", "meta"]).unwrap();
    let mut key = GROUP.0.to_be_bytes().to_vec();
    key.extend_from_slice(&offset.to_be_bytes());
    let log = raw.cf_handle("log").unwrap();
    match replacement {
        Some(value) => raw.put_cf(log, key, value).unwrap(),
        None => raw.delete_cf(log, key).unwrap(),
    }
    dir
}

fn stored(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_stored(GROUP, record, &mut bytes);
    bytes
}

fn verify(dir: &Path) -> String {
    let store = LogStore::open_read_only(dir).unwrap();
    store.verify(GROUP, &mut |_, _| ()).unwrap_err().to_string()
}

#[test]
fn progress_is_told_on_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=3_000));
    let mut seen = Vec::new();
    store.verify(GROUP, &mut |checked, last| seen.push((checked.0, last.0))).unwrap();
    assert_eq!(seen, [(1_024, 3_000), (2_048, 3_000), (3_000, 3_000)]);
}

#[test]
fn a_forged_record_breaks_the_chain() {
    let dir = tampered(100, Some(stored(&record(100, "forged"))));
    insta::assert_snapshot!(verify(dir.path()), @"group 7: the chain at offset 1024 is d7bb45683ee717549e672b63488c63144af1f7981cfe161d9137aad3555aad9d, but 7040581aadb364a4a1d5845325f90b5ffdd4284d458d4b8c54adc7e0cc7e66d9 was stored: a record at or below it was changed");
}

#[test]
fn a_damaged_record_is_named() {
    let mut bytes = stored(&record(100, "value-100"));
    *bytes.last_mut().unwrap() ^= 1;
    let dir = tampered(100, Some(bytes));
    insta::assert_snapshot!(verify(dir.path()), @"group 7, offset 100: the record is damaged: CRC-32C is 3c425af1, not ce29d9f2: the bytes have changed since they were written");
    let store = open(dir.path());
    insta::assert_snapshot!(store.read(GROUP, Offset(100), Default::default()).unwrap_err(), @"group 7, offset 100: the record is damaged: CRC-32C is 3c425af1, not ce29d9f2: the bytes have changed since they were written");
}

#[test]
fn a_record_from_another_place_is_named() {
    let dir = tampered(100, Some(stored(&record(99, "value-99"))));
    insta::assert_snapshot!(verify(dir.path()), @"group 7, offset 100: the record is damaged: the seal is 06f20421, not 94ccad1a: the record does not belong at this offset or term");
}

#[test]
fn a_missing_record_is_named() {
    let dir = tampered(100, None);
    insta::assert_snapshot!(verify(dir.path()), @"group 7: the record at offset 100 is missing; the next one is at 101");
}

#[test]
fn a_damaged_end_is_refused_at_open() {
    for (offset, replacement) in [
        (2_990, Some(stored(&record(2_990, "forged")))),
        (3_000, None),
        (2_500, None),
        (3_001, Some(stored(&record(3_001, "beyond")))),
    ] {
        let dir = tampered(offset, replacement);
        match LogStore::open(dir.path(), small()).map(drop) {
            Err(OpenError::Corrupt { source, .. }) => {
                insta::assert_snapshot!(format!("end_{offset}"), source);
            }
            other => panic!("{offset}: {other:?}"),
        }
    }
}
