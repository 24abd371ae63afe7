//! The bytes of a record at rest and on its way.
//!
//! All numbers are big-endian.
//!
//! ```text
//! envelope                              stored value of the log
//! 0   magic          2  "OG"            0   term      8
//! 2   format         1  1               8   seal      4  CRC-32C of group, offset, term, envelope CRC
//! 3   body version   1                  12  envelope
//! 4   body type      2
//! 6   payload length 4
//! 10  stamp          8  microseconds
//! 18  origin         8  node
//! 26  CRC-32C        4  of bytes 0..26 and the payload
//! 30  payload
//! ```
//!
//! The envelope is made once by the proposer and is the same on every replica. The seal binds it to its place, so
//! that a value found under another key, or with another term, is noticed.

use bytes::Bytes;

use crate::body::BodyType;
use crate::ids::{GroupId, NodeId, Offset, Term, Timestamp};
use crate::record::{Kind, MAX_PAYLOAD_BYTES, Record};

const MAGIC: [u8; 2] = *b"OG";

/// The version of the envelope that this build writes and reads.
pub const FORMAT: u8 = 1;

/// Bytes before the payload.
pub const ENVELOPE_HEADER: usize = 30;

/// Bytes before the envelope in a stored value.
pub const STORED_HEADER: usize = 12;

/// Why the bytes of a record cannot be trusted or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Fewer bytes than the header says.
    #[error("{found} bytes where {expected} were expected")]
    Length {
        /// What the header asks for.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// These are not the bytes of a record.
    #[error("the magic is {found:02x?}, not {expected:02x?}", expected = MAGIC)]
    Magic {
        /// The first two bytes.
        found: [u8; 2],
    },
    /// A newer build wrote it.
    #[error("envelope format {found}; this build reads format {FORMAT}: upgrade the node")]
    UnknownFormat {
        /// The format byte.
        found: u8,
    },
    /// A newer build wrote it.
    #[error("unknown body type {found}: a newer build wrote it; upgrade the node")]
    UnknownBody {
        /// The type number.
        found: u16,
    },
    /// The bytes have changed since they were written.
    #[error("CRC-32C is {found:08x}, not {expected:08x}: the bytes have changed since they were written")]
    Checksum {
        /// The stored sum.
        expected: u32,
        /// The sum of what was read.
        found: u32,
    },
    /// The bytes are whole but belong to another place in the log.
    #[error("the seal is {found:08x}, not {expected:08x}: the record does not belong at this offset or term")]
    Seal {
        /// The stored seal.
        expected: u32,
        /// The seal of this place.
        found: u32,
    },
}

/// Appends the stored value of a record (seal and envelope).
pub fn encode_stored(group: GroupId, record: &Record, out: &mut Vec<u8>) {
    out.reserve(STORED_HEADER + ENVELOPE_HEADER + record.payload.len());
    out.extend_from_slice(&record.term.0.to_be_bytes());
    let seal_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let crc = encode(record, out);
    let seal = seal(group, record.offset, record.term, crc);
    out[seal_at..seal_at + 4].copy_from_slice(&seal.to_be_bytes());
}

/// Reads a stored value back, checking both sums. The payload shares the memory of `bytes`.
///
/// # Errors
/// Any [`EnvelopeError`]; nothing is guessed.
pub fn decode_stored(group: GroupId, offset: Offset, bytes: &Bytes) -> Result<Record, EnvelopeError> {
    if bytes.len() < STORED_HEADER {
        return Err(EnvelopeError::Length { expected: STORED_HEADER, found: bytes.len() });
    }
    let term = Term(u64::from_be_bytes(array(bytes, 0)));
    let expected = u32::from_be_bytes(array(bytes, 8));
    let (record, crc) = decode(offset, term, &bytes.slice(STORED_HEADER..))?;
    let found = seal(group, offset, term, crc);
    if found != expected {
        return Err(EnvelopeError::Seal { expected, found });
    }
    Ok(record)
}

/// Appends the envelope of a record and returns its CRC.
pub fn encode(record: &Record, out: &mut Vec<u8>) -> u32 {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.push(FORMAT);
    out.push(record.kind.body_version);
    out.extend_from_slice(&record.kind.body_type.number().to_be_bytes());
    // MAX_PAYLOAD_BYTES is far below u32::MAX and payloads are bounded by it where they are encoded.
    #[allow(clippy::cast_possible_truncation)]
    out.extend_from_slice(&(record.payload.len() as u32).to_be_bytes());
    out.extend_from_slice(&record.stamp.0.to_be_bytes());
    out.extend_from_slice(&record.origin.0.to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), &record.payload);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&record.payload);
    crc
}

/// Reads an envelope as the record at that offset and term; returns its CRC too.
///
/// # Errors
/// Any [`EnvelopeError`] but a wrong seal.
pub fn decode(offset: Offset, term: Term, bytes: &Bytes) -> Result<(Record, u32), EnvelopeError> {
    if bytes.len() < ENVELOPE_HEADER {
        return Err(EnvelopeError::Length { expected: ENVELOPE_HEADER, found: bytes.len() });
    }
    if bytes[..2] != MAGIC {
        return Err(EnvelopeError::Magic { found: array(bytes, 0) });
    }
    if bytes[2] != FORMAT {
        return Err(EnvelopeError::UnknownFormat { found: bytes[2] });
    }
    let length = usize::try_from(u32::from_be_bytes(array(bytes, 6))).unwrap_or(usize::MAX);
    let expected_length = ENVELOPE_HEADER.saturating_add(length);
    if length > MAX_PAYLOAD_BYTES || bytes.len() != expected_length {
        return Err(EnvelopeError::Length { expected: expected_length, found: bytes.len() });
    }
    let expected = u32::from_be_bytes(array(bytes, 26));
    let found = crc32c::crc32c_append(crc32c::crc32c(&bytes[..26]), &bytes[ENVELOPE_HEADER..]);
    if found != expected {
        return Err(EnvelopeError::Checksum { expected, found });
    }
    let number = u16::from_be_bytes(array(bytes, 4));
    let body_type = BodyType::from_number(number).ok_or(EnvelopeError::UnknownBody { found: number })?;
    let record = Record {
        offset,
        term,
        stamp: Timestamp(u64::from_be_bytes(array(bytes, 10))),
        origin: NodeId(u64::from_be_bytes(array(bytes, 18))),
        kind: Kind { body_type, body_version: bytes[3] },
        payload: bytes.slice(ENVELOPE_HEADER..),
    };
    Ok((record, expected))
}

fn seal(group: GroupId, offset: Offset, term: Term, crc: u32) -> u32 {
    let mut place = [0; 24];
    place[..4].copy_from_slice(&group.0.to_be_bytes());
    place[4..12].copy_from_slice(&offset.0.to_be_bytes());
    place[12..20].copy_from_slice(&term.0.to_be_bytes());
    place[20..].copy_from_slice(&crc.to_be_bytes());
    crc32c::crc32c(&place)
}

/// The `N` bytes at `at`; callers have checked the length.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}
