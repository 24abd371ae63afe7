//! A partition as a stream of bytes: what a backup keeps of it, and what a restored one begins with.
//!
//! A bundle holds the state at one offset, as the files of a snapshot, and the records that are kept up to it. It is made
//! of frames, each with a checksum; of each file and of the chain over the records a hash is in it as well, so that a
//! bundle proves itself. Where records have been trimmed there is a second snapshot, of the state before the first of
//! them: from there on the past can be read.
//!
//! Numbers are big-endian; bytes have their length (u32) before them.
//!
//! ```text
//! bundle     magic 8 "ODGMBNDL" | version u32, 2 | frames
//! frame      kind u8 | length u32 | payload | CRC-32C u32 of kind, length and payload
//!
//! 1 begin    group u32 | offset u64 | term u64 | time u64 | chain 32 | state 32 | first u64 | chain before the first 32 |
//!            expected u64 | 1 if calls were named by the group or 0, not in version 1: there were none
//! 2 records  number u32, then of each: offset u64, the record as it rests in the log of that group
//! 3 snapshot offset u64 | files, as in crate::pieces
//! 4 piece    piece, as in crate::pieces, of the last snapshot
//! 5 end      records u64 | bytes of all pieces u64
//! ```
//!
//! `offset` is the last record, `term`, `time`, `chain` and `state` are those of the view there. `first` is the first record
//! that is in the bundle, one above `offset` if there is none. `expected` is about how many bytes follow, for those who show
//! progress. Begin comes first, then all records in order, then the snapshot before the first record, if there is one, and
//! the one at `offset`, each followed by its pieces.

mod reading;
mod writing;

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use odgm_log::{GroupId, Hash, MAX_PAYLOAD_BYTES, Offset, Term, Timestamp};

pub(crate) use self::reading::{Part, Reader};
pub(crate) use self::writing::Writer;
use crate::encoding::get_bool;

const MAGIC: [u8; 8] = *b"ODGMBNDL";

/// The version of the format that this build writes. It reads those before, too.
pub const VERSION: u32 = 2;

/// The version before calls.
const VERSION_1: u32 = 1;

/// Bytes of a frame before its payload, and behind it.
const FRAME_HEAD: usize = 5;
const FRAME_TAIL: usize = 4;

/// The largest payload of a frame: the largest record, and room for what surrounds it.
const MAX_FRAME_BYTES: usize = MAX_PAYLOAD_BYTES + (1 << 20);

/// Payload bytes of records that one frame gathers; a larger record goes alone.
const RECORD_BYTES: usize = 256 << 10;

/// Which frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Begin = 1,
    Records = 2,
    Snapshot = 3,
    Piece = 4,
    End = 5,
}

/// What a bundle says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The group that the partition had.
    pub group: GroupId,
    /// The last record that is in the state.
    pub offset: Offset,
    /// Its term.
    pub term: Term,
    /// Its time.
    pub time: Timestamp,
    /// The chain of the log there.
    pub chain: Hash,
    /// The state hash of the view there.
    pub state: Hash,
    /// The first record that is in the bundle; one above `offset` if there is none.
    pub first: Offset,
    /// The chain before it.
    pub before: Hash,
    /// About how many bytes follow.
    pub expected: u64,
    /// Whether calls were named by the group: then the partition that begins with this must have another one.
    pub names_calls: bool,
}

/// What was found in a bundle that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it says of itself.
    pub begin: Begin,
    /// How many records are in it.
    pub records: u64,
    /// The bytes of the files of its snapshots.
    pub file_bytes: u64,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is not whole, or has changed since it was made.
    #[error("at byte {at}: {reason}")]
    Damaged {
        /// Where.
        at: u64,
        /// What was expected, and found.
        reason: String,
    },
    /// A newer build wrote it.
    #[error("it has format {found}; this build reads formats up to {VERSION}: use a newer build")]
    Version {
        /// Its version.
        found: u32,
    },
}

/// Reads a bundle to its end and checks everything that can be checked without opening its snapshots.
///
/// # Errors
/// [`BundleError`], which says where it is damaged.
pub fn check(input: impl io::Read) -> Result<Checked, BundleError> {
    let mut reader = Reader::new(input);
    let begin = reader.begin()?.ok_or_else(|| reader.damaged("it is empty".to_owned()))?;
    let mut checked = Checked { begin, records: 0, file_bytes: 0 };
    let mut hashes = Vec::new();
    while let Some(part) = reader.next()? {
        match part {
            Part::Records(records) => checked.records += records.len() as u64,
            Part::Snapshot(_, files) => hashes = vec![blake3::Hasher::new(); files.len()],
            Part::Piece(piece) => {
                checked.file_bytes += piece.bytes.len() as u64;
                // The reader has seen that there is such a file.
                let hasher = &mut hashes[piece.file as usize];
                hasher.update(&piece.bytes);
                let found = Hash(*hasher.finalize().as_bytes());
                if let Some(wanted) = piece.hash.filter(|wanted| *wanted != found) {
                    let reason = format!("a file of the snapshot has hash {found}, not {wanted}");
                    return Err(reader.damaged(reason));
                }
            }
        }
    }
    match reader.begin()? {
        None => Ok(checked),
        Some(_) => Err(reader.damaged("another bundle follows".to_owned())),
    }
}

/// What a bundle says of itself, from its first bytes; none if they are too few or none of a bundle.
pub fn announced(first: &[u8]) -> Option<Begin> {
    Reader::new(first).begin().ok().flatten()
}

impl Begin {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(144);
        out.put_u32(self.group.0);
        out.put_u64(self.offset.0);
        out.put_u64(self.term.0);
        out.put_u64(self.time.0);
        out.put_slice(&self.chain.0);
        out.put_slice(&self.state.0);
        out.put_u64(self.first.0);
        out.put_slice(&self.before.0);
        out.put_u64(self.expected);
        out.put_u8(u8::from(self.names_calls));
        out.freeze()
    }

    fn decode(version: u32, input: &mut Bytes) -> io::Result<Self> {
        let hash = |input: &mut Bytes| -> io::Result<Hash> {
            let mut hash = Hash::ZERO;
            input.try_copy_to_slice(&mut hash.0)?;
            Ok(hash)
        };
        Ok(Self {
            group: GroupId(input.try_get_u32()?),
            offset: Offset(input.try_get_u64()?),
            term: Term(input.try_get_u64()?),
            time: Timestamp(input.try_get_u64()?),
            chain: hash(input)?,
            state: hash(input)?,
            first: Offset(input.try_get_u64()?),
            before: hash(input)?,
            expected: input.try_get_u64()?,
            names_calls: version > VERSION_1 && get_bool(input)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::body::Trimmed;
    use odgm_log::{Body, Cause, NodeId, Payload, Record, chain};

    use super::*;
    use crate::pieces::Outgoing;

    fn record(offset: u64) -> Record {
        let body = Body::Trimmed(Trimmed { below: Offset(offset) });
        let (kind, payload) = Payload { cause: Cause::default(), body }.encode().expect("a record");
        let (offset, term, stamp) = (Offset(offset), Term(2), Timestamp(1_000 + offset));
        Record { offset, term, stamp, origin: NodeId(1), kind, payload }
    }

    /// Records 3 to 5 and a snapshot with two files.
    fn bundle() -> Vec<u8> {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("a"), b"rows").expect("written");
        std::fs::write(dir.path().join("b"), b"").expect("written");
        let records: Vec<Record> = (3..=5).map(record).collect();
        let before = Hash([9; 32]);
        let begin = Begin {
            group: GroupId(7),
            offset: Offset(5),
            term: Term(2),
            time: Timestamp(1_005),
            chain: records.iter().fold(before, chain::link),
            state: Hash([4; 32]),
            first: Offset(3),
            before,
            expected: 100,
            names_calls: true,
        };
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&mut bytes, &begin).expect("begun");
        writer.records(&records).expect("written");
        writer.snapshot(Offset(5), Outgoing::open(dir.path()).expect("listed")).expect("written");
        writer.end().expect("ended");
        bytes
    }

    #[test]
    fn a_bundle_has_these_bytes() {
        let hex: Vec<String> =
            bundle().chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
        insta::assert_snapshot!(hex.join("\n"));
        let checked = check(&bundle()[..]).expect("whole");
        assert_eq!((checked.begin.offset, checked.records, checked.file_bytes), (Offset(5), 3, 4));
    }

    #[test]
    fn a_bundle_of_the_build_before_calls_is_read() {
        let begin = check(&bundle()[..]).expect("whole").begin;
        let mut encoded = begin.encode();
        let first = Begin::decode(VERSION_1, &mut encoded).expect("it has all of that");
        assert_eq!(
            (first, encoded.len()),
            (Begin { names_calls: false, ..begin }, 1),
            "it ended one byte before"
        );
    }

    #[test]
    fn no_byte_can_be_changed_and_none_left_out() {
        let bundle = bundle();
        for at in 0..bundle.len() {
            let mut changed = bundle.clone();
            changed[at] ^= 0x40;
            assert!(check(&changed[..]).is_err(), "byte {at} changed");
            assert!(check(&bundle[..at]).is_err(), "cut off at {at}");
        }
        let twice = [bundle.as_slice(), bundle.as_slice()].concat();
        assert!(check(&twice[..]).is_err(), "one bundle is not two");
    }

    #[test]
    fn it_says_where_it_is_damaged() {
        let bundle = bundle();
        let said = |bytes: &[u8]| check(bytes).expect_err("damaged").to_string();
        let mut changed = bundle.clone();
        changed[200] ^= 1;
        let mut newer = bundle.clone();
        newer[11] = 3;
        let said =
            [said(&changed), said(&newer), said(&bundle[..300]), said(b""), said(b"PK\x03\x04 something")];
        insta::assert_snapshot!(said.join("\n"));
    }
}
