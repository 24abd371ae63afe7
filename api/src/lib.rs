//! gRPC services, configuration, the node, and the odgm binary.

pub mod config;
mod connection;
mod convert;
mod cursor;
mod gathering;
pub mod identity;
pub mod logging;
mod metrics;
pub mod node;
pub mod record_json;
mod request;
mod room;
mod server;
mod services;
pub mod status;
mod zenoh;

pub use node::{Node, NodeError, serve};
