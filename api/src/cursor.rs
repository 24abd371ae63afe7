//! Opaque cursors: what a client hands back to go on where it was.
//!
//! A cursor carries a checksum over its place and over what it belongs to, so that garbage, or the cursor of another
//! list, is refused instead of being taken for a place.

use odgm_log::{GroupId, Offset};
use tonic::Status;

const CHECKSUM: usize = 8;

/// What a list cursor belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<'a> {
    /// The partition.
    pub(crate) group: GroupId,
    /// The object whose entries are listed; none for a list of objects.
    pub(crate) object: Option<&'a str>,
    /// The prefix that is listed.
    pub(crate) prefix: &'a str,
}

impl List<'_> {
    /// The cursor after the item of that name.
    pub(crate) fn encode(&self, last: &str) -> Vec<u8> {
        let mut cursor = self.checksum(last.as_bytes()).to_vec();
        cursor.extend_from_slice(last.as_bytes());
        cursor
    }

    /// The name after which the page begins.
    pub(crate) fn decode(&self, cursor: &[u8]) -> Result<String, Status> {
        let parts = cursor.split_at_checked(CHECKSUM);
        let last = parts.filter(|(checksum, last)| *checksum == self.checksum(last)).map(|(_, last)| last);
        last.and_then(|last| String::from_utf8(last.to_vec()).ok()).ok_or_else(|| {
            Status::invalid_argument(
                "invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix",
            )
        })
    }

    fn checksum(&self, last: &[u8]) -> [u8; CHECKSUM] {
        let mut hasher = blake3::Hasher::new_derive_key("odgm 2025 list cursor");
        hasher.update(&self.group.0.to_be_bytes());
        // Ids have no NUL, so it ends one field and begins the next.
        hasher.update(self.object.map_or(b"objects\0", |_| b"entries\0"));
        hasher.update(self.object.unwrap_or_default().as_bytes()).update(b"\0");
        hasher.update(self.prefix.as_bytes()).update(b"\0");
        hasher.update(last);
        shorten(&hasher)
    }
}

/// A place in the event stream of a partition: everything up to `offset` has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The partition's group. Groups are never reused, so this tells partitions of all times apart.
    pub(crate) group: GroupId,
    /// The last offset that has been seen.
    pub(crate) offset: Offset,
}

impl Place {
    const BYTES: usize = 12;

    /// The cursor of this place.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut place = Vec::with_capacity(CHECKSUM + Self::BYTES);
        place.extend_from_slice(&[0; CHECKSUM]);
        place.extend_from_slice(&self.group.0.to_be_bytes());
        place.extend_from_slice(&self.offset.0.to_be_bytes());
        let checksum = Self::checksum(&place[CHECKSUM..]);
        place[..CHECKSUM].copy_from_slice(&checksum);
        place
    }

    /// The place of a cursor.
    pub(crate) fn decode(cursor: &[u8]) -> Result<Self, Status> {
        let parts = cursor.split_at_checked(CHECKSUM);
        let place =
            parts.filter(|(checksum, place)| *checksum == Self::checksum(place)).map(|(_, place)| place);
        place.and_then(Self::read).ok_or_else(|| {
            Status::invalid_argument("invalid cursor: expected a cursor as received in a SubscribeResponse")
        })
    }

    fn read(place: &[u8]) -> Option<Self> {
        let (group, offset) = place.split_first_chunk()?;
        let offset = offset.try_into().ok()?;
        Some(Self { group: GroupId(u32::from_be_bytes(*group)), offset: Offset(u64::from_be_bytes(offset)) })
    }

    fn checksum(place: &[u8]) -> [u8; CHECKSUM] {
        shorten(blake3::Hasher::new_derive_key("odgm 2025 stream cursor").update(place))
    }
}

fn shorten(hasher: &blake3::Hasher) -> [u8; CHECKSUM] {
    let mut short = [0; CHECKSUM];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM]);
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: List<'static> = List { group: GroupId(3), object: Some("a"), prefix: "x" };

    #[test]
    fn a_cursor_belongs_to_one_list() {
        let cursor = LIST.encode("xyz");
        assert_eq!(LIST.decode(&cursor).expect("its own"), "xyz");
        let others = [
            List { group: GroupId(4), ..LIST },
            List { object: Some("b"), ..LIST },
            List { object: None, ..LIST },
            List { prefix: "xy", ..LIST },
        ];
        for other in others {
            assert!(other.decode(&cursor).is_err(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_cursor(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(LIST.decode(&bytes).is_err());
            prop_assert!(Place::decode(&bytes).is_err());
        }

        #[test]
        fn a_place_survives_the_way_there_and_back_but_no_flipped_bit(group: u32, offset: u64, bit in 0_usize..160) {
            let place = Place { group: GroupId(group), offset: Offset(offset) };
            let mut cursor = place.encode();
            prop_assert_eq!(Place::decode(&cursor).expect("whole"), place);
            cursor[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Place::decode(&cursor).is_err());
        }
    }
}
