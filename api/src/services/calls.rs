//! `odgm.v1.Calls`: calls that are made later, what was given up, and what came of what.
//!
//! What is about one partition is answered where that is; what is about a collection, or all of them, is put together here.

mod accept;
mod caused;
mod letters;
mod outbox;
mod pages;
mod result;
mod summary;
mod trace;

use std::sync::Arc;

use odgm_proto::odgm::v1::calls_server::Calls as Service;
use odgm_proto::odgm::v1::{
    DiscardRequest, DiscardResponse, GetDeadLetterRequest, GetDeadLetterResponse, GetResultRequest,
    GetResultResponse, InvokeRequest, InvokeResponse, ListCallsRequest, ListCallsResponse, ListCausedRequest,
    ListCausedResponse, ListDeadLettersRequest, ListDeadLettersResponse, RedriveRequest, RedriveResponse,
    TraceRequest, TraceResponse,
};
use tonic::{Request, Response, Status};

use super::Shared;
use super::relay::onward;
use crate::status::{self, else_not_applied, not_applied};

pub(crate) use self::outbox::overdue;

/// The service.
pub(crate) struct Calls(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Service for Calls {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await.map_err(not_applied)?;
            return way.heed_write(way.calls().invoke(onward(&metadata, request)).await);
        }
        let accepted = accept::accept(&self.0, &metadata, request).await.map_err(else_not_applied)?;
        let offset = accepted.offset;
        let mut response = Response::new(accepted);
        status::note_offset(response.metadata_mut(), odgm_log::Offset(offset));
        Ok(response)
    }

    async fn get_result(
        &self,
        request: Request<GetResultRequest>,
    ) -> Result<Response<GetResultResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            return way.heed(way.calls().get_result(onward(&metadata, request)).await);
        }
        result::get(&self.0, &metadata, request).await.map(Response::new)
    }

    async fn list_calls(
        &self,
        request: Request<ListCallsRequest>,
    ) -> Result<Response<ListCallsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        outbox::list(&self.0, &metadata, request).await.map(Response::new)
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        letters::list(&self.0, &metadata, request).await.map(Response::new)
    }

    async fn get_dead_letter(
        &self,
        request: Request<GetDeadLetterRequest>,
    ) -> Result<Response<GetDeadLetterResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await?;
            return way.heed(way.calls().get_dead_letter(onward(&metadata, request)).await);
        }
        letters::get(&self.0, &metadata, &request).await.map(Response::new)
    }

    async fn redrive(&self, request: Request<RedriveRequest>) -> Result<Response<RedriveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await.map_err(not_applied)?;
            return way.heed_write(way.calls().redrive(onward(&metadata, request)).await);
        }
        letters::redrive(&self.0, &metadata, request).await.map(Response::new).map_err(else_not_applied)
    }

    async fn discard(&self, request: Request<DiscardRequest>) -> Result<Response<DiscardResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        if let Some(nodes) = self.0.elsewhere(&metadata, &request.cls_id, request.partition_id) {
            let way = self.0.way(&nodes).await.map_err(not_applied)?;
            return way.heed_write(way.calls().discard(onward(&metadata, request)).await);
        }
        letters::discard(&self.0, &metadata, request).await.map(Response::new).map_err(else_not_applied)
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        trace::trace(&self.0, &metadata, &request).await.map(Response::new)
    }

    async fn list_caused(
        &self,
        request: Request<ListCausedRequest>,
    ) -> Result<Response<ListCausedResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        caused::list(&self.0, &metadata, request).await.map(Response::new)
    }
}
