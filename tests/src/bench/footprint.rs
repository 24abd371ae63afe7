//! What a million small objects cost in memory and in bytes written to disk.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::load::Shape;
use super::options::Options;
use super::servers::{Server, Target};
use super::targets;
use super::workload::{VALUE_BYTES, Workload};
use crate::Result;

const OBJECTS: usize = 1_000_000;

/// The writers: streams, and what is outstanding on each.
const SHAPE: Shape = Shape { connections: 4, in_flight: 128 };

/// The node counts as idle when it has written nothing for so long.
const IDLE: Duration = Duration::from_secs(8);

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Footprint {
    objects: usize,
    payload_bytes: u64,
    objects_per_second: f64,
    /// The most memory that was ever resident, in MiB.
    pub(super) peak_resident_mib: f64,
    resident_mib: f64,
    /// Bytes written to disk until idle, for each byte of payload.
    pub(super) written_per_byte: f64,
    parts: Parts,
}

/// Where the bytes went, for each byte of payload.
#[derive(Clone, Copy, Debug, Serialize)]
struct Parts {
    /// The log: its write-ahead file, and the watermarks beside it.
    log_write_ahead: f64,
    /// The log: its table files.
    log_tables: f64,
    /// The view: its table files as they are first written.
    view_tables: f64,
    /// Merging of table files.
    compaction: f64,
}

impl Footprint {
    /// Fills a fresh node and waits until it is idle.
    pub(super) async fn measure(options: &Options) -> Result<Self> {
        let node = Server::start(Target::Odgm, options).await?;
        let workload = Workload::new(OBJECTS);
        let start = Instant::now();
        targets::write_stream::write_all(node.address(), node.partitions, &workload, SHAPE).await?;
        let took = start.elapsed();
        let written = until_idle(node.id()).await?;
        let payload_bytes = (OBJECTS * VALUE_BYTES) as u64;
        let (flushed, compacted) = by_rocksdb(node.id())?;
        let log_tables = tables_in(&node.dir().join("data/log"))?;
        #[allow(clippy::cast_precision_loss)] // far below 2^52
        let per_byte = |bytes: u64| bytes as f64 / payload_bytes as f64;
        #[allow(clippy::cast_precision_loss)]
        let objects_per_second = OBJECTS as f64 / took.as_secs_f64();
        Ok(Self {
            objects: OBJECTS,
            payload_bytes,
            objects_per_second,
            peak_resident_mib: memory_mib(node.id(), "VmHWM")?,
            resident_mib: memory_mib(node.id(), "VmRSS")?,
            written_per_byte: per_byte(written),
            parts: Parts {
                log_write_ahead: per_byte(written.saturating_sub(flushed + compacted)),
                log_tables: per_byte(log_tables),
                view_tables: per_byte(flushed.saturating_sub(log_tables)),
                compaction: per_byte(compacted),
            },
        })
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            objects,
            objects_per_second,
            peak_resident_mib,
            resident_mib,
            written_per_byte,
            parts,
            ..
        } = self;
        let Parts { log_write_ahead, log_tables, view_tables, compaction } = parts;
        writeln!(
            f,
            "{objects} objects of {VALUE_BYTES} B, {objects_per_second:.0} a second by the write stream"
        )?;
        writeln!(f, "resident memory: {resident_mib:.0} MiB, at most {peak_resident_mib:.0} MiB")?;
        writeln!(
            f,
            "bytes written for each byte of payload: {written_per_byte:.2} = log {log_write_ahead:.2} (write-ahead) + \
             {log_tables:.2} (tables) + view {view_tables:.2} + compaction {compaction:.2}"
        )
    }
}

/// Waits until the process has stopped writing; all that it has written.
async fn until_idle(process: u32) -> Result<u64> {
    let (mut written, mut since) = (0, Instant::now());
    loop {
        let now = written_by(Path::new(&format!("/proc/{process}/io")))?;
        if now > written {
            (written, since) = (now, Instant::now());
        } else if since.elapsed() >= IDLE {
            return Ok(written);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What RocksDB's threads have written: those that flush memory tables, and those that merge table files.
fn by_rocksdb(process: u32) -> Result<(u64, u64)> {
    let (mut flushed, mut compacted) = (0, 0);
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let thread = thread?.path();
        let name = fs::read_to_string(thread.join("comm"))?;
        let kind = match name.trim_end() {
            name if name.starts_with("rocksdb:high") => &mut flushed,
            name if name.starts_with("rocksdb:low") => &mut compacted,
            _ => continue,
        };
        *kind += written_by(&thread.join("io"))?;
    }
    Ok((flushed, compacted))
}

fn written_by(io: &Path) -> Result<u64> {
    let text = fs::read_to_string(io).map_err(|error| format!("{}: {error}", io.display()))?;
    Ok(*numbers(&text).get("write_bytes").ok_or("the system does not count bytes written")?)
}

pub(super) fn memory_mib(process: u32, figure: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = *numbers(&text).get(figure).ok_or_else(|| format!("the system does not tell {figure}"))?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    Ok(kib as f64 / 1024.0)
}

/// The lines `name: number` of a file in `/proc`.
fn numbers(text: &str) -> BTreeMap<&str, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let number = |value: &str| value.split_whitespace().next()?.parse().ok();
    lines.filter_map(|(name, value)| Some((name, number(value)?))).collect()
}

fn tables_in(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "sst") {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}
