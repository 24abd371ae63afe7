//! `odgm trigger`: which functions follow changes of an object, and calls on it.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use odgm_proto::oprc::{FuncTrigger, ObjData, ObjectEvent, TriggerTarget};
use serde::Serialize;
use tonic::Code;

use super::{
    address::{CalleeAddress, FunctionAddress, ObjectAddress},
    ask,
    call::{TargetView, parse_option},
    client::{Client, Context, Place},
    error::Error,
    object::{PlaceView, WriteOptions},
    output::{Human, Style, Table},
    wire,
};

/// What to do with the triggers of an object.
#[derive(Debug, Subcommand)]
pub(crate) enum TriggerCommand {
    /// List the triggers of an object
    List {
        /// The object
        #[arg(value_name = "CLASS/[PARTITION/]ID")]
        address: ObjectAddress,
    },
    /// Replace all triggers of an object
    #[command(after_help = SET_HELP, override_usage = SET_USAGE)]
    Set(SetArgs),
    /// Add triggers to those that there are
    #[command(after_help = ADD_HELP, override_usage = ADD_USAGE)]
    Add(ChangeArgs),
    /// Take all triggers of an object away
    Clear(ClearArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// The object; one that does not exist is created, without entries
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    #[command(flatten)]
    given: Given,
    /// An option of the requests that these triggers send; may be repeated
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_option)]
    options: Vec<(String, String)>,
    #[command(flatten)]
    write: WriteOptions,
}

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    change: ChangeArgs,
    /// Do not ask, where others are taken away
    #[arg(long, short)]
    yes: bool,
}

/// The triggers, each of which may be repeated.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Given {
    /// When this entry comes into being
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_trigger)]
    on_create: Vec<Trigger>,
    /// When this entry is written again
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_trigger)]
    on_update: Vec<Trigger>,
    /// When this entry is deleted, by itself or with its object
    #[arg(long, value_name = "KEY=FUNCTION", value_parser = parse_trigger)]
    on_delete: Vec<Trigger>,
    /// When a call of this function on the object has completed
    #[arg(long, value_name = "NAME=FUNCTION", value_parser = parse_trigger)]
    on_complete: Vec<Trigger>,
    /// When such a call has failed
    #[arg(long, value_name = "NAME=FUNCTION", value_parser = parse_trigger)]
    on_error: Vec<Trigger>,
}

#[derive(Debug, Args)]
pub(crate) struct ClearArgs {
    /// The object
    #[arg(value_name = "CLASS/[PARTITION/]ID")]
    address: ObjectAddress,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    write: WriteOptions,
}

/// Help below the commands.
pub(crate) const HELP: &str = "\
A trigger calls FUNCTION, which is CLASS/PARTITION/NAME or CLASS/PARTITION/OBJECT/NAME, of any collection. It holds \
for what is written after it: `odgm calls` shows the calls that wait, `odgm trace` what came of them.

Examples:
  odgm trigger add flights/3/n14228 --on-update dest=airports/0/count
  odgm trigger list flights/3/n14228
  odgm trigger clear flights/3/n14228";

const SET_USAGE: &str = "odgm trigger set <CLASS/[PARTITION/]ID> --on-EVENT KEY=FUNCTION...";
const ADD_USAGE: &str = "odgm trigger add <CLASS/[PARTITION/]ID> --on-EVENT KEY=FUNCTION...";

const SET_HELP: &str = "It asks where the object has triggers, as those are taken away.\n\nExample:\n  \
    odgm trigger set flights/3/n14228 --on-create dest=airports/0/count --on-update dest=airports/0/count";

const ADD_HELP: &str = "\
What there is is read and then written back with more: of two who do that at the same moment, one prevails.

Examples:
  odgm trigger add flights/3/n14228 --on-delete gate=airports/0/iah/release --option reason=gone
  odgm trigger add flights/3/n14228 --on-error land=airports/0/alarm";

/// What follows something on an entry or a function.
type Trigger = (String, FunctionAddress);

fn parse_trigger(text: &str) -> Result<Trigger, String> {
    let (of, function) = text.split_once('=').filter(|(of, _)| !of.is_empty()).ok_or_else(|| {
        "expected KEY=CLASS/PARTITION/FUNCTION or KEY=CLASS/PARTITION/OBJECT/FUNCTION, for example \
         city=demo/0/count"
            .to_owned()
    })?;
    Ok((of.to_owned(), function.parse().map_err(|error| format!("behind {of}= {error}"))?))
}

/// `odgm trigger`.
pub(crate) async fn run(command: TriggerCommand, context: &mut Context) -> Result<(), Error> {
    match command {
        TriggerCommand::List { address } => list(address, context).await,
        TriggerCommand::Set(args) => set(args, context).await,
        TriggerCommand::Add(args) => add(args, context).await,
        TriggerCommand::Clear(args) => clear(args, context).await,
    }
}

async fn list(address: ObjectAddress, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let place = client.locate(address).await?;
    let object = client.data().get(wire::single_object(place.clone())).await?.into_inner().obj;
    context.output.document(&Triggers::of(place, object.unwrap_or_default()))
}

async fn set(args: SetArgs, context: &mut Context) -> Result<(), Error> {
    let SetArgs { change: args, yes } = args;
    let event = args.given.event(&args.options.into_iter().collect());
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    if !yes {
        let known = Triggers::of(place.clone(), existing(&client, &place).await?).triggers.len();
        confirm_loss(known, &place)?;
    }
    write(&client, place, event, &args.write, context).await
}

/// Asks whether so many triggers may go, if there are any.
fn confirm_loss(known: usize, place: &Place) -> Result<(), Error> {
    if known == 0 {
        return Ok(());
    }
    if !ask::can_ask() {
        return Err(Error::Usage(format!(
            "{known} triggers of {place} are taken away: without a terminal to ask on, say --yes"
        )));
    }
    if ask::confirm(&format!("Take {known} triggers of {place} away?"))? {
        return Ok(());
    }
    Err(Error::Failed("nothing was taken away".to_owned()))
}

/// An object, or an empty one where there is none.
async fn existing(client: &Client, place: &Place) -> Result<ObjData, Error> {
    match client.data().get(wire::single_object(place.clone())).await {
        Ok(answer) => Ok(answer.into_inner().obj.unwrap_or_default()),
        // Where the collection or the partition is missing, the write says so.
        Err(status) if status.code() == Code::NotFound => Ok(ObjData::default()),
        Err(status) => Err(status.into()),
    }
}

async fn add(args: ChangeArgs, context: &mut Context) -> Result<(), Error> {
    let more = args.given.event(&args.options.into_iter().collect());
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    let known = existing(&client, &place).await?.event.unwrap_or_default();
    write(&client, place, joined(one_column(known), more), &args.write, context).await
}

async fn clear(args: ClearArgs, context: &mut Context) -> Result<(), Error> {
    if !args.yes && !ask::can_ask() {
        return Err(Error::Usage(
            "all triggers of the object are taken away: without a terminal to ask on, say --yes".to_owned(),
        ));
    }
    let client = context.connect().await?;
    let place = client.locate(args.address).await?;
    // What does not exist has no triggers, and is not to come into being.
    let object = client.data().get(wire::single_object(place.clone())).await?.into_inner().obj;
    let known = Triggers::of(place.clone(), object.unwrap_or_default()).triggers.len();
    if !args.yes {
        confirm_loss(known, &place)?;
    }
    write(&client, place, ObjectEvent::default(), &args.write, context).await
}

/// Gives the object these triggers and no others, leaves its entries, and shows what it has now.
async fn write(
    client: &Client,
    place: Place,
    event: ObjectEvent,
    options: &WriteOptions,
    context: &mut Context,
) -> Result<(), Error> {
    let message = wire::set_object(place.clone(), BTreeMap::new(), Some(event));
    let request = wire::with_request_id(message, options.request_id.as_deref())?;
    let object = client.data().merge(request).await?.into_inner().obj;
    context.output.document(&Triggers::of(place, object.unwrap_or_default()))
}

impl Given {
    fn event(self, options: &BTreeMap<String, String>) -> ObjectEvent {
        let target = |FunctionAddress { callee, function }: FunctionAddress| {
            let CalleeAddress { class, partition, object } = callee;
            TriggerTarget {
                cls_id: class,
                partition_id: partition.into(),
                object_id: None,
                fn_id: function,
                req_options: options.clone(),
                object_id_str: object,
            }
        };
        let mut event = ObjectEvent::default();
        let data = &mut event.data_trigger_str;
        for (key, function) in self.on_create {
            data.entry(key.to_ascii_lowercase()).or_default().on_create.push(target(function));
        }
        for (key, function) in self.on_update {
            data.entry(key.to_ascii_lowercase()).or_default().on_update.push(target(function));
        }
        for (key, function) in self.on_delete {
            data.entry(key.to_ascii_lowercase()).or_default().on_delete.push(target(function));
        }
        for (name, function) in self.on_complete {
            event.func_trigger.entry(name).or_default().on_complete.push(target(function));
        }
        for (name, function) in self.on_error {
            event.func_trigger.entry(name).or_default().on_error.push(target(function));
        }
        event
    }
}

/// The triggers with all names as text: what a server answers has those that are numbers in both columns.
fn one_column(event: ObjectEvent) -> ObjectEvent {
    let ObjectEvent { mut func_trigger, data_trigger, mut data_trigger_str } = event;
    for (key, trigger) in data_trigger {
        data_trigger_str.entry(key.to_string()).or_insert(trigger);
    }
    let text = |targets: &mut Vec<TriggerTarget>| {
        for target in targets {
            let number = target.object_id.take().map(|number| number.to_string());
            target.object_id_str = target.object_id_str.take().or(number);
        }
    };
    for trigger in data_trigger_str.values_mut() {
        text(&mut trigger.on_create);
        text(&mut trigger.on_update);
        text(&mut trigger.on_delete);
    }
    for trigger in func_trigger.values_mut() {
        text(&mut trigger.on_complete);
        text(&mut trigger.on_error);
    }
    ObjectEvent { func_trigger, data_trigger: BTreeMap::new(), data_trigger_str }
}

/// The triggers of both; those that both have, once.
fn joined(mut event: ObjectEvent, more: ObjectEvent) -> ObjectEvent {
    let add = |known: &mut Vec<TriggerTarget>, more: Vec<TriggerTarget>| {
        for target in more {
            if !known.contains(&target) {
                known.push(target);
            }
        }
    };
    for (key, trigger) in more.data_trigger_str {
        let known = event.data_trigger_str.entry(key).or_default();
        add(&mut known.on_create, trigger.on_create);
        add(&mut known.on_update, trigger.on_update);
        add(&mut known.on_delete, trigger.on_delete);
    }
    for (function, FuncTrigger { on_complete, on_error }) in more.func_trigger {
        let known = event.func_trigger.entry(function).or_default();
        add(&mut known.on_complete, on_complete);
        add(&mut known.on_error, on_error);
    }
    event
}

/// The triggers of an object, as they are shown.
#[derive(Debug, Serialize)]
struct Triggers {
    #[serde(flatten)]
    place: PlaceView,
    triggers: Vec<TriggerRow>,
}

#[derive(Debug, Serialize)]
struct TriggerRow {
    /// create, update, delete of an entry; complete, error of a function
    on: &'static str,
    /// The entry or the function.
    of: String,
    calls: TargetView,
}

impl Triggers {
    fn of(place: Place, object: ObjData) -> Self {
        let event = one_column(object.event.unwrap_or_default());
        let mut triggers = Vec::new();
        let mut add = |on: &'static str, of: &str, targets: Vec<TriggerTarget>| {
            let row = |target| TriggerRow { on, of: of.to_owned(), calls: TargetView::from(target) };
            triggers.extend(targets.into_iter().map(row));
        };
        for (key, trigger) in event.data_trigger_str {
            add("create", &key, trigger.on_create);
            add("update", &key, trigger.on_update);
            add("delete", &key, trigger.on_delete);
        }
        for (function, trigger) in event.func_trigger {
            add("complete", &function, trigger.on_complete);
            add("error", &function, trigger.on_error);
        }
        Self { place: place.into(), triggers }
    }
}

impl Human for Triggers {
    fn human(&self, style: Style) -> String {
        if self.triggers.is_empty() {
            return format!("{}  no triggers\n", self.place);
        }
        let mut table = Table::new(&["ON", "OF", "CALLS", "OPTIONS"]);
        for row in &self.triggers {
            table.row(vec![
                row.on.into(),
                row.of.as_str().into(),
                row.calls.to_string().into(),
                row.calls.options().into(),
            ]);
        }
        let functions: BTreeSet<_> = self.triggers.iter().map(|row| row.calls.to_string()).collect();
        let (count, of) = (self.triggers.len(), functions.len());
        format!("{}  {count} triggers of {of} functions\n{}", self.place, table.render(style))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ChangeArgs,
    }

    fn event(line: &str) -> Result<ObjectEvent, clap::Error> {
        let args = Line::try_parse_from(line.split(' '))?.args;
        Ok(args.given.event(&args.options.into_iter().collect()))
    }

    fn triggers(event: ObjectEvent) -> Triggers {
        let place = Place { class: "flights".into(), partition: 3, id: "n14228".into() };
        Triggers::of(place, ObjData { event: Some(event), ..Default::default() })
    }

    #[test]
    fn triggers_are_a_table() {
        let event = event(
            "set flights/3/n14228 --on-create Dest=airports/0/count --on-update dest=airports/0/count \
             --on-delete gate=airports/0/IAH/release --on-error land=airports/0/alarm --option reason=late",
        );
        let triggers = triggers(event.expect("triggers"));
        insta::assert_snapshot!(triggers.human(Style::PLAIN), @"
        flights/3/n14228  4 triggers of 3 functions
        ON      OF    CALLS                   OPTIONS
        create  dest  airports/0/count        reason=late
        update  dest  airports/0/count        reason=late
        delete  gate  airports/0/iah/release  reason=late
        error   land  airports/0/alarm        reason=late
        ");
        insta::assert_json_snapshot!(triggers.triggers[2], @r#"
        {
          "on": "delete",
          "of": "gate",
          "calls": {
            "class": "airports",
            "partition": 0,
            "object": "iah",
            "function": "release",
            "options": {
              "reason": "late"
            }
          }
        }
        "#);
        let none = Triggers { triggers: Vec::new(), ..triggers };
        assert_eq!(none.human(Style::PLAIN), "flights/3/n14228  no triggers\n");
    }

    #[test]
    fn what_is_added_comes_to_what_is_there_and_nothing_twice() {
        let known =
            event("add flights/n --on-update 7=airports/0/42/count --on-complete f=a/0/g").expect("triggers");
        // As a server answers it: numbers are in both columns.
        let mut answered = known.clone();
        let trigger = answered.data_trigger_str.get_mut("7").expect("a trigger");
        trigger.on_update[0].object_id = Some(42);
        answered.data_trigger.insert(7, trigger.clone());
        assert_eq!(one_column(answered.clone()), known);

        let more = event(
            "add flights/n --on-update 7=airports/0/42/count --on-delete 7=a/0/g --on-complete f=a/0/h",
        );
        let all = triggers(joined(one_column(answered), more.expect("triggers")));
        let shown: Vec<_> =
            all.triggers.iter().map(|row| format!("{} {} {}", row.on, row.of, row.calls)).collect();
        assert_eq!(
            shown,
            ["update 7 airports/0/42/count", "delete 7 a/0/g", "complete f a/0/g", "complete f a/0/h"]
        );
    }

    #[test]
    fn what_is_no_trigger_is_refused_with_what_was_expected() {
        let refused = |line: &str| event(line).expect_err("no trigger").to_string();
        assert!(refused("set flights/n").contains("required"), "at least one");
        let refusals =
            ["dest", "=a/0/f", "dest=count", "dest=a/x/f"].map(|text| parse_trigger(text).expect_err("none"));
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        expected KEY=CLASS/PARTITION/FUNCTION or KEY=CLASS/PARTITION/OBJECT/FUNCTION, for example city=demo/0/count
        expected KEY=CLASS/PARTITION/FUNCTION or KEY=CLASS/PARTITION/OBJECT/FUNCTION, for example city=demo/0/count
        behind dest= expected CLASS/PARTITION/FUNCTION or CLASS/PARTITION/OBJECT/FUNCTION, for example demo/0/alice/count
        behind dest= the partition must be a number from 0 to 65535, not "x"
        "#);
    }
}
