//! Free space of the file system that holds the log.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The file system is asked this often at least while there are writes, and by those who wait for space.
pub(super) const REFRESH: Duration = Duration::from_millis(500);

/// It is asked sooner when this part of the reserve has been appended, so that a fast writer on a small disk does not
/// run through the reserve between two looks.
const LOOKS_PER_RESERVE: u64 = 16;

/// Free space, as of the last look at it: at most half a second, and a sixteenth of the reserve in records, before
/// the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Bytes below which new writes should be refused.
    pub reserve: u64,
}

impl Space {
    /// Whether new writes should be refused, so that reads, outcomes and trims can go on.
    pub fn is_low(&self) -> bool {
        self.free < self.reserve
    }

    /// Whether half of the reserve is used up.
    pub fn is_critical(&self) -> bool {
        self.free < self.reserve / 2
    }
}

/// Asks the file system now and then, and answers from memory.
pub(super) struct SpaceWatch {
    dir: PathBuf,
    reserve: u64,
    free: AtomicU64,
    low: AtomicBool,
    asked: Mutex<Instant>,
    /// Bytes of records appended since.
    appended: AtomicU64,
}

impl SpaceWatch {
    pub(super) fn new(dir: &Path, reserve: u64) -> Self {
        let watch = Self {
            dir: dir.to_owned(),
            reserve,
            free: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
            asked: Mutex::new(Instant::now()),
            appended: AtomicU64::new(0),
        };
        watch.ask();
        watch
    }

    pub(super) fn get(&self) -> Space {
        Space { free: self.free.load(Ordering::Relaxed), reserve: self.reserve }
    }

    pub(super) fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Notes how much was appended.
    pub(super) fn count(&self, bytes: usize) {
        self.appended.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Asks the file system, unless that was done a moment ago.
    pub(super) fn refresh(&self) {
        let mut asked = self.asked.lock();
        let much = self.appended.load(Ordering::Relaxed) > self.reserve / LOOKS_PER_RESERVE;
        if much || asked.elapsed() >= REFRESH {
            *asked = Instant::now();
            drop(asked);
            self.appended.store(0, Ordering::Relaxed);
            self.ask();
        }
    }

    fn ask(&self) {
        match rustix::fs::statvfs(&self.dir) {
            Ok(stat) => {
                let space =
                    Space { free: stat.f_bavail.saturating_mul(stat.f_frsize), reserve: self.reserve };
                self.free.store(space.free, Ordering::Relaxed);
                let is_low = space.is_low();
                if self.low.swap(is_low, Ordering::Relaxed) != is_low {
                    let what_to_do = if is_low {
                        "free space crossed the reserve, so writes are refused: free some on the disk of this directory, or \
                         lower ODGM_FREE_SPACE_RESERVE and start the node again"
                    } else {
                        "free space crossed the reserve, so writes are taken again"
                    };
                    let Space { free, reserve } = space;
                    tracing::warn!(dir = %self.dir.display(), free, reserve, low = is_low, "{what_to_do}");
                }
            }
            // The last answer stands: not knowing is no reason to refuse writes.
            Err(error) => tracing::warn!(dir = %self.dir.display(), %error, "free space is unknown"),
        }
    }
}
