//! End-to-end, fault and snapshot tests; load and peer benchmarks.
//!
//! Everything here speaks to real processes over the public API; nothing of the node's insides is linked in.

pub mod arrivals;
pub mod bench;
pub mod chaos;
pub mod demo;
pub mod flights;
pub mod functions;
pub mod harness;
pub mod process;
pub mod random;
mod table;

/// What a harness or benchmark can fail with: a message for the person who ran it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result whose error is only ever shown.
pub type Result<T, E = Error> = std::result::Result<T, E>;
