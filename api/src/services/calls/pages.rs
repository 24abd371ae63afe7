//! Rows of calls, read a few at a time: each may hold what a function is called with.

use std::ops::ControlFlow;

use odgm_log::Timestamp;
use odgm_log::body::calls::{Place, RowKey};
use odgm_projections::{DeadLetter, OutboxRow, View};
use tonic::Status;

use crate::status;

/// Rows that are read at once.
const PAGE: usize = 32;

/// Shows calls that wait, from a row on in the order in which they are due, those that are due at `until` or before, until it
/// is enough or there are no more.
pub(super) fn each_waiting(
    view: &View,
    mut from: RowKey,
    until: Timestamp,
    mut see: impl FnMut(RowKey, OutboxRow) -> ControlFlow<()>,
) -> Result<(), Status> {
    loop {
        let rows = view.outbox(from, until, PAGE).map_err(|error| status::from_view(&error))?;
        let is_last = rows.len() < PAGE;
        if let Some((last, _)) = rows.last() {
            from = RowKey { index: last.index.saturating_add(1), ..*last };
        }
        for (key, row) in rows {
            if see(key, row).is_break() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Shows dead letters after a place, in their order, until it is enough or there are no more.
pub(super) fn each_letter(
    view: &View,
    mut after: Option<Place>,
    mut see: impl FnMut(Place, DeadLetter) -> ControlFlow<()>,
) -> Result<(), Status> {
    loop {
        let page = view.dead_letters(after, PAGE).map_err(|error| status::from_view(&error))?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(at, _)| *at);
        for (at, letter) in page {
            if see(at, letter).is_break() {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
}
