//! Objects of partitions of any node.

use odgm_proto::oprc::data_service_server::DataService;
use odgm_proto::oprc::{
    BatchSetValuesRequest, CapabilitiesRequest, CapabilitiesResponse, EmptyResponse, ListObjectsRequest,
    ListValuesRequest, ObjectResponse, SetKeyRequest, SetObjectRequest, SingleKeyRequest,
    SingleObjectRequest, StatsRequest, StatsResponse, ValueResponse,
};
use tonic::{Request, Response, Status};

use super::{Anywhere, read, write};
use crate::services::data::{Data, stream};

#[tonic::async_trait]
impl DataService for Anywhere {
    type ListObjectsStream = <Data as DataService>::ListObjectsStream;
    type ListValuesStream = <Data as DataService>::ListValuesStream;

    async fn get(&self, request: Request<SingleObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.get(request).await,
            Some(nodes) => self.unary(read("Get"), nodes, request).await,
        }
    }

    async fn get_value(&self, request: Request<SingleKeyRequest>) -> Result<Response<ValueResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.get_value(request).await,
            Some(nodes) => self.unary(read("GetValue"), nodes, request).await,
        }
    }

    async fn set(&self, request: Request<SetObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.set(request).await,
            Some(nodes) => self.unary(write("Set"), nodes, request).await,
        }
    }

    async fn set_value(&self, request: Request<SetKeyRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.set_value(request).await,
            Some(nodes) => self.unary(write("SetValue"), nodes, request).await,
        }
    }

    async fn merge(&self, request: Request<SetObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.merge(request).await,
            Some(nodes) => self.unary(write("Merge"), nodes, request).await,
        }
    }

    async fn delete(&self, request: Request<SingleObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.delete(request).await,
            Some(nodes) => self.unary(write("Delete"), nodes, request).await,
        }
    }

    async fn delete_value(
        &self,
        request: Request<SingleKeyRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.delete_value(request).await,
            Some(nodes) => self.unary(write("DeleteValue"), nodes, request).await,
        }
    }

    async fn batch_set_values(
        &self,
        request: Request<BatchSetValuesRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.batch_set_values(request).await,
            Some(nodes) => self.unary(write("BatchSetValues"), nodes, request).await,
        }
    }

    async fn list_objects(
        &self,
        request: Request<ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.list_objects(request).await,
            Some(nodes) => {
                let (_, page) = self.pass_on(read("ListObjects"), nodes, request).await?;
                Ok(Response::new(stream(page)))
            }
        }
    }

    async fn list_values(
        &self,
        request: Request<ListValuesRequest>,
    ) -> Result<Response<Self::ListValuesStream>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.data.list_values(request).await,
            Some(nodes) => {
                let (_, page) = self.pass_on(read("ListValues"), nodes, request).await?;
                Ok(Response::new(stream(page)))
            }
        }
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        self.data.stats(request).await
    }

    async fn capabilities(
        &self,
        request: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        self.data.capabilities(request).await
    }
}
