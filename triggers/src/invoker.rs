//! Who makes the calls, and what can come of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::calls::Status;
use tokio::time::Instant;
use tonic::Code;

use crate::call::Call;

/// Calls functions, wherever they run. One for all transports: routing, pooling and load balancing are behind it.
pub trait Invoker: Send + Sync + 'static {
    /// Makes one attempt. The future may be dropped at any time: the attempt then has no outcome, though the
    /// function may have run.
    fn invoke(&self, call: &Call) -> impl Future<Output = Result<Answer, Failure>> + Send;
}

/// What a function answered: that it completed, or with which status it did not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How it ended, in its own words.
    pub status: Status,
    /// Its answer.
    pub payload: Bytes,
    /// Headers of its answer.
    pub headers: BTreeMap<String, String>,
}

/// Why there is no answer of the function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no such class.
    #[error("there is no class {class:?}: expected the name of a collection")]
    NoClass {
        /// The name.
        class: String,
    },
    /// The class has fewer partitions.
    #[error("class {class:?} has {count} partitions, 0 to {}: there is no partition {partition}", count.saturating_sub(1))]
    NoPartition {
        /// The class.
        class: String,
        /// The partition asked for.
        partition: u32,
        /// How many there are.
        count: u32,
    },
    /// The class has no such function.
    #[error("class {class:?} has no function {function:?} to call: {reason}")]
    NoFunction {
        /// The class.
        class: String,
        /// The function asked for.
        function: String,
        /// Why there is none, and what was expected.
        reason: String,
    },
    /// The class has it, and it is not to be called until somebody says so.
    #[error(
        "class {class:?} has no function {function:?} to call: it is disabled; take it out of invocations.disabled_fn to have it called"
    )]
    Disabled {
        /// The class.
        class: String,
        /// The function.
        function: String,
    },
    /// It is not to be called as long as others are there whose place it would take.
    #[error(
        "function {function:?} of class {class:?} cannot be called: its route is on standby while these shards of its active_group are \
         alive: {alive}"
    )]
    Standby {
        /// The class.
        class: String,
        /// The function.
        function: String,
        /// Those shards.
        alive: String,
    },
    /// The function's route is none that a call can take as things are.
    #[error("function {function:?} of class {class:?} cannot be called: {reason}")]
    Misconfigured {
        /// The class.
        class: String,
        /// The function.
        function: String,
        /// Why, and what was expected.
        reason: String,
    },
    /// Nothing was sent, so as not to burden who does not answer, or has all it can take.
    #[error("the call was held back: {reason}")]
    Held {
        /// From when on a call may be made again.
        until: Instant,
        /// Why.
        reason: String,
    },
    /// The function was not reached: nothing was sent.
    #[error("the function was not reached: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// The function did not answer in time. It may have run.
    #[error("the function did not answer within {} ms", after.as_millis())]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The function answered with a gRPC status.
    #[error("the function answered with {}: {message}", name(*code))]
    Refused {
        /// The number of the status.
        code: i32,
        /// What it says.
        message: String,
    },
    /// What answered spoke something else, or went away in the middle. The function may have run.
    #[error("the function gave no proper answer: {reason}")]
    Garbled {
        /// What was wrong with it.
        reason: String,
    },
}

impl Failure {
    /// Whether another attempt can end differently.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoClass { .. }
            | Self::NoPartition { .. }
            | Self::NoFunction { .. }
            | Self::Misconfigured { .. } => false,
            Self::Disabled { .. }
            | Self::Standby { .. }
            | Self::Held { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Garbled { .. } => true,
            Self::Refused { code, .. } => matches!(
                Code::from_i32(*code),
                Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::DataLoss
            ),
        }
    }

    /// Whether something is missing that a change of the catalogue can bring about.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NoClass { .. } | Self::NoPartition { .. } | Self::NoFunction { .. })
    }

    /// What it is in an outcome: a gRPC status of the function is an error of the application, all else one of the system.
    pub fn status(&self) -> Status {
        match self {
            Self::Refused { .. } => Status::ApplicationError,
            Self::NoClass { .. }
            | Self::NoPartition { .. }
            | Self::NoFunction { .. }
            | Self::Disabled { .. }
            | Self::Standby { .. }
            | Self::Misconfigured { .. }
            | Self::Held { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Garbled { .. } => Status::SystemError,
        }
    }

    /// What a client that waits for the answer gets over gRPC; a status of the function passes through.
    pub fn code(&self) -> Code {
        match self {
            Self::NoClass { .. }
            | Self::NoPartition { .. }
            | Self::NoFunction { .. }
            | Self::Disabled { .. } => Code::NotFound,
            Self::Standby { .. } | Self::Misconfigured { .. } => Code::FailedPrecondition,
            Self::Held { .. } | Self::Unreachable { .. } => Code::Unavailable,
            Self::Timeout { .. } => Code::DeadlineExceeded,
            Self::Refused { code, .. } => Code::from_i32(*code),
            Self::Garbled { .. } => Code::Internal,
        }
    }
}

/// The name of a gRPC status, as its documentation has it.
fn name(code: i32) -> &'static str {
    match Code::from_i32(code) {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code) -> Failure {
        Failure::Refused { code: code as i32, message: "no".into() }
    }

    #[test]
    fn only_what_can_end_differently_is_tried_again() {
        let temporary = [
            Failure::Held { until: Instant::now(), reason: String::new() },
            Failure::Unreachable { reason: String::new() },
            Failure::Timeout { after: Duration::ZERO },
            Failure::Garbled { reason: String::new() },
        ];
        assert!(temporary.iter().all(Failure::is_temporary));
        let codes = (0..=16).map(Code::from_i32).filter(|code| refused(*code).is_temporary());
        let names: Vec<_> = codes.map(|code| name(code as i32)).collect();
        insta::assert_snapshot!(names.join(" "), @"CANCELLED UNKNOWN DEADLINE_EXCEEDED RESOURCE_EXHAUSTED ABORTED INTERNAL UNAVAILABLE DATA_LOSS");
        assert!(!Failure::NoClass { class: "c".into() }.is_temporary());
    }

    #[test]
    fn what_the_function_says_passes_through() {
        let failure = refused(Code::PermissionDenied);
        assert_eq!((failure.code(), failure.status()), (Code::PermissionDenied, Status::ApplicationError));
        assert_eq!(failure.to_string(), "the function answered with PERMISSION_DENIED: no");
        let failure = Failure::Timeout { after: Duration::from_millis(1_500) };
        assert_eq!((failure.code(), failure.status()), (Code::DeadlineExceeded, Status::SystemError));
        assert_eq!(failure.to_string(), "the function did not answer within 1500 ms");
    }
}
