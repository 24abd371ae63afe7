//! The gRPC server: which services there are, and how connections are kept.
//!
//! It stands on hyper itself instead of tonic's own server. A request for objects, or of a function, then passes no router,
//! no chain of boxed layers and no second box for its body. What that leaves to do here: docs/adr/0005-grpc-on-hyper.md.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use odgm_proto::FILE_DESCRIPTOR_SET;
use odgm_proto::odgm::v1::admin_server::AdminServer;
use odgm_proto::odgm::v1::calls_server::CallsServer;
use odgm_proto::odgm::v1::streams_server::StreamsServer;
use odgm_proto::odgm::v1::writes_server::WritesServer;
use odgm_proto::oprc::data_service_server::DataServiceServer;
use odgm_proto::oprc::oprc_function_server::OprcFunctionServer;
use odgm_replication::Readiness;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service as _, http};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::{v1, v1alpha};

use crate::connection::Connection;
use crate::gathering::gathering;
use crate::request;
use crate::services::{Admin, Anywhere, Calls, Shared, Streams, Writes};
use crate::status::{self, not_applied};

/// What one request stream may send ahead of being read, and all of a connection together, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A peer that has gone without a word is noticed after these two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// After a connection could not be accepted, most likely because there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The requests that make records. A refusal or a missed deadline of one says what became of it.
const WRITES: [&str; 24] = [
    "/oprc.DataService/Set",
    "/oprc.DataService/SetValue",
    "/oprc.DataService/BatchSetValues",
    "/oprc.DataService/Merge",
    "/oprc.DataService/Delete",
    "/oprc.DataService/DeleteValue",
    "/oprc.OprcFunction/InvokeFn",
    "/oprc.OprcFunction/InvokeObj",
    "/odgm.v1.Writes/Write",
    "/odgm.v1.Calls/Invoke",
    "/odgm.v1.Calls/Redrive",
    "/odgm.v1.Calls/Discard",
    "/odgm.v1.Streams/MoveCursor",
    "/odgm.v1.Streams/DropCursor",
    "/odgm.v1.Admin/CreateCollection",
    "/odgm.v1.Admin/UpdateCollection",
    "/odgm.v1.Admin/DeleteCollection",
    "/odgm.v1.Admin/Restore",
    "/odgm.v1.Admin/AddNode",
    "/odgm.v1.Admin/RemoveNode",
    "/odgm.v1.Admin/ReplaceNode",
    "/odgm.v1.Admin/ReadmitNode",
    "/odgm.v1.Admin/Rebalance",
    "/odgm.v1.Admin/MoveLeaders",
];

/// Every service with a health of its own; the empty name is the whole node.
const HEALTH_NAMES: [&str; 7] = [
    "",
    <DataServiceServer<Anywhere> as NamedService>::NAME,
    <OprcFunctionServer<Anywhere> as NamedService>::NAME,
    <StreamsServer<Streams> as NamedService>::NAME,
    <WritesServer<Writes> as NamedService>::NAME,
    <CallsServer<Calls> as NamedService>::NAME,
    <AdminServer<Admin> as NamedService>::NAME,
];

/// Serves until `shared.stop` is cancelled and the requests under way have ended.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, reflection: bool) {
    let stop = shared.stop.clone();
    let (reporter, health) = tonic_health::server::health_reporter();
    // The library begins with "serving"; nobody may read that before the partitions have been asked.
    report(&reporter, ServingStatus::NotServing).await;
    let watcher = tokio::spawn(report_health(reporter, shared.manager.readiness(), stop.clone()));

    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(shared.limits.connection_requests)
        // gRPC has no use for a date in every answer.
        .auto_date_header(false)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let max_bytes = shared.limits.request_bytes;
    let mut others = Routes::new(health)
        .add_service(StreamsServer::new(Streams(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(WritesServer::new(Writes(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(CallsServer::new(Calls(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(AdminServer::new(Admin(Arc::clone(&shared))).max_decoding_message_size(max_bytes));
    if reflection {
        let (v1, v1alpha) = reflection_services();
        others = others.add_service(v1).add_service(v1alpha);
    }
    let anywhere = Anywhere::new(shared);
    let services = Services {
        data: DataServiceServer::new(anywhere.clone()).max_decoding_message_size(max_bytes),
        functions: OprcFunctionServer::new(anywhere).max_decoding_message_size(max_bytes),
        others: others.prepare(),
        max_bytes,
        under_way: Arc::default(),
    };

    let connections = GracefulShutdown::new();
    while let Some(stream) = accept(&listener, &stop).await {
        let io = TokioIo::new(Connection::new(stream, &stop));
        let under_way = Arc::new(AtomicUsize::new(0));
        let services = Services { under_way: Arc::clone(&under_way), ..services.clone() };
        let served = connections.watch(http.serve_connection(io, services));
        tokio::spawn(async move {
            if let Err(error) = gathering(served, || under_way.load(Ordering::Relaxed) > 0).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    // Whoever comes now shall be refused by the system at once.
    drop(listener);
    connections.shutdown().await;
    watcher.abort();
}

/// The next connection; none when the node stops.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Some(stream),
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Everything that is served, by the names in the paths of requests.
#[derive(Clone)]
struct Services {
    /// Called far more often than all others, these two.
    data: DataServiceServer<Anywhere>,
    functions: OprcFunctionServer<Anywhere>,
    others: Routes,
    /// The largest request message.
    max_bytes: usize,
    /// Requests of the connection that are not answered, and streams that have not ended.
    under_way: Arc<AtomicUsize>,
}

impl hyper::service::Service<http::Request<Incoming>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: http::Request<Incoming>) -> Answering {
        let deadline = request::timeout(request.headers());
        let path = request.uri().path();
        let is_write = WRITES.contains(&path);
        let answer = match path.split('/').nth(1) {
            Some(DataServiceServer::<Anywhere>::NAME) => self.data.clone().call(request),
            Some(OprcFunctionServer::<Anywhere>::NAME) => self.functions.clone().call(request),
            _ => {
                let (answer, under_way) = (self.others.clone().call(request), UnderWay::new(&self.under_way));
                let with = |body| Body::new(Streaming { body, _under_way: under_way });
                Box::pin(answer.map_ok(|response| response.map(with)))
            }
        };
        let answer = match deadline {
            None => answer,
            Some(deadline) => Box::pin(within(deadline, answer, is_write)),
        };
        Answering { answer, is_write, max_bytes: self.max_bytes, _under_way: UnderWay::new(&self.under_way) }
    }
}

type Answer = BoxFuture<http::Response<Body>, Infallible>;

/// The answer to a request. Where the request could not be read, tonic's words give way to ones that say what was
/// expected.
struct Answering {
    answer: Answer,
    is_write: bool,
    max_bytes: usize,
    _under_way: UnderWay,
}

/// The body of an answer that may go on for long.
struct Streaming {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request until it is dropped.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(response) = ready!(self.answer.as_mut().poll(cx));
        let Some(refusal) = refusal(&response, self.max_bytes) else { return Poll::Ready(Ok(response)) };
        let refusal = if self.is_write { not_applied(refusal) } else { refusal };
        Poll::Ready(Ok(refusal.into_http()))
    }
}

/// Why a request could not be read, if that is what the response says.
fn refusal(response: &http::Response<Body>, max_bytes: usize) -> Option<Status> {
    // Only what was refused at once has a status in its headers; other answers have it behind their bodies.
    let code = Code::from_bytes(response.headers().get(Status::GRPC_STATUS)?.as_bytes());
    if !matches!(code, Code::OutOfRange | Code::Internal) {
        return None;
    }
    status::unreadable(&Status::from_header_map(response.headers())?, max_bytes)
}

/// Gives an answer up when its client has. A write may have become a record by then.
async fn within(
    deadline: Duration,
    answer: Answer,
    is_write: bool,
) -> Result<http::Response<Body>, Infallible> {
    let late = |_| {
        let passed = "the deadline of the request has passed";
        Ok(if is_write {
            let message = format!("{passed}; whether the write was applied is unknown");
            status::unknown(Status::deadline_exceeded(message)).into_http()
        } else {
            Status::deadline_exceeded(passed).into_http()
        })
    };
    tokio::time::timeout(deadline, answer).await.unwrap_or_else(late)
}

/// Both versions of gRPC reflection: tools in the field speak one or the other.
#[allow(clippy::expect_used)]
fn reflection_services() -> (
    v1::ServerReflectionServer<impl v1::ServerReflection>,
    v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>,
) {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let invariant = "invariant: the compiled-in descriptors are valid";
    (builder().build_v1().expect(invariant), builder().build_v1alpha().expect(invariant))
}

/// Serving while every partition serves; not before, and not from the moment the node begins to stop.
async fn report_health(
    mut reporter: HealthReporter,
    mut readiness: watch::Receiver<Readiness>,
    stop: CancellationToken,
) {
    loop {
        let status = if readiness.borrow_and_update().all_ready() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        report(&reporter, status).await;
        let changed = tokio::select! {
            changed = readiness.changed() => changed.is_ok(),
            () = stop.cancelled() => false,
        };
        if !changed {
            break;
        }
    }
    report(&reporter, ServingStatus::NotServing).await;
    // Ends the streams of those who watch; they would keep their connections open.
    for name in HEALTH_NAMES {
        reporter.clear_service_status(name).await;
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        reporter.set_service_status(name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_of_a_late_write_it_is_said_that_its_outcome_is_unknown() {
        for (is_write, expected) in [(true, Some("unknown")), (false, None)] {
            let never = Box::pin(std::future::pending());
            let Ok(late) = within(Duration::ZERO, never, is_write).await;
            let late = Status::from_header_map(late.headers()).expect("a status");
            assert_eq!(late.code(), Code::DeadlineExceeded);
            let outcome = late.metadata().get(status::OUTCOME).and_then(|outcome| outcome.to_str().ok());
            assert_eq!(outcome, expected);
        }
    }
}
