//! Operations as lines of text, for tests that read as stories.
//!
//! `[+MILLIS] [#REQUEST] COMMAND ARGUMENTS`, where COMMAND is one of
//!
//! - `set ID [KEY=TEXT ...] [!KEY=FUNCTION ... | !clear]`, `merge ID ...` alike; `!` attaches triggers
//! - `put ID [if=VERSION] [KEY=TEXT ...] [-KEY ...]`
//! - `delete ID`
//! - `cursor NAME POSITION LAG`, `drop-cursor NAME`
//! - `config [set_mode=upsert] [max_crdt=N] [window=MILLIS] [ids=N] [bytes=N] [index=MILLIS]`
//! - `semantics N`, `trim BELOW`, `collect THROUGH`

use odgm_log::Offset;
use odgm_log::body::{
    Body, CollectTombstones, Config, CursorMoved, DataTrigger, Delete, Merge, Semantics, Set, SetMode,
    SetValues, Target, Triggers, Trimmed, Value,
};

pub(crate) struct Line {
    /// Milliseconds since the line before.
    pub(crate) wait: u64,
    pub(crate) request_id: Option<String>,
    pub(crate) body: Body,
}

impl Line {
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace().peekable();
        let wait = words.next_if(|word| word.starts_with('+')).map_or(0, |word| number(&word[1..]));
        let request_id = words.next_if(|word| word.starts_with('#')).map(|word| word[1..].to_owned());
        let command = words.next().unwrap_or_else(|| panic!("no command in {line:?}"));
        let words: Vec<&str> = words.collect();
        Self { wait, request_id, body: body(command, &words) }
    }
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
        "semantics" => Body::Semantics(Semantics { version: number(words[0]).try_into().unwrap() }),
        "trim" => Body::Trimmed(Trimmed { below: Offset(number(words[0])) }),
        "collect" => Body::CollectTombstones(CollectTombstones { through: Offset(number(words[0])) }),
        _ => panic!("unknown command {command:?}"),
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
    let mut data: Vec<_> = words
        .iter()
        .filter_map(|word| word.strip_prefix('!')?.split_once('='))
        .map(|(key, function)| {
            let target = Target { class: "jobs".into(), function: function.into(), ..Target::default() };
            (key.to_owned(), DataTrigger { on_update: vec![target], ..DataTrigger::default() })
        })
        .collect();
    data.sort_by(|a, b| a.0.cmp(&b.0));
    (!data.is_empty()).then_some(Triggers { functions: Vec::new(), data })
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
            other => panic!("unknown rule {other:?}"),
        }
    }
    config
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}
