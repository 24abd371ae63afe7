//! A server of functions in the story's own process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use odgm_proto::oprc::oprc_function_server::OprcFunctionServer;
use odgm_proto::oprc::{InvocationResponse, ResponseStatus};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

use super::door::{self, Door};
use super::garbling::Garbling;
use crate::Result;
use crate::functions::{Call, Examples, Grid, Invoked, Service};
use crate::harness::{ports, until};

/// What a function does when it is called.
#[derive(Clone, Debug, Default)]
pub enum Answer {
    /// What the example of its name does; see [`crate::functions`].
    #[default]
    Example,
    /// Completes with this text.
    Text(&'static str),
    /// Refuses: `APP_ERROR`, with this text.
    Refusal(&'static str),
    /// Fails with a gRPC status.
    Status(Code),
    /// Never comes.
    Never,
}

/// Where a function is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It was called and has done nothing yet.
    BeforeEffect,
    /// It has done what it does and has not answered.
    BeforeAnswer,
}

/// Functions that a story knows everything about. Dropping it ends them.
#[derive(Debug)]
pub struct Functions {
    address: SocketAddr,
    door: watch::Sender<Door>,
    /// How the door is by now.
    door_is: watch::Receiver<Door>,
    shared: Arc<Shared>,
    /// Dropping it ends the server and what is in front of it.
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    examples: Examples,
    state: watch::Sender<State>,
    /// In the order in which they came.
    calls: Mutex<Vec<Call>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    answers: BTreeMap<String, Answer>,
    held: BTreeMap<String, Gate>,
    /// Calls that have come, that are at a gate, and that were answered.
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    entered: u64,
    waiting: u64,
    answered: u64,
    /// The most that ran at once.
    most: u64,
}

impl Functions {
    /// Starts a server that does what the examples do, for a grid that it is still to be told of.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start() -> Result<Self> {
        let [port] = ports::find(1)?[..] else { return Err("one port was wanted".into()) };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (outside, inside) =
            (TcpListener::bind(address).await?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let target = inside.local_addr()?;
        let (door, (is, door_is)) = (watch::Sender::new(Door::Open), watch::channel(Door::Open));
        let shared = Arc::new(Shared {
            examples: Examples::new(Grid::default()),
            state: watch::Sender::default(),
            calls: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(door::keep(address, target, door.subscribe(), is, Some(outside)));
        serving.spawn(serve(inside, Arc::clone(&shared), door.subscribe()));
        Ok(Self { address, door, door_is, shared, _serving: serving })
    }

    /// Where it is to be called.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The functions read and write there from now on.
    ///
    /// # Errors
    /// When one is no address.
    pub fn write_to(&self, nodes: &[SocketAddr]) -> Result<()> {
        let urls: Vec<_> = nodes.iter().map(|node| format!("http://{node}")).collect();
        self.shared.examples.grid().is_now_at(&urls)
    }

    /// Opens or shuts the door; connections that there were have ended when this returns.
    ///
    /// # Errors
    /// When nobody is at the door any more.
    pub async fn door(&self, door: Door) -> Result<()> {
        self.door.send_replace(door);
        self.door_is.clone().wait_for(|is| *is == door).await?;
        Ok(())
    }

    /// What a function does from now on.
    pub fn answer(&self, function: &str, answer: Answer) {
        self.shared.state.send_modify(|state| {
            state.answers.insert(function.to_owned(), answer);
        });
    }

    /// Holds back all calls of a function from now on.
    pub fn hold(&self, function: &str, gate: Gate) {
        self.shared.state.send_modify(|state| {
            state.held.insert(function.to_owned(), gate);
        });
    }

    /// Lets go those that are held back, also where nobody waits for their answer any more, and holds no others.
    pub fn release(&self, function: &str) {
        self.shared.state.send_modify(|state| {
            state.held.remove(function);
        });
    }

    /// All calls so far, in the order in which they came.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().clone()
    }

    /// The calls of one function.
    pub fn calls_of(&self, function: &str) -> Vec<Call> {
        self.shared.calls.lock().iter().filter(|call| call.function == function).cloned().collect()
    }

    /// How many calls have come, distinct by their idempotency keys.
    pub fn distinct(&self) -> usize {
        self.shared.calls.lock().iter().map(|call| call.key().to_owned()).collect::<BTreeSet<_>>().len()
    }

    /// How many calls of one function have come, distinct by their idempotency keys.
    pub fn distinct_of(&self, function: &str) -> usize {
        self.calls_of(function).iter().map(Call::key).collect::<BTreeSet<_>>().len()
    }

    /// How many calls were answered, or would have been if anybody had waited.
    pub fn answered(&self) -> u64 {
        self.shared.state.borrow().counts.answered
    }

    /// How many calls are held back now.
    pub fn waiting(&self) -> u64 {
        self.shared.state.borrow().counts.waiting
    }

    /// The most calls that ever ran at once. Those that nobody waits for any more count as well: after a kill it says nothing.
    pub fn most_at_once(&self) -> u64 {
        self.shared.state.borrow().counts.most
    }

    /// Waits until so many calls of a function have come, and answers them.
    ///
    /// # Errors
    /// When they have not within a minute.
    pub async fn called(&self, function: &str, count: usize) -> Result<Vec<Call>> {
        let came = || format!("{count} calls of {function}; {} came", self.calls_of(function).len());
        until(came, async || Ok(Some(self.calls_of(function)).filter(|calls| calls.len() >= count))).await
    }

    /// Waits until so many calls are held back.
    ///
    /// # Errors
    /// When they are not within a minute.
    pub async fn held(&self, count: u64) -> Result<()> {
        let held = || format!("{count} calls to be held back; {} are", self.waiting());
        until(held, async || Ok((self.waiting() >= count).then_some(()))).await
    }
}

/// Serves without a health service: that a function may do without one is part of the stories.
async fn serve(listener: TcpListener, shared: Arc<Shared>, door: watch::Receiver<Door>) {
    let service = Garbling { inner: OprcFunctionServer::new(Service(Arc::new(Running(shared)))), door };
    let served = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    if let Err(error) = served.await {
        eprintln!("functions are not served any more: {error}");
    }
}

/// Runs each call to its end even if whoever has called is gone: so do functions elsewhere.
struct Running(Arc<Shared>);

impl Invoked for Running {
    async fn invoked(&self, call: Call) -> Result<InvocationResponse, Status> {
        let running = tokio::spawn(Arc::clone(&self.0).run(call));
        running.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

impl Shared {
    async fn run(self: Arc<Self>, call: Call) -> Result<InvocationResponse, Status> {
        self.calls.lock().push(call.clone());
        self.count(|counts| {
            counts.entered += 1;
            counts.most = counts.most.max(counts.entered - counts.answered);
        });
        self.pass(&call.function, Gate::BeforeEffect).await;
        let answer = self.state.borrow().answers.get(&call.function).cloned().unwrap_or_default();
        let answered = self.answered(answer, &call).await;
        self.pass(&call.function, Gate::BeforeAnswer).await;
        self.count(|counts| counts.answered += 1);
        answered
    }

    async fn answered(&self, answer: Answer, call: &Call) -> Result<InvocationResponse, Status> {
        let text = |text: &'static str| InvocationResponse {
            payload: Some(Bytes::from_static(text.as_bytes())),
            ..InvocationResponse::default()
        };
        match answer {
            Answer::Example => self.examples.run(call).await,
            Answer::Text(answer) => Ok(text(answer)),
            Answer::Refusal(reason) => {
                Ok(InvocationResponse { status: ResponseStatus::AppError.into(), ..text(reason) })
            }
            Answer::Status(code) => Err(Status::new(code, "as the story wants it")),
            Answer::Never => std::future::pending().await,
        }
    }

    /// Waits as long as the function is held back there.
    async fn pass(&self, function: &str, gate: Gate) {
        let is_open = |state: &State| state.held.get(function) != Some(&gate);
        if is_open(&self.state.borrow()) {
            return;
        }
        self.count(|counts| counts.waiting += 1);
        // It ends with an error only with this server.
        let _ = self.state.subscribe().wait_for(is_open).await;
        self.count(|counts| counts.waiting -= 1);
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.state.send_modify(|state| change(&mut state.counts));
    }
}
