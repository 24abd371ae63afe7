//! The groups of a node, by id: who answers the other nodes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId};
use parking_lot::RwLock;

use super::changing::{Members, Standing, Step};
use super::group::Group;
use crate::neighbours::Neighbours;
use crate::transport::{GREETING, STARTING, Service};

/// A member of a group, as the rest of the node sees it. Behind it is all of openraft; without a trait in between, whatever
/// holds the node has the compiler look through that for every task that it is sent to.
pub(crate) trait Member: Send + Sync {
    /// Answers another member. What has an order is taken in before this returns.
    fn answer(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>>;

    /// Lets another member lead, if this one does.
    fn hand_over(&self) -> BoxFuture<'_, ()>;

    /// Lets a member lead that is fit for it, if this one leads, is not, and there is one that is.
    fn give_way(&self) -> BoxFuture<'_, ()>;

    /// Lets one certain member lead, if this one does; whether another one leads now.
    fn hand_over_to(&self, node: NodeId) -> BoxFuture<'_, bool>;

    /// How the group is, as this member sees it.
    fn standing(&self) -> Standing;

    /// Brings the members one step nearer to whom they are to be, if this one leads in that term.
    fn approach<'a>(&'a self, term: u64, wanted: &'a Members) -> BoxFuture<'a, Result<Step, String>>;
}

impl Member for Arc<Group> {
    fn answer(&self, from: NodeId, request: Bytes) -> BoxFuture<'static, io::Result<Bytes>> {
        Group::answer(self, from, request)
    }

    fn hand_over(&self) -> BoxFuture<'_, ()> {
        Group::hand_over(self).boxed()
    }

    fn give_way(&self) -> BoxFuture<'_, ()> {
        Group::give_way(self).boxed()
    }

    fn hand_over_to(&self, node: NodeId) -> BoxFuture<'_, bool> {
        async move { Group::hand_over_to(self, &[node]).await }.boxed()
    }

    fn standing(&self) -> Standing {
        Group::standing(self)
    }

    fn approach<'a>(&'a self, term: u64, wanted: &'a Members) -> BoxFuture<'a, Result<Step, String>> {
        Group::approach(self, term, wanted).boxed()
    }
}

/// The members of groups on this node.
#[derive(Default)]
pub(crate) struct Groups {
    groups: RwLock<BTreeMap<GroupId, Arc<dyn Member>>>,
    /// Who answers what is asked of the node for clients.
    desk: OnceLock<Desk>,
    /// Who answers what is asked of the node as a part of its cluster.
    cluster: OnceLock<Desk>,
    /// Who answers nodes that introduce themselves.
    neighbours: OnceLock<Arc<Neighbours>>,
}

/// Answers what another node asks of this one.
pub(crate) type Desk = Box<dyn Fn(NodeId, Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// In the place of a group's id: it is the node that is asked for clients. No group gets this id.
pub(crate) const NODE: GroupId = GroupId::LAST;

/// In the place of a group's id: it is the node that is asked as a part of its cluster. No group gets this id either.
pub(crate) const CLUSTER: GroupId = GroupId(u32::MAX - 2);

impl Groups {
    pub(crate) fn add(&self, group: Arc<Group>) {
        self.groups.write().insert(group.id(), Arc::new(group));
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<Arc<dyn Member>> {
        self.groups.read().get(&group).cloned()
    }

    pub(crate) fn remove(&self, group: GroupId) {
        self.groups.write().remove(&group);
    }

    /// Lets the node be asked. Only the first desk answers.
    pub(crate) fn staff(&self, desk: Desk) {
        if self.desk.set(desk).is_err() {
            tracing::warn!("the node's requests are answered already");
        }
    }

    /// Lets the node be asked as a part of its cluster. Only the first desk answers.
    pub(crate) fn staff_cluster(&self, desk: Desk) {
        if self.cluster.set(desk).is_err() {
            tracing::warn!("the requests of the cluster are answered already");
        }
    }

    /// All members on this node with their groups.
    pub(crate) fn numbered(&self) -> Vec<(GroupId, Arc<dyn Member>)> {
        self.groups.read().iter().map(|(group, member)| (*group, Arc::clone(member))).collect()
    }

    /// Has nodes that introduce themselves answered. Only the first one answers.
    pub(crate) fn introduce(&self, neighbours: &Arc<Neighbours>) {
        self.neighbours.get_or_init(|| Arc::clone(neighbours));
    }

    /// All members on this node.
    pub(crate) fn all(&self) -> Vec<Arc<dyn Member>> {
        self.groups.read().values().map(Arc::clone).collect()
    }
}

impl Service for Groups {
    fn answer(
        &self,
        from: NodeId,
        group: GroupId,
        request: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        if group == GREETING {
            let answer = self.neighbours.get().map(|neighbours| neighbours.answer(from, request));
            let answer = answer.ok_or_else(|| STARTING.to_owned());
            return std::future::ready(answer.and_then(|answer| answer.map_err(|error| error.to_string())))
                .boxed();
        }
        if group == NODE || group == CLUSTER {
            let desk = if group == NODE { &self.desk } else { &self.cluster };
            return match desk.get() {
                Some(desk) => desk(from, request).map(Ok).boxed(),
                None => std::future::ready(Err(STARTING.to_owned())).boxed(),
            };
        }
        match self.get(group) {
            Some(found) => found
                .answer(from, request)
                .map(move |answer| answer.map_err(|error| format!("the request of node {from}: {error}")))
                .boxed(),
            None => std::future::ready(Err(format!("group {group} has no member on this node"))).boxed(),
        }
    }
}
