//! What a partition's view has, and what records do to it.

use bytes::Bytes;
use odgm_log::body::calls::{Attempt, Finished, Outcome, Place, RowKey, Settlement, Source, Verdict};
use odgm_log::{Body, NodeId, Offset, Payload, Timestamp};
use odgm_projections::{Action, Applied, DeliveryRow, Moment, OutboxRow, Outcome as Became, Queued, Subject};

use super::super::super::{Deliver, Message, Page, deliveries};
use super::{Letter, Stored, Taking, World, home, target};
use crate::post::PostError;

impl World {
    /// A record that asks for calls.
    pub(in crate::processor::plan::tests) fn write(&mut self, functions: &[u16]) -> Offset {
        let moment = self.record();
        for (index, function) in functions.iter().enumerate() {
            let stored = Stored { function: *function, generation: 0, attempt: 0 };
            let index = u32::try_from(index).expect("few");
            self.insert(RowKey { due: moment.time, offset: moment.offset, index }, stored);
        }
        moment.offset
    }

    pub(super) fn record(&mut self) -> Moment {
        self.applied = self.applied.next();
        self.time = self.time.max(self.now.time);
        Moment { offset: self.applied, time: self.time }
    }

    pub(super) fn insert(&mut self, key: RowKey, stored: Stored) {
        self.outbox.insert(key, stored);
        let row = Box::new(self.row(key, stored));
        self.feed(Queued::Call { key, row, payload: Some(Bytes::from_static(b"payload")), bytes: 0 });
    }

    pub(super) fn feed(&mut self, queued: Queued) {
        if self.feed.len() < self.feed_room {
            self.feed.push(queued);
        } else {
            self.missed = true;
        }
    }

    fn row(&self, key: RowKey, Stored { function, generation, attempt }: Stored) -> OutboxRow {
        let (object, key_of_entry) = ("o".to_owned(), "k".to_owned());
        OutboxRow {
            subject: Subject::Data { object, key: key_of_entry, action: Action::Created, version: 1 },
            target: target(function),
            depth: 1,
            generation,
            attempt,
            origin: NodeId(1),
            // Only of a first attempt.
            created: if attempt == 0 && generation == 0 { key.due } else { Timestamp(0) },
            traceparent: None,
            last_error: String::new(),
            payload: None,
        }
    }

    pub(super) fn read_outbox(&self, from: RowKey, until: Timestamp) -> Page<RowKey, OutboxRow> {
        let mut range = self.outbox.range(from..);
        let due = range.by_ref().take_while(|(key, _)| key.due <= until).take(self.page);
        let rows: Vec<_> = due.map(|(key, stored)| (*key, self.row(*key, *stored))).collect();
        let behind = rows.last().map_or(from, |(key, _)| RowKey { index: key.index + 1, ..*key });
        let next = self.outbox.range(behind..).next().map(|(key, _)| *key);
        Page { rows, next, as_of: Moment { offset: self.applied, time: self.time } }
    }

    pub(super) fn read_deliveries(&self, from: Place) -> Page<Place, DeliveryRow> {
        let mut range = self.deliveries.range(from..);
        let rows = range
            .by_ref()
            .take(self.page)
            .map(|(place, (function, call))| (*place, self.delivery(*function, *call)));
        let rows = rows.collect();
        let next = range.next().map(|(place, _)| *place);
        Page { rows, next, as_of: Moment { offset: self.applied, time: self.time } }
    }

    fn delivery(&self, function: u16, call: Place) -> DeliveryRow {
        DeliveryRow {
            call,
            origin: NodeId(1),
            target: target(function),
            invocation: String::new(),
            depth: 1,
            traceparent: None,
            finished: Finished::default(),
            created: self.time,
        }
    }

    pub(super) fn deliver(&mut self, deliver: &Deliver) {
        let answer = match self.taking {
            Taking::Takes => Ok(()),
            Taking::Later => Err(PostError::Later("nobody leads".into())),
            Taking::Gone => Err(PostError::Gone("no such class".into())),
        };
        if answer.is_ok() {
            let Body::Outcome(outcome) = deliveries::outcome(&home(), deliver).body else {
                panic!("no outcome")
            };
            self.arrive(&outcome, deliver);
        }
        self.tell(Message::Delivered { place: deliver.place, answer });
    }

    fn arrive(&mut self, outcome: &Outcome, deliver: &Deliver) {
        match outcome.source {
            Source::Own(place) => {
                self.record();
                if self.deliveries.remove(&place).is_some() {
                    *self.outcomes.entry(deliver.row.call).or_default() += 1;
                }
            }
            Source::Delivery { key, forgotten_below } => {
                let place = Place { offset: key.offset, index: key.index };
                let DeliveryRow { target, .. } = &*deliver.row;
                let (seen, floor) = self.arrived.entry((target.class.clone(), target.partition)).or_default();
                if key.offset >= *floor && seen.insert(place) {
                    self.ever_arrived.insert(place);
                    *self.outcomes.entry(deliver.row.call).or_default() += 1;
                }
                *floor = forgotten_below.max(*floor);
                let floor = *floor;
                seen.retain(|place| place.offset >= floor);
            }
            Source::Client | Source::Outbox(_) => panic!("no delivery"),
        }
    }

    /// What the core does with a record.
    pub(super) fn apply(&mut self, payload: &Payload) -> Applied {
        let moment = self.record();
        let mut outcome = Became::Noted;
        match &payload.body {
            Body::Outcome(Outcome { source: Source::Outbox(attempt), .. }) => match self.fenced(attempt) {
                Some(_) => {
                    let Attempt { row: RowKey { offset, index, .. }, .. } = *attempt;
                    *self.outcomes.entry(Place { offset, index }).or_default() += 1;
                }
                None => outcome = Became::Stale,
            },
            Body::TriggerSettled(settled) => {
                for (index, settlement) in settled.settlements.iter().enumerate() {
                    let index = u32::try_from(index).expect("few");
                    self.settle(moment, Place { offset: moment.offset, index }, settlement);
                }
            }
            Body::Delivered(delivered) => {
                self.deliveries.retain(|place, _| !delivered.arrived.contains(place));
                for (place, _) in &delivered.undeliverable {
                    let (function, call) = self.deliveries.remove(place).expect("a delivery");
                    // Unless it has arrived, and its place has gone since.
                    let is_lost = !self.ever_arrived.contains(place);
                    *self.outcomes.entry(call).or_default() += u32::from(is_lost);
                    self.dead.insert(
                        *place,
                        Letter { function, died: moment.time, is_call: false, generation: 0 },
                    );
                }
            }
            Body::Discard(discard) => {
                for place in &discard.letters {
                    self.dead.remove(place);
                }
            }
            other => panic!("nobody proposes {other:?}"),
        }
        Applied { offset: moment.offset, time: moment.time, outcome, change: None, queued: Vec::new() }
    }

    fn fenced(&mut self, attempt: &Attempt) -> Option<Stored> {
        let waits =
            |stored: &&Stored| (stored.generation, stored.attempt) == (attempt.generation, attempt.attempt);
        let found = self.outbox.get(&attempt.row).filter(waits).copied();
        match found {
            Some(_) => self.outbox.remove(&attempt.row),
            None => {
                self.stale += 1;
                None
            }
        }
    }

    fn settle(&mut self, moment: Moment, place: Place, Settlement { attempt, verdict }: &Settlement) {
        let Some(stored) = self.fenced(attempt) else { return };
        let RowKey { due, offset, index } = attempt.row;
        let call = Place { offset, index };
        let is_delivered = match verdict {
            Verdict::Ended(_) => true,
            Verdict::Retry { at, .. } => {
                let due = (*at).max(moment.time).max(Timestamp(due.0 + 1));
                let again = Stored { attempt: stored.attempt + 1, ..stored };
                let key = RowKey { due, offset, index };
                self.outbox.insert(key, again);
                self.feed(Queued::Later { key });
                false
            }
            Verdict::Dead { finished, .. } => {
                let Stored { function, generation, .. } = stored;
                self.dead.insert(call, Letter { function, died: moment.time, is_call: true, generation });
                if finished.is_none() {
                    *self.outcomes.entry(call).or_default() += 1;
                }
                finished.is_some()
            }
        };
        if is_delivered {
            self.deliveries.insert(place, (stored.function, call));
            let row = Box::new(self.delivery(stored.function, call));
            self.feed(Queued::Delivery { place, row, bytes: 0 });
        }
    }

    /// Tries a dead letter again, if it is one of a call.
    pub(in crate::processor::plan::tests) fn redrive(&mut self, place: Place) -> bool {
        let Some(letter) = self.dead.get(&place).copied().filter(|letter| letter.is_call) else {
            return false;
        };
        self.dead.remove(&place);
        let moment = self.record();
        // Later than the row that died was due.
        let due = moment.time.max(Timestamp(letter.died.0 + 1));
        let key = RowKey { due, offset: place.offset, index: place.index };
        let Letter { function, generation, .. } = letter;
        self.insert(key, Stored { function, generation: generation + 1, attempt: 0 });
        true
    }
}
