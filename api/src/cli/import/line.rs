//! One line of an import: an operation as JSON.

use std::collections::BTreeMap;

use odgm_proto::{
    odgm::v1::write_request::Operation,
    oprc::{ObjectEvent, ValData},
};
use serde::Deserialize;
use serde_json::error::Category;

use crate::cli::{client::Place, object::wire_values, placement, value::EntryValue, wire};

/// The format, for help texts.
pub(crate) const HELP: &str = r#"Input: one JSON object a line; empty lines are skipped.
  {"op": "set",           "id": ID, "entries": {KEY: VALUE, ...}}   replaces the object
  {"op": "merge",         "id": ID, "entries": {KEY: VALUE, ...}}   writes entries, keeps the others
  {"op": "delete",        "id": ID}                                 deletes the object
  {"op": "set_values",    "id": ID, "entries": {...}, "keys": [...], "expected_version": N}
                                    writes entries and deletes keys at once; all but "id" optional
  {"op": "delete_values", "id": ID, "keys": [KEY, ...]}             deletes entries
Without "op" a line is a set, so that what `odgm export` prints can be imported again.
VALUE is text, or {"base64": "..."}, or {"crdt": "..."} (an automerge document in base64).
"partition": N puts an object into that partition; without it the partition is that of its id: "#;

/// A line as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    op: Op,
    id: String,
    partition: Option<u16>,
    entries: Option<BTreeMap<String, EntryValue>>,
    keys: Option<Vec<String>>,
    expected_version: Option<u64>,
    triggers: Option<ObjectEvent>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    #[default]
    Set,
    Merge,
    Delete,
    SetValues,
    DeleteValues,
}

impl Op {
    const fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Merge => "merge",
            Self::Delete => "delete",
            Self::SetValues => "set_values",
            Self::DeleteValues => "delete_values",
        }
    }
}

/// What a line asks for, and where.
#[derive(Debug, PartialEq)]
pub(crate) struct Parsed {
    /// Where the object lies.
    pub(crate) partition: u16,
    /// The operation, ready to be sent.
    pub(crate) operation: Operation,
}

/// Reads a line for a collection of so many partitions; the error says what was expected.
pub(crate) fn parse(text: &[u8], class: &str, partitions: u16) -> Result<Parsed, String> {
    let line: Line = serde_json::from_slice(text).map_err(|error| describe(&error))?;
    line.check()?;
    let id = line.id.to_ascii_lowercase();
    let partition = match line.partition {
        Some(partition) if partition < partitions => partition,
        Some(partition) => {
            return Err(format!("there is no partition {partition}; {class} has {partitions}"));
        }
        None => placement::partition_of(&id, partitions),
    };
    let operation = line.operation(Place { class: class.to_owned(), partition, id });
    Ok(Parsed { partition, operation })
}

impl Line {
    /// What serde cannot see: which fields go with which operation.
    fn check(&self) -> Result<(), String> {
        let op = self.op;
        let refuse = |is_given: bool, field: &str| {
            if is_given {
                Err(format!("{field:?} does not go with the operation {:?}", op.name()))
            } else {
                Ok(())
            }
        };
        let require = |is_given: bool, field: &str| {
            if is_given { Ok(()) } else { Err(format!("the operation {:?} needs {field:?}", op.name())) }
        };
        match op {
            Op::Set | Op::Merge => {
                require(self.entries.is_some(), "entries")?;
                refuse(self.keys.is_some(), "keys")?;
            }
            Op::Delete => {
                refuse(self.entries.is_some(), "entries")?;
                refuse(self.keys.is_some(), "keys")?;
            }
            Op::SetValues => require(self.entries.is_some() || self.keys.is_some(), "entries")?,
            Op::DeleteValues => {
                require(self.keys.is_some(), "keys")?;
                refuse(self.entries.is_some(), "entries")?;
            }
        }
        let is_batch = matches!(op, Op::SetValues | Op::DeleteValues);
        refuse(self.expected_version.is_some() && !is_batch, "expected_version")?;
        refuse(self.triggers.is_some() && !matches!(op, Op::Set | Op::Merge), "triggers")
    }

    fn operation(self, place: Place) -> Operation {
        let entries: BTreeMap<String, ValData> = wire_values(self.entries.unwrap_or_default());
        match self.op {
            Op::Set => Operation::Set(wire::set_object(place, entries, self.triggers)),
            Op::Merge => Operation::Merge(wire::set_object(place, entries, self.triggers)),
            Op::Delete => Operation::Delete(wire::single_object(place)),
            Op::SetValues | Op::DeleteValues => Operation::BatchSetValues(wire::batch(
                place,
                entries,
                self.keys.unwrap_or_default(),
                self.expected_version,
            )),
        }
    }
}

/// The reason without serde's own line number, which is always 1.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    match error.classify() {
        Category::Syntax | Category::Eof => format!("not JSON: {reason} (column {})", error.column()),
        Category::Data | Category::Io => format!("{reason} (column {})", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> String {
        parse(line.as_bytes(), "flights", 8).expect_err("refused")
    }

    fn operation(line: &str) -> Operation {
        parse(line.as_bytes(), "flights", 8).expect("parses").operation
    }

    #[test]
    fn a_merge_goes_to_the_partition_of_its_id() {
        let line = br#"{"op":"merge","id":"N14228","entries":{"dest":"IAH","raw":{"base64":"/w=="}}}"#;
        let parsed = parse(line, "flights", 8).expect("parses");
        assert_eq!(parsed.partition, placement::partition_of("n14228", 8));
        let Operation::Merge(request) = parsed.operation else { panic!("not a merge: {parsed:?}") };
        assert_eq!(request.object_id_str.as_deref(), Some("n14228"));
        let entries = request.object.expect("an object").entries_str;
        assert_eq!(entries["dest"].data, "IAH");
        assert_eq!(entries["raw"].data, &b"\xff"[..]);
    }

    #[test]
    fn every_operation_has_its_request() {
        assert!(matches!(operation(r#"{"id":"a","entries":{}}"#), Operation::Set(_)));
        assert!(matches!(operation(r#"{"op":"set","id":"a","entries":{}}"#), Operation::Set(_)));
        assert!(matches!(operation(r#"{"op":"delete","id":"a"}"#), Operation::Delete(_)));
        let Operation::BatchSetValues(batch) = operation(
            r#"{"op":"set_values","id":"a","entries":{"x":"1"},"keys":["y"],"expected_version":3}"#,
        ) else {
            panic!("not a batch")
        };
        assert_eq!((batch.values.len(), batch.delete_keys.len()), (1, 1));
        assert_eq!(batch.expected_object_version, Some(3));
        let Operation::BatchSetValues(batch) = operation(r#"{"op":"delete_values","id":"a","keys":["y"]}"#)
        else {
            panic!("not a batch")
        };
        assert_eq!(batch.delete_keys, ["y"]);
    }

    #[test]
    fn a_partition_may_be_given() {
        let line = br#"{"id":"a","partition":7,"entries":{}}"#;
        assert_eq!(parse(line, "flights", 8).expect("parses").partition, 7);
        assert_eq!(
            error(r#"{"id":"a","partition":8,"entries":{}}"#),
            "there is no partition 8; flights has 8"
        );
    }

    #[test]
    fn a_bad_line_says_what_was_expected() {
        let errors = [
            "not json",
            r#"{"op":"merge","id":"a"}"#,
            r#"{"op":"upsert","id":"a","entries":{}}"#,
            r#"{"op":"delete","id":"a","keys":["b"]}"#,
            r#"{"op":"merge","entries":{}}"#,
            r#"{"op":"merge","id":"a","entries":{"delay":2}}"#,
            r#"{"op":"merge","id":"a","entires":{}}"#,
            r#"{"op":"merge","id":"a","entries":{},"expected_version":1}"#,
            r#"{"op":"merge","id":"a","entries":{"x":{"base64":"?"}}}"#,
        ]
        .map(error);
        insta::assert_snapshot!(errors.join("\n"), @r#"
        not JSON: expected ident (column 2)
        the operation "merge" needs "entries"
        unknown variant `upsert`, expected one of `set`, `merge`, `delete`, `set_values`, `delete_values` (column 14)
        "keys" does not go with the operation "delete"
        missing field `id` (column 27)
        invalid type: integer `2`, expected a string, {"base64": "..."} or {"crdt": "..."} (column 43)
        unknown field `entires`, expected one of `op`, `id`, `partition`, `entries`, `keys`, `expected_version`, `triggers` (column 32)
        "expected_version" does not go with the operation "merge"
        the value of "base64" is not base64: Invalid symbol 63, offset 0. (column 52)
        "#);
    }
}
