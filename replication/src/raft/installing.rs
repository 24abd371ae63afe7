//! What is there after a snapshot was installed, and after that was interrupted at any step.

use std::io;
use std::path::{Path, PathBuf};

use odgm_log::body::{SetValues, Value};
use odgm_log::store::{LogStore, Options};
use odgm_log::{Body, Cause, GroupId, NodeId, Offset, Payload, Timestamp};
use odgm_projections::storage::{Engine, Resources};
use openraft::RaftSnapshotBuilder as _;
use openraft::storage::{IOFlushed, RaftLogStorage as _, RaftStateMachine as _};
use openraft::{EntryPayload, RaftLogReader as _};

use super::log::Log;
use super::machine::{Machine, Place, Snapshot};
use super::types::{Command, Entry, LogId};

const GROUP: GroupId = GroupId(5);

/// A replica's log and view, without openraft.
struct Replica {
    log: Log,
    machine: Machine,
    store: LogStore,
}

impl Replica {
    fn open(dir: &Path, engine: Engine) -> io::Result<Self> {
        let options = Options { free_space_reserve: 0, ..Options::default() };
        let store = LogStore::open(&dir.join("log"), options).map_err(io::Error::other)?;
        let log = Log::open(store.clone(), GROUP)?;
        let place = Place {
            engine,
            views: dir.join("views"),
            snapshots: dir.join("snapshots"),
            resources: Resources::default(),
        };
        Ok(Self { machine: Machine::open(log.clone(), place)?, log, store })
    }

    /// Writes entries, and applies those up to an index.
    async fn write(&mut self, entries: Vec<Entry>, committed: u64) {
        self.log.append(entries.clone(), IOFlushed::noop()).await.expect("appended");
        let committed = entries.into_iter().filter(|entry| entry.log_id.index <= committed);
        let committed =
            futures_util::stream::iter(committed.map(|entry| Ok((entry, None))).collect::<Vec<_>>());
        self.machine.apply(committed).await.expect("applied");
    }

    async fn snapshot(&mut self) -> Snapshot {
        self.machine.get_snapshot_builder().await.build_snapshot().await.expect("a snapshot")
    }

    async fn install(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        self.machine.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await
    }

    fn dump(&self) -> String {
        let mut text = Vec::new();
        self.machine.view().dump(&mut text).expect("a dump");
        String::from_utf8(text).expect("text")
    }

    fn applied(&self) -> Offset {
        self.machine.view().header().applied
    }

    /// Waits until nobody holds the directory any more; a callback of the last sync still may.
    fn close(self) {
        self.store.close().expect("synced");
    }
}

/// Writes of one term to a few objects.
fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<Entry> {
    let entry = |index: u64| {
        let body = Body::SetValues(SetValues {
            object: format!("o{}", index % 5),
            puts: vec![("k".into(), Value::bytes(format!("{term}.{index}")))],
            deletes: Vec::new(),
            expected_version: None,
        });
        let (kind, encoded) = Payload { cause: Cause::default(), body }.encode().expect("a record");
        let command = Command { stamp: Timestamp(1_000 + index), origin: NodeId(1), kind, encoded };
        Entry { log_id: LogId::new_term_index(term, index), payload: EntryPayload::Normal(command) }
    };
    indexes.map(entry).collect()
}

/// A snapshot of 20 entries of term 2, in a directory of its own, and what the view says there.
async fn snapshot_of_twenty(dir: &Path) -> (Snapshot, String) {
    let mut leader = Replica::open(dir, Engine::RocksDb).expect("opened");
    leader.write(entries(2, 0..20), 19).await;
    (leader.snapshot().await, leader.dump())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_install_that_was_interrupted_anywhere_is_finished_or_was_never_begun() {
    for point in ["noted", "adopted", "log", "view"] {
        let scenario = fail::FailScenario::setup();
        let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let (snapshot, expected) = snapshot_of_twenty(there.path()).await;
        let mut follower = Replica::open(here.path(), Engine::RocksDb).expect("opened");
        // It has what never was committed: the log does not lead to the snapshot.
        follower.write(entries(1, 0..8), 4).await;
        let before = follower.dump();
        fail::cfg(format!("raft-install-{point}"), "return").expect("a failpoint");
        follower.install(&snapshot).await.expect_err("interrupted");
        scenario.teardown();
        follower.close();

        let mut follower = Replica::open(here.path(), Engine::RocksDb).expect("it opens again");
        if point == "noted" {
            assert_eq!((follower.applied(), follower.dump()), (Offset(5), before), "nothing was changed");
            assert_eq!(follower.store.bounds(GROUP).last, Offset(8));
            follower.install(&snapshot).await.expect("installed");
        }
        assert_eq!((follower.applied(), follower.dump()), (Offset(20), expected), "{point}");
        let state = follower.log.get_log_state().await.expect("a state");
        let through = Some(LogId::new_term_index(2, 19));
        assert_eq!((state.last_purged_log_id, state.last_log_id), (through, through), "{point}");

        follower.write(entries(2, 20..25), 24).await;
        follower.close();
        let follower = Replica::open(here.path(), Engine::RocksDb).expect("it opens again");
        assert_eq!(follower.store.bounds(GROUP).first, Offset(21), "{point}");
        assert_eq!(follower.store.bounds(GROUP).durable, Offset(25), "{point}");
        follower.store.verify(GROUP, &mut |_, _| ()).expect("the chain holds");
        assert!(follower.applied() >= Offset(20), "{point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_behind_a_snapshot_stay_where_the_log_leads_to_it() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (snapshot, expected) = snapshot_of_twenty(there.path()).await;
    let mut follower = Replica::open(here.path(), Engine::RocksDb).expect("opened");
    // It was slow to apply; a quorum may count on what is behind.
    follower.write(entries(2, 0..30), 9).await;
    follower.install(&snapshot).await.expect("installed");
    assert_eq!((follower.applied(), follower.dump()), (Offset(20), expected));
    let bounds = follower.store.bounds(GROUP);
    assert_eq!((bounds.first, bounds.durable), (Offset(1), Offset(30)));
    let behind = follower.log.try_get_log_entries(20..).await.expect("readable");
    assert_eq!(behind, entries(2, 20..30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_behind_which_the_log_was_trimmed_deletes_nothing() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (snapshot, _) = snapshot_of_twenty(there.path()).await;
    let mut follower = Replica::open(here.path(), Engine::RocksDb).expect("opened");
    follower.write(entries(2, 0..30), 29).await;
    follower.store.trim(GROUP, Offset(26)).expect("trimmed");
    let refused = follower.install(&snapshot).await.expect_err("nobody can tell whether the log led there");
    assert!(refused.to_string().contains("26"), "{refused}");
    let bounds = follower.store.bounds(GROUP);
    assert_eq!((bounds.first, bounds.durable), (Offset(26), Offset(30)));
    assert_eq!(names(&here.path().join("snapshots")), Vec::<PathBuf>::new());
    assert_eq!(follower.log.installing().expect("readable"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_in_memory_that_is_older_than_its_snapshot_starts_from_that() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut replica = Replica::open(dir.path(), Engine::Memory).expect("opened");
    replica.write(entries(2, 0..20), 19).await;
    replica.snapshot().await;
    replica.write(entries(2, 20..30), 29).await;
    replica.close();
    let replica = Replica::open(dir.path(), Engine::Memory).expect("opened");
    assert_eq!(replica.applied(), Offset(20), "what is behind is applied when it is known to be committed");
    assert_eq!(replica.store.bounds(GROUP).durable, Offset(30), "and has not gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_something_else_is_refused_and_leaves_no_trace() {
    let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (mut snapshot, _) = snapshot_of_twenty(there.path()).await;
    let mut follower = Replica::open(here.path(), Engine::RocksDb).expect("opened");
    follower.write(entries(1, 0..8), 4).await;
    let before = follower.dump();
    snapshot.meta.last_log_id = Some(LogId::new_term_index(3, 19));
    let refused = follower.install(&snapshot).await.expect_err("it is of term 2");
    assert!(refused.to_string().contains("of term 2, not of group 5 at"), "{refused}");
    assert_eq!(follower.dump(), before);
    assert_eq!(names(&here.path().join("snapshots")), Vec::<PathBuf>::new());
    follower.close();
    assert_eq!(Replica::open(here.path(), Engine::RocksDb).expect("opened").applied(), Offset(5));
}

fn names(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
}
