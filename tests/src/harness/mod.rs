//! Real nodes for tests: `odgm serve` on the loopback interface, with a data directory that outlives it.

mod clients;
mod cluster;
mod command;
mod feed;
mod functions;
mod home;
mod node;
mod ports;
mod program;
mod proxy;
mod retrying;
mod small_disk;

pub use clients::{Acknowledged, Connection, Fields, Found, Objects, entries, fields, text};
pub use cluster::{Cluster, Layout, Replica, Wire, until};
pub use command::Ran;
pub use feed::{Feed, line, lines};
pub use functions::{
    Answer, Attached, Door, FunctionProcess, Functions, Gate, Language, causes, letter, routed, target,
};
pub use home::{Home, Snapshot};
pub use node::{Node, Refusal};
pub use program::odgm;
pub use proxy::{Harm, Network, Way};
pub use retrying::{Knowledge, Retrying, knowledge};
pub use small_disk::SmallDisk;
