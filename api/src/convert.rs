//! Between the messages of the contract and the bodies of records.

pub(crate) mod calls;

use std::collections::BTreeMap;

use odgm_log::body::{DataTrigger, FunctionTrigger, Target, Triggers, Value, ValueKind};
use odgm_projections::Object;
use odgm_proto::canonical;
use odgm_proto::oprc;
use tonic::Status;

use crate::identity::{self, Kind, Rule};
use crate::request::shortened;

/// The most targets that the triggers of an object may have, all together: one record may ask for a call of each.
pub(crate) const MAX_TARGETS: usize = 4_096;

/// The most bytes of request options, names and values, that one target may have: each of its calls holds them until it has
/// ended.
pub(crate) const MAX_OPTION_BYTES: usize = 16 << 10;

/// Entries sorted by key, without repeats.
pub(crate) type Entries = Vec<(String, Value)>;

/// What is checked of a request on its way in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// For ids and keys.
    pub(crate) identity: Rule,
    /// The most entries that one request may put or delete.
    pub(crate) max_entries: usize,
}

impl Rules {
    /// Refuses a request that touches too many entries.
    pub(crate) fn check_count(&self, entries: usize) -> Result<(), Status> {
        if entries <= self.max_entries {
            return Ok(());
        }
        let max = self.max_entries;
        Err(Status::invalid_argument(format!("{entries} entries in one request: expected at most {max}")))
    }

    /// Both columns of an object's entries. Where they share a key the string column wins.
    pub(crate) fn entries(
        &self,
        text: BTreeMap<String, oprc::ValData>,
        numbers: BTreeMap<u32, oprc::ValData>,
    ) -> Result<Entries, Status> {
        self.check_count(text.len() + numbers.len())?;
        let mut entries = Vec::with_capacity(text.len() + numbers.len());
        for (key, data) in text {
            entries.push((self.identity.check(Kind::Key, key)?, value(data)?));
        }
        sort_distinct(&mut entries)?;
        if !numbers.is_empty() {
            let in_text = entries.len();
            for (key, data) in numbers {
                let key = key.to_string();
                if find(&entries[..in_text], &key).is_none() {
                    entries.push((key, value(data)?));
                }
            }
            entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        }
        Ok(entries)
    }

    /// Keys to delete, sorted and without repeats; none of them may also be put.
    pub(crate) fn deletes(&self, keys: Vec<String>, puts: &[(String, Value)]) -> Result<Vec<String>, Status> {
        self.check_count(keys.len() + puts.len())?;
        let check = |key| self.identity.check(Kind::Key, key);
        let mut keys = keys.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
        keys.sort_unstable();
        keys.dedup();
        if let Some(key) = keys.iter().find(|key| find(puts, key).is_some()) {
            return Err(Status::invalid_argument(format!(
                "key {key:?} is both put and deleted: expected each key in one of values and delete_keys"
            )));
        }
        Ok(keys)
    }

    /// The triggers attached to an object.
    pub(crate) fn triggers(&self, event: oprc::ObjectEvent) -> Result<Triggers, Status> {
        let mut functions = Vec::with_capacity(event.func_trigger.len());
        for (function, trigger) in event.func_trigger {
            if function.is_empty() {
                return Err(Status::invalid_argument(
                    "func_trigger: expected a function id as key, found \"\"",
                ));
            }
            let on_complete = self.targets(trigger.on_complete)?;
            let on_error = self.targets(trigger.on_error)?;
            functions.push((function, FunctionTrigger { on_complete, on_error }));
        }
        let mut data = Vec::with_capacity(event.data_trigger_str.len() + event.data_trigger.len());
        for (key, trigger) in event.data_trigger_str {
            data.push((self.identity.check(Kind::Key, key)?, self.data_trigger(trigger)?));
        }
        sort_distinct(&mut data)?;
        let in_text = data.len();
        for (key, trigger) in event.data_trigger {
            let key = key.to_string();
            if find(&data[..in_text], &key).is_none() {
                data.push((key, self.data_trigger(trigger)?));
            }
        }
        data.sort_by(|a, b| a.0.cmp(&b.0));
        let triggers = Triggers { functions, data };
        match count_targets(&triggers) {
            0..=MAX_TARGETS => Ok(triggers),
            found => Err(Status::invalid_argument(format!(
                "{found} trigger targets: expected at most {MAX_TARGETS} in all triggers of an object"
            ))),
        }
    }

    fn data_trigger(&self, trigger: oprc::DataTrigger) -> Result<DataTrigger, Status> {
        Ok(DataTrigger {
            on_create: self.targets(trigger.on_create)?,
            on_update: self.targets(trigger.on_update)?,
            on_delete: self.targets(trigger.on_delete)?,
        })
    }

    fn targets(&self, targets: Vec<oprc::TriggerTarget>) -> Result<Vec<Target>, Status> {
        targets.into_iter().map(|target| self.target(target)).collect()
    }

    fn target(&self, target: oprc::TriggerTarget) -> Result<Target, Status> {
        if target.cls_id.is_empty() || target.fn_id.is_empty() {
            return Err(Status::invalid_argument(format!(
                "trigger target of class {:?} and function {:?}: expected cls_id and fn_id",
                shortened(&target.cls_id),
                shortened(&target.fn_id)
            )));
        }
        check_options(&target.fn_id, &target.req_options)?;
        let object = match (target.object_id_str, target.object_id) {
            (Some(text), _) => Some(self.identity.check(Kind::Object, text)?),
            (None, number) => number.map(|number| number.to_string()),
        };
        Ok(Target {
            class: target.cls_id,
            partition: identity::partition(target.partition_id)?,
            object,
            function: target.fn_id,
            options: target.req_options.into_iter().collect(),
        })
    }
}

fn count_targets(triggers: &Triggers) -> usize {
    let functions =
        triggers.functions.iter().flat_map(|(_, trigger)| [&trigger.on_complete, &trigger.on_error]);
    let data = triggers
        .data
        .iter()
        .flat_map(|(_, trigger)| [&trigger.on_create, &trigger.on_update, &trigger.on_delete]);
    functions.chain(data).map(Vec::len).sum()
}

/// Refuses a target's options that are too large.
fn check_options(function: &str, options: &BTreeMap<String, String>) -> Result<(), Status> {
    let bytes: usize = options.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes <= MAX_OPTION_BYTES {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "trigger target of function {:?} with {bytes} bytes of req_options: expected at most {MAX_OPTION_BYTES}",
        shortened(function)
    )))
}

/// The value of an entry.
pub(crate) fn value(data: oprc::ValData) -> Result<Value, Status> {
    let kind = match data.r#type {
        0 => ValueKind::Bytes,
        1 => ValueKind::CrdtMap,
        other => {
            return Err(Status::invalid_argument(format!(
                "value of type {other}: expected 0 (BYTE) or 1 (CRDT_MAP)"
            )));
        }
    };
    Ok(Value { kind, data: data.data })
}

/// The value of an entry, as clients read it.
pub(crate) fn val_data(value: Value) -> oprc::ValData {
    let r#type = match value.kind {
        ValueKind::Bytes => oprc::ValType::Byte,
        ValueKind::CrdtMap => oprc::ValType::CrdtMap,
    };
    oprc::ValData { data: value.data, r#type: r#type.into() }
}

/// An object as clients of every generation read it.
pub(crate) fn obj_data(class: &str, partition: u32, object: Object) -> oprc::ObjData {
    let metadata = oprc::ObjMeta {
        cls_id: class.to_owned(),
        partition_id: partition,
        object_id: canonical(&object.id).unwrap_or_default(),
        object_id_str: Some(object.id),
    };
    let mut data = oprc::ObjData { metadata: Some(metadata), ..Default::default() };
    for (key, value) in object.entries {
        let value = val_data(value);
        if let Some(number) = canonical(&key) {
            data.entries.insert(number, value.clone());
        }
        data.entries_str.insert(key, value);
    }
    data.event = object.triggers.map(object_event);
    data
}

fn object_event(triggers: Triggers) -> oprc::ObjectEvent {
    let mut event = oprc::ObjectEvent::default();
    for (function, trigger) in triggers.functions {
        let on_complete = trigger.on_complete.into_iter().map(trigger_target).collect();
        let on_error = trigger.on_error.into_iter().map(trigger_target).collect();
        event.func_trigger.insert(function, oprc::FuncTrigger { on_complete, on_error });
    }
    for (key, trigger) in triggers.data {
        let trigger = oprc::DataTrigger {
            on_create: trigger.on_create.into_iter().map(trigger_target).collect(),
            on_update: trigger.on_update.into_iter().map(trigger_target).collect(),
            on_delete: trigger.on_delete.into_iter().map(trigger_target).collect(),
        };
        if let Some(number) = canonical(&key) {
            event.data_trigger.insert(number, trigger.clone());
        }
        event.data_trigger_str.insert(key, trigger);
    }
    event
}

fn trigger_target(target: Target) -> oprc::TriggerTarget {
    oprc::TriggerTarget {
        cls_id: target.class,
        partition_id: target.partition,
        object_id: target.object.as_deref().and_then(canonical),
        fn_id: target.function,
        req_options: target.options.into_iter().collect(),
        object_id_str: target.object,
    }
}

fn find<'a, T>(sorted: &'a [(String, T)], key: &str) -> Option<&'a T> {
    sorted.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok().map(|at| &sorted[at].1)
}

/// Sorts by key; two keys that are the same once lowered leave open which value is meant.
fn sort_distinct<T>(entries: &mut [(String, T)]) -> Result<(), Status> {
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => Err(Status::invalid_argument(format!(
            "key {:?} is given twice: keys are lowered, so expected keys that differ in more than case",
            pair[0].0
        ))),
    }
}

#[cfg(test)]
mod tests {
    use odgm_log::{Offset, Timestamp};
    use odgm_projections::Moment;

    use super::*;

    const RULES: Rules = Rules { identity: Rule { max: 160 }, max_entries: 4 };

    fn data(text: &str) -> oprc::ValData {
        oprc::ValData { data: text.to_owned().into(), r#type: 0 }
    }

    fn texts(entries: &Entries) -> Vec<(&str, &[u8])> {
        entries.iter().map(|(key, value)| (key.as_str(), value.data.as_ref())).collect()
    }

    #[test]
    fn both_columns_become_one_sorted_list_in_which_strings_win() {
        let text = BTreeMap::from([("Name".to_owned(), data("n")), ("10".to_owned(), data("text"))]);
        let numbers = BTreeMap::from([(10, data("number")), (9, data("nine"))]);
        let entries = RULES.entries(text, numbers).expect("valid");
        assert_eq!(texts(&entries), [("10", b"text".as_slice()), ("9", b"nine"), ("name", b"n")]);
    }

    #[test]
    fn what_leaves_the_meaning_open_is_refused() {
        let twice = BTreeMap::from([("a".to_owned(), data("1")), ("A".to_owned(), data("2"))]);
        let many = (0..5).map(|key| (key, data(""))).collect();
        let puts = [("a".to_owned(), Value::bytes("1"))];
        let typed = oprc::ValData { data: "x".into(), r#type: 7 };
        let nowhere = oprc::ObjectEvent {
            data_trigger: BTreeMap::from([(
                1,
                oprc::DataTrigger { on_create: vec![oprc::TriggerTarget::default()], ..Default::default() },
            )]),
            ..Default::default()
        };
        let target = oprc::TriggerTarget { cls_id: "c".into(), fn_id: "f".into(), ..Default::default() };
        let on_create = |targets| oprc::DataTrigger {
            on_create: targets,
            on_delete: vec![target.clone()],
            ..Default::default()
        };
        let crowded = oprc::ObjectEvent {
            data_trigger: BTreeMap::from([(1, on_create(vec![target.clone(); MAX_TARGETS]))]),
            ..Default::default()
        };
        let options = BTreeMap::from([("o".into(), "v".repeat(MAX_OPTION_BYTES))]);
        let wordy = oprc::TriggerTarget { req_options: options, ..target.clone() };
        let wordy = oprc::ObjectEvent {
            data_trigger: BTreeMap::from([(1, on_create(vec![wordy]))]),
            ..Default::default()
        };
        let fits = oprc::ObjectEvent {
            data_trigger: BTreeMap::from([(1, on_create(vec![target.clone(); MAX_TARGETS - 1]))]),
            ..Default::default()
        };
        RULES.triggers(fits).expect("as many as there may be");
        let refusals = [
            RULES.entries(twice, BTreeMap::new()).map(drop),
            RULES.entries(BTreeMap::new(), many).map(drop),
            RULES.deletes(vec!["b".into(), "A".into()], &puts).map(drop),
            value(typed).map(drop),
            RULES.triggers(nowhere).map(drop),
            RULES.triggers(crowded).map(drop),
            RULES.triggers(wordy).map(drop),
        ];
        let messages: Vec<_> =
            refusals.map(|refusal| refusal.expect_err("refused").message().to_owned()).into();
        insta::assert_snapshot!(messages.join("\n"), @r#"
        key "a" is given twice: keys are lowered, so expected keys that differ in more than case
        5 entries in one request: expected at most 4
        key "a" is both put and deleted: expected each key in one of values and delete_keys
        value of type 7: expected 0 (BYTE) or 1 (CRDT_MAP)
        trigger target of class "" and function "": expected cls_id and fn_id
        4097 trigger targets: expected at most 4096 in all triggers of an object
        trigger target of function "f" with 16385 bytes of req_options: expected at most 16384
        "#);
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "most of them are the snapshot")]
    fn an_object_answers_in_both_columns_where_its_names_are_numbers() {
        let target = Target {
            class: "c".into(),
            function: "f".into(),
            object: Some("42".into()),
            ..Target::default()
        };
        let trigger = DataTrigger { on_update: vec![target], ..DataTrigger::default() };
        let object = Object {
            id: "42".into(),
            version: 3,
            entries: vec![("007".into(), Value::bytes("x")), ("1".into(), Value::bytes("y"))],
            triggers: Some(Triggers { functions: Vec::new(), data: vec![("1".into(), trigger)] }),
            created: Moment::default(),
            updated: Moment { offset: Offset(1), time: Timestamp(1) },
        };
        let data = obj_data("Video", 5, object);
        insta::assert_debug_snapshot!(data, @r#"
        ObjData {
            metadata: Some(
                ObjMeta {
                    cls_id: "Video",
                    partition_id: 5,
                    object_id: 42,
                    object_id_str: Some(
                        "42",
                    ),
                },
            ),
            entries: {
                1: ValData {
                    data: b"y",
                    r#type: Byte,
                },
            },
            event: Some(
                ObjectEvent {
                    func_trigger: {},
                    data_trigger: {
                        1: DataTrigger {
                            on_create: [],
                            on_update: [
                                TriggerTarget {
                                    cls_id: "c",
                                    partition_id: 0,
                                    object_id: Some(
                                        42,
                                    ),
                                    fn_id: "f",
                                    req_options: {},
                                    object_id_str: Some(
                                        "42",
                                    ),
                                },
                            ],
                            on_delete: [],
                        },
                    },
                    data_trigger_str: {
                        "1": DataTrigger {
                            on_create: [],
                            on_update: [
                                TriggerTarget {
                                    cls_id: "c",
                                    partition_id: 0,
                                    object_id: Some(
                                        42,
                                    ),
                                    fn_id: "f",
                                    req_options: {},
                                    object_id_str: Some(
                                        "42",
                                    ),
                                },
                            ],
                            on_delete: [],
                        },
                    },
                },
            ),
            entries_str: {
                "007": ValData {
                    data: b"x",
                    r#type: Byte,
                },
                "1": ValData {
                    data: b"y",
                    r#type: Byte,
                },
            },
        }
        "#);
        let again = RULES.triggers(data.event.expect("triggers")).expect("what was answered is valid");
        assert_eq!(again.data.len(), 1, "the two columns are one trigger");
    }
}
