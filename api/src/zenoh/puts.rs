//! Objects that are written without an answer, by PUT and DELETE.
//!
//! The replica that leads makes them records, in the order in which they came.

use std::sync::Arc;

use bytes::Bytes;
use odgm_log::Body;
use odgm_proto::oprc::{ObjData, SingleObjectRequest};
use tonic::Status;

use super::answers::{decoded, set_request};
use super::inflow::{Inflow, Inlet, Outlet, Put, within};
use super::places::Place;
use crate::request;
use crate::services::{Command, Shared, command};

/// What all partitions share.
pub(super) struct Puts {
    shared: Arc<Shared>,
    inflow: Arc<Inflow>,
}

impl Puts {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let lost = "PUTs and DELETEs over Zenoh were not applied";
        Self { inflow: Inflow::new(Arc::clone(&shared.manager), lost), shared }
    }

    /// Where those of a partition come in, and what applies them until the inlet is gone.
    pub(super) fn open(
        self: &Arc<Self>,
        place: &Arc<Place>,
    ) -> (Inlet, impl Future<Output = ()> + Send + use<>) {
        let (inlet, outlet) = self.inflow.open(place);
        (inlet, Arc::clone(self).apply_all(outlet))
    }

    async fn apply_all(self: Arc<Self>, mut outlet: Outlet) {
        while let Some(put) = outlet.next().await {
            if let Err(status) = self.submit(outlet.place(), put) {
                self.inflow.lose(outlet.place(), &status.message());
            }
        }
    }

    fn submit(self: &Arc<Self>, place: &Arc<Place>, put: Put) -> Result<(), Status> {
        let cause = request::cause(&put.metadata()?)?;
        let Put { key, payload, seat, .. } = put;
        let command = self.command(place, &key, payload)?;
        let (partition, payload) = self.shared.prepare(cause, command)?;
        let (puts, place) = (Arc::clone(self), Arc::clone(place));
        let is_deletion = matches!(payload.body, Body::Delete(_));
        partition.submit(payload, move |answer| {
            drop(seat);
            if let Err(status) = puts.shared.answer(answer, is_deletion) {
                puts.inflow.lose(&place, &status.message());
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
        within(self.shared.limits.request_bytes, &payload)?;
        let data: ObjData = decoded(payload, "an ObjData")
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        command::set(rules, set_request(place, object, data))
    }
}
