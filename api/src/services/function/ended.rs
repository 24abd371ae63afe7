//! How a call ended: from what the invoker says to a record, and from the record to what the client is told.

use std::collections::BTreeMap;
use std::time::Duration;

use odgm_log::Offset;
use odgm_log::body::calls::{Finished, Status as Ending};
use odgm_proto::oprc::InvocationResponse;
use odgm_triggers::{Answer, Failure};
use tonic::{Code, Response, Status};

use crate::convert::calls::response_status;
use crate::status;

/// In the headers of an outcome without an answer of the function: the number of the gRPC status that its client got.
const CODE: &str = "odgm-code";

/// Beside it, where the status is the function's own: its words.
const MESSAGE: &str = "odgm-message";

/// Of a call with a request id: what tells its request from others.
const REQUEST: &str = "odgm-request";

/// What of the headers of an outcome is none of the function's.
const OWN: [&str; 3] = [CODE, MESSAGE, REQUEST];

/// The longest message that a client is told, in bytes: it travels in a header.
const MESSAGE_BYTES: usize = 2 << 10;

/// A call that has ended, and the record that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The call's id.
    pub(crate) invocation: String,
    /// The record of its outcome.
    pub(crate) offset: Offset,
    /// How it ended.
    pub(crate) finished: Finished,
}

impl Ended {
    /// What the client is told: the function's answer, whatever it says, or the status in the place of one.
    pub(crate) fn response(self) -> Result<Response<InvocationResponse>, Status> {
        if let Some(status) = failure(&self.finished) {
            return Err(status::recorded(self.offset, status));
        }
        let mut response = Response::new(InvocationResponse {
            status: response_status(self.finished.status).into(),
            headers: Self::headers(&self.finished),
            payload: Some(self.finished.payload.0),
            invocation_id: self.invocation,
        });
        status::note_offset(response.metadata_mut(), self.offset);
        Ok(response)
    }

    /// The headers of the function's answer.
    pub(crate) fn headers(finished: &Finished) -> BTreeMap<String, String> {
        finished.headers.iter().filter(|(name, _)| !is_own(name)).cloned().collect()
    }

    /// Whether it answers that request, as far as its record tells.
    pub(super) fn is_of(&self, request: &str) -> bool {
        header(&self.finished, REQUEST).is_none_or(|recorded| recorded == request)
    }
}

fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}

fn header<'a>(finished: &'a Finished, name: &str) -> Option<&'a str> {
    let found = finished.headers.iter().find(|(header, _)| header == name);
    found.map(|(_, value)| value.as_str())
}

/// What is recorded of an attempt that took so long, for a request that may be asked again.
pub(super) fn finished(
    answered: Result<Answer, Failure>,
    took: Duration,
    request: Option<String>,
) -> Finished {
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    own.extend(request.map(|request| (REQUEST.to_owned(), request)));
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match answered {
        Ok(Answer { status, payload, mut headers }) => {
            headers.retain(|name, _| !is_own(name));
            headers.extend(own);
            let detail = if status.is_complete() { String::new() } else { said(status, &payload) };
            Finished {
                status,
                detail,
                payload: payload.into(),
                headers: headers.into_iter().collect(),
                took_us,
            }
        }
        Err(failure) => {
            own.insert(CODE.to_owned(), (failure.code() as i32).to_string());
            if let Failure::Refused { message, .. } = &failure {
                own.insert(MESSAGE.to_owned(), message.clone());
            }
            let headers = own.into_iter().collect();
            let detail = failure.to_string();
            Finished { status: failure.status(), detail, headers, took_us, ..Finished::default() }
        }
    }
}

/// The status in the place of an answer, if there was none.
fn failure(finished: &Finished) -> Option<Status> {
    let code = Code::from_i32(header(finished, CODE)?.parse().ok()?);
    let message = brief(header(finished, MESSAGE).unwrap_or(&finished.detail));
    Some(match code {
        Code::Unavailable => status::unavailable(message),
        // No status of a failure: whoever says so has no answer either.
        Code::Ok => Status::unknown(message),
        code => Status::new(code, message),
    })
}

/// What of a message fits into a header.
fn brief(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES {
        return message.to_owned();
    }
    let end = message.floor_char_boundary(MESSAGE_BYTES);
    format!("{}...", &message[..end])
}

/// What an answer says that is no success: its first line, if it is text.
fn said(status: Ending, payload: &[u8]) -> String {
    let line = std::str::from_utf8(payload).unwrap_or_default().lines().next().unwrap_or_default().trim();
    let name = status.name();
    if line.is_empty() {
        format!("the function answered with {name}")
    } else {
        format!("the function answered with {name}: {}", brief(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_micros(1_500);

    fn told(answered: Result<Answer, Failure>) -> String {
        let finished = finished(answered, TOOK, Some("1f".into()));
        assert!(finished.headers.is_sorted(), "{:?}", finished.headers);
        let ended = Ended { invocation: "i".into(), offset: Offset(7), finished };
        assert!(ended.is_of("1f") && !ended.is_of("2f"));
        let recorded = format!("{} {:?}", ended.finished.status.name(), ended.finished.detail);
        let told = match ended.response() {
            Ok(response) => {
                let InvocationResponse { payload, status, headers, .. } = response.into_inner();
                format!("status {status} {headers:?} {payload:?}")
            }
            Err(status) => {
                let outcome = status.metadata().get(status::OUTCOME).map(|outcome| outcome.as_bytes());
                assert_eq!(outcome, Some(b"applied".as_slice()));
                format!("{:?}: {}", status.code(), status.message())
            }
        };
        format!("{recorded} -> {told}")
    }

    #[test]
    fn what_the_client_is_told_follows_from_the_record_alone() {
        let answer = |status, payload: &'static str| Answer {
            status,
            payload: payload.into(),
            headers: BTreeMap::from([
                ("content-type".to_owned(), "text/plain".to_owned()),
                (CODE.to_owned(), "not the function's to say".to_owned()),
            ]),
        };
        let told = [
            told(Ok(answer(Ending::Completed, "42"))),
            told(Ok(answer(Ending::ApplicationError, "no such flight\nand more"))),
            told(Err(Failure::Refused { code: 7, message: "not you".into() })),
            told(Err(Failure::Refused { code: 14, message: "restarting".into() })),
            told(Err(Failure::Unreachable { reason: "connection refused".into() })),
            told(Err(Failure::Timeout { after: Duration::from_millis(20) })),
            told(Err(Failure::Garbled { reason: "no protobuf".into() })),
        ];
        insta::assert_snapshot!(told.join("\n"), @r#"
        completed "" -> status 0 {"content-type": "text/plain"} Some(b"42")
        application_error "the function answered with application_error: no such flight" -> status 2 {"content-type": "text/plain"} Some(b"no such flight\nand more")
        application_error "the function answered with PERMISSION_DENIED: not you" -> PermissionDenied: not you
        application_error "the function answered with UNAVAILABLE: restarting" -> Unavailable: restarting
        system_error "the function was not reached: connection refused" -> Unavailable: the function was not reached: connection refused
        system_error "the function did not answer within 20 ms" -> DeadlineExceeded: the function did not answer within 20 ms
        system_error "the function gave no proper answer: no protobuf" -> Internal: the function gave no proper answer: no protobuf
        "#);
    }

    #[test]
    fn a_message_is_cut_to_what_a_header_holds() {
        let long = brief(&"é".repeat(MESSAGE_BYTES));
        assert!(long.len() <= MESSAGE_BYTES + 3 && long.ends_with("..."));
    }
}
