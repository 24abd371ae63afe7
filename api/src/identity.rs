//! Ids of objects and keys of entries: one rule on every path, for both columns of the schema.
//!
//! An id or key is 1 to 160 bytes of `a-z 0-9 . _ : -`; upper case is lowered. Clients of the first generation send
//! numbers in columns of their own. Either column is read, the string wins, and answers carry both where the text is
//! a canonical decimal number.

use std::fmt;

/// The largest partition id.
pub const MAX_PARTITION: u32 = 65_535;

/// What an id is of; named in refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An object's id.
    Object,
    /// An entry's key.
    Key,
    /// The beginning of object ids or keys.
    Prefix,
    /// A named cursor.
    Cursor,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "object_id",
            Self::Key => "key",
            Self::Prefix => "prefix",
            Self::Cursor => "cursor name",
        })
    }
}

/// Why an id, a key or a partition id is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Neither column has it.
    #[error("{kind} required: expected 1 to {max} bytes of a-z 0-9 . _ : -")]
    Missing {
        /// What is missing.
        kind: Kind,
        /// The longest one allowed, in bytes.
        max: usize,
    },
    /// It is too long.
    #[error("invalid {kind} of {bytes} bytes: expected 1 to {max} bytes of a-z 0-9 . _ : -")]
    TooLong {
        /// What it was meant to be.
        kind: Kind,
        /// Its length.
        bytes: usize,
        /// The longest one allowed, in bytes.
        max: usize,
    },
    /// It has a character that is not allowed.
    #[error(
        "invalid {kind} {text:?}: {found:?} is not allowed, expected 1 to {max} bytes of a-z 0-9 . _ : -"
    )]
    Character {
        /// What it was meant to be.
        kind: Kind,
        /// What was given.
        text: String,
        /// The first character that is not allowed.
        found: char,
        /// The longest one allowed, in bytes.
        max: usize,
    },
    /// No such partition can be.
    #[error("invalid partition_id {found}: expected 0 to {MAX_PARTITION}")]
    Partition {
        /// What was given.
        found: i64,
    },
}

/// Bytes of ids after lowering; 0 marks those that are not allowed.
const LOWERED: [u8; 256] = {
    let mut table = [0; 256];
    let allowed = b"abcdefghijklmnopqrstuvwxyz0123456789._:-";
    let mut at = 0;
    while at < allowed.len() {
        table[allowed[at] as usize] = allowed[at];
        table[allowed[at].to_ascii_uppercase() as usize] = allowed[at];
        at += 1;
    }
    table
};

/// The rule for ids and keys.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The longest one, in bytes.
    pub max: usize,
}

impl Rule {
    /// Checks an id and lowers it in place.
    ///
    /// # Errors
    /// [`IdentityError`], saying what was expected.
    pub fn check(self, kind: Kind, text: String) -> Result<String, IdentityError> {
        if text.is_empty() {
            return Err(IdentityError::Missing { kind, max: self.max });
        }
        self.check_prefix(kind, text)
    }

    /// As [`Rule::check`], but empty is allowed.
    ///
    /// # Errors
    /// [`IdentityError`], saying what was expected.
    pub fn check_prefix(self, kind: Kind, text: String) -> Result<String, IdentityError> {
        if text.len() > self.max {
            return Err(IdentityError::TooLong { kind, bytes: text.len(), max: self.max });
        }
        let mut is_lowered = true;
        for &byte in text.as_bytes() {
            let lowered = LOWERED[usize::from(byte)];
            if lowered == 0 {
                let allowed = |c: &char| c.is_ascii() && LOWERED[*c as usize] != 0;
                let found = text.chars().find(|c| !allowed(c)).unwrap_or_default();
                return Err(IdentityError::Character { kind, text, found, max: self.max });
            }
            is_lowered &= lowered == byte;
        }
        let mut text = text;
        if !is_lowered {
            text.make_ascii_lowercase();
        }
        Ok(text)
    }

    /// The object's id from its two columns. A numeric 0 looks the same on the wire as one that was not sent, so it
    /// counts as sent only if something else in the request shows that its client speaks in numbers.
    ///
    /// # Errors
    /// [`IdentityError`], saying what was expected.
    pub fn object(
        self,
        text: Option<String>,
        number: u64,
        speaks_numbers: bool,
    ) -> Result<String, IdentityError> {
        match text {
            Some(text) => self.check(Kind::Object, text),
            None if number != 0 || speaks_numbers => Ok(number.to_string()),
            None => Err(IdentityError::Missing { kind: Kind::Object, max: self.max }),
        }
    }

    /// An entry's key from its two columns; `speaks_numbers` as for [`Rule::object`].
    ///
    /// # Errors
    /// [`IdentityError`], saying what was expected.
    pub fn key(
        self,
        text: Option<String>,
        number: u32,
        speaks_numbers: bool,
    ) -> Result<String, IdentityError> {
        match text {
            Some(text) => self.check(Kind::Key, text),
            None if number != 0 || speaks_numbers => Ok(number.to_string()),
            None => Err(IdentityError::Missing { kind: Kind::Key, max: self.max }),
        }
    }
}

/// A partition id as it came over the wire.
///
/// # Errors
/// [`IdentityError::Partition`] for a negative or too large one.
pub fn partition(id: impl Into<i64>) -> Result<u32, IdentityError> {
    let id = id.into();
    u32::try_from(id).ok().filter(|id| *id <= MAX_PARTITION).ok_or(IdentityError::Partition { found: id })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { max: 160 };

    #[test]
    fn ids_are_lowered_and_limited() {
        let check = |text: &str| RULE.check(Kind::Object, text.to_owned());
        assert_eq!(check("Sensor:A-1.x_9").as_deref(), Ok("sensor:a-1.x_9"));
        assert_eq!(check(&"x".repeat(160)).map(|id| id.len()), Ok(160));
        let refusals: Vec<_> =
            ["", "a/b", "über", "a\0b", "a b"].map(|bad| check(bad).expect_err(bad).to_string()).into();
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
        invalid object_id "a/b": '/' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
        invalid object_id "über": 'ü' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
        invalid object_id "a\0b": '\0' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
        invalid object_id "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
        "#);
        insta::assert_snapshot!(check(&"x".repeat(161)).expect_err("too long"), @"invalid object_id of 161 bytes: expected 1 to 160 bytes of a-z 0-9 . _ : -");
    }

    #[test]
    fn either_column_is_read_and_the_string_wins() {
        assert_eq!(RULE.object(Some("A".into()), 7, false).as_deref(), Ok("a"));
        assert_eq!(RULE.object(None, 7, false).as_deref(), Ok("7"));
        assert_eq!(RULE.key(None, 0, true).as_deref(), Ok("0"), "key 0 of a client that speaks numbers");
        assert!(matches!(RULE.key(None, 0, false), Err(IdentityError::Missing { kind: Kind::Key, .. })));
        assert!(matches!(RULE.object(Some(String::new()), 7, true), Err(IdentityError::Missing { .. })));
    }

    #[test]
    fn partition_ids_never_wrap() {
        assert_eq!(partition(65_535_u32), Ok(65_535));
        assert_eq!(
            partition(-1).expect_err("negative").to_string(),
            "invalid partition_id -1: expected 0 to 65535"
        );
        assert!(partition(65_536_u32).is_err());
        assert!(partition(u32::MAX).is_err());
    }
}
