//! What a sync costs on the disk that the servers use.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use super::super::load::{Samples, Timing};
use super::super::workload::VALUE_BYTES;
use crate::Result;

/// Appends a value to a file and syncs it, over and over.
pub(super) fn append_and_sync(dir: &Path, timing: Timing) -> Result<Samples> {
    let path = dir.join("synced");
    let mut file = File::options().create(true).append(true).open(&path)?;
    let value = [b'x'; VALUE_BYTES];
    let begin = Instant::now() + timing.warm_up;
    let mut samples = Samples::new(timing.measured);
    loop {
        let sent = Instant::now();
        if sent >= begin + timing.measured {
            std::fs::remove_file(&path)?;
            return Ok(samples);
        }
        file.write_all(&value)?;
        file.sync_data()?;
        if sent >= begin {
            samples.push(sent.elapsed());
        }
    }
}
