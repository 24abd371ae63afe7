//! Stories of functions that are called: by clients, by themselves, and by what happens to objects.

mod accepted;
mod arrivals;
mod commands;
mod invocations;
mod killed;
mod limits;
mod loops;
mod outages;
mod readme;
mod triggers;

use std::collections::BTreeMap;

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, Event, EventKind};
use odgm_proto::oprc::{EventInfo, EventType};
use odgm_tests::functions::Call;
use odgm_tests::harness::{Functions, Node, Objects, routed};

use crate::Story;

/// The collection of most stories.
const CLASS: &str = "things";

/// Functions that write to a node, and a collection on it that has some of them.
async fn functions(
    node: &Node<'_>,
    partitions: u32,
    names: &[&str],
    options: &[(&str, &str)],
) -> odgm_tests::Result<Functions> {
    let functions = Functions::start().await?;
    functions.write_to(&[node.address()])?;
    create(node, CLASS, partitions, names, options, &functions).await?;
    Ok(functions)
}

/// A collection that has some of the functions.
async fn create(
    node: &Node<'_>,
    class: &str,
    partitions: u32,
    names: &[&str],
    options: &[(&str, &str)],
    functions: &Functions,
) -> Story {
    let mut collection = routed(class, partitions, names, &functions.url());
    collection.options =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    node.connection().create(collection).await?;
    Ok(())
}

/// Everything that is told of a partition's functions so far.
async fn outcomes(things: &Objects) -> odgm_tests::Result<Vec<Event>> {
    let mut events = things.watch_until_current(From::Earliest(Earliest {})).await?;
    events.retain(|event| matches!(event.kind(), EventKind::Completed | EventKind::Failed));
    Ok(events)
}

/// Requires that no call has two outcomes in the log of a partition; the outcomes by the calls' ids.
async fn outcomes_by_call(things: &Objects) -> odgm_tests::Result<BTreeMap<String, Event>> {
    let mut found = BTreeMap::new();
    for event in outcomes(things).await? {
        let id = event.outcome.clone().ok_or("an event of a function has its outcome")?.invocation_id;
        let (offset, again) = (event.offset, found.insert(id.clone(), event));
        if let Some(first) = again {
            return Err(format!("{id} ended at {} and again at {offset}", first.offset).into());
        }
    }
    Ok(found)
}

/// A call of a data trigger in one line: `create a.k=1 -> b echo, depth 1`.
fn told(call: &Call) -> odgm_tests::Result<String> {
    let trigger = call.trigger().ok_or("it was called by a trigger")?;
    let event = trigger.event_info.ok_or("it says why")?;
    let what = match event.event_type() {
        EventType::DataCreate => "create",
        EventType::DataUpdate => "update",
        EventType::DataDelete => "delete",
        EventType::FuncComplete => "complete",
        EventType::FuncError => "error",
        EventType::Unknown => "?",
    };
    let EventInfo { source_object_id_str, key, fn_id, .. } = event;
    let source = source_object_id_str.unwrap_or_default();
    let part = key.or(fn_id).unwrap_or_default();
    let value = trigger.original_payload.unwrap_or_default();
    let value = String::from_utf8_lossy(&value);
    let on = call.object.as_deref().unwrap_or("-");
    Ok(format!("{what} {source}.{part}={value} -> {on} {}, depth {}", call.function, call.depth()))
}

/// The record that a call is because of, as its idempotency key has it.
fn caused_by(call: &Call) -> odgm_tests::Result<u64> {
    let offset = call.key().split('/').nth(2).and_then(|offset| offset.parse().ok());
    offset.ok_or_else(|| format!("{:?} is no idempotency key", call.key()).into())
}

/// Calls of triggers, one in each line, in the order of what they are because of: they come in any.
fn told_in_order(calls: &[Call]) -> odgm_tests::Result<String> {
    let lines = calls.iter().map(|call| Ok((caused_by(call)?, told(call)?)));
    let mut lines = lines.collect::<odgm_tests::Result<Vec<_>>>()?;
    lines.sort();
    Ok(lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n"))
}
