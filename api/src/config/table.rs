//! Every setting: name, default, meaning, and how its value is read.

use std::net::IpAddr;
use std::time::Duration;

use super::parse::{self, Expected};
use super::{Config, calls, cluster};

/// One environment variable.
#[derive(Debug)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// What holds when it is unset or empty; empty where there is no default.
    pub default: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// Whether this build acts on it.
    pub effect: Effect,
    /// Whether a node speaks Zenoh because this is given.
    pub(super) begins_zenoh: bool,
    /// Checks the value and keeps it.
    pub(super) read: fn(&mut Config, &str) -> Result<(), Expected>,
}

/// Whether this build acts on a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does.
    Now,
    /// It is checked and has no effect until this part of the system arrives.
    With(&'static str),
    /// It is taken from existing deployments and has no effect; this says why.
    None(&'static str),
}

/// Export of traces and metrics.
const TELEMETRY: Effect = Effect::With("export of traces and metrics");
/// Features of the first implementation that could be turned off.
const ALWAYS: Effect = Effect::None("always on");

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

pub(super) const fn now(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    read: fn(&mut Config, &str) -> Result<(), Expected>,
) -> Setting {
    Setting { name, default, meaning, effect: Effect::Now, begins_zenoh: false, read }
}

/// A setting that is checked, so that a slip is noticed, and then not kept.
pub(super) const fn checked(
    name: &'static str,
    default: &'static str,
    meaning: &'static str,
    effect: Effect,
    read: fn(&mut Config, &str) -> Result<(), Expected>,
) -> Setting {
    Setting { name, default, meaning, effect, begins_zenoh: false, read }
}

fn text(_: &mut Config, _: &str) -> Result<(), Expected> {
    Ok(())
}

pub(super) fn boolean(_: &mut Config, value: &str) -> Result<(), Expected> {
    parse::boolean(value).map(drop)
}

pub(super) fn count(_: &mut Config, value: &str) -> Result<(), Expected> {
    parse::number(value, 0..=u64::MAX).map(drop)
}

/// Every setting, in the order in which they are read and listed.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(calls::SETTINGS).chain(cluster::SETTINGS)
}

const SETTINGS: &[Setting] = &[
    // The node.
    now("ODGM_DATA_DIR", "./data", "folder of everything durable; made if missing", |c, v| {
        c.store.data_dir = v.into();
        Ok(())
    }),
    now(
        "ODGM_NODE_ID",
        "",
        "number or name of this node; unset: random, kept in the data directory",
        |c, v| {
            c.store.node = Some(parse::node(v)?);
            Ok(())
        },
    ),
    now(
        "ODGM_COLLECTION",
        "",
        "JSON array of collections to create when their names are first seen",
        |c, v| {
            c.collections = parse::collections(v)?;
            Ok(())
        },
    ),
    // The server.
    now("ODGM_HTTP_HOST", "0.0.0.0", "IP address to listen on", |c, v| {
        c.host = parse::any::<IpAddr>(v, "an IP address, as in 127.0.0.1")?;
        Ok(())
    }),
    now("ODGM_HTTP_PORT", "8080", "port of gRPC; 0: any free one", |c, v| {
        c.port = parse::number(v, 0..=u16::MAX)?;
        Ok(())
    }),
    now("ODGM_PORT_FILE", "", "file to write the port to once the node listens", |c, v| {
        c.port_file = Some(v.into());
        Ok(())
    }),
    now("ODGM_REFLECTION_ENABLED", "false", "serve gRPC reflection, v1 and v1alpha", |c, v| {
        c.reflection = parse::boolean(v)?;
        Ok(())
    }),
    now(
        "ODGM_SHUTDOWN_GRACE_MS",
        "10000",
        "how long a stopping node waits for requests under way, ms",
        |c, v| {
            c.shutdown_grace = parse::millis(v)?;
            Ok(())
        },
    ),
    // Log lines.
    now(
        "RUST_LOG",
        "info,openraft=error,zenoh=warn",
        "log directives, as in info or odgm_api=debug,warn",
        |c, v| {
            c.logging.filter = parse::log_filter(v)?;
            Ok(())
        },
    ),
    now("ODGM_LOG", "", "log directives; wins over RUST_LOG", |c, v| {
        c.logging.filter = parse::log_filter(v)?;
        Ok(())
    }),
    now("LOG_FORMAT", "text", "log lines as text or json", |c, v| {
        c.logging.format = parse::log_format(v)?;
        Ok(())
    }),
    now("ODGM_LOG_FORMAT", "", "log lines as text or json; wins over LOG_FORMAT", |c, v| {
        c.logging.format = parse::log_format(v)?;
        Ok(())
    }),
    // Limits of requests.
    now("ODGM_MAX_REQUEST_BYTES", "4MiB", "largest request message", |c, v| {
        c.limits.request_bytes = parse::bytes(v, 1024..=48 * MIB)?;
        Ok(())
    }),
    now("ODGM_MAX_ENTRIES_PER_REQUEST", "16384", "entries that one request puts or deletes", |c, v| {
        c.limits.request_entries = parse::number(v, 1..=1_000_000)?;
        Ok(())
    }),
    now("ODGM_MAX_STRING_ID_LEN", "160", "longest object id or entry key, in bytes", |c, v| {
        c.limits.id_bytes = parse::number(v, 1..=1024)?;
        Ok(())
    }),
    now("ODGM_MAX_CONCURRENT_REQUESTS", "1024", "requests under way in one connection; more wait", |c, v| {
        c.limits.connection_requests = parse::number(v, 1..=1_000_000)?;
        Ok(())
    }),
    now(
        "ODGM_MAX_INFLIGHT_WRITES",
        "16384",
        "writes under way in one partition; more are refused",
        |c, v| {
            c.store.limits.in_flight_proposals = parse::number(v, 1..=1_000_000)?;
            Ok(())
        },
    ),
    now(
        "ODGM_MAX_INFLIGHT_BYTES",
        "64MiB",
        "bytes of writes under way in one partition; more are refused",
        |c, v| {
            c.store.limits.in_flight_bytes = parse::bytes(v, MIB..=4 * GIB)?;
            Ok(())
        },
    ),
    now("ODGM_WRITE_STREAM_WINDOW", "256", "unacknowledged writes of one write stream; more wait", |c, v| {
        c.limits.write_stream_window = parse::number(v, 1..=65_536)?;
        Ok(())
    }),
    now(
        "ODGM_WRITE_STREAM_PATIENCE_MS",
        "30000",
        "a write stream ends that hears nothing of a write for so long, ms",
        |c, v| {
            c.limits.write_stream_patience = parse::number(v, 10..=86_400_000).map(Duration::from_millis)?;
            Ok(())
        },
    ),
    now("ODGM_MAX_SUBSCRIPTIONS", "1024", "subscriptions of this node; more are refused", |c, v| {
        c.limits.subscriptions = parse::number(v, 0..=1_000_000)?;
        Ok(())
    }),
    now("ODGM_MAX_BATCH_RECORDS", "1024", "records that one append writes", |c, v| {
        c.store.limits.batch_records = parse::number(v, 1..=65_536)?;
        Ok(())
    }),
    now(
        "ODGM_MAX_BATCH_BYTES",
        "8MiB",
        "bytes that one append writes; a larger record goes alone",
        |c, v| {
            c.store.limits.batch_bytes = parse::bytes(v, 1024..=64 * MIB)?;
            Ok(())
        },
    ),
    now("ODGM_MAX_PARTITIONS", "1024", "partitions of this node, all collections together", |c, v| {
        c.store.limits.partitions = parse::number(v, 1..=65_536)?;
        Ok(())
    }),
    now("ODGM_MAX_TOMBSTONES", "100000", "deleted objects that a partition remembers", |c, v| {
        c.store.limits.tombstones = parse::number(v, 0..=1_000_000_000)?;
        Ok(())
    }),
    // Rules of new partitions; kept in the partition's log from its creation on.
    now("ODGM_MAX_CRDT_BYTES", "1MiB", "new partitions: largest merged CRDT document", |c, v| {
        c.store.rules.max_crdt_bytes = parse::bytes(v, 1024..=32 * MIB)?;
        Ok(())
    }),
    now(
        "ODGM_DEDUP_WINDOW_MS",
        "86400000",
        "new partitions: how long a request id is remembered, ms",
        |c, v| {
            c.store.rules.dedup_window_ms = parse::number(v, 0..=31_536_000_000)?;
            Ok(())
        },
    ),
    now("ODGM_DEDUP_MAX_IDS", "1000000", "new partitions: newest request ids that are remembered", |c, v| {
        c.store.rules.dedup_max_ids = parse::number(v, 0..=1_000_000_000)?;
        Ok(())
    }),
    now(
        "ODGM_DEDUP_MAX_BYTES",
        "256MiB",
        "new partitions: bytes of request ids that are remembered",
        |c, v| {
            c.store.rules.dedup_max_bytes = parse::bytes(v, 0..=64 * GIB)?;
            Ok(())
        },
    ),
    // Memory and disk.
    now("ODGM_RETENTION_INTERVAL_MS", "10000", "how often retention is looked after, ms", |c, v| {
        c.store.retention_interval = parse::millis(v)?;
        Ok(())
    }),
    now("ODGM_TAIL_CACHE_BYTES", "32MiB", "newest records kept in memory", |c, v| {
        c.store.log.tail_cache_bytes = parse::bytes(v, 0..=64 * GIB)?;
        Ok(())
    }),
    now(
        "ODGM_FREE_SPACE_RESERVE",
        "256MiB",
        "free disk space below which writes are refused; write buffers have to fit in",
        |c, v| {
            c.store.log.free_space_reserve = parse::bytes(v, 0..=1024 * GIB)?;
            Ok(())
        },
    ),
    now("ODGM_LOG_WAL_BYTES", "64MiB", "write-ahead files of the log before they are flushed", |c, v| {
        c.store.log.max_wal_bytes = parse::bytes(v, MIB..=64 * GIB)?;
        Ok(())
    }),
    now("ODGM_LOG_BUFFER_BYTES", "32MiB", "one write buffer of the log; there are up to three", |c, v| {
        c.store.log.write_buffer_bytes = parse::bytes(v, MIB..=4 * GIB)?;
        Ok(())
    }),
    now("ODGM_LOG_CACHE_BYTES", "32MiB", "block cache of the log", |c, v| {
        c.store.log.block_cache_bytes = parse::bytes(v, 0..=64 * GIB)?;
        Ok(())
    }),
    now("ODGM_LOG_OPEN_FILES", "512", "table files of the log that are open at a time", |c, v| {
        c.store.log.max_open_files = parse::number(v, 16..=1_000_000)?;
        Ok(())
    }),
    now("ODGM_VIEW_BUFFER_BYTES", "64MiB", "write buffers of all views together", |c, v| {
        c.store.views.write_buffer_bytes = parse::bytes(v, MIB..=64 * GIB)?;
        Ok(())
    }),
    now(
        "ODGM_VIEW_GATHER_BYTES",
        "16MiB",
        "rows of all views that gather before they are buffered",
        |c, v| {
            c.store.views.write_back_bytes = parse::bytes(v, 0..=GIB)?;
            Ok(())
        },
    ),
    now("ODGM_ROW_CACHE_BYTES", "32MiB", "rows of all views that were read", |c, v| {
        c.store.views.row_cache_bytes = parse::bytes(v, 0..=64 * GIB)?;
        Ok(())
    }),
    now("ODGM_OBJECT_CACHE_BYTES", "32MiB", "what apply remembers of objects, all views together", |c, v| {
        c.store.views.object_cache_bytes = parse::bytes(v, 0..=64 * GIB)?;
        Ok(())
    }),
    now("ODGM_VIEW_CACHE_BYTES", "128MiB", "block cache of all views together", |c, v| {
        c.store.views.block_cache_bytes = parse::bytes(v, 0..=64 * GIB)?;
        Ok(())
    }),
    // Entries.
    checked("ODGM_ENABLE_STRING_ENTRY_KEYS", "true", "string keys of entries", ALWAYS, boolean),
    checked("ODGM_ENABLE_GRANULAR_STORAGE", "true", "one row for each entry", ALWAYS, boolean),
    checked(
        "ODGM_GRANULAR_PREFETCH_LIMIT",
        "256",
        "entries read ahead",
        Effect::None("an object is read in one scan"),
        count,
    ),
    // Telemetry.
    checked("OPRC_SERVICE_NAME", "oprc-odgm", "name of this service in traces", TELEMETRY, text),
    checked("OTEL_SERVICE_NAME", "", "name of this service in traces; wins", TELEMETRY, text),
    checked("OTEL_EXPORTER_OTLP_ENDPOINT", "", "collector of traces, metrics and logs", TELEMETRY, text),
    checked("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "", "collector of traces", TELEMETRY, text),
    checked("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "", "collector of metrics", TELEMETRY, text),
    checked("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "", "collector of logs", TELEMETRY, text),
    checked("OTEL_TRACES_SAMPLER", "", "which traces are kept", TELEMETRY, text),
    checked("OTEL_TRACES_SAMPLER_ARG", "", "argument of the sampler", TELEMETRY, text),
    checked("OTEL_TRACES_ENABLED", "true", "export traces", TELEMETRY, boolean),
    checked("OTEL_LOGS_ENABLED", "true", "export logs", TELEMETRY, boolean),
];
