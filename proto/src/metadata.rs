//! Names that travel beside a message: the same in gRPC metadata, in Zenoh attachments and in the `options` of a
//! request.

/// Makes a write idempotent: one that was applied under this id is not applied again, and answers the same.
pub const REQUEST_ID: &str = "odgm-request-id";

/// How fresh a read has to be: [`consistency`] lists the values.
pub const CONSISTENCY: &str = "odgm-consistency";

/// How many triggers lie between a client's write and this request; a decimal number, 0 without it.
pub const DEPTH: &str = "odgm-depth";

/// The record that caused this request: `group/origin/offset`, decimal.
pub const CAUSE: &str = "odgm-cause";

/// Sent with each call of a function: the same for every attempt of the same call.
pub const IDEMPOTENCY_KEY: &str = "odgm-idempotency-key";

/// The version of an object, where the answer itself has no field for it; a decimal number.
pub const VERSION: &str = "odgm-version";

/// The leader of the partition, when a node that is not the leader refuses a request.
pub const LEADER: &str = "odgm-leader";

/// Sent between nodes: the request has been passed on once, and goes no further.
pub const RELAYED: &str = "odgm-relayed";

/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Values of [`CONSISTENCY`].
pub mod consistency {
    /// Sees every write that was acknowledged before the read began.
    pub const LINEARIZABLE: &str = "linearizable";
    /// As linearizable, as long as the clocks of the replicas run at about the same rate.
    pub const LEASE: &str = "lease";
    /// What this replica has applied.
    pub const LOCAL: &str = "local";
}
