//! Restate: its server, the handler that it calls, and a client of its ingress.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::transport::Channel;

use super::super::install;
use super::super::load::Asking;
use super::super::servers::{Announced, Started, free_address};
use super::super::targets::channel;
use crate::Result;
use crate::process::Process;

/// What the handler prints before its address: `tests/restate`.
const LISTENING: &str = "handler listens on ";

/// The call: the handler `noop` of the service `Bench`.
const CALL: &str = "/Bench/noop";

/// How long the server may take until it calls the handler.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the handler and the server, and makes them known to each other. The server comes first.
pub(in super::super) async fn start(dir: &Path) -> Result<Vec<Started>> {
    let (program, handler) = (install::restate()?, install::restate_handler()?);
    let mut handler = Process::spawn("restate-handler", Command::new(handler), &dir.join("handler-output"))?;
    let handler_address = Announced::Output(LISTENING).wait(&mut handler).await?;
    let (ingress, admin) = (free_address()?, free_address()?);
    let settings = dir.join("restate.toml");
    std::fs::write(&settings, settings_of(dir, ingress, admin, free_address()?))?;
    let mut command = Command::new(&program);
    command.current_dir(dir).arg("--no-logo").arg("--config-file").arg(&settings);
    let mut server = Process::spawn("restate-server", command, &dir.join("output"))?;
    Announced::Given(ingress).wait(&mut server).await?;
    Announced::Given(admin).wait(&mut server).await?;
    let handler_url = serde_json::json!({ "uri": format!("http://{handler_address}") });
    let handler_url = Bytes::from(handler_url.to_string());
    until_accepted(&server, admin, "/deployments", "application/json", handler_url).await?;
    until_accepted(&server, ingress, CALL, "application/octet-stream", Bytes::new()).await?;
    let version = install::version(&program)?;
    Ok(vec![
        Started { process: server, address: Announced::Given(ingress), version: version.clone() },
        Started { process: handler, address: Announced::Given(handler_address), version },
    ])
}

/// The server's settings: its defaults, but for addresses, what it tells others, and the number of partitions: one, as our
/// node has, does more on few cores than the 24 of its defaults. That its logs are synced is its default, too, and is said
/// once more.
fn settings_of(dir: &Path, ingress: SocketAddr, admin: SocketAddr, between_nodes: SocketAddr) -> String {
    format!(
        r#"
node-name = "bench"
cluster-name = "bench"
base-dir = {base:?}
default-num-partitions = 1
listen-mode = "tcp"
bind-address = "{between_nodes}"
log-filter = "warn"
disable-telemetry = true

[ingress]
bind-address = "{ingress}"

[admin]
bind-address = "{admin}"

[log-server]
rocksdb-disable-wal-fsync = false

[bifrost.local]
rocksdb-disable-wal-fsync = false
"#,
        base = dir.join("data"),
    )
}

/// Sends the same request until it is answered well: the server listens while its partitions still start.
async fn until_accepted(
    server: &Process,
    address: SocketAddr,
    path: &'static str,
    content_type: &'static str,
    body: Bytes,
) -> Result<()> {
    let mut channel = channel(address).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match post(&mut channel, path, content_type, body.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(format!("Restate, {path}: {error}\n{}", server.output()).into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// A client of the ingress. It speaks HTTP/2 through the same channel as all others, so that nothing but the server differs.
#[derive(Clone)]
pub(super) struct Ingress(Channel);

impl Ingress {
    /// At the other end.
    pub(super) fn at(channel: Channel) -> Self {
        Self(channel)
    }
}

impl Asking for Ingress {
    async fn ask(&mut self, _: usize, _: &str, value: Bytes) -> Result<()> {
        post(&mut self.0, CALL, "application/octet-stream", value).await
    }
}

/// Posts and reads the whole answer. An error if the status is none of success.
async fn post(
    channel: &mut Channel,
    path: &'static str,
    content_type: &'static str,
    body: Bytes,
) -> Result<()> {
    let request = Request::post(path).header(CONTENT_TYPE, content_type).body(Body::new(Full::new(body)))?;
    poll_fn(|context| channel.poll_ready(context)).await?;
    let response = channel.call(request).await?;
    let status = response.status();
    let answer = response.into_body().collect().await?.to_bytes();
    match status {
        StatusCode::OK | StatusCode::CREATED => Ok(()),
        _ => Err(format!("{status}: {}", String::from_utf8_lossy(&answer)).into()),
    }
}
