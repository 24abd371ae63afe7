//! Records that are put back in front of a log that began behind a snapshot.

use odgm_log::store::{ChangeError, LogStore, ReadError, ReadLimit};
use odgm_log::{Hash, Offset, Record, chain};

use crate::support::{GROUP, append, crash_image, open, read_all, records};

/// More than two intervals of checkpoints.
const ALL: u64 = 2_500;

/// The last record that the snapshot has; a checkpoint is there.
const SNAPSHOT: u64 = 2_048;

fn chain_of(through: u64) -> Hash {
    records(1..=through).iter().fold(Hash::ZERO, chain::link)
}

/// A log with all records, and one that began behind the snapshot.
fn two(dir: &std::path::Path) -> (LogStore, LogStore) {
    let whole = open(&dir.join("whole"));
    append(&whole, GROUP, &records(1..=ALL));
    let partial = open(&dir.join("partial"));
    partial.restart_after(GROUP, Offset(SNAPSHOT), chain_of(SNAPSHOT)).unwrap();
    append(&partial, GROUP, &records(SNAPSHOT + 1..=ALL));
    (whole, partial)
}

/// Takes what one answer of the whole log offers, in pieces of so many records, from the newest on.
fn fetch(whole: &LogStore, partial: &LogStore, piece: usize) -> usize {
    let links = whole.links_below(GROUP, partial.bounds(GROUP).first).unwrap();
    let mut end = links.steps.len();
    while end > 0 {
        let start = end.saturating_sub(piece);
        let from = Offset(links.first.0 + start as u64);
        let limit = ReadLimit { records: end - start, bytes: usize::MAX };
        let records = whole.read(GROUP, from, limit).unwrap();
        partial.prepend(GROUP, links.steps[start].0, &records).unwrap();
        end = start;
    }
    links.steps.len()
}

#[test]
fn a_log_is_made_whole_again_from_the_newest_record_to_the_oldest() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, partial) = two(dir.path());
    assert_eq!(fetch(&whole, &partial, 100), 1_024, "down to a checkpoint");
    assert_eq!(partial.bounds(GROUP).first, Offset(1_025));
    assert_eq!(read_all(&partial, GROUP), records(1_025..=ALL));
    partial.verify(GROUP, &mut |_, _| ()).unwrap();

    // What was taken stays, and it goes on from there.
    let image = crash_image(&dir.path().join("partial"));
    drop(partial);
    let partial = open(image.path());
    assert_eq!(partial.bounds(GROUP).first, Offset(1_025));
    assert_eq!(fetch(&whole, &partial, 1_000), 1_024);
    assert_eq!(fetch(&whole, &partial, 1_000), 0, "there is nothing below");
    assert_eq!(read_all(&partial, GROUP), records(1..=ALL));
    let verified = partial.verify(GROUP, &mut |_, _| ()).unwrap();
    assert_eq!((verified.first, verified.chain), (Offset(1), chain_of(ALL)));
    for bytes in [1, 10_000, 50_000, 1 << 40] {
        assert_eq!(partial.first_within(GROUP, bytes), whole.first_within(GROUP, bytes), "{bytes} bytes");
    }
    append(&partial, GROUP, &records(ALL + 1..=ALL + 3));
    partial.trim(GROUP, Offset(2_000)).unwrap();
    assert_eq!(read_all(&partial, GROUP), records(2_000..=ALL + 3));
    partial.verify(GROUP, &mut |_, _| ()).unwrap();
    drop(partial);
    open(image.path()).verify(GROUP, &mut |_, _| ()).unwrap();
}

#[test]
fn only_the_records_that_were_there_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, partial) = two(dir.path());
    let offered: Vec<Record> = records(2_001..=SNAPSHOT);
    let before = whole.chain_at(GROUP, Offset(2_000)).unwrap();

    let mut changed = offered.clone();
    changed[3].payload = records(7..=7)[0].payload.clone();
    let mut moved = offered.clone();
    moved[3].term.0 += 1;
    for (before, wrong) in [(before, changed), (before, moved), (Hash::ZERO, offered.clone())] {
        let refused = partial.prepend(GROUP, before, &wrong).unwrap_err();
        assert!(matches!(refused, ChangeError::OtherChain { .. }), "{refused}");
    }
    for wrong in [&offered[..10], &records(2_001..=SNAPSHOT + 1), &records([2_001, 2_003])] {
        let refused = partial.prepend(GROUP, before, wrong).unwrap_err();
        assert!(matches!(refused, ChangeError::OutOfRange { .. }), "{refused}");
    }
    assert_eq!(partial.bounds(GROUP).first, Offset(SNAPSHOT + 1), "nothing of it became readable");
    let refused = partial.read(GROUP, Offset(SNAPSHOT), ReadLimit::default()).unwrap_err();
    assert!(matches!(refused, ReadError::BelowFloor { .. }), "{refused}");
    partial.prepend(GROUP, before, &offered).unwrap();
    assert_eq!(partial.bounds(GROUP).first, Offset(2_001));
}
