//! The types with which openraft is filled in, and how its entries are records.
//!
//! An entry at index `i` is the record at offset `i + 1`: openraft counts from 0, offsets from 1. So the membership with
//! which a group begins is a record like any other, covered by the chain and by snapshots. Blank entries and
//! memberships are made inside of openraft on one node and reach the others without a stamp; their records have
//! stamp 0 and origin 0 everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;

use crate::encoding::invalid;
use bytes::Bytes;
use odgm_log::body::Membership as MembershipBody;
use odgm_log::{Body, BodyType, Cause, Kind, NodeId, Offset, Payload, Record, Term, Timestamp};
use odgm_projections::{Applied, Header, Members};
use openraft::impls::leader_id_std::LeaderId;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

/// How openraft is filled in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Command;
    type R = Applied;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Command, u64, Peer>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, Peer>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;

/// A member. Where it is reached is the transport's business, so there is nothing to say of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer;

/// What a client's entry carries: a record before it has a place. Encoded and stamped once, by the proposer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) stamp: Timestamp,
    pub(crate) origin: NodeId,
    pub(crate) kind: Kind,
    pub(crate) encoded: Bytes,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes from node {}", self.kind.body_type.name(), self.encoded.len(), self.origin)
    }
}

/// Where the entry of an index is in the log.
pub(crate) const fn offset(index: u64) -> Offset {
    Offset(index + 1)
}

/// Which entry is at an offset; none at 0, before the first.
pub(crate) const fn index(offset: Offset) -> Option<u64> {
    offset.0.checked_sub(1)
}

/// The id of the entry at an offset; none at 0.
pub(crate) fn log_id(term: Term, offset: Offset) -> Option<LogId> {
    index(offset).map(|index| LogId::new_term_index(term.0, index))
}

/// The entry as it stands in the log.
pub(crate) fn to_record(entry: Entry) -> io::Result<Record> {
    let (term, offset) = (Term(entry.log_id.leader_id.term), offset(entry.log_id.index));
    let body = match entry.payload {
        EntryPayload::Normal(Command { stamp, origin, kind, encoded: payload }) => {
            return Ok(Record { offset, term, stamp, origin, kind, payload });
        }
        EntryPayload::Blank => Body::Blank,
        EntryPayload::Membership(membership) => Body::Membership(to_body(&membership)),
    };
    let (kind, payload) = Payload { cause: Cause::default(), body }.encode().map_err(io::Error::other)?;
    Ok(Record { offset, term, stamp: Timestamp(0), origin: NodeId(0), kind, payload })
}

/// The record as openraft sees it.
pub(crate) fn to_entry(record: Record) -> io::Result<Entry> {
    let log_id = log_id(record.term, record.offset)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no record is at offset 0"))?;
    let payload = match record.kind.body_type {
        BodyType::Blank => EntryPayload::Blank,
        BodyType::Membership => match record.decode().map_err(invalid)?.body {
            Body::Membership(body) => EntryPayload::Membership(to_membership(&body)?),
            other => return Err(invalid(format!("a membership was expected, found {other:?}"))),
        },
        _ => EntryPayload::Normal(Command {
            stamp: record.stamp,
            origin: record.origin,
            kind: record.kind,
            encoded: record.payload,
        }),
    };
    Ok(Entry { log_id, payload })
}

fn to_body(membership: &Membership) -> MembershipBody {
    let voters = membership.get_joint_config().iter();
    let voters = voters.map(|set| set.iter().copied().map(NodeId).collect()).collect();
    let nodes = membership.nodes().map(|(node, _)| NodeId(*node)).collect();
    MembershipBody { voters, nodes }
}

fn to_membership(body: &MembershipBody) -> io::Result<Membership> {
    let voters = body.voters.iter();
    let voters: Vec<BTreeSet<u64>> = voters.map(|set| set.iter().map(|node| node.0).collect()).collect();
    let nodes = body.nodes.iter();
    let nodes: BTreeMap<u64, Peer> = nodes.map(|node| (node.0, Peer)).collect();
    if voters.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, nodes).map_err(invalid)
}

/// What a view says about the last entry in it and about the members.
pub(crate) fn applied(
    header: &Header,
    members: Option<&Members>,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let members = match members {
        Some(Members { offset, term, membership }) => {
            StoredMembership::new(log_id(*term, *offset), to_membership(membership)?)
        }
        None => StoredMembership::default(),
    };
    Ok((log_id(header.term, header.applied), members))
}
