//! What clients are told when something cannot be done: a code, a message that says what was expected, and for
//! writes whether they were certainly not applied.

use std::time::Duration;

use odgm_log::{NodeId, Offset};
use odgm_projections::{Error as ViewError, Outcome, Rejection};
use odgm_proto::metadata;
use odgm_replication::{Answer, ProposeError, ReadError};
use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::identity::IdentityError;

/// In the metadata of a refused write: `not-applied`, `unknown`, or `applied` where only the answer failed. Of a call it
/// tells of the record of its outcome.
pub const OUTCOME: &str = "odgm-outcome";

/// In the metadata of an acknowledged write: the offset of its record.
pub const OFFSET: &str = "odgm-offset";

/// In the metadata of `OUT_OF_RANGE` where records have been trimmed: the first offset whose record is kept.
pub const FIRST_OFFSET: &str = "odgm-first-offset";

/// In the metadata of a refusal by a node that has not the partition: the nodes that have it, by commas.
pub const NODES: &str = "odgm-nodes";

/// How long clients should wait before they try again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

impl From<IdentityError> for Status {
    fn from(error: IdentityError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// A write that was refused before it was proposed.
pub(crate) fn not_applied(mut status: Status) -> Status {
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static("not-applied"));
    status
}

/// The same, unless it is said already what became of it.
pub(crate) fn else_not_applied(status: Status) -> Status {
    if status.metadata().contains_key(OUTCOME) { status } else { not_applied(status) }
}

/// A write that may or may not be in the log.
pub(crate) fn unknown(mut status: Status) -> Status {
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static("unknown"));
    status
}

/// A call that has failed, and whose failure is the record at `offset`.
pub(crate) fn recorded(offset: Offset, mut status: Status) -> Status {
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static("applied"));
    note_offset(status.metadata_mut(), offset);
    status
}

/// A write that was applied, but whose answer cannot be given.
pub(crate) fn applied(offset: Offset, error: &dyn std::fmt::Display) -> Status {
    let mut status =
        Status::internal(format!("applied at offset {offset}, but the answer cannot be read: {error}"));
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static("applied"));
    status
}

/// Whether a status says that the write was certainly not applied.
pub(crate) fn is_not_applied(status: &Status) -> bool {
    status.metadata().get(OUTCOME).is_none_or(|outcome| outcome == "not-applied")
}

/// A proposal that did not become an applied record.
pub(crate) fn from_proposal(error: &ProposeError) -> Status {
    let message = error.to_string();
    match error {
        ProposeError::Overloaded { .. } | ProposeError::LowSpace { .. } => {
            not_applied(Status::resource_exhausted(message))
        }
        ProposeError::TooLarge(_) => not_applied(Status::invalid_argument(message)),
        ProposeError::NotLeader { leader: Some(_) } => not_applied(Status::failed_precondition(message)),
        ProposeError::Stopped { .. }
        | ProposeError::Unavailable { .. }
        | ProposeError::NotLeader { leader: None } => not_applied(unavailable(message)),
        ProposeError::Unknown { .. } => unknown(Status::unknown(message)),
    }
}

/// A read that cannot be answered as freshly as it was asked for.
pub(crate) fn from_read(error: &ReadError) -> Status {
    let message = error.to_string();
    match error {
        ReadError::Elsewhere { .. } => Status::failed_precondition(message),
        ReadError::NoLeader
        | ReadError::Unconfirmed { .. }
        | ReadError::Diverged { .. }
        | ReadError::Closed => unavailable(message),
    }
}

/// Says who leads and where, to whoever has to ask there.
pub(crate) fn tell_leader(mut status: Status, leader: NodeId, address: Option<&str>) -> Status {
    let leader = format!("{leader}@{}", address.unwrap_or_default());
    // Numbers and addresses are plain text.
    if let Ok(leader) = leader.parse() {
        status.metadata_mut().insert(metadata::LEADER, leader);
    }
    status
}

/// Says which nodes have what this one has not.
pub(crate) fn tell_nodes(mut status: Status, nodes: &[NodeId]) -> Status {
    let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    // Numbers are plain text.
    if let Ok(nodes) = nodes.join(",").parse() {
        status.metadata_mut().insert(NODES, nodes);
    }
    status
}

/// What an applied record means to whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The record that did it; of a repeated request, the first one.
    pub(crate) offset: Offset,
    /// The object's version after it; 0 if the object does not exist.
    pub(crate) version: u64,
    /// Whether it changed anything.
    pub(crate) changed: bool,
}

/// What came of a proposal, as the answer to whoever asked for it. After a deletion there is no object, whatever
/// version its tombstone has.
pub(crate) fn answer(answer: Answer, is_deletion: bool) -> Result<Written, Status> {
    let applied = answer.map_err(|error| from_proposal(&error))?;
    let written = written(applied.offset, &applied.outcome)?;
    Ok(if is_deletion { Written { version: 0, ..written } } else { written })
}

/// The answer to the record at `offset`.
fn written(offset: Offset, outcome: &Outcome) -> Result<Written, Status> {
    match outcome {
        Outcome::Changed { version } => Ok(Written { offset, version: *version, changed: true }),
        Outcome::Unchanged { version } => Ok(Written { offset, version: *version, changed: false }),
        Outcome::Noted => Ok(Written { offset, version: 0, changed: true }),
        Outcome::Stale => Ok(Written { offset, version: 0, changed: false }),
        Outcome::Duplicate { offset, outcome } => written(*offset, outcome),
        Outcome::VersionMismatch { expected, current } => {
            let mut status = Status::aborted(format!("version mismatch: expected {expected}, got {current}"));
            status.metadata_mut().insert(metadata::VERSION, MetadataValue::from(*current));
            Err(not_applied(status))
        }
        Outcome::Rejected(rejection) => Err(not_applied(rejected(rejection))),
        Outcome::NotUnderstood => Err(not_applied(unavailable(
            "the partition's rules know nothing of calls yet: try again when all nodes that have it are upgraded",
        ))),
        Outcome::RequestIdReused { offset } => Err(not_applied(Status::invalid_argument(format!(
            "{} was used at offset {offset} for a different request: expected a new id for a new request",
            metadata::REQUEST_ID
        )))),
    }
}

/// Why an operation cannot be done.
fn rejected(rejection: &Rejection) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::CrdtMalformed { .. } | Rejection::InvocationIdReused { .. } => {
            Status::invalid_argument(message)
        }
        Rejection::CrdtTooLarge { .. } => Status::failed_precondition(message),
        Rejection::OutboxFull { .. } => Status::resource_exhausted(message),
    }
}

/// Tells of the record that a write became.
pub(crate) fn note(metadata: &mut MetadataMap, written: &Written) {
    note_offset(metadata, written.offset);
    metadata.insert(metadata::VERSION, once(written.version));
}

/// Tells of the record of an outcome.
pub(crate) fn note_offset(metadata: &mut MetadataMap, offset: Offset) {
    metadata.insert(OFFSET, once(offset.get()));
}

/// A value that hardly comes twice: both ends spare the work of remembering it in their header tables.
fn once(number: u64) -> MetadataValue<tonic::metadata::Ascii> {
    let mut value = MetadataValue::from(number);
    value.set_sensitive(true);
    value
}

/// A view that could not answer.
pub(crate) fn from_view(error: &ViewError) -> Status {
    let message = error.to_string();
    match error {
        ViewError::BelowFloor { .. } | ViewError::Ahead { .. } => Status::out_of_range(message),
        _ => {
            tracing::error!(error = %message, "a view could not answer");
            Status::internal(message)
        }
    }
}

/// A refusal of a request that tonic could not read, in words that say what was expected. None if `status` is about
/// anything else.
///
/// Tonic gives no sign of it but its own words, which only this function knows.
pub(crate) fn unreadable(status: &Status, max_bytes: usize) -> Option<Status> {
    const TOO_LARGE: &str = "Error, decoded message length too large: ";
    const NO_MESSAGE: &str = "Missing request message.";
    const CUT_SHORT: &str = "Unexpected EOF decoding stream.";
    const MALFORMED: &str = "failed to decode Protobuf message: ";
    const MISFRAMED: &str = "protocol error: received message with ";

    let said = status.message();
    let message = match status.code() {
        Code::OutOfRange if said.starts_with(TOO_LARGE) => format!(
            "the request message is too large: expected at most {max_bytes} bytes (ODGM_MAX_REQUEST_BYTES)"
        ),
        Code::Internal if said == NO_MESSAGE => "the request has no message: expected one".to_owned(),
        Code::Internal if said == CUT_SHORT => {
            "the request is not a valid message: it ends before its end".to_owned()
        }
        Code::Internal => {
            let reason = said.strip_prefix(MALFORMED).or_else(|| said.strip_prefix(MISFRAMED))?;
            format!("the request is not a valid message: {reason}")
        }
        _ => return None,
    };
    Some(Status::invalid_argument(message))
}

/// Something of ours failed.
pub(crate) fn internal(error: impl std::fmt::Display) -> Status {
    let message = error.to_string();
    tracing::error!(error = %message, "a request failed");
    Status::internal(message)
}

/// Not now, but perhaps soon: with `google.rpc.RetryInfo` in the details.
pub(crate) fn unavailable(message: impl Into<String>) -> Status {
    unavailable_for(message, RETRY_AFTER)
}

/// The same, where it is known when.
pub(crate) fn unavailable_for(message: impl Into<String>, retry_after: Duration) -> Status {
    let message = message.into();
    let details = rpc::Status::retry(Code::Unavailable, &message, retry_after);
    Status::with_details(Code::Unavailable, message, details.encode_to_vec().into())
}

/// The messages of `google.rpc` that error details are made of.
mod rpc {
    use std::time::Duration as StdDuration;

    use prost::Message;
    use tonic::Code;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Duration>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Duration {
        #[prost(int64, tag = "1")]
        seconds: i64,
        #[prost(int32, tag = "2")]
        nanos: i32,
    }

    impl Status {
        /// An error after which the client may try again.
        pub(super) fn retry(code: Code, message: &str, after: StdDuration) -> Self {
            let delay = Duration {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(after.subsec_nanos()).unwrap_or(0),
            };
            let info = RetryInfo { retry_delay: Some(delay) };
            let any = Any {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".into(),
                value: info.encode_to_vec(),
            };
            Self { code: code as i32, message: message.to_owned(), details: vec![any] }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_is_answered_as_the_first_time() {
        let first = Outcome::Changed { version: 3 };
        let again = Outcome::Duplicate { offset: Offset(7), outcome: Box::new(first) };
        let expected = Written { offset: Offset(7), version: 3, changed: true };
        assert_eq!(written(Offset(9), &again).expect("the first answer"), expected);

        let refused = Outcome::VersionMismatch { expected: 2, current: 5 };
        let again = Outcome::Duplicate { offset: Offset(7), outcome: Box::new(refused) };
        let status = written(Offset(9), &again).expect_err("the first refusal");
        assert_eq!((status.code(), status.message()), (Code::Aborted, "version mismatch: expected 2, got 5"));
        assert_eq!(status.metadata().get("odgm-version").map(|v| v.as_bytes()), Some(b"5".as_slice()));
    }

    #[test]
    fn only_an_unknown_outcome_is_said_to_be_unknown() {
        let unknown = from_proposal(&ProposeError::Unknown { reason: "fsync failed".into() });
        assert!(!is_not_applied(&unknown));
        let stopped = from_proposal(&ProposeError::Stopped { reason: "stopping".into() });
        assert!(is_not_applied(&stopped));
        assert_eq!(stopped.code(), Code::Unavailable);
        let details = rpc::Status::decode(stopped.details()).expect("google.rpc.Status");
        insta::assert_debug_snapshot!(details, @r#"
        Status {
            code: 14,
            message: "the partition takes no writes: stopping; not applied",
            details: [
                Any {
                    type_url: "type.googleapis.com/google.rpc.RetryInfo",
                    value: [
                        10,
                        5,
                        16,
                        128,
                        132,
                        175,
                        95,
                    ],
                },
            ],
        }
        "#);
    }
}
