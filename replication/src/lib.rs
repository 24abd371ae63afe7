//! How a command becomes a committed record: partitions with their logs and views, the ways of replication, and
//! the catalogue of collections.

mod administration;
mod backup;
pub mod bundle;
mod catalogue;
mod cluster;
mod collection;
pub mod data_dir;
pub mod definition;
mod encoding;
mod errands;
mod feed;
mod limits;
mod local;
mod manager;
mod membership;
mod neighbours;
mod nodes;
mod opening;
mod partition;
mod pieces;
mod placement;
mod plans;
mod proof;
mod proposal;
mod raft;
mod reading;
mod reconcile;
mod replica;
mod replicator;
mod restoring;
mod retention;
pub mod sessions;
mod source;
mod steering;
mod stopped;
pub mod stream;
mod transport;

pub use administration::CatalogueError;
pub use backup::BackupError;
pub use catalogue::{DamagedEntry, NodeEntry, NodeState, OBJECT as CATALOGUE_OBJECT};
pub use cluster::{AskError, ClusterOptions, PeerTraffic, Wire};
pub use collection::{Collection, LookupError};
pub use data_dir::{DataDir, NodeName};
pub use definition::Definition;
pub use feed::{Fed, Feed};
pub use limits::Limits;
pub use manager::{Manager, OpenError, Options, Readiness};
pub use membership::{
    ClusterView, Doing, MembershipError, NodeView, PartitionView, Planned, ReplicaView, Role,
};
pub use opening::CATALOGUE_CLASS;
pub use partition::Partition;
pub use plans::{Move, PlanError, Sacrifice};
pub use proof::{ProofError, Proven};
pub use proposal::{Answer, ProposeError};
pub use raft::{Differing, Divergence, Timing, TransferCounts};
pub use reading::{Consistency, ReadError};
pub use replica::{ReplicaError, catch_up};
pub use restoring::{RestoreError, Restored};
pub use source::Records;
pub use stopped::{StoppedError, StoppedNode, Stored};
pub use stream::{Event, EventBatch, EventReader, StartPoint, StreamError};
