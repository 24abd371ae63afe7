//! The bytes of keys.

use odgm_log::{Offset, Timestamp};
use odgm_projections::keys::{Key, Table};
use proptest::prelude::*;

#[test]
fn the_bytes_of_every_kind_of_key() {
    let keys = [
        Key::Header,
        Key::Cursor("mirror"),
        Key::Entry("n14228", "flight"),
        Key::History("n14228", Offset(258)),
        Key::Members,
        Key::Object("n14228"),
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
    cursor: cmirror
    entry: en14228\x00flight
    history: hn14228\x00\x00\x00\x00\x00\x00\x00\x01\x02
    members: m
    object: on14228
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
    fn keys_come_back(object in "[a-z0-9._:-]{0,20}", key: String, offset: u64, time: u64) {
        let keys = [
            Key::Entry(&object, &key),
            Key::History(&object, Offset(offset)),
            Key::Time(Timestamp(time), Offset(offset)),
        ];
        for key in keys {
            let bytes = key.to_vec();
            prop_assert_eq!(Key::parse(&bytes), Some(key));
        }
    }
}
