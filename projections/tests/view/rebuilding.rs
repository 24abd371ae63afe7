//! A view can be thrown away at any time.

use odgm_log::Offset;
use odgm_projections::storage::Engine;
use odgm_projections::{RebuildError, Start, View, ViewOptions, rebuild};

use crate::script::Line;
use crate::support::{Fixture, Log, Source, everything};

fn log() -> Log {
    let mut log = Log::default();
    for n in 0_u64..60 {
        let id = n * n % 7;
        let line = match n % 5 {
            0 => format!("#r{n} set o{id} k={n} l={n}"),
            1 => format!("put o{id} k={n} -l"),
            2 => format!("merge o{id} m={n} !m=f"),
            3 => format!("delete o{id}"),
            _ => format!("cursor c{id} {n} 0"),
        };
        let line = Line::parse(&line);
        log.push_caused(1_000 + 300 * n, line.cause, line.body);
    }
    log
}

/// The options of a second view beside the fixture's, with the same snapshots.
fn beside(fixture: &Fixture) -> ViewOptions {
    ViewOptions { dir: fixture.path("rebuilt"), ..fixture.options.clone() }
}

#[test]
fn the_log_alone_gives_the_same_view() {
    let log = log();
    for engine in Engine::ALL {
        let fixture = Fixture::new(engine);
        for committed in log.committed(Offset(1), Offset(30)) {
            fixture.view().apply(&[committed]).unwrap();
        }
        let snapshot = fixture.view().snapshot().unwrap();
        fixture.follow(&log);

        for start in [Start::Beginning, Start::Snapshot(snapshot)] {
            let mut heard = Vec::new();
            let options = beside(&fixture);
            let rebuilt =
                rebuild(&options, start, &log.source(), &mut |applied, last| heard.push((applied, last)));
            let rebuilt = rebuilt.unwrap();
            assert_eq!(everything(&rebuilt), everything(fixture.view()), "{engine}, {start:?}");
            assert_eq!(heard.last(), Some(&(Offset(60), Offset(60))));
            drop(rebuilt);
            std::fs::remove_dir_all(&options.dir).unwrap();
        }
    }
}

#[test]
fn a_lost_view_begins_at_its_newest_snapshot() {
    let log = log();
    for engine in Engine::ALL {
        let mut fixture = Fixture::new(engine);
        for upto in [20, 40, 60] {
            let next = fixture.view().header().applied.next();
            fixture.view().apply(&log.committed(next, Offset(upto))).unwrap();
            if upto < 60 {
                fixture.view().snapshot().unwrap();
            }
        }
        assert_eq!(fixture.view().snapshots(), [Offset(20), Offset(40)]);
        let before = everything(fixture.view());
        fixture.lose();
        assert_eq!(fixture.reopen().header().applied, Offset(40));
        fixture.view().catch_up(&log.source(), &mut |_, _| {}).unwrap();
        assert_eq!(everything(fixture.view()), before);

        fixture.view().drop_snapshots_below(Offset(40)).unwrap();
        assert_eq!(fixture.view().snapshots(), [Offset(40)]);
        let kept: Vec<_> = std::fs::read_dir(&fixture.options.snapshots).unwrap().collect();
        assert_eq!(kept.len(), 1);
    }
}

#[test]
fn a_rebuild_spoils_no_view_and_invents_no_records() {
    let log = log();
    let fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    let error = rebuild(&fixture.options, Start::Beginning, &log.source(), &mut |_, _| {}).err().unwrap();
    assert!(matches!(error, RebuildError::Exists { .. }), "{error}");
    let kept = Source(&log.records[10..]);
    let error = rebuild(&beside(&fixture), Start::Beginning, &kept, &mut |_, _| {}).err().unwrap();
    insta::assert_snapshot!(
        error,
        @"the view needs record 1 next, but the log begins at 11: start from a snapshot at 10 or later"
    );
}

#[test]
fn a_damaged_record_stops_the_rebuild_at_its_offset() {
    let mut log = log();
    log.records[12].payload = log.records[12].payload.slice(..3);
    let fixture = Fixture::new(Engine::Memory);
    let error = fixture.view().catch_up(&log.source(), &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, RebuildError::Payload { offset: Offset(13), .. }), "{error}");
    let _: &View = fixture.view();
}
