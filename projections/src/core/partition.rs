//! The partition's own records: its rules, its retention, its named cursors.

use odgm_log::body::{Body, CollectTombstones, CursorMoved, Membership, Trimmed};
use odgm_log::{BodyType, Offset};

use super::Core;
use super::changes::Written;
use crate::change::{Change, ChangeKind};
use crate::error::{ApplyError, Error};
use crate::header::SEMANTICS;
use crate::keys::Key;
use crate::limits::MAX_COLLECTED;
use crate::object::{Cursor, Members, Moment};
use crate::rows::write_change;
use crate::storage::Reader;

impl Core {
    /// Refuses rules that this build does not have.
    pub(super) fn check_semantics(&self, offset: Offset, body: &Body) -> Result<(), ApplyError> {
        match body {
            Body::Semantics(semantics) if semantics.version > SEMANTICS => {
                let version = semantics.version;
                Err(ApplyError::UnknownSemantics { offset, version, supported: SEMANTICS })
            }
            _ => Ok(()),
        }
    }

    /// Lets one of the partition's own records take effect.
    pub(super) fn note(&mut self, rows: &dyn Reader, moment: Moment, body: &Body) -> Result<(), Error> {
        match body {
            Body::CursorMoved(moved) => {
                self.move_cursor(moment, moved);
                return Ok(());
            }
            Body::Membership(membership) => self.set_members(moment, membership),
            Body::Config(config) => self.header.config = config.clone(),
            // Rules are never taken back: what was written under them needs them.
            Body::Semantics(semantics) => {
                self.header.semantics = self.header.semantics.max(semantics.version);
            }
            Body::Trimmed(trimmed) => self.trim(moment, *trimmed),
            Body::CollectTombstones(collect) => self.collect(rows, *collect)?,
            // What changes nothing, or is no record of the partition's own.
            _ => return Ok(()),
        }
        self.write_own_history(moment, body.body_type());
        Ok(())
    }

    fn move_cursor(&mut self, moment: Moment, moved: &CursorMoved) {
        let key = Key::Cursor(&moved.name);
        match moved.position {
            Some(position) => {
                let allowed_lag = moved.allowed_lag;
                let cursor = Cursor { name: moved.name.clone(), position, allowed_lag, moved: moment };
                self.changes.put(key, &mut Written::default(), |out| cursor.write(out));
            }
            None => self.changes.delete(key, &mut Written::default()),
        }
    }

    fn set_members(&mut self, moment: Moment, membership: &Membership) {
        let (offset, term) = (moment.offset, self.header.term);
        let members = Members { offset, term, membership: membership.clone() };
        self.changes.put(Key::Members, &mut Written::default(), |out| members.write(out));
    }

    fn trim(&mut self, moment: Moment, trimmed: Trimmed) {
        // A record cannot trim what follows it.
        self.header.floor = self.header.floor.max(trimmed.below.min(moment.offset));
    }

    /// Forgets the oldest tombstones. No version of theirs is used again, since the floor rises to the highest.
    fn collect(&mut self, rows: &dyn Reader, collect: CollectTombstones) -> Result<(), Error> {
        for id in self.graves.oldest(rows, collect.through, MAX_COLLECTED)? {
            let slot = self.objects.load(rows, &id, true)?;
            if let Some(tombstone) = slot.tombstone.take() {
                self.graves.fill(&mut self.changes, &id, tombstone);
                self.header.version_floor = self.header.version_floor.max(tombstone.version);
                self.header.tombstones -= 1;
            }
        }
        Ok(())
    }

    /// The partition's own records have their history under the empty id.
    pub(super) fn write_own_history(&mut self, moment: Moment, operation: BodyType) {
        let change = Change {
            offset: moment.offset,
            time: moment.time,
            object: String::new(),
            kind: ChangeKind::Updated,
            version: 0,
            keys: Vec::new(),
            triggers_changed: false,
            replaced: false,
            operation,
        };
        let key = Key::History("", moment.offset);
        self.changes.put(key, &mut Written::default(), |out| write_change(&change, out));
    }
}
