//! What the figures were measured on.

use std::path::Path;

use rustix::fs::statfs;
use serde::Serialize;

use crate::Result;

/// The machine, as far as it explains the figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    cpus: usize,
    model: String,
    kernel: String,
    memory_mib: u64,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib = field("/proc/meminfo", "MemTotal");
        Self {
            cpus: std::thread::available_parallelism().map_or(0, Into::into),
            model: field("/proc/cpuinfo", "model name"),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            memory_mib: kib.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpus, model, kernel, memory_mib } = self;
        write!(f, "{cpus} CPUs ({model}), {memory_mib} MiB, Linux {kernel}")
    }
}

/// Refuses a directory that is only memory.
pub(super) fn require_disk(dir: &Path) -> Result<()> {
    const TMPFS: i64 = 0x0102_1994;
    // The type of this field differs between systems.
    #[allow(clippy::useless_conversion)]
    let kind = i64::try_from(statfs(dir)?.f_type);
    if kind.is_ok_and(|kind| kind == TMPFS) {
        return Err(format!(
            "{} is a tmpfs, where an fsync costs nothing: name a directory on a disk with --dir",
            dir.display()
        )
        .into());
    }
    Ok(())
}
