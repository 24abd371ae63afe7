//! Writes of a stream that go on to another node: a stream there for each node that has partitions which this one has not,
//! so that they stay in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt as _;
use odgm_log::NodeId;
use odgm_proto::odgm::v1::{WriteRequest, WriteResponse};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status, Streaming};

use super::{Window, refuse};
use crate::services::Shared;
use crate::services::relay::{Way, onward};
use crate::status::{self, not_applied};

/// The streams to other nodes, by the nodes that may be asked.
pub(super) struct Relayed {
    shared: Arc<Shared>,
    metadata: MetadataMap,
    window: Arc<Window>,
    ways: BTreeMap<Vec<NodeId>, Arc<Onward>>,
}

/// A stream to another node.
struct Onward {
    state: Mutex<State>,
}

struct State {
    /// Bounded by the window of the client's stream. None once the stream has ended.
    requests: Option<mpsc::UnboundedSender<WriteRequest>>,
    /// The place in the window and the sequence number of each write that is not answered, in order.
    waiting: VecDeque<(usize, u64)>,
}

impl Relayed {
    pub(super) fn new(shared: Arc<Shared>, metadata: MetadataMap, window: Arc<Window>) -> Self {
        Self { shared, metadata, window, ways: BTreeMap::new() }
    }

    /// Sends a write to one of the nodes; its answer fills a place in the window.
    pub(super) fn send(&mut self, nodes: Vec<NodeId>, request: WriteRequest) {
        let waiting = (self.window.wait(), request.sequence);
        let request = match self.ways.get(&nodes) {
            Some(way) => match way.send(waiting, request) {
                None => return,
                Some(request) => request,
            },
            None => request,
        };
        let (sender, requests) = mpsc::unbounded_channel();
        let state = State { requests: Some(sender), waiting: VecDeque::new() };
        let way = Arc::new(Onward { state: Mutex::new(state) });
        let unsent = way.send(waiting, request);
        debug_assert!(unsent.is_none(), "whoever receives it is here");
        let relaying = relay(
            Arc::clone(&self.shared),
            nodes.clone(),
            self.metadata.clone(),
            requests,
            Arc::clone(&way),
            Arc::clone(&self.window),
        );
        tokio::spawn(relaying);
        self.ways.insert(nodes, way);
    }
}

impl Drop for Relayed {
    /// No more writes come; the other nodes answer those that have.
    fn drop(&mut self) {
        for way in self.ways.values() {
            way.state.lock().requests = None;
        }
    }
}

impl Onward {
    /// Takes a write, or gives it back if the stream has ended.
    fn send(&self, waiting: (usize, u64), request: WriteRequest) -> Option<WriteRequest> {
        let mut state = self.state.lock();
        let Some(requests) = &state.requests else { return Some(request) };
        if let Err(mpsc::error::SendError(request)) = requests.send(request) {
            return Some(request);
        }
        state.waiting.push_back(waiting);
        None
    }

    fn answered(&self) -> Option<(usize, u64)> {
        self.state.lock().waiting.pop_front()
    }

    /// Takes nothing more; answers who waits.
    fn end(&self, window: &Window, status: &Status) {
        let waiting = {
            let mut state = self.state.lock();
            state.requests = None;
            std::mem::take(&mut state.waiting)
        };
        for (place, sequence) in waiting {
            window.fill(place, refuse(sequence, status));
        }
    }
}

async fn relay(
    shared: Arc<Shared>,
    nodes: Vec<NodeId>,
    metadata: MetadataMap,
    requests: mpsc::UnboundedReceiver<WriteRequest>,
    onward: Arc<Onward>,
    window: Arc<Window>,
) {
    let way = match shared.way(&nodes).await {
        Ok(way) => way,
        // Nothing has been sent.
        Err(status) => return onward.end(&window, &not_applied(status)),
    };
    let ended = match open(&way, &metadata, requests).await {
        Ok(responses) => answers(&way, responses, &onward, &window).await,
        Err(status) => status,
    };
    onward.end(&window, &status::unknown(ended));
}

async fn open(
    way: &Way,
    metadata: &MetadataMap,
    requests: mpsc::UnboundedReceiver<WriteRequest>,
) -> Result<Streaming<WriteResponse>, Status> {
    let requests = onward(metadata, UnboundedReceiverStream::new(requests));
    Ok(way.heed(way.writes().write(requests).await)?.into_inner())
}

/// Passes answers back until they end; says why.
async fn answers(
    way: &Way,
    mut responses: Streaming<WriteResponse>,
    onward: &Onward,
    window: &Window,
) -> Status {
    while let Some(response) = responses.next().await {
        match way.heed(response) {
            Ok(response) => match onward.answered() {
                Some((place, sequence)) => window.fill(place, WriteResponse { sequence, ..response }),
                None => return Status::new(Code::Internal, "another node answered more than was asked"),
            },
            Err(status) => return status,
        }
    }
    Status::new(Code::Unknown, "the node that has the partition answered no more")
}
