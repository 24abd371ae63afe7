#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Checks order, bounds, height and fill of a tree, and returns its rows.
fn checked(tree: &Tree) -> Vec<Row> {
    fn walk(
        node: &Node,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        is_root: bool,
        rows: &mut Vec<Row>,
    ) -> usize {
        assert!(node.len() <= NODE_MAX && (is_root || node.len() > 0));
        match node {
            Node::Leaf(Leaf { keys, values }) => {
                assert_eq!(keys.len(), values.len());
                for (index, value) in values.iter().enumerate() {
                    let key = keys.get(index);
                    assert!(index == 0 || keys.get(index - 1) < key);
                    assert!(from.is_none_or(|from| key >= from) && to.is_none_or(|to| key < to));
                    rows.push((Bytes::copy_from_slice(key), value.clone()));
                }
                0
            }
            Node::Branch(Branch { bounds, children }) => {
                assert_eq!(bounds.len(), children.len());
                let bound = |index| (index < bounds.len()).then(|| bounds.get(index));
                let heights = children.iter().enumerate().map(|(index, child)| {
                    let from = if index == 0 { from } else { bound(index) };
                    walk(child, from, bound(index + 1).or(to), false, rows)
                });
                let heights: Vec<usize> = heights.collect();
                assert!(heights.iter().all(|height| *height == heights[0]));
                heights[0] + 1
            }
        }
    }
    let mut rows = Vec::new();
    walk(&tree.root, None, None, true, &mut rows);
    assert_eq!(rows.len(), tree.len());
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs of puts and runs of deletes, so that the tree grows several levels and shrinks again; clones taken on the way
    /// stay as they were.
    #[test]
    fn behaves_like_a_map_and_clones_stay(
        runs in vec((any::<bool>(), 0..3_000_u16, 1..7_u16, 0..1_500_u16), 1..12),
        start in 0..2_000_u16,
    ) {
        let row = |number: u16| (Bytes::from(number.to_be_bytes().to_vec()), Bytes::from(number.to_string()));
        let mut model: BTreeMap<Bytes, Bytes> = (0..start).map(row).collect();
        let mut tree = Tree::from_sorted(model.clone().into_iter().collect());
        let mut clones = Vec::new();
        for (put, first, step, count) in runs {
            clones.push((tree.clone(), model.clone()));
            for number in (first..).step_by(usize::from(step)).take(usize::from(count)) {
                let (key, value) = row(number);
                if put {
                    tree.insert(&key, value.clone());
                    model.insert(key, value);
                } else {
                    tree.remove(&key);
                    model.remove(&key);
                }
            }
            prop_assert!(checked(&tree).into_iter().eq(model.clone()));
            let (probe, expected) = (row(first).0, model.get(&row(first).0));
            prop_assert_eq!(tree.get(&probe), expected);
        }
        for (tree, model) in clones {
            let descending = tree.range(Range::all(), Order::Descending).map(|(key, value)| (key.to_vec(), value));
            prop_assert!(descending.eq(model.iter().rev().map(|(key, value)| (key.to_vec(), value))));
            prop_assert!(checked(&tree).into_iter().eq(model));
        }
    }
}

#[test]
fn a_write_copies_only_what_a_clone_shares() {
    let mut tree = Tree::default();
    tree.insert(b"a", Bytes::from_static(b"1"));
    let before = Arc::as_ptr(&tree.root);
    tree.insert(b"a", Bytes::from_static(b"2"));
    assert_eq!(Arc::as_ptr(&tree.root), before, "changed in place");
    let clone = tree.clone();
    tree.remove(b"absent");
    assert_eq!(Arc::as_ptr(&tree.root), before, "nothing to change, nothing copied");
    tree.insert(b"a", Bytes::from_static(b"3"));
    assert_ne!(Arc::as_ptr(&tree.root), before);
    assert_eq!(clone.get(b"a").unwrap(), &b"2"[..]);
}
