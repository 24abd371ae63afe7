//! `oprc.OprcFunction`: calls of functions.
//!
//! This build keeps the routes of a collection and does not call functions yet; it says so for a function that has a
//! route, and what is missing for one that has none.

use std::sync::Arc;

use odgm_proto::oprc::oprc_function_server::OprcFunction;
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tonic::{Request, Response, Status};

use super::Shared;
use crate::identity;
use crate::request::shortened;

/// The service.
pub(crate) struct Functions(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl OprcFunction for Functions {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let request = request.into_inner();
        identity::partition(request.partition_id)?;
        Err(self.refusal(&request.cls_id, &request.fn_id)?)
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let request = request.into_inner();
        self.0.rules.identity.object(request.object_id_str, request.object_id, false)?;
        self.0.partition(&request.cls_id, request.partition_id)?;
        Err(self.refusal(&request.cls_id, &request.fn_id)?)
    }
}

impl Functions {
    /// Why a function cannot be called: because of the request (the error), or because of this build.
    fn refusal(&self, class: &str, function: &str) -> Result<Status, Status> {
        let collection = self.0.collection(class)?;
        let routes = collection.definition().wire.invocations.as_ref();
        let has_route = routes.is_some_and(|routes| {
            routes.fn_routes.contains_key(function) && !routes.disabled_fn.iter().any(|name| name == function)
        });
        if !has_route {
            let function = shortened(function);
            return Err(Status::not_found(format!(
                "collection {class:?} has no route for function {function:?}"
            )));
        }
        Ok(Status::unimplemented("this build does not call functions yet"))
    }
}
