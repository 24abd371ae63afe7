//! What a record did, in a few words.

use std::fmt::Write as _;

use odgm_log::Payload;
use odgm_log::body::calls::{Finished, Outcome, TriggerSettled, Verdict};
use odgm_log::body::{Body, SetValues, Triggers, Value, ValueKind};

/// How many entries are named, and how long a value may be that is shown.
const ENTRIES: usize = 3;
const VALUE_CHARS: usize = 24;

/// Tells of a record of the partition `place`, which is `CLASS/PARTITION`.
pub(super) fn summary(place: &str, payload: &Payload) -> String {
    match &payload.body {
        Body::Set(set) => written("set", &set.object, &set.entries, set.triggers.as_ref()),
        Body::Merge(merge) => written("merge", &merge.object, &merge.entries, merge.triggers.as_ref()),
        Body::SetValues(values) => set_values(values),
        Body::Delete(delete) => format!("delete {}", delete.object),
        Body::Invoke(invoke) => {
            let function = callee(place, invoke.object.as_deref(), &invoke.function);
            format!("call {function} as {}", invoke.invocation)
        }
        Body::Outcome(outcome) => ended(place, outcome),
        Body::TriggerSettled(settled) => settlements(settled),
        Body::Delivered(delivered) => {
            let (arrived, not) = (delivered.arrived.len(), delivered.undeliverable.len());
            format!("{} arrived{}", count(arrived, "outcome"), others(not, "has no place to go to"))
        }
        Body::Redrive(redrive) => format!("{} tried again", count(redrive.letters.len(), "dead letter")),
        Body::Discard(discard) => {
            format!("{} dropped: {}", count(discard.letters.len(), "dead letter"), discard.reason)
        }
        other => other.body_type().name().replace('_', " "),
    }
}

/// A function and what it is called on.
fn callee(place: &str, object: Option<&str>, function: &str) -> String {
    match object {
        Some(object) => format!("{function} on {place}/{object}"),
        None => format!("{function} of {place}"),
    }
}

fn written(what: &str, object: &str, entries: &[(String, Value)], triggers: Option<&Triggers>) -> String {
    let mut text = format!("{what} {object}");
    let shown: Vec<_> =
        entries.iter().take(ENTRIES).map(|(key, value)| format!("{key}={}", shown(value))).collect();
    if !shown.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, ": {}", shown.join(", "));
    }
    if entries.len() > ENTRIES {
        let _ = write!(text, " and {} more", entries.len() - ENTRIES);
    }
    match triggers {
        Some(triggers) if triggers.is_empty() => text.push_str(", without triggers"),
        Some(_) => text.push_str(", with triggers"),
        None => {}
    }
    text
}

fn set_values(values: &SetValues) -> String {
    let mut text = if values.puts.is_empty() {
        format!("set {}", values.object)
    } else {
        written("set", &values.object, &values.puts, None)
    };
    if !values.deletes.is_empty() {
        let named: Vec<_> = values.deletes.iter().take(ENTRIES).map(String::as_str).collect();
        let more = values.deletes.len().saturating_sub(ENTRIES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = write!(text, ", without {}{more}", named.join(", "));
    }
    text
}

fn shown(value: &Value) -> String {
    let Value { kind, data } = value;
    match (kind, std::str::from_utf8(data)) {
        (ValueKind::Bytes, Ok(text)) if !text.contains(char::is_control) => {
            let mut brief: String = text.chars().take(VALUE_CHARS).collect();
            if brief.len() < text.len() {
                brief.push('…');
            }
            brief
        }
        (ValueKind::Bytes, _) => format!("({})", count(data.len(), "byte")),
        (ValueKind::CrdtMap, _) => format!("(document of {})", count(data.len(), "byte")),
    }
}

fn ended(place: &str, outcome: &Outcome) -> String {
    let Finished { status, detail, took_us, .. } = &outcome.finished;
    let function = callee(place, outcome.object.as_deref(), &outcome.function);
    let millis = took_us / 1_000;
    if status.is_complete() {
        return format!("{function} completed in {millis} ms");
    }
    let why = if detail.is_empty() { status.name().replace('_', " ") } else { detail.clone() };
    format!("{function} failed after {millis} ms: {why}")
}

fn settlements(settled: &TriggerSettled) -> String {
    let of = |is: fn(&Verdict) -> bool| settled.settlements.iter().filter(|one| is(&one.verdict)).count();
    let ended = of(|verdict| matches!(verdict, Verdict::Ended(_)));
    let again = of(|verdict| matches!(verdict, Verdict::Retry { .. }));
    let dead = of(|verdict| matches!(verdict, Verdict::Dead { .. }));
    let parts = [(ended, "ended"), (again, "to be tried again"), (dead, "given up")];
    let parts: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    format!("calls: {}", parts.join(", "))
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn others(n: usize, what: &str) -> String {
    if n == 0 { String::new() } else { format!(", {n} {what}") }
}

#[cfg(test)]
mod tests {
    use odgm_log::body::calls::{Attempt, Delivered, Discard, Invoke, Place, Settlement, Source, Status};
    use odgm_log::body::{Delete, Set};
    use odgm_log::{Cause, Offset, Timestamp};

    use super::*;

    fn told(body: Body) -> String {
        summary("airports/0", &Payload { cause: Cause::default(), body })
    }

    fn outcome(object: Option<&str>, status: Status, detail: &str) -> Body {
        let finished = Finished { status, detail: detail.into(), took_us: 3_400, ..Finished::default() };
        Body::Outcome(Outcome {
            source: Source::Client,
            invocation: "i".into(),
            object: object.map(str::to_owned),
            function: "count".into(),
            finished,
        })
    }

    #[test]
    fn a_record_is_told_in_a_few_words() {
        let entry = |key: &str, value: Value| (key.to_owned(), value);
        let entries = ["a", "b", "c", "dest"].map(|key| entry(key, Value::bytes("IAH"))).to_vec();
        let long = vec![entry("note", Value::bytes("x".repeat(100))), entry("raw", Value::bytes(vec![0, 1]))];
        let values = SetValues {
            object: "n1".into(),
            puts: vec![entry("doc", Value::crdt_map(vec![7]))],
            deletes: vec!["old".into()],
            expected_version: None,
        };
        let settlement = |verdict| Settlement { attempt: Attempt::default(), verdict };
        let settled = TriggerSettled {
            settlements: vec![
                settlement(Verdict::Ended(Finished::default())),
                settlement(Verdict::Retry { at: Timestamp(1), reason: "busy".into() }),
            ],
        };
        let at = Place { offset: Offset(7), index: 0 };
        let delivered = Delivered { arrived: vec![at, at], undeliverable: vec![(at, "gone".into())] };
        let set = |entries, triggers| Body::Set(Set { object: "n1".into(), entries, triggers });
        let lines = [
            told(set(entries, None)),
            told(set(long, Some(Triggers::default()))),
            told(Body::SetValues(values)),
            told(Body::Delete(Delete { object: "n1".into() })),
            told(Body::Invoke(Invoke {
                invocation: "job-1".into(),
                function: "count".into(),
                ..Invoke::default()
            })),
            told(outcome(Some("iah"), Status::Completed, "")),
            told(outcome(None, Status::SystemError, "the function was not reached: refused")),
            told(outcome(None, Status::InvalidRequest, "")),
            told(Body::TriggerSettled(settled)),
            told(Body::Delivered(delivered)),
            told(Body::Discard(Discard { letters: vec![at], reason: "too old".into() })),
            told(Body::Blank),
        ];
        insta::assert_snapshot!(lines.join("\n"), @"
        set n1: a=IAH, b=IAH, c=IAH and 1 more
        set n1: note=xxxxxxxxxxxxxxxxxxxxxxxx…, raw=(2 bytes), without triggers
        set n1: doc=(document of 1 byte), without old
        delete n1
        call count of airports/0 as job-1
        count on airports/0/iah completed in 3 ms
        count of airports/0 failed after 3 ms: the function was not reached: refused
        count of airports/0 failed after 3 ms: invalid request
        calls: 1 ended, 1 to be tried again
        2 outcomes arrived, 1 has no place to go to
        1 dead letter dropped: too old
        blank
        ");
    }
}
