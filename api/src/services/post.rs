//! Outcomes on their way to the partition whose function was called, wherever that is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{Body, BodyType, Kind, NodeId, Payload};
use odgm_projections::Outcome;
use odgm_replication::{AskError, LookupError, Manager, ProposeError};
use odgm_triggers::{Catalogue as _, ConfirmedCatalogue, Post as Service, PostError};
use prost::Message;
use tonic::Status;

use super::anywhere::{self, Passed};
use super::{PATIENCE, Shared};
use crate::status;

/// What another node is asked that has the partition.
pub(super) const METHOD: &str = "Deliver";

/// Delivers what this node has to deliver.
pub(crate) struct Post {
    pub(crate) manager: Arc<Manager>,
    pub(crate) catalogue: Arc<ConfirmedCatalogue>,
}

/// A record as it is delivered to another node.
#[derive(Clone, PartialEq, Message)]
struct Letter {
    #[prost(string, tag = "1")]
    class: String,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(uint32, tag = "3")]
    body_type: u32,
    #[prost(uint32, tag = "4")]
    body_version: u32,
    #[prost(bytes = "bytes", tag = "5")]
    payload: Bytes,
}

impl Service for Post {
    fn deliver(
        &self,
        class: &str,
        partition: u32,
        payload: Payload,
    ) -> BoxFuture<'static, Result<(), PostError>> {
        let (manager, catalogue) = (Arc::clone(&self.manager), Arc::clone(&self.catalogue));
        let class = class.to_owned();
        async move { deliver(&manager, &catalogue, &class, partition, payload).await }.boxed()
    }
}

async fn deliver(
    manager: &Manager,
    catalogue: &ConfirmedCatalogue,
    class: &str,
    index: u32,
    payload: Payload,
) -> Result<(), PostError> {
    if let Some(nodes) = manager.elsewhere(class, index).filter(|nodes| !nodes.is_empty()) {
        return send(manager, nodes, class, index, &payload).await;
    }
    let partition = match manager.partition(class, index) {
        Ok(partition) => partition,
        Err(error @ (LookupError::NoPartition { .. } | LookupError::NoCollection { .. })) => {
            return Err(missing(catalogue, class, index, &error).await);
        }
        Err(error) => return Err(PostError::Later(error.to_string())),
    };
    match partition.propose_within(payload.clone(), PATIENCE).await {
        Ok(applied) => arrived(&applied.outcome).map_err(PostError::Later),
        // This node is to pass nothing on for clients (ODGM_FORWARD), but this is its own.
        Err(ProposeError::NotLeader { leader: Some(leader) }) if leader != manager.node_id() => {
            send(manager, vec![leader], class, index, &payload).await
        }
        Err(error) => Err(PostError::Later(error.to_string())),
    }
}

/// Whether what was delivered stands in the log now, or did before. Whatever else applying it gave, its source has to keep
/// it: it would stand nowhere.
fn arrived(outcome: &Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Noted | Outcome::Stale | Outcome::Duplicate { .. } => Ok(()),
        other => Err(format!("the partition did not take it in: applying it gave {other:?}")),
    }
}

/// Whether a class or partition that is unknown here is one that nobody knows.
async fn missing(catalogue: &ConfirmedCatalogue, class: &str, index: u32, error: &LookupError) -> PostError {
    match catalogue.confirm(class).await {
        Ok(Some(definition)) if index < definition.partitions => {
            PostError::Later(format!("collection {class:?} has just been created"))
        }
        Ok(_) => PostError::Gone(error.to_string()),
        Err(unconfirmed) => PostError::Later(unconfirmed),
    }
}

/// Has another node make it a record.
async fn send(
    manager: &Manager,
    nodes: Vec<NodeId>,
    class: &str,
    partition: u32,
    payload: &Payload,
) -> Result<(), PostError> {
    let (kind, encoded) = payload.encode().map_err(|error| PostError::Gone(error.to_string()))?;
    let letter = Letter {
        class: class.to_owned(),
        partition,
        body_type: kind.body_type.number().into(),
        body_version: kind.body_version.into(),
        payload: encoded,
    };
    let message = letter.encode_to_vec().into();
    let passed = Passed { method: METHOD.to_owned(), message, ..Passed::default() };
    // Asked twice it is known again.
    let answered = anywhere::ask(manager, nodes, &passed, PATIENCE, false).await;
    let answered = answered.map_err(|(AskError::Lost(reason) | AskError::NotAsked(reason))| {
        PostError::Later(format!("no node that has partition {class}/{partition} answers: {reason}"))
    })?;
    answered.done().map_err(PostError::Later)
}

/// Takes in what another node delivers.
pub(super) async fn receive(shared: &Shared, message: Bytes) -> Result<(), Status> {
    let malformed = |reason: String| Status::invalid_argument(format!("another node's delivery: {reason}"));
    let letter = Letter::decode(message).map_err(|error| malformed(error.to_string()))?;
    let payload = letter.payload().map_err(malformed)?;
    let partition = shared.partition(&letter.class, letter.partition)?;
    let applied = partition.propose_within(payload, PATIENCE).await;
    let applied = applied.map_err(|error| status::from_proposal(&error))?;
    arrived(&applied.outcome).map_err(status::unavailable)
}

impl Letter {
    /// What is delivered; nothing but outcomes is.
    fn payload(&self) -> Result<Payload, String> {
        let number = u16::try_from(self.body_type).ok();
        let body_type = number.and_then(BodyType::from_number);
        let version = u8::try_from(self.body_version).ok();
        let Some((body_type, body_version)) = body_type.zip(version) else {
            return Err(format!("it has no body of type {}: upgrade this node", self.body_type));
        };
        let payload = Payload::decode(Kind { body_type, body_version }, &self.payload);
        let payload = payload.map_err(|error| error.to_string())?;
        match &payload.body {
            Body::Outcome(_) => Ok(payload),
            other => Err(format!("it is a {}: expected an outcome", other.body_type().name())),
        }
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::body::{CursorMoved, Delete};

    use super::*;

    #[test]
    fn what_applying_did_not_take_in_has_not_arrived() {
        let before = Outcome::Duplicate { offset: odgm_log::Offset(1), outcome: Box::new(Outcome::Noted) };
        for there in [Outcome::Noted, Outcome::Stale, before] {
            assert_eq!(arrived(&there), Ok(()), "{there:?}");
        }
        let changed = Outcome::Changed { version: 1 };
        for elsewhere in [Outcome::Unchanged { version: 0 }, changed] {
            assert!(arrived(&elsewhere).is_err(), "{elsewhere:?} says nothing of it");
        }
    }

    #[test]
    fn nothing_but_outcomes_is_delivered() {
        let letter = |body: Body| {
            let (kind, payload) = Payload { cause: Default::default(), body }.encode().expect("encoded");
            Letter {
                body_type: kind.body_type.number().into(),
                body_version: kind.body_version.into(),
                payload,
                ..Letter::default()
            }
        };
        let outcome = odgm_log::body::Outcome {
            source: odgm_log::body::calls::Source::Client,
            invocation: "i".into(),
            object: None,
            function: "f".into(),
            finished: Default::default(),
        };
        let sent = letter(Body::Outcome(outcome.clone()));
        assert_eq!(sent.payload().map(|payload| payload.body), Ok(Body::Outcome(outcome)));
        let refused = letter(Body::Delete(Delete { object: "o".into() })).payload();
        assert_eq!(refused, Err("it is a delete: expected an outcome".into()));
        let moved = CursorMoved { name: "c".into(), position: None, allowed_lag: 0 };
        assert!(letter(Body::CursorMoved(moved)).payload().is_err());
        let unknown = Letter { body_type: 4_711, ..sent };
        assert_eq!(unknown.payload(), Err("it has no body of type 4711: upgrade this node".into()));
    }
}
