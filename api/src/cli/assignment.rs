//! `KEY=VALUE`: how entries are given on the command line.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use odgm_proto::oprc::ValData;

use super::{error::Error, value::EntryValue};

/// The grammar, for help texts.
pub(crate) const HELP: &str = "\
Entries:
  KEY=TEXT       the text as it is
  KEY=@FILE      the bytes of a file; @- is standard input
  KEY=@@TEXT     text that begins with @
  KEY:=BASE64    bytes in base64";

/// One entry to write, as it was typed. Files are read later, by [`read_all`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    key: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Bytes(Vec<u8>),
    File(PathBuf),
    Stdin,
}

/// What is no assignment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AssignmentError {
    /// There is no `=`, or no key before it.
    #[error("expected KEY=VALUE, KEY=@FILE or KEY:=BASE64")]
    Shape,
    /// The value behind `:=` cannot be decoded.
    #[error("the value behind := is not base64: {0}")]
    Base64(String),
}

impl FromStr for Assignment {
    type Err = AssignmentError;

    fn from_str(text: &str) -> Result<Self, AssignmentError> {
        let (left, value) = text.split_once('=').ok_or(AssignmentError::Shape)?;
        let (key, source) = match (left.strip_suffix(':'), value.strip_prefix('@')) {
            (Some(key), _) => {
                let bytes =
                    BASE64.decode(value).map_err(|error| AssignmentError::Base64(error.to_string()))?;
                (key, Source::Bytes(bytes))
            }
            (None, Some("-")) => (left, Source::Stdin),
            (None, Some(literal)) if literal.starts_with('@') => (left, Source::Bytes(literal.into())),
            (None, Some(path)) => (left, Source::File(path.into())),
            (None, None) => (left, Source::Bytes(value.into())),
        };
        if key.is_empty() {
            return Err(AssignmentError::Shape);
        }
        Ok(Self { key: key.to_owned(), source })
    }
}

/// Reads the files and gives the entries by key; `crdt` marks them as automerge documents.
pub(crate) fn read_all(assignments: Vec<Assignment>, crdt: bool) -> Result<BTreeMap<String, ValData>, Error> {
    let mut entries = BTreeMap::new();
    for Assignment { key, source } in assignments {
        let bytes = match source {
            Source::Bytes(bytes) => bytes,
            Source::File(path) => fs::read(&path).map_err(|error| Error::file("read", &path, &error))?,
            Source::Stdin => {
                let mut bytes = Vec::new();
                io::stdin()
                    .read_to_end(&mut bytes)
                    .map_err(|error| Error::file("read", Path::new("standard input"), &error))?;
                bytes
            }
        };
        let value = if crdt { EntryValue::crdt_map(bytes) } else { EntryValue::bytes(bytes) };
        if entries.insert(key.clone(), value.0).is_some() {
            return Err(Error::Usage(format!("the key {key:?} is given twice; give each key once")));
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, Source), AssignmentError> {
        text.parse().map(|Assignment { key, source }| (key, source))
    }

    fn bytes(key: &str, bytes: &[u8]) -> Result<(String, Source), AssignmentError> {
        Ok((key.to_owned(), Source::Bytes(bytes.to_vec())))
    }

    #[test]
    fn values_are_text_files_or_base64() {
        assert_eq!(parse("name=Alice"), bytes("name", b"Alice"));
        assert_eq!(parse("empty="), bytes("empty", b""));
        assert_eq!(parse("equation=a=b"), bytes("equation", b"a=b"));
        assert_eq!(parse("a:b=c"), bytes("a:b", b"c"));
        assert_eq!(parse("raw:=/wD+"), bytes("raw", &[0xff, 0x00, 0xfe]));
        assert_eq!(parse("handle=@@alice"), bytes("handle", b"@alice"));
        assert_eq!(parse("photo=@a.jpg"), Ok(("photo".into(), Source::File("a.jpg".into()))));
        assert_eq!(parse("photo=@-"), Ok(("photo".into(), Source::Stdin)));
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        assert_eq!(parse("name"), Err(AssignmentError::Shape));
        assert_eq!(parse("=x"), Err(AssignmentError::Shape));
        assert_eq!(parse(":=eA=="), Err(AssignmentError::Shape));
        assert!(matches!(parse("raw:=?"), Err(AssignmentError::Base64(_))));
    }

    #[test]
    fn a_key_given_twice_is_refused() {
        let twice = ["a=1", "a=2"].map(|text| text.parse().expect("an assignment")).to_vec();
        let error = read_all(twice, false).expect_err("refused");
        assert_eq!(error.to_string(), r#"the key "a" is given twice; give each key once"#);
    }
}
