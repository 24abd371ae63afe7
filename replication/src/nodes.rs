//! The nodes of the cluster as the catalogue has them, and who of them is believed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use odgm_log::NodeId;
use parking_lot::{Mutex, RwLock};

use crate::catalogue::NodeEntry;
use crate::transport::Admission;

/// For how long two processes with one id count as alive after both were heard of. Processes introduce themselves more often.
const BOTH_ALIVE: Duration = Duration::from_secs(5);

/// Processes of one node that are remembered; of those that come and go so quickly, the newest.
const REMEMBERED_PROCESSES: usize = 8;

/// Nodes whose processes are remembered. Beyond them, those not heard of lately are forgotten; if there are none, a new one is not
/// noted.
const REMEMBERED_NODES: usize = 1_024;

/// What is known of each node.
#[derive(Default)]
pub(crate) struct Nodes {
    /// None until the catalogue has been read: until then nobody can be told from an impostor.
    known: RwLock<Option<BTreeMap<NodeId, NodeEntry>>>,
    /// The processes that have introduced themselves lately, in the order in which they first did.
    processes: Mutex<BTreeMap<NodeId, Vec<Process>>>,
    /// Of which nodes two processes are alive, and since when that has not been seen any more.
    doubles: RwLock<BTreeMap<NodeId, Double>>,
    has_doubles: AtomicBool,
}

/// A process that says it is a node.
#[derive(Clone, Copy, Debug)]
struct Process {
    incarnation: u64,
    id: u64,
    first: Instant,
    last: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Double {
    incarnation: u64,
    seen: Instant,
}

impl Nodes {
    pub(crate) fn replace(&self, nodes: &BTreeMap<NodeId, NodeEntry>) {
        *self.known.write() = Some(nodes.clone());
    }

    pub(crate) fn all(&self) -> BTreeMap<NodeId, NodeEntry> {
        self.known.read().clone().unwrap_or_default()
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<String> {
        let known = self.known.read();
        known.as_ref()?.get(&node).map(|entry| entry.address.clone()).filter(|address| !address.is_empty())
    }

    /// Takes note of a process that introduces itself as a node, and says why it is not believed if it is not.
    ///
    /// Two processes on copies of one directory cannot be told apart, and each could vote where the other has: as long as
    /// both are heard of, neither is believed.
    pub(crate) fn greet(&self, node: NodeId, incarnation: u64, process: u64) -> Result<(), String> {
        if self.note(node, incarnation, process) {
            self.doubles.write().insert(node, Double { incarnation, seen: Instant::now() });
            self.has_doubles.store(true, Ordering::Release);
        }
        self.admit(node, incarnation)
    }

    /// Whether another process of the same directory has been heard of since this one was first.
    fn note(&self, node: NodeId, incarnation: u64, process: u64) -> bool {
        let now = Instant::now();
        let mut processes = self.processes.lock();
        if processes.len() >= REMEMBERED_NODES && !processes.contains_key(&node) {
            processes.retain(|_, of_node| of_node.iter().any(|one| now - one.last < BOTH_ALIVE));
            if processes.len() >= REMEMBERED_NODES {
                return false;
            }
        }
        let of_node = processes.entry(node).or_default();
        of_node.retain(|one| now - one.last < BOTH_ALIVE);
        match of_node.iter_mut().find(|one| (one.incarnation, one.id) == (incarnation, process)) {
            Some(known) => known.last = now,
            None => {
                if of_node.len() >= REMEMBERED_PROCESSES {
                    of_node.remove(0);
                }
                of_node.push(Process { incarnation, id: process, first: now, last: now });
            }
        }
        // One that was started again is not heard of any more when its successor is.
        let same = of_node.iter().filter(|one| one.incarnation == incarnation);
        same.clone().any(|one| {
            same.clone().any(|other| one.id != other.id && one.last > other.first && other.last > one.first)
        })
    }

    fn admit_one_process(&self, node: NodeId, incarnation: u64) -> Result<(), String> {
        let mut doubles = self.doubles.write();
        doubles.retain(|_, double| double.seen.elapsed() < BOTH_ALIVE);
        self.has_doubles.store(!doubles.is_empty(), Ordering::Release);
        match doubles.get(&node) {
            Some(double) if double.incarnation == incarnation => Err(format!(
                "two processes speak as node {node} with data directory {incarnation:016x}, of which one must be a copy: end \
                 one of them and delete its directory; until then neither is listened to"
            )),
            _ => Ok(()),
        }
    }
}

/// The text of an incarnation in `node.json` as the number that travels with messages.
pub(crate) fn incarnation(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_default()
}

impl Admission for Nodes {
    fn is_ready(&self) -> bool {
        self.known.read().is_some()
    }

    fn admit(&self, sender: NodeId, found: u64) -> Result<(), String> {
        if let Some(entry) = self.known.read().as_ref().and_then(|known| known.get(&sender))
            && incarnation(&entry.incarnation) != found
        {
            return Err(format!(
                "node {sender} is known to the cluster with data directory {}, and speaks with {found:016x}: if its disk was \
                 lost, run `odgm cluster replace {sender}`; if not, give it its own directory back, or end the second \
                 process that has its id",
                entry.incarnation
            ));
        }
        // Whom the catalogue does not have is new, and admitted to group 0 by its members.
        if self.has_doubles.load(Ordering::Acquire) { self.admit_one_process(sender, found) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    #[test]
    fn a_restart_is_believed_and_two_processes_at_once_are_not() {
        let nodes = Nodes::default();
        for process in [1, 1, 2, 2, 3] {
            nodes.greet(NODE, 7, process).expect("one after the other");
        }
        // The second one is still there.
        nodes.greet(NODE, 7, 2).expect_err("two at once");
        nodes.greet(NODE, 7, 3).expect_err("neither is believed");
        let refused = nodes.admit(NODE, 7).expect_err("whatever they say");
        insta::assert_snapshot!(refused, @"two processes speak as node 2 with data directory 0000000000000007, of which one must be a copy: end one of them and delete its directory; until then neither is listened to");
        nodes.admit(NODE, 8).expect("another directory is another matter");
        nodes.admit(NodeId(3), 7).expect("another node, too");
    }

    #[test]
    fn nobody_is_believed_before_the_catalogue_is_read_and_then_who_has_the_right_directory() {
        let nodes = Nodes::default();
        assert!(!nodes.is_ready());
        let entry = NodeEntry { name: None, address: String::new(), incarnation: format!("{:016x}", 7) };
        nodes.replace(&BTreeMap::from([(NODE, entry)]));
        assert!(nodes.is_ready());
        nodes.admit(NODE, 7).expect("the right one");
        nodes.admit(NodeId(9), 1).expect("a new one");
        let refused = nodes.admit(NODE, 8).expect_err("another directory");
        insta::assert_snapshot!(refused, @"node 2 is known to the cluster with data directory 0000000000000007, and speaks with 0000000000000008: if its disk was lost, run `odgm cluster replace 2`; if not, give it its own directory back, or end the second process that has its id");
    }
}
