//! Calls, and what came of them, as clients read them.

use odgm_log::body::Parent;
use odgm_log::body::calls::{Finished, Place, RowKey, Status as Ending};
use odgm_log::{GroupId, NodeId, Offset};
use odgm_projections::{DeadLetter, DeliveryRow, Letter, OutboxRow, Subject};
use odgm_proto::{odgm::v1, oprc};
use odgm_triggers::IdempotencyKey;

use super::trigger_target;
use crate::services::Ended;

/// How a call ended, as the contract has it.
pub(crate) fn response_status(ending: Ending) -> oprc::ResponseStatus {
    match ending {
        Ending::Completed => oprc::ResponseStatus::Okay,
        Ending::InvalidRequest => oprc::ResponseStatus::InvalidRequest,
        Ending::ApplicationError => oprc::ResponseStatus::AppError,
        Ending::SystemError => oprc::ResponseStatus::SystemError,
    }
}

/// How a call ended, with what it answered or without.
pub(crate) fn call_outcome(
    invocation: &str,
    function: &str,
    finished: &Finished,
    with_payload: bool,
) -> v1::CallOutcome {
    v1::CallOutcome {
        invocation_id: invocation.to_owned(),
        fn_id: function.to_owned(),
        status: response_status(finished.status).into(),
        detail: finished.detail.clone(),
        payload: if with_payload { finished.payload.0.clone() } else { Default::default() },
        headers: Ended::headers(finished),
        took_us: finished.took_us,
    }
}

/// A record as the cause of others.
pub(crate) fn parent_to_wire(parent: Parent) -> v1::Parent {
    v1::Parent { group: parent.group.get(), origin: parent.origin.get(), offset: parent.offset.get() }
}

/// The same, as it came over the wire.
pub(crate) fn parent_from_wire(parent: v1::Parent) -> Parent {
    Parent { group: GroupId(parent.group), origin: NodeId(parent.origin), offset: Offset(parent.offset) }
}

/// The place of a dead letter.
pub(crate) fn letter_id(place: Place) -> v1::LetterId {
    v1::LetterId { offset: place.offset.get(), index: place.index }
}

/// The same, as it came over the wire.
pub(crate) fn place(id: v1::LetterId) -> Place {
    Place { offset: Offset(id.offset), index: id.index }
}

/// A call that waits in the outbox of a partition.
pub(crate) fn pending_call(partition: u32, group: GroupId, key: RowKey, row: OutboxRow) -> v1::PendingCall {
    let idempotency_key = key_text(group, Place { offset: key.offset, index: key.index }, row.origin);
    v1::PendingCall {
        partition_id: partition,
        offset: key.offset.get(),
        index: key.index,
        subject: Some(subject(row.subject)),
        target: Some(trigger_target(row.target)),
        depth: row.depth,
        generation: row.generation,
        attempt: row.attempt,
        due_ms: key.due.as_millis(),
        created_ms: row.created.as_millis(),
        last_error: row.last_error,
        idempotency_key,
    }
}

/// What was given up in a partition.
pub(crate) fn dead_letter(partition: u32, group: GroupId, at: Place, letter: DeadLetter) -> v1::DeadLetter {
    let dead = v1::DeadLetter {
        partition_id: partition,
        id: Some(letter_id(at)),
        reason: letter.reason,
        died_offset: letter.died.offset.get(),
        died_ms: letter.died.time.as_millis(),
        ..Default::default()
    };
    match letter.letter {
        Letter::Call(row) => dead_call(dead, group, at, *row),
        Letter::Delivery(row) => dead_delivery(dead, *row),
    }
}

fn dead_call(dead: v1::DeadLetter, group: GroupId, at: Place, row: OutboxRow) -> v1::DeadLetter {
    v1::DeadLetter {
        idempotency_key: key_text(group, at, row.origin),
        payload_bytes: row.payload.as_ref().map_or(0, |payload| payload.0.len() as u64),
        subject: Some(subject(row.subject)),
        target: Some(trigger_target(row.target)),
        depth: row.depth,
        generation: row.generation,
        attempts: row.attempt,
        ..dead
    }
}

fn dead_delivery(dead: v1::DeadLetter, row: DeliveryRow) -> v1::DeadLetter {
    v1::DeadLetter {
        is_delivery: true,
        idempotency_key: row.invocation,
        payload_bytes: row.finished.payload.0.len() as u64,
        target: Some(trigger_target(row.target)),
        depth: row.depth,
        ..dead
    }
}

/// What asks for a call.
fn subject(subject: Subject) -> v1::CallSubject {
    match subject {
        Subject::Data { object, key, action, version } => v1::CallSubject {
            kind: "data".into(),
            object_id: object,
            key,
            action: action.name().into(),
            version,
            ..Default::default()
        },
        Subject::Function { object, function, is_complete, version } => v1::CallSubject {
            kind: "function".into(),
            object_id: object,
            fn_id: function,
            action: if is_complete { "complete" } else { "error" }.into(),
            version,
            ..Default::default()
        },
        Subject::Invocation { invocation } => {
            v1::CallSubject { kind: "invocation".into(), invocation_id: invocation, ..Default::default() }
        }
    }
}

/// By what the function knows a call again.
fn key_text(group: GroupId, at: Place, origin: NodeId) -> String {
    let cause = Parent { group, origin, offset: at.offset };
    IdempotencyKey { cause, target: at.index }.to_string()
}
