//! The wire contract, told through a real node in this process and real clients.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, missing_docs)]

mod administration;
mod calls;
mod functions;
mod invocations;
mod node;
mod objects;
mod refusals;
mod streams;
mod writes;
