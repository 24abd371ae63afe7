//! The nodes of the cluster as the catalogue has them, and who of them is believed.

use std::collections::BTreeMap;

use odgm_log::NodeId;
use parking_lot::RwLock;

use crate::catalogue::NodeEntry;
use crate::transport::Admission;

/// What is known of each node. Empty until the catalogue is.
#[derive(Default)]
pub(crate) struct Nodes {
    known: RwLock<BTreeMap<NodeId, NodeEntry>>,
}

impl Nodes {
    pub(crate) fn replace(&self, nodes: &BTreeMap<NodeId, NodeEntry>) {
        self.known.write().clone_from(nodes);
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
    fn admit(&self, sender: NodeId, found: u64) -> Result<(), String> {
        match self.known.read().get(&sender) {
            Some(entry) if incarnation(&entry.incarnation) != found => Err(format!(
                "node {sender} is known to the cluster with data directory {}, and speaks with {found:016x}: if its disk \
                 was lost, take the node out and let it join under a new id; else give it its own directory back, or \
                 end the second process that has its id",
                entry.incarnation
            )),
            // Nobody is known before the catalogue is, and a new node is admitted to group 0 by its members.
            _ => Ok(()),
        }
    }
}
