//! A collection from the bundles of its partitions.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use odgm_log::GroupId;
use odgm_proto::odgm::v1::restore_request::Part;
use odgm_proto::odgm::v1::{RestoreBegin, RestoreRequest, RestoreResponse};
use odgm_replication::{Definition, RestoreError};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{catalogue, describe};
use crate::services::Shared;
use crate::status::{self, not_applied};

/// Messages that wait to be read.
const MESSAGES: usize = 8;

/// Takes the bundles in; returns when the collection serves.
pub(super) async fn run(
    shared: &Arc<Shared>,
    mut requests: Streaming<RestoreRequest>,
) -> Result<RestoreResponse, Status> {
    let first = requests.message().await?.and_then(|request| request.part);
    let Some(Part::Begin(RestoreBegin { collection: Some(wire), groups })) = first else {
        let expected = "expected a first message with the definition of the collection";
        return Err(not_applied(Status::invalid_argument(expected)));
    };
    let definition = Definition::from_wire(wire).map_err(|error| catalogue(&error.into()))?;
    let groups = groups.into_iter().map(GroupId).collect();
    // It keeps a thread and the disk busy, so there are only a few at a time.
    let _permit = shared.heavy().await?;
    let (sender, messages) = mpsc::channel(MESSAGES);
    let input = Input { messages, current: Bytes::new() };
    let restoring = shared.manager.restore(definition, groups, input);
    let passing = async move {
        let broken = loop {
            let data = match requests.message().await {
                Ok(Some(RestoreRequest { part: Some(Part::Data(data)) })) => Ok(data),
                Ok(Some(_)) => Err("only bytes of bundles were expected".to_owned()),
                Ok(None) => return,
                Err(status) => Err(format!("the client has gone: {}", status.message())),
            };
            match data {
                // An error says that what came before was refused.
                Ok(data) => match sender.send(Ok(data)).await {
                    Ok(()) => {}
                    Err(_) => return,
                },
                Err(reason) => break reason,
            }
        };
        drop(sender.send(Err(io::Error::new(io::ErrorKind::BrokenPipe, broken))).await);
    };
    let (restored, ()) = tokio::join!(restoring, passing);
    let restored = restored.map_err(|error| refused(&error))?;
    Ok(RestoreResponse {
        collection: Some(describe::collection(&restored.collection)),
        same_groups: restored.same_groups,
    })
}

fn refused(error: &RestoreError) -> Status {
    let message = error.to_string();
    match error {
        RestoreError::Catalogue(error) => catalogue(error),
        RestoreError::Bundle { .. } | RestoreError::Partitions { .. } | RestoreError::OtherState { .. } => {
            not_applied(Status::invalid_argument(message))
        }
        RestoreError::NotHere(_) | RestoreError::NeedsRaft { .. } => {
            not_applied(Status::failed_precondition(message))
        }
        _ => not_applied(status::internal(message)),
    }
}

/// What the client sends, for one who reads.
struct Input {
    messages: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.messages.blocking_recv() {
                Some(message) => self.current = message?,
                None => return Ok(0),
            }
        }
        let count = bytes.len().min(self.current.len());
        self.current.copy_to_slice(&mut bytes[..count]);
        Ok(count)
    }
}
