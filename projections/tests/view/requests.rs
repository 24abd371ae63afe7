//! The window of remembered request ids.

use odgm_log::Offset;
use odgm_projections::storage::Engine;
use odgm_projections::{Outcome, Rejection, fingerprint};

use crate::script::Line;
use crate::support::{Fixture, Log, Partition, everything};

fn duplicate(of: u64, version: u64) -> Outcome {
    Outcome::Duplicate { offset: Offset(of), outcome: Box::new(Outcome::Changed { version }) }
}

#[test]
fn an_id_is_forgotten_after_enough_newer_ones() {
    let mut partition = Partition::new();
    partition.run("config ids=2");
    partition.run("#r1 put a k=1");
    partition.run("#r2 put a k=1");
    assert_eq!(partition.answer("#r1 put a k=1"), duplicate(2, 1));
    partition.run("#r3 put a k=1");
    assert_eq!(partition.answer("#r1 put a k=1"), Outcome::Changed { version: 4 }, "r2 and r3 are newer");
    assert_eq!(partition.answer("#r3 put a k=1"), duplicate(5, 3));
    assert_eq!(partition.view().header().requests.count, 2);
}

#[test]
fn an_id_is_forgotten_when_ids_take_too_many_bytes() {
    let mut partition = Partition::new();
    partition.run("config bytes=300");
    partition.run("#a-request put a k=1");
    partition.run(&format!("#{} put a k=1", "r".repeat(80)));
    assert_eq!(partition.view().header().requests.count, 1);
    assert_eq!(partition.answer("#a-request put a k=1"), Outcome::Changed { version: 3 });
}

#[test]
fn an_id_past_its_time_is_not_answered_from_even_before_it_is_removed() {
    let mut partition = Partition::new();
    partition.run("config window=1000");
    for n in 0..40 {
        partition.run(&format!("#r{n} put a k={n}"));
    }
    assert_eq!(partition.answer("+5000 #r39 put a k=39"), Outcome::Changed { version: 41 });
    assert_eq!(partition.view().header().requests.count, 32, "a record removes a bounded number");
    for _ in 0..4 {
        partition.run("put a k=1");
    }
    assert_eq!(partition.view().header().requests.count, 1, "only the newest");
    assert_eq!(partition.answer("#r39 put a k=39"), duplicate(42, 41));
}

/// What is not remembered under an id that is past its time leaves nothing of it: an id is counted out once.
#[test]
fn an_id_past_its_time_is_forgotten_with_a_request_that_is_not_remembered() {
    let full = |rows| Outcome::Rejected(Rejection::OutboxFull { rows, bytes: 0 });
    for (line, answer) in [
        ("invoke i f", Outcome::Duplicate { offset: Offset(4), outcome: Box::new(Outcome::Noted) }),
        ("put b k=1", full(0)),
    ] {
        let mut partition = Partition::new();
        partition.run("semantics 2");
        partition.run("config window=10");
        partition.run("set b k=0");
        partition.run(&format!("#r {line}"));
        partition.run("config window=10 outbox=0");
        partition.run("merge b !k=g");
        for _ in 0..3 {
            assert_eq!(partition.answer(&format!("+1000 #r {line}")), answer, "{line}");
            let requests = partition.view().header().requests;
            assert_eq!((requests.count, requests.bytes, requests.oldest), (0, 0, None), "{line}");
            assert_eq!(partition.view().request("r").unwrap(), None, "{line}");
        }
        partition.run("config window=1000");
        partition.run("set b k=0 !clear");
        partition.run("#s put b k=2");
        assert_eq!(partition.view().header().requests.count, 1);
        assert!(matches!(partition.answer("#s put b k=2"), Outcome::Duplicate { .. }));
    }
}

#[test]
fn what_is_remembered_says_whether_it_is_the_same_request() {
    let mut partition = Partition::new();
    partition.run("#r put a k=1");
    let known = partition.view().request("r").unwrap().unwrap();
    let same = partition.log.push(0, Some("r"), Line::parse("put a k=1").body);
    let other = partition.log.push(0, Some("r"), Line::parse("put a k=2").body);
    let print = |committed: &odgm_projections::Committed| {
        fingerprint(committed.record.kind, committed.payload.body_bytes(&committed.record.payload))
    };
    assert_eq!(known.fingerprint, print(&same));
    assert_ne!(known.fingerprint, print(&other));
    assert_eq!(partition.view().request("unknown").unwrap(), None);
}

/// The ids are removed in the same order and at the same records, though what is read ahead differs.
#[test]
fn removal_does_not_depend_on_batches_and_restarts() {
    let mut log = Log::default();
    let mut now = 1_000;
    let mut push = |line: &str| {
        let line = Line::parse(line);
        now += line.wait;
        log.push_caused(now, line.cause, line.body);
    };
    push("config ids=100 window=5000");
    for n in 0_u32..700 {
        let pause = if n == 350 { 6_000 } else { 7 };
        push(&format!("+{pause} #r{} put a k={}", n * n % 390, n % 3));
    }
    push("config ids=10");
    for n in 0..30 {
        push(&format!("+1 put a k={n}"));
    }
    let whole = Fixture::new(Engine::Memory);
    whole.follow(&log);
    for (engine, size) in [(Engine::Memory, 1), (Engine::Memory, 90), (Engine::RocksDb, 37)] {
        let mut fixture = Fixture::new(engine);
        for (n, batch) in log.committed(1.into(), log.last()).chunks(size).enumerate() {
            fixture.view().apply(batch).unwrap();
            if n % 5 == 4 {
                fixture.view().flush().unwrap();
                fixture.reopen();
            }
        }
        assert_eq!(everything(fixture.view()), everything(whole.view()), "{engine}, batches of {size}");
    }
}
