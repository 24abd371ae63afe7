//! The log as its users see it: bytes at rest, the store, recovery, verification.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calls;
mod codec;
mod golden;
mod prepending;
mod recovery;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod verify;
