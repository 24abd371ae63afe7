//! What is PUT and deleted, on its way from Zenoh's threads to whoever makes records of it.
//!
//! Every replica of a partition sees it, and the one that leads takes it up. Nobody is told of a refusal: what is lost is
//! counted and told of in the log.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odgm_replication::Manager;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::metadata::MetadataMap;
use zenoh::sample::{Sample, SampleKind};

use super::attachment;
use super::intake::{Losses, copied, intake};
use super::leading::{Leading, leading};
use super::places::Place;
use crate::room::{Room, Seat};

/// What those of all partitions share.
pub(super) struct Inflow {
    manager: Arc<Manager>,
    room: Arc<Room>,
    losses: Losses,
}

/// A PUT or a DELETE that has been taken in.
pub(super) struct Put {
    pub(super) key: String,
    /// None for a DELETE.
    pub(super) payload: Option<Bytes>,
    attachment: Option<Bytes>,
    since: Instant,
    /// Until it is done.
    pub(super) seat: Seat,
}

/// Takes those of a partition in, on Zenoh's threads.
#[derive(Clone)]
pub(super) struct Inlet {
    inflow: Arc<Inflow>,
    place: Arc<Place>,
    /// Bounded by the room.
    queue: mpsc::UnboundedSender<Put>,
}

/// Gives those of a partition out, until the inlet and its clones are gone.
pub(super) struct Outlet {
    inflow: Arc<Inflow>,
    place: Arc<Place>,
    queue: mpsc::UnboundedReceiver<Put>,
}

impl Inflow {
    /// For partitions of this node; `lost` says what it means that one is lost.
    pub(super) fn new(manager: Arc<Manager>, lost: &'static str) -> Arc<Self> {
        Arc::new(Self { manager, room: intake(), losses: Losses::of(lost) })
    }

    /// A way in and out for a partition.
    pub(super) fn open(self: &Arc<Self>, place: &Arc<Place>) -> (Inlet, Outlet) {
        let (sender, queue) = mpsc::unbounded_channel();
        let inlet = Inlet { inflow: Arc::clone(self), place: Arc::clone(place), queue: sender };
        (inlet, Outlet { inflow: Arc::clone(self), place: Arc::clone(place), queue })
    }

    /// Counts one that is lost.
    pub(super) fn lose(&self, place: &Place, reason: &dyn Display) {
        self.losses.count(place, reason);
    }
}

impl Inlet {
    pub(super) fn take(&self, sample: &Sample) {
        let payload = (sample.kind() == SampleKind::Put).then(|| copied(sample.payload()));
        let attachment = sample.attachment().map(copied);
        let key = sample.key_expr().as_str().to_owned();
        let bytes = payload.as_ref().map_or(0, Bytes::len) + attachment.as_ref().map_or(0, Bytes::len);
        let Ok(seat) = self.inflow.room.enter(bytes) else {
            return self.inflow.lose(&self.place, &"they come faster than they are made records");
        };
        // An error says that the partition has gone.
        drop(self.queue.send(Put { key, payload, attachment, since: Instant::now(), seat }));
    }
}

impl Outlet {
    /// The partition.
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// The next one that is for this node to make a record of: at once, as with another leader that one does it.
    pub(super) async fn next(&mut self) -> Option<Put> {
        loop {
            let put = self.queue.recv().await?;
            match leading(&self.inflow.manager, &self.place, put.since).await {
                Leading::Here => return Some(put),
                Leading::Elsewhere => {}
                Leading::Nobody => self.inflow.lose(&self.place, &"the partition has no leader"),
            }
        }
    }
}

impl Put {
    /// What travels beside it.
    pub(super) fn metadata(&self) -> Result<MetadataMap, Status> {
        attachment::metadata(self.attachment.as_deref())
    }
}

/// Refuses a payload of more than `max` bytes.
pub(super) fn within(max: usize, payload: &Bytes) -> Result<(), Status> {
    let bytes = payload.len();
    if bytes <= max {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("{bytes} bytes: expected at most {max}")))
}
