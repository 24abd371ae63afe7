//! Queries on their way from Zenoh's threads to their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use zenoh::Wait;
use zenoh::query::Query;

use super::answers::{Answered, Answers, Refusal};
use super::calls;
use super::intake::{copied, intake};
use super::limits::{REFUSED, REQUESTS};
use super::places::Place;
use crate::room::{Room, Seat};

/// Takes queries in on Zenoh's threads, which receive for all: nothing waits there.
#[derive(Clone)]
pub(super) struct Desk {
    room: Arc<Room>,
    queue: mpsc::Sender<Asked>,
    /// For those that there is no room for: an answer may have to wait, even that one.
    crowded: mpsc::Sender<(About, Query)>,
}

/// How much is done at once with what is taken in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Queries that are being answered at once.
    pub(super) at_once: u32,
    /// How long each may take; none where that is said elsewhere.
    pub(super) within: Option<Duration>,
}

/// What a query is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    Objects,
    Capabilities,
    Results,
    Call,
}

/// A query that has been taken in.
pub(super) struct Asked {
    pub(super) about: About,
    pub(super) place: Arc<Place>,
    pub(super) query: Query,
    pub(super) payload: Option<Bytes>,
    pub(super) attachment: Option<Bytes>,
    pub(super) since: Instant,
    seat: Seat,
}

impl Desk {
    /// A desk, and the task that answers what it takes in; it ends when the desk is gone and everything is answered.
    pub(super) fn open(answers: &Arc<Answers>, pace: Pace) -> (Self, JoinHandle<()>) {
        let (queue, waiting) = mpsc::channel(REQUESTS);
        let (crowded, refused) = mpsc::channel(REFUSED);
        tokio::spawn(refuse_all(refused));
        let answering = tokio::spawn(answer_all(Arc::clone(answers), pace, waiting));
        (Self { room: intake(), queue, crowded }, answering)
    }

    pub(super) fn take(&self, about: About, place: &Arc<Place>, mut query: Query) {
        let payload = query.payload_mut().map(|payload| copied(&std::mem::take(payload)));
        let attachment = query.attachment_mut().map(|attachment| copied(&std::mem::take(attachment)));
        let bytes = payload.as_ref().map_or(0, Bytes::len) + attachment.as_ref().map_or(0, Bytes::len);
        let Ok(seat) = self.room.enter(bytes) else {
            return self.refuse(about, query);
        };
        let (place, since) = (Arc::clone(place), Instant::now());
        let asked = Asked { about, place, query, payload, attachment, since, seat };
        // There is a place in the queue for each that has room.
        if let Err(error) = self.queue.try_send(asked) {
            let Asked { about, query, .. } = error.into_inner();
            self.refuse(about, query);
        }
    }

    fn refuse(&self, about: About, query: Query) {
        // Whom even this has no room for gets no answer, which ends the query too.
        drop(self.crowded.try_send((about, query)));
    }
}

async fn refuse_all(mut queries: mpsc::Receiver<(About, Query)>) {
    while let Some((about, query)) = queries.recv().await {
        let text = format!("busy: {REQUESTS} requests or too many bytes of them wait here; try again later");
        send(query, if matches!(about, About::Call) { calls::busy(text) } else { Err(text.into()) });
    }
}

async fn answer_all(answers: Arc<Answers>, pace: Pace, mut queue: mpsc::Receiver<Asked>) {
    let slots = Arc::new(Semaphore::new(pace.at_once as usize));
    while let Some(asked) = queue.recv().await {
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let answered = match pace.within {
                None => answers.find(&asked).await,
                Some(within) => {
                    let answered = tokio::time::timeout(within, answers.find(&asked)).await;
                    answered.unwrap_or_else(|_| Err(late(within)))
                }
            };
            send(asked.query, answered);
            drop((asked.seat, slot));
        });
    }
    drop(slots.acquire_many(pace.at_once).await);
}

fn late(within: Duration) -> Refusal {
    format!("no answer within {within:?}; of a write it is unknown whether it was applied").into()
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
