//! Standing between a client and the node that has a partition, where that is not this one: for what is a stream, or more
//! than a request and its answer. This node is a gRPC client of the other one meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odgm_log::NodeId;
use odgm_proto::metadata::RELAYED;
use odgm_proto::odgm::v1::admin_client::AdminClient;
use odgm_proto::odgm::v1::calls_client::CallsClient;
use odgm_proto::odgm::v1::streams_client::StreamsClient;
use odgm_proto::odgm::v1::writes_client::WritesClient;
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use parking_lot::Mutex;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::Shared;
use crate::request;
use crate::status::{self, OUTCOME};

/// How long a connection to another node may take to be made before the next one is tried.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How often a node is asked whether it is still there, and how long it may take to say so: streams end if it is not.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Connections to other nodes, made when they are needed. There are as many as nodes.
#[derive(Default)]
pub(super) struct Relay {
    channels: Mutex<BTreeMap<NodeId, (String, Channel)>>,
}

impl Relay {
    /// A connection to a node. It connects again by itself when it breaks.
    async fn channel(&self, node: NodeId, address: &str) -> Result<Channel, String> {
        let known = self.channels.lock().get(&node).filter(|(at, _)| at == address).cloned();
        if let Some((_, channel)) = known {
            return Ok(channel);
        }
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1);
        let connected = endpoint.connect().await;
        let channel = connected.map_err(|error| format!("{address}: {error}"))?;
        self.channels.lock().insert(node, (address.to_owned(), channel.clone()));
        Ok(channel)
    }

    /// The next one to ask for the node connects anew, and sees whether it can.
    fn forget(&self, node: NodeId) {
        self.channels.lock().remove(&node);
    }
}

/// A node that is asked in the place of this one.
pub(super) struct Way {
    shared: Arc<Shared>,
    node: NodeId,
    channel: Channel,
}

impl Way {
    pub(super) fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn writes(&self) -> WritesClient<Channel> {
        WritesClient::new(self.channel.clone())
    }

    pub(super) fn calls(&self) -> CallsClient<Channel> {
        CallsClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn functions(&self) -> OprcFunctionClient<Channel> {
        OprcFunctionClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub(super) fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// What the other node said; where it did not, the next one is looked for afresh.
    pub(super) fn heed<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        answer.map_err(|status| {
            if status.code() != Code::Unavailable {
                return status;
            }
            self.shared.relay.forget(self.node);
            if !status.metadata().is_empty() {
                return status;
            }
            let message = format!("node {}, which has the partition: {}", self.node, status.message());
            status::unavailable(message)
        })
    }

    /// The same of a write: without a word of the other node nobody knows what became of it.
    pub(super) fn heed_write<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        self.heed(answer).map_err(|status| {
            if status.metadata().contains_key(OUTCOME) { status } else { status::unknown(status) }
        })
    }
}

impl Shared {
    /// The nodes to be asked in the place of this one, for a partition that it has not. None where it has to answer
    /// itself, if only to refuse: there is no such partition, or another node has passed the request on.
    pub(super) fn elsewhere(
        &self,
        metadata: &MetadataMap,
        class: &str,
        partition: impl Into<i64>,
    ) -> Option<Vec<NodeId>> {
        if metadata.contains_key(RELAYED) || !self.manager.forwards() {
            return None;
        }
        let nodes = self.manager.elsewhere(class, u32::try_from(partition.into()).ok()?)?;
        (!nodes.is_empty()).then_some(nodes)
    }

    /// The first of the nodes that can be reached.
    pub(super) async fn way(self: &Arc<Self>, nodes: &[NodeId]) -> Result<Way, Status> {
        let mut reasons = Vec::new();
        for &node in nodes {
            let channel = match self.manager.address(node) {
                Some(address) => self.relay.channel(node, &address).await,
                None => Err("its address is not known (ODGM_NODE_ADDR)".to_owned()),
            };
            match channel {
                Ok(channel) => return Ok(Way { shared: Arc::clone(self), node, channel }),
                Err(reason) => reasons.push(format!("node {node}: {reason}")),
            }
        }
        let reasons = reasons.join("; ");
        Err(status::unavailable(format!("no node that has the partition can be reached: {reasons}")))
    }
}

/// A request as it goes to the other node, which is to pass it on to nobody.
pub(super) fn onward<Q>(metadata: &MetadataMap, message: Q) -> Request<Q> {
    let mut request = Request::new(message);
    for name in request::PASSED_ON {
        if let Some(value) = metadata.get(name) {
            request.metadata_mut().insert(name, value.clone());
        }
    }
    request.metadata_mut().insert(RELAYED, MetadataValue::from_static("1"));
    if let Some(deadline) = request::timeout(metadata.as_ref()) {
        request.set_timeout(deadline);
    }
    request
}
