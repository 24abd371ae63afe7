//! What outlives a node: its settings and its data directory.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::command::Ran;
use super::node::{Node, Refusal};
use super::program::odgm;
use crate::Result;

/// The settings and the data directory of one node, across restarts. Dropping it removes the files, and prints what
/// the node has logged: test runners show that only when the test has failed.
#[derive(Debug)]
pub struct Home {
    folder: TempDir,
    settings: BTreeMap<String, String>,
    collections: Vec<Value>,
    is_quiet: bool,
    program: Option<PathBuf>,
}

impl Home {
    /// An empty data directory and the default settings.
    ///
    /// # Errors
    /// When the temporary directory cannot be made.
    pub fn new() -> Result<Self> {
        Self::within(&std::env::temp_dir())
    }

    /// The same in a directory below `parent`.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn within(parent: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("odgm-node-").tempdir_in(parent)?;
        let home = Self {
            folder,
            settings: BTreeMap::new(),
            collections: Vec::new(),
            is_quiet: false,
            program: None,
        };
        Ok(home.with("ODGM_HTTP_HOST", "127.0.0.1").with("ODGM_HTTP_PORT", "0"))
    }

    /// Sets an environment variable of the node.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same on a home that is kept, from its next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// Another home with the same settings and an empty data directory.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn twin(&self) -> Result<Self> {
        let mut twin = Self::new()?;
        twin.settings.clone_from(&self.settings);
        twin.collections.clone_from(&self.collections);
        twin.program.clone_from(&self.program);
        Ok(twin)
    }

    /// Copies the data directory of a node that does not run to the same place in another home.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn copy_data_to(&self, other: &Self) -> Result<()> {
        for (name, bytes) in self.snapshot()?.0 {
            let path = other.data().join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    /// Runs this binary instead of the one that is found.
    #[must_use]
    pub fn program(mut self, odgm: PathBuf) -> Self {
        self.program = Some(odgm);
        self
    }

    /// Does not print the node's output in the end.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Has the node create a collection with that many partitions when it first starts.
    #[must_use]
    pub fn collection(self, name: &str, partitions: u32) -> Self {
        self.collection_with(name, partitions, &[])
    }

    /// The same with options.
    #[must_use]
    pub fn collection_with(self, name: &str, partitions: u32, options: &[(&str, &str)]) -> Self {
        let options: BTreeMap<_, _> = options.iter().copied().collect();
        self.definition(json!({
            "name": name,
            "partition_count": partitions,
            "replica_count": 1,
            "shard_type": "basic",
            "options": options,
        }))
    }

    /// The same for a collection whose partitions each have so many replicas under Raft.
    #[must_use]
    pub fn replicated(self, name: &str, partitions: u32, replicas: u64) -> Self {
        self.definition(json!({
            "name": name,
            "partition_count": partitions,
            "replica_count": replicas,
            "shard_type": "raft",
        }))
    }

    fn definition(mut self, collection: Value) -> Self {
        self.collections.push(collection);
        self
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    pub(super) fn port_file(&self) -> PathBuf {
        self.folder.path().join("port")
    }

    /// Starts a node and waits until all of its partitions serve.
    ///
    /// # Errors
    /// When it ends instead; the message has what it said.
    pub async fn start(&self) -> Result<Node<'_>> {
        Node::start(self).await
    }

    /// Starts a node and waits until it listens; its partitions may still start, or be out of service.
    ///
    /// # Errors
    /// When it ends instead; the message has what it said.
    pub async fn listen(&self) -> Result<Node<'_>> {
        Node::listen(self).await
    }

    /// Starts a node that is expected to refuse, and waits for it to end.
    ///
    /// # Errors
    /// When it keeps running.
    pub fn refused(&self) -> Result<Refusal> {
        Refusal::of(self)
    }

    /// The `odgm` command with the settings of this home.
    pub(super) fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.program.clone().map_or_else(odgm, Ok)?);
        // Whoever runs the tests may have settings of their own.
        let theirs = std::env::vars_os().map(|(name, _)| name);
        let is_setting = |name: &str| name.starts_with("ODGM_") || name.starts_with("OPRC_");
        for name in theirs.filter(|name| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
            .env("ODGM_DATA_DIR", self.data())
            .env("ODGM_PORT_FILE", self.port_file())
            .env_remove("RUST_LOG");
        if !self.collections.is_empty() {
            command.env("ODGM_COLLECTION", Value::from(self.collections.clone()).to_string());
        }
        command.envs(&self.settings);
        Ok(command)
    }

    /// Runs `odgm` on the data directory of the stopped node.
    ///
    /// # Errors
    /// When the program cannot be run; how it ends is for the caller to judge.
    pub fn odgm(&self, arguments: &[&str]) -> Result<Ran> {
        let mut command = self.command()?;
        command.args(arguments);
        Ran::of(command)
    }

    /// The files of the data directory and their bytes.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut files = BTreeMap::new();
        read_all(&self.data(), Path::new(""), &mut files)?;
        Ok(Snapshot(files))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        const LINES: usize = 200;
        if self.is_quiet {
            return;
        }
        let output = fs::read_to_string(self.output()).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        let kept = lines.len().saturating_sub(LINES);
        eprintln!("--- output of the node, last {} of {} lines", lines.len() - kept, lines.len());
        for line in &lines[kept..] {
            eprintln!("{line}");
        }
    }
}

/// Every file of a data directory with its bytes.
#[derive(PartialEq, Eq)]
pub struct Snapshot(BTreeMap<PathBuf, Vec<u8>>);

impl Snapshot {
    /// The files that are not the same in `other`, for assertions that are read by people. What a refused start may
    /// write is left out: its own lines in RocksDB's `LOG`, and the lock files.
    pub fn changed_in(&self, other: &Self) -> Vec<String> {
        let names = self.0.keys().chain(other.0.keys());
        let mut changed: Vec<_> = names
            .filter(|name| !is_notes(name) && self.0.get(*name) != other.0.get(*name))
            .map(|name| name.display().to_string())
            .collect();
        changed.sort();
        changed.dedup();
        changed
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, bytes)| (name, bytes.len()))).finish()
    }
}

fn is_notes(name: &Path) -> bool {
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    name == "LOCK" || name == "LOG" || name.starts_with("LOG.old")
}

fn read_all(root: &Path, below: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read_all(root, &name, files)?;
        } else {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}
