//! Random operations against a model that is as simple as the rules can be said.

use std::collections::BTreeMap;

use odgm_log::Offset;
use odgm_log::body::{Body, Config, SetMode, Triggers, Value};
use odgm_projections::storage::Engine;
use odgm_projections::{Action, Change, ChangeKind, Committed, Object, Outcome, fingerprint};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::script::Line;
use crate::support::{Fixture, Log, everything};

/// An object of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Thing {
    version: u64,
    entries: BTreeMap<String, Value>,
    pub(crate) triggers: Option<Triggers>,
}

/// What every record up to one did.
#[derive(Clone, Default)]
pub(crate) struct Model {
    pub(crate) things: BTreeMap<String, Thing>,
    /// The highest version that each name ever had.
    versions: BTreeMap<String, u64>,
    collected: u64,
    tombstones: Vec<(Offset, String)>,
    requests: Vec<(String, u64, Offset, [u8; 16], Outcome)>,
    pub(crate) config: Config,
}

impl Model {
    pub(crate) fn apply(&mut self, millis: u64, committed: &Committed) -> (Outcome, Option<Change>) {
        let Committed { record, payload, .. } = committed;
        let offset = record.offset;
        let window = self.config.dedup_window_ms;
        let done = match &payload.cause.request_id {
            None => self.operate(committed),
            Some(id) => {
                let asked = fingerprint(record.kind, payload.body_bytes(&record.payload));
                self.requests.retain(|(known, then, ..)| known != id || millis - then <= window);
                match self.requests.iter().find(|(known, ..)| known == id) {
                    Some((_, _, offset, fingerprint, outcome)) if *fingerprint == asked => {
                        (Outcome::Duplicate { offset: *offset, outcome: Box::new(outcome.clone()) }, None)
                    }
                    Some((_, _, offset, ..)) => (Outcome::RequestIdReused { offset: *offset }, None),
                    None => {
                        let done = self.operate(committed);
                        self.requests.push((id.clone(), millis, offset, asked, done.0.clone()));
                        done
                    }
                }
            }
        };
        for _ in 0..8 {
            let over = self.requests.len() as u64 > self.config.dedup_max_ids
                || self
                    .requests
                    .first()
                    .is_some_and(|(_, then, ..)| millis - then > self.config.dedup_window_ms);
            if over {
                self.requests.remove(0);
            }
        }
        let (outcome, change) = done;
        (outcome, change.map(|change| Change { offset, operation: record.kind.body_type, ..change }))
    }

    fn operate(&mut self, committed: &Committed) -> (Outcome, Option<Change>) {
        match &committed.payload.body {
            Body::Set(set) => {
                let replace = self.config.set_mode == SetMode::Replace;
                let gone = |key: &String| replace && !set.entries.iter().any(|(put, _)| put == key);
                self.write(&set.object, &set.entries, &gone, set.triggers.as_ref(), true, replace)
            }
            Body::Merge(merge) => {
                self.write(&merge.object, &merge.entries, &|_| false, merge.triggers.as_ref(), true, false)
            }
            Body::SetValues(body) => {
                let current = self.things.get(&body.object).map_or(0, |thing| thing.version);
                match body.expected_version {
                    Some(expected) if expected != current => {
                        (Outcome::VersionMismatch { expected, current }, None)
                    }
                    _ => {
                        let gone = |key: &String| body.deletes.contains(key);
                        self.write(&body.object, &body.puts, &gone, None, !body.puts.is_empty(), false)
                    }
                }
            }
            Body::Delete(delete) => self.delete(&delete.object, committed.record.offset),
            Body::Config(config) => {
                self.config = config.clone();
                (Outcome::Noted, None)
            }
            Body::CollectTombstones(collect) => {
                for (_, name) in self.tombstones.extract_if(.., |(offset, _)| *offset <= collect.through) {
                    self.collected = self.collected.max(self.versions[&name]);
                    self.versions.remove(&name);
                }
                (Outcome::Noted, None)
            }
            _ => (Outcome::Noted, None),
        }
    }

    fn write(
        &mut self,
        name: &str,
        puts: &[(String, Value)],
        gone: &dyn Fn(&String) -> bool,
        triggers: Option<&Triggers>,
        creates: bool,
        replaced: bool,
    ) -> (Outcome, Option<Change>) {
        let before = self.things.get(name).cloned();
        if before.is_none() && !creates {
            return (Outcome::Unchanged { version: 0 }, None);
        }
        let mut thing = before.clone().unwrap_or_default();
        let mut keys = BTreeMap::new();
        for (key, value) in puts {
            let new = thing.entries.insert(key.clone(), value.clone()).is_none();
            keys.insert(key.clone(), if new { Action::Created } else { Action::Updated });
        }
        for key in
            thing.entries.extract_if(.., |key, _| gone(key) && !keys.contains_key(key)).collect::<Vec<_>>()
        {
            keys.insert(key.0, Action::Deleted);
        }
        if let Some(triggers) = triggers {
            thing.triggers = (!triggers.is_empty()).then(|| triggers.clone());
        }
        let triggers_changed = thing.triggers != before.as_ref().and_then(|thing| thing.triggers.clone());
        if before.is_some() && keys.is_empty() && !triggers_changed {
            return (Outcome::Unchanged { version: thing.version }, None);
        }
        if before.is_none() || !keys.is_empty() {
            thing.version = 1 + self
                .versions
                .get(name)
                .copied()
                .unwrap_or(self.collected)
                .max(if before.is_none() { self.collected } else { 0 });
            self.versions.insert(name.to_owned(), thing.version);
        }
        self.tombstones.retain(|(_, other)| other != name);
        let kind = if before.is_some() { ChangeKind::Updated } else { ChangeKind::Created };
        let version = thing.version;
        self.things.insert(name.to_owned(), thing);
        let change = Change { triggers_changed, replaced, ..change(name, kind, version, keys) };
        (Outcome::Changed { version }, Some(change))
    }

    fn delete(&mut self, name: &str, offset: Offset) -> (Outcome, Option<Change>) {
        let Some(thing) = self.things.remove(name) else {
            return (Outcome::Unchanged { version: 0 }, None);
        };
        let version = thing.version + 1;
        self.versions.insert(name.to_owned(), version);
        self.tombstones.push((offset, name.to_owned()));
        let keys = thing.entries.into_keys().map(|key| (key, Action::Deleted)).collect();
        (Outcome::Changed { version }, Some(change(name, ChangeKind::Deleted, version, keys)))
    }
}

fn change(name: &str, kind: ChangeKind, version: u64, keys: BTreeMap<String, Action>) -> Change {
    Change {
        offset: Offset::ZERO,
        time: 0.into(),
        object: name.to_owned(),
        kind,
        version,
        keys: keys.into_iter().collect(),
        triggers_changed: false,
        replaced: false,
        operation: odgm_log::BodyType::Set,
    }
}

fn same(object: Option<&Object>, thing: Option<&Thing>) -> bool {
    let object = object.map(|object| Thing {
        version: object.version,
        entries: object.entries.iter().cloned().collect(),
        triggers: object.triggers.clone(),
    });
    object.as_ref() == thing
}

/// A line of a script about few objects and few keys, so that operations meet each other.
fn line() -> impl Strategy<Value = String> {
    let id = || select(vec!["a", "b", "ab"]);
    let key = || select(vec!["k", "l", "m"]);
    let puts = move || prop::collection::btree_map(key(), 0..3, 0..3);
    let trigger = select(vec!["", "", "", " !k=f", " !l=g", " !clear"]);
    let expected = select(vec!["", "", "", " if=0", " if=1", " if=2", " if=3"]);
    let config = select(vec!["", " set_mode=upsert", " window=40", " ids=2", " index=20"]);
    let words = |puts: BTreeMap<&str, i32>| -> String {
        puts.iter().map(|(key, text)| format!(" {key}={text}")).collect()
    };
    let operation = prop_oneof![
        3 => (id(), puts(), trigger.clone()).prop_map(move |(id, puts, t)| format!("set {id}{}{t}", words(puts))),
        3 => (id(), puts(), trigger).prop_map(move |(id, puts, t)| format!("merge {id}{}{t}", words(puts))),
        6 => (id(), puts(), prop::collection::btree_set(key(), 0..2), expected).prop_map(
            move |(id, puts, deletes, expected)| {
                let deletes: String = deletes
                    .iter()
                    .filter(|key| !puts.contains_key(*key))
                    .map(|key| format!(" -{key}"))
                    .collect();
                format!("put {id}{expected}{}{deletes}", words(puts))
            }
        ),
        3 => id().prop_map(|id| format!("delete {id}")),
        1 => (1..40).prop_map(|through| format!("collect {through}")),
        1 => config.prop_map(|config| format!("config{config}")),
    ];
    let request = select(vec!["", "", "", "#r1 ", "#r2 ", "#r3 "]);
    (prop_oneof![5 => Just(0), 1 => 1..60], request, operation)
        .prop_map(|(wait, request, operation)| format!("+{wait} {request}{operation}"))
}

/// What a history is put through besides being applied.
#[derive(Clone, Debug)]
enum Event {
    Line(String),
    EndBatch,
    Reopen,
    Snapshot,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => line().prop_map(Event::Line),
        3 => Just(Event::EndBatch),
        1 => Just(Event::Reopen),
        1 => Just(Event::Snapshot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// The answers, the changes, the objects, their past and their history are those of the model; and the whole
    /// view is the same, whatever the engine, the batches and the interruptions.
    #[test]
    fn views_follow_the_model(
        events in prop::collection::vec(event(), 1..60),
        // Opening and snapshotting files takes most of the time.
        engine in prop_oneof![3 => Just(Engine::Memory), 1 => Just(Engine::RocksDb)],
        picks: [Index; 4],
    ) {
        let (mut log, mut model, mut now) = (Log::default(), Model::default(), 0);
        let mut past = vec![model.clone()];
        let mut changes: Vec<Change> = Vec::new();
        let one_by_one = Fixture::new(Engine::Memory);
        let mut interrupted = Fixture::new(engine);
        for event in &events {
            match event {
                Event::Line(text) => {
                    let line = Line::parse(text);
                    now += line.wait;
                    let committed = log.push_caused(now, line.cause, line.body);
                    let (outcome, change) = model.apply(now, &committed);
                    let applied = one_by_one.view().apply(std::slice::from_ref(&committed)).unwrap().remove(0);
                    let change = change.map(|change| Change { time: applied.time, ..change });
                    prop_assert_eq!((&applied.outcome, &applied.change), (&outcome, &change), "{}", text);
                    changes.extend(change);
                    past.push(model.clone());
                }
                Event::EndBatch => drop(interrupted.follow(&log)),
                Event::Reopen => drop(interrupted.reopen()),
                Event::Snapshot => drop(interrupted.view().snapshot().unwrap()),
            }
        }
        interrupted.follow(&log);
        prop_assert_eq!(everything(one_by_one.view()), everything(interrupted.view()));

        let view = interrupted.view();
        let names: Vec<String> = view.list_objects("", None, 9).unwrap().into_iter().map(|it| it.id).collect();
        prop_assert_eq!(&names, &model.things.keys().cloned().collect::<Vec<_>>());
        for id in ["a", "b", "ab"] {
            let about: Vec<Change> = changes.iter().filter(|change| change.object == id).cloned().collect();
            prop_assert_eq!(view.history(id, Offset::ZERO, false, 99).unwrap(), about);
            prop_assert!(same(view.object(id).unwrap().as_ref(), model.things.get(id)));
            for pick in &picks {
                let offset = pick.index(past.len());
                let then = view.object_at(id, Offset(offset as u64), &log.source()).unwrap();
                prop_assert!(same(then.as_ref(), past[offset].things.get(id)), "{} at {}: {:?}", id, offset, then);
            }
        }
    }
}
