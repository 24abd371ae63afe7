//! A killed process leaves the rows as they were after some batch, not before the last flush.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use bytes::Bytes;
use odgm_projections::storage::{Batch, Engine, Order, Range};
use tempfile::TempDir;

use super::{scan, small_resources};

const DIR: &str = "ODGM_TEST_CRASH_DIR";
const ENGINE: &str = "ODGM_TEST_CRASH_ENGINE";
const HEADER: &str = "header";

#[test]
fn a_killed_process_loses_whole_batches_only() {
    for engine in Engine::ALL {
        let home = TempDir::new().unwrap();
        for _ in 0..3 {
            let flushed = write_and_kill(engine, home.path().to_str().unwrap());
            let kept = kept_batches(engine, &home);
            assert!(kept >= flushed, "{engine}: {flushed} batches were flushed, {kept} are there");
        }
    }
}

/// Starts a process that writes, and kills it after its fifth flush. Returns the number of batches that it said were
/// flushed.
fn write_and_kill(engine: Engine, dir: &str) -> u64 {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["crash::writer_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .env(ENGINE, engine.name())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let flushed = lines.filter_map(|line| line.strip_prefix("flushed ")?.parse().ok());
    let flushed = flushed.take(5).last();
    child.kill().unwrap();
    child.wait().unwrap();
    flushed.unwrap()
}

/// Checks that the rows are those after as many batches as the header says, and returns their number.
fn kept_batches(engine: Engine, home: &TempDir) -> u64 {
    let storage = engine.open(home.path(), &small_resources()).unwrap();
    let header = storage.get(HEADER.as_bytes()).unwrap().unwrap();
    let kept = u64::from_be_bytes(header[..].try_into().unwrap());
    let mut expected = BTreeMap::new();
    for number in 1..=kept {
        for (key, value) in batch(number).operations() {
            match value {
                Some(value) => expected.insert(key.clone(), value.clone()),
                None => expected.remove(key),
            };
        }
    }
    let found = scan(&*storage.reader().unwrap(), Range::all(), Order::Ascending);
    assert!(found.into_iter().eq(expected), "{engine}: the rows are not those after batch {kept}");
    kept
}

#[test]
#[ignore = "the process that the other test starts and kills"]
fn writer_that_is_killed() {
    let Ok(dir) = env::var(DIR) else { return };
    let engine: Engine = env::var(ENGINE).unwrap().parse().unwrap();
    let storage = engine.open(dir.as_ref(), &small_resources()).unwrap();
    let header = storage.get(HEADER.as_bytes()).unwrap();
    let last = header.map_or(0, |header| u64::from_be_bytes(header[..].try_into().unwrap()));
    for number in last + 1.. {
        storage.write(batch(number)).unwrap();
        if number % 1_000 == 0 {
            storage.flush().unwrap();
            println!("flushed {number}");
        }
    }
}

/// A batch that can be told from its number: some rows put, one deleted, the header raised.
fn batch(number: u64) -> Batch {
    let row = |row: u64| format!("row/{:03}", row % 300);
    let mut batch = Batch::new();
    for offset in 0..6 {
        batch.put(row(number * 7 + offset), Bytes::from(format!("{number:0>200}")));
    }
    batch.delete(row(number * 11));
    batch.put(HEADER, number.to_be_bytes().to_vec());
    batch
}
