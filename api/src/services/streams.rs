//! `odgm.v1.Streams`: events of a partition's log, the past of an object, and named durable cursors.

mod event;
mod history;
mod spread;
mod subscription;

use std::sync::Arc;

use odgm_log::body::CursorMoved;
use odgm_log::{Body, Offset, Payload, Timestamp};
use odgm_projections::{Error as ViewError, RecordSource};
use odgm_proto::odgm::v1::get_at_request::At;
use odgm_proto::odgm::v1::streams_server::Streams as Service;
use odgm_proto::odgm::v1::{
    DropCursorRequest, DropCursorResponse, GetAtRequest, GetAtResponse, HistoryRequest, ListCursorsRequest,
    ListCursorsResponse, MoveCursorRequest, MoveCursorResponse, NamedCursor, SubscribeRequest,
};
use odgm_replication::{Consistency, Partition, StreamError};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use super::relay::onward;
use super::{Shared, blocking};
use crate::convert::obj_data;
use crate::identity::Kind;
use crate::request;
use crate::status::{self, FIRST_OFFSET, not_applied};

/// In the metadata of `OUT_OF_RANGE`: the offset of the snapshot from which reading can start again.
const SNAPSHOT_OFFSET: &str = "odgm-snapshot-offset";

/// The service.
pub(crate) struct Streams(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Service for Streams {
    type SubscribeStream = spread::Responses;
    type HistoryStream = history::History;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        spread::open(&self.0, &metadata, request).await.map(Response::new)
    }

    async fn history(
        &self,
        request: Request<HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            let answer = way.streams().history(onward(&metadata, request)).await;
            return Ok(way.heed(answer)?.map(|events| Box::pin(events) as history::History));
        }
        history::open(&self.0, &metadata, request).await.map(Response::new)
    }

    async fn get_at(&self, request: Request<GetAtRequest>) -> Result<Response<GetAtResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            return way.heed(way.streams().get_at(onward(&metadata, request)).await);
        }
        let id = self.0.rules.identity.check(Kind::Object, request.object_id)?;
        let at =
            request.at.ok_or_else(|| Status::invalid_argument("at required: expected offset or time_ms"))?;
        let partition = self.0.readable(&metadata, &request.cls_id, request.partition_id).await?;
        blocking(move || get_at(&partition, &id, at)).await.map(Response::new)
    }

    async fn move_cursor(
        &self,
        request: Request<MoveCursorRequest>,
    ) -> Result<Response<MoveCursorResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await.map_err(not_applied)?;
            return way.heed_write(way.streams().move_cursor(onward(&metadata, request)).await);
        }
        let partition = self.0.partition(&request.cls_id, request.partition_id).map_err(not_applied)?;
        let offset = Offset(request.offset);
        if offset > partition.head() {
            // Another replica may have shown it already.
            let confirmed = partition.confirm(Consistency::Linearizable).await;
            confirmed.map_err(|error| not_applied(status::from_read(&error)))?;
        }
        let head = partition.head();
        if offset > head {
            let message =
                format!("offset {offset} is beyond the head {head}: expected an offset that has been seen");
            return Err(not_applied(Status::invalid_argument(message)));
        }
        let moved =
            CursorMoved { name: request.name, position: Some(offset), allowed_lag: request.allowed_lag };
        self.put_cursor(&metadata, &partition, moved).await?;
        Ok(Response::new(MoveCursorResponse { offset: offset.get() }))
    }

    async fn drop_cursor(
        &self,
        request: Request<DropCursorRequest>,
    ) -> Result<Response<DropCursorResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await.map_err(not_applied)?;
            return way.heed_write(way.streams().drop_cursor(onward(&metadata, request)).await);
        }
        let partition = self.0.partition(&request.cls_id, request.partition_id).map_err(not_applied)?;
        let dropped = CursorMoved { name: request.name, position: None, allowed_lag: 0 };
        self.put_cursor(&metadata, &partition, dropped).await?;
        Ok(Response::new(DropCursorResponse {}))
    }

    async fn list_cursors(
        &self,
        request: Request<ListCursorsRequest>,
    ) -> Result<Response<ListCursorsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let mut here = Vec::new();
        let mut cursors = Vec::new();
        for id in self.0.indexes(&request.cls_id, request.partition_id)? {
            let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, id) else {
                here.push(self.0.partition(&request.cls_id, id)?);
                continue;
            };
            let way = self.0.way(&nodes).await?;
            let of_one = ListCursorsRequest { partition_id: Some(id), ..request.clone() };
            let answer = way.heed(way.streams().list_cursors(onward(&metadata, of_one)).await)?;
            cursors.extend(answer.into_inner().cursors);
        }
        cursors.extend(blocking(move || cursors_of(&here)).await?);
        cursors.sort_by_key(|cursor| cursor.partition_id);
        Ok(Response::new(ListCursorsResponse { cursors }))
    }
}

impl Streams {
    async fn put_cursor(
        &self,
        metadata: &MetadataMap,
        partition: &Partition,
        mut moved: CursorMoved,
    ) -> Result<(), Status> {
        let cause = request::cause(metadata).map_err(not_applied)?;
        moved.name =
            self.0.rules.identity.check(Kind::Cursor, moved.name).map_err(|e| not_applied(e.into()))?;
        self.0.propose(partition, Payload { cause, body: Body::CursorMoved(moved) }).await.map(drop)
    }
}

fn cursors_of(partitions: &[Arc<Partition>]) -> Result<Vec<NamedCursor>, Status> {
    let mut cursors = Vec::new();
    for partition in partitions {
        let head_offset = partition.head().get();
        let found = partition.view().cursors().map_err(|error| status::from_view(&error))?;
        cursors.extend(found.into_iter().map(|cursor| NamedCursor {
            partition_id: partition.index(),
            name: cursor.name,
            offset: cursor.position.get(),
            allowed_lag: cursor.allowed_lag,
            head_offset,
        }));
    }
    Ok(cursors)
}

fn get_at(partition: &Partition, id: &str, at: At) -> Result<GetAtResponse, Status> {
    let (view, records) = (partition.view(), partition.records());
    let offset = match at {
        At::Offset(offset) => Offset(offset),
        At::TimeMs(millis) => {
            // The whole of the millisecond that was named.
            let time = Timestamp(Timestamp::from_millis(millis).0.saturating_add(999));
            view.offset_at(time, &records).map_err(|error| past(&error))?
        }
    };
    let object = view.object_at(id, offset, &records).map_err(|error| past(&error))?;
    let object = object.ok_or_else(|| {
        Status::not_found(format!(
            "object {id:?} did not exist at offset {offset} of {} records",
            records.last()
        ))
    })?;
    Ok(GetAtResponse {
        object_version: object.version,
        obj: Some(obj_data(partition.class(), partition.index(), object)),
        offset: offset.get(),
    })
}

/// Why the past cannot be read, with numbers for programs where it has been trimmed.
fn past(error: &ViewError) -> Status {
    let mut status = status::from_view(error);
    if let ViewError::BelowFloor { first, snapshot, .. } = error {
        note_floor(&mut status, *first, *snapshot);
    }
    status
}

/// Why a stream cannot begin or go on.
fn ended(error: &StreamError) -> Status {
    let message = error.to_string();
    match error {
        StreamError::BelowFloor { first, snapshot, .. } => {
            let mut status = Status::out_of_range(message);
            note_floor(&mut status, *first, Some(*snapshot));
            status
        }
        StreamError::Ahead { .. } => Status::out_of_range(message),
        StreamError::View(error) => past(error),
        StreamError::Closed => Status::unavailable(message),
        StreamError::Log(_) | StreamError::Payload { .. } => status::internal(message),
    }
}

fn note_floor(status: &mut Status, first: Offset, snapshot: Option<Offset>) {
    let metadata = status.metadata_mut();
    metadata.insert(FIRST_OFFSET, MetadataValue::from(first.get()));
    if let Some(snapshot) = snapshot {
        metadata.insert(SNAPSHOT_OFFSET, MetadataValue::from(snapshot.get()));
    }
}
