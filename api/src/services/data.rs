//! `oprc.DataService`: objects and their entries.

use std::sync::Arc;
use std::vec;

use odgm_log::Offset;
use odgm_projections::Object;
use odgm_proto::oprc::data_service_server::DataService;
use odgm_proto::oprc::{
    BatchSetValuesRequest, CapabilitiesRequest, CapabilitiesResponse, EmptyResponse, ListObjectsRequest,
    ListValuesRequest, ObjData, ObjectMetaEnvelope, ObjectResponse, SetKeyRequest, SetObjectRequest,
    ShardStats, SingleKeyRequest, SingleObjectRequest, StatsRequest, StatsResponse, ValueEnvelope,
    ValueResponse,
};
use odgm_replication::Partition;
use tonic::{Request, Response, Status};

use super::command::{self, Command, Names};
use super::{Shared, blocking, list};
use crate::convert::{obj_data, val_data};
use crate::status::{self, Written};

/// The service.
pub(crate) struct Data(pub(crate) Arc<Shared>);

/// The items of one page.
pub(super) type Page<T> = tokio_stream::Iter<vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl DataService for Data {
    type ListObjectsStream = Page<ObjectMetaEnvelope>;
    type ListValuesStream = Page<ValueEnvelope>;

    async fn get(&self, request: Request<SingleObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = self.0.rules.identity.object(request.object_id_str, request.object_id, false)?;
        let partition = self.0.readable(&metadata, &request.cls_id, request.partition_id).await?;
        // It may be large, and rows that have gathered are written out first.
        let (view, read) = (partition.view(), id.clone());
        let object = blocking(move || view.object(&read).map_err(|error| status::from_view(&error))).await?;
        let object = object.ok_or_else(|| Status::not_found(format!("object {id:?} not found")))?;
        let version = object.version;
        let obj = obj_data(partition.class(), partition.index(), object);
        let mut response = Response::new(ObjectResponse { obj: Some(obj) });
        response.metadata_mut().insert(odgm_proto::metadata::VERSION, version.into());
        Ok(response)
    }

    async fn get_value(&self, request: Request<SingleKeyRequest>) -> Result<Response<ValueResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let names = Names {
            object: request.object_id_str,
            object_number: request.object_id,
            key: request.key_str,
            key_number: request.key,
        };
        let (id, key) = names.check(&self.0.rules)?;
        let partition = self.0.readable(&metadata, &request.cls_id, request.partition_id).await?;
        let read = partition.view().value(&id, &key).map_err(|error| status::from_view(&error))?;
        Ok(Response::new(ValueResponse {
            value: read.value.map(val_data),
            object_version: read.object_version,
            key: Some(key),
            deleted: None,
        }))
    }

    async fn set(&self, request: Request<SetObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        self.write(request, command::set).await
    }

    async fn set_value(&self, request: Request<SetKeyRequest>) -> Result<Response<EmptyResponse>, Status> {
        self.write(request, command::set_value).await
    }

    async fn delete(&self, request: Request<SingleObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        self.write(request, command::delete).await
    }

    async fn delete_value(
        &self,
        request: Request<SingleKeyRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        self.write(request, command::delete_value).await
    }

    async fn batch_set_values(
        &self,
        request: Request<BatchSetValuesRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        self.write(request, command::batch_set_values).await
    }

    async fn merge(&self, request: Request<SetObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let command = command::merge(&self.0.rules, request);
        let id =
            command.as_ref().ok().and_then(|command| command.body.object()).unwrap_or_default().to_owned();
        let (partition, written) = self.0.write(&metadata, command).await?;
        let obj = merged(&partition, id, written.offset).await?;
        let mut response = Response::new(ObjectResponse { obj: Some(obj) });
        status::note(response.metadata_mut(), &written);
        Ok(response)
    }

    async fn list_objects(
        &self,
        request: Request<ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let partition = self.0.readable(&metadata, &request.cls_id, request.partition_id).await?;
        let page = list::Objects::checked(&self.0.rules, partition.group(), request)?;
        let envelopes = blocking(move || page.read(&partition.view())).await?;
        Ok(Response::new(stream(envelopes)))
    }

    async fn list_values(
        &self,
        request: Request<ListValuesRequest>,
    ) -> Result<Response<Self::ListValuesStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        let partition = self.0.readable(&metadata, &request.cls_id, request.partition_id).await?;
        let page = list::Values::checked(&self.0.rules, partition.group(), request)?;
        let envelopes = blocking(move || page.read(&partition.view())).await?;
        Ok(Response::new(stream(envelopes)))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let collections = self.0.manager.collections();
        let partitions = collections.iter().flat_map(|collection| collection.partitions().flatten());
        let shards = partitions.map(|partition| ShardStats {
            collection: partition.class().to_owned(),
            partition_id: partition.index(),
            shard_id: partition.group().get().into(),
            count: partition.view().header().objects,
        });
        Ok(Response::new(StatsResponse { shards: shards.collect() }))
    }

    async fn capabilities(
        &self,
        _: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        Ok(Response::new(CapabilitiesResponse {
            string_ids: true,
            string_entry_keys: true,
            granular_entry_storage: true,
            event_pipeline_v2: true,
        }))
    }
}

impl Data {
    async fn write<R>(
        &self,
        request: Request<R>,
        check: impl FnOnce(&crate::convert::Rules, R) -> Result<Command, Status>,
    ) -> Result<Response<EmptyResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let (_, written) = self.0.write(&metadata, check(&self.0.rules, request)).await?;
        Ok(acknowledgement(&written))
    }
}

fn acknowledgement(written: &Written) -> Response<EmptyResponse> {
    let mut response = Response::new(EmptyResponse {});
    status::note(response.metadata_mut(), written);
    response
}

/// The items of a page.
pub(super) fn stream<T>(page: Vec<T>) -> Page<T> {
    tokio_stream::iter(page.into_iter().map(Ok).collect::<Vec<_>>())
}

/// The object as it was right after the record at `offset`, which merged it.
async fn merged(partition: &Arc<Partition>, id: String, offset: Offset) -> Result<ObjData, Status> {
    // The leader has applied it; this replica may still be about to.
    partition.applied(offset).await.map_err(|error| status::applied(offset, &error))?;
    let (view, read) = (partition.view(), id.clone());
    let current =
        blocking(move || view.object(&read).map_err(|error| status::applied(offset, &error))).await?;
    let object = match current {
        // Nothing has changed it since.
        Some(object) if object.updated.offset <= offset => object,
        _ => past(Arc::clone(partition), id, offset).await?,
    };
    Ok(obj_data(partition.class(), partition.index(), object))
}

async fn past(partition: Arc<Partition>, id: String, offset: Offset) -> Result<Object, Status> {
    blocking(move || {
        let object = partition.view().object_at(&id, offset, &partition.records());
        let object = object.map_err(|error| status::applied(offset, &error))?;
        object.ok_or_else(|| status::applied(offset, &"the object is not there"))
    })
    .await
}
