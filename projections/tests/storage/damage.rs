//! A flipped byte is an error that names the file, never a wrong answer.

use std::fs;
use std::path::{Path, PathBuf};

use odgm_projections::storage::{Engine, Error, Order, Range, Row};

use super::{Fixture, small_resources};

#[test]
fn a_flipped_byte_in_a_table_of_rocksdb_is_found() {
    let (dir, expected) = written(Engine::RocksDb);
    let table = only_file(dir.path(), "sst");
    let intact = fs::read(&table).unwrap();
    let mut found = 0;
    for position in (0..intact.len()).step_by(131) {
        flip(&table, &intact, position);
        match read_all(Engine::RocksDb, dir.path()) {
            // Bytes that no read needs, such as those of a filter, need not be looked at.
            Ok(rows) => assert_eq!(rows, expected, "byte {position} of {}", intact.len()),
            Err(error) => {
                found += 1;
                assert_names(&error, &table);
            }
        }
        fs::write(&table, &intact).unwrap();
    }
    assert!(found * 2 > intact.len() / 131, "only {found} flips were found in {} bytes", intact.len());

    flip(&table, &intact, 100);
    let error = read_all(Engine::RocksDb, dir.path()).unwrap_err();
    assert_names(&error, &table);
}

#[test]
fn a_flipped_or_missing_byte_in_an_image_is_found() {
    let (dir, expected) = written(Engine::Memory);
    let image = dir.path().join("rows.image");
    let intact = fs::read(&image).unwrap();
    for position in (0..intact.len()).step_by(7) {
        flip(&image, &intact, position);
        assert_names(&read_all(Engine::Memory, dir.path()).unwrap_err(), &image);
        fs::write(&image, &intact[..position]).unwrap();
        assert_names(&read_all(Engine::Memory, dir.path()).unwrap_err(), &image);
    }
    fs::write(&image, &intact).unwrap();
    assert_eq!(read_all(Engine::Memory, dir.path()).unwrap(), expected);
}

/// A closed view directory with some rows in one file.
fn written(engine: Engine) -> (tempfile::TempDir, Vec<Row>) {
    let fixture = Fixture::new(engine);
    let rows: Vec<(String, String)> =
        (0..200).map(|number| (format!("key/{number:05}"), format!("value {}", number * 7_919))).collect();
    fixture.put(&rows.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>());
    let dir = tempfile::TempDir::new().unwrap();
    fs::remove_dir(dir.path()).unwrap();
    fixture.storage().snapshot(dir.path()).unwrap();
    let rows = rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    (dir, rows)
}

fn read_all(engine: Engine, dir: &Path) -> Result<Vec<Row>, Error> {
    // Its own resources: blocks in a cache would not be read from disk again.
    let storage = engine.open(dir, &small_resources())?;
    let reader = storage.reader()?;
    reader.range(Range::all(), Order::Ascending).collect()
}

fn only_file(dir: &Path, extension: &str) -> PathBuf {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn flip(path: &Path, intact: &[u8], position: usize) {
    let mut bytes = intact.to_vec();
    bytes[position] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn assert_names(error: &Error, file: &Path) {
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(name), "{error} does not name {name}");
}
