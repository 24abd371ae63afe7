//! A network between nodes on one machine that can be disturbed: a TCP proxy for each ordered pair of them.
//!
//! A node that connects to another does so through their proxy. Both connect to each other, and over either connection
//! bytes go both ways; so what happens to bytes depends on who sends them to whom, not on who has connected.
//!
//! Bytes that are stalled are kept and go on when the network heals, as those that TCP sends again after a while. What has
//! been cut is closed, and new connections are closed at once.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Sub;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Result;

/// What is read at once; of what is stalled, at most so much has already been taken from the sender.
const READ_BYTES: usize = 16 << 10;

/// What happens to what one node sends to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// It passes.
    #[default]
    Open,
    /// It is held back, and no new connections come about.
    Stalled,
    /// Connections are closed.
    Cut,
}

/// What disturbances have done so far. One that nothing ran into has done nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Harm {
    /// Bytes that were read and held back.
    pub held_bytes: u64,
    /// How often a connection had bytes held back, or had to wait to come about.
    pub held: u64,
    /// Connections that were closed, or were not let come about.
    pub closed: u64,
}

impl Harm {
    /// Whether anything was done.
    pub fn is_any(&self) -> bool {
        self.held + self.closed > 0
    }
}

impl Sub for Harm {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            held_bytes: self.held_bytes - earlier.held_bytes,
            held: self.held - earlier.held,
            closed: self.closed - earlier.closed,
        }
    }
}

/// The proxies between all nodes of a cluster.
#[derive(Debug)]
pub struct Network {
    ways: BTreeMap<(u64, u64), watch::Sender<Way>>,
    entrances: BTreeMap<(u64, u64), Vec<SocketAddr>>,
    counters: Arc<Counters>,
    connections: BTreeMap<(u64, u64), Arc<AtomicU64>>,
    /// Dropping it ends all proxies and their connections.
    proxies: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counters {
    held_bytes: AtomicU64,
    held: AtomicU64,
    closed: AtomicU64,
}

impl Network {
    /// Proxies to the places where each node listens.
    pub(super) async fn open(nodes: &BTreeMap<u64, Vec<SocketAddr>>) -> Result<Self> {
        let pairs = nodes.keys().flat_map(|from| nodes.keys().map(move |to| (*from, *to)));
        let pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        let ways = pairs.iter().map(|pair| (*pair, watch::Sender::new(Way::Open))).collect();
        let mut network = Self {
            ways,
            entrances: BTreeMap::new(),
            counters: Arc::default(),
            connections: BTreeMap::new(),
            proxies: JoinSet::new(),
        };
        for (from, to) in pairs {
            let connections = Arc::clone(network.connections.entry((from, to)).or_default());
            for target in &nodes[&to] {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                network.entrances.entry((from, to)).or_default().push(listener.local_addr()?);
                let proxy = Proxy {
                    target: *target,
                    forth: network.ways[&(from, to)].subscribe(),
                    back: network.ways[&(to, from)].subscribe(),
                    counters: Arc::clone(&network.counters),
                    connections: Arc::clone(&connections),
                };
                network.proxies.spawn(proxy.run(listener));
            }
        }
        Ok(network)
    }

    /// Where one node reaches each of the places where another listens.
    pub(super) fn entrances(&self, from: u64, to: u64) -> &[SocketAddr] {
        self.entrances.get(&(from, to)).map_or(&[], Vec::as_slice)
    }

    /// How many connections that one node has made to another are open.
    pub fn connections(&self, from: u64, to: u64) -> u64 {
        self.connections.get(&(from, to)).map_or(0, |open| open.load(Ordering::Relaxed))
    }

    /// What one node sends to another goes this way from now on.
    pub fn set(&self, from: u64, to: u64, way: Way) {
        if let Some(now) = self.ways.get(&(from, to)) {
            now.send_replace(way);
        }
    }

    /// Nothing passes between two nodes; others talk with both.
    pub fn part(&self, one: u64, other: u64, way: Way) {
        self.set(one, other, way);
        self.set(other, one, way);
    }

    /// Nothing passes between a node and any other.
    pub fn isolate(&self, node: u64, way: Way) {
        self.mute(node, way);
        self.deafen(node, way);
    }

    /// Nobody hears a node, but it hears the others.
    pub fn mute(&self, node: u64, way: Way) {
        self.set_where(way, |from, _| from == node);
    }

    /// A node hears nobody, but the others hear it.
    pub fn deafen(&self, node: u64, way: Way) {
        self.set_where(way, |_, to| to == node);
    }

    /// Everything passes; what was held back goes on.
    pub fn heal(&self) {
        self.set_where(Way::Open, |_, _| true);
    }

    fn set_where(&self, way: Way, chosen: impl Fn(u64, u64) -> bool) {
        for (_, now) in self.ways.iter().filter(|((from, to), _)| chosen(*from, *to)) {
            now.send_replace(way);
        }
    }

    /// What has been done so far.
    pub fn harm(&self) -> Harm {
        let Counters { held_bytes, held, closed } = &*self.counters;
        Harm {
            held_bytes: held_bytes.load(Ordering::Relaxed),
            held: held.load(Ordering::Relaxed),
            closed: closed.load(Ordering::Relaxed),
        }
    }
}

/// Takes connections of one node to one place of another.
#[derive(Clone)]
struct Proxy {
    target: SocketAddr,
    /// Of what the node sends that has connected.
    forth: watch::Receiver<Way>,
    /// Of what it is sent.
    back: watch::Receiver<Way>,
    counters: Arc<Counters>,
    /// Those that are open.
    connections: Arc<AtomicU64>,
}

/// A connection that is counted as long as it is open.
struct Counted(Arc<AtomicU64>);

impl Counted {
    fn new(open: &Arc<AtomicU64>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proxy {
    async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(self.clone().connection(stream));
                    }
                }
                // Those that have ended are forgotten.
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One connection, until either side or a cut ends it.
    async fn connection(mut self, near: TcpStream) {
        let (forth, back, counters) = (self.forth.clone(), self.back.clone(), Arc::clone(&self.counters));
        let cut = async {
            is_cut(forth, back).await;
            // Counted before either side notices.
            counters.closed.fetch_add(1, Ordering::Relaxed);
        };
        tokio::select! {
            // So that one which comes while everything is cut does not get anywhere.
            biased;
            () = cut => {}
            // Whatever ends it, both sides see it end.
            _ = self.carry(near) => {}
        }
    }

    async fn carry(&mut self, near: TcpStream) -> io::Result<()> {
        // Neither the first packet nor its answer gets through.
        for way in [&mut self.forth, &mut self.back] {
            if *way.borrow() == Way::Stalled {
                self.counters.held.fetch_add(1, Ordering::Relaxed);
                passable(way).await?;
            }
        }
        let far = TcpStream::connect(self.target).await?;
        let _counted = Counted::new(&self.connections);
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::try_join!(
            pump(near_in, far_out, &mut self.forth, &self.counters),
            pump(far_in, near_out, &mut self.back, &self.counters),
        )?;
        Ok(())
    }
}

/// Carries bytes one way.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: &mut watch::Receiver<Way>,
    counters: &Counters,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if *way.borrow() == Way::Stalled {
            // That a connection was closed does not get through either.
            counters.held_bytes.fetch_add(read as u64, Ordering::Relaxed);
            counters.held.fetch_add(1, Ordering::Relaxed);
            passable(way).await?;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

async fn passable(way: &mut watch::Receiver<Way>) -> io::Result<()> {
    let waited = way.wait_for(|way| *way != Way::Stalled).await;
    waited.map(drop).map_err(|_| io::ErrorKind::NotConnected.into())
}

async fn is_cut(mut forth: watch::Receiver<Way>, mut back: watch::Receiver<Way>) {
    // The result says that the network is gone, and this with it.
    tokio::select! {
        _ = forth.wait_for(|way| *way == Way::Cut) => {}
        _ = back.wait_for(|way| *way == Way::Cut) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Far longer than loopback takes.
    const SOON: Duration = Duration::from_secs(10);

    /// Two nodes, and what each accepts.
    struct Pair {
        network: Network,
        second: TcpListener,
    }

    impl Pair {
        async fn open() -> Self {
            let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let (first, second) = (listen().await.expect("a port"), listen().await.expect("a port"));
            let address = |listener: &TcpListener| vec![listener.local_addr().expect("an address")];
            let nodes = BTreeMap::from([(1, address(&first)), (2, address(&second))]);
            Self { network: Network::open(&nodes).await.expect("ports"), second }
        }

        /// A connection that node 1 has made to node 2, as both see it.
        async fn connect(&self) -> (TcpStream, TcpStream) {
            let near = TcpStream::connect(self.network.entrances(1, 2)[0]).await.expect("it listens");
            let (far, _) = self.second.accept().await.expect("it was connected");
            (near, far)
        }
    }

    async fn arrives(stream: &mut TcpStream, expected: &[u8]) -> bool {
        let mut bytes = vec![0; expected.len()];
        let read = tokio::time::timeout(SOON, stream.read_exact(&mut bytes)).await;
        read.is_ok_and(|read| read.is_ok()) && bytes == expected
    }

    #[tokio::test]
    async fn one_way_is_held_back_while_the_other_passes_and_goes_on_when_healed() {
        let pair = Pair::open().await;
        let (mut near, mut far) = pair.connect().await;
        near.write_all(b"before").await.expect("it is open");
        assert!(arrives(&mut far, b"before").await);
        assert_eq!(pair.network.harm(), Harm::default());

        pair.network.set(1, 2, Way::Stalled);
        near.write_all(b"held").await.expect("it is open");
        far.write_all(b"heard").await.expect("it is open");
        assert!(arrives(&mut near, b"heard").await, "the other direction was stalled too");
        while pair.network.harm().held_bytes < 4 {
            tokio::task::yield_now().await;
        }
        far.try_read(&mut [0; 4]).expect_err("nothing may have come through");

        pair.network.heal();
        assert!(arrives(&mut far, b"held").await, "what was held back was lost");
        assert_eq!(pair.network.harm(), Harm { held_bytes: 4, held: 1, closed: 0 });
    }

    #[tokio::test]
    async fn what_is_cut_ends_and_comes_back_only_when_healed() {
        let pair = Pair::open().await;
        let (mut near, mut far) = pair.connect().await;
        pair.network.isolate(2, Way::Cut);
        for stream in [&mut near, &mut far] {
            let read = tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("it ends");
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        }
        let mut refused = TcpStream::connect(pair.network.entrances(1, 2)[0]).await.expect("it listens");
        assert!(matches!(refused.read(&mut [0]).await, Ok(0) | Err(_)), "it was let through");
        assert_eq!(pair.network.harm(), Harm { held_bytes: 0, held: 0, closed: 2 });
        assert_eq!(pair.network.connections(1, 2), 0);

        pair.network.heal();
        let (mut near, mut far) = pair.connect().await;
        near.write_all(b"again").await.expect("it is open");
        assert!(arrives(&mut far, b"again").await);
        assert_eq!((pair.network.connections(1, 2), pair.network.connections(2, 1)), (1, 0));
    }

    #[tokio::test]
    async fn a_connection_that_is_made_during_a_stall_waits_and_counts() {
        let pair = Pair::open().await;
        pair.network.mute(2, Way::Stalled);
        let mut near = TcpStream::connect(pair.network.entrances(1, 2)[0]).await.expect("it listens");
        near.write_all(b"hello").await.expect("it is open");
        while !pair.network.harm().is_any() {
            tokio::task::yield_now().await;
        }
        pair.network.heal();
        let (mut far, _) = pair.second.accept().await.expect("it was connected");
        assert!(arrives(&mut far, b"hello").await);
    }
}
