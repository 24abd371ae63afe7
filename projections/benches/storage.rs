//! What the hot path of a view pays its storage: `cargo bench -p odgm-projections --bench storage`.
//!
//! Prints nanoseconds per call and engine, by the clock and of this thread's processor time; the latter says more on a
//! machine that does other things. The rows are in the block cache, at first not in the memtable.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use odgm_projections::storage::{Batch, Engine, Resources, SnapshotCapableStorage};

const OBJECTS: u64 = 200_000;
const VALUE: [u8; 256] = [7; 256];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let objects = arguments.find_map(|argument| argument.parse().ok()).unwrap_or(OBJECTS);
    println!("{objects} objects, 3 rows each");
    for engine in Engine::ALL {
        let dir = tempfile::tempdir().unwrap();
        let storage = engine.open(dir.path(), &Resources::default()).unwrap();
        measure(engine, &*storage, objects);
    }
}

fn measure(engine: Engine, storage: &dyn SnapshotCapableStorage, objects: u64) {
    let mut random = Random(1);
    let started = Watch::start();
    for first in (0..objects).step_by(100) {
        storage.write(batch((first..first + 100).map(scatter), first)).unwrap();
    }
    report(engine, "load, per batch of 100 x 3", &started, objects / 100);
    storage.flush().unwrap();

    for phase in ["after a flush", "with a filled memtable"] {
        repeat(engine, &format!("get, {phase}"), 200_000, || {
            black_box(storage.get(&entry(scatter(random.below(objects)))).unwrap().unwrap());
        });
        repeat(engine, &format!("get of an absent key, {phase}"), 200_000, || {
            assert!(storage.get(&entry(scatter(objects + random.below(objects)))).unwrap().is_none());
        });
        repeat(engine, &format!("get_many of 2, {phase}"), 200_000, || {
            let id = scatter(random.below(objects));
            black_box(storage.get_many(&[&meta(id), &entry(id)]).unwrap());
        });
        repeat(engine, &format!("reader and a scan of 20, {phase}"), 20_000, || {
            let reader = storage.reader().unwrap();
            let range = odgm_projections::storage::Range::all().from(&entry(scatter(random.below(objects))));
            black_box(reader.range(range, odgm_projections::storage::Order::Ascending).take(20).count());
        });
        let mut offset = objects;
        repeat(engine, "write of 100 x 3", 300, || {
            offset += 100;
            let ids: Vec<u64> = (0..100).map(|_| scatter(random.below(objects))).collect();
            storage.write(batch(ids.into_iter(), offset)).unwrap();
        });
    }
}

/// Per object what a small write costs: its meta row, an entry, a history row.
fn batch(ids: impl Iterator<Item = u64>, offset: u64) -> Batch {
    let mut batch = Batch::with_capacity(301);
    for (id, offset) in ids.zip(offset..) {
        batch.put(meta(id), VALUE[..40].to_vec());
        batch.put(entry(id), VALUE.to_vec());
        batch.put(format!("h{id:016x}\0{offset:016x}").into_bytes(), VALUE[..30].to_vec());
    }
    batch.put("header", VALUE[..150].to_vec());
    batch
}

fn meta(id: u64) -> Vec<u8> {
    format!("m{id:016x}").into_bytes()
}

fn entry(id: u64) -> Vec<u8> {
    format!("e{id:016x}\0value").into_bytes()
}

fn repeat(engine: Engine, what: &str, times: u64, mut run: impl FnMut()) {
    let started = Watch::start();
    (0..times).for_each(|_| run());
    report(engine, what, &started, times);
}

fn report(engine: Engine, what: &str, started: &Watch, times: u64) {
    let each = |elapsed: Duration| elapsed.as_nanos() / u128::from(times);
    let (clock, processor) = started.elapsed();
    println!("{engine:8} {what:45} {:>9} ns {:>9} ns", each(clock), each(processor));
}

/// The clock and the processor time of this thread.
struct Watch {
    clock: Instant,
    processor: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { clock: Instant::now(), processor: Self::processor_time() }
    }

    fn elapsed(&self) -> (Duration, Duration) {
        (self.clock.elapsed(), Self::processor_time() - self.processor)
    }

    /// As Linux counts it; zero elsewhere.
    fn processor_time() -> Duration {
        let counters = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanos = counters.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or_default())
    }
}

/// Spreads consecutive numbers over the key space.
fn scatter(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}
