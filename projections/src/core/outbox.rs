//! The outbox: calls that wait, and what becomes of them.
//!
//! A row is put by the record that asks for the call, and taken by the one that says what came of an attempt at it. The
//! fence is here: only what names the row's very attempt counts, so whatever is proposed twice, late, or by a leader that is
//! none any more, takes effect once.

use bytes::Bytes;
use odgm_log::body::calls::{Attempt, Finished, Place, RowKey, Settlement, TriggerSettled, Verdict};
use odgm_log::{NodeId, Payload, Timestamp};

use super::changes::Changes;
use super::overlay::Overlay;
use crate::calls::{DeliveryRow, InvocationState, Letter, OutboxRow, Queued, Subject};
use crate::error::Error;
use crate::header::Header;
use crate::keys::{Key, Table};
use crate::limits::{LETTER_PAYLOADS, OUTBOX_KEY_BYTES, PLACE_KEY_BYTES};
use crate::object::Moment;
use crate::outcome::{Outcome, Rejection};
use crate::rows::calls::{decode, encode};
use crate::storage::Reader;

/// One record's dealings with calls.
pub(super) struct Calling<'a> {
    pub(super) rows: &'a dyn Reader,
    pub(super) header: &'a mut Header,
    pub(super) changes: &'a mut Changes,
    pub(super) overlay: &'a mut Overlay,
    pub(super) queued: &'a mut Vec<Queued>,
    pub(super) moment: Moment,
    pub(super) origin: NodeId,
    pub(super) payload: &'a Payload,
}

impl Calling<'_> {
    /// Puts the calls that the record asks for into the outbox. Those that are too deep, or have no room, die at once.
    pub(super) fn ask(&mut self, asked: Vec<OutboxRow>) {
        let mut in_letters = 0;
        for (index, row) in (0..).zip(asked) {
            let key = RowKey { due: self.moment.time, offset: self.moment.offset, index };
            self.ask_one(key, row, &mut in_letters);
        }
    }

    /// Why the call died, if it did. `in_letters` counts the bytes of payload of those that the record has made letters.
    pub(super) fn ask_one(&mut self, key: RowKey, row: OutboxRow, in_letters: &mut u64) -> Option<String> {
        let value = encode(&row);
        let reason = too_deep(self.header, row.depth).or_else(|| {
            let (rows, bytes) = waiting(self.header);
            let is_full = !has_room(self.header, 1, weight(&value) as u64);
            is_full.then(|| {
                format!(
                    "the outbox was full: it had {rows} calls and outcomes to be delivered of {bytes} bytes"
                )
            })
        });
        let payload = row.subject.payload_in(self.payload);
        match &reason {
            None => self.queue(key, row, value, Some(payload)),
            Some(reason) => self.bury_asked(key, row, reason.clone(), payload, in_letters),
        }
        reason
    }

    /// Gives up a call that was never in the outbox, with its payload as far as the letters of one record may hold it.
    fn bury_asked(
        &mut self,
        key: RowKey,
        mut row: OutboxRow,
        mut reason: String,
        payload: Bytes,
        in_letters: &mut u64,
    ) {
        let bytes = payload.len() as u64;
        if *in_letters == 0 || *in_letters + bytes <= LETTER_PAYLOADS {
            *in_letters += bytes;
            row.payload = Some(payload.into());
        } else {
            let offset = key.offset;
            reason += &format!(
                "; its payload of {bytes} bytes is not kept here, since other letters of the same record hold \
                 {in_letters} already: redriven, it is read from record {offset}, as long as that is kept"
            );
        }
        self.bury(place_of(key), reason, Letter::Call(Box::new(row)));
    }

    /// Puts a call into the outbox and tells of it.
    pub(super) fn queue(&mut self, key: RowKey, row: OutboxRow, value: Vec<u8>, payload: Option<Bytes>) {
        let bytes = self.put_row(key, value);
        self.queued.push(Queued::Call { key, row: Box::new(row), payload, bytes });
    }

    /// What came of attempts.
    pub(super) fn settle(&mut self, settled: &TriggerSettled) -> Result<Outcome, Error> {
        let mut is_stale = true;
        for (index, settlement) in (0..).zip(&settled.settlements) {
            is_stale &= !self.settle_one(index, settlement)?;
        }
        Ok(if is_stale { Outcome::Stale } else { Outcome::Noted })
    }

    fn settle_one(&mut self, index: u32, settlement: &Settlement) -> Result<bool, Error> {
        let key = settlement.attempt.row;
        let Some(row) = self.take(&settlement.attempt)? else { return Ok(false) };
        match &settlement.verdict {
            Verdict::Ended(finished) => {
                self.end_invocation_of(&row.subject, |at| InvocationState::Ended {
                    at,
                    finished: finished.clone(),
                })?;
                self.deliver(index, key, &row, finished);
            }
            Verdict::Retry { at, reason } => self.put_again(key, row, *at, reason),
            Verdict::Dead { reason, payload, finished } => {
                self.end_invocation_of(&row.subject, |at| InvocationState::Dead {
                    at,
                    reason: reason.clone(),
                    has_letter: true,
                })?;
                if let Some(finished) = finished {
                    self.deliver(index, key, &row, finished);
                }
                // What a row carries is what it was called with.
                let payload = row.payload.clone().or_else(|| payload.clone());
                // With an end it was called, and that is one more that has failed.
                let attempt = row.attempt.saturating_add(u32::from(finished.is_some()));
                let row = OutboxRow { payload, attempt, ..row };
                self.bury(place_of(key), reason.clone(), Letter::Call(Box::new(row)));
            }
        }
        Ok(true)
    }

    /// Takes the row of an attempt out of the outbox, if it still waits for that attempt.
    pub(super) fn take(&mut self, attempt: &Attempt) -> Result<Option<OutboxRow>, Error> {
        let key = Key::Outbox(attempt.row);
        let value = self.overlay.get(self.rows, key)?;
        let row = value.as_ref().map(|value| decode::<OutboxRow>(Table::Outbox, value)).transpose()?;
        let current =
            row.filter(|row| (row.generation, row.attempt) == (attempt.generation, attempt.attempt));
        match (&current, value) {
            (Some(_), Some(value)) => {
                self.overlay.delete(self.changes, key);
                self.header.calls.outbox_rows -= 1;
                self.header.calls.outbox_bytes -= weight(&value) as u64;
            }
            _ => self.header.calls.stale += 1,
        }
        Ok(current)
    }

    /// The next attempt comes later than the last, so that its row has another key.
    fn put_again(&mut self, key: RowKey, row: OutboxRow, at: Timestamp, reason: &str) {
        let after = Timestamp(key.due.get().saturating_add(1));
        let due = at.max(self.moment.time).max(after);
        let row = OutboxRow { attempt: row.attempt.saturating_add(1), last_error: reason.to_owned(), ..row };
        let key = RowKey { due, ..key };
        self.put_row(key, encode(&row));
        self.queued.push(Queued::Later { key });
    }

    /// Its bytes, key included.
    fn put_row(&mut self, key: RowKey, value: Vec<u8>) -> usize {
        let bytes = weight(&value);
        self.header.calls.outbox_rows += 1;
        self.header.calls.outbox_bytes += bytes as u64;
        self.overlay.put(self.changes, Key::Outbox(key), value);
        bytes
    }

    /// Has the end of a call told to the partition of its target.
    fn deliver(&mut self, index: u32, key: RowKey, row: &OutboxRow, finished: &Finished) {
        let invocation = match &row.subject {
            Subject::Invocation { invocation } => invocation.clone(),
            Subject::Data { .. } | Subject::Function { .. } => String::new(),
        };
        let delivery = DeliveryRow {
            call: place_of(key),
            origin: row.origin,
            target: row.target.clone(),
            invocation,
            depth: row.depth,
            traceparent: row.traceparent.clone(),
            finished: finished.clone(),
            created: self.moment.time,
        };
        self.put_delivery(Place { offset: self.moment.offset, index }, delivery);
    }

    pub(super) fn put_delivery(&mut self, place: Place, row: DeliveryRow) {
        let value = encode(&row);
        let bytes = PLACE_KEY_BYTES + value.len();
        self.header.calls.deliveries += 1;
        self.header.calls.delivery_bytes += bytes as u64;
        self.overlay.put(self.changes, Key::Delivery(place), value);
        self.queued.push(Queued::Delivery { place, row: Box::new(row), bytes });
    }

    /// A row about a place, if there is one.
    pub(super) fn read<T: bincode::Decode<()>>(&self, key: Key<'_>) -> Result<Option<(T, usize)>, Error> {
        let Some(value) = self.overlay.get(self.rows, key)? else { return Ok(None) };
        Ok(Some((decode(key.table(), &value)?, value.len())))
    }
}

/// The rows, and their bytes, of what waits: calls, and the outcomes of calls that their targets do not know of yet. A target
/// that cannot be told keeps on as many as one that cannot be called.
fn waiting(header: &Header) -> (u64, u64) {
    let calls = &header.calls;
    (calls.outbox_rows + calls.deliveries, calls.outbox_bytes + calls.delivery_bytes)
}

/// Whether so many calls more, of so many bytes, may wait.
pub(super) fn has_room(header: &Header, rows: u64, bytes: u64) -> bool {
    let (there, bytes_there) = waiting(header);
    there.saturating_add(rows) <= header.config.max_outbox_rows
        && bytes_there.saturating_add(bytes) <= header.config.max_outbox_bytes
}

/// What is answered to whoever asks for more.
pub(super) fn full(header: &Header) -> Rejection {
    let (rows, bytes) = waiting(header);
    Rejection::OutboxFull { rows, bytes }
}

/// Why a call of that depth is not made, if it is not.
pub(super) fn too_deep(header: &Header, depth: u32) -> Option<String> {
    let limit = header.config.max_trigger_depth;
    (depth > limit).then(|| format!("depth {depth} is beyond max_trigger_depth {limit}"))
}

/// What a row is counted as, given its value.
pub(super) fn weight(value: &[u8]) -> usize {
    OUTBOX_KEY_BYTES + value.len()
}

/// What the rows would be counted as together.
pub(super) fn weight_of(rows: &[OutboxRow]) -> u64 {
    rows.iter().map(|row| weight(&encode(row)) as u64).sum()
}

pub(super) const fn place_of(key: RowKey) -> Place {
    Place { offset: key.offset, index: key.index }
}
