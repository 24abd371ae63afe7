//! The settings by which nodes find each other and speak Zenoh.

use std::time::Duration;

use odgm_replication::Wire;
use odgm_replication::sessions::ZenohMode;

use super::Config;
use super::parse::{self, Expected};
use super::table::{Effect, Setting, boolean, checked, now};

/// Partitions that all replicas write to.
const MST: Effect = Effect::With("mst collections");

/// What a node that speaks Zenoh serves over it besides objects.
#[derive(Clone, Copy, Debug, Default)]
pub struct ZenohRoutes {
    /// Whether it answers what a replica can do.
    pub capabilities: bool,
    /// Whether it publishes what happens to objects.
    pub events: bool,
    /// To whom.
    pub locality: EventLocality,
}

/// Who gets the events of objects over Zenoh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventLocality {
    /// Subscribers in the node's own session.
    SessionLocal,
    /// All others.
    #[default]
    Remote,
    /// Both.
    Any,
}

/// In the order in which they are read and listed.
pub(super) const SETTINGS: &[Setting] = &[
    now("ODGM_MEMBERS", "", "numbers or names of the nodes that found a cluster, by commas", |c, v| {
        c.cluster.members = parse::nodes(v)?;
        Ok(())
    }),
    now("ODGM_CLUSTER", "odgm", "name of the cluster; others on the same network have others", |c, v| {
        c.cluster.name = parse::cluster_name(v)?;
        Ok(())
    }),
    now(
        "ODGM_NODE_ADDR",
        "",
        "host:port at which clients reach this node; unset: where it listens",
        |c, v| {
            parse::host_and_port(v)?;
            c.store.address = Some(v.to_owned());
            Ok(())
        },
    ),
    now("ODGM_FORWARD", "true", "pass requests on to the leader of a partition", |c, v| {
        c.cluster.forward = parse::boolean(v)?;
        Ok(())
    }),
    now("ODGM_TRANSPORT", "zenoh", "what messages between nodes go over: zenoh or tcp", |c, v| {
        c.cluster.wire = wire(v)?;
        Ok(())
    }),
    now("ODGM_TCP_LISTEN", "0.0.0.0:0", "transport tcp: host:port to listen on; 0: any free one", |c, v| {
        parse::host_and_port(v)?;
        v.clone_into(&mut c.cluster.listen);
        Ok(())
    }),
    now(
        "ODGM_TCP_PEERS",
        "",
        "transport tcp: NODE=host:port of nodes not to be found over Zenoh, by commas",
        |c, v| {
            c.cluster.addresses = parse::addresses(v)?;
            Ok(())
        },
    ),
    now("ODGM_HEARTBEAT_MS", "200", "how often a leader that has nothing to say is heard, ms", |c, v| {
        c.cluster.timing.heartbeat = millis_within(v, 10..=60_000)?;
        Ok(())
    }),
    now("ODGM_ELECTION_MIN_MS", "450", "shortest wait for a leader before a vote, ms", |c, v| {
        c.cluster.timing.election.0 = millis_within(v, 20..=600_000)?;
        Ok(())
    }),
    now("ODGM_ELECTION_MAX_MS", "650", "longest such wait, and the leader's lease, ms", |c, v| {
        c.cluster.timing.election.1 = millis_within(v, 30..=600_000)?;
        Ok(())
    }),
    now(
        "ODGM_CLOCK_DRIFT_MS",
        "5000",
        "how far the clock of a node that leads may be from most others, ms",
        |c, v| {
            c.cluster.clock_drift = millis_within(v, 100..=86_400_000)?;
            Ok(())
        },
    ),
    now("ODGM_COMPARE_MS", "10000", "how often the replicas of a partition are compared, ms", |c, v| {
        c.cluster.timing.comparison = millis_within(v, 100..=86_400_000)?;
        Ok(())
    }),
    // Zenoh.
    now("ODGM_MAX_SESSIONS", "1", "Zenoh sessions", |c, v| {
        c.zenoh.sessions = parse::number(v, 1..=odgm_replication::sessions::MAX_SESSIONS)?;
        Ok(())
    }),
    now("ODGM_ZENOH_HOST", "", "IP address Zenoh listens on; unset: all", |c, v| {
        c.zenoh.host = Some(v.to_owned());
        Ok(())
    }),
    speaking("OPRC_ZENOH_MODE", "", "peer, client or router; unset: peer", |c, v| {
        c.zenoh.mode = Some(mode(v)?);
        Ok(())
    }),
    speaking("OPRC_ZENOH_PORT", "", "port Zenoh listens on; unset or 0: any free one", |c, v| {
        c.zenoh.port = Some(parse::number(v, 0..=u16::MAX)?);
        Ok(())
    }),
    now("OPRC_ZENOH_PROTOCOL", "", "protocol Zenoh listens with; unset: tcp", |c, v| {
        c.zenoh.protocol = Some(v.to_owned());
        Ok(())
    }),
    speaking("OPRC_ZENOH_PEERS", "", "Zenoh endpoints to connect to, by commas", |c, v| {
        c.zenoh.peers = v.split(',').map(|peer| peer.trim().to_owned()).collect();
        Ok(())
    }),
    now("OPRC_ZENOH_GOSSIP_ENABLED", "", "find Zenoh peers by gossip", |c, v| {
        c.zenoh.gossip = Some(parse::boolean(v)?);
        Ok(())
    }),
    now("OPRC_ZENOH_GOSSIP_MULTIHOP", "", "pass gossip on over several hops", |c, v| {
        c.zenoh.gossip_multihop = Some(parse::boolean(v)?);
        Ok(())
    }),
    now("OPRC_ZENOH_LINKSTATE", "false", "route between Zenoh peers by link state", |c, v| {
        c.zenoh.linkstate = parse::boolean(v)?;
        Ok(())
    }),
    now("OPRC_ZENOH_MAX_SESSIONS", "", "incoming Zenoh sessions; unset: as Zenoh has it", |c, v| {
        c.zenoh.max_sessions = Some(parse::number(v, 1..=1_000_000)?);
        Ok(())
    }),
    now(
        "OPRC_ZENOH_MAX_LINKS",
        "",
        "links of one Zenoh session; unset: 1, which keeps messages in order",
        |c, v| {
            c.zenoh.max_links = Some(parse::number(v, 1..=1_000)?);
            Ok(())
        },
    ),
    now("OPRC_ZENOH_BUFFER_SIZE", "", "receive buffer of a Zenoh link, bytes", |c, v| {
        c.zenoh.buffer_bytes = Some(parse::bytes(v, 1024..=1 << 30)?);
        Ok(())
    }),
    now("OPRC_ZENOH_DEFAULT_TIMEOUT", "", "timeout of Zenoh queries, ms", |c, v| {
        c.zenoh.query_timeout = Some(parse::millis(v)?);
        Ok(())
    }),
    now("OPRC_ZENOH_SCOUTING_MULTICAST_ENABLED", "false", "find Zenoh peers by multicast", |c, v| {
        c.zenoh.multicast = parse::boolean(v)?;
        Ok(())
    }),
    now("OPRC_ZENOH_ADMINSPACE_ENABLED", "false", "serve Zenoh's admin space", |c, v| {
        c.zenoh.adminspace = parse::boolean(v)?;
        Ok(())
    }),
    speaking("OPRC_ZENOH_CONFIG", "", "Zenoh configuration as json5, or the path of a file of it", |c, v| {
        c.zenoh.config = Some(v.to_owned());
        Ok(())
    }),
    checked(
        "OPRC_ZENOH_SHARE_SESSION",
        "",
        "one Zenoh session for the whole process",
        Effect::None("a node has its own sessions"),
        boolean,
    ),
    now("ODGM_CAPS_QUERYABLE_ENABLED", "true", "answer Zenoh queries for capabilities", |c, v| {
        c.routes.capabilities = parse::boolean(v)?;
        Ok(())
    }),
    now("ODGM_ZENOH_EVENT_PUBLISH", "false", "publish changes of objects over Zenoh", |c, v| {
        c.routes.events = parse::boolean(v)?;
        Ok(())
    }),
    now(
        "ODGM_ZENOH_EVENT_LOCALITY",
        "remote",
        "who gets those changes: session_local, remote or any",
        |c, v| {
            c.routes.locality = locality(v)?;
            Ok(())
        },
    ),
    checked(
        "ODGM_MST_SYNC_EVENTS",
        "false",
        "publish changes that came from other replicas, too",
        MST,
        boolean,
    ),
];

/// A setting that makes the node speak Zenoh when it is given.
const fn speaking(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Config, &str) -> Result<(), Expected>,
) -> Setting {
    Setting { begins_zenoh: true, ..now(name, default, meaning, read) }
}

fn millis_within(value: &str, range: std::ops::RangeInclusive<u64>) -> Result<Duration, Expected> {
    parse::number(value, range).map(Duration::from_millis)
}

fn wire(value: &str) -> Result<Wire, Expected> {
    match value {
        "zenoh" => Ok(Wire::Zenoh),
        "tcp" => Ok(Wire::Tcp),
        _ => Err("zenoh or tcp".into()),
    }
}

fn mode(value: &str) -> Result<ZenohMode, Expected> {
    match value {
        "peer" => Ok(ZenohMode::Peer),
        "client" => Ok(ZenohMode::Client),
        "router" => Ok(ZenohMode::Router),
        _ => Err("peer, client or router".into()),
    }
}

fn locality(value: &str) -> Result<EventLocality, Expected> {
    match value {
        "session_local" => Ok(EventLocality::SessionLocal),
        "remote" => Ok(EventLocality::Remote),
        "any" => Ok(EventLocality::Any),
        _ => Err("session_local, remote or any".into()),
    }
}
