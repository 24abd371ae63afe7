//! A persistent B+ tree: a clone is one pointer and never changes.
//!
//! Nodes are shared between clones and copied on the first write that meets them while they are shared. Without
//! readers a write changes nodes in place; a reader costs the writer one copy of each node that it touches next,
//! and never a lock.

use std::sync::Arc;

use bytes::Bytes;

use super::keys::Keys;
use crate::storage::{Order, Range, Row};

/// Rows of a leaf and children of a branch, at most. A split leaves half.
const NODE_MAX: usize = 32;
/// A node that shrinks below this is joined with a neighbour if both fit into one.
const NODE_LOW: usize = NODE_MAX / 4;

/// Rows in key order.
#[derive(Clone, Default)]
pub(super) struct Tree {
    root: Arc<Node>,
    rows: usize,
}

#[derive(Clone)]
enum Node {
    Leaf(Leaf),
    Branch(Branch),
}

/// Rows in key order.
#[derive(Clone, Default)]
struct Leaf {
    keys: Keys,
    values: Vec<Bytes>,
}

/// Children in key order, all of the same height. Each has a lower bound of its keys, above all keys of the child before;
/// the first child's bound is not looked at: it takes whatever is below the second's.
#[derive(Clone, Default)]
struct Branch {
    bounds: Keys,
    children: Vec<Arc<Node>>,
}

/// The right half of a node that was split, and its lower bound.
type Split = Option<(Vec<u8>, Arc<Node>)>;

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Leaf::default())
    }
}

impl Tree {
    /// A tree of rows in strictly ascending key order.
    pub(super) fn from_sorted(rows: Vec<Row>) -> Self {
        // Three quarters full, so that the next writes do not split every node.
        const FILL: usize = NODE_MAX * 3 / 4;
        let count = rows.len();
        let mut rows = rows.into_iter().peekable();
        let mut level = Vec::with_capacity(count.div_ceil(FILL));
        while let Some((bound, _)) = rows.peek().cloned() {
            let mut leaf = Leaf::default();
            for (key, value) in rows.by_ref().take(FILL) {
                leaf.keys.push(&key);
                leaf.values.push(value);
            }
            level.push((bound, Arc::new(Node::Leaf(leaf))));
        }
        while level.len() > 1 {
            let parents = level.chunks(FILL).map(|part| {
                let mut branch = Branch::default();
                for (bound, child) in part {
                    branch.bounds.push(bound);
                    branch.children.push(Arc::clone(child));
                }
                (part[0].0.clone(), Arc::new(Node::Branch(branch)))
            });
            level = parents.collect();
        }
        Self { root: level.pop().map(|(_, root)| root).unwrap_or_default(), rows: count }
    }

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.keys.search(key).ok().map(|index| &leaf.values[index]),
                Node::Branch(branch) => node = &*branch.children[branch.child_for(key)],
            }
        }
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, key: &[u8], value: Bytes) {
        let (added, split) = insert(&mut self.root, key, value);
        self.rows += usize::from(added);
        if let Some((bound, right)) = split {
            let mut root = Branch::default();
            root.insert(0, &[], std::mem::take(&mut self.root));
            root.insert(1, &bound, right);
            self.root = Arc::new(Node::Branch(root));
        }
    }

    /// Removes a key, if it is there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        // Looked up first, so that a key that is not there copies no node.
        if self.get(key).is_none() {
            return;
        }
        remove(&mut self.root, key);
        self.rows -= 1;
        while let Node::Branch(branch) = &*self.root {
            match branch.children.as_slice() {
                [] => self.root = Arc::default(),
                [only] => self.root = Arc::clone(only),
                _ => break,
            }
        }
    }

    /// The rows in a range.
    pub(super) fn range(&self, range: Range, order: Order) -> Scan<'_> {
        let span = match order {
            _ if range.is_empty() => None,
            Order::Ascending => rows_from(&self.root, &|key| key < range.start()),
            Order::Descending => rows_up_to(&self.root, &|key| range.end().is_none_or(|end| key < end)),
        };
        Scan { root: &self.root, range, order, span }
    }
}

/// Some rows of one leaf; at least one.
struct Span<'a> {
    leaf: &'a Leaf,
    indexes: std::ops::Range<usize>,
}

impl<'a> Span<'a> {
    fn new(leaf: &'a Leaf, indexes: std::ops::Range<usize>) -> Option<Self> {
        (!indexes.is_empty()).then_some(Self { leaf, indexes })
    }
}

/// The rows in a range. Holds the rest of one leaf and finds the next from the root, so that it needs no stack.
pub(super) struct Scan<'a> {
    root: &'a Node,
    range: Range,
    order: Order,
    span: Option<Span<'a>>,
}

impl<'a> Iterator for Scan<'a> {
    type Item = (&'a [u8], &'a Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let Span { leaf, mut indexes } = self.span.take()?;
        let index = match self.order {
            Order::Ascending => indexes.next()?,
            Order::Descending => indexes.next_back()?,
        };
        let key = leaf.keys.get(index);
        if !self.range.contains(key) {
            return None;
        }
        self.span = Span::new(leaf, indexes).or_else(|| match self.order {
            Order::Ascending => rows_from(self.root, &|other| other <= key),
            Order::Descending => rows_up_to(self.root, &|other| other < key),
        });
        Some((key, &leaf.values[index]))
    }
}

/// The first rows that are not `below`, of one leaf. `below` is true up to some key.
fn rows_from<'a>(node: &'a Node, below: &impl Fn(&[u8]) -> bool) -> Option<Span<'a>> {
    match node {
        Node::Leaf(leaf) => Span::new(leaf, leaf.keys.partition_point(below)..leaf.keys.len()),
        Node::Branch(branch) => {
            let first = branch.bounds.partition_point(below).saturating_sub(1);
            branch.children[first..].iter().find_map(|child| rows_from(child, below))
        }
    }
}

/// The last rows that are `below`, of one leaf. `below` is true up to some key.
fn rows_up_to<'a>(node: &'a Node, below: &impl Fn(&[u8]) -> bool) -> Option<Span<'a>> {
    match node {
        Node::Leaf(leaf) => Span::new(leaf, 0..leaf.keys.partition_point(below)),
        Node::Branch(branch) => {
            // At least the first child, whose bound says nothing.
            let end = branch.bounds.partition_point(below).max(1);
            branch.children[..end].iter().rev().find_map(|child| rows_up_to(child, below))
        }
    }
}

/// Whether a row was added, and the right half of the node if it had to be split.
fn insert(node: &mut Arc<Node>, key: &[u8], value: Bytes) -> (bool, Split) {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => match leaf.keys.search(key) {
            Ok(index) => {
                leaf.values[index] = value;
                (false, None)
            }
            Err(index) => {
                leaf.keys.insert(index, key);
                leaf.values.insert(index, value);
                (true, leaf.split())
            }
        },
        Node::Branch(branch) => {
            let index = branch.child_for(key);
            let (added, split) = insert(&mut branch.children[index], key, value);
            let Some((bound, right)) = split else { return (added, None) };
            branch.insert(index + 1, &bound, right);
            (added, branch.split())
        }
    }
}

/// Removes a key that is there.
fn remove(node: &mut Arc<Node>, key: &[u8]) {
    match Arc::make_mut(node) {
        Node::Leaf(leaf) => {
            if let Ok(index) = leaf.keys.search(key) {
                leaf.keys.remove(index);
                leaf.values.remove(index);
            }
        }
        Node::Branch(branch) => {
            let index = branch.child_for(key);
            remove(&mut branch.children[index], key);
            match branch.children[index].len() {
                0 => {
                    branch.bounds.remove(index);
                    branch.children.remove(index);
                }
                1..NODE_LOW => branch.join_with_neighbour(index),
                _ => {}
            }
        }
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.values.len(),
            Self::Branch(branch) => branch.children.len(),
        }
    }
}

impl Leaf {
    fn split(&mut self) -> Split {
        let half = half_of(self.values.len())?;
        let right = Self { keys: self.keys.split_off(half), values: self.values.split_off(half) };
        Some((right.keys.get(0).to_vec(), Arc::new(Node::Leaf(right))))
    }
}

impl Branch {
    fn child_for(&self, key: &[u8]) -> usize {
        self.bounds.partition_point(|bound| bound <= key).saturating_sub(1)
    }

    fn insert(&mut self, index: usize, bound: &[u8], child: Arc<Node>) {
        self.bounds.insert(index, bound);
        self.children.insert(index, child);
    }

    fn split(&mut self) -> Split {
        let half = half_of(self.children.len())?;
        let right = Self { bounds: self.bounds.split_off(half), children: self.children.split_off(half) };
        Some((right.bounds.get(0).to_vec(), Arc::new(Node::Branch(right))))
    }

    /// Joins a child with the next or the previous one, if both fit into one node.
    fn join_with_neighbour(&mut self, index: usize) {
        let joined_len = |left: usize| match self.children.get(left..left + 2) {
            Some([left, right]) => left.len() + right.len(),
            _ => usize::MAX,
        };
        let left = match index {
            _ if joined_len(index) <= NODE_MAX => index,
            1.. if joined_len(index - 1) <= NODE_MAX => index - 1,
            _ => return,
        };
        let right = self.children.remove(left + 1);
        match (Arc::make_mut(&mut self.children[left]), Arc::unwrap_or_clone(right)) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                left.keys.append(&right.keys);
                left.values.extend(right.values);
            }
            (Node::Branch(joined), Node::Branch(mut right)) => {
                // The first child's own bound may be above its keys; from now on it will be looked at.
                right.bounds.remove(0);
                right.bounds.insert(0, self.bounds.get(left + 1));
                joined.bounds.append(&right.bounds);
                joined.children.extend(right.children);
            }
            _ => unreachable!("all children of a branch have the same height"),
        }
        self.bounds.remove(left + 1);
    }
}

/// Where to split a node of so many rows or children, if it is too large.
fn half_of(len: usize) -> Option<usize> {
    (len > NODE_MAX).then_some(len / 2)
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tests;
