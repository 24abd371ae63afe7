//! What the members of a group say to each other, as bytes.
//!
//! A message is the version (1 byte, 1), its kind (1 byte), and its parts in order. Numbers are big-endian. A vote is term
//! (u64), node (u64) and 1 if it leads, else 0. A log id is term (u64) and index (u64); one that may be missing has 1 or 0
//! before it. Text and bytes have their length (u32) before them. An entry is its record as it rests in the log, checksums
//! included, with its index (u64) and length (u32) before it.
//!
//! | request | parts | answer |
//! |---|---|---|
//! | 1 append | vote, log id before, commit, number of entries (u32), entries | 0 done; 1 up to a log id; 2 conflict; 3 higher vote |
//! | 2 vote, 3 pre-vote | vote, last log id, 1 if leadership is handed over | vote, 1 if granted, last log id |
//! | 4 transfer | vote, node, last log id | 0 done; 1 vote expected, found; 2 log id expected, found |
//! | 5 snapshot | vote, last log id, files as in [`crate::pieces`] | vote; number of files (u32), bytes held of each (u64) |
//! | 6 piece | vote, last log id, piece as in [`crate::pieces`] | vote |
//! | 7 install | vote, last log id | vote |
//! | 8 propose | id (u64), number of writes (u32), writes | number of answers (u32), answers; see [`super::forwarding`] |
//! | 9 confirm | 1 if the lease is enough, else 0 | 0, offset (u64); 1 not the leader; 2 not confirmed, why |
//! | 10 links | offset (u64) | of what is below: first kept, first listed (u64), number (u32), of each: chain before it, bytes (u32) |
//! | 11 records | first, last (u64) | number (u32), of each its record as it rests in the log |
//! | 12 base | offset (u64) of a snapshot | 1 if it is there, else 0; files as in [`crate::pieces`] |
//! | 13 base piece | offset (u64), file (u32), where (u64) | piece as in [`crate::pieces`] |
//! | 20 compare | offset (u64), verdict; see [`super::comparing`] | number of checkpoints (u32), checkpoints |
//! | 21 chain | offset (u64) | 1 and the chain there (32 bytes) if it can be told, else 0 |
//! | 30 lead | | 0, term (u64); 1 not the leader; 2 not confirmed, why |

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odgm_log::envelope::{decode_stored, encode_stored};
use odgm_log::store::Links;
use odgm_log::{GroupId, Offset, Record};
use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::comparing::{Verdict, get_verdict, put_verdict};
use super::forwarding::{Passed, get_writes, put_writes};
use super::types::{LogId, Types, Vote, offset, to_entry, to_record};
use crate::encoding::{get_bool, get_bytes, get_hash, get_text, invalid, put_bytes, put_length};
use crate::pieces::{File, Piece, get_files, get_piece, put_files, put_piece};
use crate::reading::ReadError;

const VERSION: u8 = 1;

/// A question to another member.
#[derive(Debug)]
pub(super) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Transfer(TransferLeaderRequest<Types>),
    Snapshot { vote: Vote, through: LogId, files: Vec<File> },
    Piece { vote: Vote, through: LogId, piece: Piece },
    Install { vote: Vote, through: LogId },
    Propose { id: u64, writes: Vec<Passed> },
    Confirm { lease: bool },
    Compare { since: Offset, verdict: Verdict },
    Chain { at: Offset },
    Links { below: Offset },
    Records { first: Offset, last: Offset },
    Base { at: Offset },
    BasePiece { at: Offset, file: u32, from: u64 },
    Lead,
}

impl Request {
    /// Entries become records; `group` is sealed into them.
    pub(super) fn encode(self, group: GroupId) -> io::Result<Bytes> {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(VERSION);
        match self {
            Self::Append(append) => {
                out.put_u8(1);
                put_vote(&append.vote, &mut out);
                put_some_log_id(append.prev_log_id, &mut out);
                put_some_log_id(append.leader_commit, &mut out);
                put_length(append.entries.len(), &mut out);
                let mut scratch = Vec::new();
                for entry in append.entries {
                    let index = entry.log_id.index;
                    scratch.clear();
                    encode_stored(group, &to_record(entry)?, &mut scratch);
                    out.put_u64(index);
                    put_bytes(&scratch, &mut out);
                }
            }
            Self::Vote(vote) => put_vote_request(2, &vote, &mut out),
            Self::PreVote(vote) => put_vote_request(3, &vote, &mut out),
            Self::Transfer(transfer) => {
                out.put_u8(4);
                put_vote(transfer.from_leader(), &mut out);
                out.put_u64(*transfer.to_node_id());
                put_some_log_id(transfer.last_log_id().copied(), &mut out);
            }
            Self::Snapshot { vote, through, files } => {
                put_snapshot(5, &vote, through, &mut out);
                put_files(&files, &mut out);
            }
            Self::Piece { vote, through, piece } => {
                out.reserve(piece.bytes.len());
                put_snapshot(6, &vote, through, &mut out);
                put_piece(&piece, &mut out);
            }
            Self::Install { vote, through } => put_snapshot(7, &vote, through, &mut out),
            Self::Propose { id, writes } => {
                out.put_u8(8);
                out.put_u64(id);
                put_writes(&writes, &mut out);
            }
            Self::Confirm { lease } => {
                out.put_u8(9);
                out.put_u8(u8::from(lease));
            }
            Self::Links { below } => put_offsets(10, &[below], &mut out),
            Self::Records { first, last } => put_offsets(11, &[first, last], &mut out),
            Self::Base { at } => put_offsets(12, &[at], &mut out),
            Self::BasePiece { at, file, from } => {
                put_offsets(13, &[at], &mut out);
                out.put_u32(file);
                out.put_u64(from);
            }
            Self::Compare { since, verdict } => {
                out.put_u8(20);
                out.put_u64(since.get());
                put_verdict(&verdict, &mut out);
            }
            Self::Chain { at } => {
                out.put_u8(21);
                out.put_u64(at.get());
            }
            Self::Lead => out.put_u8(30),
        }
        Ok(out.freeze())
    }

    pub(super) fn decode(group: GroupId, bytes: Bytes) -> io::Result<Self> {
        whole(bytes, |input| {
            let version = input.try_get_u8()?;
            if version != VERSION {
                return Err(invalid(format!("messages of version {version} are unknown: upgrade this node")));
            }
            Ok(match input.try_get_u8()? {
                1 => Self::Append(get_append(group, input)?),
                2 => Self::Vote(get_vote_request(input)?),
                3 => Self::PreVote(get_vote_request(input)?),
                4 => Self::Transfer(TransferLeaderRequest::new(
                    get_vote(input)?,
                    input.try_get_u64()?,
                    get_some_log_id(input)?,
                )),
                5 => Self::Snapshot {
                    vote: get_vote(input)?,
                    through: get_log_id(input)?,
                    files: get_files(input)?,
                },
                6 => Self::Piece {
                    vote: get_vote(input)?,
                    through: get_log_id(input)?,
                    piece: get_piece(input)?,
                },
                7 => Self::Install { vote: get_vote(input)?, through: get_log_id(input)? },
                8 => Self::Propose { id: input.try_get_u64()?, writes: get_writes(input)? },
                9 => Self::Confirm { lease: get_bool(input)? },
                10 => Self::Links { below: get_offset(input)? },
                11 => Self::Records { first: get_offset(input)?, last: get_offset(input)? },
                12 => Self::Base { at: get_offset(input)? },
                13 => Self::BasePiece {
                    at: get_offset(input)?,
                    file: input.try_get_u32()?,
                    from: input.try_get_u64()?,
                },
                20 => Self::Compare { since: Offset(input.try_get_u64()?), verdict: get_verdict(input)? },
                21 => Self::Chain { at: Offset(input.try_get_u64()?) },
                30 => Self::Lead,
                kind => return Err(invalid(format!("there is no request of kind {kind}"))),
            })
        })
    }
}

pub(super) fn encode_append_answer(answer: &AppendEntriesResponse<Types>) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    match answer {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(through) => {
            out.put_u8(1);
            put_some_log_id(*through, &mut out);
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(vote, &mut out);
        }
    }
    out.freeze()
}

pub(super) fn decode_append_answer(bytes: Bytes) -> io::Result<AppendEntriesResponse<Types>> {
    whole(bytes, |input| {
        Ok(match input.try_get_u8()? {
            0 => AppendEntriesResponse::Success,
            1 => AppendEntriesResponse::PartialSuccess(get_some_log_id(input)?),
            2 => AppendEntriesResponse::Conflict,
            3 => AppendEntriesResponse::HigherVote(get_vote(input)?),
            kind => return Err(invalid(format!("there is no answer of kind {kind}"))),
        })
    })
}

pub(super) fn encode_vote_answer(answer: &VoteResponse<Types>) -> Bytes {
    let mut out = BytesMut::with_capacity(40);
    put_vote(&answer.vote, &mut out);
    out.put_u8(u8::from(answer.vote_granted));
    put_some_log_id(answer.last_log_id, &mut out);
    out.freeze()
}

pub(super) fn decode_vote_answer(bytes: Bytes) -> io::Result<VoteResponse<Types>> {
    whole(bytes, |input| {
        let (vote, granted) = (get_vote(input)?, get_bool(input)?);
        Ok(VoteResponse::new(vote, get_some_log_id(input)?, granted))
    })
}

pub(super) fn encode_transfer_answer(answer: &TransferLeaderResponse<Types>) -> Bytes {
    let mut out = BytesMut::with_capacity(48);
    match answer {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(expected, &mut out);
            put_vote(actual, &mut out);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_some_log_id(*expected, &mut out);
            put_some_log_id(*actual, &mut out);
        }
    }
    out.freeze()
}

pub(super) fn decode_transfer_answer(bytes: Bytes) -> io::Result<TransferLeaderResponse<Types>> {
    whole(bytes, |input| {
        Ok(match input.try_get_u8()? {
            0 => Ok(()),
            1 => {
                Err(TransferLeaderError::VoteChanged { expected: get_vote(input)?, actual: get_vote(input)? })
            }
            2 => Err(TransferLeaderError::LogNotFlushed {
                expected: get_some_log_id(input)?,
                actual: get_some_log_id(input)?,
            }),
            kind => return Err(invalid(format!("there is no answer of kind {kind}"))),
        })
    })
}

/// The answer to all of a snapshot: the vote, and to the first how much is held of each file.
pub(super) fn encode_snapshot_answer(vote: &Vote, held: &[u64]) -> Bytes {
    let mut out = BytesMut::with_capacity(24 + 8 * held.len());
    put_vote(vote, &mut out);
    put_length(held.len(), &mut out);
    held.iter().for_each(|bytes| out.put_u64(*bytes));
    out.freeze()
}

pub(super) fn decode_snapshot_answer(bytes: Bytes) -> io::Result<(Vote, Vec<u64>)> {
    whole(bytes, |input| {
        let vote = get_vote(input)?;
        let held = (0..input.try_get_u32()?).map(|_| Ok(input.try_get_u64()?)).collect::<io::Result<_>>()?;
        Ok((vote, held))
    })
}

fn get_append(group: GroupId, input: &mut Bytes) -> io::Result<AppendEntriesRequest<Types>> {
    let vote = get_vote(input)?;
    let (prev_log_id, leader_commit) = (get_some_log_id(input)?, get_some_log_id(input)?);
    let entry = |input: &mut Bytes| {
        let index = input.try_get_u64()?;
        let record = decode_stored(group, offset(index), &get_bytes(input)?).map_err(invalid)?;
        to_entry(record)
    };
    let entries = (0..input.try_get_u32()?).map(|_| entry(input)).collect::<io::Result<_>>()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn put_vote_request(kind: u8, request: &VoteRequest<Types>, out: &mut BytesMut) {
    out.put_u8(kind);
    put_vote(&request.vote, out);
    put_some_log_id(request.last_log_id, out);
    out.put_u8(u8::from(request.leadership_transfer));
}

fn get_vote_request(input: &mut Bytes) -> io::Result<VoteRequest<Types>> {
    let (vote, last_log_id) = (get_vote(input)?, get_some_log_id(input)?);
    Ok(VoteRequest { vote, last_log_id, leadership_transfer: get_bool(input)? })
}

fn put_snapshot(kind: u8, vote: &Vote, through: LogId, out: &mut BytesMut) {
    out.put_u8(kind);
    put_vote(vote, out);
    put_log_id(through, out);
}

fn put_vote(vote: &Vote, out: &mut BytesMut) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

fn get_vote(input: &mut Bytes) -> io::Result<Vote> {
    let leader_id = LeaderId { term: input.try_get_u64()?, voted_for: input.try_get_u64()? };
    Ok(Vote { leader_id, committed: get_bool(input)? })
}

fn put_log_id(log_id: LogId, out: &mut BytesMut) {
    out.put_u64(log_id.leader_id.term);
    out.put_u64(log_id.index);
}

fn get_log_id(input: &mut Bytes) -> io::Result<LogId> {
    Ok(LogId::new_term_index(input.try_get_u64()?, input.try_get_u64()?))
}

fn put_some_log_id(log_id: Option<LogId>, out: &mut BytesMut) {
    out.put_u8(u8::from(log_id.is_some()));
    if let Some(log_id) = log_id {
        put_log_id(log_id, out);
    }
}

fn get_some_log_id(input: &mut Bytes) -> io::Result<Option<LogId>> {
    if get_bool(input)? { get_log_id(input).map(Some) } else { Ok(None) }
}

/// What stands before the records that another member is missing, and where this one's log begins.
pub(super) fn encode_links(kept: Offset, links: &Links) -> Bytes {
    let mut out = BytesMut::with_capacity(20 + 36 * links.steps.len());
    out.put_u64(kept.0);
    out.put_u64(links.first.0);
    put_length(links.steps.len(), &mut out);
    for (before, bytes) in &links.steps {
        out.put_slice(&before.0);
        put_length(*bytes, &mut out);
    }
    out.freeze()
}

pub(super) fn decode_links(bytes: Bytes) -> io::Result<(Offset, Links)> {
    whole(bytes, |input| {
        let (kept, first) = (get_offset(input)?, get_offset(input)?);
        let step = |input: &mut Bytes| Ok((get_hash(input)?, input.try_get_u32()? as usize));
        let steps = (0..input.try_get_u32()?).map(|_| step(input)).collect::<io::Result<_>>()?;
        Ok((kept, Links { first, steps }))
    })
}

/// Records that follow each other.
pub(super) fn encode_records(group: GroupId, records: &[Record]) -> Bytes {
    let bytes: usize = records.iter().map(|record| record.weight() + 64).sum();
    let mut out = BytesMut::with_capacity(bytes);
    put_length(records.len(), &mut out);
    let mut scratch = Vec::new();
    for record in records {
        scratch.clear();
        encode_stored(group, record, &mut scratch);
        put_bytes(&scratch, &mut out);
    }
    out.freeze()
}

pub(super) fn decode_records(group: GroupId, first: Offset, bytes: Bytes) -> io::Result<Vec<Record>> {
    whole(bytes, |input| {
        let mut records = Vec::new();
        for at in (first.0..).take(input.try_get_u32()? as usize) {
            records.push(decode_stored(group, Offset(at), &get_bytes(input)?).map_err(invalid)?);
        }
        Ok(records)
    })
}

pub(super) fn encode_files(files: Option<&[File]>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(u8::from(files.is_some()));
    put_files(files.unwrap_or_default(), &mut out);
    out.freeze()
}

pub(super) fn decode_files(bytes: Bytes) -> io::Result<Option<Vec<File>>> {
    whole(bytes, |input| {
        let is_there = get_bool(input)?;
        Ok(Some(get_files(input)?).filter(|_| is_there))
    })
}

pub(super) fn encode_piece(piece: &Piece) -> Bytes {
    let mut out = BytesMut::with_capacity(piece.bytes.len() + 64);
    put_piece(piece, &mut out);
    out.freeze()
}

pub(super) fn decode_piece(bytes: Bytes) -> io::Result<Piece> {
    whole(bytes, get_piece)
}

fn put_offsets(kind: u8, offsets: &[Offset], out: &mut BytesMut) {
    out.put_u8(kind);
    offsets.iter().for_each(|offset| out.put_u64(offset.0));
}

fn get_offset(input: &mut Bytes) -> io::Result<Offset> {
    Ok(Offset(input.try_get_u64()?))
}

/// What the leader says of a read: everything up to the offset has to be in the view that answers it.
pub(super) fn encode_confirmation(confirmed: &Result<Offset, ReadError>) -> Bytes {
    encode_confirmed(&confirmed.as_ref().map(|offset| offset.get()))
}

/// What the leader says of itself: the term in which it leads.
pub(super) fn encode_term(confirmed: &Result<u64, ReadError>) -> Bytes {
    encode_confirmed(&confirmed.as_ref().copied())
}

fn encode_confirmed(confirmed: &Result<u64, &ReadError>) -> Bytes {
    let mut out = BytesMut::with_capacity(16);
    match confirmed {
        Ok(number) => {
            out.put_u8(0);
            out.put_u64(*number);
        }
        Err(ReadError::NoLeader | ReadError::Elsewhere { .. }) => out.put_u8(1),
        Err(error) => {
            out.put_u8(2);
            put_bytes(error.to_string().as_bytes(), &mut out);
        }
    }
    out.freeze()
}

pub(super) fn decode_confirmation(bytes: Bytes) -> io::Result<Result<Offset, ReadError>> {
    decode_term(bytes).map(|confirmed| confirmed.map(Offset))
}

pub(super) fn decode_term(bytes: Bytes) -> io::Result<Result<u64, ReadError>> {
    whole(bytes, |input| {
        Ok(match input.try_get_u8()? {
            0 => Ok(input.try_get_u64()?),
            1 => Err(ReadError::NoLeader),
            2 => {
                let reason = get_text(input)?;
                Err(ReadError::Unconfirmed { reason })
            }
            other => return Err(invalid(format!("there is no confirmation of kind {other}"))),
        })
    })
}

/// Takes all of a message apart.
pub(super) fn whole<T>(mut bytes: Bytes, parse: impl FnOnce(&mut Bytes) -> io::Result<T>) -> io::Result<T> {
    let parsed = parse(&mut bytes)?;
    if bytes.is_empty() { Ok(parsed) } else { Err(invalid(format!("{} bytes are left over", bytes.len()))) }
}
