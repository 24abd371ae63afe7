//! The endpoints that are used, and which of a route's gets the next call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::breaker::BreakerState;
use super::endpoint::{Duty, Endpoint, EndpointState, Held, Key, Rank, Seat};
use super::keeper;
use super::route::{Address, Route};
use super::settings::Settings;
use crate::metrics;

/// The endpoints of a node's functions.
pub(crate) struct Registry {
    settings: Arc<Settings>,
    /// Locked only to look and to choose; nothing waits while it is.
    endpoints: Mutex<HashMap<Key, Arc<Endpoint>, RandomState>>,
    /// Counts choices: of endpoints that are as good as each other the one is chosen that was not for longest.
    turns: AtomicU64,
    stop: CancellationToken,
    /// Ends those who look after endpoints.
    _stops: DropGuard,
}

impl Registry {
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        let stop = CancellationToken::new();
        Arc::new(Self {
            settings: Arc::new(settings),
            endpoints: Mutex::default(),
            turns: AtomicU64::new(0),
            stop: stop.clone(),
            _stops: stop.drop_guard(),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// All of them, by URL.
    pub(crate) fn standing(&self) -> Vec<EndpointState> {
        let endpoints: Vec<_> = self.endpoints.lock().values().cloned().collect();
        let mut all: Vec<_> = endpoints.iter().map(|endpoint| endpoint.standing()).collect();
        all.sort_by(|a, b| a.url.cmp(&b.url));
        all
    }

    /// A place at the best endpoint of a route but for those that have been tried: of those that may be called the one
    /// with the fewest calls under way. Without one, why the first that may be called again may not now; without even
    /// that, all were tried.
    pub(crate) fn choose(self: &Arc<Self>, route: &Route, tried: &[Address]) -> Result<Seat, Option<Held>> {
        let now = Instant::now();
        let mut offers: Vec<(Rank, Arc<Endpoint>)> = Vec::new();
        let mut first: Option<Held> = None;
        let mut hold = |address: &Address, mut held: Held| {
            if first.as_ref().is_none_or(|first| held.until < first.until) {
                held.reason = format!("{address}: {}", held.reason);
                first = Some(held);
            }
        };
        // Held to the end, so that none is forgotten in between.
        let mut endpoints = self.endpoints.lock();
        for address in route.endpoints.iter().filter(|address| !tried.contains(address)) {
            let key = Key { address: address.clone(), pool: route.pool };
            let endpoint = endpoints.entry(key).or_insert_with_key(|key| self.begin(key, now));
            match endpoint.ask(now) {
                Ok(rank) => offers.push((rank, Arc::clone(endpoint))),
                Err(held) => hold(address, held),
            }
        }
        offers.sort_by_key(|(rank, _)| *rank);
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        for (_, endpoint) in &offers {
            match endpoint.enter(now, turn) {
                Ok(seat) => return Ok(seat),
                Err(held) => hold(&endpoint.key().address, held),
            }
        }
        Err(first)
    }

    fn begin(self: &Arc<Self>, key: &Key, now: Instant) -> Arc<Endpoint> {
        let endpoint = Arc::new(Endpoint::new(key.clone(), &self.settings, now));
        metrics::endpoint_state(&key.address.to_string(), BreakerState::Closed);
        let (weak, registry) = (Arc::downgrade(&endpoint), Arc::downgrade(self));
        tokio::spawn(keeper::look_after(weak, registry, self.stop.clone()));
        endpoint
    }

    /// Forgets an endpoint, unless somebody has asked for it meanwhile.
    pub(crate) fn forget(&self, endpoint: &Endpoint) -> bool {
        let mut endpoints = self.endpoints.lock();
        let is_forgotten = matches!(endpoint.duty(Instant::now()), Duty::Forget);
        if is_forgotten {
            endpoints.remove(endpoint.key());
            metrics::endpoint_state(&endpoint.key().address.to_string(), BreakerState::Closed);
        }
        is_forgotten
    }
}
