//! Queries on their way from Zenoh's threads to their answers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use zenoh::Wait;
use zenoh::query::Query;

use super::answers::{Answered, Answers, Refusal};
use super::intake::{Intake, Room, copied};
use super::limits::{ANSWER_WITHIN, ANSWERED_AT_ONCE, REFUSED, REQUESTS};
use super::places::Place;
use crate::services::Shared;

/// Takes queries in on Zenoh's threads, which receive for all: nothing waits there.
#[derive(Clone)]
pub(super) struct Desk {
    intake: Arc<Intake>,
    queue: mpsc::Sender<Asked>,
    /// For those that there is no room for: an answer may have to wait, even that one.
    crowded: mpsc::Sender<Query>,
}

/// What a query is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    Objects,
    Capabilities,
}

/// A query that has been taken in.
pub(super) struct Asked {
    pub(super) about: About,
    pub(super) place: Arc<Place>,
    pub(super) query: Query,
    pub(super) payload: Option<Bytes>,
    pub(super) attachment: Option<Bytes>,
    pub(super) since: Instant,
    room: Room,
}

impl Desk {
    /// A desk, and the task that answers what it takes in; it ends when the desk is gone and everything is answered.
    pub(super) fn open(shared: Arc<Shared>) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(REQUESTS);
        let (crowded, refused) = mpsc::channel(REFUSED);
        tokio::spawn(refuse_all(refused));
        let answering = tokio::spawn(answer_all(Arc::new(Answers::new(shared)), waiting));
        (Self { intake: Arc::default(), queue, crowded }, answering)
    }

    pub(super) fn take(&self, about: About, place: &Arc<Place>, mut query: Query) {
        let payload = query.payload_mut().map(|payload| copied(&std::mem::take(payload)));
        let attachment = query.attachment_mut().map(|attachment| copied(&std::mem::take(attachment)));
        let bytes = payload.as_ref().map_or(0, Bytes::len) + attachment.as_ref().map_or(0, Bytes::len);
        let Some(room) = self.intake.enter(bytes) else {
            return self.refuse(query);
        };
        let (place, since) = (Arc::clone(place), Instant::now());
        let asked = Asked { about, place, query, payload, attachment, since, room };
        // There is a place in the queue for each that has room.
        if let Err(error) = self.queue.try_send(asked) {
            self.refuse(error.into_inner().query);
        }
    }

    fn refuse(&self, query: Query) {
        // Whom even this has no room for gets no answer, which ends the query too.
        drop(self.crowded.try_send(query));
    }
}

async fn refuse_all(mut queries: mpsc::Receiver<Query>) {
    while let Some(query) = queries.recv().await {
        let text = format!("busy: {REQUESTS} requests or too many bytes of them wait here; try again later");
        send(query, Err(Refusal::from(text)));
    }
}

async fn answer_all(answers: Arc<Answers>, mut queue: mpsc::Receiver<Asked>) {
    let slots = Arc::new(Semaphore::new(ANSWERED_AT_ONCE as usize));
    while let Some(asked) = queue.recv().await {
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let answered = tokio::time::timeout(ANSWER_WITHIN, answers.find(&asked)).await;
            let late = || {
                Refusal::from(format!(
                    "no answer within {ANSWER_WITHIN:?}; of a write it is unknown whether it was applied"
                ))
            };
            send(asked.query, answered.unwrap_or_else(|_| Err(late())));
            drop((asked.room, slot));
        });
    }
    drop(slots.acquire_many(ANSWERED_AT_ONCE).await);
}

/// Sends an answer. It waits where the way to the client is congested, for seconds if the client hangs, and by blocking its
/// thread: so the runtime is told. The query ends when it is dropped, with another message.
fn send(query: Query, answered: Result<Answered, Refusal>) {
    tokio::task::block_in_place(move || {
        if let Err(error) = reply(&query, answered) {
            tracing::debug!(%error, key = %query.key_expr(), "an answer was not sent");
        }
        drop(query);
    });
}

fn reply(query: &Query, answered: Result<Answered, Refusal>) -> zenoh::Result<()> {
    match answered {
        Ok(Answered { key, bodies, attachment }) => {
            let key = key.map_or_else(|| Ok(query.key_expr().clone()), TryInto::try_into)?;
            for body in bodies {
                query.reply(key.clone(), body).attachment(attachment.clone()).wait()?;
            }
            Ok(())
        }
        Err(refusal) => query.reply_err(refusal.to_string()).wait(),
    }
}
