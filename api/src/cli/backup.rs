//! `odgm backup`: collections into a folder, while they are in use, and the proof that such a folder is whole.

mod manifest;

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use odgm_log::Timestamp;
use odgm_proto::{metadata::LEADER, odgm::v1};
use odgm_replication::bundle;
use serde::Serialize;
use tonic::{Code, Status};

use super::{
    client::{Client, Context},
    error::Error,
    output::{Human, Style, Table},
    progress, time, verify,
};

pub(crate) use manifest::{Backup, StoredCollection};
use manifest::{CHECKSUMS, MANIFEST, Manifest, Source, StoredPartition};

/// How often a partition is begun again whose records were trimmed while they were read.
const ATTEMPTS: usize = 3;

/// Nodes that are asked one after the other for a whole copy of a partition.
const NODES: usize = 9;

/// `odgm backup`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// The folder to make; it must not exist
    #[arg(value_name = "DIR", required = true)]
    dir: Option<PathBuf>,
    /// Only this collection; may be repeated [default: all]
    #[arg(long = "collection", value_name = "NAME")]
    collections: Vec<String>,
    /// Only the state, without the records: no history, no time travel, and subscribers begin anew
    #[arg(long)]
    no_log: bool,
}

/// What else to do with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Check that a backup is whole: every file, every record, the chain over them
    Verify {
        /// The folder of the backup
        dir: PathBuf,
    },
}

/// Help below the options.
pub(crate) const HELP: &str = "\
The node goes on serving meanwhile. Of each partition the backup has the state at one moment, with everything
that was acknowledged before the backup began, and the records that are kept up to it. DIR appears when it is
whole; until then it is DIR.partial. CHECKSUMS in it is in the format of b3sum.

Examples:
  odgm backup /backups/monday
  odgm backup --collection flights --collection orders flights-and-orders
  odgm backup verify /backups/monday";

/// `odgm backup`.
pub(crate) async fn run(args: BackupArgs, context: &mut Context) -> Result<(), Error> {
    match (args.command, args.dir) {
        (Some(BackupCommand::Verify { dir }), _) => {
            let backup = Backup::open(&dir)?;
            verify::conclude(backup.prove()?, context)
        }
        (None, Some(dir)) => make(&dir, &args.collections, args.no_log, context).await,
        (None, None) => Err(Error::Usage("expected the folder to make".to_owned())),
    }
}

async fn make(dir: &Path, names: &[String], no_log: bool, context: &mut Context) -> Result<(), Error> {
    if dir.exists() {
        return Err(Error::Conflict(format!("there is {} already: name a new folder", dir.display())));
    }
    let client = context.connect().await?;
    let collections = collections(&client, names).await?;
    let node = client.admin().get_node(v1::GetNodeRequest {}).await?.into_inner();
    let partial = dir.with_added_extension("partial");
    clear(&partial)?;
    fs::create_dir_all(&partial).map_err(|error| Error::file("create", &partial, &error))?;

    let bar = progress::bytes(Some(0));
    let mut stored = Vec::new();
    for collection in collections {
        let definition = collection.definition.unwrap_or_default();
        let mut partitions = Vec::new();
        for partition in (0_u32..).take(collection.groups.len()) {
            let name = format!("{}.{partition}.odgm", definition.name);
            bar.set_message(format!("{}/{partition}", definition.name));
            let request = v1::BackupRequest {
                cls_id: definition.name.clone(),
                partition_id: partition,
                without_log: no_log,
            };
            let download = Download { client: &client, request, path: partial.join(&name), bar: &bar };
            download.run().await?;
            partitions.push(StoredPartition::read(&partial, name, partition)?);
        }
        stored.push(StoredCollection { definition, created_ms: collection.created_ms, partitions });
    }
    bar.finish_and_clear();
    let created = time::format_ms(Timestamp::now().as_millis());
    let source = Source { id: node.node_id, version: node.version };
    let manifest = Manifest::new(created, source, stored);
    manifest.write(&partial)?;
    fs::rename(&partial, dir)
        .and_then(|()| sync_parent(dir))
        .map_err(|error| Error::file("rename", &partial, &error))?;
    context.output.document(&Made::new(dir, &manifest))
}

/// The collections of these names, or all.
async fn collections(client: &Client, names: &[String]) -> Result<Vec<v1::Collection>, Error> {
    let listed = client.admin().list_collections(v1::ListCollectionsRequest {}).await?.into_inner();
    let mut collections = listed.collections;
    let name_of =
        |collection: &v1::Collection| collection.definition.as_ref().map(|found| found.name.clone());
    if let Some(missing) =
        names.iter().find(|name| !collections.iter().any(|found| name_of(found).as_ref() == Some(*name)))
    {
        return Err(Error::NotFound(format!("there is no collection {missing:?}")));
    }
    collections.retain(|found| names.is_empty() || name_of(found).is_some_and(|name| names.contains(&name)));
    Ok(collections)
}

/// Removes what an interrupted backup has left; anything else stays, and is an error.
fn clear(partial: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(partial) else { return Ok(()) };
    for entry in entries {
        let path = entry.map_err(|error| Error::file("read", partial, &error))?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "odgm")
            || [MANIFEST, CHECKSUMS].iter().any(|ours| path.ends_with(ours));
        if !is_ours {
            return Err(Error::Conflict(format!(
                "{} is no part of an interrupted backup: move it away, or name another folder",
                path.display()
            )));
        }
    }
    fs::remove_dir_all(partial).map_err(|error| Error::file("remove", partial, &error))
}

fn sync_parent(dir: &Path) -> std::io::Result<()> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// One partition on its way into a file.
struct Download<'a> {
    client: &'a Client,
    request: v1::BackupRequest,
    path: PathBuf,
    bar: &'a ProgressBar,
}

impl Download<'_> {
    /// Asks the node, and others that it names where it has no whole copy itself.
    async fn run(&self) -> Result<(), Error> {
        let mut client = self.client.clone();
        let (mut attempts, mut nodes) = (ATTEMPTS, NODES);
        loop {
            let Err(failed) = self.try_once(&client).await else { return Ok(()) };
            let Failed::Status(status) = failed else { return Err(failed.into()) };
            let elsewhere = matches!(status.code(), Code::FailedPrecondition | Code::Unavailable)
                .then(|| other_node(&status))
                .flatten();
            match elsewhere {
                Some(address) if nodes > 0 => {
                    nodes -= 1;
                    client = Client::connect(&format!("http://{address}")).await?;
                }
                _ if status.code() == Code::Aborted && attempts > 0 => attempts -= 1,
                _ => return Err(status.into()),
            }
        }
    }

    async fn try_once(&self, client: &Client) -> Result<(), Failed> {
        let mut bytes = client.admin().backup(self.request.clone()).await?.into_inner();
        let create = |error| Error::file("create", &self.path, &error);
        let write = |error| Error::file("write", &self.path, &error);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&self.path).map_err(create)?);
        let before = self.bar.position();
        let mut is_first = true;
        while let Some(message) = bytes.message().await? {
            if std::mem::take(&mut is_first)
                && let Some(begin) = bundle::announced(&message.data)
            {
                self.bar.set_length(before + begin.expected);
            }
            file.write_all(&message.data).map_err(write)?;
            self.bar.inc(message.data.len() as u64);
        }
        let file = file.into_inner().map_err(|error| write(error.into_error()))?;
        file.sync_all().map_err(write)?;
        Ok(())
    }
}

/// Why a partition was not stored.
enum Failed {
    Status(Status),
    Here(Error),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Here(error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Status(status) => status.into(),
            Failed::Here(error) => error,
        }
    }
}

/// The address of the node that a status names.
fn other_node(status: &Status) -> Option<String> {
    let named = status.metadata().get(LEADER)?.to_str().ok()?;
    let (_, address) = named.split_once('@')?;
    (!address.is_empty()).then(|| address.to_owned())
}

/// What was backed up.
#[derive(Debug, Serialize)]
struct Made {
    backup: PathBuf,
    bytes: u64,
    collections: Vec<MadeCollection>,
}

#[derive(Debug, Serialize)]
struct MadeCollection {
    collection: String,
    partitions: usize,
    records: u64,
    bytes: u64,
}

impl Made {
    fn new(dir: &Path, manifest: &Manifest) -> Self {
        let collections: Vec<_> = manifest
            .collections
            .iter()
            .map(|stored| MadeCollection {
                collection: stored.definition.name.clone(),
                partitions: stored.partitions.len(),
                records: stored.partitions.iter().map(|partition| partition.records).sum(),
                bytes: stored.partitions.iter().map(|partition| partition.bytes).sum(),
            })
            .collect();
        Self { backup: dir.to_owned(), bytes: collections.iter().map(|made| made.bytes).sum(), collections }
    }
}

impl Human for Made {
    fn human(&self, style: Style) -> String {
        let mut table = Table::new(&["COLLECTION", "PARTITIONS", "RECORDS", "BYTES"]);
        for made in &self.collections {
            table.row(vec![
                made.collection.as_str().into(),
                (made.partitions as u64).into(),
                made.records.into(),
                made.bytes.into(),
            ]);
        }
        format!("{}backed up into {}\n", table.render(style), self.backup.display())
    }
}
