//! A model of calls: what waits, what was given up, what is to be delivered, and who may end what.

use std::collections::{BTreeMap, BTreeSet};

use odgm_log::body::calls::{Attempt, DeliveryKey, Invoke, Outcome as Ended, Place, RowKey, Source, Verdict};
use odgm_log::body::{Body, Target};
use odgm_log::{GroupId, Offset, Timestamp};
use odgm_projections::{
    Action, Change, Committed, InvocationState, Letter, Outcome, Rejection, View, fingerprint,
};
use proptest::prelude::*;

use crate::model::Model;

/// A call, as far as the model knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Call {
    function: String,
    depth: u32,
    pub(crate) generation: u32,
    pub(crate) attempt: u32,
    invocation: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dead {
    Call(Call),
    Delivery(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Progress {
    Pending,
    Ended(u64),
    Dead,
}

#[derive(Clone, Default)]
pub(crate) struct Calls {
    objects: Model,
    pub(crate) rows: BTreeMap<RowKey, Call>,
    pub(crate) deliveries: BTreeMap<Place, String>,
    pub(crate) letters: BTreeMap<Place, Dead>,
    /// When the calls among them died.
    died: BTreeMap<Place, u64>,
    delivered: BTreeSet<DeliveryKey>,
    floors: BTreeMap<GroupId, Offset>,
    invocations: BTreeMap<String, (Offset, [u8; 16], Progress)>,
    /// Ids of those that ended, oldest first, with their time.
    results: Vec<(u64, String)>,
    stale: u64,
}

impl Calls {
    pub(crate) fn apply(&mut self, now: u64, committed: &Committed) -> Outcome {
        let done = self.operate(now, committed);
        let kept = self.objects.config.result_retention_ms;
        for _ in 0..8 {
            if self.results.first().is_some_and(|(ended, _)| now - ended > kept) {
                let (_, id) = self.results.remove(0);
                self.invocations.remove(&id);
            }
        }
        done
    }

    fn operate(&mut self, now: u64, committed: &Committed) -> Outcome {
        let offset = committed.record.offset;
        let depth = committed.payload.cause.depth;
        match &committed.payload.body {
            Body::Invoke(invoke) => self.invoke(now, committed, invoke),
            Body::Outcome(ended) => self.end(now, offset, depth, ended),
            Body::TriggerSettled(settled) => {
                let settlements = (0..).zip(&settled.settlements);
                let fresh: Vec<bool> = settlements
                    .map(|(index, one)| self.settle(now, Place { offset, index }, one.attempt, &one.verdict))
                    .collect();
                if fresh.contains(&true) { Outcome::Noted } else { Outcome::Stale }
            }
            Body::Delivered(delivered) => {
                let mut taken = 0;
                for place in &delivered.arrived {
                    taken += u64::from(self.take_delivery(*place).is_some());
                }
                for (place, _) in &delivered.undeliverable {
                    if let Some(function) = self.take_delivery(*place) {
                        self.letters.insert(*place, Dead::Delivery(function));
                        taken += 1;
                    }
                }
                if taken > 0 { Outcome::Noted } else { Outcome::Stale }
            }
            Body::Redrive(redrive) => self.redrive(now, offset, &redrive.letters),
            Body::Discard(discard) => self.discard(now, &discard.letters),
            _ => self.write(now, depth, committed),
        }
    }

    fn write(&mut self, now: u64, depth: u32, committed: &Committed) -> Outcome {
        let name = committed.payload.body.object().unwrap_or_default().to_owned();
        let mut objects = self.objects.clone();
        let (outcome, change) = objects.apply(now, committed);
        let decisive = if objects.things.contains_key(&name) { &objects } else { &self.objects };
        let triggers =
            decisive.things.get(&name).and_then(|thing| thing.triggers.clone()).unwrap_or_default();
        let mut asked = Vec::new();
        for (key, action) in change.iter().flat_map(|change: &Change| &change.keys) {
            for (_, trigger) in triggers.data.iter().filter(|(name, _)| name == key) {
                asked.extend(match action {
                    Action::Created => trigger.on_create.clone(),
                    Action::Updated => trigger.on_update.clone(),
                    Action::Deleted => trigger.on_delete.clone(),
                });
            }
        }
        let is_deep = depth + 1 > self.objects.config.max_trigger_depth;
        let is_asked = self.objects.config.events_enabled && !asked.is_empty();
        if is_asked && !is_deep && self.is_full(asked.len()) {
            return self.full();
        }
        self.objects = objects;
        self.ask(now, committed.record.offset, depth + 1, &asked);
        outcome
    }

    fn bury(&mut self, now: u64, place: Place, call: Call) {
        self.letters.insert(place, Dead::Call(call));
        self.died.insert(place, now);
    }

    fn ask(&mut self, now: u64, offset: Offset, depth: u32, targets: &[Target]) {
        if !self.objects.config.events_enabled {
            return;
        }
        for (index, target) in (0..).zip(targets) {
            let call = Call { function: target.function.clone(), depth, ..Call::default() };
            if depth > self.objects.config.max_trigger_depth || self.is_full(1) {
                self.bury(now, Place { offset, index }, call);
            } else {
                self.rows.insert(RowKey { due: Timestamp::from_millis(now), offset, index }, call);
            }
        }
    }

    fn is_full(&self, more: usize) -> bool {
        (self.waiting() + more) as u64 > self.objects.config.max_outbox_rows
    }

    /// What has not come to its end counts, be it a call or its outcome.
    fn waiting(&self) -> usize {
        self.rows.len() + self.deliveries.len()
    }

    fn full(&self) -> Outcome {
        Outcome::Rejected(Rejection::OutboxFull { rows: self.waiting() as u64, bytes: 0 })
    }

    fn invoke(&mut self, now: u64, committed: &Committed, invoke: &Invoke) -> Outcome {
        let offset = committed.record.offset;
        let asked =
            fingerprint(committed.record.kind, committed.payload.body_bytes(&committed.record.payload));
        let id = invoke.invocation.clone();
        let kept = self.objects.config.result_retention_ms;
        // Of one whose dead letter was dropped, too.
        let is_past = self.results.iter().any(|(then, other)| *other == id && now - then > kept);
        match self.invocations.get(&id) {
            Some(_) if is_past => {}
            Some((offset, known, _)) if *known == asked => {
                return Outcome::Duplicate { offset: *offset, outcome: Box::new(Outcome::Noted) };
            }
            Some((offset, ..)) => {
                let offset = *offset;
                return Outcome::Rejected(Rejection::InvocationIdReused { invocation: id, offset });
            }
            None => {}
        }
        let depth = committed.payload.cause.depth_of_call();
        let is_deep = depth > self.objects.config.max_trigger_depth;
        if !is_deep && self.is_full(1) {
            return self.full();
        }
        self.results.retain(|(_, other)| *other != id);
        let call = Call {
            function: invoke.function.clone(),
            depth,
            invocation: Some(id.clone()),
            ..Call::default()
        };
        let place = Place { offset, index: 0 };
        if is_deep {
            self.bury(now, place, call);
        } else {
            self.rows.insert(RowKey { due: Timestamp::from_millis(now), offset, index: 0 }, call);
        }
        let progress = if is_deep { Progress::Dead } else { Progress::Pending };
        self.invocations.insert(id, (offset, asked, progress));
        Outcome::Noted
    }

    fn take(&mut self, attempt: Attempt) -> Option<Call> {
        let current = (attempt.generation, attempt.attempt);
        if self.rows.get(&attempt.row).is_none_or(|call| (call.generation, call.attempt) != current) {
            self.stale += 1;
            return None;
        }
        self.rows.remove(&attempt.row)
    }

    fn take_delivery(&mut self, place: Place) -> Option<String> {
        let taken = self.deliveries.remove(&place);
        self.stale += u64::from(taken.is_none());
        taken
    }

    fn finish(&mut self, now: u64, call: &Call, is_ended: bool) {
        let Some(id) = &call.invocation else { return };
        let Some(known) = self.invocations.get_mut(id) else { return };
        known.2 = if is_ended { Progress::Ended(now) } else { Progress::Dead };
        if is_ended {
            self.results.push((now, id.clone()));
        }
    }

    fn settle(&mut self, now: u64, place: Place, attempt: Attempt, verdict: &Verdict) -> bool {
        let Some(call) = self.take(attempt) else { return false };
        let row = attempt.row;
        match verdict {
            Verdict::Ended(_) => {
                self.finish(now, &call, true);
                self.deliveries.insert(place, call.function);
            }
            Verdict::Retry { at, .. } => {
                let due = Timestamp::from_millis(now).max(*at).max(Timestamp(row.due.get() + 1));
                self.rows.insert(RowKey { due, ..row }, Call { attempt: call.attempt + 1, ..call });
            }
            Verdict::Dead { finished, .. } => {
                self.finish(now, &call, false);
                if finished.is_some() {
                    self.deliveries.insert(place, call.function.clone());
                }
                // The attempt that it died of was made if it has an end.
                let attempt = call.attempt + u32::from(finished.is_some());
                let call = Call { attempt, ..call };
                self.bury(now, Place { offset: row.offset, index: row.index }, call);
            }
        }
        true
    }

    fn end(&mut self, now: u64, offset: Offset, depth: u32, ended: &Ended) -> Outcome {
        let is_fresh = match &ended.source {
            Source::Client => true,
            Source::Outbox(attempt) => match self.take(*attempt) {
                None => false,
                Some(call) => {
                    self.finish(now, &call, true);
                    true
                }
            },
            Source::Own(place) => self.take_delivery(*place).is_some(),
            Source::Delivery { key, forgotten_below } => {
                let floor = self.floors.get(&key.group).copied().unwrap_or_default();
                let is_fresh = key.offset >= floor && self.delivered.insert(*key);
                if is_fresh {
                    self.floors.insert(key.group, floor.max(*forgotten_below));
                }
                self.stale += u64::from(!is_fresh);
                is_fresh
            }
        };
        if !is_fresh {
            return Outcome::Stale;
        }
        let name = ended.object.clone().unwrap_or_default();
        let triggers =
            self.objects.things.get(&name).and_then(|thing| thing.triggers.clone()).unwrap_or_default();
        for (_, trigger) in triggers.functions.iter().filter(|(function, _)| *function == ended.function) {
            let is_complete = ended.finished.status.is_complete();
            let targets = if is_complete { &trigger.on_complete } else { &trigger.on_error };
            self.ask(now, offset, depth + 1, targets);
        }
        Outcome::Noted
    }

    fn redrive(&mut self, now: u64, offset: Offset, places: &[Place]) -> Outcome {
        let (mut back, mut left) = (0, 0);
        for (index, place) in (0..).zip(places) {
            match self.letters.get(place).cloned() {
                None => {}
                Some(Dead::Call(_)) if self.is_full(1) => left += 1,
                Some(Dead::Call(call)) => {
                    if let Some(known) = call.invocation.as_ref().and_then(|id| self.invocations.get_mut(id))
                    {
                        known.2 = Progress::Pending;
                    }
                    let call = Call { generation: call.generation + 1, attempt: 0, ..call };
                    // Later than it died, though no time has passed since.
                    let died = Timestamp::from_millis(self.died[place]);
                    let due = Timestamp::from_millis(now).max(Timestamp(died.get() + 1));
                    self.rows.insert(RowKey { due, offset: place.offset, index: place.index }, call);
                    self.letters.remove(place);
                    back += 1;
                }
                Some(Dead::Delivery(function)) => {
                    self.deliveries.insert(Place { offset, index }, function);
                    self.letters.remove(place);
                    back += 1;
                }
            }
        }
        match (back, left) {
            (0, 0) => Outcome::Unchanged { version: 0 },
            (0, _) => self.full(),
            _ => Outcome::Noted,
        }
    }

    fn discard(&mut self, now: u64, places: &[Place]) -> Outcome {
        let gone: Vec<Dead> = places.iter().filter_map(|place| self.letters.remove(place)).collect();
        for dead in &gone {
            if let Dead::Call(Call { invocation: Some(id), .. }) = dead {
                self.results.push((now, id.clone()));
            }
        }
        if gone.is_empty() { Outcome::Unchanged { version: 0 } } else { Outcome::Noted }
    }

    /// Compares the whole of it with a view.
    pub(crate) fn check(&self, view: &View) -> Result<(), TestCaseError> {
        let call = |row: odgm_projections::OutboxRow| Call {
            function: row.target.function,
            depth: row.depth,
            generation: row.generation,
            attempt: row.attempt,
            invocation: match row.subject {
                odgm_projections::Subject::Invocation { invocation } => Some(invocation),
                _ => None,
            },
        };
        let rows = view.outbox(RowKey::default(), Timestamp(u64::MAX), 999).unwrap();
        prop_assert_eq!(
            rows.into_iter().map(|(key, row)| (key, call(row))).collect::<BTreeMap<_, _>>(),
            self.rows.clone()
        );
        let deliveries = view.deliveries(Place { offset: Offset(0), index: 0 }, 999).unwrap();
        let deliveries: BTreeMap<_, _> =
            deliveries.into_iter().map(|(place, row)| (place, row.target.function)).collect();
        prop_assert_eq!(&deliveries, &self.deliveries);
        let letters =
            view.dead_letters(None, 999).unwrap().into_iter().map(|(place, dead)| match dead.letter {
                Letter::Call(row) => (place, Dead::Call(call(*row))),
                Letter::Delivery(row) => (place, Dead::Delivery(row.target.function)),
            });
        prop_assert_eq!(letters.collect::<BTreeMap<_, _>>(), self.letters.clone());
        for id in ["i1", "i2", "i3"] {
            let found = view.invocation(id).unwrap().map(|known| {
                let progress = match known.state {
                    InvocationState::Pending => Progress::Pending,
                    InvocationState::Ended { at, .. } => Progress::Ended(at.time.as_millis()),
                    InvocationState::Dead { .. } => Progress::Dead,
                };
                (known.accepted.offset, known.fingerprint, progress)
            });
            prop_assert_eq!(found.as_ref(), self.invocations.get(id), "{}", id);
        }
        let pending =
            self.invocations.values().filter(|(.., progress)| *progress == Progress::Pending).count();
        let counts = view.header().calls;
        prop_assert_eq!(
            [
                counts.outbox_rows,
                counts.deliveries,
                counts.dead_letters,
                counts.pending_invocations,
                counts.results
            ],
            [self.rows.len(), self.deliveries.len(), self.letters.len(), pending, self.results.len()]
                .map(|n| n as u64)
        );
        prop_assert_eq!(counts.stale, self.stale);
        for (is_empty, bytes) in [
            (self.rows.is_empty(), counts.outbox_bytes),
            (self.deliveries.is_empty(), counts.delivery_bytes),
            (self.letters.is_empty(), counts.dead_letter_bytes),
            (self.results.is_empty(), counts.result_bytes),
        ] {
            prop_assert_eq!(is_empty, bytes == 0);
        }
        Ok(())
    }
}
