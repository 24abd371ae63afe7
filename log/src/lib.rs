//! Records, their encoding, and the durable log store of a node.
//!
//! The log is the database; everything else is a consumer of it. This crate knows no network and no Raft.

pub mod body;
pub mod chain;
pub mod envelope;
mod ids;
mod record;
pub mod store;

pub use body::{Body, BodyType, Cause, Payload};
pub use ids::{GroupId, Hash, NodeId, Offset, Term, Timestamp};
pub use record::{Kind, MAX_PAYLOAD_BYTES, PayloadError, Record};
