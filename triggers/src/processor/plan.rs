//! What a partition's worker is to do, decided without doing it: no clock, no chance, no I/O.
//!
//! A [`Message`] says what happened; [`Plan::effects`] then says what is to be done, and [`Plan::wake`] when there will be more
//! without anything having happened. What waits for its turn stays in the view but for a window ([`Backlog`]). A record that is
//! refused is proposed again; where it is unknown what has become of one, or somebody else leads, [`Effect::StartOver`]
//! ends the plan, and what counts is what the view says then.

mod backlog;
mod calls;
pub(super) mod deliveries;
mod letters;
mod proposals;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odgm_log::body::Parent;
use odgm_log::body::calls::{Place, RowKey, Status};
use odgm_log::{GroupId, NodeId, Offset, Payload, Timestamp};
use odgm_projections::{DeliveryRow, Moment, OutboxRow, Queued};
use odgm_replication::Answer as Proposed;
use tokio::time::Instant;

use self::backlog::Bounds;
use self::calls::Calls;
use self::deliveries::Deliveries;
use self::letters::Letters;
use self::proposals::Proposals;
use super::limits::{DELIVERY_ROWS, DELIVERY_ROWS_OF_ONE, LANES, ROWS, ROWS_OF_ONE};
use super::settings::Settings;
use crate::invoker::{Answer, Failure};
use crate::post::PostError;

/// The partition whose calls are made.
#[derive(Clone, Debug)]
pub(super) struct Home {
    pub(super) group: GroupId,
    pub(super) class: String,
    pub(super) index: u32,
}

/// What a plan may have in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Of the outbox.
    pub(super) calls: Bounds,
    /// Of what is to be delivered.
    pub(super) deliveries: Bounds,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            calls: Bounds { rows: ROWS, lanes: LANES, rows_of_one: ROWS_OF_ONE },
            deliveries: Bounds { rows: DELIVERY_ROWS, lanes: LANES, rows_of_one: DELIVERY_ROWS_OF_ONE },
        }
    }
}

/// A moment, in the time of the log and in that of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Never goes back, and is at least that of every record that was handed over.
    pub(super) time: Timestamp,
    pub(super) at: Instant,
}

/// What has happened.
#[derive(Debug)]
pub(super) enum Message {
    /// Records have put something into the outbox. What was fed before another message happened comes before that one.
    Fed { queued: Vec<Queued>, missed: bool },
    /// A page of the outbox has been read, or why it could not be.
    Outbox(Result<Page<RowKey, OutboxRow>, String>),
    /// A page of what is to be delivered has been read, or why it could not be.
    Deliveries(Result<Page<Place, DeliveryRow>, String>),
    /// So many bytes of dead letters there are.
    DeadLetters(u64),
    /// Dead letters have been read, or why they could not be.
    Letters(Result<LetterPage, String>),
    /// An attempt has ended.
    Attempted(Attempted),
    /// A call was not made, as it cannot be read what it is called with.
    Unread(Unread),
    /// An outcome has arrived where it belongs, or has not.
    Delivered { place: Place, answer: Result<(), PostError> },
    /// A proposal has been answered.
    Proposed { id: u64, answer: Proposed },
    /// Calls are made in another way from now on.
    Settings(Settings),
}

/// Rows of the view, without what they hold of payloads.
#[derive(Clone, Debug)]
pub(super) struct Page<K, R> {
    /// In the order of their keys, without gaps, from where they were asked for.
    pub(super) rows: Vec<(K, R)>,
    /// The first key behind them; none if there is none.
    pub(super) next: Option<K>,
    /// Where the view was when they were read, or before.
    pub(super) as_of: Moment,
}

/// Some dead letters in the order of their places.
#[derive(Clone, Debug, Default)]
pub(super) struct LetterPage {
    pub(super) letters: Vec<LetterSeen>,
    /// Whether there are more behind them.
    pub(super) has_more: bool,
    /// Bytes of all dead letters of the partition.
    pub(super) total_bytes: u64,
}

/// What has to be known of a dead letter to decide whether it is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct LetterSeen {
    pub(super) place: Place,
    pub(super) died: Timestamp,
    pub(super) bytes: u64,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) key: RowKey,
    /// What it was called with.
    pub(super) payload: Bytes,
    pub(super) took: Duration,
    pub(super) result: Result<Answer, Failure>,
    /// Decides about the pause before the next attempt: any number, as random as can be.
    pub(super) chance: u32,
}

/// Why it cannot be read what a call is called with.
#[derive(Debug)]
pub(super) struct Unread {
    pub(super) key: RowKey,
    pub(super) reason: String,
    /// Whether it never will be: the record is in no replica's log any more.
    pub(super) is_gone: bool,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Effect {
    /// Make a call, and tell of its end.
    Dispatch(Dispatch),
    /// Read rows of the outbox that are due by then.
    ReadOutbox { from: RowKey, until: Timestamp },
    /// Read rows of what is to be delivered.
    ReadDeliveries { from: Place },
    /// Read dead letters.
    ReadLetters { after: Option<Place> },
    /// Have an outcome proposed to the partition that it belongs to.
    Deliver(Deliver),
    /// Propose a record as the leader of this term.
    Propose { id: u64, payload: Box<Payload> },
    /// Count and tell of it.
    Note(Note),
    /// Begin again with a new plan; nothing more comes from this one.
    StartOver { reason: String },
}

/// A call that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Dispatch {
    pub(super) key: RowKey,
    pub(super) row: Arc<OutboxRow>,
    /// What it is called with; none if that is to be read.
    pub(super) payload: Option<Bytes>,
}

/// An outcome that is to be delivered.
#[derive(Clone, Debug)]
pub(super) struct Deliver {
    pub(super) place: Place,
    pub(super) row: Arc<DeliveryRow>,
    /// Whether the row has the answer, which is to be read if it has not.
    pub(super) is_whole: bool,
    /// What goes to the same partition has this offset or a higher one.
    pub(super) forgotten_below: Offset,
}

/// What has become of calls.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// A call has ended, well or not.
    Ended { key: RowKey, row: Arc<OutboxRow>, status: Status, detail: String, took_us: u64 },
    /// One is tried again.
    Retried { key: RowKey, row: Arc<OutboxRow>, reason: String },
    /// One has been given up.
    Dead { key: RowKey, row: Arc<OutboxRow>, reason: String },
    /// What came of one did not count any more.
    Stale { key: RowKey },
    /// One waits until its record can be read here; told of the first in a row as a warning.
    Unread { key: RowKey, row: Arc<OutboxRow>, reason: String, is_first: bool },
    /// A function is left alone for a while; told of the first time in a row.
    Held { row: Arc<OutboxRow>, pause: Duration, reason: String, is_first: bool },
    /// Outcomes have arrived in other partitions.
    Arrived(usize),
    /// An outcome cannot be delivered for now.
    Waits { row: Arc<DeliveryRow>, reason: String },
    /// Outcomes have no place to go to.
    Undeliverable { reasons: Vec<(Place, String)> },
    /// Dead letters have been dropped.
    Discarded { letters: usize, reason: String },
    /// A record was refused and is proposed again; told of the first in a row.
    Refused { reason: String },
    /// The view could not be read, which is tried again.
    Unreadable { reason: String },
}

/// The state of one term's work.
#[derive(Debug)]
pub(super) struct Plan {
    settings: Settings,
    calls: Calls,
    deliveries: Deliveries,
    letters: Letters,
    proposals: Proposals,
    /// What is to be done, besides what is decided when that is asked for.
    effects: Vec<Effect>,
    /// The moment for which that was asked last.
    asked: Timestamp,
    is_over: bool,
}

impl Home {
    /// Whether this is the partition.
    pub(super) fn is(&self, class: &str, index: u32) -> bool {
        self.class == class && self.index == index
    }

    /// Whose partition an outcome goes to. An invocation's is of this one.
    pub(super) fn address<'a>(&'a self, row: &'a DeliveryRow) -> (&'a str, u32) {
        if row.invocation.is_empty() {
            (&row.target.class, row.target.partition)
        } else {
            (&self.class, self.index)
        }
    }

    /// The record that caused a call.
    pub(super) fn cause(&self, origin: NodeId, offset: Offset) -> Parent {
        Parent { group: self.group, origin, offset }
    }
}

impl Now {
    fn after(&self, pause: Duration) -> Timestamp {
        Timestamp(self.time.0.saturating_add(micros(pause)))
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A pause that doubles with each time from the first up to the second.
pub(super) fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(most)
}

impl Plan {
    /// The plan of a partition that is led from now on. `opened` is where its view was before its feed was opened.
    pub(super) fn new(home: Home, settings: Settings, room: Room, opened: Moment, now: Now) -> Self {
        Self {
            calls: Calls::new(home.clone(), &settings, room.calls, opened.time),
            deliveries: Deliveries::new(home.clone(), room.deliveries, opened.offset),
            letters: Letters::new(now.time),
            proposals: Proposals::new(home),
            settings,
            effects: Vec::new(),
            asked: now.time,
            is_over: false,
        }
    }

    /// Takes note of what has happened.
    pub(super) fn handle(&mut self, now: Now, message: Message) {
        match message {
            Message::Fed { queued, missed } => self.fed(queued, missed),
            Message::Outbox(page) => {
                let unreadable = self.calls.page(now, page);
                self.note(unreadable);
            }
            Message::Deliveries(page) => {
                let unreadable = self.deliveries.page(now, page);
                self.note(unreadable);
            }
            Message::DeadLetters(bytes) => self.letters.weighed(now, bytes, &self.settings),
            Message::Letters(page) => match page {
                Ok(page) => {
                    for discard in self.letters.seen(now, &page, &self.settings) {
                        self.proposals.discard(discard);
                    }
                }
                Err(reason) => {
                    self.letters.unreadable(now);
                    self.note(Some(Note::Unreadable { reason }));
                }
            },
            Message::Attempted(attempted) => {
                let came = self.calls.attempted(now, attempted, &self.settings);
                self.came(came);
            }
            Message::Unread(unread) => {
                let came = self.calls.unread(now, unread);
                self.came(came);
            }
            Message::Delivered { place, answer } => {
                let came = self.deliveries.delivered(now, place, answer);
                self.proposals.delivered(came.record);
                self.note(came.note);
            }
            Message::Proposed { id, answer } => self.proposed(now, id, answer),
            Message::Settings(settings) => {
                self.calls.allow(&settings);
                self.settings = settings;
            }
        }
    }

    /// What is to be done now.
    pub(super) fn effects(&mut self, now: Now) -> Vec<Effect> {
        self.asked = now.time;
        if !self.is_over {
            let room = self.proposals.has_room();
            self.calls.effects(now, room, &mut self.effects);
            self.deliveries.effects(now, &mut self.effects);
            self.effects.extend(self.letters.look(now).map(|after| Effect::ReadLetters { after }));
            self.proposals.effects(now, &mut self.effects);
        }
        std::mem::take(&mut self.effects)
    }

    /// When there is more to do though nothing happens until then: always later than the moment for which [`Self::effects`] was
    /// asked last.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        if self.is_over {
            return None;
        }
        let calls = self.calls.wake(self.asked);
        let wakes = [calls, self.deliveries.wake(), self.proposals.wake(), self.letters.wake()];
        wakes.into_iter().flatten().min()
    }

    /// Functions of which no calls are made for now, or single ones to see.
    pub(super) fn held(&self) -> usize {
        self.calls.held()
    }

    /// Calls that are being made, or have been and are not settled.
    pub(super) fn begun(&self) -> usize {
        self.calls.begun()
    }

    /// Calls that are being made.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.calls.in_flight()
    }

    /// No call in the outbox is due before; none if there is no call.
    pub(super) fn first_due(&self) -> Option<Timestamp> {
        self.calls.first_due()
    }

    fn fed(&mut self, queued: Vec<Queued>, missed: bool) {
        let (since, offset) = (self.calls.horizon(), self.deliveries.horizon());
        for queued in queued {
            match queued {
                Queued::Call { key, row, .. } if self.calls.is_mistakable(key, &row) => {
                    self.end(format!(
                        "the call at offset {} was redriven too soon after it died",
                        key.offset
                    ));
                }
                Queued::Call { key, row, payload, .. } => self.calls.fed(key, *row, payload),
                Queued::Later { key } => self.calls.later(key),
                Queued::Delivery { place, row, .. } => self.deliveries.fed(place, *row),
            }
        }
        if missed {
            self.calls.missed(since);
            self.deliveries.missed(offset);
        }
    }

    fn came(&mut self, came: calls::Came) {
        match came {
            calls::Came::Ended(ending) => self.proposals.ended(ending),
            calls::Came::Held(note) => self.note(Some(note)),
            calls::Came::Nothing => {}
        }
    }

    fn proposed(&mut self, now: Now, id: u64, answer: Proposed) {
        let came = self.proposals.answered(now, id, answer);
        for note in came.notes {
            self.note(Some(note));
        }
        for key in came.settled {
            self.calls.settled(key);
        }
        for place in came.forgotten {
            self.deliveries.forgotten(place);
        }
        if came.discarded {
            self.letters.discarded(now);
        }
        if let Some(reason) = came.over {
            self.end(reason);
        }
    }

    fn end(&mut self, reason: String) {
        self.is_over = true;
        self.effects.push(Effect::StartOver { reason });
    }

    fn note(&mut self, note: Option<Note>) {
        self.effects.extend(note.map(Effect::Note));
    }
}
