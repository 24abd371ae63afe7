//! Putting records back in front of a log that began behind a snapshot, from the newest to the oldest.
//!
//! The chain with which a log begins says what came before. So records can be checked before any of them is taken: with
//! the chain before the first of them, which whoever has them tells, they must lead to the chain that is known. That also
//! proves what was told: it becomes the chain with which the log begins, and the next records are checked against it.

use std::sync::Arc;

use super::LogStore;
use super::append::put_records;
use super::error::ChangeError;
use super::group::Group;
use super::keys::{Link, Row};
use super::options::MAX_APPEND_BYTES;
use crate::chain;
use crate::ids::{GroupId, Hash};
use crate::record::Record;

impl LogStore {
    /// Puts records in front of the first one of a log, durably. `before` is the chain before the first of them; the last
    /// is the one before the log's first, and all of them together must lead to the chain that the log has there.
    ///
    /// # Errors
    /// [`ChangeError::OutOfRange`] if they do not end right before the first record, [`ChangeError::OtherChain`] if they
    /// are not the records that were there; nothing is written then. Any other if the log cannot be written.
    pub fn prepend(&self, group: GroupId, before: Hash, records: &[Record]) -> Result<(), ChangeError> {
        let Some(first) = records.first() else { return Ok(()) };
        let group = self.existing(group)?;
        let mut writer = group.writer.lock();
        self.check_writable(&group, writer.removed)?;
        let floor = group.state.read().floor;
        check(&group, floor, before, records)?;
        let tables = &self.store.syncer.tables;
        let bytes: usize = records.iter().map(Record::weight).sum();
        let mut batch = tables.batch(bytes);
        let size: u64 = records.iter().map(|record| record.payload.len() as u64).sum();
        let start =
            Link { offset: first.offset.previous(), chain: before, bytes: floor.bytes.wrapping_sub(size) };
        put_records(&mut batch, group.id, start, records, &mut writer.scratch, drop);
        batch.put_link(group.id, Row::Floor, start);
        self.write(batch)?;
        group.state.write().floor = start;
        // Appends need not wait for the disk. Until it has them they are read all the same; lost, they are fetched again.
        drop(writer);
        Ok(self.store.syncer.sync_now()?)
    }
}

/// Whether records are those before the floor.
fn check(group: &Arc<Group>, floor: Link, before: Hash, records: &[Record]) -> Result<(), ChangeError> {
    let mut next = records[0].offset;
    let mut chain = before;
    let mut bytes = 0;
    for record in records {
        bytes += record.payload.len();
        if record.offset != next || next.0 == 0 || bytes > MAX_APPEND_BYTES {
            return Err(super::change::out_of_range(group, record.offset));
        }
        chain = chain::link(chain, record);
        next = next.next();
    }
    if next != floor.offset.next() {
        return Err(super::change::out_of_range(group, records[0].offset));
    }
    // Before the first record of all there is nothing.
    if chain != floor.chain || (records[0].offset.0 == 1 && before != Hash::ZERO) {
        let (first, expected) = (floor.offset.next(), floor.chain);
        return Err(ChangeError::OtherChain { group: group.id, first, expected, found: chain });
    }
    Ok(())
}
