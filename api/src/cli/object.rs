//! Whole objects: `set`, `get`, `merge`, `delete`.

use std::collections::BTreeMap;

use clap::Args;
use odgm_proto::{
    odgm::v1::{self, get_at_request::At},
    oprc::{ObjData, ObjectEvent, ValData},
};
use serde::Serialize;

use super::{
    address::{self, ObjectAddress},
    assignment::{self, Assignment},
    client::{Client, Context, Place},
    error::Error,
    output::{Human, Style, Table},
    time::{self, Moment},
    value::EntryValue,
    wire,
};

/// `odgm set` and `odgm merge`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// Its entries
    #[arg(value_name = "KEY=VALUE")]
    entries: Vec<Assignment>,
    /// The values are saved automerge documents (CRDT_MAP)
    #[arg(long)]
    crdt: bool,
    #[command(flatten)]
    options: WriteOptions,
}

/// What every write can carry.
#[derive(Debug, Args)]
pub(crate) struct WriteOptions {
    /// Apply this write once, however often it is sent under this id
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

/// `odgm get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    pub(crate) address: ObjectAddress,
    /// Only this entry: its value, with exit code 3 if there is none
    #[arg(value_name = "KEY")]
    pub(crate) key: Option<String>,
    /// As it was after the record at an offset, or at a time
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    pub(crate) at: Option<Moment>,
    /// The value's bytes as they are, without a line feed
    #[arg(long, requires = "key", conflicts_with = "json")]
    pub(crate) raw: bool,
}

/// `odgm delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    #[command(flatten)]
    options: WriteOptions,
}

/// Help below the options of `odgm set`.
pub(crate) fn set_help() -> String {
    format!(
        "{}\n\n{}\n\nExamples:\n  \
         odgm set demo/0/alice name=Alice city=Trondheim\n  \
         odgm set demo/alice photo=@alice.jpg key:=3q2+7w==",
        assignment::HELP,
        address::HELP
    )
}

/// Help below the options of `odgm merge`.
pub(crate) fn merge_help() -> String {
    format!("{}\n\nExample:\n  odgm merge demo/0/alice city=Oslo", assignment::HELP)
}

/// Help below the options of `odgm get`.
pub(crate) fn get_help() -> String {
    format!(
        "{}\n\nExamples:\n  \
         odgm get demo/0/alice\n  \
         odgm get demo/0/alice city\n  \
         odgm get demo/0/alice --at 17\n  \
         odgm get demo/0/alice --at -7d --json\n  \
         odgm get demo/0/alice photo --raw > alice.jpg",
        time::HELP
    )
}

/// Help below the options of `odgm delete`.
pub(crate) const DELETE_HELP: &str = "Example:\n  odgm delete demo/0/alice";

/// `odgm set`: replaces the whole object.
pub(crate) async fn set(args: PutArgs, context: &mut Context) -> Result<(), Error> {
    let entries = assignment::read_all(args.entries, args.crdt)?;
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let message = wire::set_object(place.clone(), entries, None);
    let answer =
        client.data().set(wire::with_request_id(message, args.options.request_id.as_deref())?).await?;
    context.output.document(&Written::new(place, wire::version(answer.metadata())))
}

/// `odgm merge`: writes the entries given and shows the whole object.
pub(crate) async fn merge(args: PutArgs, context: &mut Context) -> Result<(), Error> {
    let entries = assignment::read_all(args.entries, args.crdt)?;
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let message = wire::set_object(place.clone(), entries, None);
    let answer =
        client.data().merge(wire::with_request_id(message, args.options.request_id.as_deref())?).await?;
    let version = wire::version(answer.metadata());
    let data = answer.into_inner().obj.unwrap_or_default();
    context.output.document(&Object::new(place, data, version, None))
}

/// `odgm delete`.
pub(crate) async fn delete(args: DeleteArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let message = wire::single_object(place.clone());
    client.data().delete(wire::with_request_id(message, args.options.request_id.as_deref())?).await?;
    context.output.document(&Deleted { place: place.into() })
}

/// `odgm get`: an object or one of its entries, now or in the past.
pub(crate) async fn get(args: GetArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let Some(key) = args.key else {
        let object = match args.at {
            Some(moment) => object_at(&client, place, moment).await?,
            None => object_now(&client, place).await?,
        };
        return context.output.document(&object);
    };
    let entry = match args.at {
        Some(moment) => object_at(&client, place, moment).await?.into_entry(&key)?,
        None => entry_now(&client, place, key).await?,
    };
    if args.raw {
        context.output.raw(&entry.value.0.data)?;
        context.output.flush()
    } else {
        context.output.document(&entry)
    }
}

async fn object_now(client: &Client, place: Place) -> Result<Object, Error> {
    let answer = client.data().get(wire::single_object(place.clone())).await?;
    let version = wire::version(answer.metadata());
    Ok(Object::new(place, answer.into_inner().obj.unwrap_or_default(), version, None))
}

async fn object_at(client: &Client, place: Place, moment: Moment) -> Result<Object, Error> {
    let request = v1::GetAtRequest {
        cls_id: place.class.clone(),
        partition_id: place.partition.into(),
        object_id: place.id.clone(),
        at: Some(match moment {
            Moment::Offset(offset) => At::Offset(offset),
            Moment::TimeMs(millis) => At::TimeMs(millis),
        }),
    };
    let answer = client.streams().get_at(request).await?.into_inner();
    let data = answer.obj.unwrap_or_default();
    Ok(Object::new(place, data, Some(answer.object_version), Some(answer.offset)))
}

async fn entry_now(client: &Client, place: Place, key: String) -> Result<Entry, Error> {
    let answer = client.data().get_value(wire::single_key(place.clone(), key.clone())).await?.into_inner();
    let key = answer.key.unwrap_or(key);
    match (answer.value, answer.object_version) {
        (Some(value), version) => {
            Ok(Entry { place: place.into(), key, value: EntryValue(value), version, offset: None })
        }
        (None, Some(_)) => Err(no_entry(&place, &key)),
        (None, None) => Err(Error::NotFound(format!("there is no object {place}"))),
    }
}

fn no_entry(place: &impl std::fmt::Display, key: &str) -> Error {
    Error::NotFound(format!("{place} has no entry {key:?}"))
}

/// A place in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct PlaceView {
    class: String,
    partition: u16,
    id: String,
}

impl From<Place> for PlaceView {
    fn from(Place { class, partition, id }: Place) -> Self {
        Self { class, partition, id }
    }
}

impl std::fmt::Display for PlaceView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.class, self.partition, self.id)
    }
}

/// An object that was written.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    #[serde(flatten)]
    place: PlaceView,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

impl Written {
    /// At that version, if the server said so.
    pub(crate) fn new(place: Place, version: Option<u64>) -> Self {
        Self { place: place.into(), version }
    }
}

impl Human for Written {
    fn human(&self, _: Style) -> String {
        match self.version {
            Some(version) => format!("{}  version {version}\n", self.place),
            None => format!("{}  written\n", self.place),
        }
    }
}

#[derive(Debug, Serialize)]
struct Deleted {
    #[serde(flatten)]
    place: PlaceView,
}

impl Human for Deleted {
    fn human(&self, _: Style) -> String {
        format!("{}  deleted\n", self.place)
    }
}

/// An object with its entries.
#[derive(Debug, Serialize)]
struct Object {
    #[serde(flatten)]
    place: PlaceView,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// Of an object in the past: what was answered for.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    entries: BTreeMap<String, EntryValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    triggers: Option<ObjectEvent>,
}

impl Object {
    fn new(place: Place, data: ObjData, version: Option<u64>, offset: Option<u64>) -> Self {
        let entries = entry_values(data.entries_str);
        Self { place: place.into(), version, offset, entries, triggers: data.event }
    }

    fn into_entry(mut self, key: &str) -> Result<Entry, Error> {
        let key = key.to_ascii_lowercase();
        match self.entries.remove(&key) {
            Some(value) => {
                Ok(Entry { place: self.place, key, value, version: self.version, offset: self.offset })
            }
            None => Err(no_entry(&self.place, &key)),
        }
    }
}

/// Entries as they are shown.
pub(crate) fn entry_values(entries: BTreeMap<String, ValData>) -> BTreeMap<String, EntryValue> {
    entries.into_iter().map(|(key, value)| (key, EntryValue(value))).collect()
}

/// Entries as they travel.
pub(crate) fn wire_values(entries: BTreeMap<String, EntryValue>) -> BTreeMap<String, ValData> {
    entries.into_iter().map(|(key, value)| (key, value.0)).collect()
}

impl Human for Object {
    fn human(&self, style: Style) -> String {
        let mut text = self.place.to_string();
        if let Some(version) = self.version {
            text += &format!("  version {version}");
        }
        if let Some(offset) = self.offset {
            text += &format!("  at offset {offset}");
        }
        text.push('\n');
        if self.entries.is_empty() {
            text += "no entries\n";
        } else {
            let mut table = Table::new(&["KEY", "VALUE"]);
            for (key, value) in &self.entries {
                table.row(vec![key.as_str().into(), value.to_string().into()]);
            }
            text += &table.render(style);
        }
        if let Some(triggers) = &self.triggers {
            let entries = triggers.data_trigger.len() + triggers.data_trigger_str.len();
            text += &format!("triggers on {} functions and {entries} entries\n", triggers.func_trigger.len());
        }
        text
    }
}

/// One entry with its value.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    place: PlaceView,
    key: String,
    value: EntryValue,
    /// The object's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// The value and nothing else, for `$(odgm get ...)`.
impl Human for Entry {
    fn human(&self, _: Style) -> String {
        match self.value.text() {
            Some(text) => format!("{text}\n"),
            None => format!("{}\n", self.value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Object {
        let entries = [
            ("city", EntryValue::bytes("Trondheim")),
            ("photo", EntryValue::bytes(vec![0xff, 0xd8])),
            ("tags", EntryValue::crdt_map(vec![0x85, 0x6f])),
        ];
        let place = Place { class: "demo".into(), partition: 0, id: "alice".into() };
        let entries_str = entries.into_iter().map(|(key, value)| (key.to_owned(), value.0)).collect();
        Object::new(place, ObjData { entries_str, ..Default::default() }, Some(3), Some(17))
    }

    #[test]
    fn an_object_is_a_table_for_people() {
        insta::assert_snapshot!(alice().human(Style::PLAIN), @"
        demo/0/alice  version 3  at offset 17
        KEY    VALUE
        city   Trondheim
        photo  base64:/9g=
        tags   crdt:hW8=
        ");
    }

    #[test]
    fn an_object_is_a_document_for_programs() {
        insta::assert_json_snapshot!(alice(), @r#"
        {
          "class": "demo",
          "partition": 0,
          "id": "alice",
          "version": 3,
          "offset": 17,
          "entries": {
            "city": "Trondheim",
            "photo": {
              "base64": "/9g="
            },
            "tags": {
              "crdt": "hW8="
            }
          }
        }
        "#);
    }

    #[test]
    fn an_entry_is_its_value() {
        let entry = alice().into_entry("City").expect("an entry");
        assert_eq!(entry.human(Style::PLAIN), "Trondheim\n");
        insta::assert_json_snapshot!(entry, @r#"
        {
          "class": "demo",
          "partition": 0,
          "id": "alice",
          "key": "city",
          "value": "Trondheim",
          "version": 3,
          "offset": 17
        }
        "#);
        let error = alice().into_entry("name").expect_err("no such entry");
        assert_eq!(error.to_string(), r#"demo/0/alice has no entry "name""#);
        assert_eq!(error.exit_code(), 3);
    }
}
