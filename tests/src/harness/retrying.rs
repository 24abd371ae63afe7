//! Clients that retry as they are told to.

use std::error::Error as _;
use std::time::{Duration, Instant};

use tonic::{Code, ConnectError, Status};

use super::clients::Objects;

/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(50);

/// What is known of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// It was not applied and never will be.
    NotApplied,
    /// It may have been applied, or may yet be.
    Unknown,
}

/// What a status tells of the write that it refuses.
pub fn knowledge(status: &Status) -> Knowledge {
    let outcome = status.metadata().get("odgm-outcome").map(|outcome| outcome.as_bytes());
    match outcome {
        Some(b"not-applied") => Knowledge::NotApplied,
        // Only the client itself leaves it out, and if it was never connected, nothing was sent.
        None if was_never_sent(status) => Knowledge::NotApplied,
        _ => Knowledge::Unknown,
    }
}

fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether the same request may be sent again, a write under the same request id.
fn may_be_sent_again(status: &Status) -> bool {
    match status.code() {
        // The node cannot answer now, or the connection broke.
        Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => true,
        // A connection that breaks has many codes; what the node itself says of a write has an outcome.
        Code::Internal => status.metadata().get("odgm-outcome").is_none(),
        _ => false,
    }
}

/// A client that does what the documentation asks of clients: it sends a write again under the same request id as long as
/// nothing final is known of it, each time at another node.
#[derive(Debug)]
pub struct Retrying {
    nodes: Vec<Objects>,
    next: usize,
    patience: Duration,
    /// Requests that were sent again.
    pub retries: u64,
}

impl Retrying {
    /// The same objects at several nodes. No request is tried for longer than `patience`.
    pub fn new(nodes: Vec<Objects>, patience: Duration) -> Self {
        Self { nodes, next: 0, patience, retries: 0 }
    }

    /// The same, beginning at another of the nodes.
    #[must_use]
    pub fn starting_at(self, next: usize) -> Self {
        Self { next, ..self }
    }

    /// Sends a write until it is acknowledged.
    ///
    /// # Errors
    /// The last status, when it is final or patience has ended.
    pub async fn write<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        id: &str,
        write: impl Fn(Objects) -> F,
    ) -> Result<T, Status> {
        self.ask(|objects| write(objects.once(id))).await
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// The last status, when it is final or patience has ended.
    pub async fn ask<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        ask: impl Fn(Objects) -> F,
    ) -> Result<T, Status> {
        let deadline = Instant::now() + self.patience;
        loop {
            let Some(objects) = self.nodes.get(self.next % self.nodes.len().max(1)) else {
                return Err(Status::invalid_argument("there are no nodes to ask"));
            };
            match ask(objects.clone()).await {
                Err(status) if may_be_sent_again(&status) && Instant::now() < deadline => {
                    self.next += 1;
                    self.retries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer,
            }
        }
    }
}
