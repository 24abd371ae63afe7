//! What becomes of calls, counted and told.

use odgm_log::body::calls::RowKey;
use odgm_projections::{OutboxRow, Subject};

use crate::call::IdempotencyKey;
use crate::metrics::{Meters, invocation_ended};
use crate::processor::plan::{Home, Note};

/// Under which target calls of triggers are told of: a line for each that has ended or died.
const EVENTS: &str = "odgm::triggers";

/// Whether a trigger asks for the call.
pub(super) fn is_of_trigger(row: &OutboxRow) -> bool {
    match row.subject {
        Subject::Data { .. } | Subject::Function { .. } => true,
        Subject::Invocation { .. } => false,
    }
}

/// Counts it, and tells of it; of how calls of triggers end, if `logs`.
pub(super) fn take(home: &Home, meters: &Meters, logs: bool, note: Note) {
    match note {
        Note::Ended { .. } | Note::Retried { .. } | Note::Dead { .. } | Note::Stale { .. } => {
            of_call(home, meters, logs, note);
        }
        Note::Unread { .. } | Note::Held { .. } => of_waiting(home, meters, note),
        Note::Arrived(_) | Note::Waits { .. } | Note::Undeliverable { .. } => of_delivery(home, meters, note),
        Note::Discarded { .. } | Note::Refused { .. } | Note::Unreadable { .. } => of_partition(home, note),
    }
}

fn of_call(home: &Home, meters: &Meters, logs: bool, note: Note) {
    let Home { class, index, .. } = home;
    match note {
        Note::Ended { key, row, status, detail, took_us } => {
            meters.ended(status);
            if !is_of_trigger(&row) {
                invocation_ended(status);
            } else if logs {
                let (call, target) = (name(home, key, &row), target(&row));
                let (status, attempt) = (status.name(), row.attempt + 1);
                tracing::info!(
                    target: EVENTS, class, partition = index, call, target, status, attempt, took_us, detail,
                    "a trigger's call has ended"
                );
            }
        }
        Note::Retried { key, row, reason } => {
            meters.retried();
            let (call, target) = (name(home, key, &row), target(&row));
            tracing::debug!(class, partition = index, call, target, reason, "a call is tried again");
        }
        Note::Dead { key, row, reason } => {
            meters.dead(1);
            if logs && is_of_trigger(&row) {
                let (call, target) = (name(home, key, &row), target(&row));
                tracing::warn!(
                    target: EVENTS, class, partition = index, call, target, reason,
                    "a trigger's call was given up: it is a dead letter now"
                );
            }
        }
        Note::Stale { key: RowKey { offset, index: place, .. } } => {
            meters.stale(1);
            tracing::debug!(class, partition = index, %offset, place, "what came of a call was known already");
        }
        _ => {}
    }
}

fn of_waiting(home: &Home, meters: &Meters, note: Note) {
    let Home { class, index, .. } = home;
    match note {
        Note::Unread { key, row, reason, is_first } => {
            meters.unread();
            let (call, target) = (name(home, key, &row), target(&row));
            if is_first {
                tracing::error!(
                    class,
                    partition = index,
                    call,
                    target,
                    reason,
                    "calls wait, as what they are called with cannot be read here; it is tried again"
                );
            } else {
                tracing::debug!(
                    class,
                    partition = index,
                    call,
                    target,
                    reason,
                    "a call waits for its record"
                );
            }
        }
        Note::Held { row, pause, reason, is_first } => {
            let target = target(&row);
            if is_first {
                tracing::info!(class, partition = index, target, reason, "calls of a function wait");
            } else {
                tracing::debug!(
                    class,
                    partition = index,
                    target,
                    ?pause,
                    reason,
                    "calls of a function still wait"
                );
            }
        }
        _ => {}
    }
}

fn of_delivery(home: &Home, meters: &Meters, note: Note) {
    let Home { class, index, .. } = home;
    match note {
        Note::Arrived(count) => meters.delivered(count as u64),
        Note::Waits { row, reason } => {
            let (to, partition) = home.address(&row);
            tracing::debug!(class, partition = index, to, to_partition = partition, reason, "outcomes wait");
        }
        Note::Undeliverable { reasons } => {
            meters.dead(reasons.len() as u64);
            for (place, reason) in reasons {
                let offset = place.offset;
                tracing::warn!(
                    class, partition = index, %offset, reason,
                    "an outcome has no place to go to: it is a dead letter now"
                );
            }
        }
        _ => {}
    }
}

fn of_partition(home: &Home, note: Note) {
    let Home { class, index, .. } = home;
    match note {
        Note::Discarded { letters, reason } => {
            tracing::warn!(class, partition = index, letters, reason, "dead letters were dropped");
        }
        Note::Refused { reason } => {
            tracing::warn!(class, partition = index, reason, "what came of calls waits to be recorded");
        }
        Note::Unreadable { reason } => {
            tracing::error!(
                class,
                partition = index,
                reason,
                "calls that wait cannot be read; it is tried again"
            );
        }
        _ => {}
    }
}

fn name(home: &Home, key: RowKey, row: &OutboxRow) -> String {
    IdempotencyKey { cause: home.cause(row.origin, key.offset), target: key.index }.to_string()
}

/// `class/partition/object/function`, without what there is none of.
fn target(row: &OutboxRow) -> String {
    let target = &row.target;
    let (class, partition, function) = (&target.class, target.partition, &target.function);
    match &target.object {
        Some(object) => format!("{class}/{partition}/{object}/{function}"),
        None => format!("{class}/{partition}/{function}"),
    }
}
