//! What is declared in Zenoh for each partition of this node.

mod callable;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use odgm_log::{GroupId, NodeId};
use odgm_replication::{Manager, Partition};
use tokio::task::JoinHandle;
use zenoh::liveliness::LivelinessToken;
use zenoh::pubsub::Subscriber;
use zenoh::query::Queryable;
use zenoh::{Session, Wait};

use self::callable::{Callable, Function, Standby};
use super::calls::{Accepting, Remote};
use super::desk::{About, Desk};
use super::events::Feed;
use super::intake::Losses;
use super::places::Place;
use super::puts::Puts;
use crate::config::ZenohRoutes;

/// Where what comes in under the declared keys goes.
pub(super) struct Intakes {
    /// Queries.
    pub(super) desk: Desk,
    /// Calls of functions.
    pub(super) calls: Desk,
    /// Objects that are PUT and deleted.
    pub(super) puts: Arc<Puts>,
    /// Calls that are PUT.
    pub(super) accepting: Arc<Accepting>,
}

/// Everything that is declared. Calls into it may wait for other nodes.
pub(super) struct Served {
    session: Session,
    routes: ZenohRoutes,
    intakes: Intakes,
    standby: Standby,
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
    /// What of it only the leader does.
    by_leader: ByLeader,
    reads: Vec<Queryable<()>>,
    writes: Option<Queryable<()>>,
    functions: Vec<Function>,
    standing: Standing,
}

/// What only the leader of a partition does, as its collection has it.
#[derive(Clone, Copy, Debug)]
struct ByLeader {
    reads: bool,
    calls: bool,
}

/// What is declared as long as the partition serves.
struct Standing {
    _puts: Subscriber<()>,
    _invocations: Vec<Subscriber<()>>,
    _capabilities: Option<Queryable<()>>,
    _alive: LivelinessToken,
    /// What applies PUTs, of objects and of calls.
    applying: [JoinHandle<()>; 2],
    publishing: Option<JoinHandle<()>>,
}

impl Served {
    pub(super) fn new(
        session: Session,
        routes: ZenohRoutes,
        intakes: Intakes,
        remote: Option<Arc<Remote>>,
    ) -> Self {
        Self {
            session,
            routes,
            intakes,
            standby: Standby(remote),
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
            let definition = collection.definition();
            let by_leader = ByLeader {
                reads: definition.options.raft_net_leader_only,
                calls: definition.options.calls.invoke_only_primary,
            };
            let callable = Arc::new(Callable::of(definition));
            let serving = collection.partitions().flatten().filter(|partition| partition.failure().is_none());
            let serving = serving.map(|it| (it.group(), (it, by_leader, Arc::clone(&callable))));
            here.extend(serving);
        }
        self.applying.retain(|applying| !applying.is_finished());
        let known = |group: &GroupId, declared: &Declared| {
            here.get(group).is_some_and(|(partition, ..)| {
                std::ptr::eq(declared.partition.as_ptr(), Arc::as_ptr(partition))
            })
        };
        let gone: Vec<_> =
            self.partitions.iter().filter(|(group, declared)| !known(group, declared)).collect();
        let gone: Vec<GroupId> = gone.into_iter().map(|(group, _)| *group).collect();
        for group in gone {
            let declared = self.partitions.remove(&group);
            self.applying.extend(declared.into_iter().flat_map(Declared::end));
        }
        for (group, (partition, by_leader, callable)) in here {
            if !self.partitions.contains_key(&group) {
                self.declare(&partition, by_leader, manager.node_id());
            }
            if let Some(declared) = self.partitions.get_mut(&group) {
                declared.by_leader = by_leader;
                Function::follow_class(&mut declared.functions, &callable, &declared.place);
            }
        }
        self.follow_leaders(manager.node_id());
    }

    /// Whether another node leads some partition than did when it was last looked, or a function that stands by is to be
    /// called where it was not, or the other way round.
    pub(super) fn is_outdated(&self, node: NodeId) -> bool {
        self.partitions.values().any(|declared| !declared.is_right(node, &self.standby))
    }

    /// Declares what only the leader of a partition does where this node leads, and takes it back where it does not.
    pub(super) fn follow_leaders(&mut self, node: NodeId) {
        for declared in self.partitions.values_mut() {
            if let Err(error) = declared.follow_leader(&self.session, &self.intakes, &self.standby, node) {
                self.failures.count(&declared.place, &error);
            }
        }
    }

    fn declare(&mut self, partition: &Arc<Partition>, by_leader: ByLeader, node: NodeId) {
        let place = Arc::new(Place::of(partition));
        match self.standing(&place, partition, node) {
            Ok(standing) => {
                let declared = Declared {
                    place,
                    partition: Arc::downgrade(partition),
                    by_leader,
                    reads: Vec::new(),
                    writes: None,
                    functions: Vec::new(),
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
        let (inlet, apply) = self.intakes.puts.open(place);
        let puts = self.session.declare_subscriber(place.puts()).callback(move |sample| inlet.take(&sample));
        let puts = puts.wait()?;
        let (inlet, accept) = self.intakes.accepting.open(place);
        let invocations = place.invocations().map(|key| {
            let inlet = inlet.clone();
            self.session.declare_subscriber(key).callback(move |sample| inlet.take(&sample)).wait()
        });
        let invocations = invocations.into_iter().collect::<zenoh::Result<_>>()?;
        let capabilities = self.routes.capabilities.then(|| {
            declare(&self.session, place.any_capabilities(), &self.intakes.desk, About::Capabilities, place)
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
        let applying = [tokio::spawn(apply), tokio::spawn(accept)];
        Ok(Standing {
            _puts: puts,
            _invocations: invocations,
            _capabilities: capabilities,
            _alive: alive,
            applying,
            publishing,
        })
    }

    /// Takes everything back. What has come in until then is still answered and applied; returns what to wait for.
    pub(super) fn end(mut self) -> Vec<JoinHandle<()>> {
        let partitions = std::mem::take(&mut self.partitions);
        self.applying.extend(partitions.into_values().flat_map(Declared::end));
        self.applying
    }
}

/// What is, or is to be, declared for a partition by and by.
#[derive(Clone, Copy, Debug)]
struct Share {
    reads: bool,
    writes: bool,
    calls: bool,
}

impl Declared {
    /// What is to be declared.
    fn wanted(&self, node: NodeId) -> Share {
        let partition = self.partition.upgrade().filter(|partition| partition.failure().is_none());
        let leads = partition.as_ref().is_some_and(|partition| partition.leader() == Some(node));
        let by = |only_leader: bool| partition.is_some() && (leads || !only_leader);
        Share { reads: by(self.by_leader.reads), writes: leads, calls: by(self.by_leader.calls) }
    }

    /// Whether that is what is declared.
    fn is_right(&self, node: NodeId, standby: &Standby) -> bool {
        let wanted = self.wanted(node);
        wanted.reads != self.reads.is_empty()
            && wanted.writes == self.writes.is_some()
            && self.functions.iter().all(|function| function.is_right(wanted.calls, standby))
    }

    fn follow_leader(
        &mut self,
        session: &Session,
        intakes: &Intakes,
        standby: &Standby,
        node: NodeId,
    ) -> zenoh::Result<()> {
        let (wanted, place, desk) = (self.wanted(node), &self.place, &intakes.desk);
        if !wanted.writes {
            self.writes = None;
        } else if self.writes.is_none() {
            self.writes = Some(declare(session, place.writes(), desk, About::Objects, place)?);
        }
        if !wanted.reads {
            self.reads.clear();
        } else if self.reads.is_empty() {
            let objects = place.reads().map(|key| declare(session, key, desk, About::Objects, place));
            let results = place.results().map(|key| declare(session, key, desk, About::Results, place));
            self.reads = objects.into_iter().chain(results).collect::<zenoh::Result<_>>()?;
        }
        for function in &mut self.functions {
            function.follow(wanted.calls, standby, |key| {
                declare(session, key, &intakes.calls, About::Call, place)
            })?;
        }
        Ok(())
    }

    fn end(self) -> [JoinHandle<()>; 2] {
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
