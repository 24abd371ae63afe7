//! The objects of a collection in the order of their ids: `odgm list`, and what `export` walks along.

use std::collections::VecDeque;

use bytes::Bytes;
use clap::Args;
use odgm_proto::oprc::{ListObjectsRequest, ObjectMetaEnvelope};
use serde::Serialize;

use super::{
    address::ClassAddress,
    client::{Client, Context},
    error::Error,
    output::Rows,
};

/// The largest page that a server gives, in items.
pub(crate) const PAGE: u32 = 1_024;

/// The pages of all partitions together hold about so many items.
const BUFFERED: usize = 1 << 18;

/// `odgm list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The collection or one partition of it
    #[arg(value_name = "CLASS[/PARTITION]")]
    address: ClassAddress,
    /// Only ids that begin with this
    #[arg(long)]
    prefix: Option<String>,
    /// At most so many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Help below the options.
pub(crate) const HELP: &str = "Examples:\n  \
    odgm list demo\n  \
    odgm list demo/0 --prefix user: --limit 20\n  \
    odgm list demo --json | jq -r .id";

/// `odgm list`: rows while they arrive.
pub(crate) async fn run(args: ListArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let partitions = client.partitions(&args.address).await?;
    let page = args.limit.map_or(PAGE, |limit| u32::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE));
    let mut objects = Objects::open(&client, &args.address.class, &partitions, args.prefix.as_deref(), page);
    let mut rows = Rows::new(&mut context.output, &["ID", "PARTITION", "VERSION", "ENTRIES"]);
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let Some(object) = objects.next().await? else { break };
        left -= 1;
        let cells = vec![
            object.id.as_str().into(),
            object.partition.into(),
            object.version.into(),
            object.entries.into(),
        ];
        rows.push(&object, cells)?;
    }
    rows.finish()
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Listed {
    /// Its id.
    pub(crate) id: String,
    /// Its partition.
    pub(crate) partition: u16,
    /// Its version.
    pub(crate) version: u64,
    /// How many entries it has.
    pub(crate) entries: u64,
}

/// The objects of several partitions, merged into the byte order of their ids.
pub(crate) struct Objects {
    partitions: Vec<Pages>,
}

impl Objects {
    /// From the first object that has the prefix. Asks for nothing yet.
    pub(crate) fn open(
        client: &Client,
        class: &str,
        partitions: &[u16],
        prefix: Option<&str>,
        page: u32,
    ) -> Self {
        let share = u32::try_from(BUFFERED / partitions.len().max(1)).unwrap_or(PAGE).max(16);
        let pages = |partition: &u16| Pages {
            client: client.clone(),
            class: class.to_owned(),
            partition: *partition,
            prefix: prefix.map(str::to_owned),
            limit: page.min(share),
            cursor: None,
            has_more: true,
            arrived: VecDeque::new(),
        };
        Self { partitions: partitions.iter().map(pages).collect() }
    }

    /// The next object, or none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Listed>, Error> {
        for pages in &mut self.partitions {
            pages.fill().await?;
        }
        self.partitions.retain(|pages| !pages.arrived.is_empty());
        let first = self.partitions.iter_mut().min_by(|left, right| left.head().cmp(&right.head()));
        Ok(first.and_then(Pages::pop))
    }
}

/// The objects of one partition, page by page.
struct Pages {
    client: Client,
    class: String,
    partition: u16,
    prefix: Option<String>,
    limit: u32,
    cursor: Option<Bytes>,
    has_more: bool,
    arrived: VecDeque<ObjectMetaEnvelope>,
}

impl Pages {
    /// Makes sure that there is a head, unless the partition is at its end.
    async fn fill(&mut self) -> Result<(), Error> {
        while self.arrived.is_empty() && self.has_more {
            let request = ListObjectsRequest {
                cls_id: self.class.clone(),
                partition_id: self.partition.into(),
                object_id_prefix: self.prefix.clone(),
                limit: self.limit,
                cursor: self.cursor.take(),
            };
            let mut stream = self.client.data().list_objects(request).await?.into_inner();
            while let Some(mut envelope) = stream.message().await? {
                self.cursor = envelope.next_cursor.take();
                self.arrived.push_back(envelope);
            }
            self.has_more = self.cursor.is_some();
        }
        Ok(())
    }

    fn head(&self) -> Option<&str> {
        self.arrived.front().map(|envelope| envelope.object_id.as_str())
    }

    fn pop(&mut self) -> Option<Listed> {
        let ObjectMetaEnvelope { object_id: id, version, entry_count: entries, .. } =
            self.arrived.pop_front()?;
        Some(Listed { id, partition: self.partition, version, entries })
    }
}
