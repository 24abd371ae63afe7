//! What every storage engine promises, and what each does when its files are damaged or its process is killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod conformance;
mod crash;
mod damage;
mod model;

use std::path::PathBuf;

use odgm_projections::storage::{
    Batch, Budget, Engine, Order, Range, Reader, Resources, Row, SnapshotCapableStorage,
};
use tempfile::TempDir;

/// A storage in a directory that goes away with it.
struct Fixture {
    engine: Engine,
    home: TempDir,
    resources: Resources,
    /// `None` only while it is opened again.
    storage: Option<Box<dyn SnapshotCapableStorage>>,
}

impl Fixture {
    fn new(engine: Engine) -> Self {
        let home = TempDir::new().unwrap();
        let resources = small_resources();
        let storage = Some(engine.open(&home.path().join("view"), &resources).unwrap());
        Self { engine, home, resources, storage }
    }

    fn storage(&self) -> &dyn SnapshotCapableStorage {
        self.storage.as_deref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Puts the given rows in one batch.
    fn put(&self, rows: &[(&str, &str)]) {
        self.storage().write(puts(rows)).unwrap();
    }

    /// Flushes, closes and opens.
    fn reopen(&mut self) {
        self.storage().flush().unwrap();
        self.storage = None;
        self.storage = Some(self.engine.open(&self.path("view"), &self.resources).unwrap());
    }

    fn rows(&self) -> Vec<(String, String)> {
        rows(&*self.storage().reader().unwrap())
    }
}

fn small_resources() -> Resources {
    // So little that every way of the rows from memory to the disk is gone.
    Resources::new(Budget {
        block_cache_bytes: 4 << 20,
        write_buffer_bytes: 1 << 20,
        write_back_bytes: 4 << 10,
        row_cache_bytes: 16 << 10,
        object_cache_bytes: 16 << 10,
    })
}

fn puts(rows: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    batch
}

/// Every row as text.
fn rows(reader: &dyn Reader) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    scan(reader, Range::all(), Order::Ascending).iter().map(|(key, value)| (text(key), text(value))).collect()
}

fn scan(reader: &dyn Reader, range: Range, order: Order) -> Vec<Row> {
    reader.range(range, order).collect::<Result<_, _>>().unwrap()
}

fn owned(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
