//! What records caused in one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use odgm_log::body::Parent;
use odgm_log::body::calls::{Place, RowKey};
use odgm_log::{Body, Offset, Record, Timestamp};
use odgm_projections::{OutboxRow, RecordSource, SourceError, View};
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

/// Calls in the outbox that are looked at for those that were tried before. They are due at any time after their record.
const ROWS_LOOKED_AT: usize = 10_000;

/// Calls or dead letters of one record that are told of.
const OF_ONE_RECORD: usize = 1_024;

/// A record, and its time: what it asked for is due then, until it is tried.
type Told = (TracedRecord, Timestamp);

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
    let mut waiting = Waiting::of(partition, &records)?;
    let mut records: Vec<_> = records.into_iter().map(|(record, _)| record).collect();
    for record in &mut records {
        record.waiting = waiting.take(record.offset);
        record.dead = dead(partition, Offset(record.offset))?;
    }
    Ok(ListCausedResponse { records, more_waiting: waiting.is_more })
}

/// What is told of a record; of one that is not kept any more, where it was.
fn told(partition: &Partition, offset: Offset) -> Result<Told, Status> {
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
            Ok((TracedRecord { summary: "not kept any more".to_owned(), ..place }, Timestamp(0)))
        }
        Err(error @ SourceError::Log(_)) => Err(status::internal(error)),
    }
}

fn of_record(partition: &Partition, place: TracedRecord, record: &Record) -> Result<Told, Status> {
    let payload = record.decode().map_err(status::internal)?;
    let (view, id) = (partition.view(), payload.body.subject().unwrap_or_default());
    let known = match &payload.body {
        Body::Invoke(invoke) => view.invocation(&invoke.invocation).map(|found| {
            let accepted = found.map(|found| found.accepted);
            accepted.filter(|accepted| accepted.offset == record.offset).map(|accepted| accepted.time)
        }),
        _ => view.change(id, record.offset).map(|change| change.map(|change| change.time)),
    };
    // It may be later than its stamp, where the clock of its leader was behind.
    let time = known.map_err(|error| status::from_view(&error))?.unwrap_or(record.stamp);
    let own_place = format!("{}/{}", partition.class(), partition.index());
    let told = TracedRecord {
        parent: payload.cause.parent.map(parent_to_wire),
        operation: payload.body.body_type().name().to_owned(),
        object_id: id.to_owned(),
        depth: payload.cause.depth,
        time_ms: time.as_millis(),
        summary: summary(&own_place, &payload),
        origin: record.origin.get(),
        ..place
    };
    Ok((told, time))
}

/// The calls in the outbox that some records asked for.
#[derive(Default)]
struct Waiting {
    found: BTreeMap<u64, BTreeMap<u32, v1::PendingCall>>,
    /// Whether some may be missing.
    is_more: bool,
}

impl Waiting {
    fn of(partition: &Partition, records: &[Told]) -> Result<Self, Status> {
        let (view, mut waiting) = (partition.view(), Self::default());
        if view.header().calls.outbox_rows == 0 {
            return Ok(waiting);
        }
        for (record, time) in records {
            waiting.find_untried(partition, &view, Offset(record.offset), *time)?;
        }
        let wanted: BTreeSet<u64> = records.iter().map(|(record, _)| record.offset).collect();
        if let Some(first) = records.iter().map(|(_, time)| *time).min() {
            waiting.find_tried(partition, &view, &wanted, first)?;
        }
        Ok(waiting)
    }

    /// Those that were never tried stand together, where their record put them.
    fn find_untried(
        &mut self,
        partition: &Partition,
        view: &View,
        offset: Offset,
        time: Timestamp,
    ) -> Result<(), Status> {
        let first = RowKey { due: time, offset, index: 0 };
        each_waiting(view, first, time, |key, row| {
            if key.offset == offset { self.add(partition, key, row) } else { ControlFlow::Break(()) }
        })
    }

    /// The others are somewhere behind the first of the records. Many may be there that are of other records.
    fn find_tried(
        &mut self,
        partition: &Partition,
        view: &View,
        wanted: &BTreeSet<u64>,
        first: Timestamp,
    ) -> Result<(), Status> {
        let mut looked_at = 0;
        let from = RowKey { due: first, ..RowKey::default() };
        each_waiting(view, from, Timestamp(u64::MAX), |key, row| {
            if looked_at == ROWS_LOOKED_AT {
                self.is_more = true;
                return ControlFlow::Break(());
            }
            looked_at += 1;
            if wanted.contains(&key.offset.get()) {
                // Of a record that asked for too many, the others are no reason to look no further.
                let _ = self.add(partition, key, row);
            }
            ControlFlow::Continue(())
        })
    }

    /// Adds one, unless there are too many of its record.
    fn add(&mut self, partition: &Partition, key: RowKey, row: OutboxRow) -> ControlFlow<()> {
        let of_record = self.found.entry(key.offset.get()).or_default();
        if of_record.len() == OF_ONE_RECORD && !of_record.contains_key(&key.index) {
            self.is_more = true;
            return ControlFlow::Break(());
        }
        of_record.insert(key.index, pending_call(partition.index(), partition.group(), key, row));
        ControlFlow::Continue(())
    }

    /// Those of a record, in the order in which it asked for them.
    fn take(&mut self, offset: u64) -> Vec<v1::PendingCall> {
        self.found.remove(&offset).unwrap_or_default().into_values().collect()
    }
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
