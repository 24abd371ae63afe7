//! The ceiling: a server of the same schema with nothing behind it but answers of the same size.

use std::pin::Pin;

use bytes::Bytes;
use odgm_proto::odgm::v1::writes_server::{Writes, WritesServer};
use odgm_proto::odgm::v1::{WriteRequest, WriteResponse, Written, write_response};
use odgm_proto::oprc::data_service_server::{DataService, DataServiceServer};
use odgm_proto::oprc::{
    BatchSetValuesRequest, CapabilitiesRequest, CapabilitiesResponse, EmptyResponse, ListObjectsRequest,
    ListValuesRequest, ObjectMetaEnvelope, ObjectResponse, SetKeyRequest, SetObjectRequest, SingleKeyRequest,
    SingleObjectRequest, StatsRequest, StatsResponse, ValData, ValueEnvelope, ValueResponse,
};
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::workload::VALUE_BYTES;
use crate::Result;

/// What the server prints before its address, on a line of its own.
pub(super) const LISTENING: &str = "ceiling listens on ";

/// Serves on a free port of the loopback interface until the process is killed.
pub(super) async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let ceiling = Ceiling { value: vec![b'x'; VALUE_BYTES].into() };
    // Windows and limits are the node's. The server is tonic's own, which the node does without.
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(1024)
        .add_service(DataServiceServer::new(ceiling.clone()))
        .add_service(WritesServer::new(ceiling))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Clone)]
struct Ceiling {
    value: Bytes,
}

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DataService for Ceiling {
    type ListObjectsStream = Streamed<ObjectMetaEnvelope>;
    type ListValuesStream = Streamed<ValueEnvelope>;

    async fn set_value(&self, request: Request<SetKeyRequest>) -> Result<Response<EmptyResponse>, Status> {
        drop(request);
        Ok(Response::new(EmptyResponse {}))
    }

    async fn get_value(&self, request: Request<SingleKeyRequest>) -> Result<Response<ValueResponse>, Status> {
        Ok(Response::new(ValueResponse {
            value: Some(ValData { data: self.value.clone(), r#type: 0 }),
            object_version: Some(1_000),
            key: request.into_inner().key_str,
            deleted: None,
        }))
    }

    async fn get(&self, _: Request<SingleObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        Err(not_measured())
    }

    async fn delete(&self, _: Request<SingleObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        Err(not_measured())
    }

    async fn set(&self, _: Request<SetObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        Err(not_measured())
    }

    async fn merge(&self, _: Request<SetObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        Err(not_measured())
    }

    async fn delete_value(&self, _: Request<SingleKeyRequest>) -> Result<Response<EmptyResponse>, Status> {
        Err(not_measured())
    }

    async fn batch_set_values(
        &self,
        _: Request<BatchSetValuesRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        Err(not_measured())
    }

    async fn list_objects(
        &self,
        _: Request<ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        Err(not_measured())
    }

    async fn list_values(
        &self,
        _: Request<ListValuesRequest>,
    ) -> Result<Response<Self::ListValuesStream>, Status> {
        Err(not_measured())
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        Err(not_measured())
    }

    async fn capabilities(
        &self,
        _: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        Err(not_measured())
    }
}

#[tonic::async_trait]
impl Writes for Ceiling {
    type WriteStream = Streamed<WriteResponse>;

    async fn write(
        &self,
        requests: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let written = Written { offset: 1_000_000, object_version: 1_000, changed: true };
        let responses = requests.into_inner().map(move |request| {
            let result = Some(write_response::Result::Written(written));
            Ok(WriteResponse { sequence: request?.sequence, result })
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

fn not_measured() -> Status {
    Status::unimplemented("the ceiling answers only what is measured: SetValue, GetValue and Write")
}
