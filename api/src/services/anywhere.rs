//! `oprc.DataService` and `oprc.OprcFunction` for partitions of any node: what is not here is passed on, whole, to a node
//! that has it.
//!
//! Requests for objects travel as their gRPC messages between the messages of replicas, with the metadata that means
//! something; answers come back as status, metadata and messages. Calls of functions may take minutes, so they are relayed
//! over gRPC, where a node that goes away is noticed. Who answers another node's request passes nothing on itself.

mod data;
mod desk;
mod functions;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use odgm_log::{NodeId, Offset};
use odgm_proto::metadata::{LEADER, VERSION};
use odgm_replication::{AskError, Manager};
use prost::Message;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::{Code, Request, Response, Status};

use super::data::Data;
use super::function::Functions;
use super::{PATIENCE, Shared};
use crate::request;
use crate::status::{self, NODES, OFFSET, OUTCOME, not_applied};

/// Metadata that travels with an answer.
const ANSWERED: [&str; 5] = [LEADER, NODES, OFFSET, OUTCOME, VERSION];

/// The services.
#[derive(Clone)]
pub(crate) struct Anywhere {
    shared: Arc<Shared>,
    data: Arc<Data>,
    functions: Arc<Functions>,
}

/// A request as it is passed on.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Passed {
    #[prost(string, tag = "1")]
    pub(super) method: String,
    #[prost(map = "string, string", tag = "2")]
    pub(super) metadata: HashMap<String, String>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) message: Bytes,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answered {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    reason: String,
    #[prost(bytes = "bytes", tag = "3")]
    details: Bytes,
    #[prost(map = "string, string", tag = "4")]
    metadata: HashMap<String, String>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    messages: Vec<Bytes>,
}

/// Which of the services' methods is asked for.
#[derive(Clone, Copy, Debug)]
struct Method {
    name: &'static str,
    /// Whether asking twice could apply something twice.
    writes: bool,
}

const fn read(name: &'static str) -> Method {
    Method { name, writes: false }
}

const fn write(name: &'static str) -> Method {
    Method { name, writes: true }
}

impl Answered {
    /// Whether what was asked for was done; if not, why.
    pub(super) fn done(self) -> Result<(), String> {
        if self.code == Code::Ok as i32 { Ok(()) } else { Err(self.reason) }
    }

    /// The record that it became.
    pub(super) fn offset(&self) -> Option<Offset> {
        self.metadata.get(OFFSET)?.parse().ok().map(Offset)
    }

    /// Whether the other node does not know what became of it.
    pub(super) fn is_unknown(&self) -> bool {
        self.metadata.get(OUTCOME).is_some_and(|outcome| outcome == "unknown")
    }
}

impl Anywhere {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        // Not to keep the node: it keeps this.
        let desk = Arc::downgrade(&shared);
        shared.manager.staff(move |_, request| desk::answer(Weak::clone(&desk), request).boxed());
        let data = Arc::new(Data(Arc::clone(&shared)));
        let functions = Arc::new(Functions(Arc::clone(&shared)));
        Self { shared, data, functions }
    }

    /// The nodes that have a partition which this one has not.
    fn elsewhere(&self, class: &str, partition: impl Into<i64>) -> Option<Vec<NodeId>> {
        let manager = &self.shared.manager;
        let partition = u32::try_from(partition.into()).ok()?;
        let nodes = manager.elsewhere(class, partition)?;
        (!nodes.is_empty()).then_some(nodes)
    }

    /// Asks the nodes that have the partition, one after the other, until one answers.
    async fn pass_on<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        nodes: Vec<NodeId>,
        request: Request<Q>,
    ) -> Result<(MetadataMap, Vec<A>), Status> {
        let said = |status: Status| if method.writes { not_applied(status) } else { status };
        let (metadata, _, message) = request.into_parts();
        if !self.shared.manager.forwards() {
            let first = nodes.first().copied().unwrap_or_default();
            let message =
                format!("the partition is on node {first}, and this node passes nothing on (ODGM_FORWARD)");
            return Err(said(self.shared.tell_leader(Status::failed_precondition(message), first)));
        }
        let passed = Passed {
            method: method.name.to_owned(),
            metadata: pick(&metadata, &request::PASSED_ON),
            message: message.encode_to_vec().into(),
        };
        let within = request::timeout(metadata.as_ref()).unwrap_or(PATIENCE);
        match ask(&self.shared.manager, nodes, &passed, within, method.writes).await {
            Ok(answered) => taken_apart(answered),
            Err(AskError::Lost(reason)) => Err(status::unknown(Status::unknown(reason))),
            Err(AskError::NotAsked(reason)) => {
                Err(said(status::unavailable(format!("no node that has the partition answers: {reason}"))))
            }
        }
    }

    async fn unary<Q: Message, A: Message + Default>(
        &self,
        method: Method,
        nodes: Vec<NodeId>,
        request: Request<Q>,
    ) -> Result<Response<A>, Status> {
        let (metadata, mut messages) = self.pass_on(method, nodes, request).await?;
        let message = messages.pop().ok_or_else(|| status::internal("another node answered nothing"))?;
        Ok(Response::from_parts(metadata, message, tonic::Extensions::default()))
    }
}

/// Asks nodes that have a partition, one after the other, until one answers for it. What `writes` is not asked again where
/// it may have been heard.
pub(super) async fn ask(
    manager: &Manager,
    nodes: Vec<NodeId>,
    passed: &Passed,
    within: Duration,
    writes: bool,
) -> Result<Answered, AskError> {
    let passed = Bytes::from(passed.encode_to_vec());
    let mut refused = String::new();
    for node in nodes {
        let asked = manager.ask(node, passed.clone(), within).await;
        let answered = asked.and_then(|answer| {
            Answered::decode(answer)
                .map_err(|error| AskError::Lost(format!("another node's answer: {error}")))
        });
        match answered {
            Ok(answered) if !answered.metadata.contains_key(NODES) => return Ok(answered),
            // It was moved away from there, or has not come there yet.
            Ok(answered) => refused = answered.reason,
            Err(AskError::Lost(reason)) if writes => return Err(AskError::Lost(reason)),
            Err(error) => refused = error.to_string(),
        }
    }
    Err(AskError::NotAsked(refused))
}

#[allow(clippy::needless_pass_by_value)]
fn damaged(error: prost::DecodeError) -> Status {
    status::internal(format!("another node's answer: {error}"))
}

fn taken_apart<A: Message + Default>(answered: Answered) -> Result<(MetadataMap, Vec<A>), Status> {
    let Answered { code, reason, details, metadata, messages } = answered;
    let mut told = MetadataMap::new();
    put(&metadata, &mut told);
    match Code::from_i32(code) {
        Code::Ok => {
            let messages = messages.into_iter().map(A::decode).collect::<Result<_, _>>().map_err(damaged)?;
            Ok((told, messages))
        }
        code => Err(Status::with_details_and_metadata(code, reason, details, told)),
    }
}

fn pick(metadata: &MetadataMap, names: &[&str]) -> HashMap<String, String> {
    let text = |name: &&str| Some(((*name).to_owned(), metadata.get(*name)?.to_str().ok()?.to_owned()));
    names.iter().filter_map(text).collect()
}

fn put(picked: &HashMap<String, String>, metadata: &mut MetadataMap) {
    for (name, value) in picked {
        // What was read from metadata can be written to it.
        if let (Ok(name), Ok(value)) = (AsciiMetadataKey::from_bytes(name.as_bytes()), value.parse()) {
            metadata.insert(name, value);
        }
    }
}
