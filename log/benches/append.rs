//! How fast records become durable, by the size of a batch and the number of appends in flight.
//!
//! `cargo bench -p odgm-log`: one line for each load, on a temporary directory (or `ODGM_BENCH_DIR`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odgm_log::store::{LogStore, Options};
use odgm_log::{BodyType, GroupId, Kind, NodeId, Offset, Record, Term, Timestamp};

const PAYLOAD_BYTES: usize = 300;
const TIME: Duration = Duration::from_secs(2);

fn main() {
    println!(
        "{:>7} {:>10} {:>12} {:>12} {:>14} {:>14}",
        "batch", "in flight", "records/s", "fsyncs/s", "append us/rec", "round us"
    );
    for (batch, in_flight) in [(1, 1), (1, 32), (1, 128), (64, 1), (64, 4), (512, 4)] {
        let dir = std::env::var_os("ODGM_BENCH_DIR")
            .map_or_else(tempfile::tempdir, tempfile::tempdir_in)
            .expect("a temporary directory");
        run(&LogStore::open(dir.path(), Options::default()).unwrap(), batch, in_flight);
    }
}

/// A closed loop of `in_flight` appends of `batch` records each.
fn run(store: &LogStore, batch: usize, in_flight: usize) {
    let group = GroupId(1);
    let (done, outcomes) = mpsc::channel();
    let (mut next, mut waiting, mut appending) = (1, 0, Duration::ZERO);
    let begun = Instant::now();
    while begun.elapsed() < TIME || waiting > 0 {
        while begun.elapsed() < TIME && waiting < in_flight {
            let records: Vec<_> = (next..next + batch as u64).map(record).collect();
            let done = done.clone();
            let started = Instant::now();
            store.append(group, &records, Box::new(move |outcome| drop(done.send(outcome)))).unwrap();
            appending += started.elapsed();
            next += batch as u64;
            waiting += 1;
        }
        outcomes.recv().unwrap().unwrap();
        waiting -= 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let records = (next - 1) as f64;
    let fsyncs = store.stats().fsyncs as f64;
    println!(
        "{batch:>7} {in_flight:>10} {:>12.0} {:>12.0} {:>14.2} {:>14.0}",
        records / seconds,
        fsyncs / seconds,
        appending.as_secs_f64() * 1e6 / records,
        seconds * 1e6 / fsyncs
    );
}

/// Bytes that do not compress.
fn record(offset: u64) -> Record {
    let mut payload = vec![0; PAYLOAD_BYTES];
    let mut state = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in &mut payload {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state.to_le_bytes()[0];
    }
    Record {
        offset: Offset(offset),
        term: Term(0),
        stamp: Timestamp(offset),
        origin: NodeId(1),
        kind: Kind { body_type: BodyType::SetValues, body_version: 1 },
        payload: Bytes::from(payload),
    }
}
