//! Stories of a node, told through its public API with real processes. One binary: each has to be linked.

mod backups;
mod bad_input;
mod collections;
mod command_line;
mod contract;
mod crash;
mod faults;
mod flights;
mod generations;
mod idempotency;
mod lists;
mod rebuild;
mod service;
mod streams;
mod time_travel;
mod write_stream;

/// A story fails with whatever went wrong.
type Story = odgm_tests::Result<()>;
