//! Reading records and the chain.

use super::LogStore;
use super::error::ReadError;
use super::group::{Group, State};
use super::keys::Link;
use super::options::ReadLimit;
use super::tables::{Cursor, Scan};
use crate::chain::{self, CHECKPOINT_INTERVAL};
use crate::ids::{GroupId, Hash, Offset};
use crate::record::Record;

/// The chain on the way to records; see [`LogStore::links_below`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The record that the first step is about; the others follow it.
    pub first: Offset,
    /// Of each record the chain before it, and the bytes of its payload.
    pub steps: Vec<(Hash, usize)>,
}

impl LogStore {
    /// Records from an offset on, as many as `limit` allows but at least one if there is one; none above the last
    /// record. Records need not be durable yet ([`bounds`](Self::bounds) tells).
    ///
    /// # Errors
    /// [`ReadError::BelowFloor`] if the first of them was trimmed, [`ReadError::Corrupt`] if one cannot be trusted.
    pub fn read(&self, group: GroupId, from: Offset, limit: ReadLimit) -> Result<Vec<Record>, ReadError> {
        let Some(group) = self.find(group) else { return Ok(Vec::new()) };
        let from = from.max(Offset(1));
        let (mut cursor, last) = {
            let state = group.state.read();
            check_floor(&group, &state, from)?;
            if from > state.head.offset {
                return Ok(Vec::new());
            }
            let cached = state.cached(from, limit);
            self.store.syncer.counters.count_read(cached.is_some());
            if let Some(records) = cached {
                return Ok(records);
            }
            // Records are deleted only after readers were told, so all that the state shows is under the cursor.
            (self.store.syncer.tables.cursor(group.id, Scan::Part), state.head.offset)
        };
        cursor.seek(from);
        collect(&mut cursor, from, last, limit)
    }

    /// The chain over all records up to and including an offset.
    ///
    /// # Errors
    /// [`ReadError::BelowFloor`] below the last record that was trimmed, [`ReadError::AboveHead`] above the last one,
    /// [`ReadError::Corrupt`] if a record on the way cannot be trusted.
    pub fn chain_at(&self, group: GroupId, offset: Offset) -> Result<Hash, ReadError> {
        match self.find(group) {
            Some(group) => Ok(self.link_at(&group, offset)?.chain),
            None if offset == Offset::ZERO => Ok(Hash::ZERO),
            None => Err(ReadError::AboveHead { group, requested: offset, last: Offset::ZERO }),
        }
    }

    /// What stands before records that somebody else may want to put in front of their own log ([`Self::prepend`]):
    /// the records below an offset, down to a checkpoint or the first that is kept, as the chain before each of them and
    /// the size of its payload. Empty if there is none below.
    ///
    /// # Errors
    /// [`ReadError::AboveHead`] beyond the offset that comes next, [`ReadError::BelowFloor`] if the records are trimmed
    /// meanwhile, [`ReadError::Corrupt`] if one cannot be trusted.
    pub fn links_below(&self, group: GroupId, below: Offset) -> Result<Links, ReadError> {
        let bounds = self.bounds(group);
        if below > bounds.last.next() {
            return Err(ReadError::AboveHead { group, requested: below, last: bounds.last });
        }
        let last = below.previous();
        let checkpoint = Offset(last.previous().0 / CHECKPOINT_INTERVAL * CHECKPOINT_INTERVAL);
        let start = checkpoint.next().max(bounds.first);
        let mut links = Links { first: start, steps: Vec::new() };
        if last < start {
            return Ok(links);
        }
        let mut before = self.chain_at(group, start.previous())?;
        let mut next = start;
        while next <= last {
            for record in self.read(group, next, ReadLimit::default())? {
                if record.offset > last {
                    break;
                }
                links.steps.push((before, record.payload.len()));
                before = chain::link(before, &record);
                next = record.offset.next();
            }
        }
        Ok(links)
    }

    /// Where the newest `bytes` of payload begin: a record at or before the first of them, to within a checkpoint's
    /// interval. The first record that is kept, if there are not so many.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if a checkpoint cannot be trusted.
    pub fn first_within(&self, group: GroupId, bytes: u64) -> Result<Offset, ReadError> {
        let Some(group) = self.find(group) else { return Ok(Offset(1)) };
        let (floor, head) = {
            let state = group.state.read();
            (state.floor, state.head)
        };
        // Checkpoint `low` leaves enough behind it, `high` does not.
        let (mut low, mut high) =
            (floor.offset.0 / CHECKPOINT_INTERVAL, head.offset.0 / CHECKPOINT_INTERVAL + 1);
        let mut first = floor.offset.next();
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            let offset = Offset(middle * CHECKPOINT_INTERVAL);
            let link = self.store.syncer.tables.checkpoint(group.id, offset)?;
            // It is missing if it was trimmed since: all before it is gone.
            if link.is_none_or(|link| head.bytes.wrapping_sub(link.bytes) >= bytes) {
                (low, first) = (middle, offset.next());
            } else {
                high = middle;
            }
        }
        Ok(first)
    }

    pub(super) fn link_at(&self, group: &Group, offset: Offset) -> Result<Link, ReadError> {
        let tables = &self.store.syncer.tables;
        let (floor, mut cursor) = {
            let state = group.state.read();
            if offset == state.head.offset {
                return Ok(state.head);
            }
            if offset == state.floor.offset {
                return Ok(state.floor);
            }
            check_floor(group, &state, offset)?;
            let last = state.head.offset;
            if offset > last {
                return Err(ReadError::AboveHead { group: group.id, requested: offset, last });
            }
            (state.floor, tables.cursor(group.id, Scan::Part))
        };
        // If a trim takes the checkpoint away meanwhile, the fold begins at the floor that the cursor still sees.
        let checkpoint = tables.checkpoint(group.id, offset)?;
        let mut link = checkpoint.filter(|link| link.offset > floor.offset).unwrap_or(floor);
        cursor.seek(link.offset.next());
        while link.offset < offset {
            let record = cursor.next()?;
            link = link.after(&record);
        }
        Ok(link)
    }
}

pub(super) fn check_floor(group: &Group, state: &State, requested: Offset) -> Result<(), ReadError> {
    let first = state.floor.offset.next();
    if requested < first {
        return Err(ReadError::BelowFloor { group: group.id, requested, first });
    }
    Ok(())
}

fn collect(
    cursor: &mut Cursor<'_>,
    from: Offset,
    last: Offset,
    limit: ReadLimit,
) -> Result<Vec<Record>, ReadError> {
    let mut records = Vec::new();
    let mut bytes = 0;
    let mut next = from;
    while next <= last {
        let record = cursor.next()?;
        if !limit.allows(records.len(), bytes, record.payload.len()) {
            break;
        }
        bytes += record.payload.len();
        records.push(record);
        next = next.next();
    }
    Ok(records)
}
