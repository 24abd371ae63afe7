//! The folder of a backup.
//!
//! ```text
//! NAME.PARTITION.odgm   the bundle of a partition (odgm_replication::bundle)
//! manifest.json         what was backed up: definitions, and of each partition what its bundle says of itself
//! CHECKSUMS             BLAKE3 of all other files, in the format of b3sum; written last
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read, Write as _},
    path::{Path, PathBuf},
};

use odgm_proto::oprc::CreateCollectionRequest;
use odgm_replication::bundle::{self, Checked};
use serde::{Deserialize, Serialize};

use crate::cli::{error::Error, progress, verify::Proof};

pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const CHECKSUMS: &str = "CHECKSUMS";

/// The version of the folder that this build writes and reads.
const FORMAT: u32 = 1;

/// What a backup has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// When it was ended, as RFC 3339.
    created: String,
    /// The node that was asked.
    node: Source,
    pub(super) collections: Vec<StoredCollection>,
}

/// A node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Source {
    pub(super) id: u64,
    pub(super) version: String,
}

/// A collection in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredCollection {
    /// As it was created, with every default filled in.
    pub(crate) definition: CreateCollectionRequest,
    pub(crate) created_ms: u64,
    pub(crate) partitions: Vec<StoredPartition>,
}

/// A partition in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPartition {
    pub(crate) partition: u32,
    /// The file of its bundle.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    blake3: String,
    /// The group that it had.
    pub(crate) group: u32,
    /// Whether calls were named by that group: then what begins with this must have another one.
    #[serde(default)]
    names_calls: bool,
    /// The last record.
    offset: u64,
    /// The first record that is in it; one above `offset` if there is none.
    first_offset: u64,
    pub(crate) records: u64,
    time_ms: u64,
    /// The chain and the state hash at `offset`.
    chain: String,
    state: String,
}

impl Manifest {
    pub(super) fn new(created: String, node: Source, collections: Vec<StoredCollection>) -> Self {
        Self { format: FORMAT, created, node, collections }
    }

    /// Writes it, and then the checksums of all files: with them the backup is whole.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| Error::Failed(error.to_string()))?;
        let mut sums = format!("{}  {MANIFEST}\n", blake3::hash(&json).to_hex());
        for partition in self.collections.iter().flat_map(|collection| &collection.partitions) {
            sums += &format!("{}  {}\n", partition.blake3, partition.file);
        }
        write(&dir.join(MANIFEST), &json)?;
        write(&dir.join(CHECKSUMS), sums.as_bytes())?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::file("sync", dir, &error))
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|error| Error::file("write", path, &error))
}

impl StoredCollection {
    /// The groups that its partitions had, if they may have them again.
    pub(crate) fn groups(&self) -> Option<Vec<u32>> {
        let again = |stored: &StoredPartition| (!stored.names_calls).then_some(stored.group);
        self.partitions.iter().map(again).collect()
    }
}

impl StoredPartition {
    /// Reads a bundle that was stored, and checks it.
    pub(super) fn read(dir: &Path, file: String, partition: u32) -> Result<Self, Error> {
        let path = dir.join(&file);
        let read = check(&path, |_| ());
        let read = read.map_err(|problem| Error::Failed(format!("{}: {problem}", path.display())))?;
        Ok(Self::new(file, partition, read))
    }

    fn new(file: String, partition: u32, (checked, hash, bytes): (Checked, String, u64)) -> Self {
        let Checked { begin, records, .. } = checked;
        Self {
            partition,
            file,
            bytes,
            blake3: hash,
            group: begin.group.get(),
            names_calls: begin.names_calls,
            offset: begin.offset.get(),
            first_offset: begin.first.get(),
            records,
            time_ms: begin.time.as_millis(),
            chain: begin.chain.to_string(),
            state: begin.state.to_string(),
        }
    }
}

/// The folder of a backup that has all of its files.
pub(crate) struct Backup {
    dir: PathBuf,
    sums: BTreeMap<String, String>,
    manifest: Manifest,
}

impl Backup {
    /// Opens a backup: the list of its files is as it was made, and none is missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(Error::NotFound(format!("there is no folder {}", dir.display())));
        }
        let list = dir.join(CHECKSUMS);
        let text = match fs::read_to_string(&list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Failed(format!(
                    "{} is no whole backup: it has no {CHECKSUMS}, which is written last",
                    dir.display()
                )));
            }
            read => read.map_err(|error| Error::file("read", &list, &error))?,
        };
        let mut sums = BTreeMap::new();
        for (line, number) in text.lines().zip(1..) {
            let (sum, name) = line.split_once("  ").ok_or_else(|| {
                Error::Failed(format!("{}, line {number}: expected a hash and a name", list.display()))
            })?;
            sums.insert(name.to_owned(), sum.to_owned());
        }
        let path = dir.join(MANIFEST);
        let json = fs::read(&path).map_err(|error| Error::file("read", &path, &error))?;
        let found = blake3::hash(&json).to_hex().to_string();
        let expected = sums.get(MANIFEST).map_or("", String::as_str);
        if found != expected {
            return Err(Error::Failed(format!(
                "{} is damaged: its BLAKE3 is {found}, not {expected}",
                path.display()
            )));
        }
        let damaged =
            |error: serde_json::Error| Error::Failed(format!("{} is damaged: {error}", path.display()));
        let value: serde_json::Value = serde_json::from_slice(&json).map_err(damaged)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or_default();
        if format != u64::from(FORMAT) {
            return Err(Error::Failed(format!(
                "{} has format {format}; this build reads format {FORMAT}: use the build that made it",
                path.display()
            )));
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(damaged)?;
        Ok(Self { dir: dir.to_owned(), sums, manifest })
    }

    /// Its collections, those first whose groups were given out first; after those that can have theirs again, the others.
    pub(crate) fn collections(&self) -> Vec<StoredCollection> {
        let mut collections = self.manifest.collections.clone();
        let first = |stored: &StoredCollection| stored.partitions.iter().map(|p| p.group).min();
        collections.sort_by_key(|stored| (stored.groups().is_none(), first(stored)));
        collections
    }

    /// Where the bundle of a partition is.
    pub(crate) fn path(&self, partition: &StoredPartition) -> PathBuf {
        self.dir.join(&partition.file)
    }

    /// Checks every bundle.
    pub(crate) fn prove(&self) -> Result<Vec<Proof>, Error> {
        let mut proofs = Vec::new();
        for collection in &self.manifest.collections {
            proofs.extend(self.prove_collection(collection));
        }
        Ok(proofs)
    }

    /// Checks every bundle of a collection.
    pub(crate) fn prove_collection(&self, collection: &StoredCollection) -> Vec<Proof> {
        let total = collection.partitions.iter().map(|partition| partition.bytes).sum();
        let bar = progress::bytes(Some(total));
        bar.set_message(collection.definition.name.clone());
        let prove = |partition: &StoredPartition| {
            let problem = self.problem(partition, &|bytes| bar.inc(bytes)).err();
            Proof {
                name: format!("{}/{}", collection.definition.name, partition.partition),
                ok: problem.is_none(),
                last_offset: partition.offset,
                hash: partition.chain.clone(),
                problem: problem.map(|problem| format!("{}: {problem}", self.path(partition).display())),
            }
        };
        let proofs = collection.partitions.iter().map(prove).collect();
        bar.finish_and_clear();
        proofs
    }

    fn problem(&self, partition: &StoredPartition, progress: &dyn Fn(u64)) -> Result<(), String> {
        let read = self.read(partition, progress)?;
        let listed = self.sums.get(&partition.file).ok_or_else(|| format!("{CHECKSUMS} does not list it"))?;
        if read.blake3 != *listed {
            return Err(format!("its BLAKE3 is {}, not {listed}", read.blake3));
        }
        if read != *partition {
            return Err(format!(
                "it is not the one that {MANIFEST} describes: expected {partition:?}, found {read:?}"
            ));
        }
        Ok(())
    }

    fn read(&self, partition: &StoredPartition, progress: &dyn Fn(u64)) -> Result<StoredPartition, String> {
        let read = check(&self.path(partition), progress)?;
        Ok(StoredPartition::new(partition.file.clone(), partition.partition, read))
    }
}

/// Reads a bundle: what it says, its hash and its length; or what is wrong with it.
fn check(path: &Path, progress: impl Fn(u64)) -> Result<(Checked, String, u64), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let input = BufReader::with_capacity(1 << 20, file);
    let mut input = Hashing { input, hasher: blake3::Hasher::new(), bytes: 0, progress };
    let checked = bundle::check(&mut input).map_err(|error| error.to_string())?;
    Ok((checked, input.hasher.finalize().to_hex().to_string(), input.bytes))
}

/// Hashes what is read.
struct Hashing<R, P> {
    input: R,
    hasher: blake3::Hasher,
    bytes: u64,
    progress: P,
}

impl<R: Read, P: Fn(u64)> Read for Hashing<R, P> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        (self.progress)(count as u64);
        Ok(count)
    }
}
