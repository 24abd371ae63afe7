//! Muxes over real sockets.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::sessions::{Sessions, ZenohOptions};
use crate::transport::mux::Dropped;
use crate::transport::tcp::{self, Addresses, TcpCarrier};
use crate::transport::zenoh::{ZenohAddresses, ZenohCarrier};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Zenoh,
    Tcp,
}

/// Where nodes listen for TCP, filled in by hand.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<HashMap<NodeId, String>>>);

impl Addresses for Book {
    fn address(&self, node: NodeId) -> BoxFuture<'_, Option<String>> {
        Box::pin(ready(self.0.lock().get(&node).cloned()))
    }

    fn forget(&self, _: NodeId) {}
}

struct Node {
    mux: Mux,
    echo: Arc<Echo>,
    endpoint: String,
    sessions: Option<Sessions>,
}

impl Node {
    async fn start(kind: Kind, me: Identity, at: u16, book: &Book) -> Self {
        match kind {
            Kind::Zenoh => Self::over_zenoh(me, at, book).await,
            Kind::Tcp => Self::over_tcp(me, at, book).await,
        }
    }

    async fn over_zenoh(me: Identity, at: u16, book: &Book) -> Self {
        let others = |book: &HashMap<NodeId, String>| {
            book.iter().filter(|(node, _)| **node != me.node).map(|(_, at)| at.clone()).collect()
        };
        let peers = others(&book.0.lock());
        let sessions = open(at, peers).await;
        let carrier = Arc::new(ZenohCarrier::new(sessions.first(), "test").expect("a carrier"));
        let (mux, echo) = serve(me, carrier.clone());
        carrier.listen(me.node, &mux.inbound()).await.expect("subscribed");
        let endpoint = sessions.endpoints()[0].clone();
        book.0.lock().insert(me.node, endpoint.clone());
        Self { mux, echo, endpoint, sessions: Some(sessions) }
    }

    async fn over_tcp(me: Identity, at: u16, book: &Book) -> Self {
        let listener = listener(at).await;
        let endpoint = listener.local_addr().expect("an address").to_string();
        book.0.lock().insert(me.node, endpoint.clone());
        let carrier = Arc::new(TcpCarrier::new(Arc::new(book.clone())));
        let (mux, echo) = serve(me, carrier.clone());
        carrier.listen(listener, mux.inbound());
        Self { mux, echo, endpoint, sessions: None }
    }

    fn port(&self) -> u16 {
        self.endpoint.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    async fn stop(self) {
        drop(self.mux);
        if let Some(sessions) = self.sessions {
            sessions.close().await;
        }
    }
}

fn serve(me: Identity, carrier: Arc<dyn crate::transport::mux::Carrier>) -> (Mux, Arc<Echo>) {
    let (mux, echo) = (Mux::new(me, Arc::new(Members), carrier), Arc::new(Echo::default()));
    mux.serve(echo.clone());
    (mux, echo)
}

/// The task of a node that has just ended may still have the port.
async fn listener(port: u16) -> TcpListener {
    let begun = Instant::now();
    loop {
        match tcp::bind("127.0.0.1", port).await {
            Ok(listener) => return listener,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn open(port: u16, peers: Vec<String>) -> Sessions {
    let host = Some("127.0.0.1".to_owned());
    let options = ZenohOptions { host, port: Some(port), peers, ..ZenohOptions::default() };
    Sessions::open(&options).await.expect("a session")
}

async fn calls_are_answered(kind: Kind) {
    let book = Book::default();
    let one = Node::start(kind, identity(ONE), 0, &book).await;
    let two = Node::start(kind, identity(TWO), 0, &book).await;
    call_until_answered(&one.mux, TWO).await;
    call_until_answered(&two.mux, ONE).await;
    ask_in_order(&one.mux, &two.echo, TWO).await;
    // Larger than a frame usually is, and than any buffer on the way.
    let large = Bytes::from(vec![7; 3 << 20]);
    let calls = [Class::Bulk, Class::Log].map(|class| one.mux.call(call(TWO, class, large.clone())));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.expect("an answer"), large);
    }
    one.stop().await;
    two.stop().await;
}

async fn a_node_goes_and_comes_back(kind: Kind) {
    let book = Book::default();
    let one = Node::start(kind, identity(ONE), 0, &book).await;
    let two = Node::start(kind, identity(TWO), 0, &book).await;
    call_until_answered(&one.mux, TWO).await;
    let port = two.port();
    two.stop().await;
    for to in [TWO, NodeId(9)] {
        let begun = Instant::now();
        let mut asked = call(to, Class::Urgent, "there?");
        asked.within = Duration::from_secs(1);
        let failed = one.mux.call(asked).await;
        assert!(
            matches!(failed, Err(CallError::Unreachable { .. } | CallError::Timeout { .. })),
            "{failed:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{failed:?} after {:?}", begun.elapsed());
    }
    let two = Node::start(kind, identity(TWO), port, &book).await;
    assert_eq!(two.port(), port);
    call_until_answered(&one.mux, TWO).await;
    call_until_answered(&two.mux, ONE).await;
    ask_in_order(&one.mux, &two.echo, TWO).await;
    // And another one on the same port, whose data directory is a new one.
    two.stop().await;
    let stranger = Identity { incarnation: 1, ..identity(TWO) };
    let two = Node::start(kind, stranger, port, &book).await;
    let begun = Instant::now();
    loop {
        let mut asked = call(ONE, Class::Log, "there?");
        asked.within = Duration::from_millis(500);
        match two.mux.call(asked).await {
            Err(CallError::Refused { node: ONE, reason }) => break assert!(reason.contains("incarnation")),
            other => assert!(begun.elapsed() < PATIENCE, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(one.mux.counters().dropped(Dropped::Admission) > 0);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_over_tcp() {
    calls_are_answered(Kind::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_over_zenoh() {
    calls_are_answered(Kind::Zenoh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_and_comes_back_over_tcp() {
    a_node_goes_and_comes_back(Kind::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_and_comes_back_over_zenoh() {
    a_node_goes_and_comes_back(Kind::Zenoh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_accepts_and_closes_at_once_is_not_tried_without_rest() {
    const CALLS: usize = 100;
    let (book, accepted) = (Book::default(), Arc::new(AtomicUsize::new(0)));
    let one = Node::start(Kind::Tcp, identity(ONE), 0, &book).await;
    let closing = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    book.0.lock().insert(TWO, closing.local_addr().expect("an address").to_string());
    let counted = Arc::clone(&accepted);
    let closer = tokio::spawn(async move {
        while closing.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..CALLS {
        let within = Duration::from_millis(5);
        let failed = one.mux.call(Call { within, ..call(TWO, Class::Log, "there?") }).await;
        assert!(failed.is_err(), "{failed:?}");
    }
    let tried = accepted.load(Ordering::Relaxed);
    assert!(tried > 0 && 4 * tried < CALLS, "{tried} connections for {CALLS} calls");
    closer.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_no_nodes_is_closed() {
    let one = Node::start(Kind::Tcp, identity(ONE), 0, &Book::default()).await;
    // Read as a length this is over a gigabyte.
    let mut stranger = TcpStream::connect(&one.endpoint).await.expect("a connection");
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let mut nothing = [0];
    let closed = stranger.try_io_read(&mut nothing).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    assert_eq!(one.mux.counters().dropped(Dropped::Unreadable), 1);
    // A frame of garbage does no harm to what follows.
    let mut stranger = TcpStream::connect(&one.endpoint).await.expect("a connection");
    for _ in 0..2 {
        stranger.write_all(&[0, 0, 0, 3, 1, 2, 3]).await.expect("written");
    }
    until("both are dropped", || one.mux.counters().dropped(Dropped::Unreadable) == 3).await;
}

trait ReadOnce {
    async fn try_io_read(&mut self, into: &mut [u8]) -> std::io::Result<usize>;
}

impl ReadOnce for TcpStream {
    async fn try_io_read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = tokio::io::AsyncReadExt::read(self, into);
        tokio::time::timeout(PATIENCE, read).await.expect("the other side closes")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_learn_each_others_tcp_addresses_over_zenoh() {
    let first = open(0, Vec::new()).await;
    let second = open(0, first.endpoints().to_vec()).await;
    let own = ZenohAddresses::new(first.first(), "test").expect("addresses");
    let announced = own.announce(ONE, "10.0.0.1:7450".to_owned()).await.expect("announced");
    let other = ZenohAddresses::new(second.first(), "test").expect("addresses");
    let begun = Instant::now();
    let found = loop {
        if let Some(found) = other.address(ONE).await {
            break found;
        }
        assert!(begun.elapsed() < PATIENCE, "no address");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(found, "10.0.0.1:7450");
    assert_eq!(other.address(NodeId(9)).await, None);
    drop(announced);
    // What is known stays known until it turns out to be of no use.
    assert_eq!(other.address(ONE).await, Some(found));
    other.forget(ONE);
    assert_eq!(other.address(ONE).await, None);
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_sessions_reach_whom_the_first_knows() {
    let other = open(0, Vec::new()).await;
    let options = ZenohOptions {
        host: Some("127.0.0.1".to_owned()),
        peers: other.endpoints().to_vec(),
        sessions: 3,
        ..ZenohOptions::default()
    };
    let sessions = Sessions::open(&options).await.expect("sessions");
    assert_eq!((sessions.count(), sessions.endpoints().len()), (3, 1));
    assert_ne!(sessions.endpoints(), other.endpoints());
    let subscriber = other.first().declare_subscriber("test/sessions/*").await.expect("a subscriber");
    for number in 0..3 {
        let session = sessions.session(number + 3);
        let publisher =
            session.declare_publisher(format!("test/sessions/{number}")).await.expect("a publisher");
        let begun = Instant::now();
        while !publisher.matching_status().await.expect("a status").matching() {
            assert!(begun.elapsed() < PATIENCE, "session {number} reaches nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        publisher.put("here").await.expect("put");
        let arrived = tokio::time::timeout(PATIENCE, subscriber.recv_async()).await;
        let key = arrived.expect("in time").expect("a sample").key_expr().to_string();
        assert_eq!(key, format!("test/sessions/{number}"));
    }
    sessions.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_says_why() {
    let broken = ZenohOptions { config: Some("{ mode: ".to_owned()), ..ZenohOptions::default() };
    let error = Sessions::open(&broken).await.expect_err("not JSON5").to_string();
    assert!(error.starts_with("Zenoh's configuration: "), "{error}");
    let options = ZenohOptions { host: Some("192.0.2.1".to_owned()), ..ZenohOptions::default() };
    let error = Sessions::open(&options).await.expect_err("not an address of this machine").to_string();
    assert!(error.starts_with("cannot listen on 192.0.2.1:0: "), "{error}");
    let own = open(0, Vec::new()).await;
    assert!(ZenohCarrier::new(own.first(), "a/b").is_err());
    own.close().await;
    // What is given beside a configuration overrides it.
    let config = r#"{ mode: "router", listen: { endpoints: ["tcp/127.0.0.1:0"] }, scouting: { gossip: { enabled: false } } }"#;
    let options = ZenohOptions {
        config: Some(config.to_owned()),
        host: Some("127.0.0.1".to_owned()),
        gossip: Some(true),
        sessions: 2,
        ..ZenohOptions::default()
    };
    let router = Sessions::open(&options).await.expect("a router and its client");
    assert!(!router.endpoints()[0].ends_with(":0"), "{:?}", router.endpoints());
    router.close().await;
}
