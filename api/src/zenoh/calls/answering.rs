//! Calls whose clients wait for the answer, and results that clients ask for.

use std::sync::Arc;

use bytes::Bytes;
use odgm_proto::odgm::v1::calls_server::Calls as _;
use odgm_proto::odgm::v1::{CallOutcome, GetResultRequest, GetResultResponse};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest, ResponseStatus};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use crate::convert::calls::response_status;
use crate::services::{Calls, Functions, Shared, function};
use crate::status;
use crate::zenoh::answers::{Answered, Found, Refusal, decoded};
use crate::zenoh::attachment;
use crate::zenoh::desk::Asked;
use crate::zenoh::places::{Callee, Place};

/// Finds answers to what is asked of functions.
pub(in crate::zenoh) struct CallAnswers {
    shared: Arc<Shared>,
    functions: Functions,
    calls: Calls,
}

/// Why a function was not called: also that is a response, by its status.
struct NotCalled {
    status: ResponseStatus,
    text: String,
}

impl CallAnswers {
    pub(in crate::zenoh) fn new(shared: &Arc<Shared>) -> Self {
        let (functions, calls) = (Functions(Arc::clone(shared)), Calls(Arc::clone(shared)));
        Self { shared: Arc::clone(shared), functions, calls }
    }

    /// Calls a function, and answers with a response in any case.
    pub(in crate::zenoh) async fn call(&self, asked: &Asked) -> Found {
        let key = asked.query.key_expr();
        let Some(callee) = asked.place.called(key) else {
            // With wildcards it may be about something else, that others answer.
            if !asked.place.has_calls(key) {
                return Ok(Answered::default());
            }
            let text = format!(
                "{key} names no one function: expected invokes/FUNCTION or objects/ID/invokes/FUNCTION, without wildcards"
            );
            return Err(text.into());
        };
        Ok(match self.ended(asked, callee).await {
            Ok(answered) => answered,
            Err(NotCalled { status, text }) => response(status, text),
        })
    }

    async fn ended(&self, asked: &Asked, callee: Callee) -> Result<Answered, NotCalled> {
        let metadata = attachment::metadata(asked.attachment.as_deref())?;
        let request = self.request(&asked.place, asked.payload.clone(), callee)?;
        let ended = self.functions.call(&metadata, Ok(request)).await?;
        let status = response_status(ended.finished.status);
        let mut beside = MetadataMap::new();
        status::note_offset(&mut beside, ended.offset);
        let attachment = attachment::of_answer(&beside);
        let answered = match ended.response() {
            Ok(answer) => one(&answer.into_inner()),
            Err(refused) => response(status, refused.message().to_owned()),
        };
        Ok(Answered { attachment, ..answered })
    }

    /// The request, as the key has it: what it says of itself does not matter.
    fn request(
        &self,
        place: &Place,
        payload: Option<Bytes>,
        callee: Callee,
    ) -> Result<function::Asked, NotCalled> {
        let expected =
            if callee.object.is_some() { "an ObjectInvocationRequest" } else { "an InvocationRequest" };
        let payload = payload.filter(|payload| !payload.is_empty());
        let payload =
            payload.ok_or_else(|| NotCalled::because(format!("payload required: expected {expected}")))?;
        let (bytes, max) = (payload.len(), self.shared.limits.request_bytes);
        if bytes > max {
            let text =
                format!("the payload has {bytes} bytes: expected at most {max} (ODGM_MAX_REQUEST_BYTES)");
            return Err(NotCalled::because(text));
        }
        let (cls_id, partition_id, fn_id) = (place.class().to_owned(), place.index(), callee.function);
        let Some(object) = callee.object else {
            let request: InvocationRequest = decoded(payload, expected)?;
            return Ok(function::Asked::by_itself(InvocationRequest {
                cls_id,
                partition_id,
                fn_id,
                ..request
            })?);
        };
        let request: ObjectInvocationRequest = decoded(payload, expected)?;
        let request = ObjectInvocationRequest {
            cls_id,
            partition_id,
            fn_id,
            object_id: 0,
            object_id_str: Some(object),
            ..request
        };
        Ok(function::Asked::on_object(&self.shared.rules, request)?)
    }

    /// What came of an accepted call.
    pub(in crate::zenoh) async fn result(&self, asked: &Asked) -> Found {
        let key = asked.query.key_expr();
        let Some((callee, id)) = asked.place.result(key) else {
            if !asked.place.has_calls(key) {
                return Ok(Answered::default());
            }
            let text = format!(
                "{key} names no one call: expected results/FUNCTION/async/ID or objects/ID/results/FUNCTION/async/ID, \
                 without wildcards"
            );
            return Err(text.into());
        };
        let mut request = Request::new(GetResultRequest {
            cls_id: asked.place.class().to_owned(),
            partition_id: asked.place.index(),
            invocation_id: id,
            wait_ms: 0,
        });
        *request.metadata_mut() = attachment::metadata(asked.attachment.as_deref())?;
        let is_here = || self.shared.manager.partition(asked.place.class(), asked.place.index()).is_ok();
        match self.calls.get_result(request).await {
            Ok(found) => result(&callee, found.into_inner()),
            Err(status) if status.code() == Code::NotFound && is_here() => Err(NOT_FOUND.into()),
            Err(status) => Err(status.into()),
        }
    }
}

/// There is no call of that id, or it is another one's.
const NOT_FOUND: &str = "not found";

/// It waits, or is being made.
const PENDING: &str = "pending";

fn result(callee: &Callee, found: GetResultResponse) -> Found {
    if (&found.fn_id, &found.object_id) != (&callee.function, &callee.object) {
        return Err(NOT_FOUND.into());
    }
    let answered = match (found.outcome, found.state.as_str()) {
        (Some(outcome), _) => ended(found.invocation_id, outcome),
        (None, PENDING) => return Err(PENDING.into()),
        (None, _) => InvocationResponse {
            payload: Some(found.reason.into()),
            status: ResponseStatus::SystemError.into(),
            invocation_id: found.invocation_id,
            ..InvocationResponse::default()
        },
    };
    let mut beside = MetadataMap::new();
    if let Some(offset) = found.ended_offset {
        status::note_offset(&mut beside, odgm_log::Offset(offset));
    }
    Ok(Answered { attachment: attachment::of_answer(&beside), ..one(&answered) })
}

fn ended(invocation_id: String, outcome: CallOutcome) -> InvocationResponse {
    let has_answer = outcome.status() == ResponseStatus::Okay || !outcome.payload.is_empty();
    // Where the function answered nothing, what went wrong stands in its place, as with a call that is waited for.
    let payload = if has_answer { outcome.payload } else { outcome.detail.into() };
    InvocationResponse {
        payload: Some(payload),
        status: outcome.status,
        headers: outcome.headers,
        invocation_id,
    }
}

/// What is answered where there is no room for a call.
pub(in crate::zenoh) fn busy(text: String) -> Found {
    Ok(response(ResponseStatus::SystemError, text))
}

fn response(status: ResponseStatus, text: String) -> Answered {
    one(&InvocationResponse {
        payload: Some(text.into()),
        status: status.into(),
        ..InvocationResponse::default()
    })
}

fn one(message: &InvocationResponse) -> Answered {
    Answered { bodies: vec![message.encode_to_vec().into()], ..Answered::default() }
}

impl NotCalled {
    /// The request is wrong.
    fn because(text: String) -> Self {
        Self { status: ResponseStatus::InvalidRequest, text }
    }
}

impl From<Refusal> for NotCalled {
    fn from(refusal: Refusal) -> Self {
        Self::because(refusal.to_string())
    }
}

impl From<Status> for NotCalled {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        let status = match status.code() {
            Code::InvalidArgument => ResponseStatus::InvalidRequest,
            _ => ResponseStatus::SystemError,
        };
        Self { status, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(state: &str) -> GetResultResponse {
        GetResultResponse {
            invocation_id: "i-1".into(),
            state: state.into(),
            fn_id: "count".into(),
            object_id: Some("iah".into()),
            accepted_offset: 3,
            ..Default::default()
        }
    }

    fn told(found: GetResultResponse) -> Result<(InvocationResponse, bool), String> {
        let callee = Callee { object: Some("iah".into()), function: "count".into() };
        let answered = result(&callee, found).map_err(|refusal| refusal.to_string())?;
        let response =
            InvocationResponse::decode(answered.bodies[0].clone()).map_err(|error| error.to_string())?;
        Ok((response, answered.attachment.is_some()))
    }

    #[test]
    fn a_result_is_a_response_when_the_call_has_ended_or_was_given_up() {
        assert_eq!(told(found("pending")).expect_err("not yet"), "pending");
        let others = GetResultResponse { fn_id: "other".into(), ..found("ended") };
        assert_eq!(told(others).expect_err("another function's"), "not found");

        let outcome = |status: ResponseStatus, payload: &'static str| CallOutcome {
            status: status.into(),
            payload: payload.into(),
            detail: "no runway".into(),
            ..Default::default()
        };
        let ended =
            |outcome| GetResultResponse { outcome: Some(outcome), ended_offset: Some(7), ..found("ended") };
        let texts = [
            ended(outcome(ResponseStatus::Okay, "")),
            ended(outcome(ResponseStatus::AppError, "{}")),
            ended(outcome(ResponseStatus::SystemError, "")),
            GetResultResponse { reason: "20 attempts failed".into(), ..found("dead") },
        ]
        .map(|found| {
            let (response, has_offset) = told(found).expect("a response");
            let payload = response.payload.clone().unwrap_or_default();
            format!("{:?} {payload:?} {} offset: {has_offset}", response.status(), response.invocation_id)
        });
        insta::assert_snapshot!(texts.join("\n"), @r#"
        Okay b"" i-1 offset: true
        AppError b"{}" i-1 offset: true
        SystemError b"no runway" i-1 offset: true
        SystemError b"20 attempts failed" i-1 offset: false
        "#);
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told_apart_from_what_is_wrong_here() {
        let code = |status: Status| NotCalled::from(status).status;
        assert_eq!(code(Status::invalid_argument("no id")), ResponseStatus::InvalidRequest);
        assert_eq!(code(Status::not_found("no function")), ResponseStatus::SystemError);
        assert_eq!(code(Status::unavailable("stopping")), ResponseStatus::SystemError);
    }
}
