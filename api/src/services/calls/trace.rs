//! The tree of what a record caused, and the chain of what led to one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use odgm_log::GroupId;
use odgm_log::body::Parent;
use odgm_proto::metadata::RELAYED;
use odgm_proto::odgm::v1::{
    ListCausedRequest, ListCausedResponse, TraceRequest, TraceResponse, TracedRecord,
};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::caused::{self, MAX_LIMIT, as_parent, limit};
use crate::convert::calls::{parent_from_wire, parent_to_wire};
use crate::services::Shared;

/// Partitions that are asked at once.
const ASKED_AT_ONCE: usize = 8;

/// Parents that one question names.
const PARENTS_AT_ONCE: usize = 256;

/// The longest chain of causes that is told.
const CHAIN: usize = 1_000;

/// A collection and one of its partitions.
type Place = (String, u32);

/// A record with everything that it caused, each after the one that caused it.
pub(super) async fn trace(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: &TraceRequest,
) -> Result<TraceResponse, Status> {
    let asking = Asking::new(shared, metadata);
    let place = (request.cls_id.clone(), request.partition_id);
    let (root, more_waiting) = asking.record(&place, request.offset).await?;
    let mut tree = Tree {
        asking,
        more_waiting,
        limit: limit(request.limit),
        seen: BTreeSet::from([(root.group, root.offset)]),
        found: vec![root],
        unreachable: BTreeMap::new(),
    };
    let mut begin = 0;
    while begin < tree.found.len() && tree.found.len() <= tree.limit {
        let level: Vec<Parent> = tree.found[begin..].iter().map(as_parent).collect();
        begin = tree.found.len();
        for some in level.chunks(PARENTS_AT_ONCE) {
            tree.grow(some).await;
        }
    }
    let truncated = tree.found.len() > tree.limit;
    tree.found.truncate(tree.limit);
    let unreachable = tree.unreachable.into_iter();
    let unreachable = unreachable.map(|((class, index), reason)| format!("{class}/{index}: {reason}"));
    Ok(TraceResponse {
        records: tree.found,
        truncated,
        unreachable: unreachable.collect(),
        more_waiting: tree.more_waiting,
    })
}

/// What led to a record, from it back to one that nothing caused, as far as it is known.
pub(super) async fn causes(shared: &Arc<Shared>, metadata: &MetadataMap, of: Parent) -> Vec<TracedRecord> {
    let asking = Asking::new(shared, metadata);
    let places = groups(shared);
    let mut chain: Vec<TracedRecord> = Vec::new();
    let mut next = Some(of);
    while let Some(parent) = next
        && chain.len() < CHAIN
    {
        let record = match places.get(&parent.group) {
            Some(place) => {
                let found = asking.record(place, parent.offset.get()).await;
                found
                    .map(|(record, _)| record)
                    .unwrap_or_else(|status| unknown(place, parent, status.message()))
            }
            None => unknown(&(String::new(), 0), parent, "it is of no partition that there is"),
        };
        next = record.parent.map(parent_from_wire);
        let is_new = chain.iter().all(|known| as_parent(known) != as_parent(&record));
        chain.push(record);
        if !is_new {
            // Whoever says what caused it may say anything.
            break;
        }
    }
    chain
}

/// A record of which nothing is known but where it is.
fn unknown((class, index): &Place, at: Parent, reason: &str) -> TracedRecord {
    let at = parent_to_wire(at);
    TracedRecord {
        cls_id: class.clone(),
        partition_id: *index,
        offset: at.offset,
        group: at.group,
        origin: at.origin,
        summary: format!("not known: {reason}"),
        ..Default::default()
    }
}

/// Which partition a group is.
fn groups(shared: &Shared) -> HashMap<GroupId, Place> {
    let collections = shared.manager.collections();
    let all = collections.iter().flat_map(|collection| {
        let name = &collection.definition().name;
        (0..).zip(collection.groups()).map(move |(index, group)| (group, (name.clone(), index)))
    });
    all.collect()
}

/// Asks partitions, wherever they are.
struct Asking<'a> {
    shared: &'a Arc<Shared>,
    metadata: MetadataMap,
}

impl<'a> Asking<'a> {
    /// Asks as whoever asked this node. That another node has passed the request on says nothing of these questions.
    fn new(shared: &'a Arc<Shared>, metadata: &MetadataMap) -> Self {
        let mut metadata = metadata.clone();
        metadata.remove(RELAYED);
        Self { shared, metadata }
    }

    /// One record, and whether calls may be missing of those that it waits for.
    async fn record(&self, (class, index): &Place, offset: u64) -> Result<(TracedRecord, bool), Status> {
        let asked = ListCausedRequest {
            cls_id: class.clone(),
            partition_id: *index,
            offsets: vec![offset],
            ..Default::default()
        };
        let answer = caused::list(self.shared, &self.metadata, asked).await?;
        let missing = || Status::not_found(format!("partition {class}/{index} has no record {offset}"));
        let record = answer.records.into_iter().next().ok_or_else(missing)?;
        Ok((record, answer.more_waiting))
    }

    /// What some records caused in one partition.
    async fn caused(&self, place: Place, parents: &[Parent], limit: usize) -> (Place, Answered) {
        let asked = ListCausedRequest {
            cls_id: place.0.clone(),
            partition_id: place.1,
            parents: parents.iter().copied().map(parent_to_wire).collect(),
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            offsets: Vec::new(),
        };
        let answer = caused::list(self.shared, &self.metadata, asked).await;
        (place, answer.map_err(|status| status.message().to_owned()))
    }
}

/// What names a record.
fn named(parent: &Parent) -> (GroupId, u64, u64) {
    (parent.group, parent.origin.get(), parent.offset.get())
}

/// What a partition has, or why it does not say.
type Answered = Result<ListCausedResponse, String>;

/// What has been found so far.
struct Tree<'a> {
    asking: Asking<'a>,
    limit: usize,
    found: Vec<TracedRecord>,
    seen: BTreeSet<(u32, u64)>,
    unreachable: BTreeMap<Place, String>,
    /// Whether calls may be missing of those that records wait for.
    more_waiting: bool,
}

impl Tree<'_> {
    /// Adds what some records caused, in all partitions.
    async fn grow(&mut self, parents: &[Parent]) {
        if self.found.len() > self.limit {
            return;
        }
        // One more than there is room for tells that there is more.
        let room = (self.limit + 1 - self.found.len()).min(MAX_LIMIT);
        let mut places: Vec<Place> = groups(self.asking.shared).into_values().collect();
        // Those that did not answer are not asked again.
        places.retain(|place| !self.unreachable.contains_key(place));
        places.sort_unstable();
        let asking = &self.asking;
        let questions = places.into_iter().map(|place| asking.caused(place, parents, room));
        let answers: Vec<_> = stream::iter(questions).buffered(ASKED_AT_ONCE).collect().await;
        let mut caused = Vec::new();
        for (place, answered) in answers {
            match answered {
                Ok(answer) => {
                    self.more_waiting |= answer.more_waiting;
                    caused.extend(answer.records);
                }
                Err(reason) => drop(self.unreachable.insert(place, reason)),
            }
        }
        let order: HashMap<_, usize> = parents.iter().map(named).zip(0..).collect();
        caused.sort_by_cached_key(|record| {
            let parent = record.parent.map(parent_from_wire).as_ref().map(named);
            let parent = parent.and_then(|parent| order.get(&parent).copied());
            (parent, record.cls_id.clone(), record.partition_id, record.offset)
        });
        for record in caused {
            if self.seen.insert((record.group, record.offset)) {
                self.found.push(record);
            }
        }
    }
}
