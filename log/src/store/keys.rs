//! Keys and small rows of the log's RocksDB.
//!
//! All numbers are big-endian, so that RocksDB's order is the order of the numbers.
//!
//! ```text
//! table `log`     group 4 | offset 8                  -> stored value of the record (crate::envelope)
//! table `meta`    group 4 | 0                         -> head: offset 8, chain 32, bytes 8, CRC-32C 4
//!                 group 4 | 1                         -> floor: the same, of the last record that was trimmed
//!                 group 4 | 2 | offset 8              -> checkpoint: the same, at each multiple of 1,024
//!                 group 4 | 3 | name                  -> note: bytes, CRC-32C 4
//! ```
//!
//! The CRC of a row covers its key too, so that a row found under another key is noticed.

use super::error::Corruption;
use crate::chain;
use crate::ids::{GroupId, Hash, Offset};
use crate::record::Record;

const HEAD: u8 = 0;
const FLOOR: u8 = 1;
const CHECKPOINT: u8 = 2;
const NOTE: u8 = 3;

/// A place in a log, with the chain and the number of payload bytes up to it (trimmed ones included). A log that began
/// behind a snapshot counts from there, and what is put in front of it counts backwards, modulo 2^64: only the difference
/// between two places of one log means something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub offset: Offset,
    pub chain: Hash,
    pub bytes: u64,
}

impl Link {
    /// The place of the record that follows.
    pub(super) fn after(self, record: &Record) -> Self {
        Self {
            offset: record.offset,
            chain: chain::link(self.chain, record),
            bytes: self.bytes.wrapping_add(record.payload.len() as u64),
        }
    }
}

/// A row of `meta` that holds a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Head,
    Floor,
    Checkpoint(Offset),
}

impl Row {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Floor => "floor",
            Self::Checkpoint(_) => "checkpoint",
        }
    }

    pub(super) fn key(self, group: GroupId) -> Key {
        match self {
            Self::Head => Key::new(group, &[HEAD]),
            Self::Floor => Key::new(group, &[FLOOR]),
            Self::Checkpoint(offset) => checkpoint_key(group, offset),
        }
    }
}

/// A short key on the stack.
#[derive(Clone, Copy)]
pub(super) struct Key {
    bytes: [u8; 13],
    length: usize,
}

impl Key {
    fn new(group: GroupId, rest: &[u8]) -> Self {
        let mut bytes = [0; 13];
        bytes[..4].copy_from_slice(&group.0.to_be_bytes());
        bytes[4..4 + rest.len()].copy_from_slice(rest);
        Self { bytes, length: 4 + rest.len() }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The key of a record.
pub(super) fn record_key(group: GroupId, offset: Offset) -> Key {
    Key::new(group, &offset.0.to_be_bytes())
}

/// The first key of a group in either table.
pub(super) fn group_start(group: GroupId) -> Key {
    Key::new(group, &[])
}

/// A key after all keys of a group in either table, and before those of the next.
pub(super) fn group_end(group: GroupId) -> Key {
    // No name of a note and no offset continues with nine 0xff after the group: kinds of rows stay below 0xff.
    Key::new(group, &[0xff; 9])
}

/// The key of the checkpoint at an offset.
pub(super) fn checkpoint_key(group: GroupId, offset: Offset) -> Key {
    let mut rest = [CHECKPOINT; 9];
    rest[1..].copy_from_slice(&offset.0.to_be_bytes());
    Key::new(group, &rest)
}

/// The key of a note.
pub(super) fn note_key(group: GroupId, name: &str) -> Vec<u8> {
    let mut key = group.0.to_be_bytes().to_vec();
    key.push(NOTE);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The group of any key; `None` if it is no key of ours.
pub(super) fn group_of(key: &[u8]) -> Option<GroupId> {
    key.first_chunk().map(|group| GroupId(u32::from_be_bytes(*group)))
}

/// The offset of a record's key; `None` if it is no record's key.
pub(super) fn offset_of(key: &[u8]) -> Option<Offset> {
    <[u8; 8]>::try_from(key.get(4..)?).ok().map(|offset| Offset(u64::from_be_bytes(offset)))
}

/// The offset of a checkpoint's key; `None` if it is the key of another row.
pub(super) fn checkpoint_offset(key: &[u8]) -> Option<Offset> {
    let (kind, offset) = key.get(4..)?.split_first()?;
    (*kind == CHECKPOINT).then_some(())?;
    <[u8; 8]>::try_from(offset).ok().map(|offset| Offset(u64::from_be_bytes(offset)))
}

/// The bytes of a [`Link`] before its CRC.
const LINK_BYTES: usize = 48;

/// The value of a head, floor or checkpoint row.
pub(super) fn encode_link(key: &[u8], link: Link) -> [u8; LINK_BYTES + 4] {
    let mut value = [0; LINK_BYTES + 4];
    value[..8].copy_from_slice(&link.offset.0.to_be_bytes());
    value[8..40].copy_from_slice(&link.chain.0);
    value[40..LINK_BYTES].copy_from_slice(&link.bytes.to_be_bytes());
    let crc = row_crc(key, &value[..LINK_BYTES]);
    value[LINK_BYTES..].copy_from_slice(&crc.to_be_bytes());
    value
}

/// Reads the value of a head, floor or checkpoint row.
pub(super) fn decode_link(group: GroupId, row: Row, key: &[u8], value: &[u8]) -> Result<Link, Corruption> {
    let damaged = |reason: String| Corruption::Meta { group, row: row.name(), reason };
    let body = checked(key, value).map_err(damaged)?;
    let Ok(body) = <&[u8; LINK_BYTES]>::try_from(body) else {
        return Err(damaged(format!("{} bytes where {LINK_BYTES} were expected", body.len())));
    };
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&body[at..at + 8]);
        u64::from_be_bytes(bytes)
    };
    let mut chain = Hash::ZERO;
    chain.0.copy_from_slice(&body[8..40]);
    Ok(Link { offset: Offset(number(0)), chain, bytes: number(40) })
}

/// The value of a note.
pub(super) fn encode_note(key: &[u8], note: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(note.len() + 4);
    value.extend_from_slice(note);
    value.extend_from_slice(&row_crc(key, note).to_be_bytes());
    value
}

/// Reads the value of a note.
pub(super) fn decode_note<'a>(group: GroupId, key: &[u8], value: &'a [u8]) -> Result<&'a [u8], Corruption> {
    checked(key, value).map_err(|reason| Corruption::Meta { group, row: "note", reason })
}

fn row_crc(key: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), body)
}

fn checked<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let Some((body, stored)) = value.split_last_chunk() else {
        return Err(format!("{} bytes are too few", value.len()));
    };
    let (expected, found) = (u32::from_be_bytes(*stored), row_crc(key, body));
    if expected != found {
        return Err(format!("CRC-32C is {found:08x}, not {expected:08x}"));
    }
    Ok(body)
}
