//! What happened to objects, published as it does: best effort.
//!
//! The replica that leads publishes. Around a change of leader an event may be published by two or by none; and one that a
//! subscriber has no room for is not kept for it. Who must not miss any subscribes over gRPC.

use std::sync::Arc;

use odgm_log::{NodeId, Offset};
use odgm_projections::{Action, Change};
use odgm_replication::{EventReader, Partition, StartPoint, StreamError};
use serde::Serialize;
use zenoh::bytes::Encoding;
use zenoh::qos::CongestionControl;
use zenoh::sample::Locality;
use zenoh::{Session, Wait};

use super::intake::Losses;
use super::places::Place;

/// Publishes the events of one partition.
pub(super) struct Feed {
    pub(super) partition: Arc<Partition>,
    pub(super) place: Arc<Place>,
    pub(super) node: NodeId,
    pub(super) session: Session,
    pub(super) locality: Locality,
    pub(super) losses: Arc<Losses>,
}

/// An event as subscribers read it.
#[derive(Serialize)]
struct Published<'a> {
    object_id: &'a str,
    cls_id: &'a str,
    partition_id: u32,
    source: &'static str,
    changes: Vec<Changed<'a>>,
}

#[derive(Serialize)]
struct Changed<'a> {
    key: &'a str,
    action: &'static str,
}

impl Feed {
    /// Goes on until the partition is closed.
    pub(super) async fn run(self) {
        let feed = Arc::new(self);
        // Up to here there is nothing to publish: it was there before, or another node has led.
        let mut mark = feed.partition.head();
        while feed.partition.applied(mark.next()).await.is_ok() {
            if !feed.leads() {
                mark = feed.partition.head();
                continue;
            }
            // The log is read, and a put may wait for a moment.
            let round = Arc::clone(&feed);
            let published = tokio::task::spawn_blocking(move || round.publish(mark)).await;
            mark = match published {
                Ok(Ok(progress)) => progress,
                Ok(Err(StreamError::Closed)) | Err(_) => return,
                Ok(Err(error)) => {
                    feed.losses.count(&feed.place, &error);
                    feed.partition.head()
                }
            };
        }
    }

    fn leads(&self) -> bool {
        self.partition.leader() == Some(self.node)
    }

    /// Publishes what there is after a place; how far it got.
    fn publish(&self, after: Offset) -> Result<Offset, StreamError> {
        let mut reader = EventReader::open(Arc::clone(&self.partition), StartPoint::After(after))?;
        loop {
            let before = reader.progress();
            let batch = reader.read()?;
            for event in &batch.events {
                self.put(&event.change);
            }
            if batch.progress >= batch.head || batch.progress == before || !self.leads() {
                return Ok(batch.progress);
            }
        }
    }

    fn put(&self, change: &Change) {
        let event = Published {
            object_id: &change.object,
            cls_id: self.place.class(),
            partition_id: self.place.index(),
            source: "local",
            changes: change.keys.iter().map(|(key, done)| Changed { key, action: action(*done) }).collect(),
        };
        // Text and numbers always have a JSON form.
        let json = serde_json::to_vec(&event).unwrap_or_default();
        let put = self.session.put(self.place.event(&change.object), json);
        let put = put.encoding(Encoding::APPLICATION_JSON).congestion_control(CongestionControl::Drop);
        if let Err(error) = put.allowed_destination(self.locality).wait() {
            self.losses.count(&self.place, &error);
        }
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Created => "create",
        Action::Updated => "update",
        Action::Deleted => "delete",
    }
}
