//! Rows of calls, read a few at a time: each may hold what a function is called with.

use std::ops::ControlFlow;

use odgm_log::Timestamp;
use odgm_log::body::calls::{Place, RowKey};
use odgm_projections::{DeadLetter, OutboxRow, View};
use tonic::Status;

use crate::status;

/// Rows that are read at once.
const PAGE: usize = 32;

/// Shows up to `limit` calls that wait, those that are due first before the others.
pub(super) fn each_waiting(
    view: &View,
    limit: usize,
    mut see: impl FnMut(RowKey, OutboxRow),
) -> Result<(), Status> {
    let (mut from, mut left) = (RowKey::default(), limit);
    while left > 0 {
        let asked = left.min(PAGE);
        let rows =
            view.outbox(from, Timestamp(u64::MAX), asked).map_err(|error| status::from_view(&error))?;
        left -= rows.len();
        let is_last = rows.len() < asked;
        if let Some((last, _)) = rows.last() {
            from = RowKey { index: last.index.saturating_add(1), ..*last };
        }
        rows.into_iter().for_each(|(key, row)| see(key, row));
        if is_last {
            break;
        }
    }
    Ok(())
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
