//! `odgm cursor`: named durable cursors, kept in the partitions' logs.

use clap::Subcommand;
use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    address::{ClassAddress, PartitionAddress},
    client::Context,
    error::Error,
    output::{Human, Style, Table},
};

/// What to do with cursors.
#[derive(Debug, Subcommand)]
pub(crate) enum CursorCommand {
    /// List the cursors of a collection or a partition
    List {
        /// The collection or one partition of it
        #[arg(value_name = "CLASS[/PARTITION]")]
        address: ClassAddress,
    },
    /// Create a cursor, or move it to the last offset that its consumer is done with
    #[command(after_help = MOVE_HELP)]
    Move {
        /// The partition
        #[arg(value_name = "CLASS/PARTITION")]
        address: PartitionAddress,
        /// The cursor
        name: String,
        /// The last offset that the consumer is done with; 0 is before the first
        offset: u64,
        /// Hold back trimming for it by at most so many records behind the head; 0: not at all
        #[arg(long, value_name = "RECORDS", default_value_t = 0)]
        allowed_lag: u64,
    },
    /// Forget a cursor
    Drop {
        /// The partition
        #[arg(value_name = "CLASS/PARTITION")]
        address: PartitionAddress,
        /// The cursor
        name: String,
    },
}

const MOVE_HELP: &str = "Example:\n  \
    odgm cursor move demo/0 billing 120\n  \
    odgm watch demo/0 --from named:billing      # goes on behind 120";

/// `odgm cursor`.
pub(crate) async fn run(command: CursorCommand, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    match command {
        CursorCommand::List { address } => {
            let request = v1::ListCursorsRequest {
                cls_id: address.class,
                partition_id: address.partition.map(u32::from),
            };
            let answer = client.streams().list_cursors(request).await?.into_inner();
            let cursors = answer.cursors.into_iter().map(CursorRow::from).collect();
            context.output.document(&Cursors { cursors })
        }
        CursorCommand::Move { address, name, offset, allowed_lag } => {
            let request = v1::MoveCursorRequest {
                cls_id: address.class,
                partition_id: address.partition.into(),
                name: name.clone(),
                offset,
                allowed_lag,
            };
            client.streams().move_cursor(request).await?;
            context.output.document(&Moved { partition: address.partition, name, offset })
        }
        CursorCommand::Drop { address, name } => {
            let request = v1::DropCursorRequest {
                cls_id: address.class,
                partition_id: address.partition.into(),
                name: name.clone(),
            };
            client.streams().drop_cursor(request).await?;
            context.output.document(&Dropped { partition: address.partition, dropped: name })
        }
    }
}

#[derive(Serialize)]
struct Cursors {
    cursors: Vec<CursorRow>,
}

#[derive(Serialize)]
struct CursorRow {
    partition: u32,
    name: String,
    offset: u64,
    head_offset: u64,
    /// Records between the cursor and the head.
    lag: u64,
    allowed_lag: u64,
}

impl From<v1::NamedCursor> for CursorRow {
    fn from(cursor: v1::NamedCursor) -> Self {
        Self {
            partition: cursor.partition_id,
            name: cursor.name,
            offset: cursor.offset,
            head_offset: cursor.head_offset,
            lag: cursor.head_offset.saturating_sub(cursor.offset),
            allowed_lag: cursor.allowed_lag,
        }
    }
}

impl Human for Cursors {
    fn human(&self, style: Style) -> String {
        if self.cursors.is_empty() {
            return "no cursors\n".to_owned();
        }
        let mut table = Table::new(&["NAME", "PARTITION", "OFFSET", "HEAD", "LAG", "ALLOWED LAG"]);
        for cursor in &self.cursors {
            table.row(vec![
                cursor.name.as_str().into(),
                cursor.partition.into(),
                cursor.offset.into(),
                cursor.head_offset.into(),
                cursor.lag.into(),
                cursor.allowed_lag.into(),
            ]);
        }
        table.render(style)
    }
}

#[derive(Serialize)]
struct Moved {
    partition: u16,
    name: String,
    offset: u64,
}

impl Human for Moved {
    fn human(&self, _: Style) -> String {
        format!("{}  partition {} at offset {}\n", self.name, self.partition, self.offset)
    }
}

#[derive(Serialize)]
struct Dropped {
    partition: u16,
    dropped: String,
}

impl Human for Dropped {
    fn human(&self, _: Style) -> String {
        format!("{}  dropped from partition {}\n", self.dropped, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_show_how_far_behind_they_are() {
        let cursor = v1::NamedCursor {
            partition_id: 2,
            name: "billing".into(),
            offset: 120,
            allowed_lag: 1_000,
            head_offset: 150,
        };
        let cursors = Cursors { cursors: vec![cursor.into()] };
        insta::assert_snapshot!(cursors.human(Style::PLAIN), @"
        NAME     PARTITION  OFFSET  HEAD  LAG  ALLOWED LAG
        billing          2     120   150   30         1000
        ");
    }
}
