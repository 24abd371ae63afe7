//! Single rules of calls: what is told and read, what is bounded, and what makes no difference.

use odgm_log::body::calls::{Place, RowKey};
use odgm_log::{GroupId, Offset, Timestamp};
use odgm_projections::storage::Engine;
use odgm_projections::{DeadLetter, Letter, Outcome, Queued, Rejection, View, ViewOptions, rebind};

use crate::script::Line;
use crate::support::{Fixture, Log, Partition, Source, dump, everything};

fn log_of(script: &str) -> Log {
    let mut log = Log::default();
    let mut now = 1_000;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let line = Line::parse(line);
        now += line.wait;
        log.push_caused(now, line.cause, line.body);
        now += 10;
    }
    log
}

const EVERYTHING: &str = "
    semantics 2
    config rows=4 kept=200 results=400 depth=3
    @9/3 set a k=1 !k:create=f,o/1//g !k=h !f:error=x !k:delete=d
    invoke i1 f on=a one
    settle 1020/3/1=ended:ok 1020/3/0=retry:1060:later
    @7/3 outcome row:1060/3/0~0.1 f no on=a
    delivered 5/0
    #r put a k=2
    #r put a k=2
    put a -k
    outcome row:1030/4/0 f ok on=a id=i1 result
    outcome row:1030/4/0 f ok on=a id=i1 result
    settle 1050/6/0=dead:enough 1070/8/0=dead:enough:broken 1090/10/0=ended:ok
    outcome own:13/1 h broken
    delivered lost=13/2:gone
    redrive 6/0 13/2
    @9/77 outcome from:9/80/0/70 f ok on=a
    @9/77 outcome from:9/80/0/70 f ok on=a
    @9/500 outcome from:9/501/0/400 f ok on=b
    ^3 put a k=8
    discard 20/0 because=enough
    invoke i2 f
    invoke i3 f
    settle 1210/22/0=dead:no 1220/23/0=dead:no
    outcome row:1210/22/0 f ok
    redrive 22/0
    +900 discard 23/0 because=old
    outcome row:1250/22/0~1.0 f ok id=i2
    put a k=9
    trim 8
    +900 delete a
";

#[test]
fn engines_and_batches_make_no_difference_to_calls() {
    let log = log_of(EVERYTHING);
    let whole = Fixture::new(Engine::Memory);
    let applied = whole.follow(&log);
    let effective = applied.iter().filter(|applied| !matches!(applied.outcome, Outcome::Stale)).count();
    assert_eq!((applied.len(), effective), (31, 28), "most of it takes effect");
    for engine in Engine::ALL {
        for size in 1..=5 {
            let fixture = Fixture::new(engine);
            let mut one_by_one = Vec::new();
            for batch in log.committed(1.into(), log.last()).chunks(size) {
                one_by_one.extend(fixture.view().apply(batch).unwrap());
            }
            assert_eq!(one_by_one, applied, "{engine}, batches of {size}");
            assert_eq!(everything(fixture.view()), everything(whole.view()), "{engine}, batches of {size}");
            assert_eq!(fixture.view().header(), whole.view().header(), "{engine}, batches of {size}");
        }
    }
}

/// Chain and state do not depend on the group, nor does any row: a restored partition may have another one.
#[test]
fn another_group_makes_the_same_of_a_log() {
    let log = log_of(EVERYTHING);
    let mut fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    fixture.view().flush().unwrap();
    let before = everything(fixture.view());
    fixture.close();
    let options = ViewOptions { group: GroupId(99), ..fixture.options.clone() };
    rebind(&options, None).unwrap();
    let restored = View::open(&options).unwrap();

    let other = Fixture::new(Engine::Memory);
    let options = ViewOptions { group: GroupId(99), dir: other.path("other"), ..other.options };
    let replayed = View::open(&options).unwrap();
    replayed.apply(&log.committed(Offset(1), log.last())).unwrap();
    assert_eq!(everything(&replayed), everything(&restored));
    assert_eq!(before.1.replace("group 7 ", "group 99 "), dump(&restored));
}

#[test]
fn reads_of_calls() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("set a k=1 !k=f,g");
    for n in 0..3 {
        partition.run(&format!("put a k={n}"));
    }
    partition.run("settle 1020/3/0=retry:9000:later 1020/3/1=dead:enough 1030/4/0=ended:ok");
    let view = partition.view();
    let places = |from, until| -> Vec<(u64, u32)> {
        let rows = view.outbox(from, until, 99).unwrap();
        rows.iter().map(|(key, _)| (key.offset.get(), key.index)).collect()
    };
    let (first, far) = (RowKey::default(), Timestamp(u64::MAX));
    assert_eq!(places(first, far), [(4, 1), (5, 0), (5, 1), (3, 0)]);
    assert_eq!(places(first, Timestamp::from_millis(1_030)), [(4, 1)], "due by then");
    let last = view.outbox(first, far, 2).unwrap().pop().unwrap().0;
    assert_eq!(places(RowKey { index: last.index + 1, ..last }, far), [(5, 1), (3, 0)], "a page later");
    assert_eq!(view.first_needed().unwrap(), Some(Offset(3)), "it is due last");
    assert_eq!(view.deliveries(Place { offset: Offset(6), index: 2 }, 9).unwrap().len(), 1);
    assert_eq!(view.deliveries(Place { offset: Offset(6), index: 3 }, 9).unwrap().len(), 0);
    let letters = view.dead_letters(None, 9).unwrap();
    assert_eq!(view.dead_letter(letters[0].0).unwrap().as_ref(), Some(&letters[0].1));
    assert_eq!(view.dead_letters(Some(letters[0].0), 9).unwrap().len(), 0);
    assert_eq!(view.invocation("none").unwrap(), None);
    partition.run("redrive 3/1");
    partition.run("settle 9000/3/0~0.1=ended:ok 1030/4/1=ended:ok 1040/5/0=ended:ok 1040/5/1=ended:ok");
    assert_eq!(partition.view().header().calls.outbox_rows, 1);
    assert_eq!(partition.view().first_needed().unwrap(), None, "it carries what it is called with");
}

/// What was queued is told with what it is called with, so that nobody has to read the view or the log for it.
#[test]
fn what_is_queued_is_told() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    let mut told = |line: &str| -> Vec<String> {
        let queued = partition.run(line).queued;
        let text = |queued| match queued {
            Queued::Call { row, payload, .. } => {
                let payload = payload.expect("told").to_vec();
                format!("{} {:?}", row.target.function, String::from_utf8(payload).unwrap())
            }
            Queued::Later { key } => format!("{} later", key.offset),
            Queued::Delivery { row, .. } => format!("{} is told", row.target.function),
        };
        queued.into_iter().map(text).collect()
    };
    assert_eq!(told("set a k=new !k:create=f !k=h !k:delete=g !f:complete=w"), ["f \"new\""]);
    assert_eq!(told("merge a k=merged"), ["h \"merged\""]);
    assert_eq!(told("put a k=put"), ["h \"put\""]);
    assert_eq!(told("put a -k"), ["g \"\""]);
    assert_eq!(told("outcome row:1010/2/0 f ok on=a answer"), ["w \"answer\""]);
    assert_eq!(told("invoke i v asked"), ["v \"asked\""]);
    assert_eq!(told("settle 1060/7/0=retry:2000:later"), ["7 later"], "and no more, before it is due");
    assert_eq!(told("settle 1020/3/0=ended:ok 1030/4/0=dead:enough"), ["h is told"]);
    assert_eq!(told("redrive 4/0"), ["h \"payload\""]);
}

/// However many calls a record asks for that cannot be made, its payload is not copied for each of them.
#[test]
fn letters_of_one_record_hold_a_bounded_number_of_bytes() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("config depth=1");
    partition.run(&format!("set a k=0 !k={}", ["f"; 40].join(",")));
    let value = "v".repeat(300_000);
    partition.run(&format!("^9 put a k={value}"));
    let letters = partition.view().dead_letters(None, 99).unwrap();
    let payload_of = |letter: &DeadLetter| match &letter.letter {
        Letter::Call(row) => row.payload.clone().map(|payload| payload.0.len()),
        Letter::Delivery(_) => None,
    };
    let held: Vec<_> = letters.iter().map(|(_, letter)| payload_of(letter)).collect();
    let (whole, rest) = ([Some(value.len()); 3], [None; 37]);
    assert_eq!(held, [whole.as_slice(), rest.as_slice()].concat(), "as many as fit into 1 MiB");
    assert!(partition.view().header().calls.dead_letter_bytes < (1 << 20) + 40 * 500);
    insta::assert_snapshot!(letters[3].1.reason, @"depth 10 is beyond max_trigger_depth 1; its payload of 300000 bytes is not kept here, since other letters of the same record hold 900000 already: redriven, it is read from record 4, as long as that is kept");

    // The record has it, as long as it is there.
    let told = |applied: odgm_projections::Applied| match &applied.queued[..] {
        [Queued::Call { payload, .. }] => payload.as_ref().map(bytes::Bytes::len),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(partition.run("redrive 4/0")), Some(value.len()));
    assert_eq!(told(partition.run("redrive 4/3")), None);
    assert_eq!(partition.view().first_needed().unwrap(), Some(Offset(4)));
    partition.run("trim 5");
    assert_eq!(
        partition.answer("redrive 4/4"),
        Outcome::Unchanged { version: 0 },
        "nobody knows what it was"
    );
    assert_eq!(told(partition.run("redrive 4/1")), Some(value.len()));

    // One alone is kept, however large it is.
    partition.run("set b k=0 !k=f,f");
    partition.run(&format!("^9 put b k={}", "v".repeat(2 << 20)));
    let letters = partition.view().dead_letters(None, 99).unwrap();
    let held: Vec<_> = letters.iter().rev().take(2).map(|(_, letter)| payload_of(letter)).collect();
    assert_eq!(held, [None, Some(2 << 20)]);
}

/// What cannot be told to its target keeps clients from asking for more, as what cannot be called does.
#[test]
fn outcomes_that_wait_count_as_calls_do() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("config rows=2");
    partition.run("set a k=0 !k=f,g");
    partition.run("put a k=1");
    partition.run("settle 1030/4/0=ended:ok 1030/4/1=ended:no");
    let calls = partition.view().header().calls;
    assert_eq!((calls.outbox_rows, calls.outbox_bytes, calls.deliveries), (0, 0, 2));
    let full = Rejection::OutboxFull { rows: 2, bytes: calls.delivery_bytes };
    assert_eq!(partition.answer("put a k=2"), Outcome::Rejected(full));
    assert_eq!(partition.answer("put a l=2"), Outcome::Changed { version: 3 }, "it asks for nothing");
    partition.run("delivered 5/0 lost=5/1:gone");
    let calls = partition.view().header().calls;
    assert_eq!((calls.deliveries, calls.delivery_bytes), (0, 0));
    partition.run("config outbox=120");
    assert_eq!(partition.answer("put a k=3"), Outcome::Changed { version: 4 });
    partition.run("settle 1090/10/0=ended:ok 1090/10/1=ended:ok");
    assert!(
        matches!(partition.answer("put a k=4"), Outcome::Rejected(Rejection::OutboxFull { .. })),
        "in bytes"
    );
}

/// Near the limit what a write asks for is counted exactly, in rows and in bytes.
#[test]
fn a_write_that_just_fits_is_taken() {
    let weigh = |line: &str| {
        let mut partition = Partition::new();
        partition.run("semantics 2");
        partition.run("config");
        partition.run("set a k=1 l=1 n=1 !k=f,g !l=h !n=i,j !m:create=c !l:delete=d,e");
        let applied = partition.run(line);
        let calls = partition.view().header().calls;
        (applied.outcome, calls.outbox_rows, calls.outbox_bytes)
    };
    for line in
        ["put a k=2 m=3 -l", "set a m=1 k=2", "merge a l=2 n=3 m=4", "delete a", "put a -n", "invoke i f"]
    {
        let (outcome, rows, bytes) = weigh(line);
        for (limits, is_taken) in [
            (format!("rows={rows} outbox={bytes}"), true),
            (format!("rows={} outbox={bytes}", rows.saturating_sub(1)), rows == 0),
            (format!("rows={rows} outbox={}", bytes.saturating_sub(1)), rows == 0),
        ] {
            let mut partition = Partition::new();
            partition.run("semantics 2");
            partition.run(&format!("config {limits}"));
            partition.run("set a k=1 l=1 n=1 !k=f,g !l=h !n=i,j !m:create=c !l:delete=d,e");
            let before = dump(partition.view());
            let answer = partition.answer(line);
            if is_taken {
                assert_eq!(answer, outcome, "{line} with {limits}");
            } else {
                assert_eq!(
                    answer,
                    Outcome::Rejected(Rejection::OutboxFull { rows: 0, bytes: 0 }),
                    "{line} with {limits}"
                );
                let rest = |dump: &str| {
                    dump.lines().skip(3).filter(|line| !line.contains("@")).collect::<Vec<_>>().join("\n")
                };
                assert_eq!(rest(&dump(partition.view())), rest(&before), "nothing is changed");
            }
        }
    }
}

/// A source that goes on for long is remembered in bounded space.
#[test]
fn keys_of_deliveries_are_removed_as_their_source_forgets_them() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    let rows = |partition: &Partition| {
        dump(partition.view()).lines().filter(|line| line.starts_with("  9/0/")).count()
    };
    for offset in 1..=400_u64 {
        // Two hundred are on their way at once.
        let below = offset.saturating_sub(200).max(1);
        let line = format!("outcome from:9/{offset}/0/{below} f ok");
        assert_eq!(partition.answer(&line), Outcome::Noted);
        assert_eq!(partition.answer(&line), Outcome::Stale);
        assert!(rows(&partition) <= 200 + 64, "{offset}: {}", rows(&partition));
    }
    assert_eq!(partition.answer("outcome from:9/401/0/401 f ok"), Outcome::Noted);
    for offset in 402..=406 {
        partition.run(&format!("outcome from:9/{offset}/0/401 f ok"));
    }
    assert!(rows(&partition) < 64, "what is far below the floor goes, a bounded number at a time");
    for offset in [1, 350, 400] {
        assert_eq!(partition.answer(&format!("outcome from:9/{offset}/0/1 f ok")), Outcome::Stale);
    }
}

/// A record forgets a bounded number of results; those that wait for it are gone for whoever reads, and for new requests.
#[test]
fn a_result_past_its_time_is_as_good_as_gone() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("config kept=1000");
    for n in 0..20_u64 {
        let offset = 3 + 2 * n;
        partition.run(&format!("invoke i{n} f asked"));
        partition.run(&format!("outcome row:{}/{offset}/0 f ok id=i{n}", 1_000 + 10 * (offset - 1)));
    }
    assert_eq!(partition.view().header().calls.results, 20);
    assert!(matches!(partition.answer("invoke i19 f asked"), Outcome::Duplicate { offset: Offset(41), .. }));
    partition.run("+5000 put a k=1");
    let header = partition.view().header();
    assert_eq!(header.calls.results, 12);
    let last = partition.view().invocation("i19").unwrap().unwrap();
    assert!(last.is_past(header.time, &header.config));
    assert_eq!(partition.answer("invoke i19 f other"), Outcome::Noted, "the id is free again");
    assert_eq!(partition.view().header().calls.results, 3);
    partition.run("put a k=1");
    let calls = partition.view().header().calls;
    assert_eq!((calls.results, calls.result_bytes, calls.oldest_result), (0, 0, None));
    assert_eq!(calls.pending_invocations, 1);
}

/// One that was given up for good is forgotten as a result is, and its id is free then.
#[test]
fn an_invocation_whose_dead_letter_was_dropped_is_past_in_time() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("config kept=1000");
    partition.run("invoke i f asked");
    partition.run("settle 1020/3/0=dead:enough");
    let reused = |answer| matches!(answer, Outcome::Rejected(Rejection::InvocationIdReused { .. }));
    assert!(reused(partition.answer("+5000 invoke i f other")), "its letter may bring it back");
    partition.run("discard 3/0 because=enough");
    assert!(reused(partition.answer("invoke i f other")));
    assert_eq!(partition.answer("+5000 invoke i f other"), Outcome::Noted);
    let calls = partition.view().header().calls;
    assert_eq!((calls.results, calls.result_bytes, calls.pending_invocations), (0, 0, 1));
}

#[test]
fn results_are_forgotten_when_they_take_too_many_bytes() {
    let mut partition = Partition::new();
    partition.run("semantics 2");
    partition.run("config results=200");
    for (n, offset) in [3, 5, 7].into_iter().enumerate() {
        partition.run(&format!("invoke i{n} f"));
        let due = 1_000 + 10 * (offset - 1);
        partition.run(&format!("outcome row:{due}/{offset}/0 f ok id=i{n} {}", "x".repeat(40)));
    }
    let kept = |id: &str| partition.view().invocation(id).unwrap().is_some();
    assert_eq!((kept("i0"), kept("i1"), kept("i2")), (false, true, true));
}

/// What is below the floor is not shown, and is removed in time.
#[test]
fn causes_go_with_the_history() {
    let mut partition = Partition::new();
    let parent = |offset| odgm_log::body::Parent {
        group: GroupId(9),
        origin: odgm_log::NodeId(1),
        offset: Offset(offset),
    };
    partition.run("semantics 2");
    partition.run("@9/1 put a k=1");
    partition.run("@9/1 put a -nothing");
    partition.run("@9/1 invoke i f");
    partition.run("@9/1 invoke i f");
    partition.run("@9/2 put a k=2");
    partition.run("@9/1 outcome row:1030/4/0 f ok on=a");
    partition.run("@9/1 outcome row:1030/4/0 f ok on=a");
    let caused = |partition: &Partition, after, limit| {
        partition
            .view()
            .caused_by(parent(1), Offset(after), limit)
            .unwrap()
            .iter()
            .map(|it| it.get())
            .collect::<Vec<_>>()
    };
    assert_eq!(caused(&partition, 0, 9), [2, 4, 7]);
    assert_eq!(caused(&partition, 2, 1), [4]);
    partition.run("trim 4");
    assert_eq!(caused(&partition, 0, 9), [4, 7]);
    let before = dump(partition.view());
    while partition.view().prune(2).unwrap() > 0 {}
    assert_eq!(dump(partition.view()), before, "what is pruned was not shown");
    assert_eq!(caused(&partition, 0, 9), [4, 7]);
}

/// Events about functions are in an object's history, and the object is what it was.
#[test]
fn the_past_of_an_object_whose_functions_were_called() {
    let mut log = log_of(
        "
        semantics 2
        set a k=1 !k=f !f:complete=g
        outcome client f ok on=a
        put a k=2
        outcome client f no on=a
        outcome row:1030/4/0 f ok on=a
        outcome client f ok on=b
        put a l=3
        delete a
        outcome client f ok on=a
        ",
    );
    let fixture = Fixture::new(Engine::Memory);
    fixture.follow(&log);
    let at = |offset| {
        let object = fixture.view().object_at("a", Offset(offset), &log.source()).unwrap()?;
        Some((object.version, object.updated.offset.get(), object.entries.len()))
    };
    assert_eq!(
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(at),
        [
            None,
            Some((1, 2, 1)),
            Some((1, 2, 1)),
            Some((2, 4, 1)),
            Some((2, 4, 1)),
            Some((2, 4, 1)),
            Some((2, 4, 1)),
            Some((3, 8, 2)),
            None,
            None,
        ]
    );
    let kinds = fixture.view().history("a", Offset::ZERO, false, 99).unwrap();
    let kinds: Vec<&str> = kinds.iter().map(|change| change.kind.name()).collect();
    assert_eq!(
        kinds,
        ["created", "completed", "updated", "failed", "completed", "updated", "deleted", "completed"]
    );
    assert_eq!(fixture.view().object_at("b", Offset(10), &log.source()).unwrap(), None);

    // The same below a snapshot and above the floor.
    let snapshot = fixture.view().snapshot().unwrap();
    let line = Line::parse("outcome client f ok on=b");
    log.push_caused(9_000, line.cause, line.body);
    fixture.follow(&log);
    let kept = Source(&log.records[usize::try_from(snapshot.get()).unwrap()..]);
    assert_eq!(fixture.view().object_at("b", Offset(11), &kept).unwrap(), None);
}
