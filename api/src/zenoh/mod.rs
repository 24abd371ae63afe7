//! The Zenoh routes: objects and functions for clients that speak Zenoh instead of gRPC.
//!
//! ```text
//! under oprc/CLASS/PARTITION/         what                                  answer
//!
//! GET    objects/ID                   the object                            ObjData
//! GET    objects/ID/entries/KEY       one of its entries                    ValueResponse
//! GET    objects/ID/set               sets it to the payload, an ObjData    EmptyResponse
//! GET    objects/ID/batch-set         a BatchSetValuesRequest               EmptyResponse
//! GET    objects/list-objects         a ListObjectsRequest, or nothing      each ObjectMetaEnvelope, all under this key
//! PUT    objects/ID                   sets it to the payload, an ObjData
//! DELETE objects/ID                   deletes it
//! GET    invokes/FN                   calls a stateless function            InvocationResponse
//! GET    objects/ID/invokes/FN        calls a function on an object         InvocationResponse
//! PUT    invokes/FN/async/CALL        has a call accepted
//! PUT    objects/ID/invokes/FN/async/CALL   the same on an object
//! GET    results/FN/async/CALL        what came of it                       InvocationResponse
//! GET    objects/ID/results/FN/async/CALL   the same on an object           InvocationResponse
//! GET    shards/SHARD/capabilities    what the replica can do               JSON
//! token  liveliness/SHARD             that a replica is there
//! PUT    events/ID                    by the node: what happened to it      JSON; with ODGM_ZENOH_EVENT_PUBLISH
//! PUT    async/FN/CALL                by the node: a trigger calls this     InvocationRequest
//! PUT    objects/ID/async/FN/CALL     by the node: the same on an object    ObjectInvocationRequest
//! ```
//!
//! The id may also be in the parameter `oid`, a number, or `oid_str`; `objects/get/ID`, `objects/set/ID` and
//! `objects/batch-set/ID` are understood, too. A refusal is an error reply with a text. What travels in gRPC metadata
//! travels in an [`attachment`]; what acknowledges a write has its offset and version there. Nodes answer only for partitions
//! that they have; a query for another one finds nobody and ends without a reply, as does one in the moments before a
//! client has heard of the node.
//!
//! **Functions.** For a function with a URL the leader declares the key under which it is called (with the option
//! `invoke_only_primary=false` every replica does), and answers with a response in any case: what went wrong is its status
//! and payload. A function without a URL is a queryable of its own at that key, which the node asks where a trigger, an accepted
//! call or a gRPC client wants it called; nothing is declared there. A call that is PUT is accepted by the leader, once
//! for each id, and made as any other; its result can be asked of every replica.
//!
//! **Once, whatever the number of replicas.** All replicas see a PUT or a DELETE, and the one that leads applies it. Only the
//! leader declares `set` and `batch-set`, as whoever asks with target All asks everybody who declares, and so does, without
//! knowing, a session in client mode that is connected to a replica itself: Zenoh chooses the best of those here and the best of
//! those elsewhere. Of what only reads, each such session gets an answer from up to two; others that ask
//! for BestMatching from one. With the option `raft_net_leader_only` the leader alone declares that as well. A shard's
//! id is the number of the partition's group, so that all of its replicas have the same token, and it goes with the last.
//!
//! **What clients need.** Whoever asks for a list asks with consolidation None: else Zenoh keeps one of the replies, as all have
//! the same key. Peers pass nothing on for each other, so a client that is one has to know all replicas, by gossip or as it is
//! told; one that knows none but a follower writes to nobody. A PUT or DELETE is lost where nobody leads for two
//! seconds, or where all replicas think that another one leads: whoever needs to know asks `set`, with a request id. PUTs and
//! DELETEs of one session are applied in their order; a query does not wait for them.
//!
//! Zenoh calls on the threads that receive for all. There, requests only go into bounded queues ([`limits`]); what comes
//! beyond them is told that the node is busy, or counted and lost.

mod answers;
mod attachment;
pub(crate) mod calls;
mod desk;
mod events;
mod inflow;
mod intake;
mod leading;
mod limits;
mod places;
mod puts;
mod served;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, block_in_place};
use zenoh::sample::Locality;

use self::answers::Answers;
use self::calls::{Accepting, Remote};
use self::desk::{Desk, Pace};
use self::limits::{ANSWER_WITHIN, ANSWERED_AT_ONCE, CALLED_AT_ONCE, LOOK};
use self::puts::Puts;
use self::served::{Intakes, Served};
use crate::config::{EventLocality, ZenohRoutes};
use crate::services::Shared;

/// The routes of a node.
pub(crate) struct Routes {
    running: JoinHandle<()>,
}

impl Routes {
    /// Begins to serve, if the node speaks Zenoh; until `shared.stop` is cancelled.
    ///
    /// All of it goes through the first session: it is the one that others know. `remote` says of which shards others are
    /// alive, for functions that stand by.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        routes: ZenohRoutes,
        remote: Option<Arc<Remote>>,
    ) -> Option<Self> {
        let session = shared.manager.sessions()?.first().clone();
        let answers = Arc::new(Answers::new(Arc::clone(shared)));
        let (desk, answering) =
            Desk::open(&answers, Pace { at_once: ANSWERED_AT_ONCE, within: Some(ANSWER_WITHIN) });
        // Of their own, as functions may take minutes. How long is theirs to say.
        let (calls, calling) = Desk::open(&answers, Pace { at_once: CALLED_AT_ONCE, within: None });
        let intakes = Intakes {
            desk,
            calls,
            puts: Arc::new(Puts::new(Arc::clone(shared))),
            accepting: Arc::new(Accepting::new(Arc::clone(shared))),
        };
        let served = Served::new(session, routes, intakes, remote);
        Some(Self { running: tokio::spawn(run(Arc::clone(shared), served, [answering, calling])) })
    }

    /// Waits until what had come in when the node began to stop is answered.
    pub(crate) async fn ended(mut self, within: Duration) {
        if tokio::time::timeout(within, &mut self.running).await.is_err() {
            tracing::warn!(?within, "Zenoh requests were still under way when the time to stop was over");
            self.running.abort();
        }
    }
}

async fn run(shared: Arc<Shared>, mut served: Served, answering: [JoinHandle<()>; 2]) {
    let manager = &shared.manager;
    let mut readiness = manager.readiness();
    let mut look = tokio::time::interval(LOOK.1);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    block_in_place(|| served.follow_catalogue(manager));
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => break,
            // Counted again whenever a partition has come, gone or failed.
            changed = readiness.changed() => {
                if changed.is_err() {
                    break;
                }
                block_in_place(|| served.follow_catalogue(manager));
            }
            _ = look.tick() => {
                if served.is_outdated(manager.node_id()) {
                    block_in_place(|| served.follow_leaders(manager.node_id()));
                }
            }
        }
    }
    let applying = block_in_place(|| served.end());
    for task in applying.into_iter().chain(answering) {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the Zenoh routes ended by a panic");
        }
    }
}

impl From<EventLocality> for Locality {
    fn from(locality: EventLocality) -> Self {
        match locality {
            EventLocality::SessionLocal => Self::SessionLocal,
            EventLocality::Remote => Self::Remote,
            EventLocality::Any => Self::Any,
        }
    }
}
