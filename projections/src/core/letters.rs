//! Dead letters: what was given up, until somebody has it tried again or drops it.

use odgm_log::Timestamp;
use odgm_log::body::calls::{Delivered, Discard, Place, Redrive, RowKey};

use super::outbox::{Calling, full, has_room, weight};
use crate::calls::{DeadLetter, DeliveryRow, Letter, OutboxRow, Subject};
use crate::error::Error;
use crate::keys::Key;
use crate::limits::PLACE_KEY_BYTES;
use crate::outcome::Outcome;
use crate::rows::calls::encode;

impl Calling<'_> {
    /// Gives something up.
    pub(super) fn bury(&mut self, place: Place, reason: String, letter: Letter) {
        let value = encode(&DeadLetter { reason, died: self.moment, letter });
        self.header.calls.dead_letters += 1;
        self.header.calls.dead_letter_bytes += (PLACE_KEY_BYTES + value.len()) as u64;
        self.overlay.put(self.changes, Key::DeadLetter(place), value);
    }

    fn remove_letter(&mut self, place: Place, bytes: usize) {
        self.header.calls.dead_letters -= 1;
        self.header.calls.dead_letter_bytes -= (PLACE_KEY_BYTES + bytes) as u64;
        self.overlay.delete(self.changes, Key::DeadLetter(place));
    }

    /// Tries dead letters again. Calls for which there is no room stay what they are, and those of which nobody knows any more
    /// what they are called with.
    pub(super) fn redrive(&mut self, redrive: &Redrive) -> Result<Outcome, Error> {
        let (mut is_any, mut is_full) = (false, false);
        for (index, place) in (0..).zip(&redrive.letters) {
            let Some((letter, bytes)) = self.read::<DeadLetter>(Key::DeadLetter(*place))? else { continue };
            let is_back = match letter.letter {
                Letter::Call(row) if row.payload.is_none() && place.offset < self.header.floor => continue,
                Letter::Call(row) => self.call_again(*place, *row, letter.reason, letter.died.time)?,
                Letter::Delivery(row) => {
                    // Under its old place its target may have been told that nothing comes any more.
                    self.put_delivery(Place { offset: self.moment.offset, index }, *row);
                    true
                }
            };
            if is_back {
                self.remove_letter(*place, bytes);
            }
            is_any |= is_back;
            is_full |= !is_back;
        }
        Ok(match (is_any, is_full) {
            (true, _) => Outcome::Noted,
            (false, true) => Outcome::Rejected(full(self.header)),
            (false, false) => Outcome::Unchanged { version: 0 },
        })
    }

    /// Puts a call back as a new generation; false if there is no room. It is due after it died, so that its row has another
    /// key than the one that died even where the log's time stands still.
    fn call_again(
        &mut self,
        place: Place,
        row: OutboxRow,
        reason: String,
        died: Timestamp,
    ) -> Result<bool, Error> {
        let generation = row.generation.saturating_add(1);
        let row = OutboxRow { generation, attempt: 0, last_error: reason, ..row };
        let value = encode(&row);
        if !has_room(self.header, 1, weight(&value) as u64) {
            return Ok(false);
        }
        if let Subject::Invocation { invocation } = &row.subject {
            self.resume_invocation(invocation)?;
        }
        let due = self.moment.time.max(Timestamp(died.get().saturating_add(1)));
        let key = RowKey { due, offset: place.offset, index: place.index };
        let payload = row.payload.clone().map(|payload| payload.0);
        self.queue(key, row, value, payload);
        Ok(true)
    }

    /// Drops dead letters.
    pub(super) fn discard(&mut self, discard: &Discard) -> Result<Outcome, Error> {
        let mut is_any = false;
        for place in &discard.letters {
            let Some((letter, bytes)) = self.read::<DeadLetter>(Key::DeadLetter(*place))? else { continue };
            self.remove_letter(*place, bytes);
            is_any = true;
            if let Letter::Call(row) = letter.letter
                && let Subject::Invocation { invocation } = &row.subject
            {
                // From here on it is remembered as long as a result.
                let reason = format!("{}; its dead letter was dropped: {}", letter.reason, discard.reason);
                self.keep_as_result(invocation, reason)?;
            }
        }
        Ok(if is_any { Outcome::Noted } else { Outcome::Unchanged { version: 0 } })
    }

    /// Forgets outcomes that have arrived in other partitions, and gives up those that never will.
    pub(super) fn delivered(&mut self, delivered: &Delivered) -> Result<Outcome, Error> {
        let mut is_stale = true;
        for place in &delivered.arrived {
            is_stale &= self.take_delivery(*place)?.is_none();
        }
        for (place, reason) in &delivered.undeliverable {
            if let Some(row) = self.take_delivery(*place)? {
                is_stale = false;
                self.bury(*place, reason.clone(), Letter::Delivery(Box::new(row)));
            }
        }
        Ok(if is_stale { Outcome::Stale } else { Outcome::Noted })
    }

    /// Takes an outcome that waits to be delivered.
    pub(super) fn take_delivery(&mut self, place: Place) -> Result<Option<DeliveryRow>, Error> {
        let found = self.read::<DeliveryRow>(Key::Delivery(place))?;
        match &found {
            Some((_, bytes)) => {
                self.overlay.delete(self.changes, Key::Delivery(place));
                self.header.calls.deliveries -= 1;
                self.header.calls.delivery_bytes -= (PLACE_KEY_BYTES + bytes) as u64;
            }
            None => self.header.calls.stale += 1,
        }
        Ok(found.map(|(row, _)| row))
    }
}
