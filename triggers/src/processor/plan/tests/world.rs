//! A partition, its functions and the partitions around it, without any I/O: what a plan asks for waits until it is let happen.

mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use odgm_log::body::Target;
use odgm_log::body::calls::{Place, RowKey, Status};
use odgm_log::{GroupId, Offset, Payload, Timestamp};
use odgm_projections::{Applied, DeliveryRow, Moment, OutboxRow, Queued};
use odgm_replication::ProposeError;
use tokio::time::Instant;

use super::super::{
    Attempted, Deliver, Dispatch, Effect, Home, LetterPage, LetterSeen, Message, Note, Now, Page, Plan, Room,
    Unread,
};
use crate::invoker::{Answer, Failure};
use crate::processor::limits::LETTERS;
use crate::processor::settings::Settings;

/// What a function does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Completes,
    /// It refuses, for good.
    Refuses,
    /// It fails, perhaps not the next time.
    Fails,
    /// Its breaker is open for so many milliseconds.
    IsHeld(u64),
    /// It fails with many words.
    BreaksAtLength,
    /// There is none.
    IsMissing,
    /// Somebody has disabled it.
    IsDisabled,
    /// The records that ask for it cannot be read here.
    IsUnread,
    /// And never will be.
    IsGone,
}

/// What a partition does that an outcome is brought to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    Takes,
    Later,
    Gone,
}

/// How the next proposals are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recording {
    Records,
    /// There is no space.
    IsFull,
    /// They are recorded, and nobody says so.
    IsSilent,
    /// They are lost, and nobody says so.
    Loses,
}

/// A row of the outbox, as small as can be: there may be a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) function: u16,
    pub(super) generation: u32,
    pub(super) attempt: u32,
}

/// What was given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter {
    function: u16,
    died: Timestamp,
    /// Whether a call, and not an outcome.
    is_call: bool,
    generation: u32,
}

/// Something that was asked for and has not come to its end.
#[derive(Debug)]
pub(super) enum Pending {
    Call(Dispatch),
    /// To be read.
    Outbox(RowKey, Timestamp),
    /// Has been read.
    OutboxPage(Page<RowKey, OutboxRow>),
    Deliveries(Place),
    DeliveriesPage(Page<Place, DeliveryRow>),
    Letters(Option<Place>),
    Deliver(Deliver),
    /// To be applied.
    Proposal(u64, Box<Payload>),
    /// Has been, and is to be answered.
    Answer(u64, Applied),
}

/// Functions from here on are of another partition.
pub(super) const ELSEWHERE: u16 = 1_000;

pub(super) struct World {
    pub(super) now: Now,
    pub(super) time: Timestamp,
    pub(super) applied: Offset,
    pub(super) outbox: BTreeMap<RowKey, Stored>,
    pub(super) deliveries: BTreeMap<Place, (u16, Place)>,
    pub(super) dead: BTreeMap<Place, Letter>,
    /// How often the outcome of a call stands in a log, or in a dead letter that stands for it, by the record and the place of
    /// the call.
    pub(super) outcomes: BTreeMap<Place, u32>,
    /// Deliveries that have ever arrived.
    ever_arrived: BTreeSet<Place>,
    /// Whether the view can be read.
    pub(super) is_readable: bool,
    /// What each partition elsewhere knows of deliveries, by its class and index.
    arrived: BTreeMap<(String, u32), (BTreeSet<Place>, Offset)>,
    feed: Vec<Queued>,
    missed: bool,
    feed_room: usize,
    page: usize,
    pub(super) functions: BTreeMap<u16, Doing>,
    pub(super) taking: Taking,
    pub(super) recording: Recording,
    pub(super) plan: Plan,
    settings: Settings,
    room: Room,
    pub(super) pending: Vec<Pending>,
    pub(super) notes: Vec<Note>,
    pub(super) dispatched: u64,
    pub(super) pages: u64,
    pub(super) started_over: Option<String>,
    pub(super) stale: u64,
    /// Attempts that this plan has begun and that were not held.
    begun: BTreeSet<(RowKey, u32, u32)>,
    /// Calls that are, and how many of them of one function.
    under_way: (usize, usize),
    pub(super) most_in_flight: usize,
    /// How many rows may be in memory.
    bound: usize,
    pub(super) largest: usize,
}

fn home() -> Home {
    Home { group: GroupId(7), class: "home".into(), index: 0 }
}

pub(super) fn target(function: u16) -> Target {
    let (class, partition) =
        if function < ELSEWHERE { ("home", 0) } else { ("away", u32::from(function - ELSEWHERE)) };
    Target { class: class.into(), partition, function: format!("f{function}"), ..Target::default() }
}

impl World {
    pub(super) fn new(settings: Settings, room: Room, feed_room: usize, page: usize) -> Self {
        let now = Now { time: Timestamp(1_000_000), at: Instant::now() };
        let opened = Moment { offset: Offset(0), time: now.time };
        let plan = Plan::new(home(), settings.clone(), room, opened, now);
        Self {
            now,
            time: now.time,
            applied: Offset(0),
            outbox: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            dead: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            ever_arrived: BTreeSet::new(),
            is_readable: true,
            arrived: BTreeMap::new(),
            feed: Vec::new(),
            missed: false,
            feed_room,
            page,
            functions: BTreeMap::new(),
            taking: Taking::Takes,
            recording: Recording::Records,
            plan,
            settings,
            room,
            pending: Vec::new(),
            notes: Vec::new(),
            dispatched: 0,
            pages: 0,
            started_over: None,
            stale: 0,
            begun: BTreeSet::new(),
            under_way: (0, 0),
            most_in_flight: 0,
            bound: room.calls.rows,
            largest: 0,
        }
    }

    pub(super) fn pass(&mut self, pause: Duration) {
        self.now.time = self.now.after(pause);
        self.now.at += pause;
    }

    /// Another plan takes over, as the old one was deposed or began anew. Of what it proposed some is in the log.
    pub(super) fn depose(&mut self, mut is_recorded: impl FnMut() -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if let Pending::Proposal(_, payload) = pending
                && is_recorded()
            {
                self.apply(&payload);
            }
        }
        (self.feed, self.missed, self.started_over) = (Vec::new(), false, None);
        self.begun.clear();
        let opened = Moment { offset: self.applied, time: self.time };
        self.plan = Plan::new(home(), self.settings.clone(), self.room, opened, self.now);
    }

    /// Hands the news over, and lets the plan decide.
    pub(super) fn decide(&mut self) {
        let queued = std::mem::take(&mut self.feed);
        let missed = std::mem::take(&mut self.missed);
        if missed || !queued.is_empty() {
            self.plan.handle(self.now, Message::Fed { queued, missed });
        }
        self.effects();
    }

    pub(super) fn change(&mut self, settings: Settings) {
        self.settings = settings.clone();
        self.tell(Message::Settings(settings));
    }

    pub(super) fn tell(&mut self, message: Message) {
        let queued = std::mem::take(&mut self.feed);
        let missed = std::mem::take(&mut self.missed);
        self.plan.handle(self.now, Message::Fed { queued, missed });
        self.plan.handle(self.now, message);
        self.effects();
    }

    fn effects(&mut self) {
        let effects = self.plan.effects(self.now);
        for effect in effects {
            match effect {
                Effect::Dispatch(dispatch) => {
                    self.dispatched += 1;
                    let attempt = (dispatch.key, dispatch.row.generation, dispatch.row.attempt);
                    assert!(self.begun.insert(attempt), "{attempt:?} was begun twice");
                    self.pending.push(Pending::Call(dispatch));
                }
                Effect::ReadOutbox { from, until } => self.pending.push(Pending::Outbox(from, until)),
                Effect::ReadDeliveries { from } => self.pending.push(Pending::Deliveries(from)),
                Effect::ReadLetters { after } => self.pending.push(Pending::Letters(after)),
                Effect::Deliver(deliver) => self.pending.push(Pending::Deliver(deliver)),
                Effect::Propose { id, payload } => self.pending.push(Pending::Proposal(id, payload)),
                Effect::Note(note) => self.notes.push(note),
                Effect::StartOver { reason } => self.started_over = Some(reason),
            }
        }
        if let Some(wake) = self.plan.wake() {
            assert!(wake > self.now.time, "a wake-up at {wake} that has been at {}", self.now.time);
        }
        self.check();
    }

    fn check(&mut self) {
        let calls = self.pending.iter().filter(|pending| matches!(pending, Pending::Call(_)));
        let mut of_each: BTreeMap<&str, usize> = BTreeMap::new();
        for pending in calls {
            if let Pending::Call(dispatch) = pending {
                *of_each.entry(&dispatch.row.target.function).or_default() += 1;
            }
        }
        let (total, most) = (of_each.values().sum::<usize>(), of_each.values().max().copied().unwrap_or(0));
        let allowed = self.settings.max_concurrent_triggers;
        // Where fewer may be from now on, those that are under way come to their end.
        let (total_before, most_before) = std::mem::replace(&mut self.under_way, (total, most));
        assert!(total <= allowed.max(total_before), "{total} calls under way");
        assert!(most <= (allowed * 3 / 4).max(1).max(most_before), "{most} calls of one function under way");
        assert_eq!(total, self.plan.in_flight());
        self.most_in_flight = self.most_in_flight.max(total);
        let (rows, lanes) = self.plan.calls.size();
        self.largest = self.largest.max(rows);
        self.bound = self.bound.max(4 * allowed);
        assert!(rows <= self.bound, "{rows} rows in memory");
        // One more is for what is put aside.
        assert!(lanes <= self.room.calls.lanes + 1, "{lanes} lanes are told apart");
    }

    /// Lets one thing that was asked for go on.
    pub(super) fn advance(&mut self, at: usize) {
        match self.pending.remove(at) {
            Pending::Call(dispatch) => self.call(dispatch),
            Pending::Outbox(from, until) => {
                if !self.is_readable {
                    return self.tell(Message::Outbox(Err("it is damaged".into())));
                }
                let page = self.read_outbox(from, until);
                self.pages += 1;
                self.pending.push(Pending::OutboxPage(page));
            }
            Pending::OutboxPage(page) => self.tell(Message::Outbox(Ok(page))),
            Pending::Deliveries(from) => {
                if !self.is_readable {
                    return self.tell(Message::Deliveries(Err("it is damaged".into())));
                }
                let page = self.read_deliveries(from);
                self.pending.push(Pending::DeliveriesPage(page));
            }
            Pending::DeliveriesPage(page) => self.tell(Message::Deliveries(Ok(page))),
            Pending::Letters(after) => {
                let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
                let mut range = self.dead.range((from, std::ops::Bound::Unbounded));
                let seen = |(place, letter): (&Place, &Letter)| LetterSeen {
                    place: *place,
                    died: letter.died,
                    bytes: 100,
                };
                let letters = range.by_ref().take(LETTERS).map(seen).collect();
                let has_more = range.next().is_some();
                let total_bytes = 100 * self.dead.len() as u64;
                self.tell(Message::Letters(Ok(LetterPage { letters, has_more, total_bytes })));
            }
            Pending::Deliver(deliver) => self.deliver(&deliver),
            Pending::Proposal(id, payload) => match self.recording {
                Recording::Records => {
                    let applied = self.apply(&payload);
                    self.pending.push(Pending::Answer(id, applied));
                }
                Recording::IsFull => {
                    let answer = Err(ProposeError::LowSpace { free: 1, reserve: 2 });
                    self.tell(Message::Proposed { id, answer });
                }
                silent @ (Recording::IsSilent | Recording::Loses) => {
                    if silent == Recording::IsSilent {
                        self.apply(&payload);
                    }
                    let answer = Err(ProposeError::Unknown { reason: "nobody answers".into() });
                    self.tell(Message::Proposed { id, answer });
                }
            },
            Pending::Answer(id, applied) => self.tell(Message::Proposed { id, answer: Ok(applied) }),
        }
    }

    fn call(&mut self, dispatch: Dispatch) {
        let function = dispatch.row.target.function[1..].parse().expect("a number");
        let doing = self.functions.get(&function).copied().unwrap_or(Doing::Completes);
        if matches!(doing, Doing::IsUnread | Doing::IsGone) {
            self.begun.remove(&(dispatch.key, dispatch.row.generation, dispatch.row.attempt));
            let (key, reason) = (dispatch.key, "record 1 is not there".to_owned());
            let is_gone = doing == Doing::IsGone;
            return self.tell(Message::Unread(Unread { key, reason, is_gone }));
        }
        let result = match doing {
            Doing::Completes => Ok(Answer::default()),
            Doing::Refuses => Err(Failure::Refused { code: 3, message: "no".into() }),
            Doing::Fails => Err(Failure::Unreachable { reason: "nobody is there".into() }),
            Doing::BreaksAtLength => {
                Ok(Answer { status: Status::SystemError, payload: "long".into(), ..Answer::default() })
            }
            Doing::IsMissing => Err(Failure::NoClass { class: "home".into() }),
            Doing::IsDisabled => {
                self.begun.remove(&(dispatch.key, dispatch.row.generation, dispatch.row.attempt));
                Err(Failure::Disabled { class: "home".into(), function: "f".into() })
            }
            Doing::IsUnread | Doing::IsGone => unreachable!("it was not called"),
            Doing::IsHeld(millis) => {
                self.begun.remove(&(dispatch.key, dispatch.row.generation, dispatch.row.attempt));
                let until = self.now.at + Duration::from_millis(millis);
                Err(Failure::Held { until, reason: "the breaker is open".into() })
            }
        };
        let Dispatch { key, payload, .. } = dispatch;
        let payload = payload.unwrap_or_default();
        let took = Duration::from_millis(1);
        self.tell(Message::Attempted(Attempted { key, payload, took, result, chance: 0 }));
    }

    /// Lets everything happen that has been asked for, and time pass, until there is nothing more to do or the time has come.
    pub(super) fn run(&mut self, until: Timestamp) {
        self.decide();
        let mut steps = 0;
        loop {
            while !self.pending.is_empty() {
                steps += 1;
                assert!(steps < 50_000, "it does not come to an end");
                self.advance(0);
                assert!(self.started_over.is_none(), "{:?}", self.started_over);
            }
            let idle = self.outbox.is_empty() && self.deliveries.is_empty();
            let wake = self.plan.wake().expect("dead letters are looked for").min(until);
            if idle || wake <= self.now.time {
                return;
            }
            self.pass(Duration::from_micros(wake.0 - self.now.time.0));
            self.decide();
        }
    }
}
