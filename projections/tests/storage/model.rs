//! Random operations, compared with an ordered map.

use std::collections::BTreeMap;

use bytes::Bytes;
use odgm_projections::storage::{Batch, Engine, Order, Range, open_snapshot};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Fixture, scan};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(Bytes, Option<Bytes>)>),
    Read { range: Range, order: Order, keys: Vec<Bytes> },
    Flush,
    Reopen,
    Snapshot,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = || (key(), prop_oneof![3 => value().prop_map(Some), 2 => Just(None)]);
    let order = prop_oneof![Just(Order::Ascending), Just(Order::Descending)];
    prop_oneof![
        6 => vec(operation(), 0..60).prop_map(Step::Write),
        6 => (range(), order, vec(key(), 0..4)).prop_map(|(range, order, keys)| Step::Read { range, order, keys }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Snapshot),
    ]
}

/// Short keys of few bytes, so that they meet again, and some longer ones.
fn key() -> impl Strategy<Value = Bytes> {
    let byte = prop_oneof![Just(0_u8), Just(1), Just(b'a'), Just(b'b'), Just(0xfe), Just(0xff)];
    prop_oneof![4 => vec(byte, 0..5), 1 => vec(any::<u8>(), 0..40)].prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..12), 1 => vec(any::<u8>(), 0..2_000)].prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = Range> {
    let narrowed = (key(), key(), key(), 0..4, 0..3);
    narrowed.prop_map(|(prefix, low, high, lower, upper)| {
        let range = if lower == 0 { Range::all() } else { Range::prefix(&prefix) };
        let range = match lower {
            0 | 1 => range,
            2 => range.from(&low),
            _ => range.after(&low),
        };
        match upper {
            0 => range,
            1 => range.until(&high),
            _ => range.through(&high),
        }
    })
}

fn check(engine: Engine, steps: Vec<Step>) {
    let mut fixture = Fixture::new(engine);
    let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut snapshots = Vec::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Write(operations) => {
                let mut batch = Batch::with_capacity(operations.len());
                for (key, value) in operations {
                    match value {
                        Some(value) => {
                            batch.put(key.clone(), value.clone());
                            model.insert(key, value);
                        }
                        None => {
                            batch.delete(key.clone());
                            model.remove(&key);
                        }
                    }
                }
                fixture.storage().write(batch).unwrap();
            }
            Step::Read { range, order, keys } => {
                let mut expected: Vec<_> =
                    model.clone().into_iter().filter(|(key, _)| range.contains(key)).collect();
                if order == Order::Descending {
                    expected.reverse();
                }
                let reader = fixture.storage().reader().unwrap();
                assert_eq!(scan(&*reader, range, order), expected);
                let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
                let expected: Vec<_> = keys.iter().map(|key| model.get(*key).cloned()).collect();
                assert_eq!(fixture.storage().get_many(&keys).unwrap(), expected);
                assert_eq!(reader.get_many(&keys).unwrap(), expected);
            }
            Step::Flush => fixture.storage().flush().unwrap(),
            Step::Reopen => fixture.reopen(),
            Step::Snapshot => {
                let path = fixture.path(&format!("snapshot-{number}"));
                fixture.storage().snapshot(&path).unwrap();
                snapshots.push((path, model.clone()));
            }
        }
    }
    for (path, expected) in snapshots {
        let reader = open_snapshot(&path, &fixture.resources).unwrap();
        assert!(
            scan(&*reader, Range::all(), Order::Ascending).into_iter().eq(expected),
            "{}",
            path.display()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rocksdb_behaves_like_a_map(steps in vec(step(), 1..40)) {
        check(Engine::RocksDb, steps);
    }

    #[test]
    fn memory_behaves_like_a_map(steps in vec(step(), 1..40)) {
        check(Engine::Memory, steps);
    }
}
