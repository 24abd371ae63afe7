//! The data directory of a node: whose it is, which format it has, and that only one process uses it.
//!
//! ```text
//! node.json     format version, node id and name, incarnation
//! LOCK          locked while a node uses the directory
//! log/          the logs of all partitions
//! views/G/      the view of group G
//! snapshots/G/  its snapshots, one folder per offset
//! scratch/G/    a second view of group G while it is proven or rebuilt; others while something is backed up or restored
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use odgm_log::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

/// The layout that this build writes and reads.
pub const FORMAT: u32 = 1;

const NODE_FILE: &str = "node.json";
const NEW_NODE_FILE: &str = "node.new";
const LOCK_FILE: &str = "LOCK";
const SCRATCH: &str = "scratch";

/// A data directory that this process has to itself until the value is dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Identity,
    _lock: File,
}

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The layout's version.
    pub format: u32,
    /// The node's number.
    pub node_id: u64,
    /// The name it was derived from, where the node was given one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Random, made with the directory: tells a wiped disk under an old id from the old disk.
    pub incarnation: String,
}

/// Why a data directory cannot be used. Nothing in it has been changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process uses it.
    #[error("data directory {} is in use by another process: stop it, or choose another ODGM_DATA_DIR", .0.display())]
    InUse(PathBuf),
    /// There is no data directory.
    #[error("{} is not a data directory: it has no {NODE_FILE}", .0.display())]
    Missing(PathBuf),
    /// It was written by another layout.
    #[error(
        "data directory {} has format {found}; this build reads format {FORMAT}: use the build that wrote it",
        path.display()
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It belongs to another node.
    #[error(
        "data directory {} belongs to node {found}, not to node {expected}: correct ODGM_NODE_ID or ODGM_DATA_DIR",
        path.display()
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// The configured node.
        expected: String,
        /// The node in the directory.
        found: String,
    },
    /// Its node file cannot be read as one.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There are files in it, but it was never a data directory.
    #[error("{} is not empty and not a data directory: choose an empty or new folder", .0.display())]
    Foreign(PathBuf),
    /// There are no random numbers for a new node.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// A node as its operator names it: a number, or any other text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl NodeName {
    /// Takes a number or a name of 1 to 160 printable characters without spaces.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=160).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        valid.then(|| Self(text.to_owned()))
    }

    /// The number itself, or for a name the first 63 bits of its blake3 hash.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.parse().unwrap_or_else(|_| {
            let mut first = [0; 8];
            first.copy_from_slice(&blake3::hash(self.0.as_bytes()).as_bytes()[..8]);
            u64::from_be_bytes(first) >> 1
        }))
    }

    fn name(&self) -> Option<String> {
        self.0.parse::<u64>().is_err().then(|| self.0.clone())
    }
}

impl DataDir {
    /// Opens the directory of a node, making it if there is none. Without a name an existing directory keeps its
    /// node, and a new one gets a random number.
    ///
    /// # Errors
    /// [`Error`]; nothing has been changed.
    pub fn open(root: &Path, node: Option<&NodeName>) -> Result<Self, Error> {
        std::fs::create_dir_all(root).map_err(|source| io_error(root, source))?;
        let lock = lock(root)?;
        let identity = match read_identity(root) {
            Ok(identity) => {
                expect_node(root, &identity, node)?;
                identity
            }
            Err(Error::Missing(_)) => create(root, node)?,
            Err(error) => return Err(error),
        };
        clear_scratch(root);
        Ok(Self { root: root.to_owned(), identity, _lock: lock })
    }

    /// Opens the existing directory of a node that is not running.
    ///
    /// # Errors
    /// [`Error::InUse`] while a node runs on it, [`Error::Missing`] where there is none.
    pub fn open_existing(root: &Path) -> Result<Self, Error> {
        let identity = read_identity(root)?;
        let lock = lock(root)?;
        clear_scratch(root);
        Ok(Self { root: root.to_owned(), identity, _lock: lock })
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The node's number.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.identity.node_id)
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the views of all groups are.
    pub(crate) fn views(&self) -> PathBuf {
        self.root.join("views")
    }

    /// Where the snapshots of all groups are.
    pub(crate) fn all_snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Where the logs are.
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// Where the view of a group is.
    pub fn view(&self, group: GroupId) -> PathBuf {
        self.root.join("views").join(group.to_string())
    }

    /// Where a second view of a group is made for a while. Gone when the directory is next opened.
    pub fn scratch(&self, group: GroupId) -> PathBuf {
        self.root.join(SCRATCH).join(group.to_string())
    }

    /// A new folder in which something is made for a while, named by its purpose.
    pub(crate) fn scratch_folder(&self, name: &str) -> io::Result<ScratchFolder> {
        let folder = ScratchFolder(self.root.join(SCRATCH).join(name));
        fs::create_dir_all(&folder.0)?;
        Ok(folder)
    }

    /// Where the snapshots of a group are.
    pub fn snapshots(&self, group: GroupId) -> PathBuf {
        self.root.join("snapshots").join(group.to_string())
    }
}

/// A folder that is removed when it is no longer needed.
pub(crate) struct ScratchFolder(PathBuf);

impl ScratchFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // What stays is removed when the directory is next opened.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Removes what a killed process left unfinished.
fn clear_scratch(root: &Path) {
    let scratch = root.join(SCRATCH);
    match std::fs::remove_dir_all(&scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %scratch.display(), %error, "an unfinished view was not removed");
        }
        _ => {}
    }
}

fn read_identity(root: &Path) -> Result<Identity, Error> {
    let path = root.join(NODE_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing(root.to_owned())),
        Err(source) => return Err(io_error(&path, source)),
    };
    let damaged = |reason: String| Error::Damaged { path: path.clone(), reason };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    // The version first: the rest of another format's file need not look like ours.
    let found =
        value.get("format").and_then(serde_json::Value::as_u64).ok_or_else(|| damaged("no format".into()))?;
    if found != u64::from(FORMAT) {
        return Err(Error::Format { path: root.to_owned(), found });
    }
    serde_json::from_value(value).map_err(|error| damaged(error.to_string()))
}

fn expect_node(root: &Path, identity: &Identity, node: Option<&NodeName>) -> Result<(), Error> {
    match node {
        Some(node) if node.node_id().0 != identity.node_id => Err(Error::OtherNode {
            path: root.to_owned(),
            expected: node.0.clone(),
            found: identity.node_name.clone().unwrap_or_else(|| identity.node_id.to_string()),
        }),
        _ => Ok(()),
    }
}

fn create(root: &Path, node: Option<&NodeName>) -> Result<Identity, Error> {
    // What a crash left of the first attempt to write the node file is written over.
    let ours = [LOCK_FILE, NEW_NODE_FILE, "lost+found"];
    let occupied = std::fs::read_dir(root)
        .map_err(|source| io_error(root, source))?
        .filter_map(Result::ok)
        .any(|entry| !ours.iter().any(|ours| entry.file_name() == *ours));
    if occupied {
        return Err(Error::Foreign(root.to_owned()));
    }
    let identity = Identity {
        format: FORMAT,
        // One bit less than 64, so that the number fits every signed field it may meet.
        node_id: node.map_or_else(|| random().map(|id| id >> 1), |node| Ok(node.node_id().0))?,
        node_name: node.and_then(NodeName::name),
        incarnation: format!("{:016x}", random()?),
    };
    let path = root.join(NODE_FILE);
    let text = serde_json::to_string_pretty(&identity)
        .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
    write_durably(root, text.as_bytes()).map_err(|source| io_error(&path, source))?;
    Ok(identity)
}

/// Written beside and renamed, so that a crash leaves either no file or a whole one.
fn write_durably(root: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = root.join(NEW_NODE_FILE);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, root.join(NODE_FILE))?;
    File::open(root)?.sync_all()
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io_error(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse(root.to_owned())),
        Err(TryLockError::Error(source)) => Err(io_error(&path, source)),
    }
}

fn random() -> Result<u64, Error> {
    getrandom::u64().map_err(Error::Random)
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> NodeName {
        NodeName::parse(text).expect("a valid name")
    }

    #[test]
    fn a_directory_keeps_its_node() {
        let root = tempfile::tempdir().expect("a folder");
        let first = DataDir::open(root.path(), None).expect("a new directory").node_id();
        let again = DataDir::open(root.path(), None).expect("the same directory");
        assert_eq!(again.node_id(), first);
        drop(again);

        let error = DataDir::open(root.path(), Some(&node("seven"))).expect_err("another node");
        assert!(matches!(error, Error::OtherNode { .. }), "{error}");
    }

    #[test]
    fn numbers_are_taken_as_they_are_and_names_always_map_to_the_same_number() {
        assert_eq!(node("7").node_id(), NodeId(7));
        assert_eq!(node("rack-1").node_id(), node("rack-1").node_id());
        assert_ne!(node("rack-1").node_id(), node("rack-2").node_id());
        assert_eq!(NodeName::parse(""), None);
        assert_eq!(NodeName::parse("two words"), None);
    }

    #[test]
    fn only_one_process_at_a_time() {
        let root = tempfile::tempdir().expect("a folder");
        let held = DataDir::open(root.path(), None).expect("a new directory");
        assert!(matches!(DataDir::open(root.path(), None), Err(Error::InUse(_))));
        assert!(matches!(DataDir::open_existing(root.path()), Err(Error::InUse(_))));
        drop(held);
        DataDir::open_existing(root.path()).expect("free again");
    }

    #[test]
    fn a_crash_while_the_node_file_is_first_written_does_not_make_the_folder_foreign() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::write(root.path().join(NEW_NODE_FILE), b"{\"form").expect("half a file");
        let first = DataDir::open(root.path(), Some(&node("7"))).expect("a new directory").node_id();
        assert_eq!(first, NodeId(7));
        assert!(!root.path().join(NEW_NODE_FILE).exists());
    }

    #[test]
    fn what_a_killed_process_left_unfinished_is_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let data = DataDir::open(root.path(), None).expect("a new directory");
        let scratch = data.scratch(GroupId(3));
        std::fs::create_dir_all(&scratch).expect("a folder");
        drop(data);
        DataDir::open_existing(root.path()).expect("the same directory");
        assert!(!scratch.exists());
    }

    #[test]
    fn other_formats_and_foreign_folders_are_left_alone() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::write(root.path().join("photo.jpg"), b"...").expect("a file");
        assert!(matches!(DataDir::open(root.path(), None), Err(Error::Foreign(_))));

        let future = r#"{"format": 9, "shape": "unknown"}"#;
        std::fs::write(root.path().join(NODE_FILE), future).expect("a file");
        assert!(matches!(DataDir::open(root.path(), None), Err(Error::Format { found: 9, .. })));
        let kept = std::fs::read_to_string(root.path().join(NODE_FILE)).expect("still there");
        assert_eq!(kept, future);
    }
}
