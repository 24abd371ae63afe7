//! Events as clients read them, and which of them they asked for.

use odgm_log::Payload;
use odgm_log::body::{Body, Cause, Outcome, Value};
use odgm_projections::{Action, Change, ChangeKind};
use odgm_proto::odgm::v1;
use tonic::Status;

use crate::convert::calls::{call_outcome, parent_to_wire};
use crate::convert::{Rules, val_data};
use crate::identity::Kind;

/// Which events are wanted, and how much of them.
#[derive(Debug, Default)]
pub(super) struct Selection {
    prefix: String,
    /// Sorted; empty for all.
    keys: Vec<String>,
    /// Empty for all.
    kinds: Vec<ChangeKind>,
    with_values: bool,
}

impl Selection {
    /// All events, with or without values.
    pub(super) fn all(with_values: bool) -> Self {
        Self { with_values, ..Self::default() }
    }

    /// A filter as it came over the wire.
    pub(super) fn checked(
        rules: &Rules,
        filter: Option<v1::Filter>,
        with_values: bool,
    ) -> Result<Self, Status> {
        let filter = filter.unwrap_or_default();
        rules.check_count(filter.keys.len())?;
        let check = |key| rules.identity.check(Kind::Key, key);
        let mut keys = filter.keys.into_iter().map(check).collect::<Result<Vec<_>, _>>()?;
        keys.sort_unstable();
        Ok(Self {
            prefix: rules.identity.check_prefix(Kind::Prefix, filter.object_prefix)?,
            keys,
            kinds: filter.kinds.into_iter().map(kind_from_wire).collect::<Result<_, _>>()?,
            with_values,
        })
    }

    /// The event of a change, if it is wanted.
    pub(super) fn select(&self, partition: u32, change: Change, payload: Payload) -> Option<v1::Event> {
        let wanted = |key: &String| self.keys.is_empty() || self.keys.binary_search(key).is_ok();
        let matches = change.object.starts_with(&self.prefix)
            && (self.kinds.is_empty() || self.kinds.contains(&change.kind))
            && (self.keys.is_empty() || change.keys.iter().any(|(key, _)| wanted(key)));
        if !matches {
            return None;
        }
        let Payload { cause, body } = payload;
        let outcome = match &body {
            Body::Outcome(Outcome { invocation, function, finished, .. }) => {
                Some(call_outcome(invocation, function, finished, self.with_values))
            }
            _ => None,
        };
        let written = if self.with_values { written(&body) } else { &[] };
        let changes = change.keys.into_iter().filter(|(key, _)| wanted(key));
        let changes = changes.map(|(key, action)| v1::Change {
            value: value_of(written, &key).cloned().map(val_data),
            action: action_to_wire(action).into(),
            key,
        });
        Some(v1::Event {
            partition_id: partition,
            offset: change.offset.get(),
            time_ms: change.time.as_millis(),
            kind: kind_to_wire(change.kind).into(),
            object_version: change.version,
            changes: changes.collect(),
            triggers_changed: change.triggers_changed,
            cause: Some(cause_to_wire(cause)),
            operation: change.operation.name().to_owned(),
            object_id: change.object,
            outcome,
        })
    }
}

/// What an operation wrote, sorted by key.
fn written(body: &Body) -> &[(String, Value)] {
    match body {
        Body::Set(set) => &set.entries,
        Body::Merge(merge) => &merge.entries,
        Body::SetValues(values) => &values.puts,
        _ => &[],
    }
}

fn value_of<'a>(written: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
    let at = written.binary_search_by(|(other, _)| other.as_str().cmp(key)).ok()?;
    written.get(at).map(|(_, value)| value)
}

fn cause_to_wire(cause: Cause) -> v1::Cause {
    v1::Cause {
        request_id: cause.request_id,
        depth: cause.depth,
        parent: cause.parent.map(parent_to_wire),
        traceparent: cause.traceparent,
    }
}

fn kind_to_wire(kind: ChangeKind) -> v1::EventKind {
    match kind {
        ChangeKind::Created => v1::EventKind::Created,
        ChangeKind::Updated => v1::EventKind::Updated,
        ChangeKind::Deleted => v1::EventKind::Deleted,
        ChangeKind::Completed => v1::EventKind::Completed,
        ChangeKind::Failed => v1::EventKind::Failed,
    }
}

fn kind_from_wire(kind: i32) -> Result<ChangeKind, Status> {
    match v1::EventKind::try_from(kind) {
        Ok(v1::EventKind::Created) => Ok(ChangeKind::Created),
        Ok(v1::EventKind::Updated) => Ok(ChangeKind::Updated),
        Ok(v1::EventKind::Deleted) => Ok(ChangeKind::Deleted),
        Ok(v1::EventKind::Completed) => Ok(ChangeKind::Completed),
        Ok(v1::EventKind::Failed) => Ok(ChangeKind::Failed),
        Ok(v1::EventKind::Unspecified) | Err(_) => Err(Status::invalid_argument(format!(
            "filter.kinds has {kind}: expected 1 (created), 2 (updated), 3 (deleted), 4 (completed) or 5 (failed)"
        ))),
    }
}

fn action_to_wire(action: Action) -> v1::Action {
    match action {
        Action::Created => v1::Action::Created,
        Action::Updated => v1::Action::Updated,
        Action::Deleted => v1::Action::Deleted,
    }
}
