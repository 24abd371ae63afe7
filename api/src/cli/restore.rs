//! `odgm restore`: collections from a backup into a node or cluster that runs.

use std::{
    fs::File,
    io::{BufReader, Read as _},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use clap::Args;
use indicatif::ProgressBar;
use odgm_proto::odgm::v1::{self, restore_request::Part};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    backup::{Backup, StoredCollection},
    client::{Client, Context},
    error::Error,
    output::{Human, Style},
    progress,
};

/// The bytes of one message, and how many wait to be sent.
const MESSAGE_BYTES: usize = 256 << 10;
const MESSAGES: usize = 8;

/// `odgm restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The folder of the backup
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this collection; may be repeated [default: all]
    #[arg(long = "collection", value_name = "NAME")]
    collections: Vec<String>,
    /// The new name of the one collection that is restored
    #[arg(long = "as", value_name = "NEW-NAME")]
    new_name: Option<String>,
    /// Leave out collections that exist already, as after a restore that was interrupted
    #[arg(long)]
    missing: bool,
    /// How partitions are replicated from now on [default: as they were]
    #[arg(long = "type", value_name = "TYPE")]
    shard_type: Option<String>,
    /// How many replicas each partition gets [default: as many as they had]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
}

/// Help below the options.
pub(crate) const HELP: &str = "\
The backup is verified first. A collection appears when all of it is there and a majority of its replicas has
it; of one that was interrupted before there is nothing, and it can be repeated. One that exists is never replaced:
delete it first, or restore under another name.

Examples:
  odgm restore /backups/monday
  odgm restore /backups/monday --collection flights --as flights-of-monday
  odgm restore /backups/one-node --type raft --replicas 3      # what a lone node had, into a cluster";

/// `odgm restore`.
pub(crate) async fn run(args: RestoreArgs, context: &mut Context) -> Result<(), Error> {
    let backup = Backup::open(&args.dir)?;
    let chosen = choose(&backup, &args)?;
    let client = context.connect().await?;
    let chosen = new_ones(&client, chosen, &args).await?;
    for stored in &chosen {
        let proofs = backup.prove_collection(stored);
        if let Some(problem) = proofs.into_iter().find_map(|proof| proof.problem) {
            return Err(Error::Failed(format!("the backup is damaged, and nothing was restored: {problem}")));
        }
    }
    let mut restored = Vec::new();
    for stored in chosen {
        restored.push(restore(&backup, stored, &args, &client).await?);
    }
    context.output.document(&Done { restored })
}

/// The collections that are asked for.
fn choose(backup: &Backup, args: &RestoreArgs) -> Result<Vec<StoredCollection>, Error> {
    let mut stored = backup.collections();
    let has = |name: &String| stored.iter().any(|stored| stored.definition.name == *name);
    if let Some(missing) = args.collections.iter().find(|name| !has(name)) {
        return Err(Error::NotFound(format!("the backup has no collection {missing:?}")));
    }
    stored.retain(|stored| args.collections.is_empty() || args.collections.contains(&stored.definition.name));
    if args.new_name.is_some() && stored.len() != 1 {
        let found = stored.len();
        return Err(Error::Usage(format!(
            "--as names one collection, and {found} are to be restored: choose one with --collection"
        )));
    }
    Ok(stored)
}

/// Those that do not exist; an error if one does, unless such are left out.
async fn new_ones(
    client: &Client,
    mut chosen: Vec<StoredCollection>,
    args: &RestoreArgs,
) -> Result<Vec<StoredCollection>, Error> {
    let listed = client.admin().list_collections(v1::ListCollectionsRequest {}).await?.into_inner();
    let names: Vec<String> =
        listed.collections.into_iter().filter_map(|found| Some(found.definition?.name)).collect();
    let target = |stored: &StoredCollection| args.new_name.clone().unwrap_or(stored.definition.name.clone());
    if args.missing {
        chosen.retain(|stored| !names.contains(&target(stored)));
    } else if let Some(existing) = chosen.iter().map(target).find(|target| names.contains(target)) {
        return Err(Error::Conflict(format!(
            "there is a collection {existing:?} already, and nothing was restored: delete it first, restore under \
             another name with --as, or leave out those that exist with --missing"
        )));
    }
    Ok(chosen)
}

async fn restore(
    backup: &Backup,
    stored: StoredCollection,
    args: &RestoreArgs,
    client: &Client,
) -> Result<RestoredView, Error> {
    let mut definition = stored.definition.clone();
    definition.name = args.new_name.clone().unwrap_or(definition.name);
    definition.shard_type = args.shard_type.clone().unwrap_or(definition.shard_type);
    definition.replica_count = args.replicas.map_or(definition.replica_count, i32::from);
    let name = definition.name.clone();
    let groups = stored.groups().unwrap_or_default();
    let begin = v1::RestoreBegin { collection: Some(definition), groups };
    let bar = progress::bytes(Some(stored.partitions.iter().map(|partition| partition.bytes).sum()));
    bar.set_message(name.clone());
    let paths: Vec<PathBuf> = stored.partitions.iter().map(|partition| backup.path(partition)).collect();
    let (sender, messages) = mpsc::channel(MESSAGES);
    let sending = {
        let bar = bar.clone();
        tokio::task::spawn_blocking(move || send(begin, &paths, &sender, &bar))
    };
    let answer = client.admin().restore(ReceiverStream::new(messages)).await;
    let sent = sending.await.unwrap_or_else(|error| Err(Error::Failed(error.to_string())));
    bar.finish_and_clear();
    let answer = answer.map_err(Error::from);
    // What could not be read here is the cause of what the node says.
    sent?;
    Ok(RestoredView {
        collection: name,
        partitions: stored.partitions.len(),
        same_groups: answer?.into_inner().same_groups,
    })
}

/// Sends the definition and the bundles. Blocks; ends early when the node has refused.
fn send(
    begin: v1::RestoreBegin,
    paths: &[PathBuf],
    sender: &mpsc::Sender<v1::RestoreRequest>,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let pass_on = |part| sender.blocking_send(v1::RestoreRequest { part: Some(part) }).is_ok();
    if !pass_on(Part::Begin(begin)) {
        return Ok(());
    }
    for path in paths {
        let failed = |error| Error::file("read", path, &error);
        let mut file = BufReader::with_capacity(MESSAGE_BYTES, File::open(path).map_err(failed)?);
        loop {
            let mut message = BytesMut::zeroed(MESSAGE_BYTES);
            let count = file.read(&mut message).map_err(failed)?;
            if count == 0 {
                break;
            }
            message.truncate(count);
            if !pass_on(Part::Data(Bytes::from(message))) {
                return Ok(());
            }
            bar.inc(count as u64);
        }
    }
    bar.set_message("waiting for the replicas");
    Ok(())
}

#[derive(Debug, Serialize)]
struct Done {
    restored: Vec<RestoredView>,
}

/// A collection that was restored.
#[derive(Debug, Serialize)]
struct RestoredView {
    collection: String,
    partitions: usize,
    /// Whether cursors that subscribers were given hold.
    same_groups: bool,
}

impl Human for Done {
    fn human(&self, _: Style) -> String {
        if self.restored.is_empty() {
            return "nothing to restore\n".to_owned();
        }
        let mut text = String::new();
        for RestoredView { collection, partitions, same_groups } in &self.restored {
            text += &format!("restored {collection}, {partitions} partitions\n");
            if !same_groups {
                text += &format!(
                    "  {collection} has new groups: subscribers begin from an offset, a time or a named cursor; \
                     opaque cursors from before are refused\n"
                );
            }
        }
        text
    }
}
