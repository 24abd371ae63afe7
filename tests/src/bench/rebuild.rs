//! How fast a view of real data is made again from its log.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;
use tokio::task::block_in_place;

use super::install;
use super::options::Options;
use crate::Result;
use crate::harness::Home;

const PARTITIONS: &str = "8";

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Rebuild {
    operations: u64,
    import_per_second: f64,
    records: u64,
    /// The whole run of `odgm view rebuild`, opening of the directory included.
    pub(super) rebuild_per_second: f64,
    /// How many times faster than the import.
    pub(super) of_import: f64,
}

impl Rebuild {
    /// Imports the flights at 4x32 and rebuilds their views.
    pub(super) async fn measure(file: &Path, options: &Options) -> Result<Self> {
        let home = Home::within(&options.dir)?.quiet().with("ODGM_LOG", "warn");
        let home = home.program(install::odgm(options.odgm.as_deref())?);
        let node = home.start().await?;
        let file = file.to_str().ok_or("the path of the flights has to be UTF-8")?;
        block_in_place(|| {
            node.odgm(&["collection", "create", "flights", "--partitions", PARTITIONS])?.success()?;
            let import =
                ["--json", "import", "--class", "flights", "--streams", "4", "--in-flight", "32", file];
            let import: Value = serde_json::from_str(&node.odgm(&import)?.success()?)?;
            node.stop()?;
            let start = Instant::now();
            let rebuild = home.odgm(&["--json", "view", "rebuild", "flights"])?.success()?;
            let took = start.elapsed();
            let rebuild: Value = serde_json::from_str(&rebuild)?;
            let partitions = rebuild["rebuilt"].as_array().ok_or("what was rebuilt is not told")?;
            let records =
                partitions.iter().filter_map(|partition| partition["applied_offset"].as_u64()).sum();
            let operations = import["operations"].as_u64().ok_or("the count of operations is not told")?;
            let elapsed_ms = import["elapsed_ms"].as_u64().ok_or("the time of the import is not told")?;
            Ok(Self::new(operations, elapsed_ms, records, took.as_secs_f64()))
        })
    }

    #[allow(clippy::cast_precision_loss)] // far below 2^52
    fn new(operations: u64, import_ms: u64, records: u64, rebuild_seconds: f64) -> Self {
        let import_per_second = operations as f64 * 1_000.0 / import_ms as f64;
        let rebuild_per_second = records as f64 / rebuild_seconds;
        let of_import = rebuild_per_second / import_per_second;
        Self { operations, import_per_second, records, rebuild_per_second, of_import }
    }
}

impl fmt::Display for Rebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, import_per_second, records, rebuild_per_second, of_import } = self;
        writeln!(
            f,
            "import of {operations} operations, {PARTITIONS} partitions, 4x32: {import_per_second:.0} a second"
        )?;
        writeln!(
            f,
            "rebuild of {records} records: {rebuild_per_second:.0} a second, {of_import:.1} times the import"
        )
    }
}
