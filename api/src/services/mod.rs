//! The gRPC services, and what they share.

mod admin;
mod anywhere;
mod calls;
pub(crate) mod command;
mod data;
pub(crate) mod function;
mod list;
mod post;
mod relay;
mod streams;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use odgm_log::body::Cause;
use odgm_log::{Body, NodeId, Payload};
use odgm_replication::definition::MAX_NAME_BYTES;
use odgm_replication::{
    Answer, Collection, Consistency, LookupError, Manager, Partition, ProposeError, ReadError, StreamError,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

pub(crate) use self::admin::Admin;
pub(crate) use self::anywhere::Anywhere;
pub(crate) use self::calls::{Calls, overdue};
pub(crate) use self::command::Command;
pub(crate) use self::data::Data;
pub(crate) use self::function::{Calling, Ended, Functions};
pub(crate) use self::post::Post;
pub(crate) use self::streams::Streams;
pub(crate) use self::writes::Writes;

use self::relay::Relay;

use crate::config::Limits;
use crate::convert::Rules;
use crate::identity::{self, Rule};
use crate::request;
use crate::status::{self, Written, not_applied};

/// Verifications, dumps of views, backups and restores that run at once; each keeps a thread and a disk busy.
const HEAVY_AT_ONCE: usize = 2;

/// How long a request may take where the client does not say how long it waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every service has at hand.
pub(crate) struct Shared {
    pub(crate) manager: Arc<Manager>,
    pub(crate) limits: Limits,
    pub(crate) rules: Rules,
    /// Cancelled when the node begins to stop.
    pub(crate) stop: CancellationToken,
    /// Calls of functions.
    pub(crate) calling: Calling,
    subscriptions: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
    relay: Relay,
}

impl Shared {
    pub(crate) fn new(
        manager: Arc<Manager>,
        functions: Arc<odgm_triggers::functions::Functions>,
        limits: Limits,
        stop: CancellationToken,
    ) -> Self {
        let calling = Calling::new(functions, &limits);
        let rules = Rules { identity: Rule { max: limits.id_bytes }, max_entries: limits.request_entries };
        let subscriptions = Arc::new(Semaphore::new(limits.subscriptions));
        let heavy = Arc::new(Semaphore::new(HEAVY_AT_ONCE));
        Self { manager, limits, rules, stop, calling, subscriptions, heavy, relay: Relay::default() }
    }

    /// A partition that serves. The id is as it came over the wire.
    fn partition(&self, class: &str, id: impl Into<i64>) -> Result<Arc<Partition>, Status> {
        let id = identity::partition(id)?;
        check_class(class)?;
        self.manager.partition(class, id).map_err(|error| {
            let first = match &error {
                LookupError::Elsewhere { nodes, .. } => nodes.first().copied(),
                _ => None,
            };
            let status = lookup(&error);
            if let Some(first) = first { self.tell_leader(status, first) } else { status }
        })
    }

    /// A collection.
    fn collection(&self, class: &str) -> Result<Arc<Collection>, Status> {
        check_class(class)?;
        self.manager.collection(class).ok_or_else(|| lookup(&self.manager.missing(class)))
    }

    /// A partition of which a read may be answered now: nothing is missing that the read may not miss.
    async fn readable(
        &self,
        metadata: &MetadataMap,
        class: &str,
        id: impl Into<i64>,
    ) -> Result<Arc<Partition>, Status> {
        let asked = request::consistency(metadata)?;
        let partition = self.partition(class, id)?;
        let within = request::timeout(metadata.as_ref()).unwrap_or(PATIENCE);
        self.confirm(&partition, asked.unwrap_or(partition.consistency()), within).await?;
        Ok(partition)
    }

    /// Waits until nothing is missing here that a read as fresh as that may not miss.
    async fn confirm(
        &self,
        partition: &Partition,
        consistency: Consistency,
        within: Duration,
    ) -> Result<(), Status> {
        partition.confirm_within(consistency, within).await.map_err(|error| match error {
            ReadError::Elsewhere { leader } => self.tell_leader(status::from_read(&error), leader),
            _ => status::from_read(&error),
        })
    }

    /// What came of a proposal, as the answer to whoever asked for it.
    pub(crate) fn answer(&self, answer: Answer, is_deletion: bool) -> Result<Written, Status> {
        let leader = match &answer {
            Err(ProposeError::NotLeader { leader }) => *leader,
            _ => None,
        };
        let answered = status::answer(answer, is_deletion);
        answered.map_err(|status| match leader {
            Some(leader) => self.tell_leader(status, leader),
            None => status,
        })
    }

    fn tell_leader(&self, status: Status, leader: NodeId) -> Status {
        status::tell_leader(status, leader, self.manager.address(leader).as_deref())
    }

    /// Why the past could not be read; where that is because this replica is not a whole copy, says so and where to ask.
    fn past(&self, status: Status, partition: &Partition) -> Status {
        let (Some(kept), Code::OutOfRange | Code::Internal | Code::DataLoss | Code::Unavailable) =
            (partition.missing_from(), status.code())
        else {
            return status;
        };
        let first = partition.bounds().first;
        let missing = StreamError::Missing { first, kept };
        self.not_whole(status::unavailable(missing.to_string()), partition)
    }

    /// A status that says that this replica is not a whole copy of the partition; it names one that may be.
    fn not_whole(&self, status: Status, partition: &Partition) -> Status {
        let here = self.manager.node_id();
        let collection = self.manager.collection(partition.class());
        let replicas = collection.map(|collection| collection.replicas(partition.index()).to_vec());
        let leader = partition.leader().filter(|leader| *leader != here);
        let other = leader.or_else(|| replicas?.into_iter().find(|node| *node != here));
        let Some(other) = other else { return status };
        let address = self.manager.address(other).unwrap_or_default();
        let message = format!("{}: ask node {other} ({address}), or this one later", status.message());
        self.tell_leader(Status::with_metadata(status.code(), message, status.metadata().clone()), other)
    }

    /// Some partitions of a collection: the one asked for, or all.
    fn partitions(&self, class: &str, id: Option<u32>) -> Result<Vec<Arc<Partition>>, Status> {
        match id {
            Some(id) => Ok(vec![self.partition(class, id)?]),
            None => self.collection(class)?.partitions().map(|found| found.map_err(|e| lookup(&e))).collect(),
        }
    }

    /// The numbers of some partitions of a collection: the one asked for, or all.
    fn indexes(&self, class: &str, id: Option<u32>) -> Result<Vec<u32>, Status> {
        let collection = self.collection(class)?;
        Ok(id.map_or_else(|| (0..collection.partition_count()).collect(), |id| vec![id]))
    }

    /// Makes a command a record; the answer is what it means to whoever asked for it.
    async fn write(
        &self,
        metadata: &MetadataMap,
        command: Result<Command, Status>,
    ) -> Result<(Arc<Partition>, Written), Status> {
        let (partition, payload) =
            request::cause(metadata).and_then(|cause| self.prepare(cause, command?)).map_err(not_applied)?;
        let within = request::timeout(metadata.as_ref()).unwrap_or(PATIENCE);
        let is_deletion = matches!(payload.body, Body::Delete(_));
        let written = self.answer(partition.propose_within(payload, within).await, is_deletion)?;
        Ok((partition, written))
    }

    /// Makes a payload a record.
    async fn propose(&self, partition: &Partition, payload: Payload) -> Result<Written, Status> {
        let is_deletion = matches!(payload.body, Body::Delete(_));
        self.answer(partition.propose(payload).await, is_deletion)
    }

    pub(crate) fn prepare(
        &self,
        cause: Cause,
        command: Command,
    ) -> Result<(Arc<Partition>, Payload), Status> {
        let partition = self.partition(&command.class, command.partition)?;
        Ok((partition, Payload { cause, body: command.body }))
    }

    /// Room for a subscription, until it is dropped.
    fn subscription(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.subscriptions).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "the node has {} subscriptions, its limit (ODGM_MAX_SUBSCRIPTIONS): end one, or try again later",
                self.limits.subscriptions
            ))
        })
    }

    /// Room for a verification, a dump, a backup or a restore, until it is dropped; waits for it.
    async fn heavy(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.heavy).acquire_owned().await.map_err(status::internal)
    }
}

/// Refuses a name that no collection has. Repeated whole, it would not fit into the headers that clients take.
fn check_class(class: &str) -> Result<(), Status> {
    if class.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    let beginning = format!("{}...", request::shortened(class));
    Err(Status::not_found(format!(
        "there is no collection {beginning:?}: a name has at most {MAX_NAME_BYTES} bytes"
    )))
}

/// Why there is no such partition.
fn lookup(error: &LookupError) -> Status {
    let message = error.to_string();
    match error {
        LookupError::NoCollection { .. } | LookupError::NoPartition { .. } => Status::not_found(message),
        LookupError::Starting { .. } | LookupError::Joining { .. } | LookupError::Outside { .. } => {
            status::unavailable(message)
        }
        LookupError::Failed { .. } => Status::unavailable(message),
        LookupError::Elsewhere { nodes, .. } => {
            status::tell_nodes(Status::failed_precondition(message), nodes)
        }
    }
}

/// Runs what may read the disk for long where blocking is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(status::internal(error)))
}
