//! What applying costs: `cargo bench -p odgm-projections --bench apply [-- OBJECTS] [ENGINE]`.
//!
//! Prints microseconds per record and engine, by the clock and of the applying thread's processor time; the latter
//! says more on a machine that does other things. Records are decoded before, unless it says otherwise.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails may stop")]

use std::time::{Duration, Instant};

use odgm_log::body::calls::{Attempt, Finished, Outcome, RowKey, Source};
use odgm_log::body::{
    Body, Cause, DataTrigger, Merge, Payload, Semantics, SetValues, Target, Triggers, Value,
};
use odgm_log::{GroupId, Hash, NodeId, Offset, Record, Term, Timestamp};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Committed, RecordSource, SourceError, View, ViewOptions};

const OBJECTS: u64 = 200_000;
const BATCH: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let objects: u64 = arguments.iter().find_map(|word| word.parse().ok()).unwrap_or(OBJECTS);
    let engine: Option<Engine> = arguments.iter().find_map(|word| word.parse().ok());
    for engine in Engine::ALL.into_iter().filter(|other| engine.is_none_or(|engine| engine == *other)) {
        let dir = tempfile::tempdir().unwrap();
        let view = open(engine, dir.path());
        let mut writer = Writer { next: 1, chain: Hash::ZERO, random: 1 };
        let created: Vec<u64> = (0..objects).collect();
        measure(engine, &view, "SetValue of 256 B, new objects", &mut writer, &created);
        let scattered: Vec<u64> = (0..objects).map(|_| writer.random() % objects).collect();
        measure(engine, &view, "SetValue of 256 B, all objects at random", &mut writer, &scattered);
        let hot: Vec<u64> = (0..objects).map(|_| writer.random() % 5_000).collect();
        measure(engine, &view, "SetValue of 256 B, 5,000 objects at random", &mut writer, &hot);
        catch_up(engine, objects);
        with_triggers(engine, objects);
    }
}

/// The same writes to objects without and with a trigger, and the outcomes of the calls.
fn with_triggers(engine: Engine, records: u64) {
    let dir = tempfile::tempdir().unwrap();
    let view = open(engine, dir.path());
    let mut writer = Writer { next: 1, chain: Hash::ZERO, random: 3 };
    view.apply(&[writer.record(Body::Semantics(Semantics { version: 2 }))]).unwrap();
    let objects: Vec<u64> = (0..records).map(|_| writer.random() % 5_000).collect();
    measure(engine, &view, "SetValue of 256 B, 5,000 objects without triggers", &mut writer, &objects);
    for object in 0..5_000 {
        view.apply(&[writer.attach(object)]).unwrap();
    }
    let first = writer.next;
    measure(engine, &view, "SetValue of 256 B, 5,000 objects with a trigger", &mut writer, &objects);
    let calls: Vec<Committed> = (0..records).map(|n| writer.outcome(first + n)).collect();
    let started = Watch::start();
    for batch in calls.chunks(BATCH) {
        view.apply(batch).unwrap();
    }
    report(engine, "Outcome of such a call", &started, calls.len());
    assert_eq!(view.header().calls.outbox_rows, 0, "all calls have ended");
}

fn measure(engine: Engine, view: &View, what: &str, writer: &mut Writer, objects: &[u64]) {
    let committed: Vec<Committed> = objects.iter().map(|object| writer.put(*object)).collect();
    let started = Watch::start();
    for batch in committed.chunks(BATCH) {
        view.apply(batch).unwrap();
    }
    report(engine, what, &started, objects.len());
}

fn catch_up(engine: Engine, records: u64) {
    let mut writer = Writer { next: 1, chain: Hash::ZERO, random: 7 };
    let records: Vec<Record> = (0..records).map(|_| writer.merge().record).collect();
    let dir = tempfile::tempdir().unwrap();
    let view = open(engine, dir.path());
    let started = Watch::start();
    view.catch_up(&Log(&records), &mut |_, _| {}).unwrap();
    report(engine, "Merge of 5 fields, 4,000 objects, catching up with decoding", &started, records.len());
    view.flush().unwrap();
}

fn report(engine: Engine, what: &str, started: &Watch, records: usize) {
    let each = |time: Duration| time.as_secs_f64() * 1e6 / records as f64;
    let (clock, processor) = (each(started.clock.elapsed()), each(processor_time() - started.processor));
    println!("{:8} {what:60} {clock:6.2} us, {processor:6.2} us of processor time", engine.name());
}

struct Watch {
    clock: Instant,
    processor: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { clock: Instant::now(), processor: processor_time() }
    }
}

/// Of this thread, as Linux counts it; zero elsewhere.
fn processor_time() -> Duration {
    let counters = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = counters.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

fn open(engine: Engine, dir: &std::path::Path) -> View {
    View::open(&ViewOptions {
        group: GroupId(1),
        engine,
        dir: dir.join("view"),
        snapshots: dir.join("snapshots"),
        resources: Resources::default(),
    })
    .unwrap()
}

struct Writer {
    next: u64,
    chain: Hash,
    random: u64,
}

impl Writer {
    fn put(&mut self, object: u64) -> Committed {
        let data: Vec<u8> = (0..32).flat_map(|_| self.random().to_le_bytes()).collect();
        self.record(Body::SetValues(SetValues {
            object: format!("object-{object}"),
            puts: vec![("value".into(), Value::bytes(data))],
            deletes: Vec::new(),
            expected_version: None,
        }))
    }

    fn merge(&mut self) -> Committed {
        let object = format!("n{}", self.random() % 4_000);
        let entries = ["delay", "dep", "dest", "flight", "origin"]
            .map(|key| (key.to_owned(), Value::bytes(self.random().to_string().into_bytes())));
        self.record(Body::Merge(Merge { object, entries: entries.into(), triggers: None }))
    }

    fn attach(&mut self, object: u64) -> Committed {
        let target = Target { class: "jobs".into(), function: "count".into(), ..Target::default() };
        let (on_create, on_update) = (vec![target.clone()], vec![target]);
        let trigger = DataTrigger { on_create, on_update, ..DataTrigger::default() };
        let triggers = Triggers { data: vec![("value".into(), trigger)], ..Triggers::default() };
        let object = format!("object-{object}");
        self.record(Body::Merge(Merge { object, entries: Vec::new(), triggers: Some(triggers) }))
    }

    /// Of the only call that a record asked for.
    fn outcome(&mut self, caused_by: u64) -> Committed {
        let row = RowKey { due: stamp(caused_by), offset: Offset(caused_by), index: 0 };
        self.record(Body::Outcome(Outcome {
            source: Source::Outbox(Attempt { row, generation: 0, attempt: 0 }),
            invocation: String::new(),
            object: None,
            function: "count".into(),
            finished: Finished::default(),
        }))
    }

    fn record(&mut self, body: Body) -> Committed {
        let payload = Payload { cause: Cause::default(), body };
        let (kind, bytes) = payload.encode().unwrap();
        let record = Record {
            offset: Offset(self.next),
            term: Term(0),
            stamp: stamp(self.next),
            origin: NodeId(1),
            kind,
            payload: bytes,
        };
        self.next += 1;
        let committed = Committed::new(self.chain, record, payload);
        self.chain = committed.chain;
        committed
    }

    /// Xorshift.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn stamp(offset: u64) -> Timestamp {
    Timestamp(1_700_000_000_000_000 + 20 * offset)
}

struct Log<'a>(&'a [Record]);

impl RecordSource for Log<'_> {
    fn first(&self) -> Offset {
        RecordSource::first(self.0)
    }

    fn last(&self) -> Offset {
        RecordSource::last(self.0)
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, SourceError> {
        self.0.read(from, limit)
    }
}
