//! Functions of partitions of any node.

use odgm_log::NodeId;
use odgm_proto::oprc::oprc_function_server::OprcFunction;
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::Anywhere;
use crate::services::relay::{Way, is_unsent, onward};
use crate::status::{NODES, OUTCOME, not_applied, unavailable, unknown};

/// What is answered to a call.
type Answered = Result<Response<InvocationResponse>, Status>;

#[tonic::async_trait]
impl OprcFunction for Anywhere {
    async fn invoke_fn(&self, request: Request<InvocationRequest>) -> Answered {
        let (class, partition) = (&request.get_ref().cls_id, request.get_ref().partition_id);
        let Some(nodes) = self.shared.elsewhere(request.metadata(), class, partition) else {
            return self.functions.invoke_fn(request).await;
        };
        let (metadata, _, request) = request.into_parts();
        self.relay(&metadata, &nodes, &request, async |way, request| way.functions().invoke_fn(request).await)
            .await
    }

    async fn invoke_obj(&self, request: Request<ObjectInvocationRequest>) -> Answered {
        let (class, partition) = (&request.get_ref().cls_id, request.get_ref().partition_id);
        let Some(nodes) = self.shared.elsewhere(request.metadata(), class, partition) else {
            return self.functions.invoke_obj(request).await;
        };
        let (metadata, _, request) = request.into_parts();
        self.relay(&metadata, &nodes, &request, async |way, request| {
            way.functions().invoke_obj(request).await
        })
        .await
    }
}

impl Anywhere {
    /// Asks the nodes that have the partition, one after the other, until one makes the call.
    async fn relay<Q: Clone>(
        &self,
        metadata: &MetadataMap,
        nodes: &[NodeId],
        request: &Q,
        call: impl AsyncFn(&Way, Request<Q>) -> Answered,
    ) -> Answered {
        let mut refused = unavailable("no node has the partition");
        for &node in nodes {
            let way = match self.shared.way(&[node]).await {
                Ok(way) => way,
                Err(status) => {
                    refused = status;
                    continue;
                }
            };
            match call(&way, onward(metadata, request.clone())).await {
                // It was moved away from there, or has not come there yet.
                Err(status) if status.metadata().contains_key(NODES) => refused = status,
                // It has said what became of the call.
                Err(status) if status.metadata().contains_key(OUTCOME) => return Err(status),
                // It went away after the last request, and this one was not sent.
                Err(status) if is_unsent(&status) => refused = way.gone(&status),
                answered => return way.heed(answered).map_err(|status| lost(node, &status)),
            }
        }
        Err(not_applied(refused))
    }
}

/// A call that may have been made, and may go on.
fn lost(node: NodeId, status: &Status) -> Status {
    let message = format!(
        "node {node}, which has the partition, did not say what became of the call: {}",
        status.message()
    );
    unknown(Status::new(status.code(), message))
}
