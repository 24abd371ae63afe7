//! `odgm.v1.Admin`: collections, partitions and their proofs, and the nodes of the cluster.

mod backup;
mod cluster;
mod describe;
mod dump;
mod figures;
mod restore;
mod verify;

use std::sync::Arc;

use odgm_proto::odgm::v1::admin_server::Admin as Service;
use odgm_proto::odgm::v1::{
    AddNodeRequest, BackupRequest, ChangeClusterResponse, CreateCollectionRequest, CreateCollectionResponse,
    DeleteCollectionRequest, DeleteCollectionResponse, DescribeCollectionRequest, DescribeCollectionResponse,
    DumpLogRequest, DumpViewRequest, GetClusterRequest, GetClusterResponse, GetNodeRequest, GetNodeResponse,
    ListCollectionsRequest, ListCollectionsResponse, ListPartitionsRequest, ListPartitionsResponse,
    MoveLeadersRequest, MoveLeadersResponse, ReadmitNodeRequest, RebalanceRequest, RemoveNodeRequest,
    ReplaceNodeRequest, RestoreRequest, RestoreResponse, UpdateCollectionRequest, UpdateCollectionResponse,
    VerifyRequest,
};
use odgm_replication::{CatalogueError, Definition, PlanError};
use tonic::{Request, Response, Status, Streaming};

use super::relay::onward;
use super::{Shared, blocking};
use crate::status::{self, not_applied};

/// The service.
pub(crate) struct Admin(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Service for Admin {
    type VerifyStream = verify::Progress;
    type VerifyViewStream = verify::Progress;
    type DumpLogStream = dump::Log;
    type DumpViewStream = dump::Text;
    type BackupStream = backup::Bundle;

    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        let wire = request.into_inner().collection.ok_or_else(|| {
            not_applied(Status::invalid_argument(
                "collection required: expected a definition with at least a name",
            ))
        })?;
        let definition = Definition::from_wire(wire).map_err(|error| catalogue(&error.into()))?;
        let created =
            self.0.manager.create_collection(definition).await.map_err(|error| catalogue(&error))?;
        Ok(Response::new(CreateCollectionResponse { collection: Some(describe::collection(&created)) }))
    }

    async fn list_collections(
        &self,
        _: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let collections = self.0.manager.collections();
        let collections = collections.iter().map(|collection| describe::collection(collection)).collect();
        Ok(Response::new(ListCollectionsResponse { collections }))
    }

    async fn describe_collection(
        &self,
        request: Request<DescribeCollectionRequest>,
    ) -> Result<Response<DescribeCollectionResponse>, Status> {
        let collection = self.0.collection(&request.into_inner().name)?;
        Ok(Response::new(DescribeCollectionResponse {
            collection: Some(describe::collection(&collection)),
            partitions: describe::partitions(&collection).collect(),
        }))
    }

    async fn update_collection(
        &self,
        request: Request<UpdateCollectionRequest>,
    ) -> Result<Response<UpdateCollectionResponse>, Status> {
        let UpdateCollectionRequest { name, options, invocations } = request.into_inner();
        let updated = self.0.manager.update_collection(&name, options, invocations).await;
        let updated = updated.map_err(|error| catalogue(&error))?;
        Ok(Response::new(UpdateCollectionResponse { collection: Some(describe::collection(&updated)) }))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Result<Response<DeleteCollectionResponse>, Status> {
        let name = request.into_inner().name;
        self.0.manager.delete_collection(&name).await.map_err(|error| catalogue(&error))?;
        Ok(Response::new(DeleteCollectionResponse {}))
    }

    async fn list_partitions(
        &self,
        request: Request<ListPartitionsRequest>,
    ) -> Result<Response<ListPartitionsResponse>, Status> {
        let class = request.into_inner().cls_id;
        let collections =
            if class.is_empty() { self.0.manager.collections() } else { vec![self.0.collection(&class)?] };
        let partitions = collections.iter().flat_map(|collection| describe::partitions(collection)).collect();
        Ok(Response::new(ListPartitionsResponse { partitions }))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        verify::log(&self.0, &request.into_inner()).map(Response::new)
    }

    async fn verify_view(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<Response<Self::VerifyViewStream>, Status> {
        verify::view(&self.0, &request.into_inner()).map(Response::new)
    }

    async fn dump_log(
        &self,
        request: Request<DumpLogRequest>,
    ) -> Result<Response<Self::DumpLogStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            let answer = way.admin().dump_log(onward(&metadata, request)).await;
            return Ok(way.heed(answer)?.map(|records| Box::pin(records) as dump::Log));
        }
        dump::log(&self.0, &request).map(Response::new)
    }

    async fn dump_view(
        &self,
        request: Request<DumpViewRequest>,
    ) -> Result<Response<Self::DumpViewStream>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            let answer = way.admin().dump_view(onward(&metadata, request)).await;
            return Ok(way.heed(answer)?.map(|text| Box::pin(text) as dump::Text));
        }
        dump::view(&self.0, &request).map(Response::new)
    }

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        backup::begin(&self.0, &request.into_inner()).await.map(Response::new)
    }

    async fn restore(
        &self,
        request: Request<Streaming<RestoreRequest>>,
    ) -> Result<Response<RestoreResponse>, Status> {
        restore::run(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn get_node(&self, _: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let shared = Arc::clone(&self.0);
        let metrics = blocking(move || figures::all(&shared)).await?;
        Ok(Response::new(GetNodeResponse {
            node_id: self.0.manager.node_id().get(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            metrics,
        }))
    }

    async fn get_cluster(
        &self,
        _: Request<GetClusterRequest>,
    ) -> Result<Response<GetClusterResponse>, Status> {
        cluster::get(&self.0).await.map(Response::new)
    }

    async fn add_node(
        &self,
        request: Request<AddNodeRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        cluster::add(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn remove_node(
        &self,
        request: Request<RemoveNodeRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        cluster::remove(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn replace_node(
        &self,
        request: Request<ReplaceNodeRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        cluster::replace(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn readmit_node(
        &self,
        request: Request<ReadmitNodeRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        cluster::readmit(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<ChangeClusterResponse>, Status> {
        cluster::rebalance(&self.0, request.into_inner()).await.map(Response::new)
    }

    async fn move_leaders(
        &self,
        request: Request<MoveLeadersRequest>,
    ) -> Result<Response<MoveLeadersResponse>, Status> {
        cluster::move_leaders(&self.0, request.into_inner()).await.map(Response::new)
    }
}

/// Why the catalogue of collections was not changed.
fn catalogue(error: &CatalogueError) -> Status {
    let message = error.to_string();
    not_applied(match error {
        CatalogueError::AlreadyExists(_) => Status::already_exists(message),
        CatalogueError::NotFound(_) => Status::not_found(message),
        CatalogueError::Invalid(_) => Status::invalid_argument(message),
        CatalogueError::TooManyPartitions { .. } => Status::resource_exhausted(message),
        CatalogueError::Conflict => Status::aborted(message),
        CatalogueError::Plan(PlanError::NoNode(_)) => Status::not_found(message),
        CatalogueError::Plan(PlanError::IsMember(_)) => Status::already_exists(message),
        CatalogueError::Plan(_) => Status::failed_precondition(message),
        CatalogueError::Propose(error) => return status::from_proposal(error),
        CatalogueError::Unconfirmed(error) => return not_applied(status::from_read(error)),
        CatalogueError::Read(_) => status::internal(message),
    })
}
