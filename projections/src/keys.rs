//! The keys of a view's rows.
//!
//! All tables share one ordered key space; the first byte of a key is its table. Numbers are big-endian, so
//! that byte order is their order. Object ids contain no NUL byte; entry keys, cursor names, request ids and ids of
//! invocations end their row's key and may contain anything.
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
//! | `q` outbox | due, offset and index of what caused it | a call that waits |
//! | `d` delivery | offset and index of what settled it | an outcome for another partition |
//! | `g` delivered | group, origin, offset, index at the source | nothing |
//! | `f` source floor | group, origin of a source | below where its keys are not remembered, and are removed |
//! | `l` dead letter | offset, index, of the call or the delivery | what was given up, and why |
//! | `i` invocation | invocation id | what was asked for, how far it is |
//! | `j` result order | offset of its end, invocation id | time |
//! | `a` caused | group, origin, offset of the cause, offset of the record | nothing |

use odgm_log::body::Parent;
use odgm_log::body::calls::{DeliveryKey, Place, RowKey};
use odgm_log::{GroupId, NodeId, Offset, Timestamp};

/// The tables of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Table {
    /// Where the view is.
    Header = b'!',
    /// Records by what caused them.
    Caused = b'a',
    /// Cursors by name.
    Cursor = b'c',
    /// Outcomes for other partitions, by what settled them.
    Delivery = b'd',
    /// Entries by object and key.
    Entry = b'e',
    /// From where on the keys of a source are remembered.
    SourceFloor = b'f',
    /// Keys of outcomes that came from other partitions.
    Delivered = b'g',
    /// Changes by object and offset.
    History = b'h',
    /// Invocations by id.
    Invocation = b'i',
    /// Invocations by the record with which they ended, the order in which they are forgotten.
    ResultOrder = b'j',
    /// What was given up, by the place that it had.
    DeadLetter = b'l',
    /// Who replicates the partition.
    Members = b'm',
    /// Objects by id.
    Object = b'o',
    /// Calls that wait, in the order in which they are due.
    Outbox = b'q',
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
    pub const ALL: [Self; 19] = [
        Self::Header,
        Self::Caused,
        Self::Cursor,
        Self::Delivery,
        Self::Entry,
        Self::SourceFloor,
        Self::Delivered,
        Self::History,
        Self::Invocation,
        Self::ResultOrder,
        Self::DeadLetter,
        Self::Members,
        Self::Object,
        Self::Outbox,
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
            Self::Caused => "caused",
            Self::Cursor => "cursor",
            Self::Delivery => "delivery",
            Self::Entry => "entry",
            Self::SourceFloor => "source floor",
            Self::Delivered => "delivered",
            Self::History => "history",
            Self::Invocation => "invocation",
            Self::ResultOrder => "result order",
            Self::DeadLetter => "dead letter",
            Self::Members => "members",
            Self::Object => "object",
            Self::Outbox => "outbox",
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
    /// A call that waits.
    Outbox(RowKey),
    /// An outcome for another partition.
    Delivery(Place),
    /// An outcome that came from another partition.
    Delivered(DeliveryKey),
    /// Another partition, and who stamps its records.
    SourceFloor(GroupId, NodeId),
    /// What was given up.
    DeadLetter(Place),
    /// An invocation.
    Invocation(&'a str),
    /// The record with which an invocation ended, and its id.
    ResultOrder(Offset, &'a str),
    /// A record's cause, and the record.
    Caused(Parent, Offset),
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
            Self::Outbox(_) => Table::Outbox,
            Self::Delivery(_) => Table::Delivery,
            Self::Delivered(_) => Table::Delivered,
            Self::SourceFloor(..) => Table::SourceFloor,
            Self::DeadLetter(_) => Table::DeadLetter,
            Self::Invocation(_) => Table::Invocation,
            Self::ResultOrder(..) => Table::ResultOrder,
            Self::Caused(..) => Table::Caused,
        }
    }

    /// Appends the bytes of the key.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(self.table() as u8);
        let mut add = |bytes: &[u8]| out.extend_from_slice(bytes);
        match self {
            Self::Header | Self::Members => {}
            Self::Object(text)
            | Self::Tombstone(text)
            | Self::Request(text)
            | Self::Cursor(text)
            | Self::Invocation(text) => add(text.as_bytes()),
            Self::Entry(object, key) => {
                add(object.as_bytes());
                add(&[0]);
                add(key.as_bytes());
            }
            Self::History(object, offset) => {
                add(object.as_bytes());
                add(&[0]);
                add(&offset.get().to_be_bytes());
            }
            Self::TombstoneOrder(offset) | Self::RequestOrder(offset) => add(&offset.get().to_be_bytes()),
            Self::Time(time, offset) => {
                add(&time.get().to_be_bytes());
                add(&offset.get().to_be_bytes());
            }
            Self::Outbox(RowKey { due, offset, index }) => {
                add(&due.get().to_be_bytes());
                add(&offset.get().to_be_bytes());
                add(&index.to_be_bytes());
            }
            Self::Delivery(Place { offset, index }) | Self::DeadLetter(Place { offset, index }) => {
                add(&offset.get().to_be_bytes());
                add(&index.to_be_bytes());
            }
            Self::Delivered(DeliveryKey { group, origin, offset, index }) => {
                add(&group.0.to_be_bytes());
                add(&origin.0.to_be_bytes());
                add(&offset.get().to_be_bytes());
                add(&index.to_be_bytes());
            }
            Self::SourceFloor(group, origin) => {
                add(&group.0.to_be_bytes());
                add(&origin.0.to_be_bytes());
            }
            Self::ResultOrder(offset, id) => {
                add(&offset.get().to_be_bytes());
                add(id.as_bytes());
            }
            Self::Caused(Parent { group, origin, offset: cause }, offset) => {
                add(&group.0.to_be_bytes());
                add(&origin.0.to_be_bytes());
                add(&cause.get().to_be_bytes());
                add(&offset.get().to_be_bytes());
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
        let mut parts = Parts(rest);
        let key = match table {
            Table::Header => Self::Header,
            Table::Members => Self::Members,
            Table::Object => Self::Object(parts.text()?),
            Table::Tombstone => Self::Tombstone(parts.text()?),
            Table::Request => Self::Request(parts.text()?),
            Table::Cursor => Self::Cursor(parts.text()?),
            Table::Invocation => Self::Invocation(parts.text()?),
            Table::Entry => Self::Entry(parts.object()?, parts.text()?),
            Table::History => Self::History(parts.object()?, parts.offset()?),
            Table::TombstoneOrder => Self::TombstoneOrder(parts.offset()?),
            Table::RequestOrder => Self::RequestOrder(parts.offset()?),
            Table::Time => Self::Time(parts.time()?, parts.offset()?),
            Table::Outbox => {
                let (due, Place { offset, index }) = (parts.time()?, parts.place()?);
                Self::Outbox(RowKey { due, offset, index })
            }
            Table::Delivery => Self::Delivery(parts.place()?),
            Table::DeadLetter => Self::DeadLetter(parts.place()?),
            Table::Delivered => {
                let ((group, origin), Place { offset, index }) = (parts.source()?, parts.place()?);
                Self::Delivered(DeliveryKey { group, origin, offset, index })
            }
            Table::SourceFloor => {
                let (group, origin) = parts.source()?;
                Self::SourceFloor(group, origin)
            }
            Table::ResultOrder => Self::ResultOrder(parts.offset()?, parts.text()?),
            Table::Caused => {
                let ((group, origin), offset) = (parts.source()?, parts.offset()?);
                Self::Caused(Parent { group, origin, offset }, parts.offset()?)
            }
        };
        parts.0.is_empty().then_some(key)
    }
}

/// The bytes of a key, taken apart from the front.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// All that is left.
    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(std::mem::take(&mut self.0)).ok()
    }

    /// Up to the NUL byte, which is taken too.
    fn object(&mut self) -> Option<&'a str> {
        let at = self.0.iter().position(|byte| *byte == 0)?;
        let (object, rest) = (&self.0[..at], &self.0[at + 1..]);
        self.0 = rest;
        std::str::from_utf8(object).ok()
    }

    fn long(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    fn short(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.long().map(Timestamp)
    }

    fn offset(&mut self) -> Option<Offset> {
        self.long().map(Offset)
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place { offset: self.offset()?, index: self.short()? })
    }

    fn source(&mut self) -> Option<(GroupId, NodeId)> {
        Some((GroupId(self.short()?), NodeId(self.long()?)))
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
