//! The keys of a view's rows.
//!
//! All tables share one ordered key space; the first byte of a key is its table. Numbers are big-endian, so
//! that byte order is their order. Object ids contain no NUL byte; entry keys, cursor names and request ids end
//! their row's key and may contain anything.
//!
//! | table | key after the table byte | value |
//! |---|---|---|
//! | `!` header | nothing | where the view is |
//! | `o` object | object id | version, created, updated, entry count, triggers |
//! | `e` entry | object id, NUL, entry key | kind, version at its last write, bytes |
//! | `x` tombstone | object id | version, offset of the deletion |
//! | `y` tombstone order | offset | object id |
//! | `h` history | object id, NUL, offset | the change; under the empty id the partition's own records |
//! | `t` time index | time, offset | nothing |
//! | `r` request | request id | offset, time, fingerprint, outcome |
//! | `s` request order | offset | time, request id |
//! | `c` cursor | name | position, allowed lag, when it moved |
//! | `m` members | nothing | record, term, sets of voters, nodes |

use odgm_log::{Offset, Timestamp};

/// The tables of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Table {
    /// Where the view is.
    Header = b'!',
    /// Cursors by name.
    Cursor = b'c',
    /// Entries by object and key.
    Entry = b'e',
    /// Changes by object and offset.
    History = b'h',
    /// Who replicates the partition.
    Members = b'm',
    /// Objects by id.
    Object = b'o',
    /// Requests by id.
    Request = b'r',
    /// Request ids by offset, the order in which they are forgotten.
    RequestOrder = b's',
    /// A sparse index from times to offsets.
    Time = b't',
    /// Deleted objects by id.
    Tombstone = b'x',
    /// Deleted objects by the offset of their deletion.
    TombstoneOrder = b'y',
}

impl Table {
    /// Every table, in the order of their rows.
    pub const ALL: [Self; 11] = [
        Self::Header,
        Self::Cursor,
        Self::Entry,
        Self::History,
        Self::Members,
        Self::Object,
        Self::Request,
        Self::RequestOrder,
        Self::Time,
        Self::Tombstone,
        Self::TombstoneOrder,
    ];

    /// The table's name in messages and dumps.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Cursor => "cursor",
            Self::Entry => "entry",
            Self::History => "history",
            Self::Members => "members",
            Self::Object => "object",
            Self::Request => "request",
            Self::RequestOrder => "request order",
            Self::Time => "time",
            Self::Tombstone => "tombstone",
            Self::TombstoneOrder => "tombstone order",
        }
    }
}

/// The key of a row, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The header.
    Header,
    /// An object.
    Object(&'a str),
    /// An entry of an object.
    Entry(&'a str, &'a str),
    /// A deleted object.
    Tombstone(&'a str),
    /// A deletion.
    TombstoneOrder(Offset),
    /// A change of an object.
    History(&'a str, Offset),
    /// A time and the offset of a record that had it.
    Time(Timestamp, Offset),
    /// A request id.
    Request(&'a str),
    /// The record of a request.
    RequestOrder(Offset),
    /// A cursor.
    Cursor(&'a str),
    /// The members.
    Members,
}

impl<'a> Key<'a> {
    /// The table it is in.
    pub const fn table(self) -> Table {
        match self {
            Self::Header => Table::Header,
            Self::Object(_) => Table::Object,
            Self::Entry(..) => Table::Entry,
            Self::Tombstone(_) => Table::Tombstone,
            Self::TombstoneOrder(_) => Table::TombstoneOrder,
            Self::History(..) => Table::History,
            Self::Time(..) => Table::Time,
            Self::Request(_) => Table::Request,
            Self::RequestOrder(_) => Table::RequestOrder,
            Self::Cursor(_) => Table::Cursor,
            Self::Members => Table::Members,
        }
    }

    /// Appends the bytes of the key.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(self.table() as u8);
        match self {
            Self::Header | Self::Members => {}
            Self::Object(text) | Self::Tombstone(text) | Self::Request(text) | Self::Cursor(text) => {
                out.extend_from_slice(text.as_bytes());
            }
            Self::Entry(object, key) => {
                out.extend_from_slice(object.as_bytes());
                out.push(0);
                out.extend_from_slice(key.as_bytes());
            }
            Self::History(object, offset) => {
                out.extend_from_slice(object.as_bytes());
                out.push(0);
                out.extend_from_slice(&offset.get().to_be_bytes());
            }
            Self::TombstoneOrder(offset) | Self::RequestOrder(offset) => {
                out.extend_from_slice(&offset.get().to_be_bytes());
            }
            Self::Time(time, offset) => {
                out.extend_from_slice(&time.get().to_be_bytes());
                out.extend_from_slice(&offset.get().to_be_bytes());
            }
        }
    }

    /// The bytes of the key.
    pub fn to_vec(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        self.write(&mut bytes);
        bytes
    }

    /// Takes a key apart; none if the bytes are no key of a view.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&table, rest) = bytes.split_first()?;
        let table = Table::ALL.into_iter().find(|known| *known as u8 == table)?;
        Some(match table {
            Table::Header => rest.is_empty().then_some(Self::Header)?,
            Table::Members => rest.is_empty().then_some(Self::Members)?,
            Table::Object => Self::Object(text(rest)?),
            Table::Tombstone => Self::Tombstone(text(rest)?),
            Table::Request => Self::Request(text(rest)?),
            Table::Cursor => Self::Cursor(text(rest)?),
            Table::Entry => {
                let (object, key) = split_object(rest)?;
                Self::Entry(object, text(key)?)
            }
            Table::History => {
                let (object, offset) = split_object(rest)?;
                Self::History(object, Offset(number(offset)?))
            }
            Table::TombstoneOrder => Self::TombstoneOrder(Offset(number(rest)?)),
            Table::RequestOrder => Self::RequestOrder(Offset(number(rest)?)),
            Table::Time => {
                let (time, offset) = rest.split_at_checked(8)?;
                Self::Time(Timestamp(number(time)?), Offset(number(offset)?))
            }
        })
    }
}

/// What the keys of all rows of one object begin with, in the entry or the history table.
pub(crate) fn object_prefix(table: Table, object: &str) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(object.len() + 2);
    prefix.push(table as u8);
    prefix.extend_from_slice(object.as_bytes());
    prefix.push(0);
    prefix
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn split_object(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((text(&bytes[..at])?, &bytes[at + 1..]))
}
