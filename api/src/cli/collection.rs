//! `odgm collection`: create, list, describe, change and delete collections.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::{Args, Subcommand};
use odgm_proto::{odgm::v1, oprc::CreateCollectionRequest};
use serde::Serialize;
use tonic::Code;

use super::{
    ask,
    client::{Client, Context},
    error::Error,
    output::{Human, Style, Table},
    partition::PartitionRow,
    route::{self, FunctionArgs, RouteArgs, RouteView},
    time,
};

/// What to do with collections.
#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// Create a collection
    #[command(after_help = create_help())]
    Create(CreateArgs),
    /// List all collections
    List,
    /// Show a collection's definition, its functions and its partitions
    Describe {
        /// The collection
        name: String,
    },
    /// Change options of a collection while it is in use
    #[command(after_help = SET_HELP)]
    Set {
        /// The collection
        name: String,
        /// An option and its value; without a value it gets its default back
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = parse_option)]
        options: Vec<(String, String)>,
    },
    /// Show the functions of a collection, or change where they run while it is in use
    #[command(after_help = route::help())]
    Route(RouteArgs),
    /// Delete a collection with all its objects and its history
    Delete {
        /// The collection
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

fn create_help() -> String {
    format!(
        "Options of a collection: storage=rocksdb|memory, set_mode=replace|upsert, retention=..., consistency=...; of \
         its calls: trigger_timeout_ms=..., trigger_max_attempts=..., max_trigger_depth=..., and so on. A name that is none \
         is refused with all that there are.\n\n{}\n\n\
         Examples:\n  \
         odgm collection create flights --partitions 8\n  \
         odgm collection create cache --option storage=memory\n  \
         odgm collection create demo --function count=http://127.0.0.1:9000\n  \
         odgm collection create --file orders.json       # a definition as in ODGM_COLLECTION\n  \
         odgm collection create demo --if-missing",
        route::FILE_HELP
    )
}

const SET_HELP: &str = "\
Partitions, replicas, type, storage, set_mode, raft_init_leader_only and the rules of its outbox and results \
(events_enabled, max_trigger_depth, outbox_*, result_*) are fixed when a collection is created; `odgm cluster` says where \
partitions are. `odgm collection route` says where functions run.

Examples:
  odgm collection set orders retention=7d,10GiB
  odgm collection set orders consistency=lease raft_net_leader_only=true
  odgm collection set orders max_concurrent_triggers=500 trigger_timeout_ms=5000
  odgm collection set orders retention=";

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// The collection's name
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// How many partitions; fixed for the life of the collection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    partitions: Option<u16>,
    /// How many replicas each partition has [default: 3 of type raft, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// How partitions are replicated: basic, none, single, raft, mst
    #[arg(long = "type", value_name = "TYPE")]
    shard_type: Option<String>,
    /// An option; may be repeated
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    /// A JSON definition, which the other options override
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    functions: FunctionArgs,
    /// Succeed if there is a collection of that name already
    #[arg(long)]
    if_missing: bool,
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, for example storage=memory".to_owned()),
    }
}

/// `odgm collection`.
pub(crate) async fn run(command: CollectionCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        CollectionCommand::Create(args) => create(args, context).await,
        CollectionCommand::List => list(context).await,
        CollectionCommand::Describe { name } => {
            let client = context.connect().await?;
            let described = describe(&client, name).await?;
            context.output.document(&described)
        }
        CollectionCommand::Set { name, options } => set(name, options, context).await,
        CollectionCommand::Route(args) => route::run(args, context).await,
        CollectionCommand::Delete { name, yes } => delete(name, yes, context).await,
    }
}

async fn create(args: CreateArgs, context: &mut Context) -> Result<(), Error> {
    let if_missing = args.if_missing;
    let definition = definition(args)?;
    let name = definition.name.clone();
    let client = context.connect().await?;
    let request = v1::CreateCollectionRequest { collection: Some(definition) };
    match client.admin().create_collection(request).await {
        Ok(answer) => {
            let collection = answer.into_inner().collection.unwrap_or_default();
            context.output.document(&Created { collection: collection.into(), created: true })
        }
        Err(status) if if_missing && status.code() == Code::AlreadyExists => {
            let collection = describe(&client, name).await?.collection;
            context.output.document(&Created { collection, created: false })
        }
        Err(status) => Err(status.into()),
    }
}

fn definition(args: CreateArgs) -> Result<CreateCollectionRequest, Error> {
    let mut definition = match &args.file {
        Some(path) => {
            let text = fs::read(path).map_err(|error| Error::file("read", path, &error))?;
            serde_json::from_slice(&text).map_err(|error| {
                Error::Usage(format!("{} is no collection definition: {error}", path.display()))
            })?
        }
        // The type says how many replicas there are where nothing else does.
        None => CreateCollectionRequest {
            partition_count: 1,
            shard_type: "basic".to_owned(),
            ..Default::default()
        },
    };
    definition.name = args.name.unwrap_or(definition.name);
    definition.partition_count = args.partitions.map_or(definition.partition_count, i32::from);
    definition.replica_count = args.replicas.map_or(definition.replica_count, i32::from);
    definition.shard_type = args.shard_type.unwrap_or(definition.shard_type);
    definition.options.extend(args.options);
    args.functions.put_into(&mut definition.invocations)?;
    Ok(definition)
}

async fn list(context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let answer = client.admin().list_collections(v1::ListCollectionsRequest {}).await?.into_inner();
    let collections = answer.collections.into_iter().map(CollectionView::from).collect();
    context.output.document(&Collections { collections })
}

async fn describe(client: &Client, name: String) -> Result<Described, Error> {
    let answer =
        client.admin().describe_collection(v1::DescribeCollectionRequest { name }).await?.into_inner();
    Ok(Described {
        collection: answer.collection.unwrap_or_default().into(),
        partitions: answer.partitions.into_iter().map(PartitionRow::from).collect(),
    })
}

async fn set(name: String, options: Vec<(String, String)>, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let options = options.into_iter().collect();
    let request = v1::UpdateCollectionRequest { name, options, invocations: None };
    let answer = client.admin().update_collection(request).await?.into_inner();
    context.output.document(&Updated { collection: answer.collection.unwrap_or_default().into() })
}

async fn delete(name: String, yes: bool, context: &mut Context) -> Result<(), Error> {
    if !yes && !ask::can_ask() {
        return Err(Error::Usage(format!(
            "deleting the collection {name:?} takes all its objects and its history with it: without a terminal \
             to ask on, say --yes"
        )));
    }
    let client = context.connect().await?;
    if !yes {
        let described = describe(&client, name.clone()).await?;
        let objects: u64 = described.partitions.iter().map(|partition| partition.objects).sum();
        if !ask::confirm(&format!(
            "Delete the collection {name:?} with {objects} objects and all of its history?"
        ))? {
            return Err(Error::Failed("nothing was deleted".to_owned()));
        }
    }
    client.admin().delete_collection(v1::DeleteCollectionRequest { name: name.clone() }).await?;
    context.output.document(&Deleted { deleted: name })
}

/// A collection as it is shown.
#[derive(Debug, Serialize)]
struct CollectionView {
    name: String,
    partitions: i32,
    replicas: i32,
    #[serde(rename = "type")]
    shard_type: String,
    options: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<RouteView>,
    created: String,
}

impl From<v1::Collection> for CollectionView {
    fn from(collection: v1::Collection) -> Self {
        let definition = collection.definition.unwrap_or_default();
        Self {
            name: definition.name,
            partitions: definition.partition_count,
            replicas: definition.replica_count,
            shard_type: definition.shard_type,
            options: definition.options,
            functions: RouteView::all(definition.invocations),
            created: time::format_ms(collection.created_ms),
        }
    }
}

impl CollectionView {
    fn options(&self) -> String {
        let options: Vec<_> = self.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
        options.join(" ")
    }
}

#[derive(Serialize)]
struct Created {
    #[serde(flatten)]
    collection: CollectionView,
    /// False: it was there already.
    #[serde(rename = "is_new")]
    created: bool,
}

impl Human for Created {
    fn human(&self, _: Style) -> String {
        let CollectionView { name, partitions, shard_type, .. } = &self.collection;
        let word = if self.created { "created" } else { "exists already" };
        format!("{name}  {word}: partitions {partitions}, type {shard_type}\n")
    }
}

#[derive(Serialize)]
struct Updated {
    #[serde(flatten)]
    collection: CollectionView,
}

impl Human for Updated {
    fn human(&self, _: Style) -> String {
        format!("{}  {}\n", self.collection.name, self.collection.options())
    }
}

#[derive(Serialize)]
struct Collections {
    collections: Vec<CollectionView>,
}

impl Human for Collections {
    fn human(&self, style: Style) -> String {
        if self.collections.is_empty() {
            return "no collections; create one with `odgm collection create NAME`\n".to_owned();
        }
        let mut table = Table::new(&["NAME", "PARTITIONS", "REPLICAS", "TYPE", "OPTIONS", "CREATED"]);
        for collection in &self.collections {
            table.row(vec![
                collection.name.as_str().into(),
                u64::try_from(collection.partitions).unwrap_or_default().into(),
                u64::try_from(collection.replicas).unwrap_or_default().into(),
                collection.shard_type.as_str().into(),
                collection.options().into(),
                collection.created.as_str().into(),
            ]);
        }
        table.render(style)
    }
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    collection: CollectionView,
    #[serde(rename = "states")]
    partitions: Vec<PartitionRow>,
}

impl Human for Described {
    fn human(&self, style: Style) -> String {
        let collection = &self.collection;
        let mut text = format!(
            "{}  partitions {}, replicas {}, type {}, created {}\n",
            collection.name,
            collection.partitions,
            collection.replicas,
            collection.shard_type,
            collection.created
        );
        for (key, value) in &collection.options {
            text += &format!("  {key} = {value}\n");
        }
        if !collection.functions.is_empty() {
            text += &RouteView::table(&collection.functions, style);
        }
        text + &PartitionRow::table(&self.partitions, style)
    }
}

#[derive(Serialize)]
struct Deleted {
    deleted: String,
}

impl Human for Deleted {
    fn human(&self, _: Style) -> String {
        format!("{}  deleted\n", self.deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flights() -> CollectionView {
        v1::Collection {
            definition: Some(CreateCollectionRequest {
                name: "flights".into(),
                partition_count: 8,
                replica_count: 1,
                shard_type: "basic".into(),
                options: [("set_mode", "replace"), ("storage", "rocksdb")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
                ..Default::default()
            }),
            groups: vec![1, 2],
            created_ms: 1_772_368_200_000,
        }
        .into()
    }

    #[test]
    fn collections_are_a_table_or_a_document() {
        let collections = Collections { collections: vec![flights()] };
        insta::assert_snapshot!(collections.human(Style::PLAIN), @"
        NAME     PARTITIONS  REPLICAS  TYPE   OPTIONS                           CREATED
        flights           8         1  basic  set_mode=replace storage=rocksdb  2026-03-01T12:30:00.000Z
        ");
        insta::assert_json_snapshot!(collections, @r#"
        {
          "collections": [
            {
              "name": "flights",
              "partitions": 8,
              "replicas": 1,
              "type": "basic",
              "options": {
                "set_mode": "replace",
                "storage": "rocksdb"
              },
              "created": "2026-03-01T12:30:00.000Z"
            }
          ]
        }
        "#);
    }

    #[test]
    fn a_described_collection_shows_its_partitions() {
        let described =
            Described { collection: flights(), partitions: vec![crate::cli::partition::tests::ready()] };
        insta::assert_snapshot!(described.human(Style::PLAIN), @"
        flights  partitions 8, replicas 1, type basic, created 2026-03-01T12:30:00.000Z
          set_mode = replace
          storage = rocksdb
        PARTITION  GROUP  STATE  FIRST  DURABLE  APPLIED  OBJECTS  ENTRIES  CHAIN
        flights/0      1  ready      1    41783    41783      505     2525  6f2b6f2b6f2b
        ");
    }

    #[test]
    fn a_collection_with_functions_shows_where_they_run() {
        let functions = RouteView::all(Some(crate::cli::route::tests::routes()));
        let collection = CollectionView { functions, ..flights() };
        let described = Described { collection, partitions: Vec::new() };
        insta::assert_snapshot!(described.human(Style::PLAIN), @"
        flights  partitions 8, replicas 1, type basic, created 2026-03-01T12:30:00.000Z
          set_mode = replace
          storage = rocksdb
        FUNCTION  CALLED      AT                    STATE
        count     on objects  http://10.0.0.7:9000  active
        echo      on objects  Zenoh                 disabled
        report    by itself   http://10.0.0.8:9000  active
        spare     on objects  http://10.0.0.9:9000  standby for shards 3 4
        no partitions
        ");
    }

    #[test]
    fn options_override_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("orders.json");
        fs::write(&path, r#"{"name":"orders","partition_count":4,"replica_count":1,"shard_type":"single"}"#)
            .expect("written");
        let args = CreateArgs {
            name: None,
            partitions: Some(2),
            replicas: None,
            shard_type: None,
            options: vec![("storage".into(), "memory".into())],
            file: Some(path),
            functions: FunctionArgs::default(),
            if_missing: false,
        };
        let definition = definition(args).expect("a definition");
        assert_eq!((definition.name.as_str(), definition.partition_count), ("orders", 2));
        assert_eq!(
            (definition.shard_type.as_str(), definition.options["storage"].as_str()),
            ("single", "memory")
        );
    }

    #[test]
    fn the_type_says_how_many_replicas_there_are_where_nothing_else_does() {
        let args = |replicas| CreateArgs {
            name: Some("orders".into()),
            partitions: None,
            replicas,
            shard_type: Some("raft".into()),
            options: Vec::new(),
            file: None,
            functions: FunctionArgs::default(),
            if_missing: false,
        };
        assert_eq!(definition(args(None)).expect("a definition").replica_count, 0, "as many as is usual");
        assert_eq!(definition(args(Some(2))).expect("a definition").replica_count, 2);
    }
}
