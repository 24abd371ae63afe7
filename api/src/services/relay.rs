//! Standing between a client and the node that has a partition, where that is not this one: for what is a stream, or more
//! than a request and its answer. This node is a gRPC client of the other one meanwhile.

use std::collections::BTreeMap;
use std::error::Error as _;
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
use tonic::{Code, ConnectError, Request, Status};

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
            if status.metadata().is_empty() {
                return self.gone(&status);
            }
            self.shared.relay.forget(self.node);
            status
        })
    }

    /// The same of a write: without a word of the other node nobody knows what became of it, if it was sent.
    pub(super) fn heed_write<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        let is_unsent = answer.as_ref().is_err_and(is_unsent);
        self.heed(answer).map_err(|status| match status.metadata().contains_key(OUTCOME) {
            true => status,
            false if is_unsent => status::not_applied(status),
            false => status::unknown(status),
        })
    }

    /// The node does not answer: the next one to ask for it connects anew.
    pub(super) fn gone(&self, status: &Status) -> Status {
        self.shared.relay.forget(self.node);
        status::unavailable(format!("node {}, which has the partition: {}", self.node, status.message()))
    }
}

/// Whether a request was certainly not sent, as there was no connection and none could be made.
pub(super) fn is_unsent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
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

#[cfg(test)]
mod tests {
    use odgm_proto::odgm::v1::GetResultRequest;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn asked(channel: &Channel) -> Status {
        let mut client = CallsClient::new(channel.clone());
        client.get_result(GetResultRequest::default()).await.expect_err("nobody answers")
    }

    /// Returns when the headers of a request have come, by the frames of HTTP/2 behind the preface of the connection.
    async fn request_came(stream: &mut TcpStream) {
        const HEADERS: u8 = 1;
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.expect("a preface");
        loop {
            let mut frame = [0; 9];
            stream.read_exact(&mut frame).await.expect("a frame");
            if frame[3] == HEADERS {
                return;
            }
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
            let mut rest = vec![0; usize::try_from(length).expect("a length")];
            stream.read_exact(&mut rest).await.expect("the rest of the frame");
        }
    }

    #[tokio::test]
    async fn a_request_is_known_not_to_be_sent_only_where_there_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let relay = Relay::default();
        let connecting = relay.channel(NodeId(2), &address);
        let (channel, accepted) = tokio::join!(connecting, listener.accept());
        let (channel, (mut stream, _)) = (channel.expect("a connection"), accepted.expect("a connection"));
        // It takes the request, and goes without a word.
        let (lost, ()) = tokio::join!(asked(&channel), async {
            request_came(&mut stream).await;
            drop((stream, listener));
        });
        assert!(!is_unsent(&lost), "{lost:?}");
        let channel = relay.channel(NodeId(2), &address).await.expect("the one that was made before");
        let unsent = asked(&channel).await;
        assert!(is_unsent(&unsent), "{unsent:?}");
        assert!(!is_unsent(&Status::unavailable("said by the node")));
    }
}
