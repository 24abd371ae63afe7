//! What a group keeps beside its records, as notes of the log store: its vote, and how far Raft has purged.
//!
//! | note | bytes |
//! |---|---|
//! | `raft.vote` | term (u64), voted for (u64), 1 if the leader is established or 0 |
//! | `raft.purged` | term (u64), index (u64) |
//! | `raft.installing` | offset (u64) of the snapshot that is being installed |
//! | `raft.first-vote` | term (u64) in which the member voted where the log began, before it held anything |
//!
//! Numbers are big-endian.

use std::io;

use odgm_log::store::LogStore;
use odgm_log::{GroupId, NodeId, Offset, Term};
use openraft::impls::leader_id_std::LeaderId;

use super::types::{LogId, Vote, log_id};
use crate::encoding::invalid;

pub(crate) const VOTE: &str = "raft.vote";
pub(super) const PURGED: &str = "raft.purged";
pub(super) const INSTALLING: &str = "raft.installing";
pub(super) const FIRST_VOTE: &str = "raft.first-vote";

/// Notes of a log that was restored from a backup: the snapshot at `through` has what is below, and the vote is of a term
/// of which nobody else has a leader.
pub(crate) fn restored(
    store: &LogStore,
    group: GroupId,
    node: NodeId,
    term: Term,
    through: Offset,
) -> io::Result<()> {
    let purged = log_id(term, through).ok_or_else(|| invalid("a log that was restored has records"))?;
    let vote = Vote { leader_id: LeaderId { term: term.0 + 1, voted_for: node.0 }, committed: false };
    store.put_meta(group, PURGED, &encode_purged(purged)).map_err(io::Error::other)?;
    store.put_meta(group, VOTE, &encode_vote(&vote)).map_err(io::Error::other)
}

pub(super) fn encode_vote(vote: &Vote) -> [u8; 17] {
    let mut bytes = [0; 17];
    bytes[..8].copy_from_slice(&vote.leader_id.term.to_be_bytes());
    bytes[8..16].copy_from_slice(&vote.leader_id.voted_for.to_be_bytes());
    bytes[16] = u8::from(vote.committed);
    bytes
}

pub(super) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    match (bytes.len(), numbers(bytes), bytes.last()) {
        (17, Some([term, voted_for]), Some(committed @ (0 | 1))) => {
            Ok(Vote { leader_id: LeaderId { term, voted_for }, committed: *committed == 1 })
        }
        _ => Err(damaged(VOTE, bytes)),
    }
}

pub(super) fn encode_purged(purged: LogId) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&purged.leader_id.term.to_be_bytes());
    bytes[8..].copy_from_slice(&purged.index.to_be_bytes());
    bytes
}

pub(super) fn decode_purged(bytes: &[u8]) -> io::Result<LogId> {
    match (bytes.len(), numbers(bytes)) {
        (16, Some([term, index])) => Ok(LogId::new_term_index(term, index)),
        _ => Err(damaged(PURGED, bytes)),
    }
}

pub(super) fn encode_installing(snapshot: Offset) -> [u8; 8] {
    snapshot.get().to_be_bytes()
}

pub(super) fn decode_installing(bytes: &[u8]) -> io::Result<Offset> {
    match (bytes.len(), numbers(bytes)) {
        (8, Some([offset])) => Ok(Offset(offset)),
        _ => Err(damaged(INSTALLING, bytes)),
    }
}

/// The first numbers of a note.
fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks(8)) {
        *number = u64::from_be_bytes(bytes.try_into().ok()?);
    }
    (bytes.len() >= 8 * N).then_some(numbers)
}

fn damaged(note: &str, bytes: &[u8]) -> io::Error {
    invalid(format!("the note {note} is not one of this format: {} bytes", bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back_and_damage_is_seen() {
        let vote = Vote { leader_id: LeaderId { term: 0x0102, voted_for: 7 }, committed: true };
        let bytes = encode_vote(&vote);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7, 1]);
        assert_eq!(decode_vote(&bytes).ok(), Some(vote));
        let purged = LogId::new_term_index(3, 0x0400);
        let bytes = encode_purged(purged);
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 4, 0]);
        assert_eq!(decode_purged(&bytes).ok(), Some(purged));
        assert_eq!(decode_installing(&encode_installing(Offset(9))).ok(), Some(Offset(9)));
        for damaged in [&b""[..], &[0; 7], &[0; 15], &[2; 17], &[0; 18]] {
            assert!(decode_vote(damaged).is_err(), "{damaged:?}");
            assert!(decode_purged(damaged).is_err(), "{damaged:?}");
            assert!(decode_installing(damaged).is_err(), "{damaged:?}");
        }
    }
}
