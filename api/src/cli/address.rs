//! `CLASS/PARTITION/ID`: how objects and partitions are named on the command line.

use std::str::FromStr;

/// The grammar, for help texts.
pub(crate) const HELP: &str = "\
Addresses:
  CLASS/PARTITION/ID   an object, in the partition given
  CLASS/ID             an object, in the partition of its id: the first 8 bytes of BLAKE3 of the
                       lower-cased id, as a little-endian number, modulo the number of partitions
  CLASS/PARTITION      one partition
  CLASS                all partitions of a collection";

/// An object as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectAddress {
    /// The collection.
    pub(crate) class: String,
    /// None: the partition follows from the id.
    pub(crate) partition: Option<u16>,
    /// The object's id, as it was typed.
    pub(crate) id: String,
}

/// A collection, or one partition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassAddress {
    /// The collection.
    pub(crate) class: String,
    /// None: all of them.
    pub(crate) partition: Option<u16>,
}

/// Exactly one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionAddress {
    /// The collection.
    pub(crate) class: String,
    /// The partition.
    pub(crate) partition: u16,
}

/// An address that does not follow the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// The wrong number of parts, or an empty one.
    #[error("expected {expected}, for example {example}")]
    Shape {
        /// The grammar.
        expected: &'static str,
        /// What such an address looks like.
        example: &'static str,
    },
    /// The partition is not a number of the right size.
    #[error("the partition must be a number from 0 to 65535, not {found:?}")]
    Partition {
        /// What stands in its place.
        found: String,
    },
}

const OBJECT: AddressError =
    AddressError::Shape { expected: "CLASS/PARTITION/ID or CLASS/ID", example: "demo/0/alice" };
const CLASS: AddressError = AddressError::Shape { expected: "CLASS or CLASS/PARTITION", example: "demo/0" };
const PARTITION: AddressError = AddressError::Shape { expected: "CLASS/PARTITION", example: "demo/0" };

impl FromStr for ObjectAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(OBJECT)?[..] {
            [class, id] => Ok(Self { class: class.to_owned(), partition: None, id: id.to_owned() }),
            [class, number, id] => {
                Ok(Self { class: class.to_owned(), partition: Some(partition(number)?), id: id.to_owned() })
            }
            _ => Err(OBJECT),
        }
    }
}

impl FromStr for ClassAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(CLASS)?[..] {
            [class] => Ok(Self { class: class.to_owned(), partition: None }),
            [class, number] => Ok(Self { class: class.to_owned(), partition: Some(partition(number)?) }),
            _ => Err(CLASS),
        }
    }
}

impl FromStr for PartitionAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(PARTITION)?[..] {
            [class, number] => Ok(Self { class: class.to_owned(), partition: partition(number)? }),
            _ => Err(PARTITION),
        }
    }
}

/// The parts between slashes; none of them is empty.
fn parts(text: &str) -> Option<Vec<&str>> {
    let parts: Vec<_> = text.split('/').collect();
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

fn partition(text: &str) -> Result<u16, AddressError> {
    text.parse().map_err(|_| AddressError::Partition { found: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Result<(String, Option<u16>, String), String> {
        let address: ObjectAddress = text.parse().map_err(|error: AddressError| error.to_string())?;
        Ok((address.class, address.partition, address.id))
    }

    #[test]
    fn objects_are_named_with_or_without_their_partition() {
        assert_eq!(object("demo/3/alice"), Ok(("demo".into(), Some(3), "alice".into())));
        assert_eq!(object("demo/alice"), Ok(("demo".into(), None, "alice".into())));
        assert_eq!(object("demo/42"), Ok(("demo".into(), None, "42".into())), "two parts: 42 is the id");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_was_expected() {
        let expected = Err("expected CLASS/PARTITION/ID or CLASS/ID, for example demo/0/alice".to_owned());
        for text in ["demo", "", "demo/", "/alice", "demo//alice", "demo/1/a/b"] {
            assert_eq!(object(text), expected, "{text:?}");
        }
        for number in ["-1", "65536", "x", "1e3"] {
            let message = format!("the partition must be a number from 0 to 65535, not {number:?}");
            assert_eq!(object(&format!("demo/{number}/alice")), Err(message));
        }
    }

    #[test]
    fn partitions_are_named_below_their_class() {
        let class =
            |text: &str| text.parse::<ClassAddress>().map(|address| (address.class, address.partition));
        assert_eq!(class("demo"), Ok(("demo".into(), None)));
        assert_eq!(class("demo/7"), Ok(("demo".into(), Some(7))));
        assert_eq!(class("demo/7/x"), Err(CLASS));
        assert_eq!("demo".parse::<PartitionAddress>(), Err(PARTITION));
    }
}
