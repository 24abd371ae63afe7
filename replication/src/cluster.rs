//! A node as a member of a cluster: how it is told, how it makes itself known, and how it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::store::{ReadError, ReadLimit};
use odgm_log::{Body, GroupId, NodeId, Offset};
use tokio_util::sync::CancellationToken;

use crate::catalogue::{NodeEntry, NodeState};
use crate::data_dir::NodeName;
use crate::definition::Definition;
use crate::manager::{Manager, OpenError};
use crate::neighbours::{ASK_EVERY, CLOCK_DRIFT, listed};
use crate::raft::{Members, Timing, TransferCounts};
use crate::transport::{Call, CallError, Class, Links};

/// How a node is part of a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The nodes that the cluster begins with; the first one founds it.
    pub members: Vec<NodeName>,
    /// Tells clusters apart that share a network.
    pub name: String,
    /// Whether what another node has to do is passed on to it.
    pub forward: bool,
    /// How quickly nodes notice that one has gone.
    pub timing: Timing,
    /// How far the clock of a node that leads may be from those of most others.
    pub clock_drift: Duration,
    /// The way of the messages between nodes.
    pub wire: Wire,
    /// Where the framed TCP transport listens, as host:port; port 0 is any free one.
    pub listen: String,
    /// Where the framed TCP transport finds nodes that are not to be asked over Zenoh.
    pub addresses: BTreeMap<NodeId, String>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            name: "odgm".to_owned(),
            forward: true,
            timing: Timing::default(),
            clock_drift: CLOCK_DRIFT,
            wire: Wire::default(),
            listen: "0.0.0.0:0".to_owned(),
            addresses: BTreeMap::new(),
        }
    }
}

/// The way of the messages between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// Zenoh's own connections.
    #[default]
    Zenoh,
    /// Connections of the node's own, found over Zenoh.
    Tcp,
}

/// Why another node did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It was not asked, or did not want to answer.
    #[error("{0}")]
    NotAsked(String),
    /// Whether it did what it was asked for is unknown.
    #[error("{0}")]
    Lost(String),
}

/// What has gone between this node and the others since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTraffic {
    /// Messages sent.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// Frames that carried those sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames received that were not heeded: garbage, or of whoever does not belong here.
    pub dropped: u64,
}

/// How often a node tries to make itself known, or to create what it was told to, until it has.
const RETRY: Duration = Duration::from_millis(500);

impl Manager {
    /// Makes this node known to the others and creates the collections it was told to; tries until it is done.
    pub(crate) async fn join(self: Arc<Self>, definitions: Vec<Definition>, stopping: CancellationToken) {
        let joined = async {
            let mut told = String::new();
            while let Err(error) = self.register().await {
                // Another node knows better what is in the way.
                let refused = self.knock(self.others()).await.or_else(|| self.opener.neighbours.refusal());
                self.set_outside(refused.clone());
                tell_once(&mut told, refused.unwrap_or(error), "this node is not known to the cluster yet");
                tokio::time::sleep(RETRY).await;
            }
            self.set_outside(None);
            while let Err(error) = self.create_missing(&definitions).await {
                tell_once(
                    &mut told,
                    error.to_string(),
                    "the collections of ODGM_COLLECTION are created later",
                );
                tokio::time::sleep(RETRY).await;
            }
            self.joined().await;
        };
        tokio::select! {
            () = joined => {}
            () = stopping.cancelled() => {}
        }
    }

    /// Writes who this node is into the catalogue, unless it stands there.
    async fn register(&self) -> Result<(), String> {
        let identity = self.data_dir().identity();
        let me = NodeEntry {
            name: identity.node_name.clone(),
            address: self.address.clone().unwrap_or_default(),
            incarnation: identity.incarnation.clone(),
            state: NodeState::Member,
        };
        self.confirm_catalogue().await.map_err(|error| error.to_string())?;
        let catalogue = self.read_catalogue().map_err(|error| error.to_string())?;
        let node = self.node_id();
        match catalogue.nodes.get(&node) {
            Some(known) if (NodeEntry { state: NodeState::Member, ..known.clone() }) == me => return Ok(()),
            Some(known) if known.incarnation != me.incarnation => {
                return Err(format!(
                    "node {node} is known with data directory {}, and this one is {}: if its disk was lost, run `odgm cluster \
                     readmit {node}`",
                    known.incarnation, me.incarnation
                ));
            }
            Some(known) => {
                let me = NodeEntry { state: known.state.clone(), ..me };
                return self.change(catalogue.register(node, &me)).await.map_err(|error| error.to_string());
            }
            None if !self.founds() => return Err(format!("nobody has let it in: `odgm cluster add {node}`")),
            None => {}
        }
        self.change(catalogue.register(node, &me)).await.map_err(|error| error.to_string())
    }

    /// Asks the other nodes how they are, and lets fit ones lead, until the node stops.
    pub(crate) async fn watch_neighbours(manager: Weak<Self>, stopping: CancellationToken) {
        let mut told = BTreeMap::new();
        while !stopping.is_cancelled() {
            let begun = Instant::now();
            let Some(manager) = manager.upgrade() else { return };
            let neighbours = &manager.opener.neighbours;
            let members = manager.council().unwrap_or_default();
            let mut others = members.all();
            if others.is_empty() {
                others.extend(manager.founders());
            }
            others.remove(&manager.node_id());
            neighbours.ask(&*manager.opener.transport, &others).await;
            manager.tell_of_neighbours(&members, &mut told);
            let groups = manager.opener.groups.all();
            let giving = futures_util::future::join_all(groups.iter().map(|group| group.give_way()));
            // Those that take longer go on at the next round.
            let _ = tokio::time::timeout(ASK_EVERY.0, giving).await;
            let is_founding = manager.founds() && !neighbours.is_founded();
            let pause = if is_founding { ASK_EVERY.1 } else { ASK_EVERY.0 };
            drop(manager);
            // Whoever does not answer must not make the others look silent.
            let rest = pause.saturating_sub(begun.elapsed());
            stopping.run_until_cancelled(tokio::time::sleep(rest)).await;
        }
    }

    /// Says when nodes fall silent and when they are back, and what others hold against this one.
    fn tell_of_neighbours(&self, members: &Members, told: &mut BTreeMap<&'static str, String>) {
        let neighbours = &self.opener.neighbours;
        let mut news = |what: &'static str, now: String, bad: &str, good: &str| {
            let before = told.insert(what, now.clone()).unwrap_or_default();
            match (now == before, now.is_empty()) {
                (true, _) => {}
                (false, false) => tracing::warn!(node = %self.node_id(), reason = now, "{bad}"),
                (false, true) => tracing::info!(node = %self.node_id(), before, "{good}"),
            }
        };
        let refusal = neighbours.refusal();
        if refusal.is_some() && !self.has_joined() {
            // Clients are told from now on.
            self.set_outside(refusal.clone());
        }
        let refusal = refusal.unwrap_or_default();
        news(
            "refusal",
            refusal,
            "other nodes do not listen to this one",
            "other nodes listen to this one again",
        );
        let silent = listed(&neighbours.silent(&Vec::from_iter(members.all())));
        news("silent", silent, "members do not answer", "all members answer again");
        let voters = Vec::from_iter(members.voters.iter().copied());
        let clock = neighbours.clock(&voters).err().map(|clock| clock.to_string()).unwrap_or_default();
        news("clock", clock, "this node must not lead", "the clock of this node is that of the others again");
    }

    /// Compares what the node was told of its cluster with the members that its directory knows.
    pub(crate) fn check_members(&self) -> Result<(), OpenError> {
        let told = BTreeSet::from_iter(self.founders().iter().copied());
        let founders = self.catalogue_founders()?;
        // Raft may still be starting, and what the view has not written out is applied again when somebody leads.
        let known = self.catalogue.view().members()?.map(|members| members.membership.nodes);
        let members = known.map(BTreeSet::from_iter).or_else(|| founders.clone()).unwrap_or_default();
        if members.is_empty() || told == members || founders.as_ref() == Some(&told) {
            return Ok(());
        }
        // Whoever came later may not know who founded it: then these may have.
        if founders.is_none() && !told.is_disjoint(&members) {
            return Ok(());
        }
        let (data, listed_members, listed_told) =
            (self.data_dir().root().display(), listed(&members), listed(&told));
        if told.is_disjoint(&members) && founders.is_some_and(|founders| told.is_disjoint(&founders)) {
            return Err(OpenError::Membership(format!(
                "the data directory {data} belongs to a cluster of nodes {listed_members}, and ODGM_MEMBERS names \
                 {listed_told}, none of them: correct ODGM_MEMBERS or ODGM_DATA_DIR"
            )));
        }
        tracing::warn!(
            told = listed_told,
            members = listed_members,
            "ODGM_MEMBERS differs from the members of this node's cluster and is not heeded: it says who founds a cluster; \
             `odgm cluster` changes one"
        );
        Ok(())
    }

    /// Who founded this node's cluster, if its log goes back that far.
    fn catalogue_founders(&self) -> Result<Option<BTreeSet<NodeId>>, OpenError> {
        let limit = ReadLimit { records: 1, bytes: usize::MAX };
        let first = match self.log().read(GroupId::CATALOGUE, Offset(1), limit) {
            Ok(records) => records.into_iter().find(|record| record.offset == Offset(1)),
            // A snapshot has it.
            Err(ReadError::BelowFloor { .. }) => None,
            Err(error) => return Err(OpenError::Membership(error.to_string())),
        };
        let body = first.and_then(|record| record.decode().ok()).map(|payload| payload.body);
        Ok(match body {
            Some(Body::Membership(membership)) => Some(membership.voters.into_iter().flatten().collect()),
            _ => None,
        })
    }

    /// The other nodes of the cluster, as far as this one has heard of them.
    pub(crate) fn others(&self) -> BTreeSet<NodeId> {
        let known = self.nodes.all().into_keys().chain(self.founders().iter().copied());
        known.filter(|node| *node != self.node_id()).collect()
    }

    /// Finds out whether this node is still, or again, of the cluster. Called now and then.
    pub(crate) async fn look_around(&self) {
        self.nodes.replace_members(self.council().unwrap_or_default().all());
        let nodes = self.nodes.all();
        let Some(me) = nodes.get(&self.node_id()) else { return };
        match (self.outside().is_some(), me.state.is_member()) {
            // It was let in again.
            (true, true) if self.has_joined() => self.set_outside(None),
            // Whoever leaves is told nothing any more once it has left.
            (false, false) => {
                let node = self.node_id();
                let stay = nodes.iter().filter(|(_, entry)| entry.state.is_member());
                if me.state == NodeState::Leaving
                    && self.is_unknown_to_most(stay.map(|(node, _)| *node).collect()).await
                {
                    tracing::warn!(%node, "this node has left the cluster: stop it");
                    self.set_outside(Some(format!(
                        "node {node} has left the cluster: stop it, and ask another node"
                    )));
                }
            }
            _ => {}
        }
    }

    /// The nodes of the cluster: what is known of each.
    pub fn nodes(&self) -> BTreeMap<NodeId, NodeEntry> {
        self.nodes.all()
    }

    /// Where clients reach a node.
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.nodes.address(node)
    }

    /// What has gone between this node and the others.
    pub fn traffic(&self) -> PeerTraffic {
        self.links.as_ref().map(Links::traffic).unwrap_or_default()
    }

    /// What the replicas of this node have sent and fetched beside entries.
    pub fn transfers(&self) -> TransferCounts {
        self.opener.transfers.counts()
    }

    /// Lets others ask this node ([`Manager::ask`]); `answer` answers them.
    pub fn staff(&self, answer: impl Fn(NodeId, Bytes) -> BoxFuture<'static, Bytes> + Send + Sync + 'static) {
        self.opener.groups.staff(Box::new(answer));
    }

    /// Asks another node something that is not about a group of replicas.
    ///
    /// # Errors
    /// [`AskError`], which says whether it may have been heard.
    pub async fn ask(&self, node: NodeId, request: Bytes, within: Duration) -> Result<Bytes, AskError> {
        let call = Call { to: node, class: Class::Log, group: crate::raft::NODE, request, within };
        self.opener.transport.call(call).await.map_err(|error| match error {
            CallError::Unreachable { .. } | CallError::Refused { .. } => {
                AskError::NotAsked(error.to_string())
            }
            CallError::Timeout { .. } | CallError::Closed { .. } | CallError::Restarted { .. } => {
                AskError::Lost(error.to_string())
            }
        })
    }

    /// Lets others lead what this node leads. To be called while requests are still answered.
    pub fn hand_over(&self) -> BoxFuture<'_, ()> {
        let groups = self.opener.groups.all();
        async move {
            futures_util::future::join_all(groups.iter().map(|group| group.hand_over())).await;
        }
        .boxed()
    }
}

/// Warns of what keeps a node from its cluster, once for each reason after another.
fn tell_once(told: &mut String, reason: String, what: &str) {
    if *told != reason {
        tracing::warn!(reason, "{what}; it is tried again");
        *told = reason;
    }
}
