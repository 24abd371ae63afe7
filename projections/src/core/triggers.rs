//! Matching: which calls a change, or a function that has ended, asks for.

use odgm_log::body::{Outcome, Target, Triggers};
use odgm_log::{Cause, NodeId};

use crate::calls::{OutboxRow, Subject};
use crate::change::Action;
use crate::object::Moment;

/// More than a row takes besides the texts in it, key included.
const ROW_BYTES: usize = 192;

/// What all calls that one record asks for have in common.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) moment: Moment,
    pub(super) origin: NodeId,
    pub(super) cause: &'a Cause,
}

impl Asking<'_> {
    /// How many triggers lead to these calls.
    pub(super) fn depth(self) -> u32 {
        self.cause.depth.saturating_add(1)
    }

    /// What the triggers on an object's entries ask for, in the order of `keys`, which are sorted, and of their targets.
    pub(super) fn of_data(
        self,
        triggers: &Triggers,
        object: &str,
        version: u64,
        keys: &[(String, Action)],
    ) -> Vec<OutboxRow> {
        let mut asked = Vec::new();
        // Most objects have few triggers, and both are sorted.
        for (key, trigger) in &triggers.data {
            let Ok(at) = keys.binary_search_by(|(touched, _)| touched.cmp(key)) else { continue };
            let action = keys[at].1;
            let targets = match action {
                Action::Created => &trigger.on_create,
                Action::Updated => &trigger.on_update,
                Action::Deleted => &trigger.on_delete,
            };
            asked.extend(targets.iter().map(|target| {
                let subject = Subject::Data { object: object.to_owned(), key: key.clone(), action, version };
                self.row(subject, target, self.depth())
            }));
        }
        asked
    }

    /// What the triggers on a function of an object ask for.
    pub(super) fn of_function(
        self,
        triggers: &Triggers,
        object: &str,
        version: u64,
        outcome: &Outcome,
    ) -> Vec<OutboxRow> {
        let found = triggers.functions.binary_search_by(|(function, _)| function.cmp(&outcome.function));
        let Ok(at) = found else { return Vec::new() };
        let is_complete = outcome.finished.status.is_complete();
        let trigger = &triggers.functions[at].1;
        let targets = if is_complete { &trigger.on_complete } else { &trigger.on_error };
        let subject = || Subject::Function {
            object: object.into(),
            function: outcome.function.clone(),
            is_complete,
            version,
        };
        targets.iter().map(|target| self.row(subject(), target, self.depth())).collect()
    }

    /// Not less than the calls, and their bytes in the outbox, that triggers on an object's entries can ask for.
    pub(super) fn at_most(self, triggers: &Triggers, object: &str) -> (u64, u64) {
        let common = ROW_BYTES + object.len() + self.cause.traceparent.as_ref().map_or(0, String::len);
        let (mut rows, mut bytes) = (0, 0);
        for (key, trigger) in &triggers.data {
            for targets in [&trigger.on_create, &trigger.on_update, &trigger.on_delete] {
                rows += targets.len();
                bytes += targets.iter().map(|target| common + key.len() + text_bytes(target)).sum::<usize>();
            }
        }
        (rows as u64, bytes as u64)
    }

    /// A call that nobody has tried yet.
    pub(super) fn row(self, subject: Subject, target: &Target, depth: u32) -> OutboxRow {
        OutboxRow {
            subject,
            target: target.clone(),
            depth,
            generation: 0,
            attempt: 0,
            origin: self.origin,
            created: self.moment.time,
            traceparent: self.cause.traceparent.clone(),
            last_error: String::new(),
            payload: None,
        }
    }
}

/// The texts of a target, each with the most that its length takes.
fn text_bytes(target: &Target) -> usize {
    const LENGTH: usize = 9;
    let Target { class, partition: _, object, function, options } = target;
    let options: usize = options.iter().map(|(name, value)| 2 * LENGTH + name.len() + value.len()).sum();
    class.len() + object.as_ref().map_or(0, String::len) + function.len() + options
}
