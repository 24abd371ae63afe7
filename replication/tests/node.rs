//! Stories of one node's partitions, through the crate's public interface, on real files.

#![allow(clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use odgm_log::body::{CursorMoved, Delete, Trimmed};
use odgm_log::store::{self, LogStore};
use odgm_log::{Body, Cause, GroupId, Offset, Payload};
use odgm_projections::{ChangeKind, Object, Outcome, RecordSource};
use odgm_replication::{
    CatalogueError, Consistency, Definition, EventReader, LookupError, Manager, Options, Partition,
    ProposeError, StartPoint, StoppedNode, StreamError,
};
use support::{collection, definition, put, start};

async fn write(partition: &Partition, payload: Payload) -> Offset {
    partition.propose(payload).await.expect("written").offset
}

fn dump(partition: &Partition) -> String {
    let mut text = Vec::new();
    partition.view().dump(&mut text).expect("a dump");
    String::from_utf8(text).expect("text")
}

fn events(reader: &mut EventReader) -> Vec<(u64, ChangeKind, String)> {
    let batch = reader.read().expect("readable");
    batch.events.into_iter().map(|e| (e.change.offset.0, e.change.kind, e.change.object)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_has_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    for engine in ["rocksdb", "memory"] {
        let partition = collection(&manager, engine, &[("storage", engine)]).await;
        for n in 0..200 {
            write(&partition, put(&format!("object-{}", n % 7), "n", &n.to_string())).await;
        }
    }
    let before: Vec<_> =
        ["rocksdb", "memory"].map(|name| dump(&manager.partition(name, 0).expect("there"))).into();
    manager.shutdown().await;
    drop(manager);

    let manager = start(dir.path()).await;
    let after: Vec<_> =
        ["rocksdb", "memory"].map(|name| dump(&manager.partition(name, 0).expect("there"))).into();
    assert_eq!(before, after);

    // The view is only a projection: without it the log gives the same bytes.
    let group = manager.partition("rocksdb", 0).expect("there").group();
    manager.shutdown().await;
    drop(manager);
    std::fs::remove_dir_all(dir.path().join("views").join(group.to_string())).expect("removed");
    let manager = start(dir.path()).await;
    assert_eq!(before[0], dump(&manager.partition("rocksdb", 0).expect("there")));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_share_offsets_without_gaps_and_fsyncs_without_waiting() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let first = partition.head().0 + 1;
    let before = manager.log_stats().fsyncs;
    let writers = (0..32).map(|writer| {
        let partition = Arc::clone(&partition);
        tokio::spawn(async move {
            let mut offsets = Vec::new();
            for n in 0..50 {
                offsets.push(write(&partition, put(&format!("w{writer}"), "n", &n.to_string())).await.0);
            }
            assert!(offsets.is_sorted(), "a writer's records are in the order of its writes");
            offsets
        })
    });
    let mut offsets = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        offsets.extend(writer.await.expect("no panic"));
    }
    offsets.sort_unstable();
    assert_eq!(offsets, (first..first + 1_600).collect::<Vec<_>>());
    let fsyncs = manager.log_stats().fsyncs - before;
    assert!(fsyncs < 1_600, "{fsyncs} fsyncs for 1600 writes of 32 writers: nothing was shared");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_that_expect_the_same_version_one_wins() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let contenders = (0..16).map(|n| {
        let partition = Arc::clone(&partition);
        tokio::spawn(async move {
            let mut payload = put("o", "winner", &n.to_string());
            if let Body::SetValues(body) = &mut payload.body {
                body.expected_version = Some(0);
            }
            partition.propose(payload).await.expect("recorded").outcome
        })
    });
    let mut won = 0;
    for contender in contenders.collect::<Vec<_>>() {
        match contender.await.expect("no panic") {
            Outcome::Changed { version: 1 } => won += 1,
            Outcome::VersionMismatch { expected: 0, current: 1 } => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(won, 1);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_come_and_go_and_the_bootstrapped_do_not_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    manager.bootstrap(vec![definition("a", 2, &[]), definition("b", 1, &[])]).await.expect("created");
    manager.ready().await;
    let groups: Vec<_> = manager.collection("a").expect("there").groups().collect();
    write(&manager.partition("a", 1).expect("there"), put("o", "k", "v")).await;

    let again = manager.create_collection(definition("a", 2, &[])).await;
    assert!(matches!(again, Err(CatalogueError::AlreadyExists(_))));
    let reader = EventReader::open(manager.partition("a", 1).expect("there"), StartPoint::Latest);
    let mut reader = reader.expect("opened");
    manager.delete_collection("a").await.expect("deleted");
    assert!(matches!(reader.ready().await, Err(StreamError::Closed)), "streams of a deleted collection end");
    assert!(matches!(manager.partition("a", 0), Err(LookupError::NoCollection { .. })));
    assert!(matches!(manager.delete_collection("a").await, Err(CatalogueError::NotFound(_))));
    for group in &groups {
        assert!(!dir.path().join("views").join(group.to_string()).exists(), "its views are removed");
        assert!(!manager.log().groups().contains(group), "its logs are removed");
    }
    manager.shutdown().await;
    drop((reader, manager));

    let manager = start(dir.path()).await;
    manager.bootstrap(vec![definition("a", 2, &[]), definition("b", 3, &[])]).await.expect("nothing to do");
    assert!(manager.collection("a").is_none(), "a deleted collection does not come back");
    assert_eq!(
        manager.collection("b").expect("there").partition_count(),
        1,
        "a differing definition is ignored"
    );

    manager.create_collection(definition("a", 1, &[])).await.expect("an explicit creation is another matter");
    let partition = manager.partition("a", 0).expect("there");
    assert!(!groups.contains(&partition.group()), "groups are never reused");
    assert_eq!(partition.head(), Offset(2), "it begins with its rules and nothing else");
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_begin_anywhere_and_miss_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let created = write(&partition, put("o", "k", "1")).await.0;
    let updated = write(&partition, put("o", "k", "2")).await.0;
    let absent = Payload { cause: Cause::default(), body: Body::Delete(Delete { object: "ghost".into() }) };
    let nothing = write(&partition, absent).await.0;

    let open = |start| EventReader::open(Arc::clone(&partition), start);
    let mut earliest = open(StartPoint::Earliest).expect("opened");
    let o = || "o".to_owned();
    let all = vec![(created, ChangeKind::Created, o()), (updated, ChangeKind::Updated, o())];
    assert_eq!(events(&mut earliest), all, "the rules and what changed nothing are no events");
    assert_eq!(earliest.progress().0, nothing, "but they are progress");

    let mut from_offset = open(StartPoint::Offset(Offset(updated))).expect("opened");
    assert_eq!(events(&mut from_offset), all[1..]);
    let second = partition.view().change("o", Offset(updated)).expect("readable").expect("a change");
    let mut from_time = open(StartPoint::Time(second.time)).expect("opened");
    assert_eq!(events(&mut from_time).last(), all.last());
    assert!(matches!(open(StartPoint::After(Offset(99))), Err(StreamError::Ahead { .. })));

    let mut latest = open(StartPoint::Latest).expect("opened");
    assert_eq!(events(&mut latest), vec![]);
    let news = tokio::spawn(async move {
        latest.ready().await.expect("open");
        events(&mut latest)
    });
    let fresh = write(&partition, put("p", "k", "3")).await.0;
    assert_eq!(news.await.expect("no panic"), vec![(fresh, ChangeKind::Created, "p".to_owned())]);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_trims_behind_a_snapshot_and_says_so() {
    trims_behind_a_snapshot("single").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_trims_the_log_of_a_raft_group_too() {
    trims_behind_a_snapshot("raft").await;
}

async fn trims_behind_a_snapshot(shard_type: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = Options::new(dir.path());
    options.retention_interval = Duration::from_millis(20);
    let manager = Manager::open(options).await.expect("the node starts");
    let mut wire = definition("c", 1, &[("retention", "16KiB")]).wire;
    wire.shard_type = shard_type.to_owned();
    manager.create_collection(Definition::from_wire(wire).expect("valid")).await.expect("created");
    let partition = manager.partition("c", 0).expect("in service");
    let lease = CursorMoved { name: "slow".into(), position: Some(Offset(2)), allowed_lag: 100_000 };
    write(&partition, Payload { cause: Cause::default(), body: Body::CursorMoved(lease.clone()) }).await;
    // Some 60 records of 1 KiB are worth keeping 16 of; the trim waits for the lease.
    for n in 0..4_096 {
        write(&partition, put(&format!("o{}", n % 10), "k", &format!("{n:01024}"))).await;
    }
    assert_eq!(partition.bounds().first, Offset(1), "the lease holds everything back");
    let released = CursorMoved { position: None, ..lease };
    write(&partition, Payload { cause: Cause::default(), body: Body::CursorMoved(released) }).await;
    let before = dump_state(&partition);

    let trimmed = tokio::time::timeout(Duration::from_secs(30), async {
        while partition.bounds().first == Offset(1) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        partition.bounds().first
    });
    let first = trimmed.await.expect("the retention takes effect");
    assert_eq!(dump_state(&partition), before, "trimming changes no object");
    let below = EventReader::open(Arc::clone(&partition), StartPoint::Offset(Offset(1)));
    assert!(matches!(below, Err(StreamError::BelowFloor { first: f, .. }) if f >= first));
    assert_eq!(partition.records().first(), first);
    manager.shutdown().await;
    drop((partition, manager));

    let manager = start(dir.path()).await;
    let partition = manager.partition("c", 0).expect("in service");
    partition.confirm(Consistency::Linearizable).await.expect("confirmed");
    assert_eq!(dump_state(&partition), before);
    // Without its view the state below the floor comes from the snapshot.
    let group = partition.group().to_string();
    drop(partition);
    manager.shutdown().await;
    drop(manager);
    std::fs::remove_dir_all(dir.path().join("views").join(group)).expect("removed");
    let manager = start(dir.path()).await;
    let partition = manager.partition("c", 0).expect("in service");
    partition.confirm(Consistency::Linearizable).await.expect("confirmed");
    assert_eq!(dump_state(&partition), before);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_below_an_applied_trim_is_told_so_while_the_log_still_has_the_records() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start_without_rounds(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let open = |start| EventReader::open(Arc::clone(&partition), start);
    let mut slow = open(StartPoint::Earliest).expect("opened");
    for n in 0..9 {
        write(&partition, put("o", "k", &n.to_string())).await;
    }
    let below = write(&partition, put("o", "k", "9")).await;
    write(&partition, Payload { cause: Cause::default(), body: Body::Trimmed(Trimmed { below }) }).await;
    assert_eq!(partition.bounds().first, Offset(1), "nothing has been deleted yet");

    assert!(matches!(slow.read(), Err(StreamError::BelowFloor { first, .. }) if first == below));
    assert!(matches!(
        open(StartPoint::Offset(below.previous())),
        Err(StreamError::BelowFloor { requested, first, .. }) if (requested, first) == (below.previous(), below)
    ));
    for start in [StartPoint::Earliest, StartPoint::Offset(below)] {
        let kept = vec![(below.0, ChangeKind::Updated, "o".to_owned())];
        assert_eq!(events(&mut open(start).expect("opened")), kept);
    }
    manager.shutdown().await;
}

/// A node whose rounds of retention are too far apart to be met.
async fn start_without_rounds(dir: &Path) -> Arc<Manager> {
    let mut options = Options::new(dir);
    options.retention_interval = Duration::from_secs(3_600);
    let manager = Manager::open(options).await.expect("the node starts");
    manager.ready().await;
    manager
}

/// The objects and their entries, without what trimming is allowed to change.
fn dump_state(partition: &Partition) -> Vec<Object> {
    let summaries = partition.view().list_objects("", None, 1_000).expect("listed");
    let object = |id: &str| partition.view().object(id).expect("readable").expect("there");
    summaries.iter().map(|summary| object(&summary.id)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_in_flight_is_refused_and_nothing_of_it_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = Options::new(dir.path());
    options.limits.in_flight_bytes = 10_000;
    let manager = Manager::open(options).await.expect("the node starts");
    let partition = collection(&manager, "c", &[]).await;
    let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..1_000 {
        let sender = sender.clone();
        partition.submit(put(&format!("o{n}"), "k", &"x".repeat(1_000)), move |answer| {
            let _ = sender.send((n, answer));
        });
    }
    drop(sender);
    let (mut written, mut refused) = (0, 0);
    while let Some((n, answer)) = answers.recv().await {
        let there = partition.view().object(&format!("o{n}")).expect("readable").is_some();
        match answer {
            Ok(_) => {
                assert!(there);
                written += 1;
            }
            Err(error) => {
                assert!(matches!(error, ProposeError::Overloaded { .. }) && error.not_applied(), "{error}");
                assert!(!there);
                refused += 1;
            }
        }
    }
    assert!(written > 0 && refused > 0, "{written} written, {refused} refused");
    assert_eq!(partition.in_flight(), 0);
    manager.shutdown().await;
    let late = partition.propose(put("o", "k", "v")).await;
    assert!(matches!(late, Err(ProposeError::Stopped { .. })), "a closed partition says so: {late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_deletions_are_forgotten_and_their_versions_never_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut options = Options::new(dir.path());
    options.limits.tombstones = 2;
    options.retention_interval = Duration::from_millis(10);
    let manager = Manager::open(options).await.expect("the node starts");
    let partition = collection(&manager, "c", &[]).await;
    for n in 0..5 {
        let object = format!("o{n}");
        for value in 0..=n {
            write(&partition, put(&object, "k", &value.to_string())).await;
        }
        let body = Body::Delete(Delete { object });
        write(&partition, Payload { cause: Cause::default(), body }).await;
    }
    let mut visible = partition.visible();
    while partition.view().header().tombstones > 2 {
        visible.changed().await.expect("the partition is open");
    }
    let header = partition.view().header();
    assert_eq!(header.tombstones, 2, "no more are forgotten than are too many");
    write(&partition, put("o0", "k", "again")).await;
    let again = partition.view().object("o0").expect("readable").expect("created again");
    assert!(again.version > 2, "the first o0 was deleted with version 2");
    assert_eq!(again.version, header.version_floor + 1);
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_of_a_deleted_collection_goes_at_the_next_start() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let deleted = partition.group();
    manager.delete_collection("c").await.expect("deleted");
    let kept = collection(&manager, "d", &[]).await.group();
    manager.shutdown().await;
    drop((partition, manager));

    // As a crash leaves it between the deletion and the removal of the data; and a group that was never given out.
    let unknown = GroupId(kept.get() + 1);
    for group in [deleted, unknown] {
        let view = dir.path().join("views").join(group.to_string());
        std::fs::create_dir_all(&view).expect("a folder");
    }
    let log = LogStore::open(&dir.path().join("log"), store::Options::default()).expect("the log store");
    log.put_meta(deleted, "a.note", b"left").expect("written");
    log.close().expect("closed");
    drop(log);

    let manager = start(dir.path()).await;
    let left = |group: GroupId| dir.path().join("views").join(group.to_string()).exists();
    assert_eq!((left(deleted), left(kept), left(unknown)), (false, true, true));
    assert!(!manager.log().groups().contains(&deleted));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_reserve_only_what_frees_space_is_recorded() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    let partition = collection(&manager, "c", &[]).await;
    let cursor = CursorMoved { name: "reader".into(), position: Some(Offset(2)), allowed_lag: 0 };
    let moved = |body| Payload { cause: Cause::default(), body: Body::CursorMoved(body) };
    write(&partition, moved(cursor.clone())).await;
    manager.shutdown().await;
    drop((partition, manager));

    let manager = start_on_a_full_disk(dir.path()).await;
    let partition = manager.partition("c", 0).expect("in service");
    for refused in [put("o", "k", "v"), moved(cursor.clone())] {
        let answer = partition.propose(refused).await;
        assert!(matches!(answer, Err(ProposeError::LowSpace { .. })), "{answer:?}");
    }
    write(&partition, moved(CursorMoved { position: None, ..cursor })).await;
    let created = manager.create_collection(definition("d", 1, &[])).await.map(drop);
    assert!(matches!(created, Err(CatalogueError::Propose(ProposeError::LowSpace { .. }))), "{created:?}");
    manager.delete_collection("c").await.expect("a deletion frees space");
    assert!(manager.collections().is_empty());
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_begins_below_the_reserve_still_begins_with_its_rules() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start_on_a_full_disk(dir.path()).await;
    assert_eq!(manager.catalogue().head(), Offset(2));
    manager.shutdown().await;
}

/// A node that never has the free space that it wants.
async fn start_on_a_full_disk(dir: &Path) -> Arc<Manager> {
    let mut options = Options::new(dir);
    options.log.free_space_reserve = u64::MAX;
    let manager = Manager::open(options).await.expect("the node starts");
    manager.ready().await;
    manager
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_fails_while_it_runs_is_no_longer_counted_as_ready() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start(dir.path()).await;
    manager.create_collection(definition("c", 2, &[])).await.expect("created");
    let mut readiness = manager.readiness();
    assert_eq!(readiness.borrow().ready, 2);

    // The log goes away under the partitions; the first one to write notices.
    manager.log().close().expect("closed");
    let partition = manager.partition("c", 1).expect("in service");
    for _ in 0..2 {
        let answer = partition.propose(put("o", "k", "v")).await;
        assert!(matches!(answer, Err(ProposeError::Stopped { .. })), "{answer:?}");
    }
    let failed = readiness.wait_for(|readiness| readiness.failed > 0);
    let failed = tokio::time::timeout(Duration::from_secs(10), failed).await.expect("noticed");
    let counted = failed.map(|now| (now.starting, now.ready, now.failed)).expect("the node runs");
    assert_eq!(counted, (0, 1, 1));
    manager.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_replaced_only_when_a_new_one_is_complete() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start_without_rounds(dir.path()).await;
    let mut groups = Vec::new();
    for name in ["whole", "cut"] {
        let partition = collection(&manager, name, &[]).await;
        for n in 0..10 {
            write(&partition, put("o", "k", &n.to_string())).await;
        }
        groups.push(partition.group());
    }
    let before = dump(&manager.partition("whole", 0).expect("in service"));
    // Without a snapshot what is missing here cannot be had again.
    manager.log().trim(groups[1], Offset(5)).expect("trimmed");
    manager.shutdown().await;
    drop(manager);

    let node = StoppedNode::open(dir.path()).expect("a stopped node");
    assert_eq!(node.rebuild_view("whole", 0, &mut |_, _| {}).expect("rebuilt").applied, Offset(12));
    let mut after = Vec::new();
    node.view("whole", 0, &mut |_, _| {}).expect("the new view").dump(&mut after).expect("a dump");
    assert_eq!(String::from_utf8(after).expect("text"), before);

    node.rebuild_view("cut", 0, &mut |_, _| {}).expect_err("the first records are missing");
    let kept = node.view("cut", 0, &mut |_, _| {}).expect("the old view");
    assert_eq!(kept.header().applied, Offset(12));
    for group in groups {
        assert!(!dir.path().join("scratch").join(group.to_string()).exists(), "nothing is left over");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_follows_its_log_is_proven_from_the_beginning_and_from_a_snapshot() {
    let dir = tempfile::tempdir().expect("a folder");
    let manager = start_without_rounds(dir.path()).await;
    for engine in ["rocksdb", "memory"] {
        let partition = collection(&manager, engine, &[("storage", engine)]).await;
        for n in 0..20 {
            write(&partition, put(&format!("o{}", n % 3), "k", &n.to_string())).await;
        }
        for from_snapshot in [false, true] {
            if from_snapshot {
                let below = partition.view().snapshot().expect("a snapshot").next();
                write(&partition, put("o0", "k", "after")).await;
                let trimmed = Body::Trimmed(Trimmed { below });
                write(&partition, Payload { cause: Cause::default(), body: trimmed }).await;
                manager.log().trim(partition.group(), below).expect("trimmed");
            }
            let proven = manager.prove_view(&partition, &mut |_, _| {}).expect("proven");
            let header = partition.view().header();
            assert_eq!((proven.offset, proven.state), (header.applied, header.state));
        }
        assert!(!dir.path().join("scratch").join(partition.group().to_string()).exists());
    }
    manager.shutdown().await;
}
