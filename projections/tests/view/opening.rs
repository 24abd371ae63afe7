//! What a view refuses, when it is opened and when records are applied.

use odgm_log::body::{Body, Semantics};
use odgm_log::{BodyType, GroupId, Kind, Offset};
use odgm_projections::keys::Key;
use odgm_projections::storage::{Batch, Engine};
use odgm_projections::{ApplyError, OpenError, View};

use crate::script::Line;
use crate::support::{Fixture, GROUP, Log, dump, everything};

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
    assert!(matches!(error, OpenError::Format { found: 9, supported: 2, .. }), "{error}");
    for format in [1, 2] {
        header[0] = format;
        let error = write(&header[..20]);
        assert!(matches!(error, OpenError::Header { .. }), "{error}");
    }
}

/// The header row that the view below had before there were calls in views, as the build of then wrote it.
const HEADER_OF_FORMAT_1: &str = "
    01070400fc804f120058948f619db77052664bdefcd5fa0846508d943e99dc77
    00a380d07b6c36cb5931fa7fd4ee5c2e195fdb5a205e6ef9f33ebefaece85ed4
    9d892756c8f7b7d4cf01010a00fc000010004d03fc00000010fbe80302020001
    00016201fc804f12000401fc40420f0001";

/// Its last record, request "r" for other rules.
const CONFIG_V1: &str = "010172000000 010a00fc000010004d03fc00000010fbe803";

fn bytes_of(hex: &str) -> Vec<u8> {
    let hex: String = hex.split_whitespace().collect();
    let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Views and snapshots of then go on, under the rules of then.
#[test]
fn a_view_from_before_there_were_calls_goes_on() {
    let mut log = log();
    let kind = Kind { body_type: BodyType::Config, body_version: 1 };
    log.push_encoded(1_200, kind, bytes_of(CONFIG_V1));
    let mut fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    fixture.view().flush().unwrap();
    let (header, text) = (fixture.view().header(), dump(fixture.view()));
    fixture.close();

    let storage = Engine::Memory.open(&fixture.options.dir, &fixture.options.resources).unwrap();
    let written = storage.get(&Key::Header.to_vec()).unwrap();
    assert_eq!(written.as_deref(), Some(&*bytes_of(HEADER_OF_FORMAT_1)), "builds of then can go on with it");
    let mut batch = Batch::new();
    batch.put(Key::Header.to_vec(), bytes_of(HEADER_OF_FORMAT_1));
    storage.write(batch).unwrap();
    storage.flush().unwrap();
    storage.snapshot(&fixture.options.snapshots.join("4")).unwrap();
    drop(storage);

    assert_eq!((fixture.reopen().header(), dump(fixture.view())), (header.clone(), text.clone()));
    assert_eq!(fixture.view().snapshot_state(Offset(4)).unwrap().0, header);
    fixture.lose();
    assert_eq!((fixture.reopen().header(), dump(fixture.view())), (header, text), "from the snapshot");

    // The rules are new when a record says so, and what it writes then is of this build.
    for line in ["set a k=3 !k=f", "put a k=4", "semantics 2", "put a k=5"] {
        log.push(2_000, None, Line::parse(line).body);
    }
    fixture.follow(&log);
    fixture.view().flush().unwrap();
    assert_eq!(fixture.reopen().header().calls.outbox_rows, 1);
    let straight = Fixture::new(Engine::Memory);
    straight.follow(&log);
    assert_eq!(everything(fixture.view()), everything(straight.view()));
}

#[test]
fn rules_of_a_newer_build_stop_the_view_before_the_record() {
    let mut log = log();
    log.push(1_000, None, Body::Semantics(Semantics { version: 3 }));
    let fixture = Fixture::new(Engine::Memory);
    let batch = log.committed(Offset(1), log.last());
    let error = fixture.view().apply(&batch).unwrap_err();
    assert!(matches!(error, ApplyError::UnknownSemantics { .. }));
    insta::assert_snapshot!(error, @"record 4 asks for semantics 3; this build knows up to 2: upgrade the node");
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
