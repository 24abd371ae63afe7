//! What is declared in Zenoh for each partition of this node.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use odgm_log::{GroupId, NodeId};
use odgm_replication::{Manager, Partition};
use tokio::task::JoinHandle;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::query::Queryable;
use zenoh::{Session, Wait};

use super::desk::{About, Desk};
use super::events::Feed;
use super::intake::Losses;
use super::places::Place;
use super::puts::Puts;
use crate::config::ZenohRoutes;

/// Everything that is declared. Calls into it may wait for other nodes.
pub(super) struct Served {
    session: Session,
    routes: ZenohRoutes,
    desk: Desk,
    puts: Arc<Puts>,
    events: Arc<Losses>,
    failures: Losses,
    partitions: BTreeMap<GroupId, Declared>,
    /// What applies the PUTs of partitions that are declared no more.
    applying: Vec<JoinHandle<()>>,
}

/// What is declared for one partition. Dropping a declaration takes it back.
struct Declared {
    place: Arc<Place>,
    /// It holds its files, so it is not kept.
    partition: Weak<Partition>,
    /// Whether only the leader answers reads.
    reads_by_leader: bool,
    reads: Vec<Queryable<()>>,
    writes: Option<Queryable<()>>,
    standing: Standing,
}

/// What is declared as long as the partition serves.
struct Standing {
    _puts: Subscriber<()>,
    _capabilities: Option<Queryable<()>>,
    _alive: LivelinessToken,
    applying: JoinHandle<()>,
    publishing: Option<JoinHandle<()>>,
}

impl Served {
    pub(super) fn new(session: Session, routes: ZenohRoutes, desk: Desk, puts: Arc<Puts>) -> Self {
        Self {
            session,
            routes,
            desk,
            puts,
            events: Arc::new(Losses::of("events were not published over Zenoh")),
            failures: Losses::of("Zenoh routes were not declared; it is tried again"),
            partitions: BTreeMap::new(),
            applying: Vec::new(),
        }
    }

    /// Declares what is here, and takes back what is no more.
    pub(super) fn follow_catalogue(&mut self, manager: &Manager) {
        let mut here = BTreeMap::new();
        for collection in manager.collections() {
            let by_leader = collection.definition().options.raft_net_leader_only;
            let serving = collection.partitions().flatten().filter(|partition| partition.failure().is_none());
            here.extend(serving.map(|partition| (partition.group(), (partition, by_leader))));
        }
        self.applying.retain(|applying| !applying.is_finished());
        let known = |group: &GroupId, declared: &Declared| {
            here.get(group).is_some_and(|(partition, _)| {
                std::ptr::eq(declared.partition.as_ptr(), Arc::as_ptr(partition))
            })
        };
        let gone: Vec<_> =
            self.partitions.iter().filter(|(group, declared)| !known(group, declared)).collect();
        let gone: Vec<GroupId> = gone.into_iter().map(|(group, _)| *group).collect();
        for group in gone {
            let declared = self.partitions.remove(&group);
            self.applying.extend(declared.map(Declared::end));
        }
        for (group, (partition, by_leader)) in here {
            match self.partitions.get_mut(&group) {
                Some(declared) => declared.reads_by_leader = by_leader,
                None => self.declare(&partition, by_leader, manager.node_id()),
            }
        }
        self.follow_leaders(manager.node_id());
    }

    /// Whether another node leads some partition than did when it was last looked.
    pub(super) fn has_other_leaders(&self, node: NodeId) -> bool {
        self.partitions.values().any(|declared| declared.wanted(node) != declared.has())
    }

    /// Declares what only the leader of a partition does where this node leads, and takes it back where it does not.
    pub(super) fn follow_leaders(&mut self, node: NodeId) {
        for declared in self.partitions.values_mut() {
            if let Err(error) = declared.follow_leader(&self.session, &self.desk, node) {
                self.failures.count(&declared.place, &error);
            }
        }
    }

    fn declare(&mut self, partition: &Arc<Partition>, reads_by_leader: bool, node: NodeId) {
        let place = Arc::new(Place::of(partition));
        match self.standing(&place, partition, node) {
            Ok(standing) => {
                let declared = Declared {
                    place,
                    partition: Arc::downgrade(partition),
                    reads_by_leader,
                    reads: Vec::new(),
                    writes: None,
                    standing,
                };
                self.partitions.insert(partition.group(), declared);
            }
            Err(error) => self.failures.count(&place, &error),
        }
    }

    fn standing(
        &self,
        place: &Arc<Place>,
        partition: &Arc<Partition>,
        node: NodeId,
    ) -> zenoh::Result<Standing> {
        let (inlet, apply) = self.puts.open(place);
        let puts = self.session.declare_subscriber(place.puts()).callback(move |sample| inlet.take(&sample));
        let puts = puts.wait()?;
        let capabilities = self.routes.capabilities.then(|| {
            declare(&self.session, place.any_capabilities(), &self.desk, About::Capabilities, place)
        });
        let capabilities = capabilities.transpose()?;
        let alive = self.session.liveliness().declare_token(place.liveliness()).wait()?;
        let publishing = self.routes.events.then(|| {
            let feed = Feed {
                partition: Arc::clone(partition),
                place: Arc::clone(place),
                node,
                session: self.session.clone(),
                locality: self.routes.locality.into(),
                losses: Arc::clone(&self.events),
            };
            tokio::spawn(feed.run())
        });
        let applying = tokio::spawn(apply);
        Ok(Standing { _puts: puts, _capabilities: capabilities, _alive: alive, applying, publishing })
    }

    /// Takes everything back. What has come in until then is still answered and applied; returns what to wait for.
    pub(super) fn end(mut self) -> Vec<JoinHandle<()>> {
        let partitions = std::mem::take(&mut self.partitions);
        self.applying.extend(partitions.into_values().map(Declared::end));
        self.applying
    }
}

impl Declared {
    /// Whether reads and writes are to be declared.
    fn wanted(&self, node: NodeId) -> (bool, bool) {
        let partition = self.partition.upgrade().filter(|partition| partition.failure().is_none());
        let leads = partition.as_ref().is_some_and(|partition| partition.leader() == Some(node));
        (partition.is_some() && (leads || !self.reads_by_leader), leads)
    }

    /// Whether they are.
    fn has(&self) -> (bool, bool) {
        (!self.reads.is_empty(), self.writes.is_some())
    }

    fn follow_leader(&mut self, session: &Session, desk: &Desk, node: NodeId) -> zenoh::Result<()> {
        let (reads, writes) = self.wanted(node);
        if !writes {
            self.writes = None;
        } else if self.writes.is_none() {
            let key = self.place.writes();
            self.writes = Some(declare(session, key, desk, About::Objects, &self.place)?);
        }
        if !reads {
            self.reads.clear();
        } else if self.reads.is_empty() {
            let declared =
                self.place.reads().map(|key| declare(session, key, desk, About::Objects, &self.place));
            self.reads = declared.into_iter().collect::<zenoh::Result<_>>()?;
        }
        Ok(())
    }

    fn end(self) -> JoinHandle<()> {
        if let Some(publishing) = self.standing.publishing {
            publishing.abort();
        }
        self.standing.applying
    }
}

/// A queryable that knows all there is under its key: so one of several is asked, and not each.
fn declare(
    session: &Session,
    key: String,
    desk: &Desk,
    about: About,
    place: &Arc<Place>,
) -> zenoh::Result<Queryable<()>> {
    let (desk, place) = (desk.clone(), Arc::clone(place));
    session
        .declare_queryable(key)
        .complete(true)
        .callback(move |query| desk.take(about, &place, query))
        .wait()
}
