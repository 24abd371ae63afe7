//! One call of a function, whoever asks for it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::{Parent, Target};

/// A function to call, with all that must travel with the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The same for every attempt: whoever keeps it can make the call's effect happen once. An [`IdempotencyKey`] as text
    /// where a trigger or an invocation asks for the call; empty if there is none.
    pub key: String,
    /// The function, and the object it is called on.
    pub target: Target,
    /// The request's payload.
    pub payload: Bytes,
    /// How many triggers led here; one more than the cause's.
    pub depth: u32,
    /// The record that caused the call; none for a client's own call.
    pub cause: Option<Parent>,
    /// W3C trace context of the cause.
    pub traceparent: Option<String>,
    /// How long the function may take, this attempt alone.
    pub timeout: Duration,
    /// Whether its class gives every call that time, and not one client that happens to have no more left: if no answer comes in it,
    /// that speaks against the endpoint, however short it is.
    pub is_given_its_time: bool,
}

/// Names a call in the whole grid: the record that caused it, and which of that record's targets it is.
///
/// As text, in gRPC metadata and in logs: `group/origin/offset/target`, decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The record.
    pub cause: Parent,
    /// The place among the record's targets, from 0.
    pub target: u32,
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parent { group, origin, offset } = self.cause;
        write!(f, "{group}/{origin}/{offset}/{}", self.target)
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::{GroupId, NodeId, Offset};

    use super::*;

    #[test]
    fn a_key_is_four_numbers() {
        let cause = Parent { group: GroupId(7), origin: NodeId(u64::MAX), offset: Offset(42) };
        let key = IdempotencyKey { cause, target: 3 };
        assert_eq!(key.to_string(), "7/18446744073709551615/42/3");
    }
}
