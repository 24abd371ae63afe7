//! What must hold at every moment of a simulation, and at its end.
//!
//! | | |
//! |---|---|
//! | election safety | in one term one node sends entries at most |
//! | log matching | where two logs have a record of the same offset and term, they are the same up to there |
//! | commit safety | what one node applied at an offset, no node ever applies otherwise, nor says otherwise to a client |
//! | leader completeness | who leads a new term has every record that was applied anywhere |
//! | state machine safety | views that have applied the same records have the same state |
//! | reads | one that was confirmed misses nothing that was acknowledged before it began |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use odgm_log::store::{LogStore, ReadLimit};
use odgm_log::{Body, Hash, NodeId, Offset, Record, Term, chain};
use odgm_projections::Header;
use parking_lot::Mutex;

use super::GROUP;

/// The number of a write; no two have the same.
pub(super) type WriteId = u64;

/// What is known of all nodes and clients together. Clones are handles of the same.
#[derive(Clone, Default)]
pub(super) struct Oracle {
    shared: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// The first thing that was wrong.
    violation: Option<String>,
    leaders: BTreeMap<Term, NodeId>,
    /// Of every record that was ever in a log: the chain up to it.
    chains: BTreeMap<(Offset, Term), Hash>,
    committed: BTreeMap<Offset, Committed>,
    states: BTreeMap<Offset, Hash>,
    /// How far each node was when it was last looked at, and the chain there.
    applied: BTreeMap<NodeId, (Offset, Hash)>,
    acknowledged: BTreeMap<WriteId, Offset>,
    /// Of which it was said that they were certainly not applied.
    refused: BTreeSet<WriteId>,
}

struct Committed {
    term: Term,
    chain: Hash,
    write: Option<(String, WriteId)>,
}

/// What a node says of itself.
pub(super) struct Seen<'a> {
    pub(super) node: NodeId,
    pub(super) header: Header,
    pub(super) store: &'a LogStore,
    /// The term that it leads.
    pub(super) leads: Option<Term>,
}

impl Oracle {
    pub(super) fn violation(&self) -> Option<String> {
        self.shared.lock().violation.clone()
    }

    pub(super) fn violated(&self, what: String) {
        self.shared.lock().violation.get_or_insert(what);
    }

    /// A node has sent entries or heartbeats as the leader of a term.
    pub(super) fn leads(&self, node: NodeId, term: Term) {
        let mut known = self.shared.lock();
        let leader = *known.leaders.entry(term).or_insert(node);
        if leader != node {
            known.violate(format!("election safety: nodes {leader} and {node} both lead term {term}"));
        }
    }

    /// A client was told that its write is at an offset.
    pub(super) fn acknowledge(&self, write: WriteId, offset: Offset) {
        let mut known = self.shared.lock();
        if known.acknowledged.insert(write, offset).is_some() {
            known.violate(format!("write {write} was acknowledged twice"));
        }
        known.check_acknowledged(write, offset);
    }

    /// A client was told that its write was certainly not applied.
    pub(super) fn refuse(&self, write: WriteId) {
        self.shared.lock().refused.insert(write);
    }

    /// The newest offset that any client has been told.
    pub(super) fn newest_acknowledged(&self) -> Offset {
        self.shared.lock().acknowledged.values().copied().max().unwrap_or(Offset::ZERO)
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.shared.lock().acknowledged.len()
    }

    /// A node has lost what it had applied since a crash; it is looked at afresh.
    pub(super) fn crashed(&self, node: NodeId) {
        self.shared.lock().applied.remove(&node);
    }

    /// Looks at a node.
    pub(super) fn look(&self, seen: &Seen<'_>) {
        let mut known = self.shared.lock();
        if let Err(error) = known.look(seen) {
            known.violate(format!("node {}: {error}", seen.node));
        }
    }

    /// What must hold when all is quiet: the objects, each with the writes that were applied to it.
    pub(super) fn finish(&self) -> BTreeMap<String, BTreeSet<WriteId>> {
        let mut known = self.shared.lock();
        let mut places: BTreeMap<WriteId, Vec<Offset>> = BTreeMap::new();
        let mut objects: BTreeMap<String, BTreeSet<WriteId>> = BTreeMap::new();
        for (offset, committed) in &known.committed {
            if let Some((object, write)) = &committed.write {
                places.entry(*write).or_default().push(*offset);
                objects.entry(object.clone()).or_default().insert(*write);
            }
        }
        let lost = known
            .acknowledged
            .iter()
            .find(|(write, offset)| places.get(write).is_none_or(|places| places.first() != Some(*offset)));
        if let Some((write, offset)) = lost {
            let found = places.get(write);
            let what = format!("write {write} was acknowledged at {offset}, and is at {found:?} in the log");
            known.violate(what);
        }
        let applied = known.refused.iter().find_map(|write| Some((*write, places.get(write)?)));
        if let Some((write, found)) = applied {
            let what =
                format!("write {write} was said not to have been applied, and is at {found:?} in the log");
            known.violate(what);
        }
        objects
    }
}

impl Known {
    fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn check_acknowledged(&mut self, write: WriteId, offset: Offset) {
        let found = self.committed.get(&offset).map(|committed| committed.write.clone());
        if let Some(found) = found
            && found.as_ref().is_none_or(|(_, found)| *found != write)
        {
            self.violate(format!("write {write} was acknowledged at {offset}, where {found:?} was applied"));
        }
    }

    fn look(&mut self, seen: &Seen<'_>) -> Result<(), String> {
        let Seen { node, header, store, leads } = seen;
        let (mut at, mut chain) = self.applied.get(node).copied().unwrap_or_default();
        if header.applied < at {
            return Err(format!("its view went back from {at} to {}", header.applied));
        }
        let bounds = store.bounds(GROUP);
        if header.applied > bounds.durable {
            return Err(format!(
                "it applied {} with a log that is durable to {}",
                header.applied, bounds.durable
            ));
        }
        if at.next() < bounds.first {
            // A snapshot took the place of what it had.
            (at, chain) = (header.applied, header.chain);
            self.commit(header.applied, header.term, header.chain, None)?;
        }
        while at < bounds.last {
            let limit = ReadLimit { records: 1_000, bytes: 1 << 20 };
            let records = store.read(GROUP, at.next(), limit).map_err(|error| error.to_string())?;
            for record in records {
                (at, chain) = (record.offset, chain::link(chain, &record));
                self.matching(&record, chain)?;
                if at <= header.applied {
                    self.commit(at, record.term, chain, Some(&record))?;
                }
                if at == header.applied && chain != header.chain {
                    return Err(format!(
                        "state machine safety: its view at {at} is of another log than its own"
                    ));
                }
            }
        }
        self.applied.insert(*node, (header.applied, header.chain));
        let state = *self.states.entry(header.applied).or_insert(header.state);
        if state != header.state {
            return Err(format!(
                "state machine safety: its state at {} is not that of others",
                header.applied
            ));
        }
        if let Some(term) = leads {
            self.complete(*term, bounds.last)?;
        }
        Ok(())
    }

    /// Log matching: the chain covers all that comes before.
    fn matching(&mut self, record: &Record, chain: Hash) -> Result<(), String> {
        let Record { offset, term, .. } = record;
        if *self.chains.entry((*offset, *term)).or_insert(chain) == chain {
            return Ok(());
        }
        Err(format!("log matching: record {offset} of term {term} follows other records than elsewhere"))
    }

    fn commit(&mut self, at: Offset, term: Term, chain: Hash, record: Option<&Record>) -> Result<(), String> {
        let write = record.and_then(write_of);
        let new = Committed { term, chain, write };
        let known = self.committed.entry(at).or_insert(new);
        if (known.term, known.chain) != (term, chain) {
            let other = known.term;
            return Err(format!(
                "commit safety: record {at} of term {term} was applied, and elsewhere one of term {other} (or another one)"
            ));
        }
        if let Some(record) = record
            && known.write.is_none()
        {
            // Known by a snapshot only until now.
            known.write = write_of(record);
        }
        if let Some((_, write)) = known.write.clone()
            && let Some(told) = self.acknowledged.get(&write).copied()
            && told > at
        {
            self.violate(format!("write {write} was acknowledged at {told}, and applied at {at} before"));
        }
        Ok(())
    }

    /// Leader completeness: of what was applied in earlier terms a leader misses nothing. That what it has is the same is
    /// checked record by record.
    fn complete(&self, term: Term, last: Offset) -> Result<(), String> {
        let newest = self.committed.iter().rfind(|(_, committed)| committed.term < term);
        match newest {
            Some((offset, _)) if *offset > last => Err(format!(
                "leader completeness: it leads term {term} with a log that ends at {last}, and {offset} was applied before"
            )),
            _ => Ok(()),
        }
    }
}

/// Which write of a client a record is.
fn write_of(record: &Record) -> Option<(String, WriteId)> {
    match record.decode().ok()?.body {
        Body::SetValues(set) => {
            let (_, value) = set.puts.first()?;
            Some((set.object, std::str::from_utf8(&value.data).ok()?.parse().ok()?))
        }
        _ => None,
    }
}
