//! Functions to call, and somebody who calls them.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body::Target;
use odgm_proto::oprc::oprc_function_server::{OprcFunction, OprcFunctionServer};
use odgm_proto::oprc::{
    CreateCollectionRequest, FuncInvokeRoute, InvocationRequest, InvocationResponse, InvocationRoute,
    ObjectInvocationRequest,
};
use odgm_replication::Definition;
use odgm_triggers::functions::{EndpointState, HealthSettings, Settings};
use odgm_triggers::{Answer, Call, Catalogue, Failure, Functions, Invoker as _, Remote};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::metadata::MetadataMap;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use tonic_health::server::HealthReporter;

/// Longer than anything here takes, so that what never comes is told from what is late.
const FOREVER: Duration = Duration::from_secs(60);

/// A call as a function received it.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) metadata: MetadataMap,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) object: Option<(Option<String>, u64)>,
    pub(crate) payload: Bytes,
}

type Answering = BoxFuture<'static, Result<InvocationResponse, Status>>;
type Behaviour = dyn Fn(Heard) -> Answering + Send + Sync + 'static;

/// A server of functions on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    connections: watch::Sender<Connections>,
    stop: CancellationToken,
    cut: CancellationToken,
    health: HealthReporter,
}

/// How many connections a server has accepted, and how many of them are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) accepted: usize,
    pub(crate) open: usize,
}

/// What a server is to be like, besides its functions.
#[derive(Default)]
pub(crate) struct Manner {
    pub(crate) address: Option<SocketAddr>,
    /// Whether it says how it is.
    pub(crate) has_health: bool,
    pub(crate) connection_age: Option<Duration>,
}

impl Server {
    /// One whose functions do all the same.
    pub(crate) async fn start<F>(behaviour: impl Fn(Heard) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<InvocationResponse, Status>> + Send + 'static,
    {
        Self::with(Manner::default(), behaviour).await
    }

    pub(crate) async fn with<F>(
        manner: Manner,
        behaviour: impl Fn(Heard) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<InvocationResponse, Status>> + Send + 'static,
    {
        let address = manner.address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let address = listener.local_addr().expect("an address");
        let connections = watch::Sender::new(Connections::default());
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let (health, health_service) = tonic_health::server::health_reporter();
        let behaviour: Arc<Behaviour> = Arc::new(move |heard| behaviour(heard).boxed());
        let (counted, token) = (connections.clone(), cut.clone());
        let incoming = TcpListenerStream::new(listener)
            .map(move |stream| stream.map(|stream| Counted::new(stream, &counted, &token)));
        let mut server = tonic::transport::Server::builder();
        if let Some(age) = manner.connection_age {
            server = server.max_connection_age(age);
        }
        let router = server
            .add_service(OprcFunctionServer::new(Function(behaviour)))
            .add_optional_service(manner.has_health.then_some(health_service));
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(async move {
            router.serve_with_incoming_shutdown(incoming, stopped).await.expect("served");
        });
        Self { address, connections, stop, cut, health }
    }

    pub(crate) fn connections(&self) -> Connections {
        *self.connections.borrow()
    }

    /// Waits until there are as many connections as expected.
    pub(crate) async fn when(&self, expected: impl FnMut(&Connections) -> bool) {
        let mut connections = self.connections.subscribe();
        let reached = tokio::time::timeout(FOREVER, connections.wait_for(expected)).await;
        reached.expect("not for ever").expect("the server keeps count");
    }

    /// Ends without a word: every connection breaks, and nobody listens any more.
    pub(crate) async fn kill(self) {
        self.stop.cancel();
        self.cut.cancel();
        self.when(|connections| connections.open == 0).await;
    }

    /// Says how it is.
    pub(crate) async fn say(&self, status: tonic_health::ServingStatus) {
        self.health.set_service_status("", status).await;
    }
}

struct Function(Arc<Behaviour>);

#[tonic::async_trait]
impl OprcFunction for Function {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let InvocationRequest { options, payload, .. } = message;
        self.0(Heard { metadata, options, object: None, payload }).await.map(Response::new)
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let ObjectInvocationRequest { options, payload, object_id_str, object_id, .. } = message;
        let object = Some((object_id_str, object_id));
        self.0(Heard { metadata, options, object, payload }).await.map(Response::new)
    }
}

/// A connection that is counted, and can be cut.
struct Counted {
    stream: TcpStream,
    connections: watch::Sender<Connections>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Counted {
    fn new(stream: TcpStream, connections: &watch::Sender<Connections>, cut: &CancellationToken) -> Self {
        connections.send_modify(|connections| {
            connections.accepted += 1;
            connections.open += 1;
        });
        Self { stream, connections: connections.clone(), cut: Box::pin(cut.clone().cancelled_owned()) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.send_modify(|connections| connections.open -= 1);
    }
}

impl Connected for Counted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A function that answers with what it was given.
pub(crate) async fn echo(heard: Heard) -> Result<InvocationResponse, Status> {
    Ok(InvocationResponse { payload: Some(heard.payload), ..InvocationResponse::default() })
}

/// A function that does not answer before it is told to, and tells of each call that it begins.
pub(crate) struct Gate {
    begun: mpsc::UnboundedReceiver<()>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new() -> (Self, impl Fn(Heard) -> Answering + Clone) {
        let (begin, begun) = mpsc::unbounded_channel();
        let (open, opened) = watch::channel(false);
        let behaviour = move |heard| {
            let (begin, mut opened) = (begin.clone(), opened.clone());
            async move {
                let _unheard = begin.send(());
                opened.wait_for(|open| *open).await.map(drop).expect("the gate is there");
                echo(heard).await
            }
            .boxed()
        };
        (Self { begun, open }, behaviour)
    }

    /// Waits until so many more calls have begun.
    pub(crate) async fn begun(&mut self, calls: usize) {
        for _ in 0..calls {
            let begun = tokio::time::timeout(FOREVER, self.begun.recv()).await;
            begun.expect("not for ever").expect("the function is there");
        }
    }

    /// Lets all calls end.
    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }
}

/// Classes as they were defined: as the node knows them, and as they are; none if nobody can say that now.
pub(crate) struct Classes {
    pub(crate) known: BTreeMap<String, Definition>,
    pub(crate) confirmed: Option<BTreeMap<String, Definition>>,
}

impl Catalogue for Classes {
    fn look_up(&self, class: &str, see: &mut dyn FnMut(Option<&Definition>)) {
        see(self.known.get(class));
    }

    fn confirm<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<Arc<Definition>>, String>> {
        let confirmed = self.confirmed.as_ref().map(|all| all.get(class).cloned().map(Arc::new));
        async move { confirmed.ok_or_else(|| "nobody leads the catalogue".to_owned()) }.boxed()
    }
}

/// One class `c` with a function `f` of that route, and options.
pub(crate) fn class(route: FuncInvokeRoute, options: &[(&str, &str)]) -> Arc<Classes> {
    let wire = CreateCollectionRequest {
        name: "c".into(),
        options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        invocations: Some(InvocationRoute {
            fn_routes: [("f".to_owned(), route.clone()), ("off".to_owned(), route)].into(),
            disabled_fn: vec!["off".into()],
        }),
        ..CreateCollectionRequest::default()
    };
    let known = BTreeMap::from([("c".to_owned(), Definition::from_wire(wire).expect("valid"))]);
    Arc::new(Classes { confirmed: Some(known.clone()), known })
}

pub(crate) fn route(addresses: &[SocketAddr]) -> FuncInvokeRoute {
    let urls: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    FuncInvokeRoute { url: urls.join(","), ..FuncInvokeRoute::default() }
}

/// Settings under which nothing happens by itself within a test: each test shortens what it is about.
pub(crate) fn settings() -> Settings {
    Settings {
        connect_timeout: FOREVER,
        forgotten_after: FOREVER,
        health: HealthSettings { interval: FOREVER, first_pause: Duration::from_millis(1), timeout: FOREVER },
        ..Settings::default()
    }
}

/// Functions at those servers.
pub(crate) fn functions(servers: &[&Server], options: &[(&str, &str)], settings: Settings) -> Arc<Functions> {
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    Functions::new(class(route(&addresses), options), None, settings)
}

pub(crate) fn call(payload: &str) -> Call {
    let target = Target { class: "c".into(), function: "f".into(), ..Target::default() };
    Call {
        key: String::new(),
        target,
        payload: payload.to_owned().into(),
        depth: 0,
        cause: None,
        traceparent: None,
        timeout: FOREVER,
        is_given_its_time: false,
    }
}

/// Calls in the background.
pub(crate) fn begin(
    functions: &Arc<Functions>,
    call: Call,
) -> tokio::task::JoinHandle<Result<Answer, Failure>> {
    let functions = Arc::clone(functions);
    tokio::spawn(async move { functions.invoke(&call).await })
}

/// The only endpoint.
pub(crate) fn endpoint(functions: &Functions) -> EndpointState {
    let [endpoint] = functions.endpoints().try_into().expect("one endpoint");
    endpoint
}

/// Waits until something holds that changes without a word.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let reached = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FOREVER, reached).await.expect("not for ever");
}

/// Zenoh, as far as functions are concerned.
#[derive(Default)]
pub(crate) struct Elsewhere {
    pub(crate) alive: Vec<u64>,
}

impl Remote for Elsewhere {
    fn call(&self, call: &Call, stateless: bool) -> BoxFuture<'_, Result<Answer, Failure>> {
        let headers = [("stateless".to_owned(), stateless.to_string())].into();
        let payload = call.payload.clone();
        async move {
            if payload == "hang" {
                std::future::pending::<()>().await;
            }
            Ok(Answer { payload, headers, ..Answer::default() })
        }
        .boxed()
    }

    fn is_alive(&self, shard: u64) -> bool {
        self.alive.contains(&shard)
    }
}
