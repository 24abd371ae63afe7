//! Opening what a crash, a bad disk or a careless operator left behind.

use std::fs;
use std::path::Path;

use odgm_log::store::{LogStore, OpenError};
use odgm_log::{GroupId, Offset};

use crate::support::{
    GROUP, OTHER, append, crash_image, cut, files, flip, largest, open, read_all, records, small, written,
};

/// Opening is refused, for a reason without the directory's name, and every file stays as it was.
fn refused(dir: &Path) -> String {
    let before = files(dir);
    let error = LogStore::open(dir, small()).map(drop).expect_err("must be refused");
    assert!(files(dir) == before, "a refusal must not change anything: {error}");
    error.to_string().replace(&format!("{}", dir.display()), "LOG")
}

/// Ten batches of ten records, synced; then ten records more that the watermark file does not know of yet.
fn image_ahead_of_its_watermark() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for batch in 0..10 {
        append(&store, GROUP, &records(batch * 10 + 1..=batch * 10 + 10));
    }
    let watermarks = fs::read(dir.path().join("watermarks")).unwrap();
    for offset in 101..=110 {
        append(&store, GROUP, &records(offset..=offset));
    }
    let image = crash_image(dir.path());
    fs::write(image.path().join("watermarks"), watermarks).unwrap();
    image
}

#[test]
fn a_kill_keeps_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=100));
    append(&store, OTHER, &records(1..=50));
    let image = crash_image(dir.path());
    let recovered = open(image.path());
    assert_eq!(read_all(&recovered, GROUP), records(1..=100));
    assert_eq!(read_all(&recovered, OTHER), records(1..=50));
    append(&recovered, GROUP, &records(101..=101));
}

#[test]
fn a_torn_tail_above_the_watermark_is_dropped() {
    let image = image_ahead_of_its_watermark();
    cut(&largest(image.path(), "log"), 3);
    let store = open(image.path());
    assert_eq!(read_all(&store, GROUP), records(1..=109));
    append(&store, GROUP, &records(110..=110));
    drop(store);
    assert_eq!(read_all(&open(image.path()), GROUP), records(1..=110));
}

#[test]
fn garbage_above_the_watermark_is_dropped() {
    let image = image_ahead_of_its_watermark();
    let wal = largest(image.path(), "log");
    // Pages reach the disk in any order: damage behind the last sync need not be at the very end.
    flip(&wal, written(&wal) - 400);
    let store = open(image.path());
    let last = store.bounds(GROUP).last;
    assert!(last >= Offset(100) && last < Offset(110), "{last}");
    assert_eq!(read_all(&store, GROUP), records(1..=last.0));
}

#[test]
fn a_tail_torn_below_the_watermark_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, OTHER, &records(1..=5));
    append(&store, GROUP, &records(1..=10));
    append(&store, GROUP, &records(11..=20));
    let image = crash_image(dir.path());
    cut(&largest(image.path(), "log"), 3);
    insta::assert_snapshot!(refused(image.path()), @"LOG: group 7: the log ends at offset 10 but records up to 20 were synced: acknowledged records are lost; restore the directory from a backup or another replica");
}

#[test]
fn a_flipped_byte_in_the_write_ahead_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for offset in 1..=20 {
        append(&store, GROUP, &records(offset..=offset));
    }
    let image = crash_image(dir.path());
    let wal = largest(image.path(), "log");
    flip(&wal, written(&wal) / 2);
    insta::assert_snapshot!(refused(image.path()), @"LOG: group 7: the log ends at offset 10 but records up to 20 were synced: acknowledged records are lost; restore the directory from a backup or another replica");
}

/// A store whose write-ahead file has been given the length of what is reserved for it, and how many records are in it. The
/// store looks at the file twice a second.
fn with_a_long_file() -> (tempfile::TempDir, LogStore, u64) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut last = 0;
    loop {
        last += 1;
        append(&store, GROUP, &records(last..=last));
        let wal = largest(dir.path(), "log");
        if fs::metadata(&wal).unwrap().len() >= written(&wal) as u64 + (1 << 20) {
            return (dir, store, last);
        }
        assert!(last < 100_000, "the file system of {} reserves nothing", dir.path().display());
    }
}

#[test]
fn zeros_behind_the_last_record_are_the_end_of_the_log() {
    let (dir, store, last) = with_a_long_file();
    // What was written after the file became long is in it as well.
    append(&store, GROUP, &records(last + 1..=last + 10));
    let last = last + 10;
    let image = crash_image(dir.path());
    let recovered = open(image.path());
    assert_eq!(read_all(&recovered, GROUP), records(1..=last));
    append(&recovered, GROUP, &records(last + 1..=last + 1));
    drop(recovered);
    assert_eq!(read_all(&open(image.path()), GROUP), records(1..=last + 1));

    drop(store);
    let wal = largest(dir.path(), "log");
    assert_eq!(fs::metadata(&wal).unwrap().len(), written(&wal) as u64, "an orderly end cuts the rest off");
    assert_eq!(read_all(&open(dir.path()), GROUP), records(1..=last));
}

#[test]
fn a_long_file_that_lost_what_was_synced_is_refused() {
    let (dir, store, last) = with_a_long_file();
    let watermarks = fs::read(dir.path().join("watermarks")).unwrap();
    append(&store, GROUP, &records(last + 1..=last + 1));
    for (kept, is_refused) in [(watermarks, false), (fs::read(dir.path().join("watermarks")).unwrap(), true)]
    {
        let image = crash_image(dir.path());
        fs::write(image.path().join("watermarks"), kept).unwrap();
        let wal = largest(image.path(), "log");
        let length = fs::metadata(&wal).unwrap().len();
        // The last record is torn, and behind it are zeros instead of the file's end.
        cut(&wal, 3);
        fs::OpenOptions::new().write(true).open(&wal).unwrap().set_len(length).unwrap();
        match is_refused {
            true => assert!(refused(image.path()).contains("acknowledged records are lost")),
            false => assert_eq!(read_all(&open(image.path()), GROUP), records(1..=last)),
        }
    }
}

#[test]
fn a_lost_note_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=10));
    store.put_meta(GROUP, "vote", b"term 1").unwrap();
    let image = crash_image(dir.path());
    cut(&largest(image.path(), "log"), 1);
    insta::assert_snapshot!(refused(image.path()), @"LOG: the write-ahead log ends at change 11 but changes up to 12 were synced: a note or a truncation is lost; restore the directory from a backup or another replica");
}

#[test]
fn a_flipped_byte_in_any_table_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=20));
    store.close().unwrap();
    drop(store);
    let tables: Vec<_> = files(dir.path()).into_keys().filter(|name| name.ends_with(".sst")).collect();
    assert_eq!(tables.len(), 2, "one of the records and one about them");
    for table in tables {
        let image = crash_image(dir.path());
        flip(&image.path().join(&table), 20);
        let error = refused(image.path());
        assert!(error.contains(&table) && error.contains("group"), "{error}");
    }
}

#[test]
fn missing_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=10));

    let without_wal = crash_image(dir.path());
    fs::remove_file(largest(without_wal.path(), "log")).unwrap();
    insta::assert_snapshot!(refused(without_wal.path()), @"LOG: group 7: the log ends at offset 0 but records up to 10 were synced: acknowledged records are lost; restore the directory from a backup or another replica");

    let without_database = crash_image(dir.path());
    for name in files(without_database.path()).into_keys().filter(|name| name != "watermarks") {
        fs::remove_file(without_database.path().join(name)).unwrap();
    }
    insta::assert_snapshot!(refused(without_database.path()), @"LOG: group 7: the log ends at offset 0 but records up to 10 were synced: acknowledged records are lost; restore the directory from a backup or another replica");

    let without_watermarks = crash_image(dir.path());
    fs::remove_file(without_watermarks.path().join("watermarks")).unwrap();
    insta::assert_snapshot!(refused(without_watermarks.path()), @"LOG/watermarks: the file is missing, so nothing tells whether synced records were lost; to accept the log as it is, create it empty");
    // What the message says is the way out.
    fs::write(without_watermarks.path().join("watermarks"), b"").unwrap();
    assert_eq!(read_all(&open(without_watermarks.path()), GROUP), records(1..=10));
}

#[test]
fn a_damaged_watermark_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for offset in 1..=4 {
        append(&store, GROUP, &records(offset..=offset));
    }
    let image = |damage: &[usize]| {
        let image = crash_image(dir.path());
        damage.iter().for_each(|at| flip(&image.path().join("watermarks"), *at));
        image
    };
    insta::assert_snapshot!(refused(image(&[3]).path()), @"LOG/watermarks: this is no watermark file; to accept the log as it is, empty this file (truncate -s 0)");
    insta::assert_snapshot!(refused(image(&[20]).path()), @"LOG/watermarks: the header is damaged; to accept the log as it is, empty this file (truncate -s 0)");
    insta::assert_snapshot!(refused(image(&[11]).path()), @"LOG/watermarks: format 254; this build reads format 1: upgrade the node");
    insta::assert_snapshot!(refused(image(&[40, 80]).path()), @"LOG/watermarks: both copies of slot 0 are damaged; to accept the log as it is, empty this file (truncate -s 0)");
    // One copy of a slot may be torn: the other one is a promise, if an older one.
    for one in [40, 80] {
        assert_eq!(read_all(&open(image(&[one]).path()), GROUP), records(1..=4));
    }
}

#[test]
fn a_first_start_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("watermarks"), b"").unwrap();
    let store = open(dir.path());
    append(&store, GroupId(1), &records(1..=1));
    drop(store);

    // RocksDB was created but its tables were not.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("watermarks"), b"").unwrap();
    drop(rocksdb::DB::open_default(dir.path()).unwrap());
    append(&open(dir.path()), GroupId(1), &records(1..=1));
}

#[test]
fn a_directory_without_a_log_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(LogStore::open_read_only(dir.path()), Err(OpenError::Watermarks { .. })));
    assert_eq!(files(dir.path()).len(), 0);
}
