//! What a node says of itself, as bytes.
//!
//! ```text
//! question                       answer
//! version      1  2              version     1  2
//! incarnation  8                 clock       8  microseconds since 1970
//! process      8                 flags       1  1 low on space, 2 has a cluster's catalogue
//!                                founders    4 and 8 each
//!                                refusal     4 and its bytes: why the asking node is not believed; empty if it is
//!                                semantics   4  the newest rules of apply that it knows; from version 2 on
//! ```
//!
//! Numbers are big-endian. A newer version may say more, at the end.

use std::collections::BTreeSet;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use odgm_log::{NodeId, Timestamp};

const VERSION: u8 = 2;
const LOW_ON_SPACE: u8 = 1;
const FOUNDED: u8 = 2;

/// The rules of builds that do not say which they know.
const FIRST_SEMANTICS: u32 = 1;

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) clock: Timestamp,
    pub(super) is_low_on_space: bool,
    /// Whether it has the catalogue of a cluster.
    pub(super) is_founded: bool,
    /// Who founds the cluster, as it was told.
    pub(super) founders: BTreeSet<NodeId>,
    /// Why it does not believe who asks.
    pub(super) refusal: Option<String>,
    /// The newest rules of apply that it knows.
    pub(super) semantics: u32,
}

pub(super) fn encode_question(incarnation: u64, process: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    out.put_u8(VERSION);
    out.put_u64(incarnation);
    out.put_u64(process);
    out.freeze()
}

/// A newer version may say more.
pub(super) fn decode_question(mut bytes: Bytes) -> io::Result<(u64, u64)> {
    bytes.try_get_u8()?;
    Ok((bytes.try_get_u64()?, bytes.try_get_u64()?))
}

pub(super) fn encode(vitals: &Vitals) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    out.put_u8(VERSION);
    out.put_u64(vitals.clock.get());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(flag(vitals.is_low_on_space, LOW_ON_SPACE) | flag(vitals.is_founded, FOUNDED));
    // A cluster is founded by a handful, and a reason is a sentence.
    #[allow(clippy::cast_possible_truncation)]
    let length = |length: usize| length as u32;
    out.put_u32(length(vitals.founders.len()));
    vitals.founders.iter().for_each(|node| out.put_u64(node.0));
    let refusal = vitals.refusal.as_deref().unwrap_or_default();
    out.put_u32(length(refusal.len()));
    out.put_slice(refusal.as_bytes());
    out.put_u32(vitals.semantics);
    out.freeze()
}

/// A newer version may say more.
pub(super) fn decode(mut bytes: Bytes) -> io::Result<Vitals> {
    let version = bytes.try_get_u8()?;
    let clock = Timestamp(bytes.try_get_u64()?);
    let flags = bytes.try_get_u8()?;
    let founders = bytes.try_get_u32()?;
    let founders = (0..founders).map(|_| Ok(NodeId(bytes.try_get_u64()?))).collect::<io::Result<_>>()?;
    let length = bytes.try_get_u32()? as usize;
    let refusal = bytes.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
    let refusal = String::from_utf8_lossy(refusal).into_owned();
    bytes.advance(length);
    let semantics = if version < 2 { FIRST_SEMANTICS } else { bytes.try_get_u32()? };
    Ok(Vitals {
        clock,
        is_low_on_space: flags & LOW_ON_SPACE != 0,
        is_founded: flags & FOUNDED != 0,
        founders,
        refusal: (!refusal.is_empty()).then_some(refusal),
        semantics,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn vitals() -> Vitals {
        Vitals {
            clock: Timestamp(0x0102),
            is_low_on_space: true,
            is_founded: false,
            founders: [NodeId(1), NodeId(2)].into(),
            refusal: Some("no".into()),
            semantics: 2,
        }
    }

    #[test]
    fn vitals_arrive_as_they_were_told() {
        let bytes = encode(&vitals());
        let golden =
            b"\x02\0\0\0\0\0\0\x01\x02\x01\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x02no\0\0\0\x02";
        assert_eq!(bytes.as_ref(), golden);
        assert_eq!(decode(bytes.clone()).expect("whole"), vitals());
        for end in 0..bytes.len() {
            assert!(decode(bytes.slice(..end)).is_err(), "cut at {end}");
        }
        let mut first = bytes.slice(..bytes.len() - 4).to_vec();
        first[0] = 1;
        let first = decode(first.into()).expect("a build before this said no more");
        assert_eq!(first, Vitals { semantics: FIRST_SEMANTICS, ..vitals() });
        let question = encode_question(5, 6);
        assert_eq!(decode_question(question.clone()).expect("whole"), (5, 6));
        assert!(decode_question(question.slice(..16)).is_err());
    }
}
