//! Calls that are accepted, and made later.

use odgm_log::body::Invoke;
use odgm_log::{Body, Payload};
use odgm_proto::odgm::v1::{InvokeRequest, InvokeResponse};
use odgm_triggers::Failure;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::identity::{self, Kind};
use crate::request;
use crate::services::function::{check_rules, function, new_id};
use crate::services::{PATIENCE, Shared};

/// The longest id of an invocation, in bytes.
const ID_BYTES: usize = 160;

/// Makes the request for a call a record.
pub(super) async fn accept(
    shared: &Shared,
    metadata: &MetadataMap,
    request: InvokeRequest,
) -> Result<InvokeResponse, Status> {
    let metadata = request::with_options(metadata, &request.options)?;
    let cause = request::cause(&metadata)?;
    let index = identity::partition(request.partition_id)?;
    let object = request.object_id.map(|id| shared.rules.identity.check(Kind::Object, id)).transpose()?;
    let function = function(request.fn_id)?;
    let invocation = match request.invocation_id {
        chosen if chosen.is_empty() => chosen_id(cause.request_id.as_deref())?,
        chosen => invocation_id(chosen)?,
    };
    let partition = shared.partition(&request.cls_id, index)?;
    check_rules(&partition, cause.depth_of_call())?;
    // It would be given up at once, or wait until somebody changes or enables it.
    if let Err(
        failure @ (Failure::NoClass { .. }
        | Failure::NoFunction { .. }
        | Failure::Disabled { .. }
        | Failure::Misconfigured { .. }),
    ) = shared.calling.functions.find(&request.cls_id, &function)
    {
        return Err(Status::new(failure.code(), failure.to_string()));
    }
    let body = Body::Invoke(Invoke {
        invocation: invocation.clone(),
        object,
        function,
        options: request.options.into_iter().collect(),
        payload: request.payload.into(),
    });
    let within = request::timeout(metadata.as_ref()).unwrap_or(PATIENCE);
    let answer = partition.propose_within(Payload { cause, body }, within).await;
    let written = shared.answer(answer, false)?;
    Ok(InvokeResponse { invocation_id: invocation, offset: written.offset.get() })
}

/// An id for a call whose client leaves it open: of the same request the same, so that it is one call.
fn chosen_id(request_id: Option<&str>) -> Result<String, Status> {
    let Some(request_id) = request_id else { return new_id() };
    Ok(invocation_id(request_id.to_owned()).unwrap_or_else(|_| {
        let hash = blake3::hash(request_id.as_bytes());
        hash.to_hex()[..32].to_owned()
    }))
}

/// Checks the id under which the result of a call is asked for.
pub(super) fn invocation_id(id: String) -> Result<String, Status> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(allowed) {
        return Ok(id);
    }
    let found = request::shortened(&id);
    let expected = format!("expected 1 to {ID_BYTES} of A-Z a-z 0-9 . _ : -");
    Err(Status::invalid_argument(format!("invalid invocation_id {found:?}: {expected}")))
}
