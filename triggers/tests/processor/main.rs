//! The processor on real partitions, whose functions are made up.

#![allow(clippy::expect_used, clippy::panic)]

mod catalogue;
mod restarts;
mod support;
mod triggers;
mod waiting;
