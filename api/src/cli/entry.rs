//! Single entries of an object: `odgm entry get|set|delete|list|batch`.

use std::collections::BTreeMap;

use bytes::Bytes;
use clap::{Args, Subcommand};
use odgm_proto::oprc::{ListValuesRequest, ValData};
use serde::Serialize;

use super::{
    address::ObjectAddress,
    assignment::{self, Assignment},
    client::{Client, Context, Place},
    error::Error,
    list::PAGE,
    object::{self, GetArgs, WriteOptions, Written},
    output::Rows,
    time::Moment,
    value::EntryValue,
    wire,
};

/// What to do with the entries of an object.
#[derive(Debug, Subcommand)]
pub(crate) enum EntryCommand {
    /// Show the value of one entry
    Get(EntryGetArgs),
    /// Write entries and leave the others as they are
    #[command(after_help = format!("{}\n\n{CAS_HELP}", assignment::HELP))]
    Set(EntrySetArgs),
    /// Delete entries; those that do not exist do not matter
    Delete(EntryDeleteArgs),
    /// List entries in the order of their keys
    List(EntryListArgs),
    /// Write and delete entries at once, all or none
    #[command(after_help = format!("{}\n\n{CAS_HELP}", assignment::HELP))]
    Batch(EntryBatchArgs),
}

const CAS_HELP: &str = "\
Compare and set: with --expect-version N nothing is written, and the exit code is 4, unless the
object is at version N. 0 means that the object must not exist.

Examples:
  odgm entry set demo/0/alice city=Oslo
  odgm entry set demo/0/alice city=Oslo --expect-version 3
  odgm entry batch demo/0/alice city=Oslo --delete street --delete zip";

#[derive(Debug, Args)]
pub(crate) struct EntryGetArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// The entry
    key: String,
    /// As it was after the record at an offset, or at a time
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    at: Option<Moment>,
    /// The value's bytes as they are, without a line feed
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EntrySetArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// The entries
    #[arg(value_name = "KEY=VALUE", required = true)]
    entries: Vec<Assignment>,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Debug, Args)]
pub(crate) struct EntryDeleteArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// The entries
    #[arg(value_name = "KEY", required = true)]
    keys: Vec<String>,
    /// Only if the object is at this version
    #[arg(long, value_name = "N")]
    expect_version: Option<u64>,
    #[command(flatten)]
    options: WriteOptions,
}

#[derive(Debug, Args)]
pub(crate) struct EntryListArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// Only keys that begin with this
    #[arg(long)]
    prefix: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Only the keys
    #[arg(long)]
    keys: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EntryBatchArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// The entries to write
    #[arg(value_name = "KEY=VALUE")]
    entries: Vec<Assignment>,
    /// An entry to delete; may be repeated
    #[arg(long = "delete", value_name = "KEY")]
    deletes: Vec<String>,
    #[command(flatten)]
    change: ChangeOptions,
}

#[derive(Debug, Args)]
struct ChangeOptions {
    /// Only if the object is at this version; 0: only if it does not exist
    #[arg(long, value_name = "N")]
    expect_version: Option<u64>,
    /// The values are saved automerge documents (CRDT_MAP)
    #[arg(long)]
    crdt: bool,
    #[command(flatten)]
    options: WriteOptions,
}

/// `odgm entry`.
pub(crate) async fn run(command: EntryCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        EntryCommand::Get(EntryGetArgs { address, key, at, raw }) => {
            object::get(GetArgs { address, key: Some(key), at, raw }, context).await
        }
        EntryCommand::Set(EntrySetArgs { address, entries, change }) => {
            write(address, entries, Vec::new(), change, context).await
        }
        EntryCommand::Delete(EntryDeleteArgs { address, keys, expect_version, options }) => {
            let change = ChangeOptions { expect_version, crdt: false, options };
            write(address, Vec::new(), keys, change, context).await
        }
        EntryCommand::Batch(EntryBatchArgs { address, entries, deletes, change }) => {
            if entries.is_empty() && deletes.is_empty() {
                return Err(Error::Usage("give at least one KEY=VALUE or --delete KEY".into()));
            }
            write(address, entries, deletes, change, context).await
        }
        EntryCommand::List(args) => list(args, context).await,
    }
}

async fn write(
    address: ObjectAddress,
    entries: Vec<Assignment>,
    deletes: Vec<String>,
    change: ChangeOptions,
    context: &mut Context,
) -> Result<(), Error> {
    let entries = assignment::read_all(entries, change.crdt)?;
    let client = context.connect().await?;
    let place = client.locate(address).await?;
    let version = send(&client, place.clone(), entries, deletes, &change).await?;
    context.output.document(&Written::new(place, version))
}

/// The narrowest request that does it: a single put or delete without a condition needs no batch.
async fn send(
    client: &Client,
    place: Place,
    mut entries: BTreeMap<String, ValData>,
    mut deletes: Vec<String>,
    change: &ChangeOptions,
) -> Result<Option<u64>, Error> {
    let id = change.options.request_id.as_deref();
    let is_single = change.expect_version.is_none() && entries.len() + deletes.len() == 1;
    let metadata = match (is_single, entries.pop_first(), deletes.pop()) {
        (true, Some((key, value)), None) => {
            let message = wire::set_key(place, key, value);
            client.data().set_value(wire::with_request_id(message, id)?).await?.metadata().clone()
        }
        (true, None, Some(key)) => {
            let message = wire::single_key(place, key);
            client.data().delete_value(wire::with_request_id(message, id)?).await?.metadata().clone()
        }
        (_, entry, delete) => {
            entries.extend(entry);
            deletes.extend(delete);
            let message = wire::batch(place, entries, deletes, change.expect_version);
            client.data().batch_set_values(wire::with_request_id(message, id)?).await?.metadata().clone()
        }
    };
    Ok(wire::version(&metadata))
}

#[derive(Serialize)]
struct EntryRow {
    key: String,
    /// The object's version at which the entry was last written.
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<EntryValue>,
}

async fn list(args: EntryListArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let heading: &'static [&'static str] =
        if args.keys { &["KEY", "VERSION"] } else { &["KEY", "VERSION", "VALUE"] };
    let mut rows = Rows::new(&mut context.output, heading);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut cursor = None;
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let mut stream = client
            .data()
            .list_values(page_request(&place, args.prefix.clone(), page, cursor.take()))
            .await?
            .into_inner();
        while let Some(envelope) = stream.message().await? {
            left = left.saturating_sub(1);
            cursor = envelope.next_cursor;
            let value = envelope.value.filter(|_| !args.keys).map(EntryValue);
            let row = EntryRow { key: envelope.key, version: envelope.version, value };
            let mut cells = vec![row.key.as_str().into(), row.version.into()];
            cells.extend(row.value.as_ref().map(|value| value.to_string().into()));
            rows.push(&row, cells)?;
        }
        if cursor.is_none() {
            break;
        }
    }
    rows.finish()
}

fn page_request(
    place: &Place,
    key_prefix: Option<String>,
    limit: u32,
    cursor: Option<Bytes>,
) -> ListValuesRequest {
    ListValuesRequest {
        cls_id: place.class.clone(),
        partition_id: place.partition.into(),
        object_id_str: Some(place.id.clone()),
        key_prefix,
        limit,
        cursor,
        ..Default::default()
    }
}
