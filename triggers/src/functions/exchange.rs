//! One attempt over one connection, and what its end says.

use std::error::Error as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use super::breaker::Verdict;
use super::endpoint::Seat;
use super::link::{Wire, WireError, chain};
use super::message::{self, Message};
use super::settings::TEXT;
use crate::call::Call;
use crate::invoker::{Answer, Failure};

/// Why there was no answer.
pub(crate) enum Unanswered {
    /// The connection was closed before anything was sent: another will do.
    Unsent(String),
    /// Whatever else.
    Failed(Failure),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Makes a call over the connection of a seat, until the deadline.
pub(crate) async fn exchange(mut seat: Seat, call: &Call, deadline: Instant) -> Result<Answer, Unanswered> {
    let wire = match timeout_at(deadline, seat.link.made()).await {
        Ok(Ok(wire)) => wire,
        Ok(Err(reason)) => {
            seat.settle(Verdict::Bad, Some(&reason));
            let reason = format!("{}: {reason}", seat.address());
            return Err(Failure::Unreachable { reason }.into());
        }
        Err(_) => {
            let waited = format!("no connection within {} ms", call.timeout.as_millis());
            seat.settle(unanswered(call, seat.patience()), Some(&waited));
            return Err(Failure::Unreachable { reason: format!("{}: {waited}", seat.address()) }.into());
        }
    };
    let heard = wire.heard();
    let response = timeout_at(deadline, send(&seat, wire, call, deadline)).await;
    let answered = match response {
        Ok(Ok(response)) => message::answer(response),
        Ok(Err(status)) => {
            let said = heard.load(Ordering::Relaxed);
            match read(&status, said, seat.answer_bytes()) {
                Ok(failure) => Err(failure),
                Err(unsent) => {
                    seat.broken();
                    return Err(Unanswered::Unsent(format!("{}: {unsent}", seat.address())));
                }
            }
        }
        Err(_) => Err(Failure::Timeout { after: call.timeout }),
    };
    let answered = answered.map_err(|failure| late(failure, call, deadline));
    let (verdict, reason) = match &answered {
        Ok(_) => (Verdict::Good, None),
        Err(failure) => (verdict(failure, call, seat.patience()), Some(failure.to_string())),
    };
    seat.settle(verdict, reason.as_deref());
    Ok(answered?)
}

async fn send(
    seat: &Seat,
    wire: Wire,
    call: &Call,
    deadline: Instant,
) -> Result<odgm_proto::oprc::InvocationResponse, Status> {
    let mut client =
        OprcFunctionClient::with_origin(wire, seat.origin()).max_decoding_message_size(seat.answer_bytes());
    let left = deadline.saturating_duration_since(Instant::now());
    let response = match Message::of(call) {
        Message::Function(message) => client.invoke_fn(message::request(call, message, left)).await,
        Message::Object(message) => client.invoke_obj(message::request(call, message, left)).await,
    };
    response.map(tonic::Response::into_inner)
}

/// What a status means, given the one that the function itself sent, if it did; the error is that nothing was sent.
fn read(status: &Status, said: i32, answer_bytes: usize) -> Result<Failure, String> {
    if said != Code::Ok as i32 {
        return Ok(Failure::Refused { code: said, message: shortened(status.message()) });
    }
    if let Some(cause) = status.source() {
        if is_unsent(status) {
            return Err(chain(cause));
        }
        return Ok(Failure::Garbled { reason: shortened(&chain(cause)) });
    }
    // tonic's word for a message that is too large. Another attempt would give the same.
    if status.code() == Code::OutOfRange {
        return Ok(too_large(answer_bytes));
    }
    Ok(Failure::Garbled { reason: shortened(status.message()) })
}

/// An answer that is larger than that is not taken in.
pub fn too_large(answer_bytes: usize) -> Failure {
    let message = format!("its answer is too large; expected at most {answer_bytes} bytes");
    Failure::Refused { code: Code::OutOfRange as i32, message }
}

/// Whether a request was not sent, or not looked at, by what tonic made of it.
pub(crate) fn is_unsent(status: &Status) -> bool {
    let cause = status.source().and_then(|cause| cause.downcast_ref::<WireError>());
    matches!(cause, Some(WireError::Unsent(_)))
}

/// A server that keeps the deadline itself says so at the same moment as it passes here.
fn late(failure: Failure, call: &Call, deadline: Instant) -> Failure {
    let is_late = match &failure {
        Failure::Refused { code, .. } => {
            let code = Code::from_i32(*code);
            matches!(code, Code::DeadlineExceeded | Code::Cancelled) && deadline <= Instant::now()
        }
        _ => false,
    };
    if is_late { Failure::Timeout { after: call.timeout } } else { failure }
}

/// Whether a failure speaks against the endpoint.
fn verdict(failure: &Failure, call: &Call, patience: Duration) -> Verdict {
    match failure {
        Failure::Unreachable { .. } | Failure::Garbled { .. } => Verdict::Bad,
        Failure::Timeout { .. } => unanswered(call, patience),
        Failure::Refused { code, .. } if *code == Code::Unavailable as i32 => Verdict::Bad,
        Failure::Refused { .. } => Verdict::Good,
        Failure::NoClass { .. }
        | Failure::NoPartition { .. }
        | Failure::NoFunction { .. }
        | Failure::Disabled { .. }
        | Failure::Standby { .. }
        | Failure::Misconfigured { .. }
        | Failure::Held { .. } => Verdict::Nothing,
    }
}

/// What it says that no answer came in the time of a call.
fn unanswered(call: &Call, patience: Duration) -> Verdict {
    if call.is_given_its_time || call.timeout >= patience { Verdict::Bad } else { Verdict::Nothing }
}

/// Enough of a text that somebody else wrote.
pub(crate) fn shortened(text: &str) -> String {
    text.char_indices().nth(TEXT).map_or(text, |(at, _)| &text[..at]).to_owned()
}
