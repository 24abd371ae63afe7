//! The bytes at rest, locked. A failure here means that logs already written can no longer be read: add a version.

use std::fmt::Write as _;

use bytes::Bytes;
use odgm_log::body::calls::Status;
use odgm_log::body::{
    CollectTombstones, Config, CursorMoved, DataTrigger, Delete, FunctionTrigger, Membership, Merge, Parent,
    Semantics, Set, SetMode, SetValues, Target, Triggers, Trimmed, Value,
};
use odgm_log::envelope::{decode_stored, encode_stored};
use odgm_log::{
    Body, BodyType, Cause, GroupId, Hash, Kind, NodeId, Offset, Payload, Record, Term, Timestamp, chain,
};

use crate::calls;
use crate::support::{self, GROUP, OTHER, append, records};

#[test]
fn every_body_keeps_its_bytes() {
    let mut text = String::new();
    for (index, body) in bodies().into_iter().enumerate() {
        let payload = Payload { cause: cause(), body };
        let (kind, bytes) = payload.encode().unwrap();
        assert_eq!(kind.body_type, BodyType::ALL[index], "one sample of each body, in order");
        let record = Record {
            offset: Offset(0x0102_0304),
            term: Term(5),
            stamp: Timestamp(1_700_000_000_000_000),
            origin: NodeId(3),
            kind,
            payload: bytes,
        };
        let mut stored = Vec::new();
        encode_stored(GROUP, &record, &mut stored);
        let read = decode_stored(GROUP, record.offset, &stored.clone().into()).unwrap();
        assert_eq!((read.decode().unwrap(), &read), (payload, &record));

        writeln!(text, "{} v{}", kind.body_type.name(), kind.body_version).unwrap();
        writeln!(text, "{}", hex(&stored)).unwrap();
        writeln!(text, "chain {}\n", chain::link(Hash::ZERO, &record)).unwrap();
    }
    insta::assert_snapshot!(text);
}

/// The numbers of sources and statuses are part of the bytes.
#[test]
fn every_way_in_which_a_call_ends_keeps_its_bytes() {
    let mut text = String::new();
    for (source, status) in calls::sources().into_iter().zip(calls::STATUSES) {
        let payload =
            Payload { cause: Cause::default(), body: Body::Outcome(calls::outcome(source.clone(), status)) };
        let (kind, bytes) = payload.encode().unwrap();
        assert_eq!(Payload::decode(kind, &bytes).unwrap(), payload);
        writeln!(text, "{source:?} {}\n{}\n", status.name(), hex(&bytes)).unwrap();
    }
    insta::assert_snapshot!(text);
}

/// What the first version of `Config` wrote, as it stands in logs.
const CONFIG_V1: &str = "
    0000000000000005f4c94b3c4f47010100090000006500060a24181e40000000
    0000000000035699895c0109726571756573742d3102010904fb2c0101373030
    2d30616637363531393136636434336464383434386562323131633830333139
    632d623761643662373136393230333333312d3031010a01fc00001000fc005c
    2605fc40420f00fc00000010fbe803";

#[test]
fn rules_from_before_there_were_calls_are_still_read() {
    let hex: String = CONFIG_V1.split_whitespace().collect();
    let bytes: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let record = decode_stored(GROUP, Offset(0x0102_0304), &bytes.into()).unwrap();
    assert_eq!(record.kind, Kind { body_type: BodyType::Config, body_version: 1 });
    // In numbers: what the defaults become has nothing to do with logs that are there.
    let rules = Config {
        events_enabled: true,
        max_trigger_depth: 10,
        set_mode: SetMode::Upsert,
        max_crdt_bytes: 1_048_576,
        dedup_window_ms: 86_400_000,
        dedup_max_ids: 1_000_000,
        dedup_max_bytes: 268_435_456,
        time_index_interval_ms: 1_000,
        max_outbox_rows: 10_000_000,
        max_outbox_bytes: 4_294_967_296,
        result_retention_ms: 86_400_000,
        max_result_bytes: 1_073_741_824,
    };
    assert!(rules.in_version_1().is_some(), "and such rules can be written as they were");
    let other = Config { max_result_bytes: 1, ..rules };
    assert!(other.in_version_1().is_none(), "others cannot");
    assert_eq!(record.decode().unwrap(), Payload { cause: cause(), body: Body::Config(rules) });
}

#[test]
fn the_watermark_file_keeps_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = support::open(dir.path());
    append(&store, GROUP, &records(1..=3));
    append(&store, OTHER, &records(1..=1));
    append(&store, GROUP, &records(4..=5));
    store.truncate_after(GROUP, Offset(4)).unwrap();
    store.remove_group(OTHER).unwrap();
    let files = support::files(dir.path());
    insta::assert_snapshot!(hex(&files["watermarks"]));
}

#[test]
fn the_rows_about_a_log_keep_their_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = support::open(dir.path());
    append(&store, GROUP, &records(1..=1_030));
    store.trim(GROUP, Offset(1_020)).unwrap();
    store.put_meta(GROUP, "vote", b"term 3").unwrap();
    drop(store);

    let raw =
        rocksdb::DB::open_cf(&rocksdb::Options::default(), dir.path(), ["default", "log", "meta"]).unwrap();
    let mut text = String::new();
    for row in raw.iterator_cf(raw.cf_handle("meta").unwrap(), rocksdb::IteratorMode::Start) {
        let (key, value) = row.unwrap();
        writeln!(text, "{}\n  {}", hex(&key).replace('\n', ""), hex(&value).replace('\n', "\n  ")).unwrap();
    }
    insta::assert_snapshot!(text);
}

fn cause() -> Cause {
    Cause {
        request_id: Some("request-1".to_owned()),
        depth: 2,
        parent: Some(Parent { group: GroupId(9), origin: NodeId(4), offset: Offset(300) }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
    }
}

/// One of each, with every field in use.
fn bodies() -> Vec<Body> {
    let target = Target {
        class: "billing".to_owned(),
        partition: 3,
        object: Some("account".to_owned()),
        function: "charge".to_owned(),
        options: vec![("mode".to_owned(), "fast".to_owned())],
    };
    let function = FunctionTrigger {
        on_complete: vec![target.clone()],
        on_error: vec![Target { object: None, ..target.clone() }],
    };
    let data = DataTrigger {
        on_create: vec![target.clone()],
        on_update: vec![target.clone()],
        on_delete: vec![target],
    };
    let triggers = Some(Triggers {
        functions: vec![("pay".to_owned(), function)],
        data: vec![("balance".to_owned(), data)],
    });
    let object = "order.1".to_owned();
    let entries = vec![
        ("a".to_owned(), Value::bytes(&b"one"[..])),
        ("b".to_owned(), Value::crdt_map(Bytes::from(vec![0, 1, 255]))),
    ];
    vec![
        Body::Set(Set { object: object.clone(), entries: entries.clone(), triggers: triggers.clone() }),
        Body::Delete(Delete { object: object.clone() }),
        Body::Merge(Merge { object: object.clone(), entries: entries.clone(), triggers }),
        Body::SetValues(SetValues {
            object,
            puts: entries,
            deletes: vec!["c".to_owned(), "d".to_owned()],
            expected_version: Some(70_000),
        }),
        Body::Invoke(calls::invoke()),
        Body::Outcome(calls::outcome(calls::sources()[1].clone(), Status::InvalidRequest)),
        Body::TriggerSettled(calls::settled()),
        Body::CursorMoved(CursorMoved {
            name: "reader".to_owned(),
            position: Some(Offset(1_000)),
            allowed_lag: 100_000,
        }),
        Body::Config(Config { set_mode: SetMode::Upsert, ..Config::default() }),
        Body::Semantics(Semantics { version: 2 }),
        Body::Trimmed(Trimmed { below: Offset(65_536) }),
        Body::CollectTombstones(CollectTombstones { through: Offset(250) }),
        Body::Blank,
        Body::Membership(Membership {
            voters: vec![vec![NodeId(1), NodeId(2), NodeId(3)], vec![NodeId(2), NodeId(3), NodeId(400)]],
            nodes: [1, 2, 3, 5, 400].map(NodeId).to_vec(),
        }),
        Body::Delivered(calls::delivered()),
        Body::Redrive(calls::redrive()),
        Body::Discard(calls::discard()),
    ]
}

/// 32 bytes on a line.
fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    bytes.chunks(32).map(line).collect::<Vec<_>>().join("\n")
}
