//! One operation on one object: what it changes, and the classification of that.

use odgm_log::BodyType;
use odgm_log::body::{Delete, Merge, Set, SetMode, SetValues, Triggers, Value};

use crate::calls::OutboxRow;
use crate::change::{Action, Change, ChangeKind};
use crate::core::changes::{Changes, Written};
use crate::core::crdt;
use crate::core::graves::Graves;
use crate::core::objects::{EntryState, Slot};
use crate::core::outbox::{full, has_room, too_deep, weight_of};
use crate::core::triggers::Asking;
use crate::error::Error;
use crate::header::Header;
use crate::keys::Key;
use crate::object::Moment;
use crate::outcome::{Outcome, Rejection};
use crate::rows::{EntryRow, ObjectRow, TombstoneRow, write_change};
use crate::storage::Reader;

/// An operation on an object in progress.
pub(super) struct Edit<'a> {
    pub(super) rows: &'a dyn Reader,
    pub(super) header: &'a mut Header,
    pub(super) changes: &'a mut Changes,
    pub(super) graves: &'a mut Graves,
    pub(super) slot: &'a mut Slot,
    pub(super) id: &'a str,
    pub(super) moment: Moment,
    pub(super) operation: BodyType,
    /// None where no calls are asked for, whatever the triggers.
    pub(super) asking: Option<Asking<'a>>,
    /// The calls that the operation asks for.
    pub(super) asked: Vec<OutboxRow>,
}

/// What an operation did: the answer, and what changed if anything did.
type Done = (Outcome, Option<Change>);

/// The parts of a change that differ between operations.
struct Touched {
    keys: Vec<(String, Action)>,
    triggers_changed: bool,
    replaced: bool,
    /// Whether an entry was put or anything was removed.
    bump: bool,
}

impl Edit<'_> {
    pub(super) fn set(&mut self, set: &Set) -> Result<Done, Error> {
        let replace = self.header.config.set_mode == SetMode::Replace;
        let mut removed = Vec::new();
        if replace && self.slot.object.is_some() {
            self.slot.load_all(self.rows, self.id)?;
            removed = self.slot.keys();
            removed.retain(|key| !contains(&set.entries, key));
        } else {
            self.load_entries(&set.entries)?;
        }
        let version = self.next_version();
        if let Some(full) = self.refusal(set.triggers.as_ref(), version, &set.entries, &removed) {
            return Ok((Outcome::Rejected(full), None));
        }
        let mut keys = Vec::with_capacity(set.entries.len() + removed.len());
        for (key, value) in &set.entries {
            keys.push((key.clone(), self.put(key, value, version)));
        }
        for key in removed {
            self.remove(&key);
            keys.push((key.into_string(), Action::Deleted));
        }
        let bump = !keys.is_empty();
        Ok(self.finish(version, set.triggers.as_ref(), Touched::sorted(keys, replace, bump)))
    }

    pub(super) fn merge(&mut self, merge: &Merge) -> Result<Done, Error> {
        self.load_entries(&merge.entries)?;
        // Everything is merged before anything is written, so that a refusal leaves the object as it was.
        let mut merged = Vec::with_capacity(merge.entries.len());
        for (key, value) in &merge.entries {
            match self.merged(key, value)? {
                Ok(value) => merged.push(value),
                Err(rejection) => return Ok((Outcome::Rejected(rejection), None)),
            }
        }
        let version = self.next_version();
        if let Some(full) = self.refusal::<&str>(merge.triggers.as_ref(), version, &merge.entries, &[]) {
            return Ok((Outcome::Rejected(full), None));
        }
        let mut keys = Vec::with_capacity(merged.len());
        for ((key, _), value) in merge.entries.iter().zip(&merged) {
            keys.push((key.clone(), self.put(key, value, version)));
        }
        let bump = !keys.is_empty();
        Ok(self.finish(version, merge.triggers.as_ref(), Touched::sorted(keys, false, bump)))
    }

    pub(super) fn set_values(&mut self, body: &SetValues) -> Result<Done, Error> {
        let current = self.slot.version();
        if let Some(expected) = body.expected_version
            && expected != current
        {
            return Ok((Outcome::VersionMismatch { expected, current }, None));
        }
        self.load_entries(&body.puts)?;
        self.slot.load_keys(self.rows, self.id, body.deletes.iter().map(String::as_str))?;
        let version = self.next_version();
        if let Some(full) = self.refusal(None, version, &body.puts, &body.deletes) {
            return Ok((Outcome::Rejected(full), None));
        }
        let mut keys = Vec::with_capacity(body.puts.len() + body.deletes.len());
        for (key, value) in &body.puts {
            keys.push((key.clone(), self.put(key, value, version)));
        }
        for key in &body.deletes {
            // Proposers refuse a key that is both put and deleted; the put counts if one comes through.
            if !contains(&body.puts, key) && self.remove(key) {
                keys.push((key.clone(), Action::Deleted));
            }
        }
        if keys.is_empty() {
            return Ok((Outcome::Unchanged { version: current }, None));
        }
        Ok(self.finish(version, None, Touched::sorted(keys, false, true)))
    }

    pub(super) fn delete(&mut self, _: &Delete) -> Result<Done, Error> {
        if self.slot.object.is_none() {
            return Ok((Outcome::Unchanged { version: 0 }, None));
        }
        self.slot.load_all(self.rows, self.id)?;
        let version = self.next_version();
        let keys = self.slot.keys();
        if let Some(full) = self.refusal(None, version, &[], &keys) {
            return Ok((Outcome::Rejected(full), None));
        }
        for key in &keys {
            self.remove(key);
        }
        let keys = keys.into_iter().map(|key| (key.into_string(), Action::Deleted)).collect();
        let change = self.change(ChangeKind::Deleted, version, Touched::sorted(keys, false, true));
        self.ask(&change);
        self.changes.delete(Key::Object(self.id), &mut self.slot.written);
        let tombstone = TombstoneRow { version, deleted: self.moment.offset };
        self.graves.dig(self.changes, self.id, tombstone);
        // The tables know that nothing is left, and so does the slot: it stays whole.
        *self.slot =
            Slot { tombstone: Some(tombstone), written: self.slot.written, whole: true, ..Slot::default() };
        self.header.objects -= 1;
        self.header.tombstones += 1;
        Ok((Outcome::Changed { version }, Some(change)))
    }

    /// Writes the object row and the history row.
    fn finish(&mut self, version: u64, triggers: Option<&Triggers>, mut touched: Touched) -> Done {
        let kind = if self.slot.object.is_some() { ChangeKind::Updated } else { ChangeKind::Created };
        if kind == ChangeKind::Created {
            self.create();
        }
        let entry_count = self.slot.object.as_ref().map_or(0, |object| object.entry_count);
        let entry_count = touched.keys.iter().fold(entry_count, |count, (_, action)| match action {
            Action::Created => count + 1,
            Action::Updated => count,
            Action::Deleted => count - 1,
        });
        let moment = self.moment;
        let object = self.slot.object.get_or_insert(ObjectRow {
            version: 0,
            created: moment,
            updated: moment,
            entry_count: 0,
            triggers: None,
        });
        if let Some(triggers) = triggers {
            let triggers = (!triggers.is_empty()).then_some(triggers);
            touched.triggers_changed = object.triggers.as_deref() != triggers;
            if touched.triggers_changed {
                object.triggers = triggers.cloned().map(Box::new);
            }
        }
        if kind == ChangeKind::Updated && !touched.bump && !touched.triggers_changed {
            return (Outcome::Unchanged { version: object.version }, None);
        }
        if kind == ChangeKind::Created || touched.bump {
            object.version = version;
        }
        object.updated = moment;
        object.entry_count = entry_count;
        let version = object.version;
        let change = self.change(kind, version, touched);
        if let Some(object) = &self.slot.object {
            self.changes.put(Key::Object(self.id), &mut self.slot.written, |out| object.write(out));
        }
        self.ask(&change);
        (Outcome::Changed { version }, Some(change))
    }

    /// Matches the change against the triggers that the object has now.
    fn ask(&mut self, change: &Change) {
        let triggers = self.slot.object.as_ref().and_then(|object| object.triggers.as_deref());
        if let (Some(asking), Some(triggers)) = (self.asking, triggers) {
            self.asked = asking.of_data(triggers, self.id, change.version, &change.keys);
        }
    }

    /// Why nothing may be changed: the calls that this would ask for have no room. Only near the limit it is found out
    /// which those are.
    fn refusal<K: AsRef<str>>(
        &self,
        given: Option<&Triggers>,
        version: u64,
        puts: &[(String, Value)],
        removed: &[K],
    ) -> Option<Rejection> {
        let asking = self.asking?;
        let kept = || self.slot.object.as_ref().and_then(|object| object.triggers.as_deref());
        let triggers = given.or_else(kept)?;
        let (rows, bytes) = asking.at_most(triggers, self.id);
        if has_room(self.header, rows, bytes) || too_deep(self.header, asking.depth()).is_some() {
            return None;
        }
        let rows = asking.of_data(triggers, self.id, version, &self.foresee(puts, removed));
        let is_refused = !rows.is_empty() && !has_room(self.header, rows.len() as u64, weight_of(&rows));
        is_refused.then(|| full(self.header))
    }

    /// What would happen to which entries.
    fn foresee<K: AsRef<str>>(&self, puts: &[(String, Value)], removed: &[K]) -> Vec<(String, Action)> {
        let exists = |key: &str| self.slot.entries.get(key).is_some_and(|entry| entry.kind.is_some());
        let put = puts
            .iter()
            .map(|(key, _)| (key.clone(), if exists(key) { Action::Updated } else { Action::Created }));
        let gone = removed.iter().map(AsRef::as_ref).filter(|key| exists(key) && !contains(puts, key));
        let keys = put.chain(gone.map(|key| (key.to_owned(), Action::Deleted))).collect();
        Touched::sorted(keys, false, false).keys
    }

    /// Counts a new object, and forgets that there was one of this name before.
    fn create(&mut self) {
        self.header.objects += 1;
        if let Some(tombstone) = self.slot.tombstone.take() {
            self.graves.fill(self.changes, self.id, tombstone);
            self.header.tombstones -= 1;
        }
    }

    /// Classifies what happened and writes it to the object's history.
    fn change(&mut self, kind: ChangeKind, version: u64, touched: Touched) -> Change {
        let change = Change {
            offset: self.moment.offset,
            time: self.moment.time,
            object: self.id.to_owned(),
            kind,
            version,
            keys: touched.keys,
            triggers_changed: touched.triggers_changed,
            replaced: touched.replaced,
            operation: self.operation,
        };
        let key = Key::History(self.id, self.moment.offset);
        self.changes.put(key, &mut Written::default(), |out| write_change(&change, out));
        change
    }

    /// The version of the object if this operation raises it: above all that an object of this name ever had.
    fn next_version(&self) -> u64 {
        let last = match (&self.slot.object, &self.slot.tombstone) {
            (Some(object), _) => object.version,
            (None, Some(tombstone)) => tombstone.version.max(self.header.version_floor),
            (None, None) => self.header.version_floor,
        };
        last + 1
    }

    fn load_entries(&mut self, entries: &[(String, Value)]) -> Result<(), Error> {
        self.slot.load_keys(self.rows, self.id, entries.iter().map(|(key, _)| key.as_str()))
    }

    /// What a put of `value` by `Merge` stores; the inner error is a refusal.
    fn merged(&self, key: &str, value: &Value) -> Result<Result<Value, crate::Rejection>, Error> {
        use odgm_log::body::ValueKind::CrdtMap;
        if value.kind != CrdtMap {
            return Ok(Ok(value.clone()));
        }
        let entry = self.slot.entries.get(key).copied().unwrap_or_default();
        let stored = match entry.kind {
            Some(CrdtMap) => match self.changes.value(entry.written) {
                Some(row) => Some(EntryRow::read(row)?),
                None => Slot::stored(self.rows, self.id, key)?.map(|row| EntryRow::read(&row)).transpose()?,
            },
            _ => None,
        };
        let stored = stored.as_ref().map(|stored| stored.value.data.as_ref());
        Ok(crdt::merge(key, stored, &value.data, self.header.config.max_crdt_bytes).map(Value::crdt_map))
    }

    fn put(&mut self, key: &str, value: &Value, version: u64) -> Action {
        let row_key = Key::Entry(self.id, key);
        let write = |out: &mut Vec<u8>| EntryRow::write(value.kind, version, &value.data, out);
        if let Some(entry) = self.slot.entries.get_mut(key) {
            self.changes.put(row_key, &mut entry.written, write);
            if entry.kind.replace(value.kind).is_some() {
                return Action::Updated;
            }
        } else {
            let mut written = Written::default();
            self.changes.put(row_key, &mut written, write);
            self.slot.entries.insert(key.into(), EntryState { kind: Some(value.kind), written });
        }
        self.header.entries += 1;
        Action::Created
    }

    /// Removes an entry; false if there is none.
    fn remove(&mut self, key: &str) -> bool {
        let Some(entry) = self.slot.entries.get_mut(key) else { return false };
        if entry.kind.take().is_none() {
            return false;
        }
        self.changes.delete(Key::Entry(self.id, key), &mut entry.written);
        self.header.entries -= 1;
        true
    }
}

impl Touched {
    fn sorted(mut keys: Vec<(String, Action)>, replaced: bool, bump: bool) -> Self {
        if !keys.is_sorted_by(|a, b| a.0 <= b.0) {
            keys.sort_by(|a, b| a.0.cmp(&b.0));
        }
        Self { keys, triggers_changed: false, replaced, bump }
    }
}

fn contains(entries: &[(String, Value)], key: &str) -> bool {
    entries.binary_search_by(|(entry, _)| entry.as_str().cmp(key)).is_ok()
}
