//! Proving that a log is what was written.

use super::LogStore;
use super::error::{Corruption, VerifyError};
use super::group::Group;
use super::keys::{Link, Row};
use super::tables::{Cursor, Scan};
use crate::chain::CHECKPOINT_INTERVAL;
use crate::ids::{GroupId, Hash, Offset};

/// After so many records the reading position is taken anew, so that a long check does not keep deleted files alive.
const RECORDS_PER_PAGE: u64 = 64 * CHECKPOINT_INTERVAL;

/// A log that was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The first record that was checked; one above `last` if there is none.
    pub first: Offset,
    /// The last record that was checked: the last one when the check began.
    pub last: Offset,
    /// The chain over all records up to `last`.
    pub chain: Hash,
}

impl LogStore {
    /// Reads all of a group's records from disk, checks each one and the chain over them, from the hash that was
    /// stored where the log was trimmed, past every checkpoint, to the head. `progress` is called at each checkpoint
    /// with the offset that was reached and the last one. Writing and trimming may go on meanwhile.
    ///
    /// # Errors
    /// Any [`VerifyError`]; it names the group and the offset.
    pub fn verify(
        &self,
        group: GroupId,
        progress: &mut dyn FnMut(Offset, Offset),
    ) -> Result<Verified, VerifyError> {
        let expected = self.store.syncer.watermarks.lock().log(group);
        let Some(group) = self.find(group) else {
            return match expected {
                Offset::ZERO => Err(VerifyError::NoGroup { group }),
                _ => Err(VerifyError::BelowWatermark { group, expected, found: Offset::ZERO }),
            };
        };
        let (first, head) = {
            let state = group.state.read();
            (state.floor.offset.next(), state.head)
        };
        if head.offset < expected {
            let found = head.offset;
            return Err(VerifyError::BelowWatermark { group: group.id, expected, found });
        }
        let mut reached = Link::default();
        loop {
            let (from, mut cursor) = self.page(&group, reached);
            reached = from;
            if reached.offset >= head.offset {
                break;
            }
            cursor.seek(reached.offset.next());
            let end = head.offset.min(Offset(reached.offset.0.saturating_add(RECORDS_PER_PAGE)));
            while reached.offset < end {
                let record = cursor.next()?;
                reached = reached.after(&record);
                if reached.offset.0.is_multiple_of(CHECKPOINT_INTERVAL) {
                    self.compare_checkpoint(&group, reached)?;
                    progress(reached.offset, head.offset);
                }
            }
        }
        // A trim may have gone past the head of that moment; then there is nothing left to compare.
        if reached.offset == head.offset {
            compare(group.id, head, reached)?;
        }
        progress(head.offset, head.offset);
        Ok(Verified { first, last: head.offset, chain: head.chain })
    }

    /// Goes on after `reached`, or at the floor if that has passed it.
    fn page(&self, group: &Group, reached: Link) -> (Link, Cursor<'_>) {
        let state = group.state.read();
        let from = if reached.offset <= state.floor.offset { state.floor } else { reached };
        (from, self.store.syncer.tables.cursor(group.id, Scan::Whole))
    }

    fn compare_checkpoint(&self, group: &Group, reached: Link) -> Result<(), Corruption> {
        let row = Row::Checkpoint(reached.offset);
        match self.store.syncer.tables.link(group.id, row)? {
            Some(stored) => compare(group.id, stored, reached),
            None if reached.offset <= group.state.read().floor.offset => Ok(()),
            None => Err(Corruption::Meta {
                group: group.id,
                row: row.name(),
                reason: format!("that of offset {} is missing", reached.offset),
            }),
        }
    }
}

fn compare(group: GroupId, stored: Link, reached: Link) -> Result<(), Corruption> {
    if stored == reached {
        return Ok(());
    }
    let (expected, found) = (stored.chain, reached.chain);
    Err(Corruption::Chain { group, offset: reached.offset, expected, found })
}
