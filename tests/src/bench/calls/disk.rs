//! What a sync costs on the disk that the servers use.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::load::{Samples, Timing};
use super::super::workload::VALUE_BYTES;
use crate::Result;

/// Between two syncs at the pace of calls: about what a call takes on its way to the function and back.
pub(super) const REST: Duration = Duration::from_micros(250);

/// Appends a value to a file and syncs it, over and over, with a rest before each that is not counted.
pub(super) fn append_and_sync(dir: &Path, rest: Duration, timing: Timing) -> Result<Samples> {
    let path = dir.join("synced");
    let mut file = File::options().create(true).append(true).open(&path)?;
    let value = [b'x'; VALUE_BYTES];
    let begin = Instant::now() + timing.warm_up;
    let mut samples = Samples::new(timing.measured);
    loop {
        std::thread::sleep(rest);
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
