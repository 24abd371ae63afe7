//! Outcomes on their way to other partitions, in the order in which their calls were settled.

use std::sync::Arc;

use odgm_log::body::calls::{Blob, Finished, Outcome, Place, Source};
use odgm_log::{Body, Cause, Offset, Payload, Timestamp};
use odgm_projections::{DeliveryRow, delivery_key};

use super::backlog::{Allowed, Backlog, Bounds, Found, Rows};
use super::calls::share;
use super::proposals::Forgetting;
use super::{Deliver, Effect, Home, Note, Now, Page, doubled};
use crate::call::IdempotencyKey;
use crate::post::PostError;
use crate::processor::limits::{DELIVERIES_AT_ONCE, DELIVERY_PAUSE, READ_PAUSE, WAITING_BYTES};

/// A partition of a class.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    class: String,
    partition: u32,
}

#[derive(Debug)]
struct Waiting {
    row: Arc<DeliveryRow>,
    /// Whether it has its answer.
    is_whole: bool,
}

#[derive(Debug)]
pub(super) struct Deliveries {
    home: Home,
    backlog: Backlog<Place, Arc<Address>, Waiting>,
    /// The newest record that was fed.
    fed: Offset,
    /// Until then the view is not read, after that has failed.
    unreadable_until: Option<Timestamp>,
}

/// What came of a delivery.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// What is to be recorded.
    pub(super) record: Option<Forgetting>,
    pub(super) note: Option<Note>,
}

const FIRST: Place = Place { offset: Offset::ZERO, index: 0 };
const LAST: Place = Place { offset: Offset(u64::MAX), index: u32::MAX };

/// The record of an outcome in the partition of its target.
pub(in crate::processor) fn outcome(home: &Home, deliver: &Deliver) -> Payload {
    let Deliver { place, row, forgotten_below, .. } = deliver;
    let parent = home.cause(row.origin, row.call.offset);
    let invocation = if row.invocation.is_empty() {
        IdempotencyKey { cause: parent, target: row.call.index }.to_string()
    } else {
        row.invocation.clone()
    };
    let cause = Cause {
        request_id: None,
        depth: row.depth,
        parent: Some(parent),
        traceparent: row.traceparent.clone(),
    };
    let (class, index) = home.address(row);
    let source = if home.is(class, index) {
        Source::Own(*place)
    } else {
        Source::Delivery { key: delivery_key(home.group, *place), forgotten_below: *forgotten_below }
    };
    let body = Body::Outcome(Outcome {
        source,
        invocation,
        object: row.target.object.clone(),
        function: row.target.function.clone(),
        finished: row.finished.clone(),
    });
    Payload { cause, body }
}

impl Deliveries {
    pub(super) fn new(home: Home, bounds: Bounds, opened: Offset) -> Self {
        let allowed = Allowed { total: DELIVERIES_AT_ONCE, of_one: share(DELIVERIES_AT_ONCE) };
        let backlog = Backlog::new(bounds, allowed, FIRST);
        Self { home, backlog, fed: opened, unreadable_until: None }
    }

    /// A row that a record has made.
    pub(super) fn fed(&mut self, place: Place, mut row: DeliveryRow) {
        self.fed = self.fed.max(place.offset);
        let is_whole = self.backlog.bytes() + row.finished.payload.0.len() <= WAITING_BYTES;
        if !is_whole {
            row.finished.payload = Blob::default();
        }
        let bytes = row.finished.payload.0.len();
        let address = self.address(&row);
        self.backlog.offer(place, &address, Waiting { row: Arc::new(row), is_whole }, bytes);
    }

    /// Rows that come behind all that was fed have this offset or a higher one.
    pub(super) fn horizon(&self) -> Offset {
        self.fed
    }

    /// There are rows with this offset or a higher one that were not fed.
    pub(super) fn missed(&mut self, since: Offset) {
        self.backlog.uncover(Place { offset: since, index: 0 });
    }

    /// A page of rows.
    pub(super) fn page(&mut self, now: Now, page: Result<Page<Place, DeliveryRow>, String>) -> Option<Note> {
        match page {
            Ok(Page { rows, next, as_of }) => {
                let found = rows.into_iter().map(|(key, row)| {
                    let lane = self.address(&row);
                    Found { key, lane, row: Waiting { row: Arc::new(row), is_whole: false } }
                });
                let rows = found.collect();
                self.backlog.page(Rows {
                    rows,
                    next,
                    as_of: Place { offset: as_of.offset.next(), index: 0 },
                });
                None
            }
            Err(reason) => {
                self.backlog.unreadable();
                self.unreadable_until = Some(now.after(READ_PAUSE));
                Some(Note::Unreadable { reason })
            }
        }
    }

    pub(super) fn effects(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.backlog.expire(now.time);
        while let Some((place, waiting)) = self.backlog.next() {
            let (row, is_whole) = (Arc::clone(&waiting.row), waiting.is_whole);
            if is_whole {
                // Not needed again: should it have to wait, it goes back to the view.
                waiting.row = Arc::new(DeliveryRow { finished: Finished::default(), ..(*row).clone() });
            }
            // Only of those to the same partition: it is not to remember names because another one cannot be reached.
            let lowest = self.backlog.lowest_beside(place);
            let forgotten_below = lowest.map_or(place.offset, |lowest| lowest.offset);
            effects.push(Effect::Deliver(Deliver { place, row, is_whole, forgotten_below }));
        }
        self.unreadable_until = self.unreadable_until.filter(|until| *until > now.time);
        if self.unreadable_until.is_none()
            && let Some(from) = self.backlog.read(LAST)
        {
            effects.push(Effect::ReadDeliveries { from });
        }
    }

    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.backlog.next_expiry().into_iter().chain(self.unreadable_until).min()
    }

    /// What came of a delivery. One to this very partition is forgotten by the record that it became.
    pub(super) fn delivered(&mut self, now: Now, place: Place, answer: Result<(), PostError>) -> Came {
        let Some(row) = self.backlog.get(place).map(|waiting| Arc::clone(&waiting.row)) else {
            return Came::default();
        };
        let record = match answer {
            Ok(()) if self.is_own(&row) => {
                self.backlog.ended(place, true);
                self.backlog.leave(place);
                return Came::default();
            }
            Ok(()) => Forgetting::Arrived(place),
            Err(PostError::Gone(reason)) => Forgetting::Undeliverable(place, reason),
            Err(PostError::Later(reason)) => {
                let pause = doubled(DELIVERY_PAUSE, self.backlog.holds_of(place));
                let times = self.backlog.hold(place, now.after(pause));
                return Came { record: None, note: times.map(|_| Note::Waits { row, reason }) };
            }
        };
        self.backlog.ended(place, true);
        Came { record: Some(record), note: None }
    }

    /// The row is no more.
    pub(super) fn forgotten(&mut self, place: Place) {
        self.backlog.leave(place);
    }

    fn is_own(&self, row: &DeliveryRow) -> bool {
        let (class, partition) = self.home.address(row);
        self.home.is(class, partition)
    }

    fn address(&self, row: &DeliveryRow) -> Arc<Address> {
        let (class, partition) = self.home.address(row);
        Arc::new(Address { class: class.to_owned(), partition })
    }
}
