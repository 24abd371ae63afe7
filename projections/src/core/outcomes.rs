//! Outcomes: how calls ended, once for each call, whoever tells of it and however often.

use odgm_log::Offset;
use odgm_log::body::calls::{DeliveryKey, Outcome, Source};

use super::outbox::Calling;
use crate::calls::InvocationState;
use crate::error::Error;
use crate::keys::{Key, Table};
use crate::limits::{DELIVERED_STEP, MAX_DELIVERED_FORGOTTEN};
use crate::rows::calls::{SourceFloor, encode};
use crate::rows::damaged;
use crate::storage::Range;

impl Calling<'_> {
    /// Whether an outcome takes effect. If it does, it will not another time.
    pub(super) fn admit(&mut self, outcome: &Outcome) -> Result<bool, Error> {
        match &outcome.source {
            Source::Client => Ok(true),
            Source::Outbox(attempt) => {
                let Some(row) = self.take(attempt)? else { return Ok(false) };
                let finished = || outcome.finished.clone();
                self.end_invocation_of(&row.subject, |at| InvocationState::Ended {
                    at,
                    finished: finished(),
                })?;
                Ok(true)
            }
            Source::Own(place) => Ok(self.take_delivery(*place)?.is_some()),
            Source::Delivery { key, forgotten_below } => {
                let is_new = self.arrive(*key, *forgotten_below)?;
                self.header.calls.stale += u64::from(!is_new);
                Ok(is_new)
            }
        }
    }

    /// Remembers the key of an outcome from another partition; false if it was here before.
    fn arrive(&mut self, key: DeliveryKey, forgotten_below: Offset) -> Result<bool, Error> {
        let source = Key::SourceFloor(key.group, key.origin);
        let known = self.read::<SourceFloor>(source)?.map(|(floor, _)| floor);
        if known.is_some_and(|floor| key.offset < floor.below)
            || self.overlay.get(self.rows, Key::Delivered(key))?.is_some()
        {
            return Ok(false);
        }
        self.overlay.put(self.changes, Key::Delivered(key), Vec::new());
        // Of a source that was not known there is nothing to remove.
        let mut floor = known.unwrap_or(SourceFloor { below: forgotten_below, swept: forgotten_below });
        floor.below = floor.below.max(forgotten_below);
        self.sweep(key, &mut floor)?;
        if known != Some(floor) {
            self.overlay.put(self.changes, source, encode(&floor));
        }
        Ok(true)
    }

    /// Removes keys below a source's floor, as soon as there may be some number of them.
    fn sweep(&mut self, source: DeliveryKey, floor: &mut SourceFloor) -> Result<(), Error> {
        if floor.below.get() - floor.swept.get() < DELIVERED_STEP {
            return Ok(());
        }
        let at = |offset| Key::Delivered(DeliveryKey { offset, index: 0, ..source }).to_vec();
        let range = Range::all().from(&at(floor.swept)).until(&at(floor.below));
        let rows = self.overlay.first(self.rows, &range, MAX_DELIVERED_FORGOTTEN)?;
        if rows.len() < MAX_DELIVERED_FORGOTTEN {
            floor.swept = floor.below;
        }
        for (key, _) in &rows {
            let Some(Key::Delivered(key)) = Key::parse(key) else {
                return Err(damaged(Table::Delivered, "its key is not one of a delivery"));
            };
            self.overlay.delete(self.changes, Key::Delivered(key));
            floor.swept = floor.swept.max(key.offset);
        }
        Ok(())
    }
}
