//! `oprc.OprcFunction` as functions serve it.

use std::sync::Arc;

use odgm_proto::oprc::oprc_function_server::{OprcFunction, OprcFunctionServer};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::call::Call;

/// Whoever runs the functions that are called.
pub trait Invoked: Send + Sync + 'static {
    /// Runs one.
    fn invoked(&self, call: Call) -> impl Future<Output = Result<InvocationResponse, Status>> + Send;
}

/// The gRPC service.
#[derive(Debug)]
pub struct Service<T>(pub Arc<T>);

#[tonic::async_trait]
impl<T: Invoked> OprcFunction for Service<T> {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        self.0.invoked(Call::of_class(request)).await.map(Response::new)
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        self.0.invoked(Call::of_object(request)).await.map(Response::new)
    }
}

/// Serves functions, and says over gRPC that they are well, until it is dropped.
///
/// # Errors
/// When the connections cannot be served any more.
pub async fn serve<T: Invoked>(listener: TcpListener, functions: Arc<T>) -> crate::Result<()> {
    let (health, service) = tonic_health::server::health_reporter();
    health.set_serving::<OprcFunctionServer<Service<T>>>().await;
    Server::builder()
        .max_concurrent_streams(1024)
        .add_service(service)
        .add_service(OprcFunctionServer::new(Service(functions)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}
