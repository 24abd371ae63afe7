//! `odgm export`: all objects of a collection as JSON lines.

use std::{collections::BTreeMap, io::IsTerminal as _};

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use odgm_proto::oprc::{ObjData, ObjectEvent};
use serde::Serialize;
use tonic::Code;

use super::{
    address::ClassAddress,
    client::{Client, Context, Place},
    error::Error,
    list::{Listed, Objects, PAGE},
    object::entry_values,
    progress,
    value::EntryValue,
    wire,
};

/// Objects that are being read at once.
const READS_IN_FLIGHT: usize = 32;

/// The progress message changes once in so many objects.
const PROGRESS_STEP: u64 = 100;

/// `odgm export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The collection, or one partition of it
    #[arg(long, value_name = "NAME[/PARTITION]")]
    class: ClassAddress,
    /// Only objects whose id begins with this
    #[arg(long)]
    prefix: Option<String>,
    /// Add "partition": N, so that an import puts each object where it was and not where its id belongs
    #[arg(long)]
    with_partition: bool,
}

/// Help below the options.
pub(crate) const HELP: &str = r#"Output: one JSON object a line, in the byte order of the ids, whatever the number of partitions:
  {"id": ID, "entries": {KEY: VALUE, ...}}
VALUE is text where the bytes are UTF-8, {"base64": "..."} where they are not, {"crdt": "..."} for
an automerge document (in base64). Objects with triggers have "triggers" as well.

Each object is from one moment; writes during the export may or may not be in it.
The output can be imported again; each line then replaces its object.

Examples:
  odgm export --class flights > flights.jsonl
  odgm export --class flights | gzip > flights.jsonl.gz
  odgm export --class demo | odgm import --class copy -"#;

/// `odgm export`.
pub(crate) async fn run(args: ExportArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let class = args.class.class.as_str();
    let partitions = client.partitions(&args.class).await?;
    let objects = Objects::open(&client, class, &partitions, args.prefix.as_deref(), PAGE);
    let mut exported = stream::try_unfold(objects, |mut objects| async move {
        Ok::<_, Error>(objects.next().await?.map(|object| (object, objects)))
    })
    .map_ok(|listed| read(&client, class, listed, args.with_partition))
    .try_buffered(READS_IN_FLIGHT)
    .boxed();

    // On a terminal the lines themselves show the progress.
    let bar = if std::io::stdout().is_terminal() { progress::hidden() } else { progress::counter("objects") };
    let mut count = 0_u64;
    while let Some(object) = exported.try_next().await? {
        let Some(object) = object else { continue };
        context.output.json_line(&object)?;
        count += 1;
        if count.is_multiple_of(PROGRESS_STEP) {
            bar.set_position(count);
        }
    }
    bar.finish_and_clear();
    context.output.flush()
}

/// The object, unless it was deleted after it was listed.
async fn read(
    client: &Client,
    class: &str,
    listed: Listed,
    with_partition: bool,
) -> Result<Option<Exported>, Error> {
    let Listed { id, partition, .. } = listed;
    let place = Place { class: class.to_owned(), partition, id: id.clone() };
    match client.data().get(wire::single_object(place)).await {
        Ok(answer) => {
            let data = answer.into_inner().obj.unwrap_or_default();
            Ok(Some(Exported::new(id, with_partition.then_some(partition), data)))
        }
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// A line of an export.
#[derive(Debug, Serialize)]
struct Exported {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u16>,
    entries: BTreeMap<String, EntryValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    triggers: Option<ObjectEvent>,
}

impl Exported {
    fn new(id: String, partition: Option<u16>, data: ObjData) -> Self {
        Self { id, partition, entries: entry_values(data.entries_str), triggers: data.event }
    }
}

#[cfg(test)]
mod tests {
    use odgm_proto::{odgm::v1::write_request::Operation, oprc::ValData};

    use super::*;
    use crate::cli::import;

    fn data() -> ObjData {
        let entries: [(&str, ValData); 3] = [
            ("name", EntryValue::bytes("Zoë").0),
            ("photo", EntryValue::bytes(vec![0xff, 0x00, 0xc3]).0),
            ("tags", EntryValue::crdt_map(vec![0x85, 0x6f]).0),
        ];
        let entries_str = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        ObjData { entries_str, ..Default::default() }
    }

    #[test]
    fn an_exported_object_is_one_line() {
        let line = serde_json::to_string(&Exported::new("alice".into(), None, data())).expect("serializes");
        insta::assert_snapshot!(line, @r#"{"id":"alice","entries":{"name":"Zoë","photo":{"base64":"/wDD"},"tags":{"crdt":"hW8="}}}"#);
    }

    #[test]
    fn an_export_imports_as_the_same_object() {
        let line =
            serde_json::to_string(&Exported::new("alice".into(), Some(6), data())).expect("serializes");
        let parsed = import::parse_line(line.as_bytes(), "copy", 8).expect("imports");
        let Operation::Set(request) = parsed.operation else { panic!("not a set") };
        assert_eq!(request.partition_id, 6);
        assert_eq!(request.object_id_str.as_deref(), Some("alice"));
        assert_eq!(request.object, Some(data()));
    }
}
