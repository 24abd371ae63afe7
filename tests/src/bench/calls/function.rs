//! A function that does nothing, in a process of its own. It can note when it was entered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use odgm_proto::metadata::IDEMPOTENCY_KEY;
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::oprc_function_server::{OprcFunction, OprcFunctionServer};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::super::servers::{Started, of_this_program};
use super::super::targets::channel;
use crate::Result;
use crate::process::Process;

/// Does nothing.
pub(in super::super) const NOOP: &str = "noop";

/// Does nothing but note when it was entered, and by which record's trigger.
pub(super) const NOTED: &str = "noted";

/// Answers what was noted, and forgets it.
const ENTRIES: &str = "entries";

/// What the function prints before its address, on a line of its own.
const LISTENING: &str = "function listens on ";

/// The routes of a collection whose functions are served there, in JSON.
pub(in super::super) fn routes(address: SocketAddr) -> serde_json::Value {
    let route = serde_json::json!({ "url": format!("http://{address}") });
    serde_json::json!({ "fn_routes": { NOOP: route, NOTED: route } })
}

/// Nanoseconds of a clock that is the same for all processes of a machine.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// The process. Dropping it kills it.
pub(super) struct Function {
    pub(super) address: SocketAddr,
    _process: Process,
}

impl Function {
    /// Starts it at an address that the system gives, and waits until it accepts connections.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), dir).await
    }

    /// The same at an address that was given.
    pub(super) async fn start_at(at: SocketAddr, dir: &Path) -> Result<Self> {
        let arguments = ["function", "--at", &at.to_string()];
        let Started { mut process, address, .. } = of_this_program("function", &arguments, LISTENING, dir)?;
        Ok(Self { address: address.wait(&mut process).await?, _process: process })
    }

    /// When the triggers of which records entered the function for the first time, since this was asked last.
    pub(super) async fn entries(&self) -> Result<HashMap<u64, u64>> {
        let mut client = OprcFunctionClient::new(channel(self.address).await?);
        client = client.max_decoding_message_size(usize::MAX);
        let request = InvocationRequest { fn_id: ENTRIES.to_owned(), ..InvocationRequest::default() };
        let mut noted = client.invoke_fn(request).await?.into_inner().payload.unwrap_or_default();
        let mut entries = HashMap::new();
        while noted.remaining() >= 16 {
            let (offset, time) = (noted.get_u64(), noted.get_u64());
            // Should a call have been tried again, its first attempt counts.
            entries.entry(offset).or_insert(time);
        }
        Ok(entries)
    }
}

/// Serves there until the process is killed.
pub(in super::super) async fn serve(at: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(at).await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    Server::builder()
        .max_concurrent_streams(1024)
        .add_service(OprcFunctionServer::new(Nothing::default()))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

#[derive(Default)]
struct Nothing {
    /// The offset of a record and the time of entry, both big-endian, one after the other.
    noted: Mutex<BytesMut>,
}

#[tonic::async_trait]
impl OprcFunction for Nothing {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let entered = now();
        let mut response = InvocationResponse::default();
        match request.get_ref().fn_id.as_str() {
            NOOP => (),
            NOTED => {
                let offset = offset(request.metadata())?;
                let mut noted = self.noted.lock();
                noted.put_u64(offset);
                noted.put_u64(entered);
            }
            ENTRIES => response.payload = Some(self.noted.lock().split().freeze()),
            other => return Err(Status::not_found(format!("there is no function {other}"))),
        }
        Ok(Response::new(response))
    }

    async fn invoke_obj(
        &self,
        _: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        Err(Status::unimplemented("the benchmark calls functions by themselves only"))
    }
}

/// The offset of the record whose trigger this is, which its idempotency key names: `group/origin/offset/index`.
#[allow(clippy::result_large_err)] // what tonic's services answer with
fn offset(metadata: &MetadataMap) -> Result<u64, Status> {
    let key = metadata.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
    let offset = key.and_then(|key| key.split('/').nth(2)?.parse().ok());
    offset.ok_or_else(|| Status::invalid_argument(format!("{IDEMPOTENCY_KEY} {key:?} names no record")))
}

/// A call of the function that does nothing.
pub(super) fn call(class: &str, payload: Bytes) -> InvocationRequest {
    InvocationRequest {
        cls_id: class.to_owned(),
        fn_id: NOOP.to_owned(),
        payload,
        ..InvocationRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idempotency_key_of_a_call_names_the_record_that_asked_for_it() {
        let mut metadata = MetadataMap::new();
        assert!(offset(&metadata).is_err(), "without a key there is no record");
        metadata.insert(IDEMPOTENCY_KEY, "3/1/4711/0".parse().unwrap());
        assert_eq!(offset(&metadata).unwrap(), 4711);
        metadata.insert(IDEMPOTENCY_KEY, "4711".parse().unwrap());
        assert!(offset(&metadata).is_err(), "a number alone is no key");
    }
}
