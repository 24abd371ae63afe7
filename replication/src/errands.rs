//! What nodes ask each other as parts of a cluster, beside what the members of a group do: as JSON, since it is rare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use odgm_log::{GroupId, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::manager::Manager;
use crate::nodes::not_part;
use crate::raft::{CLUSTER, Groups, Standing};
use crate::transport::{Call, CallError, Class, STARTING, Transport};

/// How long another node may take to say something about itself.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// How long handing leadership over may take.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(5);

/// What is asked of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Errand {
    /// To say who it is. The answer is an [`Introduction`].
    Introduce,
    /// To say how the groups are of which it has a member: a list of [`GroupReport`].
    Report,
    /// To let other members lead what it leads. The answer is how many groups it still leads.
    HandOver,
}

/// Who a node is, and how much of the catalogue it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    pub(crate) name: Option<String>,
    pub(crate) address: String,
    pub(crate) incarnation: String,
    /// The newest record of the catalogue that it has applied, and the chain up to there.
    pub(crate) applied: u64,
    pub(crate) chain: String,
}

/// How a group is, as one of its members sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupReport {
    pub(crate) group: u32,
    pub(crate) term: u64,
    /// Whether the node that says so leads it, as it thinks.
    pub(crate) leads: bool,
    pub(crate) voters: Vec<u64>,
    pub(crate) learners: Vec<u64>,
    /// The newest record of the log.
    pub(crate) last: u64,
    /// Up to where others have the log, of a leader.
    pub(crate) matched: BTreeMap<u64, u64>,
}

impl GroupReport {
    fn of(group: GroupId, standing: &Standing, node: NodeId) -> Self {
        let numbers = |nodes: &BTreeSet<NodeId>| nodes.iter().map(|node| node.0).collect();
        Self {
            group: group.get(),
            term: standing.term,
            leads: standing.leader == Some(node),
            voters: numbers(&standing.members.voters),
            learners: numbers(&standing.members.learners),
            last: standing.last.get(),
            matched: standing.others.iter().map(|(node, other)| (node.0, other.matched.get())).collect(),
        }
    }
}

/// Why an errand came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ErrandError {
    /// The other node does not want to hear of this one.
    #[error("{0}")]
    Refused(String),
    /// It did not answer.
    #[error("{0}")]
    Silent(String),
}

impl Manager {
    /// Lets other nodes ask this one.
    pub(crate) fn run_errands(self: &Arc<Self>) {
        let manager = Arc::downgrade(self);
        let desk = move |_, request: Bytes| -> BoxFuture<'static, Bytes> {
            let manager = manager.clone();
            async move {
                match (manager.upgrade(), serde_json::from_slice(&request)) {
                    (Some(manager), Ok(errand)) => manager.do_errand(&errand).await,
                    (None, _) => encode(&Err::<(), _>("the node is stopping".to_owned())),
                    (_, Err(error)) => encode(&Err::<(), _>(format!("upgrade this node: {error}"))),
                }
            }
            .boxed()
        };
        self.opener.groups.staff_cluster(Box::new(desk));
    }

    async fn do_errand(&self, errand: &Errand) -> Bytes {
        match errand {
            Errand::Introduce => encode(&Ok::<_, String>(self.introduction())),
            Errand::Report => encode(&Ok::<_, String>(reports(&self.opener.groups, self.node_id()))),
            Errand::HandOver => {
                self.hand_over().await;
                let reports = reports(&self.opener.groups, self.node_id());
                encode(&Ok::<_, String>(reports.iter().filter(|report| report.leads).count()))
            }
        }
    }

    fn introduction(&self) -> Introduction {
        let identity = self.data_dir().identity();
        let header = self.catalogue.view().header();
        Introduction {
            name: identity.node_name.clone(),
            address: self.address.clone().unwrap_or_default(),
            incarnation: identity.incarnation.clone(),
            applied: header.applied.get(),
            chain: header.chain.to_string(),
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        to: NodeId,
        errand: &Errand,
        within: Duration,
    ) -> Result<T, ErrandError> {
        if to == self.node_id() {
            return decode(&self.do_errand(errand).await);
        }
        send(&*self.opener.transport, to, errand, within).await
    }

    /// Asks a node who it is.
    pub(crate) async fn introduce(&self, node: NodeId) -> Result<Introduction, ErrandError> {
        self.send(node, &Errand::Introduce, ANSWER_WITHIN).await
    }

    /// Has a node hand over what it leads; how many groups it still leads.
    pub(crate) async fn have_handed_over(&self, node: NodeId) -> Result<usize, ErrandError> {
        self.send(node, &Errand::HandOver, HAND_OVER_WITHIN).await
    }

    /// What each of these nodes says of its groups; nothing of those that do not answer.
    pub(crate) async fn survey(&self, nodes: BTreeSet<NodeId>) -> Survey {
        let asked = nodes.into_iter().map(|node| {
            let reports = self.send::<Vec<GroupReport>>(node, &Errand::Report, ANSWER_WITHIN);
            reports.map(move |reports| (node, reports.ok())).boxed()
        });
        let asked: Vec<BoxFuture<'_, _>> = asked.collect();
        Survey { said: join_all(asked).await.into_iter().collect() }
    }

    /// Whether most of these nodes say that this one is not part of the cluster. A few may not have heard yet that it is, or
    /// not hear anything any more.
    pub(crate) async fn is_unknown_to_most(&self, others: BTreeSet<NodeId>) -> bool {
        let most = others.len() / 2 + 1;
        let unknown = ErrandError::Refused(not_part(self.node_id()));
        let asked = others.into_iter().map(|node| self.introduce(node).boxed());
        let asked: Vec<BoxFuture<'_, _>> = asked.collect();
        join_all(asked).await.iter().filter(|answer| answer.as_ref().err() == Some(&unknown)).count() >= most
    }

    /// Why another node does not want to hear of this one, if one says so.
    pub(crate) async fn knock(&self, others: BTreeSet<NodeId>) -> Option<String> {
        let asked = others.into_iter().map(|node| self.introduce(node).boxed());
        let asked: Vec<BoxFuture<'_, _>> = asked.collect();
        join_all(asked).await.into_iter().find_map(|answer| match answer {
            Err(ErrandError::Refused(reason)) => Some(reason),
            _ => None,
        })
    }
}

async fn send<T: DeserializeOwned>(
    transport: &dyn Transport,
    to: NodeId,
    errand: &Errand,
    within: Duration,
) -> Result<T, ErrandError> {
    // An errand is a word or two.
    let request = Bytes::from(serde_json::to_vec(errand).unwrap_or_default());
    let answer = transport.call(Call { to, class: Class::Log, group: CLUSTER, request, within }).await;
    let answer = answer.map_err(|error| match error {
        CallError::Refused { reason, .. } if reason != STARTING => ErrandError::Refused(reason),
        error => ErrandError::Silent(error.to_string()),
    })?;
    decode(&answer)
}

fn decode<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ErrandError> {
    let answer: Result<T, String> =
        serde_json::from_slice(answer).map_err(|error| ErrandError::Silent(error.to_string()))?;
    answer.map_err(ErrandError::Silent)
}

/// What nodes say of their groups.
pub(crate) struct Survey {
    pub(crate) said: BTreeMap<NodeId, Option<Vec<GroupReport>>>,
}

impl Survey {
    /// Who leads a group and what it says of it: of two that think so, the one of the later term.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(NodeId, &GroupReport)> {
        let reports = self
            .said
            .iter()
            .flat_map(|(node, said)| said.iter().flatten().map(move |report| (*node, report)));
        let leads = reports.filter(|(_, report)| report.leads && report.group == group.get());
        leads.max_by_key(|(_, report)| report.term)
    }
}

fn reports(groups: &Groups, node: NodeId) -> Vec<GroupReport> {
    let groups = groups.numbered();
    groups.iter().map(|(group, member)| GroupReport::of(*group, &member.standing(), node)).collect()
}

// All of these always have a JSON form.
fn encode<T: Serialize>(answer: &Result<T, String>) -> Bytes {
    serde_json::to_vec(answer).unwrap_or_default().into()
}
