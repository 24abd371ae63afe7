//! Functions are called over real connections: servers of all sorts on ports of their own, good, bad and gone.

#![allow(clippy::expect_used, clippy::panic)]

mod balancing;
mod calls;
mod connections;
mod failing;
mod health;
mod support;
