//! Merging of CRDT map values.

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT, ReadDoc};
use odgm_log::body::{Body, Merge, SetValues, Value};
use odgm_projections::storage::Engine;
use odgm_projections::{Outcome, Rejection, View};

use crate::support::{Fixture, Log, Partition, everything};

/// A document written by one actor on top of another one.
fn document(base: Option<&[u8]>, actor: u8, key: &str, text: &str) -> Vec<u8> {
    let mut document = base.map_or_else(AutoCommit::new, |base| AutoCommit::load(base).unwrap());
    document.set_actor(ActorId::from([actor]));
    document.put(ROOT, key, text).unwrap();
    document.save()
}

fn fields(view: &View, key: &str) -> Vec<(String, String)> {
    let value = view.value("doc", key).unwrap().value.unwrap();
    let document = AutoCommit::load(&value.data).unwrap();
    document
        .keys(ROOT)
        .map(|key| (key.clone(), document.get(ROOT, &key).unwrap().unwrap().0.to_string()))
        .collect()
}

fn put(key: &str, value: Value) -> Body {
    let object = "doc".to_owned();
    let puts = vec![(key.to_owned(), value)];
    Body::SetValues(SetValues { object, puts, deletes: Vec::new(), expected_version: None })
}

fn merge(entries: &[(&str, Value)]) -> Body {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Body::Merge(Merge { object: "doc".to_owned(), entries, triggers: None })
}

#[test]
fn contributions_of_two_writers_meet_in_one_document() {
    let common = document(None, 1, "title", "draft");
    let (left, right) =
        (document(Some(&common), 2, "body", "hello"), document(Some(&common), 3, "author", "ann"));
    let mut log = Log::default();
    log.push(1, None, put("notes", Value::crdt_map(common)));
    log.push(2, None, merge(&[("notes", Value::crdt_map(left))]));
    log.push(3, None, merge(&[("notes", Value::crdt_map(right))]));

    let whole = Fixture::new(Engine::Memory);
    whole.follow(&log);
    let titles = [("author", "\"ann\""), ("body", "\"hello\""), ("title", "\"draft\"")];
    assert_eq!(fields(whole.view(), "notes"), titles.map(|(key, text)| (key.to_owned(), text.to_owned())));

    let one_by_one = Fixture::new(Engine::RocksDb);
    for committed in log.committed(1.into(), log.last()) {
        one_by_one.view().apply(&[committed]).unwrap();
    }
    assert_eq!(
        everything(one_by_one.view()),
        everything(whole.view()),
        "read from the batch or from the disk"
    );
    for offset in 1..=3 {
        let then = whole.view().object_at("doc", offset.into(), &log.source()).unwrap().unwrap();
        assert_eq!(then.version, offset);
    }
}

#[test]
fn a_value_of_another_kind_is_written_over() {
    let mut log = Log::default();
    log.push(1, None, put("notes", Value::bytes("plain")));
    log.push(2, None, merge(&[("notes", Value::crdt_map(document(None, 1, "a", "b")))]));
    log.push(3, None, merge(&[("notes", Value::bytes("plain again"))]));
    let fixture = Fixture::new(Engine::Memory);
    let answers: Vec<_> = fixture.follow(&log).into_iter().map(|applied| applied.outcome).collect();
    assert_eq!(answers, [1, 2, 3].map(|version| Outcome::Changed { version }));
    assert_eq!(fixture.view().value("doc", "notes").unwrap().value, Some(Value::bytes("plain again")));
}

#[test]
fn what_is_no_document_is_refused_and_nothing_is_written() {
    let mut log = Log::default();
    let good = Value::crdt_map(document(None, 1, "a", "b"));
    let bad = Value::crdt_map("not a document");
    log.push(1, None, put("stored", bad.clone()));
    log.push(2, Some("r"), merge(&[("bad", bad), ("good", good.clone())]));
    log.push(3, None, merge(&[("stored", good)]));
    let fixture = Fixture::new(Engine::Memory);
    let refused: Vec<_> = fixture.follow(&log).into_iter().skip(1).collect();
    let reasons: Vec<String> = refused
        .iter()
        .map(|applied| match &applied.outcome {
            Outcome::Rejected(rejection) => rejection.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    insta::assert_debug_snapshot!(reasons, @r#"
    [
        "the value of entry \"bad\" is not an automerge document: the value given cannot be read",
        "the value of entry \"stored\" is not an automerge document: the stored value cannot be read",
    ]
    "#);
    assert!(refused.iter().all(|applied| applied.change.is_none()));
    let object = fixture.view().object("doc").unwrap().unwrap();
    assert_eq!((object.version, object.entries.len()), (1, 1));
    assert_eq!(
        fixture.view().request("r").unwrap().unwrap().outcome,
        refused[0].outcome,
        "asked again, told again"
    );
}

#[test]
fn a_document_that_would_grow_too_large_is_refused() {
    let mut partition = Partition::new();
    partition.run("config max_crdt=200");
    let small = document(None, 1, "a", "b");
    let noise: String = (0..40_u32).map(|n| n.wrapping_mul(0x9e37_79b9).to_string()).collect();
    let large = document(Some(&small), 2, "c", &noise);
    let mut log = partition.log.clone();
    log.push(2_000, None, merge(&[("notes", Value::crdt_map(small))]));
    log.push(2_000, None, merge(&[("notes", Value::crdt_map(large))]));
    let answers = partition.fixture.follow(&log);
    assert_eq!(answers[0].outcome, Outcome::Changed { version: 1 });
    let Outcome::Rejected(Rejection::CrdtTooLarge { key, bytes, limit }) = &answers[1].outcome else {
        panic!("{:?}", answers[1].outcome)
    };
    assert_eq!((key.as_str(), *limit), ("notes", 200));
    assert!(*bytes > 200);
}
