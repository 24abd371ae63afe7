//! One endpoint of functions: its connections, its breaker, and how it is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::codegen::http::Uri;

use super::breaker::{Breaker, BreakerState, Ticket, Verdict};
use super::exchange::shortened;
use super::link::{self, Link};
use super::pool::{Pool, SlotId};
use super::route::Address;
use super::settings::{PoolSettings, REST, Settings};
use crate::metrics;

/// Which endpoint, and with which bounds it is called: collections that share them share its connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) address: Address,
    pub(crate) pool: PoolSettings,
}

/// An endpoint as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointState {
    /// Its URL.
    pub url: String,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Calls that are under way.
    pub outstanding: usize,
    /// Connections, with those that are being made and those that end with their last call.
    pub connections: usize,
    /// Whether it could be reached when it was tried last, and does not say of itself that it is not well.
    pub is_healthy: bool,
}

/// What an endpoint says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing yet.
    #[default]
    Unknown,
    /// That it serves.
    Serving,
    /// That it does not: it gets no calls.
    NotServing,
    /// It has no words for it; what counts is whether it can be reached.
    Silent,
}

pub(crate) struct Endpoint {
    key: Key,
    origin: Uri,
    settings: Arc<Settings>,
    state: Mutex<State>,
    /// Wakes whoever looks after it: there is a connection to look after, or something went wrong.
    pub(crate) woken: Arc<Notify>,
}

struct State {
    breaker: Breaker,
    pool: Pool<Link>,
    health: Health,
    /// It could not be reached, or did not say in time how it is. It is called only if no other can be.
    is_suspect: bool,
    outstanding: usize,
    /// The turn in which it was chosen last.
    turn: u64,
    /// When a call asked for it last.
    asked: Instant,
    /// When it is looked at next, and how often in a row it was not well then.
    look_at: Instant,
    unwell: u32,
    /// What was wrong last, for people.
    last_error: String,
}

/// How good a place for a call an endpoint is. The lowest is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    is_suspect: bool,
    outstanding: usize,
    turn: u64,
}

/// Why there is no call now.
pub(crate) struct Held {
    pub(crate) until: Instant,
    pub(crate) reason: String,
}

/// What is to be done for an endpoint now, and until when nothing is.
pub(crate) enum Duty {
    /// It is to be looked at.
    Look,
    /// Nothing, until then.
    Wait(Instant),
    /// Nobody has asked for it for long.
    Forget,
}

impl Endpoint {
    pub(crate) fn new(key: Key, settings: &Arc<Settings>, now: Instant) -> Self {
        let state = State {
            breaker: Breaker::new(settings.breaker.clone()),
            pool: Pool::new(key.pool, settings.calls_per_connection),
            health: Health::Unknown,
            is_suspect: false,
            outstanding: 0,
            turn: 0,
            asked: now,
            look_at: now,
            unwell: 0,
            last_error: String::new(),
        };
        let origin = key.address.origin();
        let (settings, state) = (Arc::clone(settings), Mutex::new(state));
        Self { key, origin, settings, state, woken: Arc::default() }
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// How long it may take to say how it is.
    pub(crate) fn health_timeout(&self) -> Duration {
        self.settings.health.timeout
    }

    pub(crate) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    pub(crate) fn standing(&self) -> EndpointState {
        let mut state = self.state.lock();
        state.pool.tidy(Instant::now());
        EndpointState {
            url: self.key.address.to_string(),
            breaker: state.breaker.state(),
            outstanding: state.outstanding,
            connections: state.pool.connections(),
            is_healthy: !state.is_suspect && state.health != Health::NotServing,
        }
    }

    /// How good a place it is for a call that somebody wants to make, or until when it is none.
    pub(crate) fn ask(&self, now: Instant) -> Result<Rank, Held> {
        let mut state = self.state.lock();
        let was_idle = state.asked + self.key.pool.idle <= now;
        state.asked = now;
        if was_idle {
            self.woken.notify_one();
        }
        let State { is_suspect, outstanding, turn, .. } = *state;
        state.held(now, &self.settings).map_or(Ok(Rank { is_suspect, outstanding, turn }), Err)
    }

    /// Begins a call: takes a place on a connection, which is opened if there is none.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant, turn: u64) -> Result<Seat, Held> {
        let mut state = self.state.lock();
        if let Some(held) = state.held(now, &self.settings) {
            return Err(held);
        }
        let before = state.breaker.state();
        let ticket = state.breaker.admit(now).map_err(|until| Held { until, reason: state.why_open() })?;
        let Some((slot, link)) = state.pool.take(now, || self.connect()) else {
            state.breaker.settle(ticket, Verdict::Nothing, now);
            self.tell(&state, before);
            let (size, each) = (self.key.pool.size, self.settings.calls_per_connection);
            let reason = format!("its {size} connections, offload_max_pool_size, carry {each} calls each");
            return Err(Held { until: now + self.settings.full_pause, reason });
        };
        self.tell(&state, before);
        state.outstanding += 1;
        state.turn = turn;
        let endpoint = Arc::clone(self);
        Ok(Seat { endpoint, slot, ticket, verdict: Verdict::Nothing, reason: None, link })
    }

    /// Makes a connection, in the background: whoever wanted it may go away.
    fn connect(self: &Arc<Self>) -> Link {
        let (opening, link) = Link::new();
        let endpoint = Arc::downgrade(self);
        let (address, within) = (self.key.address.clone(), self.settings.connect_timeout);
        tokio::spawn(async move {
            let made = link::connect(&address, within).await;
            // What it says of the endpoint is there before those who wait for the connection go on.
            if let Some(endpoint) = endpoint.upgrade() {
                endpoint.connected(made.as_ref().err().map(AsRef::as_ref));
            }
            match made {
                Ok(sender) => opening.open(sender),
                Err(reason) => opening.fail(reason),
            }
        });
        link
    }

    /// A connection was made, or could not be.
    fn connected(&self, error: Option<&str>) {
        let mut state = self.state.lock();
        match error {
            // Another program may answer there now.
            None if state.health == Health::Silent => state.health = Health::Unknown,
            None => {}
            Some(error) => {
                state.is_suspect = true;
                state.last_error = shortened(error);
                let soon = Instant::now() + state.pause(&self.settings);
                state.look_at = state.look_at.min(soon);
            }
        }
        drop(state);
        self.woken.notify_one();
    }

    /// A call has ended.
    fn leave(&self, seat: &Seat) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.outstanding -= 1;
        state.pool.give_back(seat.slot, now);
        let before = state.breaker.state();
        match (seat.verdict, &seat.reason) {
            (Verdict::Good, _) => state.is_suspect = false,
            (Verdict::Bad, Some(reason)) => state.last_error.clone_from(reason),
            (Verdict::Bad | Verdict::Nothing, _) => {}
        }
        state.breaker.settle(seat.ticket, seat.verdict, now);
        self.tell(&state, before);
    }

    /// Tells whoever watches that the breaker has moved.
    fn tell(&self, state: &State, before: BreakerState) {
        let after = state.breaker.state();
        if before == after {
            return;
        }
        let url = self.key.address.to_string();
        metrics::endpoint_state(&url, after);
        match after {
            BreakerState::Open if before == BreakerState::Closed => {
                tracing::warn!(
                    url,
                    error = state.last_error,
                    "an endpoint of functions does not answer any more"
                );
            }
            BreakerState::Closed => tracing::info!(url, "an endpoint of functions answers again"),
            BreakerState::Open | BreakerState::HalfOpen => {}
        }
    }

    /// What is to be done now by whoever looks after it.
    pub(crate) fn duty(&self, now: Instant) -> Duty {
        let mut state = self.state.lock();
        state.pool.tidy(now);
        let is_used = state.outstanding > 0 || now < state.asked + self.key.pool.idle;
        if is_used && !state.is_known() && state.look_at <= now {
            return Duty::Look;
        }
        let forgotten = state.asked + self.settings.forgotten_after.max(self.key.pool.idle);
        if state.outstanding == 0 && state.pool.connections() == 0 && forgotten <= now {
            return Duty::Forget;
        }
        let close_at = state.pool.next_due(now);
        let look_at = (is_used && !state.is_known()).then_some(state.look_at);
        let next = close_at.into_iter().chain(look_at).min().unwrap_or(forgotten);
        Duty::Wait(next.max(now + REST))
    }

    /// A connection to ask over how it is.
    pub(crate) fn look(self: &Arc<Self>) -> Link {
        let mut state = self.state.lock();
        state.pool.look(Instant::now(), || self.connect())
    }

    /// It was looked at: what it says of itself, or that it does not answer.
    pub(crate) fn seen(&self, health: Result<Health, &str>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let was = state.health;
        match health {
            Ok(health) => {
                state.health = health;
                if std::mem::take(&mut state.is_suspect) {
                    state.breaker.reachable(now);
                }
            }
            Err(error) => {
                state.is_suspect = true;
                state.last_error = shortened(error);
            }
        }
        let is_well = health.is_ok_and(|health| health != Health::NotServing);
        let pause = if is_well { self.settings.health.interval } else { state.pause(&self.settings) };
        state.look_at = now + pause;
        state.unwell = if is_well { 0 } else { state.unwell.saturating_add(1) };
        let is_serving = state.health != Health::NotServing;
        drop(state);
        if is_serving != (was != Health::NotServing) {
            let url = self.key.address.to_string();
            tracing::info!(url, is_serving, "an endpoint of functions says how it is");
        }
    }
}

impl State {
    /// Why no call may be made, if none may.
    fn held(&self, now: Instant, settings: &Settings) -> Option<Held> {
        if self.health == Health::NotServing {
            let reason = "it says of itself that it is not serving".to_owned();
            // By then it has been looked at.
            return Some(Held { until: self.look_at.max(now) + settings.health.first_pause, reason });
        }
        let until = self.breaker.closed_until(now)?;
        Some(Held { until, reason: self.why_open() })
    }

    fn why_open(&self) -> String {
        format!("it is left alone for now; its last failure was: {}", self.last_error)
    }

    /// Whether nothing is to be learnt from looking at it: calls tell how it is.
    fn is_known(&self) -> bool {
        self.health == Health::Silent && !self.is_suspect && self.breaker.state() == BreakerState::Closed
    }

    /// How soon it is looked at again if it is not well.
    fn pause(&self, settings: &Settings) -> Duration {
        let pause = settings.health.first_pause.saturating_mul(2_u32.saturating_pow(self.unwell));
        pause.min(settings.health.interval)
    }
}

/// A call's place at an endpoint. It is given up when this is dropped.
pub(crate) struct Seat {
    endpoint: Arc<Endpoint>,
    slot: SlotId,
    ticket: Ticket,
    verdict: Verdict,
    reason: Option<String>,
    pub(crate) link: Link,
}

impl Seat {
    /// Says what came of the call.
    pub(crate) fn settle(&mut self, verdict: Verdict, reason: Option<&str>) {
        self.verdict = verdict;
        self.reason = reason.map(shortened);
    }

    /// The connection turned out to be closed.
    pub(crate) fn broken(&self) {
        self.endpoint.state.lock().pool.forget(self.slot);
    }

    pub(crate) fn address(&self) -> &Address {
        &self.endpoint.key.address
    }

    pub(crate) fn origin(&self) -> Uri {
        self.endpoint.origin()
    }

    pub(crate) fn patience(&self) -> Duration {
        self.endpoint.settings.patience
    }

    pub(crate) fn answer_bytes(&self) -> usize {
        self.endpoint.settings.answer_bytes
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.endpoint.leave(self);
    }
}
