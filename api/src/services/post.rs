//! Outcomes on their way to the partition whose function was called, wherever that is.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{Body, BodyType, Kind, NodeId, Offset, Payload};
use odgm_projections::{Applied, Outcome};
use odgm_replication::{AskError, LookupError, Manager, Partition, ProposeError};
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
    /// Whether it goes to the node that leads, as far as the sender knows: that one passes it on to nobody.
    #[prost(bool, tag = "6")]
    to_leader: bool,
}

/// Why another node did not make it a record.
pub(super) enum Unsent {
    /// It is none that can be sent.
    Malformed(String),
    /// It certainly did not.
    NotApplied(String),
    /// Or it did, and nobody heard of it.
    Unknown(String),
}

impl From<Unsent> for PostError {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Malformed(reason) => Self::Gone(reason),
            // Asked twice it is known again.
            Unsent::NotApplied(reason) | Unsent::Unknown(reason) => Self::Later(reason),
        }
    }
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
        let letter = Letter::of(class, index, &payload)?;
        send(manager, nodes, &letter).await?;
        return Ok(());
    }
    let partition = match manager.partition(class, index) {
        Ok(partition) => partition,
        Err(error @ (LookupError::NoPartition { .. } | LookupError::NoCollection { .. })) => {
            return Err(missing(catalogue, class, index, &error).await);
        }
        Err(error) => return Err(PostError::Later(error.to_string())),
    };
    match partition.propose_within(payload.clone(), PATIENCE).await {
        Ok(applied) => arrived(&applied).map(drop).map_err(PostError::Later),
        // This node is to pass nothing on for clients (ODGM_FORWARD), but this is its own.
        Err(ProposeError::NotLeader { leader: Some(leader) }) if leader != manager.node_id() => {
            send_to_leader(manager, leader, &partition, &payload).await?;
            Ok(())
        }
        Err(error) => Err(PostError::Later(error.to_string())),
    }
}

/// Where what was delivered stands in the log now, or did before. Whatever else applying it gave, its source has to keep it: it
/// would stand nowhere.
fn arrived(applied: &Applied) -> Result<Offset, String> {
    match &applied.outcome {
        Outcome::Noted | Outcome::Stale => Ok(applied.offset),
        // Of a call that a client waits for.
        Outcome::Duplicate { offset, .. } | Outcome::RequestIdReused { offset } => Ok(*offset),
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

/// Has one of some other nodes make it a record; where that is.
async fn send(manager: &Manager, nodes: Vec<NodeId>, letter: &Letter) -> Result<Offset, Unsent> {
    let message = letter.encode_to_vec().into();
    let passed = Passed { method: METHOD.to_owned(), message, ..Passed::default() };
    // An outcome that is on its way is known again where it is told of twice, and one of a client's goes to a single node.
    let answered = anywhere::ask(manager, nodes, &passed, PATIENCE, letter.to_leader).await;
    let silent = |reason| {
        let Letter { class, partition, .. } = letter;
        format!("no node that has partition {class}/{partition} answers: {reason}")
    };
    let answered = answered.map_err(|error| match error {
        AskError::Lost(reason) => Unsent::Unknown(silent(reason)),
        AskError::NotAsked(reason) => Unsent::NotApplied(silent(reason)),
    })?;
    let offset = answered.offset();
    let is_unknown = answered.is_unknown();
    match answered.done() {
        Ok(()) => offset.ok_or_else(|| Unsent::Unknown("another node does not say where it is".to_owned())),
        Err(reason) if is_unknown => Err(Unsent::Unknown(reason)),
        Err(reason) => Err(Unsent::NotApplied(reason)),
    }
}

/// Has the node that leads make it a record, though this node passes nothing on for clients (ODGM_FORWARD).
pub(super) async fn send_to_leader(
    manager: &Manager,
    leader: NodeId,
    partition: &Partition,
    payload: &Payload,
) -> Result<Offset, Unsent> {
    let letter = Letter::of(partition.class(), partition.index(), payload)?;
    send(manager, vec![leader], &Letter { to_leader: true, ..letter }).await
}

/// Takes in what another node delivers, and passes it on to the node that leads: nobody else may be asked for it there.
pub(super) async fn receive(shared: &Shared, message: Bytes) -> Result<Offset, Status> {
    let malformed = |reason: String| Status::invalid_argument(format!("another node's delivery: {reason}"));
    let letter = Letter::decode(message).map_err(|error| malformed(error.to_string()))?;
    let payload = letter.payload().map_err(malformed)?;
    let partition = shared.partition(&letter.class, letter.partition)?;
    match partition.propose_within(payload, PATIENCE).await {
        Ok(applied) => arrived(&applied).map_err(|reason| status::not_applied(status::unavailable(reason))),
        Err(ProposeError::NotLeader { leader: Some(leader) })
            if !letter.to_leader && leader != shared.manager.node_id() =>
        {
            let letter = Letter { to_leader: true, ..letter };
            send(&shared.manager, vec![leader], &letter).await.map_err(|unsent| match unsent {
                Unsent::Malformed(reason) => malformed(reason),
                Unsent::NotApplied(reason) => status::not_applied(status::unavailable(reason)),
                Unsent::Unknown(reason) => status::unknown(Status::unknown(reason)),
            })
        }
        Err(error) => Err(status::from_proposal(&error)),
    }
}

impl Letter {
    fn of(class: &str, partition: u32, payload: &Payload) -> Result<Self, Unsent> {
        let (kind, payload) = payload.encode().map_err(|error| Unsent::Malformed(error.to_string()))?;
        Ok(Self {
            class: class.to_owned(),
            partition,
            body_type: kind.body_type.number().into(),
            body_version: kind.body_version.into(),
            payload,
            to_leader: false,
        })
    }

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
        let at = |outcome| {
            let (offset, time) = (Offset(7), odgm_log::Timestamp(0));
            arrived(&Applied { offset, time, outcome, change: None, queued: Vec::new() })
        };
        assert_eq!([at(Outcome::Noted), at(Outcome::Stale)], [Ok(Offset(7)), Ok(Offset(7))]);
        let before = Outcome::Duplicate { offset: Offset(1), outcome: Box::new(Outcome::Noted) };
        assert_eq!(at(before), Ok(Offset(1)));
        for elsewhere in [Outcome::Unchanged { version: 0 }, Outcome::Changed { version: 1 }] {
            assert!(at(elsewhere.clone()).is_err(), "{elsewhere:?} says nothing of it");
        }
    }

    #[test]
    fn nothing_but_outcomes_is_delivered() {
        let letter = |body: Body| {
            let letter = Letter::of("c", 0, &Payload { cause: Default::default(), body });
            letter.map_err(PostError::from).expect("encoded")
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
