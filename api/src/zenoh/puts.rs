//! Objects that are written without an answer, by PUT and DELETE.
//!
//! Every replica of a partition sees them. The one that leads makes them records, in the order in which they came, and the
//! others nothing. Nobody is told of a refusal: what is lost is counted and told of in the log.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odgm_log::Body;
use odgm_proto::oprc::{ObjData, SingleObjectRequest};
use tokio::sync::mpsc;
use tonic::Status;
use zenoh::sample::{Sample, SampleKind};

use super::answers::{decoded, set_request};
use super::attachment;
use super::intake::{Intake, Losses, Room, copied};
use super::leading::{Leading, leading};
use super::places::Place;
use crate::request;
use crate::services::{Command, Shared, command};

/// What all partitions share.
pub(super) struct Puts {
    shared: Arc<Shared>,
    intake: Arc<Intake>,
    losses: Losses,
}

/// A PUT or a DELETE that has been taken in.
struct Put {
    key: String,
    /// None for a DELETE.
    payload: Option<Bytes>,
    attachment: Option<Bytes>,
    since: Instant,
    room: Room,
}

/// Takes those of a partition in, on Zenoh's threads.
pub(super) struct Inlet {
    puts: Arc<Puts>,
    place: Arc<Place>,
    /// Bounded by the intake.
    queue: mpsc::UnboundedSender<Put>,
}

impl Puts {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let losses = Losses::of("PUTs and DELETEs over Zenoh were not applied");
        Self { shared, intake: Arc::default(), losses }
    }

    /// Where those of a partition come in, and what applies them until the inlet is gone.
    pub(super) fn open(
        self: &Arc<Self>,
        place: &Arc<Place>,
    ) -> (Inlet, impl Future<Output = ()> + Send + use<>) {
        let (queue, waiting) = mpsc::unbounded_channel();
        let inlet = Inlet { puts: Arc::clone(self), place: Arc::clone(place), queue };
        (inlet, Arc::clone(self).apply_all(Arc::clone(place), waiting))
    }

    async fn apply_all(self: Arc<Self>, place: Arc<Place>, mut queue: mpsc::UnboundedReceiver<Put>) {
        while let Some(put) = queue.recv().await {
            match leading(&self.shared.manager, &place, put.since).await {
                Leading::Here => {}
                Leading::Elsewhere => continue,
                Leading::Nobody => {
                    self.losses.count(&place, &"the partition has no leader");
                    continue;
                }
            }
            // At once after having looked: with another leader, that one applies it.
            if let Err(status) = self.submit(&place, put) {
                self.losses.count(&place, &status.message());
            }
        }
    }

    fn submit(self: &Arc<Self>, place: &Arc<Place>, put: Put) -> Result<(), Status> {
        let Put { key, payload, attachment, room, .. } = put;
        let cause = request::cause(&attachment::metadata(attachment.as_deref())?)?;
        let command = self.command(place, &key, payload)?;
        let (partition, payload) = self.shared.prepare(cause, command)?;
        let (puts, place) = (Arc::clone(self), Arc::clone(place));
        let is_deletion = matches!(payload.body, Body::Delete(_));
        partition.submit(payload, move |answer| {
            drop(room);
            if let Err(status) = puts.shared.answer(answer, is_deletion) {
                puts.losses.count(&place, &status.message());
            }
        });
        Ok(())
    }

    fn command(&self, place: &Place, key: &str, payload: Option<Bytes>) -> Result<Command, Status> {
        let object = place.object(key).ok_or_else(|| {
            Status::invalid_argument(format!("{key} is no object: expected a key without wildcards"))
        })?;
        let rules = &self.shared.rules;
        let Some(payload) = payload else {
            let message = SingleObjectRequest {
                cls_id: place.class().to_owned(),
                partition_id: place.index(),
                object_id_str: Some(object),
                ..SingleObjectRequest::default()
            };
            return command::delete(rules, message);
        };
        let (bytes, max) = (payload.len(), self.shared.limits.request_bytes);
        if bytes > max {
            return Err(Status::invalid_argument(format!("{bytes} bytes: expected at most {max}")));
        }
        let data: ObjData = decoded(payload, "an ObjData")
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        command::set(rules, set_request(place, object, data))
    }
}

impl Inlet {
    pub(super) fn take(&self, sample: &Sample) {
        let payload = (sample.kind() == SampleKind::Put).then(|| copied(sample.payload()));
        let attachment = sample.attachment().map(copied);
        let key = sample.key_expr().as_str().to_owned();
        let bytes = payload.as_ref().map_or(0, Bytes::len) + attachment.as_ref().map_or(0, Bytes::len);
        let Some(room) = self.puts.intake.enter(bytes) else {
            return self.puts.losses.count(&self.place, &"they come faster than they are applied");
        };
        // An error says that the partition has gone.
        drop(self.queue.send(Put { key, payload, attachment, since: Instant::now(), room }));
    }
}
