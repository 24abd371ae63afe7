//! One term's work: I/O around a [`Plan`].

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use odgm_log::body::calls::{Place as Where, RowKey};
use odgm_log::{Payload, Term, Timestamp};
use odgm_projections::{DeliveryRow, OutboxRow};
use odgm_replication::{Answer as Proposed, Feed, Partition};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::loading::{self, Loaded, Place, Rest};
use super::{Means, notes};
use crate::invoker::{Failure, Invoker};
use crate::metrics::{Backlog, InFlight, Meters};
use crate::post::PostError;
use crate::processor::clock::Clock;
use crate::processor::limits::{ANNOUNCED, DELIVER_WITHIN, FEED, GAUGES, LOADS_AT_ONCE};
use crate::processor::payload::{self, Manner};
use crate::processor::plan::{
    Attempted, Deliver, Dispatch, Effect, Home, LetterPage, Message, Now, Page, Plan, Room, Unread,
    deliveries,
};
use crate::processor::reading::{self, ReadError};
use crate::processor::settings::Settings;

/// What a task has come back with.
enum Done {
    Attempted(Attempted),
    Loaded(Loaded),
    /// There is room for the first of these.
    Room(Option<Place>, Vec<Dispatch>),
    Outbox(Result<Page<RowKey, OutboxRow>, ReadError>),
    Deliveries(Result<Page<Where, DeliveryRow>, ReadError>),
    Letters(Result<LetterPage, ReadError>),
    Delivered {
        place: Where,
        answer: Result<(), PostError>,
    },
}

/// The work of a term. Dropping it ends all that is under way.
pub(super) struct Shift<I> {
    means: Arc<Means<I>>,
    partition: Arc<Partition>,
    home: Arc<Home>,
    settings: watch::Receiver<Settings>,
    term: Term,
    clock: Clock,
    plan: Plan,
    feed: Feed,
    tasks: JoinSet<Done>,
    /// Answers to proposals: no more than are under way.
    answering: mpsc::UnboundedSender<(u64, Proposed)>,
    answers: mpsc::UnboundedReceiver<(u64, Proposed)>,
    /// Calls whose payload is to be read.
    unloaded: Vec<Dispatch>,
    /// How many tasks read payloads.
    loads: usize,
    /// Calls that were announced and then held back.
    announced: BTreeSet<RowKey>,
    meters: Meters,
    /// Makes the pauses of attempts different ones.
    chance: RandomState,
    has_recorded: bool,
}

impl<I: Invoker> Shift<I> {
    pub(super) fn new(
        means: &Arc<Means<I>>,
        partition: &Arc<Partition>,
        home: &Home,
        settings: watch::Receiver<Settings>,
        term: Term,
    ) -> Self {
        let opened = reading::moment(&partition.view());
        // Before anything is read: what is in the view and not here by then is fed.
        let feed = partition.feed(FEED);
        let at = Instant::now();
        let mut clock = Clock::new(opened.time, Timestamp::now(), at);
        let now = clock.now(opened.time, Timestamp::now(), at);
        let plan = Plan::new(home.clone(), settings.borrow().clone(), Room::default(), opened, now);
        let (answering, answers) = mpsc::unbounded_channel();
        Self {
            means: Arc::clone(means),
            partition: Arc::clone(partition),
            home: Arc::new(home.clone()),
            settings,
            term,
            clock,
            plan,
            feed,
            tasks: JoinSet::new(),
            answering,
            answers,
            unloaded: Vec::new(),
            loads: 0,
            announced: BTreeSet::new(),
            meters: Meters::of(&home.class, home.index),
            chance: RandomState::new(),
            has_recorded: false,
        }
    }

    pub(super) fn has_recorded(&self) -> bool {
        self.has_recorded
    }

    /// Ends all that is under way, and returns when that is so.
    pub(super) async fn end(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Another leads: what came of calls and is not recorded, or would still have come, does not count any more.
    pub(super) fn count_lost(&mut self) {
        // Some may have been recorded before, and nobody has looked yet.
        let now = self.hand_over(&mut Vec::new());
        self.meters.stale(self.plan.begun() as u64);
        // Nothing more is begun; what is known now is told.
        for effect in self.plan.effects(now) {
            if matches!(effect, Effect::Note(_)) {
                self.perform(effect);
            }
        }
    }

    /// Works until nothing more can be done in this term; why.
    pub(super) async fn run(&mut self) -> String {
        let mut gauges = tokio::time::interval(GAUGES);
        gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut messages = Vec::new();
        loop {
            let now = self.hand_over(&mut messages);
            for effect in self.plan.effects(now) {
                if let Effect::StartOver { reason } = effect {
                    return reason;
                }
                self.perform(effect);
            }
            if !self.unloaded.is_empty() && self.loads < LOADS_AT_ONCE {
                let unloaded = std::mem::take(&mut self.unloaded);
                self.load(unloaded, None);
            }
            // Without one it waits for what happens.
            let wake = self.plan.wake();
            let until = wake.map_or_else(Instant::now, |wake| self.clock.moment_of(wake));
            tokio::select! {
                done = self.tasks.join_next(), if !self.tasks.is_empty() => {
                    if let Err(reason) = self.gather(done, &mut messages) {
                        return reason;
                    }
                }
                Some((id, answer)) = self.answers.recv() => self.answered(id, answer, &mut messages),
                () = self.feed.ready() => {}
                () = tokio::time::sleep_until(until), if wake.is_some() => {}
                changed = self.settings.changed() => match changed {
                    Ok(()) => messages.push(Message::Settings(self.settings.borrow_and_update().clone())),
                    Err(_) => return "its options are not told any more".to_owned(),
                },
                _ = gauges.tick() => messages.push(self.gauge()),
            }
        }
    }

    /// Hands what happened to the plan: first what was fed, so that a row is known before its end is.
    fn hand_over(&mut self, messages: &mut Vec<Message>) -> Now {
        while let Ok((id, answer)) = self.answers.try_recv() {
            self.answered(id, answer, messages);
        }
        let fed = self.feed.take();
        let log = self.partition.view().header().time;
        let now = self.clock.now(log, Timestamp::now(), Instant::now());
        if fed.missed || !fed.queued.is_empty() {
            self.plan.handle(now, Message::Fed { queued: fed.queued, missed: fed.missed });
        }
        for message in messages.drain(..) {
            self.plan.handle(now, message);
        }
        now
    }

    fn answered(&mut self, id: u64, answer: Proposed, messages: &mut Vec<Message>) {
        fail::fail_point!("call-after-record");
        self.has_recorded |= answer.is_ok();
        messages.push(Message::Proposed { id, answer });
    }

    /// Takes in what has ended by now.
    fn gather(
        &mut self,
        first: Option<Result<Done, JoinError>>,
        messages: &mut Vec<Message>,
    ) -> Result<(), String> {
        let mut next = first;
        while let Some(done) = next {
            let done = done.map_err(|error| format!("a call or a read of it ended by a panic: {error}"))?;
            let reason = |error: ReadError| error.to_string();
            let message = match done {
                Done::Attempted(attempted) => {
                    self.note_announced(&attempted);
                    Message::Attempted(attempted)
                }
                Done::Loaded(loaded) => {
                    self.loads -= 1;
                    self.loaded(loaded, messages);
                    next = self.tasks.try_join_next();
                    continue;
                }
                Done::Room(place, dispatches) => {
                    self.load(dispatches, place);
                    next = self.tasks.try_join_next();
                    continue;
                }
                Done::Outbox(page) => Message::Outbox(page.map_err(reason)),
                Done::Deliveries(page) => Message::Deliveries(page.map_err(reason)),
                Done::Letters(page) => Message::Letters(page.map_err(reason)),
                Done::Delivered { place, answer } => Message::Delivered { place, answer },
            };
            messages.push(message);
            next = self.tasks.try_join_next();
        }
        Ok(())
    }

    /// Makes calls of which it is known now what they are called with; the others wait for room.
    fn loaded(&mut self, loaded: Loaded, messages: &mut Vec<Message>) {
        if let Some(Rest { dispatches, wanted }) = loaded.rest {
            let means = Arc::clone(&self.means);
            self.tasks.spawn(async move { Done::Room(means.room.enter(wanted).await, dispatches) });
        }
        for (dispatch, payload) in loaded.calls {
            match payload {
                Ok((payload, place)) => self.call(dispatch, payload, place),
                Err(error) => messages.push(Message::Unread(Unread {
                    key: dispatch.key,
                    is_gone: error.is_final(),
                    reason: error.to_string(),
                })),
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Dispatch(Dispatch { key, row, payload: Some(payload) }) => {
                let dispatch = Dispatch { key, row, payload: None };
                match self.means.room.try_enter(payload.len()) {
                    Some(place) => self.call(dispatch, payload, place),
                    None => self.unloaded.push(dispatch),
                }
            }
            Effect::Dispatch(dispatch) => self.unloaded.push(dispatch),
            Effect::ReadOutbox { from, until } => {
                let partition = Arc::clone(&self.partition);
                self.tasks
                    .spawn_blocking(move || Done::Outbox(reading::outbox(&partition.view(), from, until)));
            }
            Effect::ReadDeliveries { from } => {
                let partition = Arc::clone(&self.partition);
                self.tasks
                    .spawn_blocking(move || Done::Deliveries(reading::deliveries(&partition.view(), from)));
            }
            Effect::ReadLetters { .. } if self.partition.view().header().calls.dead_letters == 0 => {
                self.tasks.spawn(std::future::ready(Done::Letters(Ok(LetterPage::default()))));
            }
            Effect::ReadLetters { after } => {
                let partition = Arc::clone(&self.partition);
                self.tasks.spawn_blocking(move || Done::Letters(reading::letters(&partition.view(), after)));
            }
            Effect::Deliver(deliver) => self.deliver(deliver),
            Effect::Propose { id, payload } => self.propose(id, *payload),
            Effect::Note(note) => {
                let logs = self.settings.borrow().event_logging;
                notes::take(&self.home, &self.meters, logs, note);
            }
            // Its caller does.
            Effect::StartOver { .. } => {}
        }
    }

    fn propose(&self, id: u64, payload: Payload) {
        fail::fail_point!("call-before-record");
        let answering = self.answering.clone();
        self.partition.submit_as_leader(self.term, payload, move |answer| {
            // An error says that this term's work has ended.
            drop(answering.send((id, answer)));
        });
    }

    /// Reads what calls are called with, as many of them at once as there is room for.
    fn load(&mut self, dispatches: Vec<Dispatch>, first: Option<Place>) {
        self.loads += 1;
        let (partition, means) = (Arc::clone(&self.partition), Arc::clone(&self.means));
        self.tasks
            .spawn_blocking(move || Done::Loaded(loading::read(&partition, &means.room, dispatches, first)));
    }

    fn call(&mut self, dispatch: Dispatch, payload: Bytes, place: Place) {
        let means = Arc::clone(&self.means);
        let home = Arc::clone(&self.home);
        let manner = Manner::from(&*self.settings.borrow());
        let announces = self.announces(&dispatch);
        let chance = self.chance_of(&dispatch);
        let under_way: InFlight = self.meters.dispatched();
        self.tasks.spawn(async move {
            let Dispatch { key, row, .. } = dispatch;
            let call = payload::call(&home, key, &row, payload.clone(), manner);
            if announces && let Some(announce) = &means.announce {
                announce.announce(&call);
            }
            fail::fail_point!("call-before-dispatch");
            let began = Instant::now();
            let invoked = tokio::time::timeout(call.timeout, means.invoker.invoke(&call)).await;
            let result = invoked.unwrap_or(Err(Failure::Timeout { after: call.timeout }));
            drop((under_way, place));
            Done::Attempted(Attempted { key, payload, took: began.elapsed(), result, chance })
        });
    }

    /// Whether it is the first attempt of a call that a trigger asks for.
    fn announces(&mut self, dispatch: &Dispatch) -> bool {
        let Dispatch { key, row, .. } = dispatch;
        let is_first = row.generation == 0 && row.attempt == 0 && notes::is_of_trigger(row);
        is_first && !self.announced.remove(key)
    }

    fn note_announced(&mut self, attempted: &Attempted) {
        let is_held = matches!(
            attempted.result,
            Err(Failure::Held { .. } | Failure::Disabled { .. } | Failure::Standby { .. })
        );
        if is_held && self.means.announce.is_some() && self.announced.len() < ANNOUNCED {
            self.announced.insert(attempted.key);
        }
    }

    fn chance_of(&self, dispatch: &Dispatch) -> u32 {
        let hash = self.chance.hash_one((dispatch.key, dispatch.row.attempt));
        u32::try_from(hash >> 32).unwrap_or_default()
    }

    fn deliver(&mut self, mut deliver: Deliver) {
        let (means, home) = (Arc::clone(&self.means), Arc::clone(&self.home));
        let partition = Arc::clone(&self.partition);
        self.tasks.spawn(async move {
            let place = deliver.place;
            if !deliver.is_whole {
                let unread = deliver.clone();
                let read = move || reading::delivery(&partition.view(), &unread);
                let later = |reason: String| Done::Delivered { place, answer: Err(PostError::Later(reason)) };
                match tokio::task::spawn_blocking(read).await {
                    Ok(Ok(Some(row))) => deliver.row = Arc::new(row),
                    Ok(Ok(None)) => return later("it is no more".to_owned()),
                    Ok(Err(error)) => return later(error.to_string()),
                    Err(error) => return later(error.to_string()),
                }
            }
            let (class, index) = home.address(&deliver.row);
            let delivered = means.post.deliver(class, index, deliveries::outcome(&home, &deliver));
            let late = || Err(PostError::Later(format!("nobody took it within {DELIVER_WITHIN:?}")));
            let answer = tokio::time::timeout(DELIVER_WITHIN, delivered).await.unwrap_or_else(|_| late());
            Done::Delivered { place, answer }
        });
    }

    /// Shows how much there is; the plan is to know of the dead letters.
    fn gauge(&mut self) -> Message {
        let header = self.partition.view().header();
        let now = self.clock.now(header.time, Timestamp::now(), Instant::now());
        // Until the outbox has been read from its beginning the first one is not known.
        let due = self.plan.first_due().filter(|due| header.calls.outbox_rows > 0 && *due > Timestamp(0));
        let late = due.map_or(0, |due| now.time.0.saturating_sub(due.0));
        self.meters.backlog(&Backlog {
            rows: header.calls.outbox_rows,
            bytes: header.calls.outbox_bytes,
            age: std::time::Duration::from_micros(late),
            held: self.plan.held() as u64,
            dead_letters: header.calls.dead_letters,
            deliveries: header.calls.deliveries,
        });
        Message::DeadLetters(header.calls.dead_letter_bytes)
    }
}
