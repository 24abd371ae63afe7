//! Appending, reading, and taking away.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use odgm_log::store::{AppendError, Bounds, LogStore, OpenError, Options, ReadError, ReadLimit};
use odgm_log::{GroupId, Hash, Offset, Record, chain};
use proptest::prelude::*;

use crate::support::{
    ALL, GROUP, OTHER, append, append_later, crash_image, open, read_all, record, records, small,
};

fn bounds(first: u64, last: u64, durable: u64) -> Bounds {
    Bounds { first: Offset(first), last: Offset(last), durable: Offset(durable) }
}

fn chain_of(records: &[Record]) -> Hash {
    records.iter().fold(Hash::ZERO, chain::link)
}

#[test]
fn what_is_appended_is_readable_then_durable_then_still_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.bounds(GROUP), bounds(1, 0, 0));
    assert_eq!(read_all(&store, GROUP), []);

    let outcome = append_later(&store, GROUP, &records(1..=5));
    assert_eq!(read_all(&store, GROUP), records(1..=5));
    outcome.recv().unwrap().unwrap();
    assert_eq!(store.bounds(GROUP), bounds(1, 5, 5));
    append(&store, OTHER, &records(1..=2));
    store.close().unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.groups(), [GROUP, OTHER]);
    assert_eq!(store.bounds(GROUP), bounds(1, 5, 5));
    assert_eq!(read_all(&store, GROUP), records(1..=5));
    assert_eq!(read_all(&store, OTHER), records(1..=2));
    assert_eq!(store.chain_at(GROUP, Offset(5)).unwrap(), chain_of(&records(1..=5)));
    append(&store, GROUP, &records(6..=6));
    assert_eq!(store.chain_at(GROUP, Offset(6)).unwrap(), chain_of(&records(1..=6)));
}

#[test]
fn without_a_thread_nothing_is_durable_until_somebody_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path(), Options { sync_thread: false, ..small() }).unwrap();
    let first = append_later(&store, GROUP, &records(1..=3));
    store.sync().unwrap();
    first.recv().unwrap().unwrap();

    let later = append_later(&store, GROUP, &records(4..=5));
    assert_eq!(store.bounds(GROUP), bounds(1, 5, 3));
    later.try_recv().unwrap_err();
    let image = crash_image(dir.path());
    // A note waits for a sync, which is everybody's.
    store.put_meta(GROUP, "note", b"7").unwrap();
    later.recv().unwrap().unwrap();
    assert_eq!(store.bounds(GROUP), bounds(1, 5, 5));

    let crashed = open(image.path());
    assert_eq!(read_all(&crashed, GROUP), records(1..=3));
    crashed.close().unwrap();
    crashed.sync().unwrap_err();
}

#[test]
fn memory_and_disk_give_the_same_records_within_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let weight = record(1, "value-100").weight();
    let store = LogStore::open(dir.path(), Options { tail_cache_bytes: 20 * weight, ..small() }).unwrap();
    for offset in 1..=100 {
        append_later(&store, GROUP, &records(offset..=offset));
    }
    append(&store, GROUP, &[]);

    let limit = ReadLimit { records: 7, bytes: usize::MAX };
    assert_eq!(store.read(GROUP, Offset(1), limit).unwrap(), records(1..=7));
    assert_eq!(store.read(GROUP, Offset(90), limit).unwrap(), records(90..=96));
    assert_eq!(store.read(GROUP, Offset(98), limit).unwrap(), records(98..=100));
    assert_eq!(store.read(GROUP, Offset(101), limit).unwrap(), []);
    let stats = store.stats();
    assert_eq!((stats.cache_misses, stats.cache_hits), (1, 2));

    // A record larger than the limit is returned alone, rather than never.
    let bytes = ReadLimit { records: 100, bytes: 1 };
    assert_eq!(store.read(GROUP, Offset(1), bytes).unwrap(), records(1..=1));
    assert_eq!(store.read(GROUP, Offset(99), bytes).unwrap(), records(99..=99));
}

#[test]
fn only_the_next_offset_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=3));
    for wrong in [records(3..=3), records(5..=5), records([4, 6])] {
        let error = store.append(GROUP, &wrong, Box::new(|_| unreachable!("refused"))).unwrap_err();
        assert!(matches!(error, AppendError::NotContiguous { group: GROUP, .. }), "{error}");
    }
    assert_eq!(store.bounds(GROUP), bounds(1, 3, 3));
    append(&store, GROUP, &records(4..=4));
}

#[test]
fn trimmed_records_are_gone_and_the_rest_can_still_be_proven() {
    let dir = tempfile::tempdir().unwrap();
    let all = records(1..=2_500);
    let store = open(dir.path());
    append(&store, GROUP, &all);
    store.trim(GROUP, Offset(1_500)).unwrap();
    store.trim(GROUP, Offset(1_000)).unwrap();

    for store in [store.clone(), open(crash_image(dir.path()).path())] {
        assert_eq!(store.bounds(GROUP), bounds(1_500, 2_500, 2_500));
        let error = store.read(GROUP, Offset(1_499), ALL).unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"group 7: offset 1499 was trimmed; the first record kept is 1500");
        }
        assert_eq!(read_all(&store, GROUP), all[1_499..]);
        assert!(matches!(store.chain_at(GROUP, Offset(1_498)), Err(ReadError::BelowFloor { .. })));
        for offset in [1_499, 1_500, 2_047, 2_048, 2_049, 2_500] {
            assert_eq!(store.chain_at(GROUP, Offset(offset as u64)).unwrap(), chain_of(&all[..offset]));
        }
        let verified = store.verify(GROUP, &mut |_, _| ()).unwrap();
        assert_eq!((verified.first, verified.chain), (Offset(1_500), chain_of(&all)));
    }

    store.trim(GROUP, Offset(2_501)).unwrap();
    assert_eq!(store.bounds(GROUP), bounds(2_501, 2_500, 2_500));
    insta::assert_snapshot!(store.trim(GROUP, Offset(2_502)).unwrap_err(), @"group 7: offset 2502 is outside the log, which holds 2501 to 2500");
    drop(store);
    let store = open(dir.path());
    append(&store, GROUP, &records(2_501..=2_501));
    assert_eq!(read_all(&store, GROUP), records(2_501..=2_501));
    store.verify(GROUP, &mut |_, _| ()).unwrap();
}

#[test]
fn truncated_records_are_replaced_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path(), Options::default()).unwrap();
    append(&store, GROUP, &records(1..=1_100));
    store.truncate_after(GROUP, Offset(1_000)).unwrap();
    assert_eq!(store.bounds(GROUP), bounds(1, 1_000, 1_000));
    let image = crash_image(dir.path());
    assert_eq!(read_all(&open(image.path()), GROUP), records(1..=1_000));

    let mut kept = records(1..=1_000);
    let replaced: Vec<_> = (1_001..=1_050).map(|offset| record(offset, "another")).collect();
    append(&store, GROUP, &replaced);
    kept.extend(replaced);
    assert_eq!(read_all(&store, GROUP), kept);
    drop(store);
    let store = open(dir.path());
    assert_eq!(read_all(&store, GROUP), kept);
    assert_eq!(store.verify(GROUP, &mut |_, _| ()).unwrap().chain, chain_of(&kept));

    store.trim(GROUP, Offset(500)).unwrap();
    insta::assert_snapshot!(store.truncate_after(GROUP, Offset(498)).unwrap_err(), @"group 7: offset 498 is outside the log, which holds 500 to 1050");
    store.truncate_after(GROUP, Offset(499)).unwrap();
    assert_eq!(store.bounds(GROUP), bounds(500, 499, 499));
}

#[test]
fn a_removed_group_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=1_100));
    append(&store, OTHER, &records(1..=3));
    store.put_meta(GROUP, "vote", b"1").unwrap();
    store.remove_group(GROUP).unwrap();
    for store in [store.clone(), open(crash_image(dir.path()).path())] {
        assert_eq!(store.groups(), [OTHER]);
        assert_eq!(store.bounds(GROUP), bounds(1, 0, 0));
        assert_eq!(store.get_meta(GROUP, "vote").unwrap(), None);
        assert_eq!(read_all(&store, OTHER), records(1..=3));
    }
    insta::assert_snapshot!(store.remove_group(GROUP).unwrap_err(), @"group 7 has no log here");
}

#[test]
fn notes_are_kept_replaced_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.put_meta(GROUP, "vote", b"term 1").unwrap();
    store.put_meta(GROUP, "vote", b"term 2").unwrap();
    store.put_meta(GROUP, "snapshot", b"12").unwrap();
    store.delete_meta(GROUP, "snapshot").unwrap();
    insta::assert_snapshot!(store.put_meta(GROUP, "large", &vec![0; 2 << 20]).unwrap_err(), @r#"note "large" has 2097152 bytes; a name has at most 160, a note at most 1048576"#);

    let store = open(crash_image(dir.path()).path());
    assert_eq!(store.groups(), [GROUP]);
    assert_eq!(store.get_meta(GROUP, "vote").unwrap().as_deref(), Some(&b"term 2"[..]));
    assert_eq!(store.get_meta(GROUP, "snapshot").unwrap(), None);
}

#[test]
fn a_directory_has_one_user_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=3));
    assert!(matches!(LogStore::open(dir.path(), small()), Err(OpenError::InUse { .. })));
    assert!(matches!(LogStore::open_read_only(dir.path()), Err(OpenError::InUse { .. })));

    store.close().unwrap();
    let refused = store.append(GROUP, &records(4..=4), Box::new(|_| unreachable!("refused"))).unwrap_err();
    insta::assert_snapshot!(refused, @"nothing was written: the log store has stopped: it was closed, or opened for reading only");
    assert_eq!(read_all(&store, GROUP), records(1..=3));
    drop(store);

    let reader = LogStore::open_read_only(dir.path()).unwrap();
    assert_eq!(read_all(&reader, GROUP), records(1..=3));
    reader.verify(GROUP, &mut |_, _| ()).unwrap();
    insta::assert_snapshot!(reader.put_meta(GROUP, "vote", b"1").unwrap_err(), @"the log store has stopped: it was closed, or opened for reading only");
}

#[test]
fn space_below_the_reserve_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let reserve = |free_space_reserve| Options { free_space_reserve, ..Options::default() };
    let store = LogStore::open(dir.path(), reserve(u64::MAX)).unwrap();
    assert!(store.is_low_on_space() && store.space().is_low());
    drop(store);
    let store = LogStore::open(dir.path(), reserve(0)).unwrap();
    assert!(!store.is_low_on_space() && store.space().free > 0);
}

/// Writers of several groups, each with a reader right behind that goes through the cache and the disk.
#[test]
fn readers_follow_writers_of_several_groups() {
    const RECORDS: u64 = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let store =
        LogStore::open(dir.path(), Options { tail_cache_bytes: 16 << 10, ..Options::default() }).unwrap();
    thread::scope(|scope| {
        for group in (1..=3).map(GroupId) {
            let store = &store;
            let (done, durable) = mpsc::channel();
            scope.spawn(move || {
                let reported = Arc::new(AtomicU64::new(0));
                for first in (1..=RECORDS).step_by(4) {
                    let (done, reported) = (done.clone(), reported.clone());
                    let callback = move |outcome: Result<(), _>| {
                        outcome.unwrap();
                        assert_eq!(
                            reported.swap(first, Ordering::Relaxed),
                            first.saturating_sub(4),
                            "in order"
                        );
                        done.send(first + 3).unwrap();
                    };
                    store.append(group, &records(first..first + 4), Box::new(callback)).unwrap();
                }
            });
            scope.spawn(move || {
                let mut read = Vec::new();
                for offset in durable {
                    assert!(store.bounds(group).durable >= Offset(offset));
                    while read.len() < usize::try_from(offset).unwrap() {
                        let from = Offset(read.len() as u64 + 1);
                        read.extend(
                            store.read(group, from, ReadLimit { records: 10, bytes: 10_000 }).unwrap(),
                        );
                    }
                }
                assert_eq!(read, records(1..=RECORDS));
            });
        }
    });
    assert_eq!(store.stats().records, 3 * RECORDS);
}

#[derive(Clone, Debug)]
enum Step {
    Append(u32, u64),
    Trim(u32, u64),
    Truncate(u32, u64),
    Remove(u32),
    Reopen,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let group = || 1u32..4;
    prop_oneof![
        8 => (group(), 1..700u64).prop_map(|(group, count)| Step::Append(group, count)),
        2 => (group(), 0..1_000u64).prop_map(|(group, at)| Step::Trim(group, at)),
        2 => (group(), 0..1_000u64).prop_map(|(group, at)| Step::Truncate(group, at)),
        1 => group().prop_map(Step::Remove),
        1 => Just(Step::Reopen),
        2 => Just(Step::Crash),
    ]
}

/// What a group holds: the number of trimmed records, the chain, and the rest.
#[derive(Default)]
struct Model {
    trimmed: usize,
    all: Vec<Record>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_behaves_like_a_vector_per_group(steps in prop::collection::vec(step(), 1..25)) {
        let mut dir = tempfile::tempdir().unwrap();
        let options = Options { tail_cache_bytes: 40_000, free_space_reserve: 0, ..Options::default() };
        let mut store = LogStore::open(dir.path(), options.clone()).unwrap();
        let mut models: BTreeMap<GroupId, Model> = BTreeMap::new();
        for (turn, step) in steps.into_iter().enumerate() {
            match step {
                Step::Append(group, count) => {
                    let model = models.entry(GroupId(group)).or_default();
                    let next = model.all.len() as u64 + 1;
                    let new: Vec<_> = (next..next + count).map(|offset| record(offset, &format!("{turn}"))).collect();
                    append(&store, GroupId(group), &new);
                    model.all.extend(new);
                }
                Step::Trim(group, at) => if let Some(model) = models.get_mut(&GroupId(group)) {
                    let at = model.trimmed.max(usize::try_from(at).unwrap() % (model.all.len() + 1));
                    store.trim(GroupId(group), Offset(at as u64 + 1)).unwrap();
                    model.trimmed = at;
                }
                Step::Truncate(group, at) => if let Some(model) = models.get_mut(&GroupId(group)) {
                    let at = model.trimmed.max(usize::try_from(at).unwrap() % (model.all.len() + 1));
                    store.truncate_after(GroupId(group), Offset(at as u64)).unwrap();
                    model.all.truncate(at);
                }
                Step::Remove(group) => if models.remove(&GroupId(group)).is_some() {
                    store.remove_group(GroupId(group)).unwrap();
                }
                Step::Reopen => {
                    store.close().unwrap();
                    drop(store);
                    store = LogStore::open(dir.path(), options.clone()).unwrap();
                }
                Step::Crash => {
                    let image = crash_image(dir.path());
                    drop(store);
                    dir = image;
                    store = LogStore::open(dir.path(), options.clone()).unwrap();
                }
            }
            prop_assert_eq!(store.groups(), models.keys().copied().collect::<Vec<_>>());
            for (group, model) in &models {
                let last = model.all.len() as u64;
                prop_assert_eq!(store.bounds(*group), bounds(model.trimmed as u64 + 1, last, last));
                let kept = &model.all[model.trimmed..];
                prop_assert!(read_all(&store, *group) == kept);
                prop_assert_eq!(store.verify(*group, &mut |_, _| ()).unwrap().chain, chain_of(&model.all));
            }
        }
    }
}
