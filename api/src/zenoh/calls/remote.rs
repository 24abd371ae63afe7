//! Functions without a URL: they are asked where they answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use odgm_proto::oprc::InvocationResponse;
use odgm_replication::Manager;
use odgm_triggers::{Answer, Call, Failure, functions};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::mpsc;
use tonic::Code;
use zenoh::pubsub::Subscriber;
use zenoh::query::{ConsolidationMode, QueryTarget, Reply};
use zenoh::sample::SampleKind;
use zenoh::{Session, Wait};

use super::{key, request};
use crate::zenoh::intake::copied;
use crate::zenoh::limits::{GRACE, LIVE_SHARDS};

/// The tokens of all replicas of all classes.
const TOKENS: &str = "oprc/*/*/liveliness/*";

/// Calls functions that are queryables, and knows which shards are alive.
pub(crate) struct Remote {
    session: Session,
    manager: Arc<Manager>,
    /// The largest answer, as that of a function with a URL.
    answer_bytes: usize,
    alive: Arc<Alive>,
    _tokens: Subscriber<()>,
}

/// The tokens that are there, by shard.
#[derive(Default)]
struct Alive(Mutex<BTreeSet<(u64, String)>>);

/// A query, as it is sent.
struct Asked {
    key: String,
    payload: Bytes,
    attachment: Vec<u8>,
    within: Duration,
}

impl Remote {
    /// Over this session, of a node with these partitions. No answer may be larger than `answer_bytes`.
    pub(crate) fn open(
        session: &Session,
        manager: &Arc<Manager>,
        answer_bytes: usize,
    ) -> zenoh::Result<Self> {
        let alive = Arc::new(Alive::default());
        let heard = Arc::clone(&alive);
        let tokens = session.liveliness().declare_subscriber(TOKENS).history(true);
        let tokens = tokens
            .callback(move |sample| heard.take(sample.key_expr(), sample.kind() == SampleKind::Put))
            .wait()?;
        let (session, manager) = (session.clone(), Arc::clone(manager));
        Ok(Self { session, manager, answer_bytes, alive, _tokens: tokens })
    }

    async fn ask(&self, asked: Asked) -> Result<Answer, Failure> {
        let (within, key) = (asked.within, asked.key.clone());
        let (sender, mut replies) = mpsc::channel(1);
        let session = self.session.clone();
        let answer = async move {
            // Sending waits where the way is congested, by blocking its thread.
            let sent = tokio::task::spawn_blocking(move || send(&session, asked, sender)).await;
            let sent =
                sent.map_err(|error| error.to_string()).and_then(|sent| sent.map_err(|e| e.to_string()));
            sent.map_err(|reason| Failure::Unreachable { reason: format!("Zenoh: {reason}") })?;
            match replies.recv().await {
                Some(reply) => read(&reply, self.answer_bytes),
                None => Err(Failure::Unreachable {
                    reason: format!("nobody answers at {key}: expected a Zenoh queryable there"),
                }),
            }
        };
        tokio::time::timeout(within, answer).await.unwrap_or(Err(Failure::Timeout { after: within }))
    }
}

impl odgm_triggers::Remote for Remote {
    fn call(&self, call: &Call, stateless: bool) -> BoxFuture<'_, Result<Answer, Failure>> {
        let asked = key(call, !stateless, "invokes").map(|key| {
            let (payload, attachment) = request(call);
            Asked { key, payload, attachment, within: call.timeout }
        });
        let asked = asked.ok_or_else(|| Failure::Misconfigured {
            class: call.target.class.clone(),
            function: call.target.function.clone(),
            reason: "a function without a URL is called over Zenoh, where names may have none of / * $ ? #"
                .to_owned(),
        });
        Box::pin(async move { self.ask(asked?).await })
    }

    /// All replicas of a partition are one shard: of one that is here, too, it cannot be said that it is another node's.
    fn is_alive(&self, shard: u64) -> bool {
        let is_here = |class: &str, index: u32| {
            let partition = self.manager.partition(class, index);
            partition.is_ok_and(|partition| u64::from(partition.group().get()) == shard)
        };
        self.alive.has(shard, is_here)
    }
}

impl Alive {
    fn take(&self, key: &str, is_there: bool) {
        let Some(shard) = key.rsplit('/').next().and_then(|shard| shard.parse().ok()) else { return };
        let mut tokens = self.0.lock();
        if !is_there {
            tokens.remove(&(shard, key.to_owned()));
        } else if tokens.len() < LIVE_SHARDS {
            tokens.insert((shard, key.to_owned()));
        }
    }

    /// Whether there is a token of a shard, but for those of partitions that are here.
    fn has(&self, shard: u64, is_here: impl Fn(&str, u32) -> bool) -> bool {
        let tokens = self.0.lock();
        let of_shard = tokens.range((shard, String::new())..).take_while(|(found, _)| *found == shard);
        of_shard.into_iter().any(|(_, key)| {
            let mut segments = key.split('/').skip(1);
            let (class, index) = (segments.next(), segments.next().and_then(|index| index.parse().ok()));
            !class.zip(index).is_some_and(|(class, index)| is_here(class, index))
        })
    }
}

/// Sends a query. Its first reply goes to the sender, which is dropped when there will be none.
fn send(session: &Session, asked: Asked, sender: mpsc::Sender<Reply>) -> zenoh::Result<()> {
    session
        .get(asked.key)
        .target(QueryTarget::BestMatching)
        .consolidation(ConsolidationMode::None)
        .timeout(asked.within.saturating_add(GRACE))
        .payload(asked.payload)
        .attachment(asked.attachment)
        // A further reply finds no place, and is not wanted.
        .callback(move |reply| drop(sender.try_send(reply)))
        .wait()
}

fn read(reply: &Reply, most: usize) -> Result<Answer, Failure> {
    match reply.result() {
        Ok(sample) if sample.payload().len() > most => Err(functions::too_large(most)),
        Ok(sample) => answer(copied(sample.payload())),
        Err(error) => {
            let message = String::from_utf8_lossy(&error.payload().to_bytes()).into_owned();
            Err(Failure::Refused { code: Code::Unknown as i32, message })
        }
    }
}

fn answer(payload: Bytes) -> Result<Answer, Failure> {
    let response = InvocationResponse::decode(payload);
    let response =
        response.map_err(|error| Failure::Garbled { reason: format!("no InvocationResponse: {error}") });
    functions::answer(response?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_alive_as_long_as_any_token_of_it_is_there() {
        let alive = Alive::default();
        for key in ["oprc/a/0/liveliness/7", "oprc/b/1/liveliness/7", "oprc/a/1/liveliness/70"] {
            alive.take(key, true);
            alive.take(key, true);
        }
        alive.take("oprc/a/0/liveliness/seven", true);
        let has = |shard| alive.has(shard, |_, _| false);
        assert!(has(7) && has(70) && !has(8) && !has(0));
        assert!(alive.has(7, |class, index| (class, index) == ("a", 0)), "the other one is not here");
        assert!(!alive.has(70, |class, index| (class, index) == ("a", 1)), "it is this node's own");
        alive.take("oprc/a/0/liveliness/7", false);
        assert!(has(7), "the other one");
        alive.take("oprc/b/1/liveliness/7", false);
        assert!(!has(7) && has(70));
    }

    #[test]
    fn what_is_no_answer_is_said_to_be_none() {
        assert_eq!(answer(Bytes::new()), Ok(Answer::default()), "nothing to say");
        let failure = answer(Bytes::from_static(&[0xff])).expect_err("no response");
        insta::assert_snapshot!(failure, @"the function gave no proper answer: no InvocationResponse: failed to decode Protobuf message: invalid varint");
    }
}
