//! The gRPC server: which services there are, and how connections are kept.

use std::sync::Arc;
use std::time::Duration;

use odgm_proto::FILE_DESCRIPTOR_SET;
use odgm_proto::odgm::v1::admin_server::AdminServer;
use odgm_proto::odgm::v1::streams_server::StreamsServer;
use odgm_proto::odgm::v1::writes_server::WritesServer;
use odgm_proto::oprc::data_service_server::DataServiceServer;
use odgm_proto::oprc::oprc_function_server::OprcFunctionServer;
use odgm_replication::Readiness;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Error, Server};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::{v1, v1alpha};

use crate::services::{Admin, Data, Functions, Shared, Streams, Writes};

/// What one request stream may send ahead of being read, and all of a connection together, in bytes.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A peer that has gone without a word is noticed after these two together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Every service with a health of its own; the empty name is the whole node.
const HEALTH_NAMES: [&str; 6] = [
    "",
    <DataServiceServer<Data> as NamedService>::NAME,
    <OprcFunctionServer<Functions> as NamedService>::NAME,
    <StreamsServer<Streams> as NamedService>::NAME,
    <WritesServer<Writes> as NamedService>::NAME,
    <AdminServer<Admin> as NamedService>::NAME,
];

/// Serves until `shared.stop` is cancelled and the requests under way have ended.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, reflection: bool) -> Result<(), Error> {
    let stop = shared.stop.clone();
    let max_bytes = shared.limits.request_bytes;
    let (reporter, health) = tonic_health::server::health_reporter();
    // The library begins with "serving"; nobody may read that before the partitions have been asked.
    report(&reporter, ServingStatus::NotServing).await;
    let watcher = tokio::spawn(report_health(reporter, shared.manager.readiness(), stop.clone()));
    let reflection = reflection.then(reflection_services);
    let (reflection_v1, reflection_v1alpha) = reflection.unzip();
    let served = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(shared.limits.connection_requests)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(DataServiceServer::new(Data(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(
            OprcFunctionServer::new(Functions(Arc::clone(&shared))).max_decoding_message_size(max_bytes),
        )
        .add_service(StreamsServer::new(Streams(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(WritesServer::new(Writes(Arc::clone(&shared))).max_decoding_message_size(max_bytes))
        .add_service(AdminServer::new(Admin(shared)).max_decoding_message_size(max_bytes))
        .add_service(health)
        .add_optional_service(reflection_v1)
        .add_optional_service(reflection_v1alpha)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.cancelled())
        .await;
    watcher.abort();
    served
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
