//! The nodes of the cluster as the catalogue has them, and who of them is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use odgm_log::NodeId;
use parking_lot::{Mutex, RwLock};

use crate::catalogue::{NodeEntry, NodeState};
use crate::transport::{Admission, Stranger};

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
    /// The members of the catalogue's group. Those that founded it take part before they have said who they are.
    members: RwLock<BTreeSet<NodeId>>,
    /// The data directory with which a known node last spoke that has another one, and when.
    heard: Mutex<BTreeMap<NodeId, (u64, Instant)>>,
    /// The processes that have introduced themselves lately, in the order in which they first did.
    processes: Mutex<BTreeMap<NodeId, Vec<Process>>>,
    /// Of which nodes two processes are alive, and when that was last seen.
    doubles: RwLock<BTreeMap<NodeId, Double>>,
    has_doubles: AtomicBool,
    /// The nodes of which another process has introduced itself, and when it first did.
    started: Mutex<BTreeMap<NodeId, Instant>>,
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

/// How long it is remembered that a node spoke with another data directory. It tries again more often.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

impl Nodes {
    pub(crate) fn replace(&self, nodes: &BTreeMap<NodeId, NodeEntry>) {
        *self.known.write() = Some(nodes.clone());
    }

    pub(crate) fn replace_members(&self, members: BTreeSet<NodeId>) {
        if *self.members.read() != members {
            *self.members.write() = members;
        }
    }

    /// The nodes of the cluster, with those that founded it and have not said yet who they are.
    pub(crate) fn everybody(&self) -> BTreeSet<NodeId> {
        let known = self.known.read();
        let known = known.iter().flat_map(BTreeMap::keys);
        known.chain(self.members.read().iter()).copied().collect()
    }

    /// The data directory, other than the known one, with which a node spoke lately.
    pub(crate) fn other_incarnation(&self, node: NodeId) -> Option<String> {
        let heard = self.heard.lock();
        let (found, at) = heard.get(&node)?;
        (at.elapsed() < HEARD_WITHIN).then(|| format!("{found:016x}"))
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
    pub(crate) fn greet(&self, node: NodeId, incarnation: u64, process: u64) -> Result<(), Stranger> {
        let (is_new, both) = self.note(node, incarnation, process);
        if let Some(seen) = both {
            self.doubles.write().insert(node, Double { incarnation, seen });
            self.has_doubles.store(true, Ordering::Release);
        }
        self.admit(node, incarnation)?;
        if is_new {
            self.started.lock().insert(node, Instant::now());
        }
        Ok(())
    }

    /// The nodes that have started since the last call, and when they were first heard.
    pub(crate) fn take_started(&self) -> BTreeMap<NodeId, Instant> {
        std::mem::take(&mut *self.started.lock())
    }

    /// Whether the process is new, and when two of the same directory were last known to be alive both, if another one
    /// has been heard of since this one was first.
    fn note(&self, node: NodeId, incarnation: u64, process: u64) -> (bool, Option<Instant>) {
        let now = Instant::now();
        let mut processes = self.processes.lock();
        if processes.len() >= REMEMBERED_NODES && !processes.contains_key(&node) {
            processes.retain(|_, of_node| of_node.iter().any(|one| now - one.last < BOTH_ALIVE));
            if processes.len() >= REMEMBERED_NODES {
                return (false, None);
            }
        }
        let of_node = processes.entry(node).or_default();
        of_node.retain(|one| now - one.last < BOTH_ALIVE);
        let is_new = match of_node.iter_mut().find(|one| (one.incarnation, one.id) == (incarnation, process))
        {
            Some(known) => {
                known.last = now;
                false
            }
            None => {
                if of_node.len() >= REMEMBERED_PROCESSES {
                    of_node.remove(0);
                }
                of_node.push(Process { incarnation, id: process, first: now, last: now });
                true
            }
        };
        // One that was started again is not heard of any more when its successor is.
        let same = of_node.iter().filter(|one| one.incarnation == incarnation);
        let both = same.clone().flat_map(|one| {
            let others = same.clone().filter(|other| one.id != other.id);
            others
                .filter(|other| one.last > other.first && other.last > one.first)
                .map(|other| one.last.min(other.last))
        });
        (is_new, both.max())
    }

    fn admit_known(&self, sender: NodeId, found: u64) -> Result<(), Stranger> {
        let known = self.known.read();
        let Some(known) = known.as_ref().filter(|known| !known.is_empty()) else { return Ok(()) };
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
                     disk was lost, run `odgm cluster readmit {sender}`; if not, give it its own directory back, or end the \
                     second process that has its id",
                    entry.incarnation
                );
                Err(Stranger { reason, may_answer: false })
            }
            None if self.members.read().contains(&sender) => Ok(()),
            None => Err(Stranger { reason: not_part(sender), may_answer: true }),
        }
    }

    fn admit_one_process(&self, node: NodeId, incarnation: u64) -> Result<(), Stranger> {
        let mut doubles = self.doubles.write();
        doubles.retain(|_, double| double.seen.elapsed() < BOTH_ALIVE);
        self.has_doubles.store(!doubles.is_empty(), Ordering::Release);
        match doubles.get(&node) {
            Some(double) if double.incarnation == incarnation => {
                let reason = format!(
                    "two processes speak as node {node} with data directory {incarnation:016x}, of which one must be a copy: \
                     end one of them and delete its directory; until then neither is listened to"
                );
                Err(Stranger { reason, may_answer: false })
            }
            _ => Ok(()),
        }
    }
}

/// What a node is told that the catalogue does not have.
pub(crate) fn not_part(node: NodeId) -> String {
    format!("node {node} is not part of this cluster: to let it in, run `odgm cluster add {node}`")
}

/// The text of an incarnation in `node.json` as the number that travels with messages.
pub(crate) fn incarnation(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_default()
}

impl Admission for Nodes {
    fn is_ready(&self) -> bool {
        self.known.read().is_some()
    }

    fn admit(&self, sender: NodeId, found: u64) -> Result<(), Stranger> {
        self.admit_known(sender, found)?;
        if self.has_doubles.load(Ordering::Acquire) { self.admit_one_process(sender, found) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    fn entry(incarnation: &str) -> NodeEntry {
        let (name, address) = (None, String::new());
        NodeEntry { name, address, incarnation: incarnation.to_owned(), state: NodeState::Member }
    }

    #[test]
    fn a_restart_is_believed_and_two_processes_at_once_are_not() {
        let nodes = Nodes::default();
        for process in [1, 1, 2, 2, 3] {
            nodes.greet(NODE, 7, process).expect("one after the other");
        }
        assert_eq!(nodes.take_started().into_keys().collect::<Vec<_>>(), [NODE]);
        nodes.greet(NODE, 7, 3).expect("the last one");
        assert!(nodes.take_started().is_empty(), "it has not started since");
        // The second one is still there.
        nodes.greet(NODE, 7, 2).expect_err("two at once");
        nodes.greet(NODE, 7, 3).expect_err("neither is believed");
        let refused = nodes.admit(NODE, 7).expect_err("whatever they say");
        assert!(!refused.may_answer, "nor what they answer");
        insta::assert_snapshot!(refused.reason, @"two processes speak as node 2 with data directory 0000000000000007, of which one must be a copy: end one of them and delete its directory; until then neither is listened to");
        nodes.admit(NODE, 8).expect("another directory is another matter");
        nodes.admit(NodeId(3), 7).expect("another node, too");
    }

    #[test]
    fn strangers_are_told_what_the_operator_has_to_do() {
        let nodes = Nodes::default();
        assert!(!nodes.is_ready(), "nobody is believed before the catalogue is read");
        nodes.replace(&BTreeMap::new());
        assert!(nodes.is_ready());
        nodes.admit(NodeId(7), 1).expect("nobody is known yet");
        nodes.replace(&BTreeMap::from([(NodeId(1), entry("0a")), (NodeId(3), entry("0c"))]));
        nodes.replace_members([1, 2, 3].map(NodeId).into());
        nodes.admit(NodeId(1), 10).expect("the right one");
        nodes.admit(NodeId(2), 99).expect("it founded the cluster and is about to say who it is");
        let stranger = |node, found| nodes.admit(NodeId(node), found).expect_err("a stranger");
        let unknown = stranger(4, 1);
        assert!(unknown.may_answer, "it is asked who it is before it is let in");
        insta::assert_snapshot!(unknown.reason, @"node 4 is not part of this cluster: to let it in, run `odgm cluster add 4`");
        let wiped = stranger(3, 13);
        assert!(!wiped.may_answer, "its answers would count as those of what it was");
        insta::assert_snapshot!(wiped.reason, @"node 3 is known to the cluster with data directory 0c, and speaks with 000000000000000d: if its disk was lost, run `odgm cluster readmit 3`; if not, give it its own directory back, or end the second process that has its id");
        assert_eq!(nodes.other_incarnation(NodeId(3)).as_deref(), Some("000000000000000d"));
    }
}
