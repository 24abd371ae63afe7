//! What records caused in one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use odgm_log::body::Parent;
use odgm_log::body::calls::Place;
use odgm_log::{Offset, Record};
use odgm_projections::{RecordSource, SourceError};
use odgm_proto::odgm::v1::{self, ListCausedRequest, ListCausedResponse, TracedRecord};
use odgm_replication::Partition;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::pages::{each_letter, each_waiting};
use super::summary::summary;
use crate::convert::calls::{dead_letter, parent_from_wire, parent_to_wire, pending_call};
use crate::services::relay::onward;
use crate::services::{Shared, blocking};
use crate::status;

/// Records that are told of at once, where the request leaves it open and at most.
pub(super) const DEFAULT_LIMIT: usize = 1_000;
pub(super) const MAX_LIMIT: usize = 10_000;

/// Parents that one request may name.
pub(super) const MAX_PARENTS: usize = 1_024;

/// Calls in the outbox that are looked at for those that a record asked for. The outbox is in the order in which calls are
/// due, so that of more only those are found that have not been tried yet.
const ROWS_LOOKED_AT: usize = 10_000;

/// Calls or dead letters of one record that are told of.
const OF_ONE_RECORD: usize = 1_024;

/// How many records a request may be answered with.
pub(super) fn limit(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(MAX_LIMIT) {
        0 => DEFAULT_LIMIT,
        limit => limit.min(MAX_LIMIT),
    }
}

/// What some records caused in a partition, or records themselves; asks the node that has it.
pub(super) async fn list(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: ListCausedRequest,
) -> Result<ListCausedResponse, Status> {
    if let Some(nodes) = shared.elsewhere(metadata, &request.cls_id, request.partition_id) {
        let way = shared.way(&nodes).await?;
        let answer = way.calls().list_caused(onward(metadata, request)).await;
        return Ok(way.heed(answer)?.into_inner());
    }
    let named = request.parents.len() + request.offsets.len();
    if named > MAX_PARENTS {
        return Err(Status::invalid_argument(format!(
            "{named} parents and offsets in one request: expected at most {MAX_PARENTS}"
        )));
    }
    let partition = shared.readable(metadata, &request.cls_id, request.partition_id).await?;
    let read = Arc::clone(&partition);
    let answered = blocking(move || of_partition(&read, request)).await;
    answered.map_err(|status| shared.past(status, &partition))
}

fn of_partition(partition: &Partition, request: ListCausedRequest) -> Result<ListCausedResponse, Status> {
    let limit = limit(request.limit);
    let mut offsets: Vec<Offset> = Vec::new();
    if request.parents.is_empty() {
        // What has not been written yet is nowhere.
        let written = request.offsets.into_iter().map(Offset).filter(|offset| *offset <= partition.head());
        offsets.extend(written.filter(|offset| *offset > Offset::ZERO).take(limit));
    }
    for parent in request.parents {
        let room = limit - offsets.len();
        if room == 0 {
            break;
        }
        let parent = parent_from_wire(parent);
        let caused = partition.view().caused_by(parent, Offset::ZERO, room);
        offsets.extend(caused.map_err(|error| status::from_view(&error))?);
    }
    let mut records = Vec::with_capacity(offsets.len());
    for offset in offsets {
        records.push(told(partition, offset)?);
    }
    let mut waiting = waiting(partition, &records)?;
    for record in &mut records {
        record.waiting = waiting.remove(&record.offset).unwrap_or_default();
        record.dead = dead(partition, Offset(record.offset))?;
    }
    Ok(ListCausedResponse { records })
}

/// What is told of a record; of one that is not kept any more, where it was.
fn told(partition: &Partition, offset: Offset) -> Result<TracedRecord, Status> {
    let place = TracedRecord {
        cls_id: partition.class().to_owned(),
        partition_id: partition.index(),
        offset: offset.get(),
        group: partition.group().get(),
        ..Default::default()
    };
    match partition.records().get(offset) {
        Ok(record) => of_record(partition, place, &record),
        // It is kept, but not here.
        Err(error @ SourceError::Missing { .. })
            if partition.missing_from().is_some_and(|first| first <= offset) =>
        {
            Err(Status::unavailable(error.to_string()))
        }
        Err(SourceError::Missing { .. }) => {
            Ok(TracedRecord { summary: "not kept any more".to_owned(), ..place })
        }
        Err(error @ SourceError::Log(_)) => Err(status::internal(error)),
    }
}

fn of_record(partition: &Partition, place: TracedRecord, record: &Record) -> Result<TracedRecord, Status> {
    let payload = record.decode().map_err(status::internal)?;
    // Its time may be later, where the clock of its leader was behind.
    let time = record.stamp;
    let id = payload.body.subject().unwrap_or_default();
    let change = partition.view().change(id, record.offset).map_err(|error| status::from_view(&error))?;
    let own_place = format!("{}/{}", partition.class(), partition.index());
    Ok(TracedRecord {
        parent: payload.cause.parent.map(parent_to_wire),
        operation: payload.body.body_type().name().to_owned(),
        object_id: id.to_owned(),
        depth: payload.cause.depth,
        time_ms: change.map_or(time, |change| change.time).as_millis(),
        summary: summary(&own_place, &payload),
        origin: record.origin.get(),
        ..place
    })
}

/// The calls in the outbox that these records asked for, by offset.
fn waiting(
    partition: &Partition,
    records: &[TracedRecord],
) -> Result<BTreeMap<u64, Vec<v1::PendingCall>>, Status> {
    let view = partition.view();
    let mut found: BTreeMap<u64, Vec<v1::PendingCall>> = BTreeMap::new();
    if records.is_empty() || view.header().calls.outbox_rows == 0 {
        return Ok(found);
    }
    let wanted: BTreeSet<u64> = records.iter().map(|record| record.offset).collect();
    each_waiting(&view, ROWS_LOOKED_AT, |key, row| {
        let offset = key.offset.get();
        let of_record = found.get(&offset).map_or(0, Vec::len);
        if of_record < OF_ONE_RECORD && wanted.contains(&offset) {
            let call = pending_call(partition.index(), partition.group(), key, row);
            found.entry(offset).or_default().push(call);
        }
    })?;
    for calls in found.values_mut() {
        calls.sort_by_key(|call| call.index);
    }
    Ok(found)
}

/// The dead letters of a record.
fn dead(partition: &Partition, offset: Offset) -> Result<Vec<v1::DeadLetter>, Status> {
    let view = partition.view();
    if view.header().calls.dead_letters == 0 {
        return Ok(Vec::new());
    }
    let before = Place { offset: offset.previous(), index: u32::MAX };
    let (index, group) = (partition.index(), partition.group());
    let mut found = Vec::new();
    each_letter(&view, Some(before), |at, letter| {
        if at.offset != offset || found.len() == OF_ONE_RECORD {
            return ControlFlow::Break(());
        }
        found.push(dead_letter(index, group, at, letter));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// A record as the cause of others.
pub(super) fn as_parent(record: &TracedRecord) -> Parent {
    parent_from_wire(v1::Parent { group: record.group, origin: record.origin, offset: record.offset })
}
