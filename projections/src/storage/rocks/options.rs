//! How RocksDB is set up for views.

use rocksdb::{
    BlockBasedOptions, BlockBasedTablePinningTier, DBCompactionStyle, DBCompressionType, InfoLogger,
    LogLevel, Options, UniversalCompactOptions,
};

use crate::storage::Resources;

/// One memtable is at most this large; all views' memtables together stay within the budget of [`Resources`].
const MEMTABLE_BYTES_MAX: usize = 32 << 20;
/// What a view takes from the budget by its first row. RocksDB's default of 1 MiB would let a node of many idle views
/// spend its budget on nothing.
const ARENA_BLOCK_BYTES: usize = 256 << 10;
/// A snapshot is opened for a few reads: it keeps only so many of its files open.
const SNAPSHOT_FILES_OPEN: i32 = 64;
/// Files that wait to be merged: few enough for reads, enough to write most rows only twice.
const RUNS_BEFORE_MERGE: i32 = 6;

/// A view that is written to.
pub(super) fn for_view(resources: &Resources) -> Result<Options, rocksdb::Error> {
    // Rows come sorted, so each is looked for from where the last one of its table went. Only a string sets this, and
    // it has to come first: what it gives does not keep alive what was set before.
    let hint = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1";
    let mut options = common(Options::default().get_options_from_string(hint)?, resources);
    options.create_if_missing(true);
    options.set_write_buffer_manager(&resources.write_buffers);
    options.set_write_buffer_size(MEMTABLE_BYTES_MAX.min(resources.budget.write_buffer_bytes));
    options.set_max_write_buffer_number(4);
    options.set_arena_block_size(ARENA_BLOCK_BYTES);
    // A view has one writer, which need not pay for others.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    // A look-up of what is not in the memtable, as most are, does not search it.
    options.set_memtable_prefix_bloom_ratio(0.1);
    options.set_memtable_whole_key_filtering(true);
    // Merging runs of like size writes each row fewer times than levels do, and views are written more than they fill disks.
    options.set_compaction_style(DBCompactionStyle::Universal);
    let mut universal = UniversalCompactOptions::default();
    universal.set_size_ratio(20);
    universal.set_max_size_amplification_percent(150);
    options.set_universal_compaction_options(&universal);
    options.set_level_zero_file_num_compaction_trigger(RUNS_BEFORE_MERGE);
    // Files are written out as they grow: one large sync at the end would hold up the log's fsync on the same disk.
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(2);
    Ok(options)
}

/// A snapshot that is only read.
pub(super) fn for_snapshot(resources: &Resources) -> Options {
    let mut options = common(Options::default(), resources);
    options.set_max_open_files(SNAPSHOT_FILES_OPEN);
    options
}

fn common(mut options: Options, resources: &Resources) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&resources.cache);
    table.set_block_size(8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_optimize_filters_for_memory(true);
    // Indexes and filters count against the cache's budget, and stay: each read of a file needs them.
    table.set_cache_index_and_filter_blocks(true);
    table.set_unpartitioned_pinning_tier(BlockBasedTablePinningTier::All);

    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_skip_stats_update_on_db_open(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Into our log instead of files in the directory, which a snapshot must not get.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{}", message.trim_end()),
        LogLevel::Warn => tracing::warn!(target: "rocksdb", "{}", message.trim_end()),
        _ => tracing::debug!(target: "rocksdb", "{}", message.trim_end()),
    }));
    options
}
