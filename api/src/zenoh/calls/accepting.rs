//! Calls that are asked for by PUT, without an answer: they are accepted, and their results asked for later.
//!
//! Every replica of a partition sees them. The one that leads makes them records, and the others nothing; should two think
//! that they lead, the second record finds the call's id taken and is none. Nobody is told of a refusal: what is lost is
//! counted and told of in the log.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odgm_proto::odgm::v1::InvokeRequest;
use odgm_proto::odgm::v1::calls_server::Calls as _;
use odgm_proto::oprc::ObjectInvocationRequest;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Request, Status};
use zenoh::sample::{Sample, SampleKind};

use crate::services::{Calls, Shared};
use crate::zenoh::answers::decoded;
use crate::zenoh::attachment;
use crate::zenoh::intake::{Intake, Losses, Room, copied};
use crate::zenoh::leading::{Leading, leading};
use crate::zenoh::limits::ACCEPTED_AT_ONCE;
use crate::zenoh::places::Place;

/// Either is read as the latter.
const EXPECTED: &str = "an InvocationRequest or ObjectInvocationRequest";

/// What all partitions share.
pub(in crate::zenoh) struct Accepting {
    shared: Arc<Shared>,
    calls: Calls,
    intake: Arc<Intake>,
    losses: Losses,
}

/// A PUT that has been taken in.
struct Put {
    key: String,
    payload: Bytes,
    attachment: Option<Bytes>,
    since: Instant,
    room: Room,
}

/// Takes those of a partition in, on Zenoh's threads.
#[derive(Clone)]
pub(in crate::zenoh) struct Inlet {
    accepting: Arc<Accepting>,
    place: Arc<Place>,
    /// Bounded by the intake.
    queue: mpsc::UnboundedSender<Put>,
}

impl Accepting {
    pub(in crate::zenoh) fn new(shared: Arc<Shared>) -> Self {
        let losses = Losses::of("calls that were PUT over Zenoh were not accepted");
        Self { calls: Calls(Arc::clone(&shared)), shared, intake: Arc::default(), losses }
    }

    /// Where those of a partition come in, and what accepts them until the inlet and its clones are gone.
    pub(in crate::zenoh) fn open(
        self: &Arc<Self>,
        place: &Arc<Place>,
    ) -> (Inlet, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let inlet = Inlet { accepting: Arc::clone(self), place: Arc::clone(place), queue };
        (inlet, Arc::clone(self).accept_all(Arc::clone(place), waiting))
    }

    async fn accept_all(self: Arc<Self>, place: Arc<Place>, mut queue: mpsc::UnboundedReceiver<Put>) {
        let mut under_way = JoinSet::new();
        while let Some(put) = queue.recv().await {
            match leading(&self.shared.manager, &place, put.since).await {
                Leading::Here => {}
                Leading::Elsewhere => continue,
                Leading::Nobody => {
                    self.losses.count(&place, &"the partition has no leader");
                    continue;
                }
            }
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= ACCEPTED_AT_ONCE {
                under_way.join_next().await;
            }
            let (accepting, place) = (Arc::clone(&self), Arc::clone(&place));
            under_way.spawn(async move {
                if let Err(status) = accepting.accept(&place, put).await {
                    accepting.losses.count(&place, &status.message());
                }
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn accept(&self, place: &Place, put: Put) -> Result<(), Status> {
        let Put { key, payload, attachment, room, .. } = put;
        let metadata = attachment::metadata(attachment.as_deref())?;
        let mut request = Request::new(self.request(place, &key, payload)?);
        *request.metadata_mut() = metadata;
        let accepted = self.calls.invoke(request).await;
        drop(room);
        accepted.map(|_| ())
    }

    /// The request, as the key has it: what it says of itself does not matter.
    fn request(&self, place: &Place, key: &str, payload: Bytes) -> Result<InvokeRequest, Status> {
        let (callee, invocation_id) = place.accepted(key).ok_or_else(|| {
            Status::invalid_argument(format!("{key} is no one call: expected a key without wildcards"))
        })?;
        let (bytes, max) = (payload.len(), self.shared.limits.request_bytes);
        if bytes > max {
            return Err(Status::invalid_argument(format!("{bytes} bytes: expected at most {max}")));
        }
        if payload.is_empty() {
            return Err(Status::invalid_argument(format!("payload required: expected {EXPECTED}")));
        }
        let request: ObjectInvocationRequest =
            decoded(payload, EXPECTED).map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        Ok(InvokeRequest {
            cls_id: place.class().to_owned(),
            partition_id: place.index(),
            object_id: callee.object,
            fn_id: callee.function,
            options: request.options,
            payload: request.payload,
            invocation_id,
        })
    }
}

impl Inlet {
    pub(in crate::zenoh) fn take(&self, sample: &Sample) {
        // A DELETE asks for nothing here.
        if sample.kind() != SampleKind::Put {
            return;
        }
        let (payload, attachment) = (copied(sample.payload()), sample.attachment().map(copied));
        let key = sample.key_expr().as_str().to_owned();
        let bytes = payload.len() + attachment.as_ref().map_or(0, Bytes::len);
        let Some(room) = self.accepting.intake.enter(bytes) else {
            return self.accepting.losses.count(&self.place, &"they come faster than they are accepted");
        };
        // An error says that the partition has gone.
        drop(self.queue.send(Put { key, payload, attachment, since: Instant::now(), room }));
    }
}
