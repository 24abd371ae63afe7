//! The proxy: a gRPC server that passes calls of functions on over one connection, and keeps nothing.

use std::net::SocketAddr;

use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::oprc_function_server::{OprcFunction, OprcFunctionServer};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::Result;

/// What the proxy prints before its address, on a line of its own.
pub(in super::super) const LISTENING: &str = "proxy listens on ";

/// Serves on a free port of the loopback interface until the process is killed.
pub(in super::super) async fn serve(function: SocketAddr) -> Result<()> {
    let function = Endpoint::from_shared(format!("http://{function}"))?.connect().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    // Set up as the ceiling is.
    Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(1024)
        .add_service(OprcFunctionServer::new(Proxy { function: OprcFunctionClient::new(function) }))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

struct Proxy {
    function: OprcFunctionClient<Channel>,
}

#[tonic::async_trait]
impl OprcFunction for Proxy {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        self.function.clone().invoke_fn(request.into_inner()).await
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        self.function.clone().invoke_obj(request.into_inner()).await
    }
}
