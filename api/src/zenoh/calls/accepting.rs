//! Calls that are asked for by PUT, without an answer: they are accepted, and their results asked for later.
//!
//! The replica that leads makes them records. Should two think that they lead, the second record finds the call's id taken and
//! is none.

use std::sync::Arc;

use bytes::Bytes;
use odgm_proto::odgm::v1::InvokeRequest;
use odgm_proto::odgm::v1::calls_server::Calls as _;
use odgm_proto::oprc::ObjectInvocationRequest;
use tokio::task::JoinSet;
use tonic::{Request, Status};

use crate::services::{Calls, Shared};
use crate::zenoh::answers::decoded;
use crate::zenoh::inflow::{Inflow, Inlet, Outlet, Put, within};
use crate::zenoh::limits::ACCEPTED_AT_ONCE;
use crate::zenoh::places::Place;

/// Either is read as the latter.
const EXPECTED: &str = "an InvocationRequest or ObjectInvocationRequest";

/// What all partitions share.
pub(in crate::zenoh) struct Accepting {
    shared: Arc<Shared>,
    calls: Calls,
    inflow: Arc<Inflow>,
}

impl Accepting {
    pub(in crate::zenoh) fn new(shared: Arc<Shared>) -> Self {
        let inflow =
            Inflow::new(Arc::clone(&shared.manager), "calls that were PUT over Zenoh were not accepted");
        Self { calls: Calls(Arc::clone(&shared)), shared, inflow }
    }

    /// Where those of a partition come in, and what accepts them until the inlet and its clones are gone.
    pub(in crate::zenoh) fn open(
        self: &Arc<Self>,
        place: &Arc<Place>,
    ) -> (Inlet, impl Future<Output = ()> + Send + use<>) {
        let (inlet, outlet) = self.inflow.open(place);
        (inlet, Arc::clone(self).accept_all(outlet))
    }

    async fn accept_all(self: Arc<Self>, mut outlet: Outlet) {
        let mut under_way = JoinSet::new();
        while let Some(put) = outlet.next().await {
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= ACCEPTED_AT_ONCE {
                under_way.join_next().await;
            }
            let (accepting, place) = (Arc::clone(&self), Arc::clone(outlet.place()));
            under_way.spawn(async move {
                if let Err(status) = accepting.accept(&place, put).await {
                    accepting.inflow.lose(&place, &status.message());
                }
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    async fn accept(&self, place: &Place, put: Put) -> Result<(), Status> {
        let metadata = put.metadata()?;
        let Put { key, payload, seat, .. } = put;
        // A DELETE asks for nothing here.
        let Some(payload) = payload else { return Ok(()) };
        let mut request = Request::new(self.request(place, &key, payload)?);
        *request.metadata_mut() = metadata;
        let accepted = self.calls.invoke(request).await;
        drop(seat);
        accepted.map(|_| ())
    }

    /// The request, as the key has it: what it says of itself does not matter.
    fn request(&self, place: &Place, key: &str, payload: Bytes) -> Result<InvokeRequest, Status> {
        let (callee, invocation_id) = place.accepted(key).ok_or_else(|| {
            Status::invalid_argument(format!("{key} is no one call: expected a key without wildcards"))
        })?;
        within(self.shared.limits.request_bytes, &payload)?;
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
