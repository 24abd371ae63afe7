//! Real nodes for tests: `odgm serve` on the loopback interface, with a data directory that outlives it.

mod clients;
mod command;
mod feed;
mod home;
mod node;
mod program;

pub use clients::{Acknowledged, Connection, Fields, Objects, entries, fields, text};
pub use command::Ran;
pub use feed::{Feed, line, lines};
pub use home::{Home, Snapshot};
pub use node::{Node, Refusal};
pub use program::odgm;
