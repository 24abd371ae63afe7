//! Time and chance of the thread that simulates: what the C library says of them is replaced for it, so that neither
//! our code nor a library's needs to know.
//!
//! Seeds of hash maps, of tokio, and of openraft's elections all come from `getrandom`, and every clock from
//! `clock_gettime`. Both are defined here for this test's process; other threads get what the kernel says.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};
use std::time::Duration;

thread_local! {
    /// Nanoseconds since the simulation began; none on threads that do not simulate.
    static NOW: Cell<Option<u64>> = const { Cell::new(None) };
    static CHANCE: Cell<Random> = const { Cell::new(Random(1)) };
}

/// What the monotonic clock says at the beginning, and the calendar's.
const MONOTONIC_SECONDS: u64 = 1_000;
const CALENDAR_SECONDS: u64 = 1_700_000_000;

/// Makes this thread one that simulates. It must not have asked for time or chance before.
pub(super) fn begin(seed: u64) {
    NOW.set(Some(0));
    CHANCE.set(Random::new(seed));
}

/// Whether this thread simulates.
pub(crate) fn is_simulated() -> bool {
    NOW.get().is_some()
}

/// How long the simulation has gone on.
pub(super) fn now() -> Duration {
    Duration::from_nanos(NOW.get().unwrap_or(0))
}

/// Lets time go by.
pub(super) fn advance(by: Duration) {
    let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
    NOW.set(NOW.get().map(|now| now + by));
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        random.next();
        random
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(super) const fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(super) fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len().max(1) as u64);
        from.get(usize::try_from(at).ok()?).copied()
    }
}

/// In the place of the C library's.
///
/// # Safety
/// As there: `bytes` is valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(bytes: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !is_simulated() {
        // SAFETY: the arguments are those of the caller, for whom the same holds.
        let filled = unsafe { libc::syscall(libc::SYS_getrandom, bytes, length, flags) };
        return isize::try_from(filled).unwrap_or(-1);
    }
    let mut random = CHANCE.get();
    for at in 0..length {
        // SAFETY: `at` is below `length`.
        unsafe { bytes.cast::<u8>().add(at).write(random.next().to_be_bytes()[0]) };
    }
    CHANCE.set(random);
    length.cast_signed()
}

/// In the place of the C library's.
///
/// # Safety
/// As there: `time` is valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let begun = match clock {
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_BOOTTIME => Some(MONOTONIC_SECONDS),
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Some(CALENDAR_SECONDS),
        _ => None,
    };
    let (Some(begun), Some(now)) = (begun, NOW.get()) else {
        let call: c_long = libc::SYS_clock_gettime;
        // SAFETY: the arguments are those of the caller, for whom the same holds.
        let told = unsafe { libc::syscall(call, clock, time) };
        return c_int::try_from(told).unwrap_or(-1);
    };
    let now = Duration::from_secs(begun) + Duration::from_nanos(now);
    let told = libc::timespec { tv_sec: now.as_secs().cast_signed(), tv_nsec: i64::from(now.subsec_nanos()) };
    // SAFETY: the caller lets it be written.
    unsafe { time.write(told) };
    0
}
