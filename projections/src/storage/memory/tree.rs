//! A persistent B+ tree: a clone is one pointer and never changes.
//!
//! Nodes are shared between clones and copied on the first write that meets them while they are shared. Without
//! readers a write changes nodes in place; a reader costs the writer one copy of each node that it touches next,
//! and never a lock.

use std::sync::Arc;

use bytes::Bytes;

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
    /// Rows in key order.
    Leaf(Vec<Row>),
    /// Children in key order, all of the same height.
    Branch(Vec<Child>),
}

/// A child and a lower bound of its keys, above all keys of the child before. The first child's bound is not
/// looked at: it takes whatever is below the second's.
#[derive(Clone)]
struct Child {
    from: Bytes,
    node: Arc<Node>,
}

impl Default for Node {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

impl Tree {
    /// A tree of rows in strictly ascending key order.
    pub(super) fn from_sorted(rows: Vec<Row>) -> Self {
        let count = rows.len();
        let mut level = chunks(rows, |rows: Vec<Row>| {
            let from = rows.first().map(|(key, _)| key.clone()).unwrap_or_default();
            Child { from, node: Arc::new(Node::Leaf(rows)) }
        });
        while level.len() > 1 {
            level = chunks(level, |children: Vec<Child>| {
                let from = children.first().map(|child| child.from.clone()).unwrap_or_default();
                Child { from, node: Arc::new(Node::Branch(children)) }
            });
        }
        Self { root: level.pop().map(|child| child.node).unwrap_or_default(), rows: count }
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
                Node::Leaf(rows) => {
                    let index = position(rows, key).ok()?;
                    return Some(&rows[index].1);
                }
                Node::Branch(children) => node = &*children[child_for(children, key)].node,
            }
        }
    }

    /// Sets the value of a key. A new key is copied, so that it does not keep the buffer it came from.
    pub(super) fn insert(&mut self, key: &[u8], value: Bytes) {
        let (added, split) = insert(&mut self.root, key, value);
        self.rows += usize::from(added);
        if let Some(right) = split {
            let left = Child { from: Bytes::new(), node: std::mem::take(&mut self.root) };
            self.root = Arc::new(Node::Branch(vec![left, right]));
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
        while let Node::Branch(children) = &*self.root {
            match children.as_slice() {
                [] => self.root = Arc::default(),
                [only] => self.root = Arc::clone(&only.node),
                _ => break,
            }
        }
    }

    /// The rows in a range.
    pub(super) fn range(&self, range: Range, order: Order) -> Scan<'_> {
        let leaf = match order {
            _ if range.is_empty() => &[],
            Order::Ascending => rows_from(&self.root, &|key| key < range.start()),
            Order::Descending => rows_up_to(&self.root, &|key| range.end().is_none_or(|end| key < end)),
        };
        Scan { root: &self.root, range, order, leaf }
    }
}

/// The rows in a range. Holds the rest of one leaf and finds the next from the root, so that it needs no stack.
pub(super) struct Scan<'a> {
    root: &'a Node,
    range: Range,
    order: Order,
    leaf: &'a [Row],
}

impl<'a> Iterator for Scan<'a> {
    type Item = &'a Row;

    fn next(&mut self) -> Option<&'a Row> {
        let (row, rest) = match self.order {
            Order::Ascending => self.leaf.split_first()?,
            Order::Descending => self.leaf.split_last()?,
        };
        self.leaf = rest;
        if !self.range.contains(&row.0) {
            self.leaf = &[];
            return None;
        }
        if rest.is_empty() {
            self.leaf = match self.order {
                Order::Ascending => rows_from(self.root, &|key| key <= &row.0[..]),
                Order::Descending => rows_up_to(self.root, &|key| key < &row.0[..]),
            };
        }
        Some(row)
    }
}

/// The first rows that are not `below`, of one leaf; none if there are none. `below` is true up to some key.
fn rows_from<'a>(node: &'a Node, below: &impl Fn(&[u8]) -> bool) -> &'a [Row] {
    match node {
        Node::Leaf(rows) => &rows[rows.partition_point(|(key, _)| below(key))..],
        Node::Branch(children) => {
            let first = children.partition_point(|child| below(&child.from)).saturating_sub(1);
            let mut found = children[first..].iter().map(|child| rows_from(&child.node, below));
            found.find(|rows| !rows.is_empty()).unwrap_or_default()
        }
    }
}

/// The last rows that are `below`, of one leaf; none if there are none. `below` is true up to some key.
fn rows_up_to<'a>(node: &'a Node, below: &impl Fn(&[u8]) -> bool) -> &'a [Row] {
    match node {
        Node::Leaf(rows) => &rows[..rows.partition_point(|(key, _)| below(key))],
        Node::Branch(children) => {
            // At least the first child, whose bound says nothing.
            let end = children.partition_point(|child| below(&child.from)).max(1);
            let mut found = children[..end].iter().rev().map(|child| rows_up_to(&child.node, below));
            found.find(|rows| !rows.is_empty()).unwrap_or_default()
        }
    }
}

/// Whether a row was added, and the right half of the node if it had to be split.
fn insert(node: &mut Arc<Node>, key: &[u8], value: Bytes) -> (bool, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => match position(rows, key) {
            Ok(index) => {
                rows[index].1 = value;
                (false, None)
            }
            Err(index) => {
                rows.insert(index, (Bytes::copy_from_slice(key), value));
                let right = split(rows);
                (true, right.map(|rows| Child { from: rows[0].0.clone(), node: Arc::new(Node::Leaf(rows)) }))
            }
        },
        Node::Branch(children) => {
            let index = child_for(children, key);
            let (added, child) = insert(&mut children[index].node, key, value);
            let right = child.and_then(|child| {
                children.insert(index + 1, child);
                split(children)
            });
            let right = right.map(|children| Child {
                from: children[0].from.clone(),
                node: Arc::new(Node::Branch(children)),
            });
            (added, right)
        }
    }
}

/// Removes a key that is there.
fn remove(node: &mut Arc<Node>, key: &[u8]) {
    match Arc::make_mut(node) {
        Node::Leaf(rows) => {
            if let Ok(index) = position(rows, key) {
                rows.remove(index);
            }
        }
        Node::Branch(children) => {
            let index = child_for(children, key);
            remove(&mut children[index].node, key);
            match children[index].node.len() {
                0 => {
                    children.remove(index);
                }
                1..NODE_LOW => join_with_neighbour(children, index),
                _ => {}
            }
        }
    }
}

/// Joins a child with the next or the previous one, if both fit into one node.
fn join_with_neighbour(children: &mut Vec<Child>, index: usize) {
    let joined_len = |left: usize| match children.get(left..left + 2) {
        Some([left, right]) => left.node.len() + right.node.len(),
        _ => usize::MAX,
    };
    let left = match index {
        _ if joined_len(index) <= NODE_MAX => index,
        1.. if joined_len(index - 1) <= NODE_MAX => index - 1,
        _ => return,
    };
    let Child { from, node } = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].node), Arc::unwrap_or_clone(node)) {
        (Node::Leaf(rows), Node::Leaf(more)) => rows.extend(more),
        (Node::Branch(children), Node::Branch(mut more)) => {
            // The first child's own bound may be above its keys; from now on it will be looked at.
            more[0].from = from;
            children.extend(more);
        }
        _ => unreachable!("all children of a branch have the same height"),
    }
}

impl Node {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(rows) => rows.len(),
            Self::Branch(children) => children.len(),
        }
    }
}

fn position(rows: &[Row], key: &[u8]) -> Result<usize, usize> {
    rows.binary_search_by(|(candidate, _)| candidate[..].cmp(key))
}

fn child_for(children: &[Child], key: &[u8]) -> usize {
    children.partition_point(|child| child.from[..] <= *key).saturating_sub(1)
}

fn split<T>(items: &mut Vec<T>) -> Option<Vec<T>> {
    (items.len() > NODE_MAX).then(|| items.split_off(items.len() / 2))
}

/// Cuts a level of the tree into nodes that are three quarters full.
fn chunks<T>(items: Vec<T>, node: impl Fn(Vec<T>) -> Child) -> Vec<Child> {
    let size = NODE_MAX * 3 / 4;
    let mut nodes = Vec::with_capacity(items.len().div_ceil(size));
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        nodes.push(node(items.by_ref().take(size).collect()));
    }
    nodes
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tests;
