//! `oprc.DataService` for partitions of any node: what is not here is passed on, whole, to a node that has it.
//!
//! Requests travel as their gRPC messages, with the metadata that means something; answers come back as status, metadata
//! and messages. Who answers another node's request passes nothing on itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::{FutureExt as _, TryStreamExt as _};
use odgm_log::NodeId;
use odgm_proto::metadata::{LEADER, VERSION};
use odgm_proto::oprc::data_service_server::DataService;
use odgm_proto::oprc::{
    BatchSetValuesRequest, CapabilitiesRequest, CapabilitiesResponse, EmptyResponse, ListObjectsRequest,
    ListValuesRequest, ObjectResponse, SetKeyRequest, SetObjectRequest, SingleKeyRequest,
    SingleObjectRequest, StatsRequest, StatsResponse, ValueResponse,
};
use odgm_replication::AskError;
use prost::Message;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::{Code, Request, Response, Status};

use super::data::{Data, stream};
use super::{PATIENCE, Shared};
use crate::request;
use crate::status::{self, NODES, OFFSET, OUTCOME, not_applied};

/// Metadata that travels with an answer.
const ANSWERED: [&str; 5] = [LEADER, NODES, OFFSET, OUTCOME, VERSION];

/// The service.
#[derive(Clone)]
pub(crate) struct Anywhere {
    shared: Arc<Shared>,
    here: Arc<Data>,
}

/// A request as it is passed on.
#[derive(Clone, PartialEq, Message)]
struct Passed {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(map = "string, string", tag = "2")]
    metadata: HashMap<String, String>,
    #[prost(bytes = "bytes", tag = "3")]
    message: Bytes,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
struct Answered {
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

/// Which of the service's methods is asked for.
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

impl Anywhere {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        // Not to keep the node: it keeps this.
        let desk = Arc::downgrade(&shared);
        shared.manager.staff(move |_, request| answer(Weak::clone(&desk), request).boxed());
        let here = Arc::new(Data(Arc::clone(&shared)));
        Self { shared, here }
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
        let passed = Bytes::from(passed.encode_to_vec());
        let within = request::timeout(metadata.as_ref()).unwrap_or(PATIENCE);
        let mut refused = String::new();
        for node in nodes {
            match self.shared.manager.ask(node, passed.clone(), within).await {
                Ok(answer) => {
                    let answered = Answered::decode(answer).map_err(damaged)?;
                    if !answered.metadata.contains_key(NODES) {
                        return taken_apart(answered);
                    }
                    // It was moved away from there, or has not come there yet.
                    refused = answered.reason;
                }
                Err(AskError::Lost(reason)) if method.writes => {
                    return Err(status::unknown(Status::unknown(reason)));
                }
                Err(error) => refused = error.to_string(),
            }
        }
        Err(said(status::unavailable(format!("no node that has the partition answers: {refused}"))))
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

/// Answers another node.
async fn answer(shared: Weak<Shared>, request: Bytes) -> Bytes {
    let answered = match (shared.upgrade(), Passed::decode(request)) {
        (Some(shared), Ok(passed)) => Data(shared).answer(passed).await,
        (None, _) => Err(not_applied(status::unavailable("the node is stopping"))),
        (_, Err(error)) => Err(Status::invalid_argument(format!("another node's request: {error}"))),
    };
    let answered = answered.unwrap_or_else(|status| Answered {
        code: status.code() as i32,
        reason: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
        metadata: pick(status.metadata(), &ANSWERED),
        messages: Vec::new(),
    });
    Bytes::from(answered.encode_to_vec())
}

impl Data {
    async fn answer(&self, passed: Passed) -> Result<Answered, Status> {
        let Passed { method, metadata, message } = passed;
        match method.as_str() {
            "Get" => one(self.get(asked(&metadata, message)?).await?),
            "GetValue" => one(self.get_value(asked(&metadata, message)?).await?),
            "Set" => one(self.set(asked(&metadata, message)?).await?),
            "SetValue" => one(self.set_value(asked(&metadata, message)?).await?),
            "Merge" => one(self.merge(asked(&metadata, message)?).await?),
            "Delete" => one(self.delete(asked(&metadata, message)?).await?),
            "DeleteValue" => one(self.delete_value(asked(&metadata, message)?).await?),
            "BatchSetValues" => one(self.batch_set_values(asked(&metadata, message)?).await?),
            "ListObjects" => all(self.list_objects(asked(&metadata, message)?).await?).await,
            "ListValues" => all(self.list_values(asked(&metadata, message)?).await?).await,
            other => {
                Err(Status::unimplemented(format!("another node asked for {other:?}: upgrade this node")))
            }
        }
    }
}

fn asked<Q: Message + Default>(
    metadata: &HashMap<String, String>,
    message: Bytes,
) -> Result<Request<Q>, Status> {
    let message = Q::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut request = Request::new(message);
    put(metadata, request.metadata_mut());
    Ok(request)
}

fn one<A: Message>(response: Response<A>) -> Result<Answered, Status> {
    let metadata = pick(response.metadata(), &ANSWERED);
    let messages = vec![response.into_inner().encode_to_vec().into()];
    Ok(Answered { metadata, messages, ..Answered::default() })
}

async fn all<A, S>(response: Response<S>) -> Result<Answered, Status>
where
    A: Message,
    S: futures_util::Stream<Item = Result<A, Status>>,
{
    let messages = response.into_inner().map_ok(|message| message.encode_to_vec().into());
    Ok(Answered { messages: messages.try_collect().await?, ..Answered::default() })
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

#[tonic::async_trait]
impl DataService for Anywhere {
    type ListObjectsStream = <Data as DataService>::ListObjectsStream;
    type ListValuesStream = <Data as DataService>::ListValuesStream;

    async fn get(&self, request: Request<SingleObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.get(request).await,
            Some(nodes) => self.unary(read("Get"), nodes, request).await,
        }
    }

    async fn get_value(&self, request: Request<SingleKeyRequest>) -> Result<Response<ValueResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.get_value(request).await,
            Some(nodes) => self.unary(read("GetValue"), nodes, request).await,
        }
    }

    async fn set(&self, request: Request<SetObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.set(request).await,
            Some(nodes) => self.unary(write("Set"), nodes, request).await,
        }
    }

    async fn set_value(&self, request: Request<SetKeyRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.set_value(request).await,
            Some(nodes) => self.unary(write("SetValue"), nodes, request).await,
        }
    }

    async fn merge(&self, request: Request<SetObjectRequest>) -> Result<Response<ObjectResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.merge(request).await,
            Some(nodes) => self.unary(write("Merge"), nodes, request).await,
        }
    }

    async fn delete(&self, request: Request<SingleObjectRequest>) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.delete(request).await,
            Some(nodes) => self.unary(write("Delete"), nodes, request).await,
        }
    }

    async fn delete_value(
        &self,
        request: Request<SingleKeyRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.delete_value(request).await,
            Some(nodes) => self.unary(write("DeleteValue"), nodes, request).await,
        }
    }

    async fn batch_set_values(
        &self,
        request: Request<BatchSetValuesRequest>,
    ) -> Result<Response<EmptyResponse>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.batch_set_values(request).await,
            Some(nodes) => self.unary(write("BatchSetValues"), nodes, request).await,
        }
    }

    async fn list_objects(
        &self,
        request: Request<ListObjectsRequest>,
    ) -> Result<Response<Self::ListObjectsStream>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.list_objects(request).await,
            Some(nodes) => {
                let (_, page) = self.pass_on(read("ListObjects"), nodes, request).await?;
                Ok(Response::new(stream(page)))
            }
        }
    }

    async fn list_values(
        &self,
        request: Request<ListValuesRequest>,
    ) -> Result<Response<Self::ListValuesStream>, Status> {
        match self.elsewhere(&request.get_ref().cls_id, request.get_ref().partition_id) {
            None => self.here.list_values(request).await,
            Some(nodes) => {
                let (_, page) = self.pass_on(read("ListValues"), nodes, request).await?;
                Ok(Response::new(stream(page)))
            }
        }
    }

    async fn stats(&self, request: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        self.here.stats(request).await
    }

    async fn capabilities(
        &self,
        request: Request<CapabilitiesRequest>,
    ) -> Result<Response<CapabilitiesResponse>, Status> {
        self.here.capabilities(request).await
    }
}
