//! Stories of clients that speak Zenoh, with real nodes and plain Zenoh sessions. One binary: each has to be linked.

mod calls;
mod client;
mod one_node;
mod replicas;
mod three_nodes;

/// A story fails with whatever went wrong.
type Story = odgm_tests::Result<()>;
