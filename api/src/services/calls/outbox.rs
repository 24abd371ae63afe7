//! Calls that wait.

use std::ops::ControlFlow;
use std::sync::Arc;

use odgm_log::Timestamp;
use odgm_log::body::calls::RowKey;
use odgm_projections::Header;
use odgm_proto::odgm::v1::{CallTotals, ListCallsRequest, ListCallsResponse};
use odgm_replication::Partition;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::pages::each_waiting;
use crate::convert::calls::pending_call;
use crate::services::relay::onward;
use crate::services::{Shared, blocking, list};

/// The calls that wait in a collection, of each partition those that are due first.
pub(super) async fn list(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: ListCallsRequest,
) -> Result<ListCallsResponse, Status> {
    let limit = list::limit(request.limit);
    let mut all = ListCallsResponse::default();
    for id in shared.indexes(&request.cls_id, request.partition_id)? {
        let of_one = match shared.elsewhere(metadata, &request.cls_id, id) {
            Some(nodes) => {
                let way = shared.way(&nodes).await?;
                let asked = ListCallsRequest { partition_id: Some(id), ..request.clone() };
                way.heed(way.calls().list_calls(onward(metadata, asked)).await)?.into_inner()
            }
            None => {
                let partition = shared.readable(metadata, &request.cls_id, id).await?;
                blocking(move || of_partition(&partition, limit)).await?
            }
        };
        all.calls.extend(of_one.calls);
        all.totals.extend(of_one.totals);
    }
    Ok(all)
}

fn of_partition(partition: &Partition, limit: usize) -> Result<ListCallsResponse, Status> {
    let view = partition.view();
    let header = view.header();
    let (index, group) = (partition.index(), partition.group());
    let (mut oldest, mut calls) = (None, Vec::new());
    each_waiting(&view, RowKey::default(), Timestamp(u64::MAX), |key, row| {
        oldest.get_or_insert(key.due);
        calls.push(pending_call(index, group, key, row));
        if calls.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(ListCallsResponse { calls, totals: vec![totals(index, &header, oldest)] })
}

/// What a partition has of calls, in all.
fn totals(partition: u32, header: &Header, oldest: Option<Timestamp>) -> CallTotals {
    let calls = &header.calls;
    CallTotals {
        partition_id: partition,
        outbox_rows: calls.outbox_rows,
        outbox_bytes: calls.outbox_bytes,
        deliveries: calls.deliveries,
        dead_letters: calls.dead_letters,
        dead_letter_bytes: calls.dead_letter_bytes,
        pending_invocations: calls.pending_invocations,
        results: calls.results,
        result_bytes: calls.result_bytes,
        outbox_age_ms: oldest.map_or(0, |due| overdue(due).as_millis()),
    }
}

/// How long ago a moment was, by the clock of this node.
pub(crate) fn overdue(due: Timestamp) -> Timestamp {
    Timestamp(Timestamp::now().get().saturating_sub(due.get()))
}
