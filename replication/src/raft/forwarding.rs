//! Writes that another node passes on to the leader, and what came of each, as bytes.
//!
//! Numbers are big-endian; text and bytes have their length (u32) before them.
//!
//! A write is 1 if it needs free space, else 0; the body's type (u16) and version (u8); the payload's bytes. An answer is
//! a tag and its parts:
//!
//! | tag | parts |
//! |---|---|
//! | 0 applied | offset (u64), time (u64), outcome |
//! | 1 too many proposals in flight, 2 too many bytes | how many (u64) |
//! | 3 low on space | free (u64), reserve (u64) |
//! | 4 stopped, 5 unknown | reason |
//! | 6 not the leader | 1 and the leader's id (u64) if it is known, else 0 |
//! | 7 not now | reason |
//!
//! An outcome is a tag and its parts: 0 changed, 1 unchanged (version); 2 version mismatch (expected, current); 3 CRDT
//! malformed (key, reason); 4 CRDT too large (key, bytes, limit); 5 noted; 6 duplicate (offset, outcome); 7 request id
//! reused (offset). Its numbers are u64.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odgm_log::{BodyType, Kind, NodeId, Offset, Timestamp};
use odgm_projections::{Applied, Outcome, Rejection};

use super::REMEMBERED_MESSAGES;
use super::messages::whole;
use crate::encoding::{get_bool, get_bytes, get_text, invalid, put_bytes, put_length};
use crate::proposal::{Answer, ProposeError};

/// A write on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) needs_room: bool,
    pub(super) kind: Kind,
    pub(super) encoded: Bytes,
}

/// Which messages with writes have come from each node, so that one that arrives twice is taken in once.
#[derive(Default)]
pub(super) struct Arrived {
    nodes: HashMap<NodeId, Recent>,
}

/// The newest ids, in the order in which they came.
#[derive(Default)]
struct Recent {
    ids: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Arrived {
    /// Whether it is the first message of that id from that node, as far as is remembered.
    pub(super) fn is_new(&mut self, from: NodeId, id: u64) -> bool {
        let Recent { ids, order } = self.nodes.entry(from).or_default();
        if !ids.insert(id) {
            return false;
        }
        order.push_back(id);
        if order.len() > REMEMBERED_MESSAGES
            && let Some(oldest) = order.pop_front()
        {
            ids.remove(&oldest);
        }
        true
    }
}

pub(super) fn put_writes(writes: &[Passed], out: &mut BytesMut) {
    put_length(writes.len(), out);
    for Passed { needs_room, kind, encoded } in writes {
        out.put_u8(u8::from(*needs_room));
        out.put_u16(kind.body_type.number());
        out.put_u8(kind.body_version);
        put_bytes(encoded, out);
    }
}

pub(super) fn get_writes(input: &mut Bytes) -> io::Result<Vec<Passed>> {
    (0..input.try_get_u32()?).map(|_| get_write(input)).collect()
}

fn get_write(input: &mut Bytes) -> io::Result<Passed> {
    let needs_room = get_bool(input)?;
    let number = input.try_get_u16()?;
    let body_type = BodyType::from_number(number)
        .ok_or_else(|| invalid(format!("bodies of type {number} are unknown: upgrade this node")))?;
    let kind = Kind { body_type, body_version: input.try_get_u8()? };
    Ok(Passed { needs_room, kind, encoded: get_bytes(input)? })
}

/// The answers to writes, in the order of the writes.
pub(super) fn encode_answers(answers: &[Answer]) -> Bytes {
    let mut out = BytesMut::with_capacity(32 * answers.len());
    put_length(answers.len(), &mut out);
    for answer in answers {
        match answer {
            Ok(applied) => {
                out.put_u8(0);
                out.put_u64(applied.offset.get());
                out.put_u64(applied.time.get());
                put_outcome(&applied.outcome, &mut out);
            }
            Err(error) => put_error(error, &mut out),
        }
    }
    out.freeze()
}

pub(super) fn decode_answers(bytes: Bytes) -> io::Result<Vec<Answer>> {
    whole(bytes, |input| (0..input.try_get_u32()?).map(|_| get_answer(input)).collect())
}

fn put_error(error: &ProposeError, out: &mut BytesMut) {
    match error {
        ProposeError::Overloaded { what, in_flight } => {
            out.put_u8(if *what == ProposeError::BYTES { 2 } else { 1 });
            out.put_u64(*in_flight as u64);
        }
        ProposeError::LowSpace { free, reserve } => {
            out.put_u8(3);
            out.put_u64(*free);
            out.put_u64(*reserve);
        }
        ProposeError::NotLeader { leader } => {
            out.put_u8(6);
            out.put_u8(u8::from(leader.is_some()));
            if let Some(leader) = leader {
                out.put_u64(leader.0);
            }
        }
        ProposeError::Unknown { reason } => {
            out.put_u8(5);
            put_bytes(reason.as_bytes(), out);
        }
        ProposeError::Unavailable { reason } => {
            out.put_u8(7);
            put_bytes(reason.as_bytes(), out);
        }
        ProposeError::Stopped { reason } => {
            out.put_u8(4);
            put_bytes(reason.as_bytes(), out);
        }
        // Refused where it is encoded, before it is passed on; whatever else is so large is stopped as well.
        ProposeError::TooLarge(error) => {
            out.put_u8(4);
            put_bytes(error.to_string().as_bytes(), out);
        }
    }
}

fn get_answer(input: &mut Bytes) -> io::Result<Answer> {
    Ok(Err(match input.try_get_u8()? {
        0 => {
            let (offset, time) = (Offset(input.try_get_u64()?), Timestamp(input.try_get_u64()?));
            return Ok(Ok(Applied {
                offset,
                time,
                outcome: get_outcome(input)?,
                change: None,
                queued: Vec::new(),
            }));
        }
        1 => ProposeError::Overloaded { what: ProposeError::PROPOSALS, in_flight: get_count(input)? },
        2 => ProposeError::Overloaded { what: ProposeError::BYTES, in_flight: get_count(input)? },
        3 => ProposeError::LowSpace { free: input.try_get_u64()?, reserve: input.try_get_u64()? },
        4 => ProposeError::Stopped { reason: get_text(input)? },
        5 => ProposeError::Unknown { reason: get_text(input)? },
        6 => {
            let known = get_bool(input)?;
            let leader = if known { Some(NodeId(input.try_get_u64()?)) } else { None };
            ProposeError::NotLeader { leader }
        }
        7 => ProposeError::Unavailable { reason: get_text(input)? },
        other => return Err(invalid(format!("there is no answer of kind {other}"))),
    }))
}

fn put_outcome(outcome: &Outcome, out: &mut BytesMut) {
    match outcome {
        Outcome::Changed { version } => put_numbers(0, &[*version], out),
        Outcome::Unchanged { version } => put_numbers(1, &[*version], out),
        Outcome::VersionMismatch { expected, current } => put_numbers(2, &[*expected, *current], out),
        Outcome::Rejected(Rejection::CrdtMalformed { key, reason }) => {
            out.put_u8(3);
            put_bytes(key.as_bytes(), out);
            put_bytes(reason.as_bytes(), out);
        }
        Outcome::Rejected(Rejection::CrdtTooLarge { key, bytes, limit }) => {
            out.put_u8(4);
            put_bytes(key.as_bytes(), out);
            out.put_u64(*bytes);
            out.put_u64(*limit);
        }
        Outcome::Noted => out.put_u8(5),
        Outcome::Duplicate { offset, outcome } => {
            put_numbers(6, &[offset.get()], out);
            put_outcome(outcome, out);
        }
        Outcome::RequestIdReused { offset } => put_numbers(7, &[offset.get()], out),
        Outcome::Stale => out.put_u8(8),
        Outcome::Rejected(Rejection::OutboxFull { rows, bytes }) => put_numbers(9, &[*rows, *bytes], out),
        Outcome::Rejected(Rejection::InvocationIdReused { invocation, offset }) => {
            out.put_u8(10);
            put_bytes(invocation.as_bytes(), out);
            out.put_u64(offset.get());
        }
        Outcome::NotUnderstood => out.put_u8(11),
    }
}

fn get_outcome(input: &mut Bytes) -> io::Result<Outcome> {
    let outcome = match input.try_get_u8()? {
        6 => {
            let offset = Offset(input.try_get_u64()?);
            Outcome::Duplicate { offset, outcome: Box::new(get_first_outcome(input)?) }
        }
        7 => Outcome::RequestIdReused { offset: Offset(input.try_get_u64()?) },
        tag => get_outcome_of(tag, input)?,
    };
    Ok(outcome)
}

/// Of a repeated request only the first outcome is told, so that nesting ends here.
fn get_first_outcome(input: &mut Bytes) -> io::Result<Outcome> {
    let tag = input.try_get_u8()?;
    get_outcome_of(tag, input)
}

fn get_outcome_of(tag: u8, input: &mut Bytes) -> io::Result<Outcome> {
    Ok(match tag {
        0 => Outcome::Changed { version: input.try_get_u64()? },
        1 => Outcome::Unchanged { version: input.try_get_u64()? },
        2 => Outcome::VersionMismatch { expected: input.try_get_u64()?, current: input.try_get_u64()? },
        3 => Outcome::Rejected(Rejection::CrdtMalformed { key: get_text(input)?, reason: get_text(input)? }),
        4 => Outcome::Rejected(Rejection::CrdtTooLarge {
            key: get_text(input)?,
            bytes: input.try_get_u64()?,
            limit: input.try_get_u64()?,
        }),
        5 => Outcome::Noted,
        8 => Outcome::Stale,
        9 => Outcome::Rejected(Rejection::OutboxFull {
            rows: input.try_get_u64()?,
            bytes: input.try_get_u64()?,
        }),
        10 => Outcome::Rejected(Rejection::InvocationIdReused {
            invocation: get_text(input)?,
            offset: Offset(input.try_get_u64()?),
        }),
        11 => Outcome::NotUnderstood,
        other => return Err(invalid(format!("there is no outcome of kind {other}"))),
    })
}

fn put_numbers(tag: u8, numbers: &[u64], out: &mut BytesMut) {
    out.put_u8(tag);
    for number in numbers {
        out.put_u64(*number);
    }
}

fn get_count(input: &mut Bytes) -> io::Result<usize> {
    usize::try_from(input.try_get_u64()?).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Vec<Answer> {
        let applied = |outcome| {
            Ok(Applied { offset: Offset(9), time: Timestamp(7), outcome, change: None, queued: Vec::new() })
        };
        let malformed = Rejection::CrdtMalformed { key: "k".into(), reason: "it ends".into() };
        let large = Rejection::CrdtTooLarge { key: "k".into(), bytes: 9, limit: 8 };
        let first = Box::new(Outcome::VersionMismatch { expected: 1, current: 2 });
        vec![
            applied(Outcome::Changed { version: 3 }),
            applied(Outcome::Unchanged { version: 0 }),
            applied(Outcome::Rejected(malformed)),
            applied(Outcome::Rejected(large)),
            applied(Outcome::Noted),
            applied(Outcome::Duplicate { offset: Offset(4), outcome: first }),
            applied(Outcome::RequestIdReused { offset: Offset(4) }),
            applied(Outcome::Stale),
            applied(Outcome::NotUnderstood),
            applied(Outcome::Rejected(Rejection::OutboxFull { rows: 5, bytes: 6 })),
            applied(Outcome::Rejected(Rejection::InvocationIdReused {
                invocation: "i".into(),
                offset: Offset(4),
            })),
            Err(ProposeError::Overloaded { what: ProposeError::PROPOSALS, in_flight: 5 }),
            Err(ProposeError::Overloaded { what: ProposeError::BYTES, in_flight: 6 }),
            Err(ProposeError::LowSpace { free: 1, reserve: 2 }),
            Err(ProposeError::Stopped { reason: "stopping".into() }),
            Err(ProposeError::NotLeader { leader: None }),
            Err(ProposeError::NotLeader { leader: Some(NodeId(3)) }),
            Err(ProposeError::Unavailable { reason: "nobody is there".into() }),
            Err(ProposeError::Unknown { reason: "lost".into() }),
        ]
    }

    #[test]
    fn answers_arrive_as_they_were_given() {
        let bytes = encode_answers(&answers());
        assert_eq!(decode_answers(bytes.clone()).expect("whole"), answers());
        for end in 0..bytes.len() {
            assert!(decode_answers(bytes.slice(..end)).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_message_counts_once() {
        let mut arrived = Arrived::default();
        for id in 0..2 * REMEMBERED_MESSAGES as u64 {
            assert!(arrived.is_new(NodeId(1), id) && arrived.is_new(NodeId(2), id));
            assert!(!arrived.is_new(NodeId(1), id));
        }
        assert!(arrived.nodes.values().all(|recent| recent.ids.len() == REMEMBERED_MESSAGES));
    }

    #[test]
    fn writes_arrive_as_they_were_sent() {
        let kind = Kind { body_type: BodyType::SetValues, body_version: 1 };
        let writes = vec![
            Passed { needs_room: true, kind, encoded: Bytes::from_static(b"payload") },
            Passed { needs_room: false, kind, encoded: Bytes::new() },
        ];
        let mut out = BytesMut::new();
        put_writes(&writes, &mut out);
        let golden = b"\0\0\0\x02\x01\0\x04\x01\0\0\0\x07payload\0\0\x04\x01\0\0\0\0";
        assert_eq!(out.as_ref(), golden);
        assert_eq!(whole(out.freeze(), get_writes).expect("whole"), writes);
    }
}
