//! The nodes of the cluster as the catalogue has them, and who of them is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use odgm_log::NodeId;
use parking_lot::{Mutex, RwLock};

use crate::catalogue::{NodeEntry, NodeState};
use crate::transport::{Admission, Stranger};

/// What is known of each node. Empty until the catalogue is.
#[derive(Default)]
pub(crate) struct Nodes {
    known: RwLock<BTreeMap<NodeId, NodeEntry>>,
    /// The members of the catalogue's group. Those that founded it take part before they have said who they are.
    members: RwLock<BTreeSet<NodeId>>,
    /// The data directory with which a known node last spoke that has another one, and when.
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
}

/// How long it is remembered that a node spoke with another data directory. It tries again more often.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

impl Nodes {
    pub(crate) fn replace(&self, nodes: &BTreeMap<NodeId, NodeEntry>) {
        self.known.write().clone_from(nodes);
    }

    pub(crate) fn replace_members(&self, members: BTreeSet<NodeId>) {
        if *self.members.read() != members {
            *self.members.write() = members;
        }
    }

    /// The nodes of the cluster, with those that founded it and have not said yet who they are.
    pub(crate) fn everybody(&self) -> BTreeSet<NodeId> {
        self.known.read().keys().chain(self.members.read().iter()).copied().collect()
    }

    /// The data directory, other than the known one, with which a node spoke lately.
    pub(crate) fn other_incarnation(&self, node: NodeId) -> Option<String> {
        let heard = self.heard.lock();
        let (found, at) = heard.get(&node)?;
        (at.elapsed() < HEARD_WITHIN).then(|| format!("{found:016x}"))
    }

    pub(crate) fn all(&self) -> BTreeMap<NodeId, NodeEntry> {
        self.known.read().clone()
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        let known = self.known.read();
        known.get(&node).map(|entry| entry.address.clone()).filter(|address| !address.is_empty())
    }
}

/// The text of an incarnation in `node.json` as the number that travels with messages.
pub(crate) fn incarnation(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_default()
}

impl Admission for Nodes {
    fn admit(&self, sender: NodeId, found: u64) -> Result<(), Stranger> {
        let known = self.known.read();
        match known.get(&sender) {
            Some(entry) if incarnation(&entry.incarnation) == found => Ok(()),
            Some(NodeEntry { incarnation, state: NodeState::Readmitting { .. }, .. }) => {
                let reason = format!(
                    "node {sender} begins anew once no partition counts on its old data directory {incarnation}: \
                     `odgm cluster status` shows what is still to be done"
                );
                Err(Stranger { reason, may_answer: false })
            }
            // Groups count on what it knew, so not even its answers are heeded.
            Some(entry) => {
                self.heard.lock().insert(sender, (found, Instant::now()));
                let reason = format!(
                    "node {sender} is known to the cluster with data directory {}, and speaks with {found:016x}: if its \
                     disk was lost, type `odgm cluster readmit {sender}`; else give it its own directory back, or end the \
                     second process that has its id",
                    entry.incarnation
                );
                Err(Stranger { reason, may_answer: false })
            }
            // Nobody is known before the catalogue is.
            None if known.is_empty() || self.members.read().contains(&sender) => Ok(()),
            None => {
                let reason = format!(
                    "node {sender} is not part of this cluster: to let it in, type `odgm cluster add {sender}`"
                );
                Err(Stranger { reason, may_answer: true })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(incarnation: &str) -> NodeEntry {
        let (name, address) = (None, String::new());
        NodeEntry { name, address, incarnation: incarnation.to_owned(), state: NodeState::Member }
    }

    #[test]
    fn strangers_are_told_what_the_operator_has_to_type() {
        let nodes = Nodes::default();
        assert!(nodes.admit(NodeId(7), 1).is_ok(), "nobody is known yet");
        nodes.replace(&BTreeMap::from([(NodeId(1), entry("0a")), (NodeId(3), entry("0c"))]));
        nodes.replace_members([1, 2, 3].map(NodeId).into());
        assert!(nodes.admit(NodeId(1), 10).is_ok());
        assert!(nodes.admit(NodeId(2), 99).is_ok(), "it founded the cluster and is about to say who it is");
        let reason = |node, found| nodes.admit(NodeId(node), found).expect_err("a stranger").reason;
        insta::assert_snapshot!(reason(4, 1), @"node 4 is not part of this cluster: to let it in, type `odgm cluster add 4`");
        insta::assert_snapshot!(reason(3, 13), @"node 3 is known to the cluster with data directory 0c, and speaks with 000000000000000d: if its disk was lost, type `odgm cluster readmit 3`; else give it its own directory back, or end the second process that has its id");
    }
}
