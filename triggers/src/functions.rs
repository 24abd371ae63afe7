//! The invocation manager: which endpoint a call goes to, over which connection, and what its end says.
//!
//! A route names one or more endpoints. Of those that may be called the one with the fewest calls under way gets the next;
//! one that could not be reached is called only if no other can be, and where nothing was sent the next is tried within
//! the same attempt. Each endpoint has connections that many calls share (`pool`), a breaker that leaves it alone while it
//! does not answer (`breaker`), and somebody who asks it how it is as long as it is used (`keeper`). What is known of an
//! endpoint is shared by all functions there; nothing is kept of one that nobody has called for a while.
//!
//! Messages are of the contract's `oprc.OprcFunction`, the service that functions offer. They may be as large as a record
//! on the way out; an answer may have [`Settings::answer_bytes`].

mod breaker;
mod endpoint;
mod exchange;
mod keeper;
mod link;
mod message;
mod pool;
mod registry;
mod route;
mod settings;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use odgm_log::body::Target;
use odgm_replication::Definition;
use tokio::time::{Instant, timeout, timeout_at};

pub use self::breaker::BreakerState;
pub use self::endpoint::EndpointState;
pub use self::exchange::too_large;
pub use self::message::{Message, answer};
pub use self::route::{Address, Route};
pub use self::settings::{BreakerSettings, HealthSettings, Settings};

use self::exchange::{Unanswered, exchange};
use self::registry::Registry;
pub(crate) use self::settings::{CONFIRM_WITHIN, CONFIRMED_CLASSES};
use self::settings::{FOLLOW_PAUSE, LONGEST_CALL, SENDS, UNCONFIRMED_PAUSE};
use crate::call::Call;
use crate::catalogue::Catalogue;
use crate::invoker::{Answer, Failure, Invoker};

/// Functions that are reached without a URL.
pub trait Remote: Send + Sync + 'static {
    /// Calls a function that has no URL.
    fn call(&self, call: &Call, stateless: bool) -> BoxFuture<'_, Result<Answer, Failure>>;

    /// Whether a shard of another node has said that it is alive, and has not gone since.
    fn is_alive(&self, shard: u64) -> bool;
}

/// Calls functions where the routes of their classes say that they are.
pub struct Functions {
    catalogue: Arc<dyn Catalogue>,
    remote: Option<Arc<dyn Remote>>,
    registry: Arc<Registry>,
}

impl Functions {
    /// Functions of the classes of a catalogue, and, where there is a way, those that have no URL.
    pub fn new(
        catalogue: Arc<dyn Catalogue>,
        remote: Option<Arc<dyn Remote>>,
        settings: Settings,
    ) -> Arc<Self> {
        Arc::new(Self { catalogue, remote, registry: Registry::new(settings) })
    }

    /// The endpoints that are used, by URL. The same URL comes more than once where collections bound its connections
    /// differently.
    pub fn endpoints(&self) -> Vec<EndpointState> {
        self.registry.standing()
    }

    /// How a function of a class is called, as far as this node knows.
    ///
    /// # Errors
    /// [`Failure::NoClass`], [`Failure::NoFunction`], [`Failure::Disabled`] and [`Failure::Misconfigured`].
    pub fn find(&self, class: &str, function: &str) -> Result<Route, Failure> {
        self.known(class, function, 0)
    }

    fn known(&self, class: &str, function: &str, partition: u32) -> Result<Route, Failure> {
        let mut found = Err(Failure::NoClass { class: class.to_owned() });
        self.catalogue.look_up(class, &mut |definition| {
            found = self.route(definition, class, function, partition);
        });
        found
    }

    /// How a function is called by what a definition of its class says.
    fn route(
        &self,
        definition: Option<&Definition>,
        class: &str,
        function: &str,
        partition: u32,
    ) -> Result<Route, Failure> {
        let definition = definition.ok_or_else(|| Failure::NoClass { class: class.to_owned() })?;
        let most = self.registry.settings().endpoints_per_route;
        let route = Route::of(definition, function, most).map_err(|reason| reason.of(class, function))?;
        let count = definition.partitions;
        if partition >= count {
            return Err(Failure::NoPartition { class: class.to_owned(), partition, count });
        }
        Ok(route)
    }

    /// What it means that something was not found: this node may not have heard of it yet, and then the call has to wait.
    async fn confirm(&self, call: &Call, failure: Failure) -> Failure {
        if !failure.is_absence() {
            return failure;
        }
        let Target { class, function, partition, .. } = &call.target;
        let confirmed = self.catalogue.confirm(class);
        let (pause, reason) = match timeout(CONFIRM_WITHIN.min(call.timeout / 2), confirmed).await {
            Ok(Ok(definition)) => match self.route(definition.as_deref(), class, function, *partition) {
                Err(confirmed) if confirmed.is_absence() => return confirmed,
                Ok(_) | Err(_) => {
                    (FOLLOW_PAUSE, "there is one by now, of which this node is about to hear".to_owned())
                }
            },
            Ok(Err(reason)) => {
                (UNCONFIRMED_PAUSE, format!("whether that is so cannot be confirmed now: {reason}"))
            }
            Err(_) => (UNCONFIRMED_PAUSE, "whether that is so was not confirmed in time".to_owned()),
        };
        Failure::Held { until: Instant::now() + pause, reason: format!("{failure}; {reason}") }
    }

    /// Refuses a route on standby while one whose place it would take is there.
    fn check_standby(&self, route: &Route, call: &Call) -> Result<(), Failure> {
        let is_alive = |shard| self.remote.as_ref().is_some_and(|remote| remote.is_alive(shard));
        let alive = route.in_charge(is_alive);
        if alive.is_empty() {
            return Ok(());
        }
        let alive: Vec<_> = alive.iter().map(ToString::to_string).collect();
        let (class, function) = (call.target.class.clone(), call.target.function.clone());
        Err(Failure::Standby { class, function, alive: alive.join(", ") })
    }

    /// Calls a function without a URL.
    async fn call_remote(&self, route: &Route, call: &Call, deadline: Instant) -> Result<Answer, Failure> {
        let Some(remote) = &self.remote else {
            let reason = "its route has no url, and this node does not speak Zenoh; expected either";
            return Err(misconfigured(call, reason));
        };
        let answered = timeout_at(deadline, remote.call(call, route.stateless)).await;
        answered.unwrap_or(Err(Failure::Timeout { after: call.timeout }))
    }

    /// Calls a function at one of its endpoints.
    async fn call_endpoint(&self, route: &Route, call: &Call, deadline: Instant) -> Result<Answer, Failure> {
        let mut tried = Vec::new();
        let mut last: Option<Failure> = None;
        let mut sends = 0;
        loop {
            let seat = match self.registry.choose(route, &tried) {
                Ok(seat) => seat,
                Err(held) => {
                    let held = held.map(|held| Failure::Held { until: held.until, reason: held.reason });
                    let none = || Failure::Unreachable { reason: "it has no endpoint".to_owned() };
                    return Err(last.or(held).unwrap_or_else(none));
                }
            };
            let address = seat.address().clone();
            match exchange(seat, call, deadline).await {
                Ok(answer) => return Ok(answer),
                Err(Unanswered::Unsent(reason)) => {
                    sends += 1;
                    let failure = Failure::Unreachable { reason };
                    if sends == SENDS {
                        return Err(failure);
                    }
                    last = Some(failure);
                }
                Err(Unanswered::Failed(failure @ Failure::Unreachable { .. }))
                    if Instant::now() < deadline =>
                {
                    tried.push(address);
                    last = Some(failure);
                }
                Err(Unanswered::Failed(failure)) => return Err(failure),
            }
        }
    }
}

impl Invoker for Functions {
    async fn invoke(&self, call: &Call) -> Result<Answer, Failure> {
        let Target { class, function, partition, .. } = &call.target;
        let route = match self.known(class, function, *partition) {
            Ok(route) => route,
            Err(failure) => return Err(self.confirm(call, failure).await),
        };
        self.check_standby(&route, call)?;
        let deadline = Instant::now() + call.timeout.min(LONGEST_CALL);
        if route.endpoints.is_empty() {
            self.call_remote(&route, call, deadline).await
        } else {
            self.call_endpoint(&route, call, deadline).await
        }
    }
}

fn misconfigured(call: &Call, reason: &str) -> Failure {
    let (class, function) = (call.target.class.clone(), call.target.function.clone());
    Failure::Misconfigured { class, function, reason: reason.to_owned() }
}
