//! The real data: operations on aircraft, one in each line, and what a plain map makes of them.
//!
//! ```text
//! {"op":"merge","id":"n14228","entries":{"flight":"UA1545","origin":"EWR"}}
//! {"op":"delete_values","id":"n14228","keys":["origin"]}
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use flate2::read::GzDecoder;
use odgm_proto::odgm::v1::{Action, Event, EventKind};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::harness::Fields;

/// One line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Operation {
    /// Write entries, keep the others.
    Merge {
        /// The aircraft.
        id: String,
        /// What is written.
        entries: Fields,
    },
    /// Remove entries, as far as they exist.
    DeleteValues {
        /// The aircraft.
        id: String,
        /// What is removed.
        keys: Vec<String>,
    },
}

impl Operation {
    /// The object that it is about.
    pub fn id(&self) -> &str {
        match self {
            Self::Merge { id, .. } | Self::DeleteValues { id, .. } => id,
        }
    }
}

/// Reads a file of JSON lines compressed with gzip.
///
/// # Errors
/// When it cannot be read; the message names the file, and the line that is no operation.
pub fn read(path: &Path) -> Result<Vec<Operation>> {
    let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let operations = lines.zip(1_u64..).map(|(line, number)| {
        let operation = serde_json::from_str(&line?);
        operation.map_err(|error| format!("{}, line {number}: {error}", path.display()).into())
    });
    operations.collect()
}

/// Operations as lines of such a file, not compressed.
///
/// # Errors
/// None that text could have.
pub fn lines(operations: &[Operation]) -> Result<String> {
    let lines = operations.iter().map(|operation| Ok(serde_json::to_string(operation)? + "\n"));
    lines.collect()
}

/// The partition in which `odgm import` puts an object: the first 8 bytes of BLAKE3 of the id, as a little-endian
/// number, modulo the number of partitions.
pub fn partition(id: &str, partitions: u32) -> u32 {
    let hash = blake3::hash(id.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u32::try_from(u64::from_le_bytes(first) % u64::from(partitions)).unwrap_or_default()
}

/// One thing that happened to an object, as an event stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// The object.
    pub id: String,
    /// Whether this record brought it into being.
    pub created: bool,
    /// Its version after it.
    pub version: u64,
    /// Each changed key in order, whether it was there before, and what it holds now.
    pub changes: Vec<(String, Existed, Option<String>)>,
}

/// Whether an entry was there before it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existed {
    /// It was.
    Yes,
    /// It was not.
    No,
}

impl Happened {
    /// What an event says; values must have been asked for.
    pub fn of(event: &Event) -> Self {
        let changes = event.changes.iter().map(|change| {
            let existed = if change.action() == Action::Created { Existed::No } else { Existed::Yes };
            let value = change.value.as_ref().map(|value| String::from_utf8_lossy(&value.data).into_owned());
            (change.key.clone(), existed, value)
        });
        Self {
            id: event.object_id.clone(),
            created: event.kind() == EventKind::Created,
            version: event.object_version,
            changes: changes.collect(),
        }
    }
}

/// A plain map to which the same operations were applied.
#[derive(Clone, Debug, Default)]
pub struct Model {
    objects: BTreeMap<String, (u64, Fields)>,
}

impl Model {
    /// Applies an operation; what happened, if anything did.
    pub fn apply(&mut self, operation: &Operation) -> Option<Happened> {
        let changes: Vec<_> = match operation {
            Operation::Merge { id, entries } => {
                let (_, fields) = self.objects.entry(id.clone()).or_default();
                let put = entries.iter().map(|(key, value)| {
                    let before = fields.insert(key.clone(), value.clone());
                    (
                        key.clone(),
                        if before.is_some() { Existed::Yes } else { Existed::No },
                        Some(value.clone()),
                    )
                });
                put.collect()
            }
            Operation::DeleteValues { id, keys } => {
                let (_, fields) = self.objects.get_mut(id)?;
                let mut keys = keys.clone();
                keys.sort();
                let removed = keys.into_iter().filter(|key| fields.remove(key).is_some());
                removed.map(|key| (key, Existed::Yes, None)).collect()
            }
        };
        let (version, _) = self.objects.get_mut(operation.id())?;
        if changes.is_empty() {
            return None;
        }
        *version += 1;
        Some(Happened { id: operation.id().to_owned(), created: *version == 1, version: *version, changes })
    }

    /// The objects in the order of their ids.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &Fields)> {
        self.objects.iter().map(|(id, (_, fields))| (id.as_str(), fields))
    }

    /// The object of that id.
    pub fn get(&self, id: &str) -> Option<&Fields> {
        self.objects.get(id).map(|(_, fields)| fields)
    }
}

/// One line of `odgm export`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Exported {
    /// The object.
    pub id: String,
    /// All it holds.
    pub entries: Fields,
}

/// Reads what `odgm export` printed.
///
/// # Errors
/// When a line is no object, or an object comes twice.
pub fn exported(output: &str) -> Result<BTreeMap<String, Fields>> {
    let mut objects = BTreeMap::new();
    for line in output.lines() {
        let Exported { id, entries } =
            serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        if objects.insert(id.clone(), entries).is_some() {
            return Err(format!("{id} was exported twice").into());
        }
    }
    Ok(objects)
}
