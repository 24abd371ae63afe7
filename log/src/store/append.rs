//! The write path.

use std::sync::Arc;

use super::error::AppendError;
use super::group::{Group, Writer};
use super::keys::{Link, Row};
use super::options::MAX_APPEND_BYTES;
use super::sync::{Mark, OnDurable, Waiting};
use super::tables::Batch;
use super::{LogStore, Store};
use crate::chain::CHECKPOINT_INTERVAL;
use crate::envelope::{ENVELOPE_HEADER, STORED_HEADER, encode_stored};
use crate::ids::{GroupId, Hash};
use crate::record::{MAX_PAYLOAD_BYTES, Record};

/// What RocksDB adds to a record in a batch: tag, table and lengths, and the key.
const ROW_OVERHEAD: usize = 24;

/// Head, checkpoints and the batch's own header.
const BATCH_OVERHEAD: usize = 256;

/// The scratch buffer is given back if a record made it larger than this, in bytes.
const SCRATCH_KEPT: usize = 1 << 20;

impl LogStore {
    /// Appends records to a group's log, creating it if it does not exist, and answers the chain up to each of them.
    /// They can be read when this returns; `on_durable` is called from the sync thread once they are durable, in the
    /// order of the appends. Without records it is a barrier: the callback follows all that was written before.
    /// Callers bound how much they have under way.
    ///
    /// # Errors
    /// Any [`AppendError`]; then `on_durable` is dropped without a call. Nothing was written, except that after
    /// [`AppendError::Failed`] it is unknown.
    pub fn append(
        &self,
        group: GroupId,
        records: &[Record],
        on_durable: OnDurable,
    ) -> Result<Vec<Hash>, AppendError> {
        let chain = self.append_unsynced(group, records, on_durable)?;
        self.store.syncer.wake();
        Ok(chain)
    }

    /// As [`Self::append`], for one who has nothing else to do: if the sync thread is idle the caller does its work,
    /// which spares two switches of threads. `on_durable` may then be called before this returns.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_and_sync(
        &self,
        group: GroupId,
        records: &[Record],
        on_durable: OnDurable,
    ) -> Result<Vec<Hash>, AppendError> {
        let chain = self.append_unsynced(group, records, on_durable)?;
        self.store.syncer.serve_here();
        Ok(chain)
    }

    /// Writes records and queues who waits for them; nobody is told to sync yet.
    fn append_unsynced(
        &self,
        group: GroupId,
        records: &[Record],
        on_durable: OnDurable,
    ) -> Result<Vec<Hash>, AppendError> {
        let group = self.find_or_create(group);
        let store = &*self.store;
        let mut writer = group.writer.lock();
        store.syncer.check_running().map_err(AppendError::Stopped)?;
        if writer.removed {
            return Err(AppendError::Removed { group: group.id });
        }
        let before = group.state.read().head;
        let bytes = check(group.id, before, records)?;
        let mut mark = None;
        let mut chain = Vec::with_capacity(records.len());
        if !records.is_empty() {
            let head = store.write(&group, &mut writer, before, records, bytes, &mut chain)?;
            store.cache.publish(&group, records, head);
            store.syncer.counters.count_append(records.len(), bytes);
            store.syncer.space.count(bytes);
            mark = Some(Mark { epoch: group.epoch(), last: head.offset, group: group.clone() });
        }
        // Queued before the next writer's turn, so that callbacks keep the order of the records.
        store.syncer.enqueue(Waiting { mark, callback: on_durable });
        Ok(chain)
    }

    pub(super) fn find_or_create(&self, id: GroupId) -> Arc<Group> {
        self.find(id).unwrap_or_else(|| {
            let mut groups = self.store.groups.write();
            groups
                .entry(id)
                .or_insert_with(|| Arc::new(Group::new(id, Link::default(), Link::default())))
                .clone()
        })
    }
}

impl Store {
    fn write(
        &self,
        group: &Group,
        writer: &mut Writer,
        before: Link,
        records: &[Record],
        bytes: usize,
        chain: &mut Vec<Hash>,
    ) -> Result<Link, AppendError> {
        let per_record = STORED_HEADER + ENVELOPE_HEADER + ROW_OVERHEAD;
        let mut batch = self.syncer.tables.batch(bytes + records.len() * per_record + BATCH_OVERHEAD);
        let each = |link: Link| chain.push(link.chain);
        let head = put_records(&mut batch, group.id, before, records, &mut writer.scratch, each);
        batch.put_link(group.id, Row::Head, head);
        fail::fail_point!("log-before-append", |reason| Err(AppendError::Failed(
            self.syncer.fail(reason.unwrap_or_default())
        )));
        self.syncer.tables.write(batch).map_err(|error| {
            let reason = format!("writing group {} from offset {}: {error}", group.id, before.offset.next());
            AppendError::Failed(self.syncer.fail(reason))
        })?;
        Ok(head)
    }
}

/// Puts the rows of records that follow each other behind `before`; answers the link at the last, and tells of each.
pub(super) fn put_records(
    batch: &mut Batch<'_>,
    group: GroupId,
    before: Link,
    records: &[Record],
    scratch: &mut Vec<u8>,
    mut each: impl FnMut(Link),
) -> Link {
    let mut link = before;
    for record in records {
        link = link.after(record);
        each(link);
        scratch.clear();
        encode_stored(group, record, scratch);
        batch.put_record(group, record.offset, scratch);
        if link.offset.0.is_multiple_of(CHECKPOINT_INTERVAL) {
            batch.put_link(group, Row::Checkpoint(link.offset), link);
        }
    }
    scratch.shrink_to(SCRATCH_KEPT);
    link
}

/// Checks offsets and sizes; returns the size of all payloads.
fn check(group: GroupId, head: Link, records: &[Record]) -> Result<usize, AppendError> {
    let mut expected = head.offset;
    let mut bytes = 0;
    for record in records {
        expected = expected.next();
        if record.offset != expected {
            return Err(AppendError::NotContiguous { group, expected, found: record.offset });
        }
        let size = record.payload.len();
        if size > MAX_PAYLOAD_BYTES {
            return Err(AppendError::RecordTooLarge { group, offset: record.offset, bytes: size });
        }
        bytes += size;
    }
    if bytes > MAX_APPEND_BYTES {
        return Err(AppendError::BatchTooLarge { group, bytes });
    }
    Ok(bytes)
}
