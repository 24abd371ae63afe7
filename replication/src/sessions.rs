//! The one module that opens Zenoh sessions.
//!
//! What is set here and why: nothing is found by multicast, as a cluster must not depend on who else is on a network; a
//! session starts while its peers are down and goes on trying to reach them; each priority's queue holds sixteen batches, the
//! most there can be, as a queue that is full for five seconds closes the connection; shared memory is off.
//!
//! Zenoh runs on threads of its own, whatever runtime calls it, and needs that one to have worker threads. It reads how many
//! it is to have from the variable `ZENOH_RUNTIME` when it is first used, and there is no other way to tell it; so that is
//! left to whoever starts the process. Few cores are better off with
//! `(rx:(handover:app),acc:(handover:app),tx:(handover:app),net:(handover:app),app:(worker_threads:1))`.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpSocket;
use zenoh::{Config, Session};

/// The most sessions of one node.
pub const MAX_SESSIONS: usize = 64;

/// Batches that each priority's queue holds; Zenoh allows no more.
const TX_BATCHES: usize = 16;

/// How long a client waits for one of its peers; the others do not wait.
const CLIENT_CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// The first and the longest wait before a peer is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What a session is among others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZenohMode {
    /// Talks to other peers directly.
    #[default]
    Peer,
    /// Talks to one router or peer, that passes on what it says.
    Client,
    /// Passes on what others say.
    Router,
}

/// How sessions are opened. What is not set is as the configuration says, and without one as the default here.
#[derive(Clone, Debug, Default)]
pub struct ZenohOptions {
    /// A configuration of Zenoh as JSON5, or the path of a file of it. All that is set below overrides it.
    pub config: Option<String>,
    /// Peer, unless set.
    pub mode: Option<ZenohMode>,
    /// The protocol of the listener; "tcp" unless set.
    pub protocol: Option<String>,
    /// Where to listen; all addresses unless set.
    pub host: Option<String>,
    /// The port to listen on; 0 is any free one, as where it is not set.
    pub port: Option<u16>,
    /// Whom to connect to, such as "tcp/10.0.0.2:7447".
    pub peers: Vec<String>,
    /// Whether nodes tell each other of further ones.
    pub gossip: Option<bool>,
    /// Whether they tell of those that they do not know themselves.
    pub gossip_multihop: Option<bool>,
    /// Whether peers pass on what others say. Zenoh 1.10 has this for routers only: it is warned of, and has no effect.
    pub linkstate: bool,
    /// The most connections to other sessions.
    pub max_sessions: Option<usize>,
    /// The most links of one connection. With more than one, what one node sends may overtake itself.
    pub max_links: Option<usize>,
    /// Bytes of each link's receive buffer.
    pub buffer_bytes: Option<usize>,
    /// How long a query waits where nothing is said.
    pub query_timeout: Option<Duration>,
    /// Whether others are looked for by multicast.
    pub multicast: bool,
    /// Whether a session can be looked into under `@/`.
    pub adminspace: bool,
    /// How many sessions; at least one, at most [`MAX_SESSIONS`].
    pub sessions: usize,
}

/// Why a session could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ZenohError {
    /// The configuration cannot be used.
    #[error("Zenoh's configuration: {0}")]
    Config(String),
    /// There is no such address, or it is in use.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A name cannot be part of a key.
    #[error("the name {0:?} cannot be part of a key: leave out /, *, $, ? and #, and do not leave it empty")]
    Name(String),
    /// Zenoh says no.
    #[error("Zenoh: {0}")]
    Zenoh(#[from] zenoh::Error),
}

/// The sessions of a node.
///
/// The first is the node's own: it listens, and is what other nodes talk to. Further ones carry a part of what this node
/// publishes and asks over connections of their own; they do not listen. Each connects to the peers and to the first one,
/// from which it learns of others by gossip; without gossip it reaches only those. Where the first is a router, they are its
/// clients. All of the Raft transport goes through the first, as order is kept within a session only.
pub struct Sessions {
    sessions: Vec<Session>,
    endpoints: Vec<String>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("count", &self.sessions.len())
            .field("endpoints", &self.endpoints)
            .finish()
    }
}

/// The sessions as a part of the node. A trait, so that whatever holds the node does not have the compiler look through all
/// of Zenoh for every task that it is sent to.
pub(crate) trait Opened: Send + Sync {
    /// The sessions.
    fn get(&self) -> &Sessions;
}

impl Opened for Sessions {
    fn get(&self) -> &Sessions {
        self
    }
}

impl Sessions {
    /// Opens them. A peer or router starts even where nobody it is to connect to is there; a client needs one of them.
    pub async fn open(options: &ZenohOptions) -> Result<Self, ZenohError> {
        let mut config = base(options)?;
        let mode = mode(&config);
        // Kept until Zenoh listens there, so that no other process is given the port.
        let mut reserved = None;
        if options.port.is_some() || options.host.is_some() || (options.config.is_none() && mode != "client")
        {
            let (endpoint, socket) = reserve(options)?;
            set(&mut config, "listen/endpoints", &json(&[endpoint]))?;
            reserved = socket;
        }
        let first = zenoh::open(config.clone()).await?;
        drop(reserved);
        let endpoints = strings(&config, "listen/endpoints", &mode);
        let mut opened = Self { sessions: vec![first], endpoints };
        for _ in 1..options.sessions.clamp(1, MAX_SESSIONS) {
            let config = opened.further(&config, &mode)?;
            opened.sessions.push(zenoh::open(config).await?);
        }
        Ok(opened)
    }

    /// The configuration of a session beside the first.
    fn further(&self, first: &Config, mode: &str) -> Result<Config, ZenohError> {
        let mut config = first.clone();
        // A session's identity is its own.
        let _ = config.remove("id");
        let own = self.endpoints.iter().map(|endpoint| connectable(endpoint));
        let mut connect = strings(first, "connect/endpoints", mode);
        match mode {
            "router" => {
                set(&mut config, "mode", "\"client\"")?;
                connect = own.collect();
            }
            _ => connect.extend(own),
        }
        set(&mut config, "listen/endpoints", "[]")?;
        set(&mut config, "connect/endpoints", &json(&connect))?;
        Ok(config)
    }

    /// The session that listens, and that others talk to.
    pub fn first(&self) -> &Session {
        &self.sessions[0]
    }

    /// One of the sessions: the same for the same number, and each for as many numbers.
    pub fn session(&self, number: usize) -> &Session {
        &self.sessions[number % self.sessions.len()]
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Where the first one listens, with the port that was found where any would do.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Closes all of them.
    pub async fn close(&self) {
        for session in &self.sessions {
            if let Err(error) = session.close().await {
                tracing::warn!(%error, "a Zenoh session could not be closed");
            }
        }
    }
}

/// All but where to listen.
fn base(options: &ZenohOptions) -> Result<Config, ZenohError> {
    let invalid = |error: zenoh::Error| ZenohError::Config(error.to_string());
    let mut config = match options.config.as_deref().map(str::trim) {
        Some(text) if text.starts_with('{') => Config::from_json5(text).map_err(invalid)?,
        Some(path) if !path.is_empty() => Config::from_file(Path::new(path)).map_err(invalid)?,
        _ => Config::default(),
    };
    if let Some(mode) = options.mode {
        set(&mut config, "mode", mode.json())?;
    }
    let client = mode(&config) == "client";
    set(&mut config, "scouting/multicast/enabled", if options.multicast { "true" } else { "false" })?;
    set(&mut config, "transport/shared_memory/enabled", "false")?;
    set(&mut config, "adminspace/enabled", if options.adminspace { "true" } else { "false" })?;
    set(
        &mut config,
        "connect/timeout_ms",
        &if client { millis(CLIENT_CONNECT_WITHIN) } else { "-1".to_owned() },
    )?;
    set(&mut config, "connect/exit_on_failure", if client { "true" } else { "false" })?;
    set(&mut config, "connect/retry", &retry())?;
    set(&mut config, "transport/link/tx/queue/size", &queues())?;
    if !options.peers.is_empty() {
        set(&mut config, "connect/endpoints", &json(&options.peers))?;
    }
    set_some(&mut config, "scouting/gossip/enabled", options.gossip)?;
    set_some(&mut config, "scouting/gossip/multihop", options.gossip_multihop)?;
    set_some(&mut config, "transport/unicast/max_sessions", options.max_sessions)?;
    set_some(&mut config, "transport/unicast/max_links", options.max_links)?;
    set_some(&mut config, "transport/link/rx/buffer_size", options.buffer_bytes)?;
    set_some(&mut config, "queries_default_timeout", options.query_timeout.map(millis))?;
    if options.linkstate {
        tracing::warn!("Zenoh 1.10 routes by link state between routers only: use its router mode");
    }
    Ok(config)
}

fn queues() -> String {
    let names = [
        "control",
        "real_time",
        "interactive_high",
        "interactive_low",
        "data_high",
        "data",
        "data_low",
        "background",
    ];
    let sizes: Vec<String> = names.iter().map(|name| format!("{name}: {TX_BATCHES}")).collect();
    format!("{{ {} }}", sizes.join(", "))
}

fn retry() -> String {
    let (first, longest) = (millis(RETRY.0), millis(RETRY.1));
    format!("{{ period_init_ms: {first}, period_max_ms: {longest}, period_increase_factor: 2 }}")
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

fn set(config: &mut Config, key: &str, value: &str) -> Result<(), ZenohError> {
    config.insert_json5(key, value).map_err(|error| ZenohError::Config(format!("{key} = {value}: {error}")))
}

fn set_some(config: &mut Config, key: &str, value: Option<impl ToString>) -> Result<(), ZenohError> {
    value.map_or(Ok(()), |value| set(config, key, &value.to_string()))
}

fn json(strings: &[String]) -> String {
    serde_json::Value::from(strings).to_string()
}

fn mode(config: &Config) -> String {
    let mode = config.get_json("mode").unwrap_or_default();
    let mode = mode.trim_matches('"');
    if mode.is_empty() || mode == "null" { "peer".to_owned() } else { mode.to_owned() }
}

/// The endpoints under a key: a list, or a list for each mode.
fn strings(config: &Config, key: &str, mode: &str) -> Vec<String> {
    let value = config.get_json(key).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&value).unwrap_or_default();
    let list = if value.is_array() { &value } else { &value[mode] };
    list.as_array().into_iter().flatten().filter_map(|one| one.as_str()).map(str::to_owned).collect()
}

/// The endpoint to listen on, and where any port will do a socket that keeps the one which was found.
///
/// Zenoh does not say which port it was given. Two sockets may be bound to the same one as long as neither listens and both
/// allow it, as Zenoh's do.
fn reserve(options: &ZenohOptions) -> Result<(String, Option<TcpSocket>), ZenohError> {
    let protocol = options.protocol.as_deref().unwrap_or("tcp");
    let host = options.host.as_deref().map_or_else(any_host, |host| {
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
    });
    let port = options.port.unwrap_or(0);
    let address = format!("{host}:{port}");
    let parsed: Option<SocketAddr> = address.parse().ok();
    // A host's name, or another protocol: Zenoh is left to find a port, if any, and it is not known which.
    let (Some(parsed), 0, "tcp") = (parsed, port, protocol) else {
        return Ok((format!("{protocol}/{address}"), None));
    };
    let bound = || {
        let socket = if parsed.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(parsed)?;
        let port = socket.local_addr()?.port();
        Ok((format!("{protocol}/{host}:{port}"), Some(socket)))
    };
    bound().map_err(|error| ZenohError::Listen { address, error })
}

/// All addresses, of both families where the machine has both.
fn any_host() -> String {
    let bound = TcpSocket::new_v6().and_then(|socket| socket.bind((Ipv6Addr::UNSPECIFIED, 0).into()));
    if bound.is_ok() { "[::]".to_owned() } else { "0.0.0.0".to_owned() }
}

/// The endpoint at which a session of the same machine reaches one that listens on all addresses.
fn connectable(endpoint: &str) -> String {
    endpoint.replace("/[::]:", "/[::1]:").replace("/0.0.0.0:", "/127.0.0.1:")
}

impl ZenohMode {
    const fn json(self) -> &'static str {
        match self {
            Self::Peer => "\"peer\"",
            Self::Client => "\"client\"",
            Self::Router => "\"router\"",
        }
    }
}
