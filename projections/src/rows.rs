//! The values of a view's rows. They are read with [`crate::Error::Damaged`] in mind: never a panic, never a guess.

pub(crate) mod calls;

use bytes::Bytes;
use odgm_log::body::{Membership, Triggers, Value, ValueKind};
use odgm_log::{BodyType, NodeId, Offset, Term, Timestamp};

use crate::change::{Action, Change, ChangeKind};
use crate::error::Error;
use crate::keys::Table;
use crate::object::{Cursor, Members, Moment, Request};
use crate::outcome::{Outcome, Rejection};
use crate::varint::{Input, put, put_text};

/// An object without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRow {
    pub(crate) version: u64,
    pub(crate) created: Moment,
    pub(crate) updated: Moment,
    pub(crate) entry_count: u64,
    /// Never empty triggers: those are none.
    pub(crate) triggers: Option<Box<Triggers>>,
}

impl ObjectRow {
    /// `version`, `entry count`, `created` (offset, time), `updated` (as the distance from created), triggers if any.
    #[allow(clippy::expect_used)]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put(self.version, out);
        put(self.entry_count, out);
        put(self.created.offset.get(), out);
        put(self.created.time.get(), out);
        put(self.updated.offset.get().wrapping_sub(self.created.offset.get()), out);
        put(self.updated.time.get().wrapping_sub(self.created.time.get()), out);
        if let Some(triggers) = &self.triggers {
            bincode::encode_into_std_write(triggers.as_ref(), out, bincode::config::standard())
                .expect("invariant: triggers always encode into memory");
        }
    }

    pub(crate) fn read(row: &[u8]) -> Result<Self, Error> {
        let mut input = Input(row);
        let mut object =
            Self::read_numbers(&mut input).ok_or(damaged(Table::Object, "the numbers end too early"))?;
        if !input.0.is_empty() {
            let (triggers, used): (Triggers, usize) =
                bincode::decode_from_slice(input.0, bincode::config::standard())
                    .map_err(|_| damaged(Table::Object, "the triggers cannot be read"))?;
            if used != input.0.len() {
                return Err(damaged(Table::Object, "bytes are left over after the triggers"));
            }
            object.triggers = Some(Box::new(triggers));
        }
        Ok(object)
    }

    /// The row without its triggers.
    pub(crate) fn read_summary(row: &[u8]) -> Result<Self, Error> {
        Self::read_numbers(&mut Input(row)).ok_or(damaged(Table::Object, "the numbers end too early"))
    }

    fn read_numbers(input: &mut Input<'_>) -> Option<Self> {
        let version = input.number()?;
        let entry_count = input.number()?;
        let created = Moment { offset: Offset(input.number()?), time: Timestamp(input.number()?) };
        let updated = Moment {
            offset: Offset(created.offset.get().wrapping_add(input.number()?)),
            time: Timestamp(created.time.get().wrapping_add(input.number()?)),
        };
        Some(Self { version, created, updated, entry_count, triggers: None })
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryRow {
    pub(crate) value: Value,
    /// The object's version when it was written.
    pub(crate) version: u64,
}

impl EntryRow {
    /// `kind` in one byte, `version`, the bytes.
    pub(crate) fn write(kind: ValueKind, version: u64, data: &[u8], out: &mut Vec<u8>) {
        out.push(kind as u8);
        put(version, out);
        out.extend_from_slice(data);
    }

    /// The value shares the memory of the row.
    pub(crate) fn read(row: &Bytes) -> Result<Self, Error> {
        let kind = Self::kind(row)?;
        let mut input = Input(&row[1..]);
        let version = input.number().ok_or(damaged(Table::Entry, "the version ends too early"))?;
        let data = row.slice(row.len() - input.0.len()..);
        Ok(Self { value: Value { kind, data }, version })
    }

    pub(crate) fn kind(row: &[u8]) -> Result<ValueKind, Error> {
        match row.first() {
            Some(0) => Ok(ValueKind::Bytes),
            Some(1) => Ok(ValueKind::CrdtMap),
            _ => Err(damaged(Table::Entry, "the kind of the value is unknown")),
        }
    }
}

/// A deleted object: the version of its deletion, and where that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TombstoneRow {
    pub(crate) version: u64,
    pub(crate) deleted: Offset,
}

impl TombstoneRow {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        put(self.version, out);
        put(self.deleted.get(), out);
    }

    pub(crate) fn read(row: &[u8]) -> Result<Self, Error> {
        whole(row, |input| Some(Self { version: input.number()?, deleted: Offset(input.number()?) }))
            .ok_or(damaged(Table::Tombstone, "it is not two numbers"))
    }
}

const KIND: u8 = 0b0000_0011;
const TRIGGERS_CHANGED: u8 = 0b0000_0100;
const REPLACED: u8 = 0b0000_1000;
/// Of a change of a function, which is kind 3.
const FAILED: u8 = 0b0001_0000;

/// Writes a history row: flags, operation, time, version, then for each touched entry its key's length and the
/// action in one number, and the key. Object and offset are in the row's key.
pub(crate) fn write_change(change: &Change, out: &mut Vec<u8>) {
    let mut flags = match change.kind {
        ChangeKind::Created => 0,
        ChangeKind::Updated => 1,
        ChangeKind::Deleted => 2,
        ChangeKind::Completed => 3,
        ChangeKind::Failed => 3 | FAILED,
    };
    flags |= if change.triggers_changed { TRIGGERS_CHANGED } else { 0 };
    flags |= if change.replaced { REPLACED } else { 0 };
    out.push(flags);
    put(u64::from(change.operation.number()), out);
    put(change.time.get(), out);
    put(change.version, out);
    for (key, action) in &change.keys {
        let action = match action {
            Action::Created => 0,
            Action::Updated => 1,
            Action::Deleted => 2,
        };
        put((key.len() as u64) << 2 | action, out);
        out.extend_from_slice(key.as_bytes());
    }
}

/// Reads a history row.
pub(crate) fn read_change(object: &str, offset: Offset, row: &[u8]) -> Result<Change, Error> {
    whole(row, |input| {
        let flags = input.byte()?;
        let kind = match flags & KIND {
            0 => ChangeKind::Created,
            1 => ChangeKind::Updated,
            2 => ChangeKind::Deleted,
            _ if flags & FAILED == 0 => ChangeKind::Completed,
            _ => ChangeKind::Failed,
        };
        let operation = BodyType::from_number(u16::try_from(input.number()?).ok()?)?;
        let time = Timestamp(input.number()?);
        let version = input.number()?;
        let mut keys = Vec::new();
        while !input.0.is_empty() {
            let number = input.number()?;
            let action = match number & 3 {
                0 => Action::Created,
                1 => Action::Updated,
                2 => Action::Deleted,
                _ => return None,
            };
            let key = input.bytes(usize::try_from(number >> 2).ok()?)?;
            keys.push((std::str::from_utf8(key).ok()?.to_owned(), action));
        }
        Some(Change {
            offset,
            time,
            object: object.to_owned(),
            kind,
            version,
            keys,
            triggers_changed: flags & TRIGGERS_CHANGED != 0,
            replaced: flags & REPLACED != 0,
            operation,
        })
    })
    .ok_or(damaged(Table::History, "it is not a change"))
}

impl Cursor {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put(self.position.get(), out);
        put(self.allowed_lag, out);
        put(self.moved.offset.get(), out);
        put(self.moved.time.get(), out);
    }

    pub(crate) fn read(name: &str, row: &[u8]) -> Result<Self, Error> {
        whole(row, |input| {
            Some(Self {
                name: name.to_owned(),
                position: Offset(input.number()?),
                allowed_lag: input.number()?,
                moved: Moment { offset: Offset(input.number()?), time: Timestamp(input.number()?) },
            })
        })
        .ok_or(damaged(Table::Cursor, "it is not four numbers"))
    }
}

impl Members {
    /// Offset, term, the sets of voters, and the nodes, each list after its length.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Membership { voters, nodes } = &self.membership;
        put(self.offset.get(), out);
        put(self.term.0, out);
        put(voters.len() as u64, out);
        for set in voters {
            put(set.len() as u64, out);
            set.iter().for_each(|node| put(node.0, out));
        }
        put(nodes.len() as u64, out);
        nodes.iter().for_each(|node| put(node.0, out));
    }

    pub(crate) fn read(row: &[u8]) -> Result<Self, Error> {
        whole(row, |input| {
            let (offset, term) = (Offset(input.number()?), Term(input.number()?));
            let set = |input: &mut Input<'_>| {
                (0..input.number()?).map(|_| input.number().map(NodeId)).collect::<Option<Vec<_>>>()
            };
            let voters = (0..input.number()?).map(|_| set(input)).collect::<Option<_>>()?;
            let nodes = set(input)?;
            Some(Self { offset, term, membership: Membership { voters, nodes } })
        })
        .ok_or(damaged(Table::Members, "it is not a list of members"))
    }
}

impl Request {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        put(self.offset.get(), out);
        put(self.time.get(), out);
        out.extend_from_slice(&self.fingerprint);
        write_outcome(&self.outcome, out);
    }

    pub(crate) fn read(row: &[u8]) -> Result<Self, Error> {
        whole(row, |input| {
            Some(Self {
                offset: Offset(input.number()?),
                time: Timestamp(input.number()?),
                fingerprint: input.array()?,
                outcome: read_outcome(input)?,
            })
        })
        .ok_or(damaged(Table::Request, "it is not a request"))
    }
}

/// Writes a first outcome. Those of repeated requests are never stored.
fn write_outcome(outcome: &Outcome, out: &mut Vec<u8>) {
    match outcome {
        Outcome::Changed { version } => {
            out.push(0);
            put(*version, out);
        }
        Outcome::Unchanged { version } => {
            out.push(1);
            put(*version, out);
        }
        Outcome::VersionMismatch { expected, current } => {
            out.push(2);
            put(*expected, out);
            put(*current, out);
        }
        Outcome::Rejected(Rejection::CrdtMalformed { key, reason }) => {
            out.push(3);
            put_text(key, out);
            put_text(reason, out);
        }
        Outcome::Rejected(Rejection::CrdtTooLarge { key, bytes, limit }) => {
            out.push(4);
            put_text(key, out);
            put(*bytes, out);
            put(*limit, out);
        }
        Outcome::Noted | Outcome::Duplicate { .. } | Outcome::RequestIdReused { .. } => out.push(5),
        Outcome::Rejected(Rejection::OutboxFull { rows, bytes }) => {
            out.push(6);
            put(*rows, out);
            put(*bytes, out);
        }
        Outcome::Rejected(Rejection::InvocationIdReused { invocation, offset }) => {
            out.push(7);
            put_text(invocation, out);
            put(offset.get(), out);
        }
        Outcome::Stale => out.push(8),
        Outcome::NotUnderstood => out.push(9),
    }
}

fn read_outcome(input: &mut Input<'_>) -> Option<Outcome> {
    Some(match input.byte()? {
        0 => Outcome::Changed { version: input.number()? },
        1 => Outcome::Unchanged { version: input.number()? },
        2 => Outcome::VersionMismatch { expected: input.number()?, current: input.number()? },
        3 => Outcome::Rejected(Rejection::CrdtMalformed {
            key: input.text()?.to_owned(),
            reason: input.text()?.to_owned(),
        }),
        4 => Outcome::Rejected(Rejection::CrdtTooLarge {
            key: input.text()?.to_owned(),
            bytes: input.number()?,
            limit: input.number()?,
        }),
        5 => Outcome::Noted,
        6 => Outcome::Rejected(Rejection::OutboxFull { rows: input.number()?, bytes: input.number()? }),
        7 => Outcome::Rejected(Rejection::InvocationIdReused {
            invocation: input.text()?.to_owned(),
            offset: Offset(input.number()?),
        }),
        8 => Outcome::Stale,
        9 => Outcome::NotUnderstood,
        _ => return None,
    })
}

/// Writes a row of the order in which request ids are forgotten.
pub(crate) fn write_request_order(time: Timestamp, id: &str, out: &mut Vec<u8>) {
    put(time.get(), out);
    out.extend_from_slice(id.as_bytes());
}

/// Reads a row of the order in which request ids are forgotten.
pub(crate) fn read_request_order(row: &[u8]) -> Result<(Timestamp, &str), Error> {
    let mut input = Input(row);
    input
        .number()
        .and_then(|time| Some((Timestamp(time), std::str::from_utf8(input.0).ok()?)))
        .ok_or(damaged(Table::RequestOrder, "it is not a time and an id"))
}

/// Takes all of a row apart.
fn whole<'a, T>(row: &'a [u8], parse: impl FnOnce(&mut Input<'a>) -> Option<T>) -> Option<T> {
    let mut input = Input(row);
    let parsed = parse(&mut input)?;
    input.end().map(|()| parsed)
}

pub(crate) const fn damaged(table: Table, reason: &'static str) -> Error {
    Error::Damaged { table: table.name(), reason }
}
