//! Reads of the present: lists, pages, single entries, versions.

use odgm_log::Offset;
use odgm_log::body::Value;
use odgm_projections::limits::MAX_COLLECTED;
use odgm_projections::{EntryRead, Outcome};

use crate::support::Partition;

/// The first implementation stopped at the first key without the prefix.
#[test]
fn a_list_of_values_has_every_key_with_the_prefix() {
    let mut partition = Partition::new();
    partition.run("set a user:1=x widget=y user:10=z use=u users=v");
    let listed = partition.view().list_values("a", "user:", None, 10).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["user:1", "user:10"]);
}

#[test]
fn pages_go_on_after_a_key_even_if_it_is_gone() {
    let mut partition = Partition::new();
    partition.run("set a k1=1 k2=2 k3=3 k4=4");
    let page = |partition: &Partition, after| {
        let entries = partition.view().list_values("a", "k", after, 2).unwrap();
        entries.into_iter().map(|entry| (entry.key, entry.version)).collect::<Vec<_>>()
    };
    assert_eq!(page(&partition, None), [("k1".to_owned(), 1), ("k2".to_owned(), 1)]);
    partition.run("put a k3=5 -k2");
    assert_eq!(page(&partition, Some("k2")), [("k3".to_owned(), 2), ("k4".to_owned(), 1)]);
    assert_eq!(page(&partition, Some("k4")), []);
}

#[test]
fn a_list_of_objects_is_in_byte_order_and_knows_no_deleted_ones() {
    let mut partition = Partition::new();
    for id in ["b", "ab", "a.b", "a", "a:1"] {
        partition.run(&format!("set {id} k=1 l=2"));
    }
    partition.run("delete ab");
    let list = |prefix, after, limit| {
        let listed = partition.view().list_objects(prefix, after, limit).unwrap();
        listed.into_iter().map(|object| (object.id, object.entry_count)).collect::<Vec<_>>()
    };
    let expected = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), 2)).collect::<Vec<_>>();
    assert_eq!(list("", None, 10), expected(&["a", "a.b", "a:1", "b"]));
    assert_eq!(list("a", Some("a"), 1), expected(&["a.b"]));
    assert_eq!(list("a", Some("a:1"), 10), []);
    assert_eq!(list("", None, 0), []);
}

#[test]
fn one_entry_is_read_with_its_objects_version() {
    let mut partition = Partition::new();
    partition.run("set a k=1 l=1");
    partition.run("put a l=2");
    let view = partition.view();
    let value = Some(Value::bytes("1"));
    assert_eq!(view.value("a", "k").unwrap(), EntryRead { object_version: Some(2), value, version: 1 });
    let absent = EntryRead { object_version: Some(2), value: None, version: 0 };
    assert_eq!(view.value("a", "m").unwrap(), absent);
    assert_eq!(view.value("b", "k").unwrap(), EntryRead::default());
}

#[test]
fn history_is_read_in_both_directions() {
    let mut partition = Partition::new();
    for line in ["put a k=1", "put b k=1", "put a k=2", "delete a", "put a k=3"] {
        partition.run(line);
    }
    let history = |from: u64, newest_first, limit| {
        let changes = partition.view().history("a", Offset(from), newest_first, limit).unwrap();
        changes.into_iter().map(|change| change.offset.get()).collect::<Vec<_>>()
    };
    assert_eq!(history(0, false, 9), [1, 3, 4, 5]);
    assert_eq!(history(3, false, 2), [3, 4]);
    assert_eq!(history(u64::MAX, true, 2), [5, 4]);
    assert_eq!(history(2, true, 9), [1]);
    assert_eq!(partition.view().change("a", Offset(2)).unwrap(), None, "it was about b");
}

#[test]
fn no_version_is_used_again_even_when_deletions_are_forgotten_bit_by_bit() {
    let mut partition = Partition::new();
    for n in 0..MAX_COLLECTED + 5 {
        partition.run(&format!("set o{n:05} k=1"));
        partition.run(&format!("delete o{n:05}"));
    }
    let through = partition.view().header().applied;
    partition.run(&format!("collect {through}"));
    assert_eq!(partition.view().header().tombstones, 5, "one record forgets a bounded number");
    assert_eq!(partition.view().nth_oldest_tombstone(0).unwrap(), Some(Offset(2 * MAX_COLLECTED as u64 + 2)));
    assert_eq!(
        partition.answer("set o00000 k=1"),
        Outcome::Changed { version: 3 },
        "above the one forgotten"
    );
    assert_eq!(partition.answer("set new k=1"), Outcome::Changed { version: 3 });
    partition.run(&format!("collect {through}"));
    assert_eq!(partition.view().nth_oldest_tombstone(0).unwrap(), None);
}
