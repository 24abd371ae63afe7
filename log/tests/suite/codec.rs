//! Whatever is encoded is read back, and whatever bytes are read, nothing panics and no changed bit passes.

use bytes::Bytes;
use odgm_log::body::{
    CursorMoved, DataTrigger, Delete, FunctionTrigger, Merge, Set, SetValues, Target, Triggers, Trimmed,
    Value, ValueKind,
};
use odgm_log::envelope::{EnvelopeError, decode_stored, encode_stored};
use odgm_log::{Body, BodyType, Cause, GroupId, Kind, NodeId, Offset, Payload, Record, Term, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::calls;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_payload_is_read_back_as_it_was(payload in payload()) {
        let (kind, bytes) = payload.encode().unwrap();
        prop_assert_eq!(Payload::decode(kind, &bytes).unwrap(), payload);
    }

    #[test]
    fn a_changed_bit_is_always_noticed(record in record(), position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut stored = encode(GroupId(1), &record);
        let at = position.index(stored.len());
        stored[at] ^= 1 << bit;
        prop_assert!(decode_stored(GroupId(1), record.offset, &stored.into()).is_err());
    }

    #[test]
    fn a_shortened_record_is_always_noticed(record in record(), length in any::<prop::sample::Index>()) {
        let stored = Bytes::from(encode(GroupId(1), &record));
        let short = stored.slice(..length.index(stored.len()));
        prop_assert!(decode_stored(GroupId(1), record.offset, &short).is_err());
    }

    #[test]
    fn a_record_is_only_valid_in_its_place(record in record(), group in 2u32.., distance in 1u64..1_000) {
        let stored = Bytes::from(encode(GroupId(1), &record));
        let elsewhere = Offset(record.offset.0 + distance);
        for misplaced in [decode_stored(GroupId(group), record.offset, &stored), decode_stored(GroupId(1), elsewhere, &stored)] {
            let is_seal = matches!(misplaced, Err(EnvelopeError::Seal { .. }));
            prop_assert!(is_seal);
        }
    }

    /// The payload decoder is behind a checksum, but a sum does not prove that a writer was right.
    #[test]
    fn no_bytes_make_the_payload_decoder_panic(bytes in vec(any::<u8>(), 0..200), body_type in body_type(), body_version in 1u8..3) {
        let _ = Payload::decode(Kind { body_type, body_version }, &bytes);
    }

    #[test]
    fn no_mutation_makes_the_payload_decoder_panic(
        payload in payload(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        body_type in body_type(),
    ) {
        let (kind, bytes) = payload.encode().unwrap();
        let mut bytes = bytes.to_vec();
        for (position, byte) in changes {
            let at = position.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Payload::decode(kind, &bytes);
        let _ = Payload::decode(Kind { body_type, body_version: 1 }, &bytes);
    }

    #[test]
    fn no_bytes_make_the_record_decoder_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode_stored(GroupId(1), Offset(1), &bytes.into());
    }
}

#[test]
fn a_length_that_is_not_there_is_not_allocated() {
    // An empty cause, an empty object, then one entry whose value claims 200 MiB.
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 252];
    bytes.extend_from_slice(&(200u32 << 20).to_le_bytes());
    let error = Payload::decode(Kind { body_type: BodyType::Set, body_version: 1 }, &bytes).unwrap_err();
    insta::assert_snapshot!(error, @"the payload is not a set: UnexpectedEnd { additional: 209715200 }");
}

#[test]
fn what_a_newer_build_wrote_is_named() {
    let kind = Kind { body_type: BodyType::Merge, body_version: 9 };
    insta::assert_snapshot!(Payload::decode(kind, b"").unwrap_err(), @"body merge has version 9; this build reads up to version 1: upgrade the node");

    let record = crate::support::record(1, "text");
    let mut newer_format = encode(GroupId(1), &record);
    newer_format[12 + 2] = 2;
    insta::assert_snapshot!(decode_stored(GroupId(1), Offset(1), &newer_format.into()).unwrap_err(), @"envelope format 2; this build reads format 1: upgrade the node");

    let mut newer_body = encode(GroupId(1), &record);
    newer_body[12 + 4..12 + 6].copy_from_slice(&999u16.to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&newer_body[12..12 + 26]), &newer_body[12 + 30..]);
    newer_body[12 + 26..12 + 30].copy_from_slice(&crc.to_be_bytes());
    insta::assert_snapshot!(decode_stored(GroupId(1), Offset(1), &newer_body.into()).unwrap_err(), @"unknown body type 999: a newer build wrote it; upgrade the node");
}

fn encode(group: GroupId, record: &Record) -> Vec<u8> {
    let mut stored = Vec::new();
    encode_stored(group, record, &mut stored);
    stored
}

fn record() -> impl Strategy<Value = Record> {
    (payload(), 1..u64::MAX / 2, any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(payload, offset, term, stamp, origin)| {
            let (kind, payload) = payload.encode().unwrap();
            let (term, stamp, origin) = (Term(term), Timestamp(stamp), NodeId(origin));
            Record { offset: Offset(offset), term, stamp, origin, kind, payload }
        },
    )
}

fn payload() -> impl Strategy<Value = Payload> {
    let cause = (option::of(text()), any::<u32>(), option::of(text()))
        .prop_map(|(request_id, depth, traceparent)| Cause { request_id, depth, parent: None, traceparent });
    (cause, body()).prop_map(|(cause, body)| Payload { cause, body })
}

fn body() -> impl Strategy<Value = Body> {
    let entries = || vec((text(), value()), 0..4);
    prop_oneof![
        (text(), entries(), option::of(triggers())).prop_map(|(object, entries, triggers)| Body::Set(Set {
            object,
            entries,
            triggers
        })),
        text().prop_map(|object| Body::Delete(Delete { object })),
        (text(), entries(), option::of(triggers()))
            .prop_map(|(object, entries, triggers)| Body::Merge(Merge { object, entries, triggers })),
        (text(), entries(), vec(text(), 0..4), option::of(any::<u64>())).prop_map(
            |(object, puts, deletes, expected_version)| Body::SetValues(SetValues {
                object,
                puts,
                deletes,
                expected_version
            })
        ),
        (text(), option::of(any::<u64>()), any::<u64>()).prop_map(|(name, position, allowed_lag)| {
            Body::CursorMoved(CursorMoved { name, position: position.map(Offset), allowed_lag })
        }),
        any::<u64>().prop_map(|below| Body::Trimmed(Trimmed { below: Offset(below) })),
        calls::any_invoke().prop_map(Body::Invoke),
        calls::any_outcome().prop_map(Body::Outcome),
        calls::any_settled().prop_map(Body::TriggerSettled),
        calls::any_delivered().prop_map(Body::Delivered),
        calls::any_discard().prop_map(Body::Discard),
    ]
}

fn triggers() -> impl Strategy<Value = Triggers> {
    (vec((text(), vec(target(), 0..2)), 0..3), vec((text(), vec(target(), 0..2)), 0..3)).prop_map(
        |(functions, data)| Triggers {
            functions: functions
                .into_iter()
                .map(|(id, on_error)| (id, FunctionTrigger { on_complete: Vec::new(), on_error }))
                .collect(),
            data: data
                .into_iter()
                .map(|(key, on_update)| (key, DataTrigger { on_update, ..DataTrigger::default() }))
                .collect(),
        },
    )
}

fn target() -> impl Strategy<Value = Target> {
    (text(), any::<u32>(), option::of(text()), text()).prop_map(|(class, partition, object, function)| {
        Target { class, partition, object, function, options: Vec::new() }
    })
}

fn value() -> impl Strategy<Value = Value> {
    (any::<bool>(), vec(any::<u8>(), 0..60)).prop_map(|(is_map, data)| Value {
        kind: if is_map { ValueKind::CrdtMap } else { ValueKind::Bytes },
        data: data.into(),
    })
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9._:-]{0,20}"
}

fn body_type() -> impl Strategy<Value = BodyType> {
    prop::sample::select(&BodyType::ALL[..])
}
