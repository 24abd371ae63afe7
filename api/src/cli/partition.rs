//! `odgm partition`: the state of partitions, their proofs, their logs and views, on a running node.

use clap::{Args, Subcommand};
use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    address::{ClassAddress, ObjectAddress, PartitionAddress},
    client::Context,
    error::Error,
    output::{Cell, Human, Style, Table, Tint},
    record,
    verify::{self, What},
};

/// What to do with partitions.
#[derive(Debug, Subcommand)]
pub(crate) enum PartitionCommand {
    /// List partitions with their state
    List {
        /// The collection [default: all]
        class: Option<String>,
    },
    /// Say in which partition an object is, or would be
    Find {
        /// The object
        #[arg(value_name = "CLASS/ID")]
        address: ObjectAddress,
    },
    /// Recompute the chain of the log and compare it with what is stored
    Verify {
        /// The collection or one partition of it
        #[arg(value_name = "CLASS[/PARTITION]")]
        address: ClassAddress,
    },
    /// Replay the log into a fresh view and compare it with the one that serves reads
    VerifyView {
        /// The collection or one partition of it
        #[arg(value_name = "CLASS[/PARTITION]")]
        address: ClassAddress,
    },
    /// Print the view as text: equal views give equal bytes
    Dump {
        /// The partition
        #[arg(value_name = "CLASS/PARTITION")]
        address: PartitionAddress,
    },
    /// Print the records of the log
    Log(LogArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The partition
    #[arg(value_name = "CLASS/PARTITION")]
    address: PartitionAddress,
    #[command(flatten)]
    range: record::Range,
}

/// Help below the commands.
pub(crate) const HELP: &str = "Examples:\n  \
    odgm partition list flights\n  \
    odgm partition verify flights\n  \
    odgm partition verify-view flights/3\n  \
    odgm partition dump flights/3 > view.txt\n  \
    odgm partition log flights/3 --from 100 --limit 10\n\n\
    On the data directory of a stopped node: odgm log, odgm view.";

/// `odgm partition`.
pub(crate) async fn run(command: PartitionCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        PartitionCommand::List { class } => list(class, context).await,
        PartitionCommand::Find { address } => {
            let place = context.connect().await?.locate(address).await?;
            context.output.document(&Found { partition: place.partition })
        }
        PartitionCommand::Verify { address } => verify::online(address, What::Log, context).await,
        PartitionCommand::VerifyView { address } => verify::online(address, What::View, context).await,
        PartitionCommand::Dump { address } => dump(address, context).await,
        PartitionCommand::Log(args) => record::online(args.address, args.range, context).await,
    }
}

async fn list(class: Option<String>, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let request = v1::ListPartitionsRequest { cls_id: class.unwrap_or_default() };
    let answer = client.admin().list_partitions(request).await?.into_inner();
    let partitions = answer.partitions.into_iter().map(PartitionRow::from).collect();
    context.output.document(&Partitions { partitions })
}

async fn dump(address: PartitionAddress, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let request = v1::DumpViewRequest { cls_id: address.class, partition_id: address.partition.into() };
    let mut stream = client.admin().dump_view(request).await?.into_inner();
    while let Some(piece) = stream.message().await? {
        context.output.item(&DumpPiece { text: piece.text })?;
    }
    context.output.flush()
}

/// Pieces of a dump: joined they are the whole.
#[derive(Serialize)]
pub(crate) struct DumpPiece {
    /// Some of its lines.
    pub(crate) text: String,
}

impl Human for DumpPiece {
    fn human(&self, _: Style) -> String {
        self.text.clone()
    }
}

#[derive(Serialize)]
struct Found {
    partition: u16,
}

impl Human for Found {
    fn human(&self, _: Style) -> String {
        format!("{}\n", self.partition)
    }
}

#[derive(Serialize)]
struct Partitions {
    partitions: Vec<PartitionRow>,
}

impl Human for Partitions {
    fn human(&self, style: Style) -> String {
        PartitionRow::table(&self.partitions, style)
    }
}

/// The state of a partition.
#[derive(Debug, Serialize)]
pub(crate) struct PartitionRow {
    class: String,
    partition: u32,
    group: u32,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    first_offset: u64,
    durable_offset: u64,
    applied_offset: u64,
    /// Objects that exist.
    pub(crate) objects: u64,
    entries: u64,
    chain: String,
    state_hash: String,
    /// The node that leads it, where it is on several nodes and the node that was asked knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<u64>,
    /// While this replica fetches the records before its snapshot: the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    fills_from: Option<u64>,
    /// The nodes that it is on, where they are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replicas: Vec<u64>,
}

impl From<v1::Partition> for PartitionRow {
    fn from(partition: v1::Partition) -> Self {
        let replicas = if partition.replicas.len() > 1 { partition.replicas } else { Vec::new() };
        let leader = Some(partition.leader).filter(|leader| *leader > 0 && !replicas.is_empty());
        Self {
            leader,
            replicas,
            class: partition.cls_id,
            partition: partition.partition_id,
            group: partition.group,
            state: partition.state,
            reason: partition.reason,
            first_offset: partition.first_offset,
            durable_offset: partition.durable_offset,
            applied_offset: partition.applied_offset,
            objects: partition.objects,
            entries: partition.entries,
            chain: partition.chain,
            state_hash: partition.state_hash,
            fills_from: partition.fills_from,
        }
    }
}

impl PartitionRow {
    /// So many digits of a hash tell it from others at a glance.
    const SHORT_HASH: usize = 12;

    /// The columns, the last ones only where partitions are on several nodes.
    const COLUMNS: [&str; 11] = [
        "PARTITION",
        "GROUP",
        "STATE",
        "FIRST",
        "DURABLE",
        "APPLIED",
        "OBJECTS",
        "ENTRIES",
        "CHAIN",
        "LEADER",
        "NODES",
    ];
    const OF_ONE_NODE: usize = 9;

    /// A table of partitions, with the reasons of failures below it.
    pub(crate) fn table(rows: &[Self], style: Style) -> String {
        if rows.is_empty() {
            return "no partitions\n".to_owned();
        }
        let is_replicated = rows.iter().any(|row| !row.replicas.is_empty());
        let columns = if is_replicated { &Self::COLUMNS[..] } else { &Self::COLUMNS[..Self::OF_ONE_NODE] };
        let mut table = Table::new(columns);
        for row in rows {
            let tint = match row.state.as_str() {
                "ready" => Tint::Good,
                "failed" | "diverged" => Tint::Bad,
                _ => Tint::Notice,
            };
            let mut cells: Vec<Cell> = vec![
                format!("{}/{}", row.class, row.partition).into(),
                row.group.into(),
                Cell::from(row.state.as_str()).tinted(tint),
                row.first_offset.into(),
                row.durable_offset.into(),
                row.applied_offset.into(),
                row.objects.into(),
                row.entries.into(),
                row.chain.chars().take(Self::SHORT_HASH).collect::<String>().into(),
            ];
            if is_replicated {
                let nodes: Vec<_> = row.replicas.iter().map(ToString::to_string).collect();
                cells.push(row.leader.map_or_else(String::new, |leader| leader.to_string()).into());
                cells.push(nodes.join(" ").into());
            }
            table.row(cells);
        }
        let mut text = table.render(style);
        for row in rows {
            if let Some(reason) = &row.reason {
                text += &format!("{}/{}: {reason}\n", row.class, row.partition);
            }
            if let Some(first) = row.fills_from {
                text += &format!(
                    "{}/{}: not a whole copy on this node, which fetches records {first} to {}\n",
                    row.class,
                    row.partition,
                    row.first_offset.saturating_sub(1)
                );
            }
        }
        text
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A partition that works.
    pub(crate) fn ready() -> PartitionRow {
        v1::Partition {
            cls_id: "flights".into(),
            partition_id: 0,
            group: 1,
            state: "ready".into(),
            reason: None,
            first_offset: 1,
            durable_offset: 41_783,
            applied_offset: 41_783,
            objects: 505,
            entries: 2_525,
            chain: "6f2b".repeat(16),
            state_hash: "a3c1".repeat(16),
            leader: 1,
            replicas: vec![1],
            fills_from: None,
        }
        .into()
    }

    #[test]
    fn partitions_are_a_table_with_the_reason_of_a_failure() {
        let reason = Some("record 17 is damaged".to_owned());
        let failed = PartitionRow { partition: 1, state: "failed".into(), reason, ..ready() };
        insta::assert_snapshot!(PartitionRow::table(&[ready(), failed], Style::PLAIN), @"
        PARTITION  GROUP  STATE   FIRST  DURABLE  APPLIED  OBJECTS  ENTRIES  CHAIN
        flights/0      1  ready       1    41783    41783      505     2525  6f2b6f2b6f2b
        flights/1      1  failed      1    41783    41783      505     2525  6f2b6f2b6f2b
        flights/1: record 17 is damaged
        ");
        let filling = PartitionRow { first_offset: 900, fills_from: Some(100), ..ready() };
        let table = PartitionRow::table(&[filling], Style::PLAIN);
        let told = "flights/0: not a whole copy on this node, which fetches records 100 to 899\n";
        assert!(table.ends_with(told), "{table}");
        insta::assert_json_snapshot!(ready(), @r#"
        {
          "class": "flights",
          "partition": 0,
          "group": 1,
          "state": "ready",
          "first_offset": 1,
          "durable_offset": 41783,
          "applied_offset": 41783,
          "objects": 505,
          "entries": 2525,
          "chain": "6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b6f2b",
          "state_hash": "a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1a3c1"
        }
        "#);
    }
}
