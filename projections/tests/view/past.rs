//! Reads of the past.

use std::sync::atomic::{AtomicUsize, Ordering};

use odgm_log::body::{Body, Trimmed, Value};
use odgm_log::{Offset, Record, Timestamp};
use odgm_projections::storage::Engine;
use odgm_projections::{Error, RecordSource, SourceError};

use crate::script::Line;
use crate::support::{Fixture, Log, Partition, Source, dump};

/// Counts the records that are read.
struct Counting<'a>(&'a [Record], AtomicUsize);

impl RecordSource for Counting<'_> {
    fn first(&self) -> Offset {
        RecordSource::first(self.0)
    }

    fn last(&self) -> Offset {
        RecordSource::last(self.0)
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        self.1.fetch_add(limit, Ordering::Relaxed);
        self.0.read(from, limit)
    }
}

#[test]
fn only_records_that_still_mattered_are_read() {
    let mut partition = Partition::new();
    partition.run("set a k=0 l=0");
    for n in 1..=300 {
        partition.run(&format!("put a k={n}"));
    }
    partition.run("delete a");
    partition.run("put a m=1");
    let log = Counting(&partition.log.records, AtomicUsize::new(0));
    let then = partition.view().object_at("a", Offset(200), &log).unwrap().unwrap();
    assert_eq!(
        then.entries,
        [("k", "199"), ("l", "0")].map(|(key, text)| (key.to_owned(), Value::bytes(text)))
    );
    assert_eq!((then.version, then.created.offset, then.updated.offset), (200, Offset(1), Offset(200)));
    assert_eq!(log.1.into_inner(), 2, "the creation, and the last put of k");
}

#[test]
fn the_future_is_refused() {
    let mut partition = Partition::new();
    partition.run("set a k=0");
    let error = partition.view().object_at("a", Offset(2), &partition.log.source()).unwrap_err();
    insta::assert_snapshot!(error, @"offset 2 is not applied yet: the view is at 1");
}

/// Retention trims at a snapshot: from there on everything is as before, below it is a clear answer.
#[test]
fn below_the_floor_is_an_error_that_says_where_to_start_again() {
    for engine in Engine::ALL {
        let mut log = Log::default();
        let mut push = |millis, line: &str| drop(log.push(millis, None, Line::parse(line).body));
        push(1_000, "set a k=1 l=1");
        push(2_000, "put a k=2");
        push(3_000, "merge a k=3 m=3");
        push(4_000, "set b k=1");
        let fixture = Fixture::new(engine);
        fixture.follow(&log);
        let snapshot = fixture.view().snapshot().unwrap();
        assert_eq!(snapshot, Offset(4));
        log.push(5_000, None, Line::parse("put a -l").body);
        log.push(6_000, None, Body::Trimmed(Trimmed { below: snapshot.next() }));
        fixture.follow(&log);
        let before = dump(fixture.view());
        assert_eq!(fixture.view().prune(2).unwrap(), 2);
        while fixture.view().prune(2).unwrap() > 0 {}
        assert_eq!(dump(fixture.view()), before, "what is pruned was not shown");

        let kept = Source(&log.records[4..]);
        let view = fixture.view();
        let keys = |offset: u64| {
            let object = view.object_at("a", Offset(offset), &kept)?.unwrap();
            Ok::<_, Error>(object.entries.into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(keys(6).unwrap(), "k m");
        assert_eq!(keys(4).unwrap(), "k l m", "the snapshot itself");
        let error = keys(3).unwrap_err();
        assert!(matches!(
            error,
            Error::BelowFloor { requested: Offset(3), first: Offset(5), snapshot: Some(_) }
        ));
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"offset 3 is below what is kept: records begin at 5, and there is a snapshot at 4");
        }
        assert_eq!(view.offset_at(Timestamp::from_millis(4_500), &kept).unwrap(), Offset(4));
        assert_eq!(view.offset_at(Timestamp::from_millis(5_500), &kept).unwrap(), Offset(5));
        let error = view.offset_at(Timestamp::from_millis(3_500), &kept).unwrap_err();
        assert!(matches!(error, Error::BelowFloor { first: Offset(5), .. }), "{error}");
        assert_eq!(view.history("a", Offset::ZERO, false, 9).unwrap().len(), 1);
    }
}

#[test]
fn times_find_the_last_record_that_is_not_after_them() {
    let mut log = Log::default();
    // Clocks of proposers may go back; the time of a record never does.
    let stamps = [1_000, 1_100, 1_050, 1_100, 3_000, 2_500, 9_000];
    for stamp in stamps {
        log.push(stamp, None, Line::parse("put a k=1").body);
    }
    let fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    let at = |millis| fixture.view().offset_at(Timestamp::from_millis(millis), &log.source()).unwrap().get();
    let asked = [0, 999, 1_000, 1_099, 1_100, 2_999, 3_000, 8_999, 9_000, 99_000];
    assert_eq!(asked.map(at), [0, 0, 1, 1, 4, 4, 6, 6, 7, 7]);
}

#[test]
fn a_crowded_moment_is_indexed_more_than_once() {
    let mut log = Log::default();
    for n in 0..3_000 {
        log.push(1_000 + n / 10, None, Line::parse("put a k=1").body);
    }
    let fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    let counting = Counting(&log.records, AtomicUsize::new(0));
    assert_eq!(fixture.view().offset_at(Timestamp::from_millis(1_200), &counting).unwrap(), Offset(2_010));
    assert!(counting.1.into_inner() <= 1_024);
}

#[test]
fn a_log_without_the_record_is_an_error() {
    let mut partition = Partition::new();
    partition.run("set a k=0");
    partition.run("put a k=1");
    let cut = Source(&partition.log.records[1..]);
    let error = partition.view().object_at("a", Offset(1), &cut).unwrap_err();
    insta::assert_snapshot!(error, @"record 1 is not in the log, which holds 2 to 2");
}
