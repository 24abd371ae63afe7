//! A running node: its data, its server, and its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_log::NodeId;
use odgm_log::store::SyncError;
use odgm_replication::{CatalogueError, Manager, OpenError};
use odgm_triggers::functions::Functions;
use odgm_triggers::processor::Processor;
use odgm_triggers::{Announce, ConfirmedCatalogue};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, block_in_place};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Calls, Config, Effect};
use crate::services::{Post, Shared};
use crate::zenoh::Routes;
use crate::zenoh::calls::{Announcer, Remote};
use crate::{logging, metrics, server};

/// A running node.
pub struct Node {
    address: SocketAddr,
    manager: Arc<Manager>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), NodeError>>,
}

/// Why a node did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; choose another ODGM_HTTP_PORT, or stop what uses this one"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The data directory cannot be used. Nothing in it was overwritten.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A collection of ODGM_COLLECTION cannot be created.
    #[error("creating the collections of ODGM_COLLECTION: {0}")]
    Bootstrap(CatalogueError),
    /// The port cannot be written to where ODGM_PORT_FILE says.
    #[error("writing ODGM_PORT_FILE {}: {source}", path.display())]
    PortFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The system does not let the process wait for signals.
    #[error("waiting for signals: {0}")]
    Signals(std::io::Error),
    /// What calls need over Zenoh cannot be declared.
    #[error("declaring in Zenoh what calls of functions need: {0}")]
    Zenoh(zenoh::Error),
    /// The disk failed. What was acknowledged is safe; what was under way is unknown.
    #[error(
        "the log can no longer be made durable, so the node stops: {0}; if the disk of the data directory is full, free \
         some space there, then start the node again"
    )]
    Disk(SyncError),
    /// A part of the node ended without saying why.
    #[error("the node's main task ended: {0}")]
    Task(tokio::task::JoinError),
}

/// Runs a node until it is told to stop by SIGINT or SIGTERM, or cannot go on.
///
/// # Errors
/// [`NodeError`], if it was not a signal that stopped it.
pub async fn serve(config: Config) -> Result<(), NodeError> {
    logging::init(&config.logging);
    warn_about_settings();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(NodeError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(NodeError::Signals)?;
    let node = Node::start(config).await?;
    let stop = node.stop.clone();
    let signals = tokio::spawn(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal = name, "stopping");
        stop.cancel();
    });
    let stopped = node.wait().await;
    signals.abort();
    stopped
}

impl Node {
    /// Opens the data directory and serves. Partitions catch up with their logs in the background;
    /// [`Node::ready`] waits for them.
    ///
    /// # Errors
    /// [`NodeError`]; nothing on disk was overwritten.
    pub async fn start(config: Config) -> Result<Self, NodeError> {
        let address = SocketAddr::new(config.host, config.port);
        let listen_error = |source| NodeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        if let Some(path) = config.port_file.as_deref() {
            forget_port(path)?;
        }
        let mut store = config.store;
        if store.address.is_none() && !address.ip().is_unspecified() {
            store.address = Some(address.to_string());
        }
        metrics::install();
        let manager = Manager::open(store).await?;
        let stop = CancellationToken::new();
        let bootstrapped = manager.bootstrap(config.collections).await.map_err(NodeError::Bootstrap);
        let calling = bootstrapped.and_then(|()| Calling::begin(&manager, config.calls, &stop));
        let port_file = config.port_file.as_deref();
        let begun = calling.and_then(|calling| {
            port_file.map_or(Ok(()), |path| write_port(path, address.port())).map(|()| calling)
        });
        let calling = match begun {
            Ok(calling) => calling,
            Err(error) => {
                stop.cancel();
                manager.shutdown().await;
                return Err(error);
            }
        };
        let functions = Arc::clone(&calling.functions);
        let shared = Arc::new(Shared::new(Arc::clone(&manager), functions, config.limits, stop.clone()));
        let routes = Routes::start(&shared, config.routes, calling.remote);
        let server = tokio::spawn(server::run(listener, Arc::clone(&shared), config.reflection));
        tracing::info!(
            %address,
            node = %manager.node_id(),
            collections = manager.collections().len(),
            version = env!("CARGO_PKG_VERSION"),
            "listening"
        );
        let parts = Parts { shared, server, routes, processor: calling.processor };
        let running = tokio::spawn(parts.run(config.shutdown_grace));
        Ok(Self { address, manager, stop, running })
    }

    /// Where the node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The node's number.
    pub fn node_id(&self) -> NodeId {
        self.manager.node_id()
    }

    /// Waits until no partition is starting any more.
    pub async fn ready(&self) {
        self.manager.ready().await;
    }

    /// Begins to stop; [`Node::wait`] says when it has.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Waits until the node has stopped and everything is on disk.
    ///
    /// # Errors
    /// The reason, if it was not [`Node::shutdown`] that stopped it.
    pub async fn wait(self) -> Result<(), NodeError> {
        self.running.await.map_err(NodeError::Task)?
    }
}

/// Who makes the calls of a node.
struct Calling {
    functions: Arc<Functions>,
    processor: Processor,
    remote: Option<Arc<Remote>>,
}

impl Calling {
    /// Begins to call what the log asks for.
    fn begin(manager: &Arc<Manager>, settings: Calls, stop: &CancellationToken) -> Result<Self, NodeError> {
        let session = manager.sessions().map(|sessions| sessions.first());
        // Declaring may wait for other nodes.
        let open = |session| {
            block_in_place(|| {
                Ok((
                    Remote::open(session, manager, settings.functions.answer_bytes)?,
                    Announcer::open(session)?,
                ))
            })
        };
        let over_zenoh = session.map(open).transpose().map_err(NodeError::Zenoh)?;
        let (remote, announcer) = over_zenoh.unzip();
        let catalogue = Arc::new(ConfirmedCatalogue::new(Arc::clone(manager)));
        let remote = remote.map(Arc::new);
        let called = remote.clone().map(|remote| remote as Arc<dyn odgm_triggers::Remote>);
        let functions = Functions::new(Arc::clone(&catalogue) as _, called, settings.functions);
        let processor = Processor::start(
            Arc::clone(manager),
            Arc::clone(&functions),
            Arc::new(Post { manager: Arc::clone(manager), catalogue }),
            announcer.map(|announcer| Arc::new(announcer) as Arc<dyn Announce>),
            settings.processor,
            stop.child_token(),
        );
        Ok(Self { functions, processor, remote })
    }
}

/// What of a node has to end in order.
struct Parts {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    routes: Option<Routes>,
    processor: Processor,
}

impl Parts {
    /// Waits for the end, and brings it about in order: no new calls of triggers, no new requests, no requests under way, no
    /// data in memory. All that is waited for before the last may take `grace` together.
    async fn run(mut self, grace: Duration) -> Result<(), NodeError> {
        let manager = &self.shared.manager;
        let stop = &self.shared.stop;
        let mut failure = manager.failure();
        let mut outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            failed = failure.wait_for(Option::is_some) => {
                failed.ok().and_then(|error| error.clone()).map_or(Ok(()), |error| Err(NodeError::Disk(error)))
            }
            served = &mut self.server => served.map_err(NodeError::Task),
        };
        if let Err(error) = &outcome {
            tracing::error!(%error, "stopping");
        }
        let until = Instant::now() + grace;
        // While this node still answers, so that nobody notices.
        manager.hand_over().await;
        stop.cancel();
        let left = || until.saturating_duration_since(Instant::now());
        self.processor.ended(left()).await;
        if !self.server.is_finished() {
            match tokio::time::timeout(left(), &mut self.server).await {
                Ok(served) => outcome = outcome.and(served.map_err(NodeError::Task)),
                Err(_) => {
                    tracing::warn!(?grace, "requests were still under way when the time to stop was over");
                    self.server.abort();
                }
            }
        }
        if let Some(routes) = self.routes {
            routes.ended(left()).await;
        }
        // Those whose clients have gone.
        self.shared.calling.ended(left()).await;
        manager.shutdown().await;
        tracing::info!("stopped");
        outcome
    }
}

/// What an earlier node wrote would send whoever waits for the file to the wrong port.
fn forget_port(path: &Path) -> Result<(), NodeError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(NodeError::PortFile { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Written beside and renamed, so that whoever waits for the file never reads half of it.
fn write_port(path: &Path, port: u16) -> Result<(), NodeError> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("{port}\n"))
        .and_then(|()| std::fs::rename(&beside, path))
        .map_err(|source| NodeError::PortFile { path: path.to_owned(), source })
}

/// Says what was set and does nothing, so that nobody relies on it.
fn warn_about_settings() {
    for current in config::settings().into_iter().filter(|current| current.is_set) {
        let name = current.setting.name;
        match current.setting.effect {
            Effect::Now => {}
            Effect::With(part) => {
                tracing::info!("{name} is set and has no effect until this build has {part}");
            }
            Effect::None(reason) => tracing::info!("{name} is set and has no effect: {reason}"),
        }
    }
    for name in config::unknown_names() {
        tracing::warn!("{name} is set but is no setting of this build: `odgm config` lists them");
    }
}
