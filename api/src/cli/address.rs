//! `CLASS/PARTITION/ID`: how objects and partitions are named on the command line.

use std::{fmt, str::FromStr};

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

/// What a function is called on: a class, one of its partitions, or an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CalleeAddress {
    /// The collection.
    pub(crate) class: String,
    /// The partition; the first one unless it was named.
    pub(crate) partition: u16,
    /// None: the function is called by itself.
    pub(crate) object: Option<String>,
}

/// A function, and what it is called on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FunctionAddress {
    /// What it is called on.
    pub(crate) callee: CalleeAddress,
    /// The function.
    pub(crate) function: String,
}

/// A record of a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordAddress {
    /// The partition.
    pub(crate) partition: PartitionAddress,
    /// The record's offset.
    pub(crate) offset: u64,
}

/// A dead letter: the record that caused it, and the place among what that caused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LetterAddress {
    /// The record.
    pub(crate) record: RecordAddress,
    /// The place, from 0.
    pub(crate) index: u32,
}

/// One dead letter, or all of a collection or partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LettersAddress {
    /// One.
    One(LetterAddress),
    /// All.
    All(ClassAddress),
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
    /// An offset or a place is not a number.
    #[error("the {what} must be a number, not {found:?}")]
    Number {
        /// Which of them.
        what: &'static str,
        /// What stands in its place.
        found: String,
    },
}

const OBJECT: AddressError =
    AddressError::Shape { expected: "CLASS/PARTITION/ID or CLASS/ID", example: "demo/0/alice" };
const CLASS: AddressError = AddressError::Shape { expected: "CLASS or CLASS/PARTITION", example: "demo/0" };
const PARTITION: AddressError = AddressError::Shape { expected: "CLASS/PARTITION", example: "demo/0" };
const CALLEE: AddressError = AddressError::Shape {
    expected: "CLASS, CLASS/PARTITION or CLASS/PARTITION/OBJECT",
    example: "demo/0/alice",
};
const FUNCTION: AddressError = AddressError::Shape {
    expected: "CLASS/PARTITION/FUNCTION or CLASS/PARTITION/OBJECT/FUNCTION",
    example: "demo/0/alice/count",
};
const RECORD: AddressError = AddressError::Shape { expected: "CLASS/PARTITION/OFFSET", example: "demo/0/17" };
const LETTER: AddressError =
    AddressError::Shape { expected: "CLASS/PARTITION/OFFSET/INDEX", example: "demo/0/17/0" };
const LETTERS: AddressError = AddressError::Shape {
    expected: "CLASS/PARTITION/OFFSET/INDEX, or CLASS or CLASS/PARTITION with --all",
    example: "demo/0/17/0",
};

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

impl FromStr for CalleeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (class, number, object) = match parts(text).ok_or(CALLEE)?[..] {
            [class] => (class, None, None),
            [class, number] => (class, Some(number), None),
            [class, number, object] => (class, Some(number), Some(object.to_ascii_lowercase())),
            _ => return Err(CALLEE),
        };
        let partition = number.map_or(Ok(0), partition)?;
        Ok(Self { class: class.to_owned(), partition, object })
    }
}

impl FromStr for FunctionAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (class, number, object, function) = match parts(text).ok_or(FUNCTION)?[..] {
            [class, number, function] => (class, number, None, function),
            [class, number, object, function] => (class, number, Some(object.to_ascii_lowercase()), function),
            _ => return Err(FUNCTION),
        };
        let callee = CalleeAddress { class: class.to_owned(), partition: partition(number)?, object };
        Ok(Self { callee, function: function.to_owned() })
    }
}

impl FromStr for RecordAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(RECORD)?[..] {
            [class, number, offset] => Self::of(class, number, offset),
            _ => Err(RECORD),
        }
    }
}

impl RecordAddress {
    fn of(class: &str, number: &str, offset: &str) -> Result<Self, AddressError> {
        let partition = PartitionAddress { class: class.to_owned(), partition: partition(number)? };
        Ok(Self { partition, offset: self::number("offset", offset)? })
    }
}

impl FromStr for LetterAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(LETTER)?[..] {
            [class, number, offset, index] => {
                let record = RecordAddress::of(class, number, offset)?;
                Ok(Self { record, index: self::number("index", index)? })
            }
            _ => Err(LETTER),
        }
    }
}

impl FromStr for LettersAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match parts(text).ok_or(LETTERS)?.len() {
            1 | 2 => text.parse().map(Self::All),
            4 => text.parse().map(Self::One),
            _ => Err(LETTERS),
        }
    }
}

impl fmt::Display for CalleeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.class, self.partition)?;
        self.object.as_ref().map_or(Ok(()), |object| write!(f, "/{object}"))
    }
}

impl fmt::Display for ClassAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.class)?;
        self.partition.map_or(Ok(()), |partition| write!(f, "/{partition}"))
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

fn number<T: FromStr>(what: &'static str, text: &str) -> Result<T, AddressError> {
    text.parse().map_err(|_| AddressError::Number { what, found: text.to_owned() })
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

    #[test]
    fn functions_are_called_on_classes_partitions_and_objects() {
        let callee = |text: &str| text.parse::<CalleeAddress>().map(|address| address.to_string());
        assert_eq!(callee("demo"), Ok("demo/0".into()), "the first partition");
        assert_eq!(callee("demo/3"), Ok("demo/3".into()));
        assert_eq!(callee("demo/3/Alice"), Ok("demo/3/alice".into()));
        assert_eq!(callee("demo/alice"), Err(AddressError::Partition { found: "alice".into() }));
        assert_eq!(callee("demo/3/alice/count"), Err(CALLEE));
        let function = |text: &str| {
            text.parse::<FunctionAddress>().map(|address| (address.callee.to_string(), address.function))
        };
        assert_eq!(function("demo/3/count"), Ok(("demo/3".into(), "count".into())));
        assert_eq!(function("demo/3/alice/count"), Ok(("demo/3/alice".into(), "count".into())));
        assert_eq!(function("demo/3"), Err(FUNCTION));
    }

    #[test]
    fn records_and_dead_letters_are_named_below_their_partition() {
        let record = "demo/0/17".parse::<RecordAddress>().expect("a record");
        assert_eq!((record.partition.partition, record.offset), (0, 17));
        let letter = "demo/0/17/2".parse::<LetterAddress>().expect("a letter");
        assert_eq!((letter.record, letter.index), (record, 2));
        let error = "demo/0/17/x".parse::<LetterAddress>().expect_err("no place");
        assert_eq!(error.to_string(), r#"the index must be a number, not "x""#);
        assert!(matches!("demo/0/17/2".parse(), Ok(LettersAddress::One(_))));
        assert!(matches!("demo/0".parse(), Ok(LettersAddress::All(ClassAddress { partition: Some(0), .. }))));
        assert_eq!("demo/0/17".parse::<LettersAddress>(), Err(LETTERS));
    }
}
