//! One suite over every engine.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use odgm_projections::storage::{Batch, Engine, Error, Order, Range, open_snapshot, restore};

use super::{Fixture, owned, puts, rows, scan, small_resources};

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod rocksdb { $(#[test] fn $test() { super::$test(super::Engine::RocksDb); })* }
        mod memory { $(#[test] fn $test() { super::$test(super::Engine::Memory); })* }
    };
}

suite!(
    the_last_operation_on_a_key_wins,
    ranges_are_ordered_and_bounded,
    prefixes_of_largest_bytes_have_no_end,
    a_reader_does_not_see_later_writes,
    batches_are_seen_whole_by_concurrent_readers,
    what_was_flushed_is_there_after_reopening,
    a_snapshot_is_the_moment_it_was_taken,
    a_view_starts_from_a_snapshot,
    directories_of_others_are_refused,
);

fn the_last_operation_on_a_key_wins(engine: Engine) {
    let fixture = Fixture::new(engine);
    fixture.put(&[("old", "1"), ("kept", "1")]);

    let mut batch = Batch::new();
    batch.put("put then deleted", "x");
    batch.delete("put then deleted");
    batch.delete("deleted then put");
    batch.put("deleted then put", "y");
    batch.put("put twice", "first");
    batch.put("put twice", "second");
    batch.delete("old");
    batch.delete("never there");
    batch.put("", "the empty key is a key");
    batch.put("no value", "");
    fixture.storage().write(batch).unwrap();

    let expected = [
        ("", "the empty key is a key"),
        ("deleted then put", "y"),
        ("kept", "1"),
        ("no value", ""),
        ("put twice", "second"),
    ];
    assert_eq!(fixture.rows(), owned(&expected));
    assert_eq!(fixture.storage().get(b"no value").unwrap(), Some(Bytes::new()));
    assert_eq!(fixture.storage().get(b"old").unwrap(), None);
    let many = fixture.storage().get_many(&[b"put twice", b"old", b"put twice", b"kept"]).unwrap();
    assert_eq!(many, [Some("second".into()), None, Some("second".into()), Some("1".into())]);
    assert_eq!(fixture.storage().get_many(&[]).unwrap(), []);
}

fn ranges_are_ordered_and_bounded(engine: Engine) {
    let fixture = Fixture::new(engine);
    // More than one leaf, one block and one file.
    let names: Vec<String> =
        (0..2_000).map(|number| format!("{}/{number:04}", ["a", "b", "c"][number % 3])).collect();
    for part in names.chunks(700) {
        fixture.put(&part.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
        fixture.storage().flush().unwrap();
    }
    let mut sorted: Vec<Bytes> = names.into_iter().map(Bytes::from).collect();
    sorted.sort();

    let reader = fixture.storage().reader().unwrap();
    let all = Range::all;
    let b = || Range::prefix(b"b/");
    let ranges = [
        all(),
        b(),
        all().from(b"b/0001"),
        all().after(b"b/0001"),
        all().until(b"b/0001"),
        all().through(b"b/0001"),
        b().after(b"b/0991").until(b"b/1501"),
        b().from(b"a/0000").until(b"z"),
        b().after(b"b/0001").through(b"b/0001"),
        all().from(b"z"),
        all().until(b""),
        Range::prefix(b"b").from(b"c"),
    ];
    for range in ranges {
        let mut expected: Vec<Bytes> = sorted.iter().filter(|key| range.contains(key)).cloned().collect();
        let keys =
            |order| scan(&*reader, range.clone(), order).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(Order::Ascending), expected, "{range:?}");
        expected.reverse();
        assert_eq!(keys(Order::Descending), expected, "{range:?}");
    }
}

fn prefixes_of_largest_bytes_have_no_end(engine: Engine) {
    let fixture = Fixture::new(engine);
    let keys: [&[u8]; 7] =
        [b"", b"\xfe", b"\xfe\xff", b"\xfe\xff\xff", b"\xff", b"\xff\x00", b"\xff\xff\xff"];
    let mut batch = Batch::new();
    for key in keys {
        batch.put(key, "");
    }
    fixture.storage().write(batch).unwrap();

    let reader = fixture.storage().reader().unwrap();
    for prefix in [&b""[..], b"\xfe", b"\xfe\xff", b"\xff", b"\xff\xff", b"\xff\xff\xff", b"\xff\xff\xff\xff"]
    {
        let mut expected: Vec<&[u8]> = keys.into_iter().filter(|key| key.starts_with(prefix)).collect();
        for order in [Order::Ascending, Order::Descending] {
            let found = scan(&*reader, Range::prefix(prefix), order);
            assert_eq!(found.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), expected, "{prefix:?}");
            expected.reverse();
        }
    }
}

fn a_reader_does_not_see_later_writes(engine: Engine) {
    let fixture = Fixture::new(engine);
    fixture.put(&[("changed", "before"), ("deleted", "before"), ("same", "before")]);
    let reader = fixture.storage().reader().unwrap();
    let mut open_range = reader.range(Range::all(), Order::Ascending);
    let first = open_range.next().unwrap().unwrap();
    assert_eq!(first, ("changed".into(), "before".into()));

    let mut batch = puts(&[("added", "after"), ("changed", "after")]);
    batch.delete("deleted");
    fixture.storage().write(batch).unwrap();
    fixture.storage().flush().unwrap();

    assert_eq!(rows(&*reader), owned(&[("changed", "before"), ("deleted", "before"), ("same", "before")]));
    assert_eq!(reader.get_many(&[b"added", b"deleted"]).unwrap(), [None, Some("before".into())]);
    assert_eq!(open_range.count(), 2, "a range that is being read stays as well");
    assert_eq!(fixture.rows(), owned(&[("added", "after"), ("changed", "after"), ("same", "before")]));
}

fn batches_are_seen_whole_by_concurrent_readers(engine: Engine) {
    const ROWS: usize = 40;
    let fixture = Fixture::new(engine);
    let storage = fixture.storage();
    let key = |row: usize| format!("row/{row:03}");
    let batch = |number: u32| {
        let mut batch = Batch::new();
        (0..ROWS).for_each(|row| batch.put(key(row), number.to_be_bytes().to_vec()));
        batch
    };
    storage.write(batch(0)).unwrap();

    let written_all = AtomicBool::new(false);
    let looked = thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=2_000 {
                storage.write(batch(number)).unwrap();
            }
            written_all.store(true, Ordering::Release);
        });
        let reads_at_once = scope.spawn(|| {
            let mut last = Bytes::new();
            while !written_all.load(Ordering::Acquire) {
                let values = storage.get_many(&[key(0).as_bytes(), key(ROWS - 1).as_bytes()]).unwrap();
                assert_eq!(values[0], values[1]);
                let value = values[0].clone().unwrap();
                assert!(value >= last, "time went back");
                last = value;
            }
        });
        let mut looked = 0;
        while !written_all.load(Ordering::Acquire) {
            let found = scan(&*storage.reader().unwrap(), Range::prefix(b"row/"), Order::Ascending);
            assert_eq!(found.len(), ROWS);
            assert!(found.iter().all(|(_, value)| *value == found[0].1), "{found:?}");
            looked += 1;
        }
        reads_at_once.join().unwrap();
        looked
    });
    assert!(looked > 0);
    assert_eq!(storage.get(b"row/007").unwrap(), Some(Bytes::copy_from_slice(&2_000_u32.to_be_bytes())));
}

fn what_was_flushed_is_there_after_reopening(engine: Engine) {
    let mut fixture = Fixture::new(engine);
    assert_eq!(fixture.storage().get_durable(b"applied").unwrap(), None);
    fixture.put(&[("applied", "1"), ("gone", "x")]);
    fixture.storage().flush().unwrap();
    fixture.put(&[("applied", "2")]);
    assert_eq!(fixture.storage().get(b"applied").unwrap(), Some("2".into()));
    assert_eq!(fixture.storage().get_durable(b"applied").unwrap(), Some("1".into()));

    let mut batch = Batch::new();
    batch.delete("gone");
    fixture.storage().write(batch).unwrap();
    fixture.storage().flush().unwrap();
    assert_eq!(fixture.storage().get_durable(b"applied").unwrap(), Some("2".into()));
    fixture.storage().flush().unwrap();

    fixture.reopen();
    assert_eq!(fixture.rows(), owned(&[("applied", "2")]));
    assert_eq!(fixture.storage().get_durable(b"applied").unwrap(), Some("2".into()));
}

fn a_snapshot_is_the_moment_it_was_taken(engine: Engine) {
    let fixture = Fixture::new(engine);
    let snapshot = fixture.path("snapshots/0/17");
    fixture.put(&[("a", "1"), ("b", "1")]);
    fixture.storage().flush().unwrap();
    fixture.put(&[("b", "2")]);
    fixture.storage().snapshot(&snapshot).unwrap();
    fixture.put(&[("b", "3"), ("c", "3")]);
    fixture.storage().flush().unwrap();

    let files = listing(&snapshot);
    let reader = open_snapshot(&snapshot, &fixture.resources).unwrap();
    let again = open_snapshot(&snapshot, &fixture.resources).unwrap();
    assert_eq!(rows(&*reader), owned(&[("a", "1"), ("b", "2")]));
    assert_eq!(reader.get(b"c").unwrap(), None);
    assert_eq!(again.get(b"b").unwrap(), Some("2".into()));
    assert_eq!(listing(&snapshot), files, "reading a snapshot leaves its directory alone");

    let refused = fixture.storage().snapshot(&snapshot).unwrap_err();
    assert!(matches!(&refused, Error::Exists { path } if *path == snapshot), "{refused}");
    assert_eq!(listing(&fixture.path("snapshots/0")).len(), 1, "no temporary directory stays");

    drop(fixture.storage);
    fs::remove_dir_all(fixture.home.path().join("view")).unwrap();
    let orphan = open_snapshot(&snapshot, &fixture.resources).unwrap();
    assert_eq!(rows(&*orphan), owned(&[("a", "1"), ("b", "2")]));
}

fn a_view_starts_from_a_snapshot(engine: Engine) {
    let fixture = Fixture::new(engine);
    let (snapshot, copy) = (fixture.path("snapshot"), fixture.path("copy"));
    fixture.put(&[("a", "1")]);
    fixture.storage().snapshot(&snapshot).unwrap();

    restore(&snapshot, &copy).unwrap();
    let restored = engine.open(&copy, &fixture.resources).unwrap();
    assert_eq!(restored.get_durable(b"a").unwrap(), Some("1".into()));
    restored.write(puts(&[("a", "2")])).unwrap();
    restored.flush().unwrap();

    assert_eq!(rows(&*open_snapshot(&snapshot, &fixture.resources).unwrap()), owned(&[("a", "1")]));
    assert!(matches!(restore(&snapshot, &copy), Err(Error::Exists { .. })));
}

fn directories_of_others_are_refused(engine: Engine) {
    let fixture = Fixture::new(engine);
    let resources = small_resources();
    let home = fixture.home.path();
    let message = |error: Error| error.to_string().replace(&home.display().to_string(), "HOME");
    let refused =
        |engine: Engine, dir: &str| message(engine.open(&home.join(dir), &resources).err().unwrap());
    let dir_with = |name: &str, file: &str, text: &str| {
        fs::create_dir(home.join(name)).unwrap();
        fs::write(home.join(name).join(file), text).unwrap();
    };

    dir_with("memory", "storage", "odgm-view 1 memory\n");
    dir_with("rocksdb", "storage", "odgm-view 1 rocksdb\n");
    let other = Engine::ALL.into_iter().find(|other| *other != engine).unwrap();
    let swapped = refused(engine, other.name()).replace(other.name(), "OTHER").replace(engine.name(), "THIS");
    insta::allow_duplicates! {
        insta::assert_snapshot!(swapped, @"HOME/OTHER holds a view of storage engine OTHER, but THIS was asked for; the option `storage` of a collection cannot change: move the directory away and let the view be rebuilt");
    }
    dir_with("newer", "storage", "odgm-view 2 rocksdb\n");
    dir_with("photos", "cat.jpg", "meow");
    insta::allow_duplicates! {
        insta::assert_snapshot!(refused(engine, "newer"), @r#"HOME/newer/storage says "odgm-view 2 rocksdb", which this build does not know (it reads view format 1): upgrade the node, or move the directory away and let the view be rebuilt"#);
        insta::assert_snapshot!(refused(engine, "photos"), @"HOME/photos is not the directory of a view: it has no file `storage`; check the path, nothing was changed");
    }
    assert_eq!(listing(&home.join("photos")), ["cat.jpg"]);
    let missing = open_snapshot(&home.join("nowhere"), &resources).err().unwrap();
    assert!(matches!(missing, Error::NotAView { .. }), "{missing}");

    // What a crash leaves between the marker's writing and its renaming is no one's.
    dir_with("interrupted", "storage.tmp", "odgm-v");
    engine.open(&home.join("interrupted"), &resources).unwrap();
}

fn listing(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}
