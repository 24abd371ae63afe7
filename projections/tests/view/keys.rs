//! The bytes of keys.

use odgm_log::body::Parent;
use odgm_log::body::calls::{DeliveryKey, Place, RowKey};
use odgm_log::{GroupId, NodeId, Offset, Timestamp};
use odgm_projections::keys::{Key, Table};
use proptest::prelude::*;

#[test]
fn the_bytes_of_every_kind_of_key() {
    let (group, origin, offset, index) = (GroupId(9), NodeId(3), Offset(258), 5);
    let place = Place { offset, index };
    let keys = [
        Key::Header,
        Key::Caused(Parent { group, origin, offset }, Offset(259)),
        Key::Cursor("mirror"),
        Key::Delivery(place),
        Key::Entry("n14228", "flight"),
        Key::SourceFloor(group, origin),
        Key::Delivered(DeliveryKey { group, origin, offset, index }),
        Key::History("n14228", Offset(258)),
        Key::Invocation("i-1"),
        Key::ResultOrder(Offset(258), "i-1"),
        Key::DeadLetter(place),
        Key::Members,
        Key::Object("n14228"),
        Key::Outbox(RowKey { due: Timestamp(1_000_000), offset, index }),
        Key::Request("r-1"),
        Key::RequestOrder(Offset(258)),
        Key::Time(Timestamp(1_000_000), Offset(258)),
        Key::Tombstone("n14228"),
        Key::TombstoneOrder(Offset(258)),
    ];
    assert_eq!(keys.map(|key| key.table()), Table::ALL);
    assert!(keys.is_sorted_by_key(|key| key.to_vec()), "tables are in the order of their bytes");
    let text: String =
        keys.iter().map(|key| format!("{}: {}\n", key.table().name(), key.to_vec().escape_ascii())).collect();
    insta::assert_snapshot!(text, @r"
    header: !
    caused: a\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x00\x00\x01\x03
    cursor: cmirror
    delivery: d\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05
    entry: en14228\x00flight
    source floor: f\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\x03
    delivered: g\x00\x00\x00\t\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05
    history: hn14228\x00\x00\x00\x00\x00\x00\x00\x01\x02
    invocation: ii-1
    result order: j\x00\x00\x00\x00\x00\x00\x01\x02i-1
    dead letter: l\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05
    members: m
    object: on14228
    outbox: q\x00\x00\x00\x00\x00\x0fB@\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x05
    request: rr-1
    request order: s\x00\x00\x00\x00\x00\x00\x01\x02
    time: t\x00\x00\x00\x00\x00\x0fB@\x00\x00\x00\x00\x00\x00\x01\x02
    tombstone: xn14228
    tombstone order: y\x00\x00\x00\x00\x00\x00\x01\x02
    ");
}

#[test]
fn entries_of_one_object_stand_together_before_those_of_the_next() {
    let ordered = [Key::Entry("a", "x"), Key::Entry("a", "y"), Key::Entry("a.b", "k"), Key::Entry("ab", "")];
    assert!(ordered.is_sorted_by_key(|key| key.to_vec()));
}

/// The processor reads from the front, a target's keys are removed up to a floor, results are forgotten oldest first.
#[test]
fn calls_stand_in_the_order_in_which_they_are_looked_for() {
    let row = |due, offset, index| Key::Outbox(RowKey { due: Timestamp(due), offset: Offset(offset), index });
    assert!(
        [row(1, 900, 2), row(2, 3, 0), row(2, 3, 1), row(2, 4, 0), row(256, 1, 0)]
            .is_sorted_by_key(|key| key.to_vec())
    );
    let from = |group, offset, index| {
        let (group, offset) = (GroupId(group), Offset(offset));
        Key::Delivered(DeliveryKey { group, origin: NodeId(0), offset, index })
    };
    assert!([from(1, 2, 9), from(1, 256, 0), from(2, 1, 0)].is_sorted_by_key(|key| key.to_vec()));
    let ended =
        [(1, "z"), (2, "a"), (2, "b"), (256, "")].map(|(offset, id)| Key::ResultOrder(Offset(offset), id));
    assert!(ended.is_sorted_by_key(|key| key.to_vec()));
}

proptest! {
    #[test]
    fn any_bytes_are_a_key_or_none(bytes: Vec<u8>) {
        if let Some(key) = Key::parse(&bytes) {
            prop_assert_eq!(key.to_vec(), bytes);
        }
    }

    #[test]
    fn bytes_of_a_table_are_a_key_or_none(
        table in proptest::sample::select(Table::ALL.to_vec()),
        bytes: Vec<u8>,
    ) {
        let mut row = vec![table as u8];
        row.extend(bytes);
        if let Some(key) = Key::parse(&row) {
            prop_assert_eq!(key.to_vec(), row);
        }
    }

    #[test]
    fn keys_come_back(object in "[a-z0-9._:-]{0,20}", key: String, offset: u64, time: u64, group: u32, index: u32) {
        let (group, origin, offset, due) = (GroupId(group), NodeId(!time), Offset(offset), Timestamp(time));
        let place = Place { offset, index };
        let keys = [
            Key::Outbox(RowKey { due, offset, index }),
            Key::Delivery(place),
            Key::DeadLetter(place),
            Key::Delivered(DeliveryKey { group, origin, offset, index }),
            Key::SourceFloor(group, origin),
            Key::Invocation(&key),
            Key::ResultOrder(offset, &key),
            Key::Caused(Parent { group, origin, offset }, Offset(time)),
            Key::Entry(&object, &key),
            Key::History(&object, offset),
            Key::Time(due, offset),
        ];
        for key in keys {
            let bytes = key.to_vec();
            prop_assert_eq!(Key::parse(&bytes), Some(key));
        }
    }
}
