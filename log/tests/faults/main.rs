//! Failures and moments that only an armed failpoint can bring about.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use odgm_log::store::{AppendError, LogStore, SyncError};
use odgm_log::{GroupId, Offset};
use support::{GROUP, OTHER, append, append_later, crash_image, open, read_all, record, records};

/// Arms failpoints for one test at a time; what is armed stops when it is dropped.
fn scenario() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// Stops the sync thread at a point; returns once it is there, with a first record of `OTHER` under way.
fn stop_sync_thread_at(store: &LogStore, point: &str) -> mpsc::Receiver<Result<(), SyncError>> {
    let (arrived, is_there) = mpsc::sync_channel(1);
    let (release, released) = mpsc::sync_channel(1);
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    *GATE.lock().unwrap() = Some(release);
    let once = std::sync::Once::new();
    let wait = move || {
        once.call_once(|| {
            arrived.lock().unwrap().send(()).unwrap();
            released.lock().unwrap().recv().unwrap();
        });
    };
    fail::cfg_callback(point, wait).unwrap();
    let next = store.bounds(OTHER).last.next().0;
    let outcome = append_later(store, OTHER, &records(next..=next));
    is_there.recv().unwrap();
    outcome
}

static GATE: Mutex<Option<mpsc::SyncSender<()>>> = Mutex::new(None);

fn release_sync_thread() {
    GATE.lock().unwrap().take().unwrap().send(()).unwrap();
}

#[test]
fn all_who_wait_share_one_fsync() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = stop_sync_thread_at(&store, "log-before-fsync");
    let calls = Arc::new(Mutex::new(Vec::new()));
    for offset in 1..=20 {
        for group in (1..=3).map(GroupId) {
            let calls = calls.clone();
            let callback = move |outcome: Result<(), _>| {
                outcome.unwrap();
                calls.lock().unwrap().push((group, offset));
            };
            store.append(group, &records(offset..=offset), Box::new(callback)).unwrap();
        }
    }
    assert_eq!(store.stats().fsyncs, 0);
    assert_eq!(store.bounds(GroupId(1)).durable, Offset(0));
    release_sync_thread();
    first.recv().unwrap().unwrap();
    append(&store, GROUP, &[]);
    assert!(store.stats().fsyncs <= 3, "the first, sixty together, and the barrier: {:?}", store.stats());
    let expected: Vec<_> =
        (1..=20).flat_map(|offset| (1..=3).map(move |group| (GroupId(group), offset))).collect();
    assert_eq!(*calls.lock().unwrap(), expected);
}

#[test]
fn who_appends_to_an_idle_store_may_sync_it_and_otherwise_joins_the_others() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let append_and_sync = |offset: u64| {
        let (done, outcome) = mpsc::channel();
        let callback = move |result: Result<(), _>| {
            result.unwrap();
            done.send(thread::current().id()).unwrap();
        };
        store.append_and_sync(GROUP, &records(offset..=offset), Box::new(callback)).unwrap();
        outcome
    };
    // The thread may be about to serve the first ones, having just started or just been at work.
    let here = Ok(thread::current().id());
    let last = (1..1_000).find(|offset| append_and_sync(*offset).try_recv() == here);
    let last = Offset(last.expect("sooner or later the thread is idle"));
    assert_eq!(store.bounds(GROUP).durable, last, "it is durable when the call returns");

    let first = stop_sync_thread_at(&store, "log-after-fsync");
    let before = store.stats().fsyncs;
    let (second, third) = (append_and_sync(last.0 + 1), append_and_sync(last.0 + 2));
    second.try_recv().unwrap_err();
    assert_eq!(store.bounds(GROUP).durable, last, "the fsync under way began before they were written");
    release_sync_thread();
    first.recv().unwrap().unwrap();
    assert_eq!(second.recv().unwrap(), third.recv().unwrap(), "the sync thread served both");
    assert_eq!((store.bounds(GROUP).durable, store.stats().fsyncs), (Offset(last.0 + 2), before + 1));
}

#[test]
fn a_failed_fsync_is_final() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=5));
    let failure = store.failure();
    assert!(failure.borrow().is_none());

    fail::cfg("log-before-fsync", "return(Input/output error)").unwrap();
    let error = append_later(&store, GROUP, &records(6..=6)).recv().unwrap().unwrap_err();
    insta::assert_snapshot!(error, @"the log store has stopped: fsync of the write-ahead log: Input/output error");
    assert_eq!(failure.borrow().clone(), Some(error.clone()));
    assert_eq!(store.bounds(GROUP).durable, Offset(5));

    // Even if the disk were well again: the kernel may have dropped the pages.
    fail::remove("log-before-fsync");
    let refused = store.append(GROUP, &records(7..=7), Box::new(|_| unreachable!("refused"))).unwrap_err();
    assert_eq!(refused, AppendError::Stopped(error.clone()));
    assert_eq!(store.close(), Err(error));
    drop(store);
    let store = open(dir.path());
    assert!(store.bounds(GROUP).last >= Offset(5));
}

#[test]
fn everybody_who_waited_learns_of_the_failure() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = stop_sync_thread_at(&store, "log-after-fsync");
    let waiting: Vec<_> =
        (1..=3).map(|offset| append_later(&store, GROUP, &records(offset..=offset))).collect();
    fail::cfg("log-before-fsync", "return(gone)").unwrap();
    release_sync_thread();
    first.recv().unwrap().unwrap();
    for outcome in waiting {
        outcome.recv().unwrap().unwrap_err();
    }
    assert_eq!(store.bounds(GROUP).durable, Offset(0));
}

#[test]
fn a_failed_write_stops_the_store_and_shows_nothing() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, GROUP, &records(1..=5));
    fail::cfg("log-before-append", "return(No space left on device)").unwrap();
    let error = store.append(GROUP, &records(6..=6), Box::new(|_| unreachable!("refused"))).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)), "{error}");
    assert!(store.failure().borrow().is_some());
    assert_eq!(read_all(&store, GROUP), records(1..=5));
}

#[test]
fn a_crash_between_fsync_and_callback_loses_nothing_and_invents_nothing() {
    for point in ["log-after-fsync", "log-after-watermark"] {
        let _scenario = scenario();
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        append(&store, GROUP, &records(1..=5));
        let unfinished = stop_sync_thread_at(&store, point);
        let later = append_later(&store, GROUP, &records(6..=6));
        let image = crash_image(dir.path());
        release_sync_thread();
        unfinished.recv().unwrap().unwrap();
        later.recv().unwrap().unwrap();

        let recovered = open(image.path());
        assert_eq!(read_all(&recovered, OTHER), records(1..=1), "{point}: it was synced");
        assert!(recovered.bounds(GROUP).last >= Offset(5), "{point}");
        recovered.verify(GROUP, &mut |_, _| ()).unwrap();
    }
}

#[test]
fn a_sync_under_way_does_not_promise_what_is_truncated_meanwhile() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    append(&store, OTHER, &records(1..=10));
    // Record 11 is synced, and about to be noted, when it is truncated.
    let unfinished = stop_sync_thread_at(&store, "log-after-fsync");
    thread::scope(|scope| {
        let truncating = scope.spawn(|| store.truncate_after(OTHER, Offset(5)));
        // The truncation is visible as soon as its lowered watermark is on disk.
        while store.bounds(OTHER).last != Offset(5) {
            thread::yield_now();
        }
        release_sync_thread();
        truncating.join().unwrap().unwrap();
    });
    unfinished.recv().unwrap().unwrap();
    assert_eq!(store.bounds(OTHER).durable, Offset(5));
    append(&store, OTHER, &[record(6, "another")]);
    let recovered = open(crash_image(dir.path()).path());
    assert_eq!(recovered.bounds(OTHER).last, Offset(6));
    recovered.verify(OTHER, &mut |_, _| ()).unwrap();
}

#[test]
fn a_callback_that_panics_stops_the_store_instead_of_hanging_it() {
    let _scenario = scenario();
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(GROUP, &records(1..=1), Box::new(|_| panic!("a bug"))).unwrap();
    let mut failure = store.failure();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(failure.wait_for(Option::is_some)).unwrap();
    assert!(store.put_meta(GROUP, "vote", b"1").is_err());
    assert!(store.close().is_err());
}
