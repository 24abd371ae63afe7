//! The RocksDB under the log: how it is opened, and typed access to its two tables.

use std::path::Path;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType,
    DBRawIterator, DBRecoveryMode, FlushOptions, LogLevel, ReadOptions, UniversalCompactOptions, WriteBatch,
    WriteOptions,
};

use super::error::Corruption;
use super::keys::{self, Link, Row};
use super::options::Options;
use crate::envelope::decode_stored;
use crate::ids::{GroupId, Offset};
use crate::record::Record;

const LOG: &str = "log";
const META: &str = "meta";

/// Sorted runs that are left alone before they are merged. Records come in order and are never overwritten, so a
/// merge only keeps the number of files down.
const RUNS_BEFORE_MERGE: i32 = 12;

/// The two tables.
pub(super) struct Tables {
    db: DB,
    unsynced: WriteOptions,
}

impl Tables {
    /// Opens for writing, creating what is missing.
    pub(super) fn open(dir: &Path, options: &Options) -> Result<Self, rocksdb::Error> {
        let (db_options, tables) = engine_options(options);
        DB::open_cf_descriptors(&db_options, dir, tables).map(Self::new)
    }

    /// Opens without changing a byte on disk: the write-ahead log is replayed in memory only.
    pub(super) fn open_read_only(dir: &Path, options: &Options) -> Result<Self, rocksdb::Error> {
        let (mut db_options, tables) = engine_options(options);
        db_options.create_if_missing(false);
        db_options.create_missing_column_families(false);
        DB::open_cf_descriptors_read_only(&db_options, dir, tables, false).map(Self::new)
    }

    fn new(db: DB) -> Self {
        Self { db, unsynced: WriteOptions::default() }
    }

    #[allow(clippy::expect_used)]
    fn log(&self) -> &ColumnFamily {
        self.db.cf_handle(LOG).expect("invariant: the table was opened")
    }

    #[allow(clippy::expect_used)]
    fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("invariant: the table was opened")
    }

    /// Writes to the write-ahead log and the memory tables, without a sync.
    pub(super) fn write(&self, batch: Batch<'_>) -> Result<(), rocksdb::Error> {
        self.db.write_opt(batch.rows, &self.unsynced)
    }

    pub(super) fn batch(&self, capacity: usize) -> Batch<'_> {
        Batch { rows: WriteBatch::with_capacity_bytes(capacity), log: self.log(), meta: self.meta() }
    }

    /// Makes everything that was written so far durable.
    pub(super) fn sync(&self) -> Result<(), rocksdb::Error> {
        self.db.flush_wal(true)
    }

    /// Writes the memory tables out, so that the next open has no write-ahead log to replay.
    pub(super) fn flush(&self) -> Result<(), rocksdb::Error> {
        self.db.flush_cfs_opt(&[&self.log(), &self.meta()], &FlushOptions::default())
    }

    /// The number of the newest change.
    pub(super) fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    /// A row of `meta` that holds a link.
    pub(super) fn link(&self, group: GroupId, row: Row) -> Result<Option<Link>, Corruption> {
        let key = row.key(group);
        let value = self.db.get_pinned_cf(self.meta(), key).map_err(|error| Corruption::Meta {
            group,
            row: row.name(),
            reason: error.into_string(),
        })?;
        value.map(|value| keys::decode_link(group, row, key.as_ref(), &value)).transpose()
    }

    /// The newest checkpoint at or below an offset.
    pub(super) fn checkpoint(&self, group: GroupId, offset: Offset) -> Result<Option<Link>, Corruption> {
        let damaged = |reason| Corruption::Meta { group, row: "checkpoint", reason };
        let mut rows = self.db.raw_iterator_cf(self.meta());
        rows.seek_for_prev(keys::checkpoint_key(group, offset));
        rows.status().map_err(|error| damaged(error.into_string()))?;
        let Some((key, value)) = rows.item() else { return Ok(None) };
        let (Some(owner), Some(at)) = (keys::group_of(key), keys::checkpoint_offset(key)) else {
            return Ok(None);
        };
        if owner != group {
            return Ok(None);
        }
        let link = keys::decode_link(group, Row::Checkpoint(at), key, value)?;
        if link.offset != at {
            return Err(damaged(format!("the row of offset {at} is about offset {}", link.offset)));
        }
        Ok(Some(link))
    }

    /// A note.
    pub(super) fn note(&self, group: GroupId, name: &str) -> Result<Option<Bytes>, Corruption> {
        let key = keys::note_key(group, name);
        let value = self.db.get_pinned_cf(self.meta(), &key).map_err(|error| Corruption::Meta {
            group,
            row: "note",
            reason: error.into_string(),
        })?;
        value.map(|value| keys::decode_note(group, &key, &value).map(Bytes::copy_from_slice)).transpose()
    }

    /// The first group at or above `from` that has a row in `meta`.
    pub(super) fn next_group(&self, from: GroupId) -> Result<Option<GroupId>, Corruption> {
        let mut rows = self.db.raw_iterator_cf(self.meta());
        rows.seek(keys::group_start(from));
        rows.status().map_err(|error| Corruption::Meta {
            group: from,
            row: "first",
            reason: error.into_string(),
        })?;
        Ok(rows.key().and_then(keys::group_of))
    }

    /// A cursor over a group's records as they are at this moment. Nothing is read before it is placed, so that it
    /// can be made under a lock.
    pub(super) fn cursor(&self, group: GroupId, scan: Scan) -> Cursor<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(keys::group_end(group).as_ref());
        if scan == Scan::Whole {
            options.fill_cache(false);
            options.set_readahead_size(1 << 20);
        }
        Cursor { rows: self.db.raw_iterator_cf_opt(self.log(), options), group, next: Offset::ZERO }
    }

    /// Gives back the files that hold nothing but records of a group below an offset.
    pub(super) fn drop_files(&self, group: GroupId, below: Offset) -> Result<(), rocksdb::Error> {
        self.db.delete_file_in_range_cf(
            self.log(),
            keys::group_start(group),
            keys::record_key(group, below.previous()),
        )
    }
}

/// Why records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// A reader wants these; more may follow.
    Part,
    /// Everything is read once, so it should not push other blocks out of the cache.
    Whole,
}

/// Changes of both tables that are written together.
pub(super) struct Batch<'a> {
    rows: WriteBatch,
    log: &'a ColumnFamily,
    meta: &'a ColumnFamily,
}

impl Batch<'_> {
    pub(super) fn put_record(&mut self, group: GroupId, offset: Offset, stored: &[u8]) {
        self.rows.put_cf(&self.log, keys::record_key(group, offset), stored);
    }

    pub(super) fn put_link(&mut self, group: GroupId, row: Row, link: Link) {
        let key = row.key(group);
        self.rows.put_cf(&self.meta, key, keys::encode_link(key.as_ref(), link));
    }

    pub(super) fn put_note(&mut self, group: GroupId, name: &str, note: &[u8]) {
        let key = keys::note_key(group, name);
        let value = keys::encode_note(&key, note);
        self.rows.put_cf(&self.meta, key, value);
    }

    pub(super) fn delete_note(&mut self, group: GroupId, name: &str) {
        self.rows.delete_cf(&self.meta, keys::note_key(group, name));
    }

    /// Deletes records and checkpoints from `from` on, up to but not including `to`.
    pub(super) fn delete_range(&mut self, group: GroupId, from: Offset, to: Offset) {
        self.rows.delete_range_cf(&self.log, keys::record_key(group, from), keys::record_key(group, to));
        let (from, to) = (keys::checkpoint_key(group, from), keys::checkpoint_key(group, to));
        self.rows.delete_range_cf(&self.meta, from, to);
    }

    /// Deletes all there is of a group.
    pub(super) fn delete_group(&mut self, group: GroupId) {
        let (from, to) = (keys::group_start(group), keys::group_end(group));
        self.rows.delete_range_cf(&self.log, from, to);
        self.rows.delete_range_cf(&self.meta, from, to);
    }
}

/// Reads records one after the other; each is checked.
pub(super) struct Cursor<'a> {
    rows: DBRawIterator<'a>,
    group: GroupId,
    next: Offset,
}

impl Cursor<'_> {
    /// Places the cursor; it is of no use before.
    pub(super) fn seek(&mut self, offset: Offset) {
        self.rows.seek(keys::record_key(self.group, offset));
        self.next = offset;
    }

    /// The record at the next offset. The caller knows that it exists: its absence is corruption.
    pub(super) fn next(&mut self) -> Result<Record, Corruption> {
        let (group, expected) = (self.group, self.next);
        let Some(found) = self.peek()? else {
            return Err(Corruption::Missing { group, expected, found: None });
        };
        if found != expected {
            return Err(Corruption::Missing { group, expected, found: Some(found) });
        }
        let stored = Bytes::copy_from_slice(self.rows.value().unwrap_or_default());
        let record = decode_stored(group, expected, &stored).map_err(|source| Corruption::Record {
            group,
            offset: expected,
            source,
        })?;
        self.rows.next();
        self.next = expected.next();
        Ok(record)
    }

    /// The offset of the record that is there, if any.
    pub(super) fn peek(&self) -> Result<Option<Offset>, Corruption> {
        let Some(key) = self.rows.key() else {
            let damaged = |error: rocksdb::Error| Corruption::Table {
                group: self.group,
                offset: self.next,
                reason: error.into_string(),
            };
            return self.rows.status().map(|()| None).map_err(damaged);
        };
        Ok(keys::offset_of(key))
    }
}

fn engine_options(options: &Options) -> (rocksdb::Options, [ColumnFamilyDescriptor; 2]) {
    let mut db = rocksdb::Options::default();
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    // Both tables are flushed together, so that what recovery finds is one moment of both.
    db.set_atomic_flush(true);
    // Replay stops at the first damaged byte. A torn tail after a power cut can be damaged anywhere behind the last
    // sync, so a stricter mode would refuse healthy logs; the watermarks tell whether synced records were cut off.
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_max_total_wal_size(options.max_wal_bytes);
    // Unsynced writes wait in the process; `sync` hands them over and syncs.
    db.set_manual_wal_flush(true);
    db.set_paranoid_checks(true);
    db.set_max_open_files(options.max_open_files);
    db.set_max_background_jobs(2);
    // The records of an append follow each other: inserted by one thread, each is found a place right behind the last.
    db.set_allow_concurrent_memtable_write(false);
    db.set_enable_write_thread_adaptive_yield(false);
    db.set_bytes_per_sync(1 << 20);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(4);
    db.set_stats_dump_period_sec(0);
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let log = table_options(options, &cache);
    let meta = table_options(options, &cache);
    (db, [ColumnFamilyDescriptor::new(LOG, log), ColumnFamilyDescriptor::new(META, meta)])
}

fn table_options(options: &Options, cache: &Cache) -> rocksdb::Options {
    let mut table = rocksdb::Options::default();
    table.set_write_buffer_size(options.write_buffer_bytes);
    table.set_max_write_buffer_number(3);
    // Levelled compaction would rewrite the whole base level at each flush, because every flush holds the newest
    // records of all groups. Merging runs of like size writes each record a few times in its life.
    table.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_min_merge_width(RUNS_BEFORE_MERGE / 2);
    // Records are never overwritten: runs above the oldest one are not garbage.
    universal.set_max_size_amplification_percent(1_000_000);
    table.set_universal_compaction_options(&universal);
    table.set_level_zero_file_num_compaction_trigger(RUNS_BEFORE_MERGE);
    table.set_level_zero_slowdown_writes_trigger(3 * RUNS_BEFORE_MERGE);
    table.set_level_zero_stop_writes_trigger(5 * RUNS_BEFORE_MERGE);
    // What is merged is old: smaller then, at little cost. Fresh flushes are on the write path's disk.
    let lz4 = DBCompressionType::Lz4;
    table.set_compression_per_level(&[DBCompressionType::None, lz4, lz4, lz4, lz4, lz4, lz4]);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(16 << 10);
    blocks.set_cache_index_and_filter_blocks(true);
    table.set_block_based_table_factory(&blocks);
    table
}
