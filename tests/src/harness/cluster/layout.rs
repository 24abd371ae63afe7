//! What a cluster is to be like.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::ValueEnum;
use serde::Serialize;

use super::member::Member;
use super::{Cluster, Network};
use crate::Result;
use crate::harness::home::Home;
use crate::harness::ports;

/// Over what the nodes talk about Raft with each other. Everything else goes over Zenoh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Zenoh.
    #[default]
    Zenoh,
    /// Framed TCP connections of their own.
    Tcp,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zenoh => "zenoh",
            Self::Tcp => "tcp",
        })
    }
}

/// A cluster that is to be made.
#[derive(Clone, Debug)]
pub struct Layout {
    size: u64,
    spare: u64,
    wire: Wire,
    collections: Vec<(String, u32)>,
    settings: BTreeMap<String, String>,
    own_settings: Vec<(u64, String, String)>,
    folder: PathBuf,
    own_folders: BTreeMap<u64, PathBuf>,
    program: Option<PathBuf>,
    is_quiet: bool,
}

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
struct Ports {
    http: u16,
    zenoh: u16,
    tcp: u16,
}

impl Layout {
    /// So many nodes with the default settings.
    pub fn of(size: u64) -> Self {
        Self {
            size,
            spare: 0,
            wire: Wire::default(),
            collections: Vec::new(),
            settings: BTreeMap::new(),
            own_settings: Vec::new(),
            folder: std::env::temp_dir(),
            own_folders: BTreeMap::new(),
            program: None,
            is_quiet: false,
        }
    }

    /// So many more nodes, with the next numbers, that are not started and are not of those that found the cluster.
    #[must_use]
    pub fn spare(self, spare: u64) -> Self {
        Self { spare, ..self }
    }

    /// Over what they talk.
    #[must_use]
    pub fn wire(self, wire: Wire) -> Self {
        Self { wire, ..self }
    }

    /// A collection with so many partitions, each with a replica on every node, that they make when they first start.
    #[must_use]
    pub fn collection(mut self, name: &str, partitions: u32) -> Self {
        self.collections.push((name.to_owned(), partitions));
        self
    }

    /// An environment variable of every node.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// An environment variable of one node.
    #[must_use]
    pub fn with_at(mut self, node: u64, name: &str, value: &str) -> Self {
        self.own_settings.push((node, name.to_owned(), value.to_owned()));
        self
    }

    /// Where the data directory of one node is made.
    #[must_use]
    pub fn within_at(mut self, node: u64, folder: PathBuf) -> Self {
        self.own_folders.insert(node, folder);
        self
    }

    /// Where the data directories are made.
    #[must_use]
    pub fn within(self, folder: PathBuf) -> Self {
        Self { folder, ..self }
    }

    /// Runs this binary instead of the one that is found.
    #[must_use]
    pub fn program(self, odgm: Option<PathBuf>) -> Self {
        Self { program: odgm, ..self }
    }

    /// Does not print what the nodes have logged in the end.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { is_quiet: true, ..self }
    }

    /// Makes the cluster, starts all nodes at once but those that are spare, and waits until each is in service.
    ///
    /// # Errors
    /// When one ends instead, or is not in service after a minute; the message has what it said.
    pub async fn start(self) -> Result<Cluster> {
        let founders: Vec<u64> = (1..=self.size).collect();
        let cluster = self.prepare().await?;
        cluster.start(&founders).await?;
        Ok(cluster)
    }

    /// Makes the cluster and starts no node.
    ///
    /// # Errors
    /// When a directory cannot be made, or there are no ports.
    pub async fn prepare(self) -> Result<Cluster> {
        let all = self.size + self.spare;
        let found = ports::find(usize::try_from(3 * all)?)?;
        let ports = found.chunks(3).map(|ports| Ports { http: ports[0], zenoh: ports[1], tcp: ports[2] });
        let ports: BTreeMap<u64, Ports> = (1..=all).zip(ports).collect();
        let listening = ports.iter().map(|(node, ports)| (*node, vec![local(ports.zenoh), local(ports.tcp)]));
        let listening: BTreeMap<u64, Vec<SocketAddr>> = listening.collect();
        let network = Network::open(&listening).await?;
        // No other cluster on this machine takes their messages for its own.
        let name = format!("test-{:016x}", RandomState::new().hash_one(&self.folder));
        let members = ports.iter().map(|(node, ports)| {
            let home = self.home(*node, &name, *ports, &network)?;
            Ok::<_, crate::Error>((*node, Member::new(*node, home, local(ports.http))))
        });
        let members = members.collect::<Result<_>>()?;
        Ok(Cluster { members, network, listening })
    }

    fn home(&self, node: u64, name: &str, ports: Ports, network: &Network) -> Result<Home> {
        let others = (1..=self.size + self.spare).filter(|other| *other != node);
        let ways = others.map(|other| (other, network.entrances(node, other)));
        let listed = |way: &dyn Fn(u64, SocketAddr) -> String, place: usize| {
            let ways = ways.clone().filter_map(|(other, entrances)| Some(way(other, *entrances.get(place)?)));
            ways.collect::<Vec<_>>().join(",")
        };
        let members: Vec<String> = (1..=self.size).map(|node| node.to_string()).collect();
        let mut home = Home::within(self.own_folders.get(&node).unwrap_or(&self.folder))?
            .with("ODGM_NODE_ID", &node.to_string())
            .with("ODGM_MEMBERS", &members.join(","))
            .with("ODGM_CLUSTER", name)
            .with("ODGM_HTTP_PORT", &ports.http.to_string())
            .with("ODGM_ZENOH_HOST", "127.0.0.1")
            .with("OPRC_ZENOH_PORT", &ports.zenoh.to_string())
            .with("OPRC_ZENOH_PEERS", &listed(&|_, address| format!("tcp/{address}"), 0))
            // By gossip they would find ways around the proxies.
            .with("OPRC_ZENOH_GOSSIP_ENABLED", "false")
            .with("ODGM_TRANSPORT", &self.wire.to_string());
        if self.wire == Wire::Tcp {
            home = home
                .with("ODGM_TCP_LISTEN", &local(ports.tcp).to_string())
                .with("ODGM_TCP_PEERS", &listed(&|other, address| format!("{other}={address}"), 1));
        }
        for (name, partitions) in &self.collections {
            home = home.replicated(name, *partitions, self.size);
        }
        for (name, value) in &self.settings {
            home = home.with(name, value);
        }
        for (_, name, value) in self.own_settings.iter().filter(|(of, _, _)| *of == node) {
            home = home.with(name, value);
        }
        if let Some(odgm) = &self.program {
            home = home.program(odgm.clone());
        }
        Ok(if self.is_quiet { home.quiet() } else { home })
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
