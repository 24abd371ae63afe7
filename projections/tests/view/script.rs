//! Operations as lines of text, for tests that read as stories.
//!
//! `[+MILLIS] [#REQUEST] [^DEPTH] [@GROUP/OFFSET] COMMAND ARGUMENTS`, the last of the options being the record that caused
//! this one, where COMMAND is one of
//!
//! - `set ID [KEY=TEXT ...] [!KEY[:ACTION]=TARGETS ... | !clear]`, `merge ID ...` alike; `!` attaches triggers: to an entry
//!   with `create`, `update` (if nothing is said) or `delete`, to a function with `complete` or `error`. Targets are
//!   `[CLASS/PARTITION/[OBJECT]/]FUNCTION`, separated by commas
//! - `put ID [if=VERSION] [KEY=TEXT ...] [-KEY ...]`
//! - `delete ID`
//! - `cursor NAME POSITION LAG`, `drop-cursor NAME`
//! - `config [set_mode=upsert] [max_crdt=N] [window=MILLIS] [ids=N] [bytes=N] [index=MILLIS] [events=off] [depth=N]
//!   [rows=N] [outbox=BYTES] [kept=MILLIS] [results=BYTES]`
//! - `semantics N`, `trim BELOW`, `collect THROUGH`
//!
//! or about calls, see [`calls`].

mod calls;

use std::collections::BTreeMap;
use std::str::FromStr;

use odgm_log::body::{
    Body, Cause, CollectTombstones, Config, CursorMoved, DataTrigger, Delete, FunctionTrigger, Merge, Parent,
    Semantics, Set, SetMode, SetValues, Target, Triggers, Trimmed, Value,
};
use odgm_log::{GroupId, NodeId, Offset};

pub(crate) struct Line {
    /// Milliseconds since the line before.
    pub(crate) wait: u64,
    pub(crate) cause: Cause,
    pub(crate) body: Body,
}

impl Line {
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace().peekable();
        let wait = words.next_if(|word| word.starts_with('+')).map_or(0, |word| number(&word[1..]));
        let request_id = words.next_if(|word| word.starts_with('#')).map(|word| word[1..].to_owned());
        let depth = words.next_if(|word| word.starts_with('^')).map_or(0, |word| number(&word[1..]));
        let parent = words.next_if(|word| word.starts_with('@')).map(|word| parent(&word[1..]));
        let command = words.next().unwrap_or_else(|| panic!("no command in {line:?}"));
        let words: Vec<&str> = words.collect();
        let cause = Cause { request_id, depth, parent, traceparent: None };
        Self { wait, cause, body: body(command, &words) }
    }
}

fn parent(text: &str) -> Parent {
    let (group, offset) = text.split_once('/').unwrap();
    Parent { group: GroupId(number(group)), origin: NodeId(1), offset: Offset(number(offset)) }
}

fn body(command: &str, words: &[&str]) -> Body {
    match command {
        "set" => {
            let (entries, triggers) = (entries(&words[1..]), triggers(&words[1..]));
            Body::Set(Set { object: words[0].to_owned(), entries, triggers })
        }
        "merge" => {
            let (entries, triggers) = (entries(&words[1..]), triggers(&words[1..]));
            Body::Merge(Merge { object: words[0].to_owned(), entries, triggers })
        }
        "put" => put(words[0], &words[1..]),
        "delete" => Body::Delete(Delete { object: words[0].to_owned() }),
        "cursor" => Body::CursorMoved(CursorMoved {
            name: words[0].to_owned(),
            position: Some(Offset(number(words[1]))),
            allowed_lag: number(words[2]),
        }),
        "drop-cursor" => {
            Body::CursorMoved(CursorMoved { name: words[0].to_owned(), position: None, allowed_lag: 0 })
        }
        "config" => Body::Config(config(words)),
        "semantics" => Body::Semantics(Semantics { version: number(words[0]) }),
        "trim" => Body::Trimmed(Trimmed { below: Offset(number(words[0])) }),
        "collect" => Body::CollectTombstones(CollectTombstones { through: Offset(number(words[0])) }),
        _ => calls::body(command, words),
    }
}

fn put(object: &str, words: &[&str]) -> Body {
    let expected = words.iter().find_map(|word| word.strip_prefix("if="));
    let puts: Vec<&str> = words.iter().copied().filter(|word| !word.starts_with("if=")).collect();
    Body::SetValues(SetValues {
        object: object.to_owned(),
        puts: entries(&puts),
        deletes: words.iter().filter_map(|word| word.strip_prefix('-')).map(Into::into).collect(),
        expected_version: expected.map(number),
    })
}

fn entries(words: &[&str]) -> Vec<(String, Value)> {
    let mut entries: Vec<_> = words
        .iter()
        .filter(|word| !word.starts_with('!'))
        .filter_map(|word| word.split_once('='))
        .map(|(key, text)| (key.to_owned(), Value::bytes(text.to_owned())))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    entries
}

fn triggers(words: &[&str]) -> Option<Triggers> {
    if words.contains(&"!clear") {
        return Some(Triggers::default());
    }
    let (mut data, mut functions) = (BTreeMap::new(), BTreeMap::new());
    for (on, targets) in words.iter().filter_map(|word| word.strip_prefix('!')?.split_once('=')) {
        let (name, action) = on.split_once(':').unwrap_or((on, "update"));
        let targets = targets.split(',').map(target).collect();
        let entry = data.entry(name.to_owned());
        let function = functions.entry(name.to_owned());
        match action {
            "create" => entry.or_insert_with(DataTrigger::default).on_create = targets,
            "update" => entry.or_insert_with(DataTrigger::default).on_update = targets,
            "delete" => entry.or_insert_with(DataTrigger::default).on_delete = targets,
            "complete" => function.or_insert_with(FunctionTrigger::default).on_complete = targets,
            "error" => function.or_insert_with(FunctionTrigger::default).on_error = targets,
            other => panic!("unknown action {other:?}"),
        }
    }
    let (functions, data): (Vec<_>, Vec<_>) = (functions.into_iter().collect(), data.into_iter().collect());
    let triggers = Triggers { functions, data };
    (!triggers.is_empty()).then_some(triggers)
}

fn target(text: &str) -> Target {
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [function] => Target { class: "jobs".into(), function: (*function).into(), ..Target::default() },
        [class, partition, object, function] => Target {
            class: (*class).into(),
            partition: number(partition),
            object: (!object.is_empty()).then(|| (*object).to_owned()),
            function: (*function).into(),
            options: Vec::new(),
        },
        _ => panic!("{text:?} is no target"),
    }
}

fn config(words: &[&str]) -> Config {
    let mut config = Config::default();
    for word in words {
        match word.split_once('=').unwrap() {
            ("set_mode", "upsert") => config.set_mode = SetMode::Upsert,
            ("max_crdt", value) => config.max_crdt_bytes = number(value),
            ("window", value) => config.dedup_window_ms = number(value),
            ("ids", value) => config.dedup_max_ids = number(value),
            ("bytes", value) => config.dedup_max_bytes = number(value),
            ("index", value) => config.time_index_interval_ms = number(value),
            ("events", "off") => config.events_enabled = false,
            ("depth", value) => config.max_trigger_depth = number(value),
            ("rows", value) => config.max_outbox_rows = number(value),
            ("outbox", value) => config.max_outbox_bytes = number(value),
            ("kept", value) => config.result_retention_ms = number(value),
            ("results", value) => config.max_result_bytes = number(value),
            other => panic!("unknown rule {other:?}"),
        }
    }
    config
}

fn number<N: FromStr>(word: &str) -> N {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}
