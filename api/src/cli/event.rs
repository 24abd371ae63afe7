//! Events of a partition's log, for people and programs: `watch` and `history` show the same.

use std::{collections::BTreeMap, time::Duration};

use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    call,
    output::{Cell, Human, Style, Tint},
    time,
    value::EntryValue,
};

/// One event.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    /// The partition.
    pub(crate) partition: u32,
    /// Its place in the partition's log.
    pub(crate) offset: u64,
    time: String,
    kind: &'static str,
    id: String,
    version: u64,
    operation: String,
    changes: Vec<Change>,
    #[serde(skip_serializing_if = "is_false")]
    triggers_changed: bool,
    /// Of events about a function: how its call ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Cause>,
    /// On the last event of a batch: resumes after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Change {
    key: String,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<EntryValue>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    function: String,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    invocation_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What the function answered, where values are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<EntryValue>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    took_us: u64,
}

/// Only what is not as in a client's own plain write.
#[derive(Debug, Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    depth: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Parent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

#[derive(Debug, Serialize)]
struct Parent {
    group: u32,
    origin: u64,
    offset: u64,
}

// serde wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl From<v1::Event> for Event {
    fn from(event: v1::Event) -> Self {
        let kind = kind_name(event.kind());
        Self {
            partition: event.partition_id,
            offset: event.offset,
            time: time::format_ms(event.time_ms),
            kind,
            id: event.object_id,
            version: event.object_version,
            operation: event.operation,
            changes: event.changes.into_iter().map(Change::from).collect(),
            triggers_changed: event.triggers_changed,
            outcome: event.outcome.map(Outcome::from),
            cause: event.cause.and_then(Cause::from_wire),
            cursor: None,
        }
    }
}

impl From<v1::Change> for Change {
    fn from(change: v1::Change) -> Self {
        let action = match change.action() {
            v1::Action::Created => "created",
            v1::Action::Updated => "updated",
            v1::Action::Deleted => "deleted",
            v1::Action::Unspecified => "unknown",
        };
        Self { key: change.key, action, value: change.value.map(EntryValue) }
    }
}

impl From<v1::CallOutcome> for Outcome {
    fn from(outcome: v1::CallOutcome) -> Self {
        Self {
            status: call::status_name(outcome.status()),
            function: outcome.fn_id,
            invocation_id: outcome.invocation_id,
            detail: outcome.detail,
            payload: Some(outcome.payload).filter(|payload| !payload.is_empty()).map(EntryValue::bytes),
            headers: outcome.headers,
            took_us: outcome.took_us,
        }
    }
}

impl Outcome {
    /// `count  1.2 ms`, or `count  application_error: out of range  1.2 ms`.
    fn short(&self) -> String {
        let mut text = self.function.clone();
        if self.status != call::status_name(odgm_proto::oprc::ResponseStatus::Okay) {
            text += &format!("  {}", self.status);
            if !self.detail.is_empty() {
                text += &format!(": {}", self.detail);
            }
        }
        text + &format!("  {}", call::span(Duration::from_micros(self.took_us)))
    }
}

impl Cause {
    fn from_wire(cause: v1::Cause) -> Option<Self> {
        let v1::Cause { request_id, depth, parent, traceparent } = cause;
        let parent = parent.map(|v1::Parent { group, origin, offset }| Parent { group, origin, offset });
        let says_something = request_id.is_some() || depth > 0 || parent.is_some() || traceparent.is_some();
        says_something.then_some(Self { request_id, depth, parent, traceparent })
    }
}

const fn kind_name(kind: v1::EventKind) -> &'static str {
    match kind {
        v1::EventKind::Created => "created",
        v1::EventKind::Updated => "updated",
        v1::EventKind::Deleted => "deleted",
        v1::EventKind::Completed => "completed",
        v1::EventKind::Failed => "failed",
        v1::EventKind::Unspecified => "unknown",
    }
}

fn tint(name: &str) -> Tint {
    match name {
        "created" | "completed" => Tint::Good,
        "deleted" | "failed" => Tint::Bad,
        _ => Tint::Notice,
    }
}

impl Change {
    /// `+key`, `~key`, `-key`.
    fn short(&self) -> String {
        let sign = match self.action {
            "created" => '+',
            "deleted" => '-',
            _ => '~',
        };
        format!("{sign}{}", self.key)
    }
}

impl Event {
    /// The heading of [`Event::cells`].
    pub(crate) const HEADING: &'static [&'static str] =
        &["OFFSET", "TIME", "KIND", "VERSION", "OPERATION", "CHANGES"];

    /// As a row of a table about one object.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        vec![
            self.offset.into(),
            self.time.as_str().into(),
            Cell::from(self.kind).tinted(tint(self.kind)),
            self.version.into(),
            self.operation.as_str().into(),
            self.changes_with_values().into(),
        ]
    }

    /// One line for each change where there are values, otherwise one line for all. Of a call, how it ended.
    fn changes_with_values(&self) -> String {
        if let Some(outcome) = &self.outcome {
            let payload = outcome.payload.as_ref().map(|payload| format!("= {payload}"));
            return [outcome.short()].into_iter().chain(payload).collect::<Vec<_>>().join("\n");
        }
        if self.changes.iter().all(|change| change.value.is_none()) {
            return self.changes_in_short();
        }
        let line = |change: &Change| match &change.value {
            Some(value) => format!("{} = {value}", change.short()),
            None => change.short(),
        };
        self.changes.iter().map(line).chain(self.triggers_note()).collect::<Vec<_>>().join("\n")
    }

    fn changes_in_short(&self) -> String {
        self.changes.iter().map(Change::short).chain(self.triggers_note()).collect::<Vec<_>>().join(" ")
    }

    fn triggers_note(&self) -> Option<String> {
        self.triggers_changed.then(|| "(triggers)".to_owned())
    }
}

/// A line for a live stream; values, if any, on lines of their own below it.
impl Human for Event {
    fn human(&self, style: Style) -> String {
        let place = style.paint(Tint::Faint, &format!("{} {}#{}", self.time, self.partition, self.offset));
        let kind = style.paint(tint(self.kind), self.kind);
        // Functions of a class are called on no object.
        let object = if self.id.is_empty() { "-" } else { &self.id };
        let mut text = format!("{place}  {kind}  {object}");
        if let Some(outcome) = &self.outcome {
            text += &format!("  {}\n", outcome.short());
            if let Some(payload) = &outcome.payload {
                text += &format!("    = {payload}\n");
            }
            return text;
        }
        text += &format!("  v{}", self.version);
        if !self.changes.is_empty() || self.triggers_changed {
            text += &format!("  {}", self.changes_in_short());
        }
        text.push('\n');
        for change in &self.changes {
            if let Some(value) = &change.value {
                text += &format!("    {} = {value}\n", change.key);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use odgm_proto::oprc;

    use super::*;
    use crate::cli::output::Table;

    fn event(with_values: bool) -> Event {
        let change = |key: &str, action: v1::Action, value: Option<&'static str>| v1::Change {
            key: key.into(),
            action: action.into(),
            value: value.filter(|_| with_values).map(|value| EntryValue::bytes(value).0),
        };
        v1::Event {
            partition_id: 3,
            offset: 17,
            time_ms: 1_772_368_200_000,
            kind: v1::EventKind::Updated.into(),
            object_id: "n14228".into(),
            object_version: 5,
            changes: vec![
                change("dest", v1::Action::Updated, Some("IAH")),
                change("gate", v1::Action::Created, Some("12")),
                change("note", v1::Action::Deleted, None),
            ],
            triggers_changed: false,
            cause: Some(v1::Cause { request_id: Some("r-1".into()), ..Default::default() }),
            operation: "set_values".into(),
            outcome: None,
        }
        .into()
    }

    #[test]
    fn a_live_event_is_one_line_and_its_values() {
        insta::assert_snapshot!(event(false).human(Style::PLAIN), @"2026-03-01T12:30:00.000Z 3#17  updated  n14228  v5  ~dest +gate -note");
        insta::assert_snapshot!(event(true).human(Style::PLAIN), @"
        2026-03-01T12:30:00.000Z 3#17  updated  n14228  v5  ~dest +gate -note
            dest = IAH
            gate = 12
        ");
    }

    fn ended(status: oprc::ResponseStatus, object: &str, with_values: bool) -> Event {
        let is_complete = status == oprc::ResponseStatus::Okay;
        let kind = if is_complete { v1::EventKind::Completed } else { v1::EventKind::Failed };
        v1::Event {
            partition_id: 3,
            offset: 18,
            time_ms: 1_772_368_200_000,
            kind: kind.into(),
            object_id: object.into(),
            object_version: 5,
            operation: "outcome".into(),
            outcome: Some(v1::CallOutcome {
                invocation_id: "4/1/17/0".into(),
                fn_id: "count".into(),
                status: status.into(),
                detail: if is_complete { String::new() } else { "out of range".into() },
                payload: if with_values { "3".into() } else { bytes::Bytes::new() },
                headers: BTreeMap::new(),
                took_us: 1_240,
            }),
            ..Default::default()
        }
        .into()
    }

    #[test]
    fn how_a_call_ended_is_an_event_too() {
        let events = [
            ended(oprc::ResponseStatus::Okay, "n14228", true),
            ended(oprc::ResponseStatus::AppError, "", false),
        ];
        let text: Vec<_> = events.iter().map(|event| event.human(Style::PLAIN)).collect();
        insta::assert_snapshot!(text.join(""), @"
        2026-03-01T12:30:00.000Z 3#18  completed  n14228  count  1.2 ms
            = 3
        2026-03-01T12:30:00.000Z 3#18  failed  -  count  application_error: out of range  1.2 ms
        ");
        let mut table = Table::new(Event::HEADING);
        for event in &events {
            table.row(event.cells());
        }
        insta::assert_snapshot!(table.render(Style::PLAIN), @"
        OFFSET  TIME                      KIND       VERSION  OPERATION  CHANGES
            18  2026-03-01T12:30:00.000Z  completed        5  outcome    count  1.2 ms
                                                                         = 3
            18  2026-03-01T12:30:00.000Z  failed           5  outcome    count  application_error: out of range  1.2 ms
        ");
        insta::assert_json_snapshot!(events[0], @r#"
        {
          "partition": 3,
          "offset": 18,
          "time": "2026-03-01T12:30:00.000Z",
          "kind": "completed",
          "id": "n14228",
          "version": 5,
          "operation": "outcome",
          "changes": [],
          "outcome": {
            "function": "count",
            "status": "completed",
            "invocation_id": "4/1/17/0",
            "payload": "3",
            "took_us": 1240
          }
        }
        "#);
    }

    #[test]
    fn history_is_a_table() {
        let mut table = Table::new(Event::HEADING);
        table.row(event(false).cells());
        table.row(event(true).cells());
        insta::assert_snapshot!(table.render(Style::PLAIN), @"
        OFFSET  TIME                      KIND     VERSION  OPERATION   CHANGES
            17  2026-03-01T12:30:00.000Z  updated        5  set_values  ~dest +gate -note
            17  2026-03-01T12:30:00.000Z  updated        5  set_values  ~dest = IAH
                                                                        +gate = 12
                                                                        -note
        ");
    }

    #[test]
    fn an_event_for_programs_says_everything() {
        let mut event = event(true);
        event.cursor = Some("AAEC".into());
        insta::assert_json_snapshot!(event, @r#"
        {
          "partition": 3,
          "offset": 17,
          "time": "2026-03-01T12:30:00.000Z",
          "kind": "updated",
          "id": "n14228",
          "version": 5,
          "operation": "set_values",
          "changes": [
            {
              "key": "dest",
              "action": "updated",
              "value": "IAH"
            },
            {
              "key": "gate",
              "action": "created",
              "value": "12"
            },
            {
              "key": "note",
              "action": "deleted"
            }
          ],
          "cause": {
            "request_id": "r-1",
            "depth": 0
          },
          "cursor": "AAEC"
        }
        "#);
    }
}
