//! Records, their encoding, and the durable log store of a node.
//!
//! The log is the database; everything else is a consumer of it. This crate knows no network and no Raft.

pub mod body;
pub mod chain;
pub mod envelope;
mod ids;
mod record;
pub mod store;

/// Arms the failpoints that the variable `FAILPOINTS` names, for as long as the process runs. Builds without the feature have
/// none.
pub fn arm_failpoints() {
    if fail::has_failpoints() {
        // Dropping it would disarm them.
        std::mem::forget(fail::FailScenario::setup());
    }
}

pub use body::{Body, BodyType, Cause, Payload};
pub use ids::{GroupId, Hash, NodeId, Offset, Term, Timestamp};
pub use record::{Kind, MAX_PAYLOAD_BYTES, PayloadError, Record};
