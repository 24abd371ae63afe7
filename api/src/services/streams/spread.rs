//! Subscriptions to partitions on several nodes: those that are here are read here, the others where they are, and all go
//! into one stream.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt as _};
use odgm_log::{GroupId, NodeId};
use odgm_proto::odgm::v1::subscribe_request::From as Begin;
use odgm_proto::odgm::v1::{Cursors, SubscribeRequest, SubscribeResponse};
use odgm_replication::Collection;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::subscription;
use crate::cursor::Place;
use crate::services::Shared;
use crate::services::relay::onward;
use crate::status;

/// What a subscriber gets.
pub(crate) type Responses = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

/// Checks a request and starts its feeds.
pub(super) async fn open(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: SubscribeRequest,
) -> Result<Responses, Status> {
    let permit = shared.subscription()?;
    let (here, there) = split(shared, metadata, &request)?;
    if there.is_empty() {
        return Ok(Box::pin(subscription::open(shared, request, Some(permit)).await?));
    }
    let collection = shared.collection(&request.cls_id)?;
    subscription::check_start(
        request.from.as_ref(),
        here.len() + there.values().map(Vec::len).sum::<usize>(),
    )?;
    check_cursors(request.from.as_ref(), &collection, here.iter().chain(there.values().flatten()))?;
    let mut parts: Vec<Responses> = Vec::new();
    for (nodes, partitions) in there {
        let way = shared.way(&nodes).await?;
        let asked = onward(metadata, part(&request, &collection, partitions));
        parts.push(Box::pin(way.heed(way.streams().subscribe(asked).await)?.into_inner()));
    }
    if !here.is_empty() {
        let asked = part(&request, &collection, here);
        parts.push(Box::pin(subscription::open(shared, asked, None).await?));
    }
    let stop = shared.stop.clone();
    let merged = (stream::select_all(parts), stop, permit);
    let responses = stream::unfold(Some(merged), |merged| async {
        let (mut merged, stop, permit) = merged?;
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                let status = status::unavailable("the node is stopping: go on from the last cursor");
                Some((Err(status), None))
            }
            response = merged.next() => {
                let response = response?;
                // One part that has failed ends the whole: its cursors go on elsewhere.
                let rest = response.is_ok().then_some((merged, stop, permit));
                Some((response, rest))
            }
        }
    });
    Ok(Box::pin(responses))
}

/// The partitions asked for that are here, and the others by the nodes that have them.
type Split = (Vec<u32>, BTreeMap<Vec<NodeId>, Vec<u32>>);

fn split(shared: &Shared, metadata: &MetadataMap, request: &SubscribeRequest) -> Result<Split, Status> {
    let mut asked = request.partitions.clone();
    if asked.is_empty() {
        asked = shared.indexes(&request.cls_id, None)?;
    }
    asked.sort_unstable();
    asked.dedup();
    let mut split = Split::default();
    for partition in asked {
        match shared.elsewhere(metadata, &request.cls_id, partition) {
            Some(nodes) => split.1.entry(nodes).or_default().push(partition),
            None => split.0.push(partition),
        }
    }
    Ok(split)
}

/// The request for some of the partitions, with the cursors that are theirs.
fn part(request: &SubscribeRequest, collection: &Collection, partitions: Vec<u32>) -> SubscribeRequest {
    let mut part = SubscribeRequest { partitions, ..request.clone() };
    if let Some(Begin::Cursors(Cursors { cursors })) = &mut part.from {
        let groups = groups(collection, part.partitions.iter());
        cursors.retain(|cursor| Place::decode(cursor).is_ok_and(|place| groups.contains(&place.group)));
    }
    part
}

fn groups<'a>(collection: &Collection, partitions: impl Iterator<Item = &'a u32>) -> Vec<GroupId> {
    let all: Vec<_> = collection.groups().collect();
    partitions.filter_map(|partition| all.get(*partition as usize).copied()).collect()
}

/// Refuses cursors of none of the partitions, as a node that has all of them would.
fn check_cursors<'a>(
    from: Option<&Begin>,
    collection: &Collection,
    partitions: impl Iterator<Item = &'a u32>,
) -> Result<(), Status> {
    let Some(Begin::Cursors(Cursors { cursors })) = from else { return Ok(()) };
    subscription::places(cursors, &groups(collection, partitions)).map(drop)
}
