//! Removing records, removing groups, and notes. Each waits for its sync, in the order of the write-ahead log.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::LogStore;
use super::error::{ChangeError, SyncError};
use super::group::{Group, Writer};
use super::keys::{Link, Row};
use super::options::{MAX_NOTE_BYTES, MAX_NOTE_KEY_BYTES};
use super::sync::Mark;
use super::tables::Batch;
use crate::ids::{GroupId, Hash, Offset};

impl LogStore {
    /// Deletes the records below an offset, for retention. The chain up to them is kept, so that the rest can still
    /// be verified. Trimming again at or below the same place changes nothing.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] above the offset that comes next; any other if the log cannot be read or written.
    pub fn trim(&self, group: GroupId, below: Offset) -> Result<(), ChangeError> {
        let group = self.existing(group)?;
        let writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        let bounds = group.bounds();
        if below <= bounds.first {
            return Ok(());
        }
        if below > bounds.last.next() {
            return Err(out_of_range(&group, below));
        }
        let floor = self.link_at(&group, below.previous())?;
        let first = {
            let mut state = group.state.write();
            let first = state.floor.offset.next();
            state.floor = floor;
            self.store.cache.forget_through(&mut state, floor.offset);
            first
        };
        let tables = &self.store.syncer.tables;
        let mut batch = tables.batch(0);
        batch.delete_range(group.id, first, below);
        batch.put_link(group.id, Row::Floor, floor);
        self.write(batch)?;
        drop(writer);
        self.store.syncer.sync_now()?;
        // Only frees space sooner than merging would, and only whole files: not doing it is no error.
        if let Err(error) = tables.drop_files(group.id, below) {
            tracing::warn!(group = group.id.0, error = error.into_string(), "trimmed files were not deleted");
        }
        Ok(())
    }

    /// Deletes the records after an offset: they were never committed. Syncs that are under way may still report
    /// them durable.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] below the last record that was trimmed or above the last one; any other if the log
    /// cannot be read or written.
    pub fn truncate_after(&self, group: GroupId, keep: Offset) -> Result<(), ChangeError> {
        let group = self.existing(group)?;
        let writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        let bounds = group.bounds();
        if keep == bounds.last {
            return Ok(());
        }
        if keep.next() < bounds.first || keep > bounds.last {
            return Err(out_of_range(&group, keep));
        }
        let head = self.link_at(&group, keep)?;
        self.lower_watermark(&group, Some(keep))?;
        {
            let mut state = group.state.write();
            state.head = head;
            self.store.cache.forget_after(&mut state, keep);
        }
        let mut batch = self.store.syncer.tables.batch(0);
        batch.delete_range(group.id, keep.next(), bounds.last.next());
        batch.put_link(group.id, Row::Head, head);
        self.write(batch)?;
        Ok(self.sync_end(&group, keep, writer)?)
    }

    /// Deletes all records and lets the log go on behind an offset, where the chain is `chain`: what comes before is in a
    /// snapshot that is about to replace the view. The offset counts as the log's durable end.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`] if the store has stopped, [`ChangeError::NoGroup`] if the group is being removed.
    pub fn restart_after(&self, group: GroupId, offset: Offset, chain: Hash) -> Result<(), ChangeError> {
        let group = self.find_or_create(group);
        let writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        self.lower_watermark(&group, None)?;
        let end = Link { offset, chain, bytes: 0 };
        let (first, last) = {
            let mut state = group.state.write();
            let range = (state.floor.offset.next(), state.head.offset);
            self.store.cache.forget_through(&mut state, range.1);
            state.floor = end;
            state.head = end;
            range
        };
        let mut batch = self.store.syncer.tables.batch(0);
        batch.delete_range(group.id, first, last.next());
        batch.put_link(group.id, Row::Floor, end);
        batch.put_link(group.id, Row::Head, end);
        self.write(batch)?;
        self.sync_end(&group, offset, writer)?;
        if let Err(error) = self.store.syncer.tables.drop_files(group.id, last.next()) {
            tracing::warn!(group = group.id.0, error = error.into_string(), "files of deleted records stay");
        }
        Ok(())
    }

    /// Deletes a group's log and notes. Its id must not be used again.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`] if the store has stopped.
    pub fn remove_group(&self, group: GroupId) -> Result<(), ChangeError> {
        let group = self.existing(group)?;
        let mut writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        self.lower_watermark(&group, None)?;
        writer.removed = true;
        self.store.groups.write().remove(&group.id);
        let last = {
            let mut state = group.state.write();
            let last = state.head.offset;
            self.store.cache.forget_through(&mut state, last);
            // Whoever still holds the group finds it empty instead of damaged.
            state.floor = state.head;
            last
        };
        let tables = &self.store.syncer.tables;
        let mut batch = tables.batch(0);
        batch.delete_group(group.id);
        self.write(batch)?;
        drop(writer);
        self.store.syncer.sync_now()?;
        if let Err(error) = tables.drop_files(group.id, last.next()) {
            tracing::warn!(group = group.id.0, error = error.into_string(), "removed files were not deleted");
        }
        Ok(())
    }

    /// Stores a small note of a group (a vote, a snapshot that is being installed) durably, replacing the one of that
    /// name.
    ///
    /// # Errors
    /// [`ChangeError::NoteTooLarge`], or [`ChangeError::Stopped`] if the store has stopped.
    pub fn put_meta(&self, group: GroupId, key: &str, note: &[u8]) -> Result<(), ChangeError> {
        if key.len() > MAX_NOTE_KEY_BYTES || note.len() > MAX_NOTE_BYTES {
            return Err(ChangeError::NoteTooLarge { key: key.to_owned(), bytes: note.len() });
        }
        self.change_note(group, |batch, group| batch.put_note(group, key, note))
    }

    /// Forgets a note; one that does not exist is no error.
    ///
    /// # Errors
    /// [`ChangeError::Stopped`] if the store has stopped.
    pub fn delete_meta(&self, group: GroupId, key: &str) -> Result<(), ChangeError> {
        self.change_note(group, |batch, group| batch.delete_note(group, key))
    }

    fn change_note(
        &self,
        group: GroupId,
        change: impl FnOnce(&mut Batch<'_>, GroupId),
    ) -> Result<(), ChangeError> {
        let group = self.find_or_create(group);
        let writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        let mut batch = self.store.syncer.tables.batch(0);
        change(&mut batch, group.id);
        self.write(batch)?;
        drop(writer);
        self.store.syncer.sync_now()?;
        Ok(())
    }

    pub(super) fn existing(&self, group: GroupId) -> Result<Arc<Group>, ChangeError> {
        self.find(group).ok_or(ChangeError::NoGroup { group })
    }

    pub(super) fn check_writable(&self, group: &Group, removed: bool) -> Result<(), ChangeError> {
        self.store.syncer.check_running()?;
        if removed { Err(ChangeError::NoGroup { group: group.id }) } else { Ok(()) }
    }

    /// Waits until a new end of a log is durable, and notes it, before whoever appends next.
    fn sync_end(
        &self,
        group: &Arc<Group>,
        last: Offset,
        writer: MutexGuard<'_, Writer>,
    ) -> Result<(), SyncError> {
        let mark = Mark { epoch: group.epoch(), last, group: Arc::clone(group) };
        let synced = self.store.syncer.request(Some(mark));
        drop(writer);
        synced.wait()
    }

    /// Takes back what was promised about a group's end, durably, before the end itself is taken back.
    fn lower_watermark(&self, group: &Group, to: Option<Offset>) -> Result<(), SyncError> {
        let mut file = self.store.syncer.watermarks.lock();
        group.raise_epoch();
        match to {
            Some(offset) => {
                let offset = offset.min(group.durable());
                group.set_durable(offset);
                file.set_log(group.id, offset);
            }
            None => {
                group.set_durable(Offset::ZERO);
                file.remove(group.id);
            }
        }
        let written = file.write_synced();
        written.map_err(|error| self.store.syncer.fail(format!("{}: {error}", file.path().display())))
    }

    pub(super) fn write(&self, batch: Batch<'_>) -> Result<(), SyncError> {
        self.store.syncer.tables.write(batch).map_err(|error| self.store.syncer.fail(error.into_string()))
    }
}

pub(super) fn out_of_range(group: &Group, requested: Offset) -> ChangeError {
    let bounds = group.bounds();
    ChangeError::OutOfRange { group: group.id, requested, first: bounds.first, last: bounds.last }
}
