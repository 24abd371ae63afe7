//! How a command becomes a committed record: partitions with their logs and views, the ways of replication, and
//! the catalogue of collections.

mod administration;
mod catalogue;
mod collection;
pub mod data_dir;
pub mod definition;
mod limits;
mod local;
mod manager;
mod opening;
mod partition;
mod proof;
mod proposal;
// Not in the product before groups of it are: openraft's suite holds against its log and its view.
#[cfg(test)]
mod raft;
mod replica;
mod replicator;
mod retention;
mod source;
mod stopped;
pub mod stream;
#[cfg(test)]
mod transport;

pub use administration::CatalogueError;
pub use catalogue::{DamagedEntry, OBJECT as CATALOGUE_OBJECT};
pub use collection::{Collection, LookupError};
pub use data_dir::{DataDir, NodeName};
pub use definition::Definition;
pub use limits::Limits;
pub use manager::{Manager, OpenError, Options, Readiness};
pub use opening::CATALOGUE_CLASS;
pub use partition::Partition;
pub use proof::{ProofError, Proven};
pub use proposal::{Answer, ProposeError};
pub use replica::{ReplicaError, catch_up};
pub use source::Records;
pub use stopped::{StoppedError, StoppedNode, Stored};
pub use stream::{Event, EventBatch, EventReader, StartPoint, StreamError};
