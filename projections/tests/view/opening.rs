//! What a view refuses, when it is opened and when records are applied.

use odgm_log::body::{Body, Semantics};
use odgm_log::{GroupId, Offset};
use odgm_projections::keys::Key;
use odgm_projections::storage::{Batch, Engine};
use odgm_projections::{ApplyError, OpenError, View};

use crate::script::Line;
use crate::support::{Fixture, GROUP, Log, everything};

fn log() -> Log {
    let mut log = Log::default();
    for line in ["set a k=1", "put a k=2", "put b k=1"] {
        log.push(1_000, None, Line::parse(line).body);
    }
    log
}

#[test]
fn the_view_of_another_partition_is_refused() {
    let mut fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log());
    fixture.view().flush().unwrap();
    fixture.options.group = GroupId(8);
    let error = View::open(&fixture.options).err().unwrap();
    assert!(matches!(error, OpenError::Group { expected: GroupId(8), found: GROUP, .. }), "{error}");
}

#[test]
fn a_view_of_another_format_is_refused() {
    let fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log());
    fixture.view().flush().unwrap();
    let storage = Engine::Memory.open(&fixture.options.dir, &fixture.options.resources).unwrap();
    let key = Key::Header.to_vec();
    let mut header = storage.get(&key).unwrap().unwrap().to_vec();
    let write = |header: &[u8]| {
        let mut batch = Batch::new();
        batch.put(key.clone(), header.to_vec());
        storage.write(batch).unwrap();
        storage.flush().unwrap();
        View::open(&fixture.options).err().unwrap()
    };
    header[0] = 9;
    let error = write(&header);
    assert!(matches!(error, OpenError::Format { found: 9, supported: 1, .. }), "{error}");
    header[0] = 1;
    let error = write(&header[..20]);
    assert!(matches!(error, OpenError::Header { .. }), "{error}");
}

#[test]
fn rules_of_a_newer_build_stop_the_view_before_the_record() {
    let mut log = log();
    log.push(1_000, None, Body::Semantics(Semantics { version: 2 }));
    let fixture = Fixture::new(Engine::Memory);
    let batch = log.committed(Offset(1), log.last());
    let error = fixture.view().apply(&batch).unwrap_err();
    assert!(matches!(error, ApplyError::UnknownSemantics { .. }));
    insta::assert_snapshot!(error, @"record 4 asks for semantics 2; this build knows up to 1: upgrade the node");
    assert_eq!(fixture.view().header().applied, Offset::ZERO, "nothing of the batch is applied");
    fixture.view().apply(&batch[..3]).unwrap();
    assert_eq!(fixture.view().header().applied, Offset(3));
}

#[test]
fn records_that_do_not_follow_are_refused_and_leave_no_trace() {
    let log = log();
    let fixture = Fixture::new(Engine::RocksDb);
    let batch = log.committed(Offset(1), log.last());
    let swapped = [batch[0].clone(), batch[2].clone()];
    let error = fixture.view().apply(&swapped).unwrap_err();
    insta::assert_snapshot!(error, @"record 3 cannot follow: the view expects record 2 next");
    fixture.view().apply(&batch[..1]).unwrap();
    assert!(fixture.view().apply(&batch[..1]).is_err(), "already applied");
    fixture.view().apply(&batch[1..]).unwrap();

    let straight = Fixture::new(Engine::RocksDb);
    straight.follow(&log);
    assert_eq!(everything(fixture.view()), everything(straight.view()));
}

#[test]
fn what_was_flushed_is_there_after_a_restart() {
    for engine in Engine::ALL {
        let mut fixture = Fixture::new(engine);
        assert_eq!(fixture.view().flush().unwrap(), Offset::ZERO);
        fixture.follow(&log());
        assert_eq!(fixture.view().flush().unwrap(), Offset(3));
        let before = everything(fixture.view());
        assert_eq!(everything(fixture.reopen()), before);
        assert_eq!(fixture.view().durable().unwrap(), Offset(3));
    }
}
