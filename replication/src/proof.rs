//! Proving that a view is exactly what its log says.
//!
//! The log (from the snapshot below it, where it has been trimmed) is replayed into a fresh view in a folder of its
//! own, and the texts of both views are compared line by line. Writes go on meanwhile: the text of the serving view
//! is taken first, and the replay ends at its offset.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Lines, Write};
use std::path::{Path, PathBuf};

use odgm_log::{Hash, Offset};
use odgm_projections::storage::Engine;
use odgm_projections::{RebuildError, Start, View, ViewOptions, rebuild};

use crate::manager::Manager;
use crate::partition::Partition;
use crate::source::Records;

/// What was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The offset up to which the view was compared.
    pub offset: Offset,
    /// The state hash there.
    pub state: Hash,
}

/// Why it could not be proven.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The view is not what the log says.
    #[error(
        "the view is not what the log says at offset {offset}: line {line} is {found:?}, from the log {expected:?}; \
         stop the node and rebuild the view"
    )]
    Differs {
        /// The offset of both views.
        offset: Offset,
        /// The line of the dump.
        line: u64,
        /// What the log gives.
        expected: String,
        /// What the view has.
        found: String,
    },
    /// The log cannot be replayed.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// A view cannot be written as text.
    #[error(transparent)]
    Dump(#[from] odgm_projections::DumpError),
    /// A file cannot be written or read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Manager {
    /// Compares the view of a partition with what its log gives. `progress` hears of the replayed and the last
    /// offset. Blocks; one proof of a partition at a time.
    ///
    /// # Errors
    /// [`ProofError::Differs`] with the first difference; others where nothing could be proven.
    pub fn prove_view(
        &self,
        partition: &Partition,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Proven, ProofError> {
        let _one_at_a_time = self.proving.lock();
        let data = &self.opener.data;
        let scratch = data.scratch(partition.group());
        remove(&scratch)?;
        let options = ViewOptions {
            group: partition.group(),
            engine: self.engine(partition),
            dir: scratch.join("view"),
            snapshots: data.snapshots(partition.group()),
            resources: self.opener.resources.clone(),
        };
        let proven = compare(partition, &scratch, &options, progress);
        if let Err(error) = remove(&scratch) {
            tracing::warn!(%error, "a proven view was not removed");
        }
        proven
    }

    /// The engine of a partition's view.
    fn engine(&self, partition: &Partition) -> Engine {
        let collection = self.collection(partition.class());
        collection.map_or(Engine::RocksDb, |collection| collection.definition().options.storage)
    }
}

fn compare(
    partition: &Partition,
    scratch: &Path,
    options: &ViewOptions,
    progress: &mut dyn FnMut(Offset, Offset),
) -> Result<Proven, ProofError> {
    let served = scratch.join("served.txt");
    let failed = |source| ProofError::Io { path: served.clone(), source };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    let mut file = BufWriter::new(File::create(&served).map_err(failed)?);
    let header = partition.view().dump(&mut file)?;
    file.flush().map_err(failed)?;

    let first = partition.bounds().first;
    // A log is trimmed at a kept snapshot; one that is being filled has none there yet, but one behind.
    let behind = partition.view().snapshots().into_iter().find(|snapshot| snapshot.next() >= first);
    let start = match behind {
        _ if first <= Offset(1) => Start::Beginning,
        Some(snapshot) if snapshot <= header.applied => Start::Snapshot(snapshot),
        _ => Start::Snapshot(first.previous()),
    };
    let records = Records::through(partition.log(), partition.group(), header.applied);
    let rebuilt = rebuild(options, start, &records, progress)?;
    let file = BufReader::new(File::open(&served).map_err(failed)?);
    find_difference(&rebuilt, file.lines(), header.applied)?;
    Ok(Proven { offset: header.applied, state: header.state })
}

fn find_difference(rebuilt: &View, served: Lines<BufReader<File>>, offset: Offset) -> Result<(), ProofError> {
    let mut comparison = Comparison { served, line: 0, partial: Vec::new(), difference: None };
    let dumped = rebuilt.dump(&mut comparison);
    if comparison.difference.is_none() {
        dumped?;
        comparison.end();
    }
    match comparison.difference {
        None => Ok(()),
        Some((expected, found)) => Err(ProofError::Differs {
            offset,
            line: comparison.line,
            expected: shortened(&expected).to_owned(),
            found: shortened(&found).to_owned(),
        }),
    }
}

/// Takes the text of the rebuilt view and holds it against the lines of the one that serves.
struct Comparison {
    served: Lines<BufReader<File>>,
    line: u64,
    partial: Vec<u8>,
    /// Expected and found.
    difference: Option<(String, String)>,
}

impl Comparison {
    fn line(&mut self, expected: &str) -> io::Result<()> {
        self.line += 1;
        let found = self.served.next().transpose()?.unwrap_or_default();
        if found != expected {
            self.difference = Some((expected.to_owned(), found));
            return Err(io::Error::other("the texts differ"));
        }
        Ok(())
    }

    fn end(&mut self) {
        if let Some(Ok(found)) = self.served.next() {
            self.line += 1;
            self.difference = Some((String::new(), found));
        }
    }
}

impl Write for Comparison {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(&String::from_utf8_lossy(&line[..end]))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Enough of a line to find it by; it may hold a whole value.
fn shortened(line: &str) -> &str {
    const ENOUGH: usize = 200;
    line.char_indices().nth(ENOUGH).map_or(line, |(at, _)| &line[..at])
}

fn remove(folder: &Path) -> Result<(), ProofError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ProofError::Io { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::GroupId;
    use odgm_projections::storage::Resources;

    use super::*;

    #[test]
    fn of_two_texts_the_first_line_that_differs_is_named() {
        let root = tempfile::tempdir().expect("a folder");
        let view = View::open(&ViewOptions {
            group: GroupId(1),
            engine: Engine::Memory,
            dir: root.path().join("view"),
            snapshots: root.path().join("snapshots"),
            resources: Resources::default(),
        })
        .expect("an empty view");
        let mut text = Vec::new();
        view.dump(&mut text).expect("a dump");
        let text = String::from_utf8(text).expect("text");
        let compare = |served: &str| {
            let path = root.path().join("served.txt");
            std::fs::write(&path, served).expect("written");
            let served = BufReader::new(File::open(&path).expect("opened"));
            find_difference(&view, served.lines(), Offset(7)).map_err(|error| match error {
                ProofError::Differs { line, found, .. } => (line, found),
                other => panic!("{other}"),
            })
        };
        let lines = text.lines().count() as u64;
        let last = text.lines().last().expect("a line");
        assert_eq!(compare(&text), Ok(()));
        assert_eq!(compare(&format!("{text}more\n")), Err((lines + 1, "more".to_owned())));
        let before_last = text.trim_end().strip_suffix(last).expect("it ends with its last line");
        assert_eq!(compare(&format!("{before_last}other\n")), Err((lines, "other".to_owned())));
        assert_eq!(compare(before_last), Err((lines, String::new())));
        assert_eq!(compare(""), Err((1, String::new())));
        let long = "x".repeat(100_000);
        assert_eq!(compare(&long), Err((1, long[..200].to_owned())), "long lines are shortened");
    }
}
