//! A log in memory, and views of it.

use bytes::Bytes;
use odgm_log::body::{Body, Cause, Config, Payload};
use odgm_log::{GroupId, Hash, Kind, NodeId, Offset, Record, Term, Timestamp};
use odgm_projections::storage::{Budget, Engine, Resources};
use odgm_projections::{Applied, Committed, Outcome, RecordSource, View, ViewOptions};
use tempfile::TempDir;

pub(crate) const GROUP: GroupId = GroupId(7);

/// The records of a partition, as its log would hold them.
#[derive(Clone, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    /// The chain up to the last of them.
    chain: Hash,
}

impl Log {
    /// Appends an operation stamped `millis` after the epoch.
    pub(crate) fn push(&mut self, millis: u64, request_id: Option<&str>, body: Body) -> Committed {
        self.push_caused(millis, Cause { request_id: request_id.map(Into::into), ..Cause::default() }, body)
    }

    /// Appends an operation with the reason for it.
    pub(crate) fn push_caused(&mut self, millis: u64, cause: Cause, body: Body) -> Committed {
        let is_of_version_1 = matches!(&body, Body::Config(rules) if says_nothing_of_calls(rules));
        let (kind, bytes) = Payload { cause, body }.encode().unwrap();
        if is_of_version_1 {
            // Golden scripts from before there were calls keep the bytes of their logs.
            let rest = 5 + 9 + 5 + 5;
            return self.push_encoded(
                millis,
                Kind { body_version: 1, ..kind },
                bytes.slice(..bytes.len() - rest),
            );
        }
        self.push_encoded(millis, kind, bytes)
    }

    /// Appends what was encoded before, perhaps by another build.
    pub(crate) fn push_encoded(&mut self, millis: u64, kind: Kind, bytes: impl Into<Bytes>) -> Committed {
        let record = Record {
            offset: Offset(self.records.len() as u64 + 1),
            term: Term(0),
            stamp: Timestamp::from_millis(millis),
            origin: NodeId(1),
            kind,
            payload: bytes.into(),
        };
        let payload = record.decode().unwrap();
        let committed = Committed::new(self.chain, record.clone(), payload);
        self.chain = committed.chain;
        self.records.push(record);
        committed
    }

    /// The records from `from` to `to`, both included, decoded.
    pub(crate) fn committed(&self, from: Offset, to: Offset) -> Vec<Committed> {
        let mut chain = Hash::ZERO;
        let mut committed = Vec::new();
        for record in self.records.iter().take_while(|record| record.offset <= to) {
            let next = Committed::new(chain, record.clone(), record.decode().unwrap());
            chain = next.chain;
            committed.push(next);
        }
        committed.retain(|committed| from <= committed.record.offset);
        committed
    }

    pub(crate) fn last(&self) -> Offset {
        Offset(self.records.len() as u64)
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source(&self.records)
    }
}

/// Whether rules could have been written before they said something of calls; and those bytes end them now.
fn says_nothing_of_calls(rules: &Config) -> bool {
    let default = Config::default();
    rules.max_outbox_rows == default.max_outbox_rows
        && rules.max_outbox_bytes == default.max_outbox_bytes
        && rules.result_retention_ms == default.result_retention_ms
        && rules.max_result_bytes == default.max_result_bytes
}

/// Some of the records of a log, from the first that is kept.
pub(crate) struct Source<'a>(pub(crate) &'a [Record]);

impl RecordSource for Source<'_> {
    fn first(&self) -> Offset {
        RecordSource::first(self.0)
    }

    fn last(&self) -> Offset {
        RecordSource::last(self.0)
    }

    fn read(&self, from: Offset, limit: usize) -> Result<Vec<Record>, odgm_projections::SourceError> {
        self.0.read(from, limit)
    }
}

/// A view in directories that go away with it.
pub(crate) struct Fixture {
    /// `None` only while it is opened again.
    view: Option<View>,
    pub(crate) options: ViewOptions,
    // Dropped last: RocksDB would wait for a directory that is gone.
    home: TempDir,
}

impl Fixture {
    pub(crate) fn new(engine: Engine) -> Self {
        let home = TempDir::new().unwrap();
        // So little that rows move on all the time.
        let resources = Resources::new(Budget {
            block_cache_bytes: 4 << 20,
            write_buffer_bytes: 4 << 20,
            write_back_bytes: 2 << 10,
            row_cache_bytes: 4 << 10,
            object_cache_bytes: 4 << 10,
        });
        let (dir, snapshots) = (home.path().join("view"), home.path().join("snapshots"));
        let options = ViewOptions { group: GROUP, engine, dir, snapshots, resources };
        let view = Some(View::open(&options).unwrap());
        Self { view, options, home }
    }

    pub(crate) fn view(&self) -> &View {
        self.view.as_ref().unwrap()
    }

    /// Closes the view and opens what is in its directory.
    pub(crate) fn reopen(&mut self) -> &View {
        self.view = None;
        self.view.insert(View::open(&self.options).unwrap())
    }

    /// Closes the view, so that its directory may be opened otherwise.
    pub(crate) fn close(&mut self) {
        self.view = None;
    }

    /// Closes the view and removes its directory.
    pub(crate) fn lose(&mut self) {
        self.view = None;
        std::fs::remove_dir_all(&self.options.dir).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    /// Applies what the log has and the view has not.
    pub(crate) fn follow(&self, log: &Log) -> Vec<Applied> {
        self.view().apply(&log.committed(self.view().header().applied.next(), log.last())).unwrap()
    }
}

/// A view and its log growing together.
pub(crate) struct Partition {
    pub(crate) log: Log,
    pub(crate) fixture: Fixture,
    now: u64,
}

impl Partition {
    pub(crate) fn new() -> Self {
        Self { log: Log::default(), fixture: Fixture::new(Engine::Memory), now: 1_000 }
    }

    pub(crate) fn view(&self) -> &View {
        self.fixture.view()
    }

    /// Runs one line of a script.
    pub(crate) fn run(&mut self, line: &str) -> Applied {
        let line = crate::script::Line::parse(line);
        self.now += line.wait;
        let committed = self.log.push_caused(self.now, line.cause, line.body);
        self.now += 10;
        self.view().apply(&[committed]).unwrap().remove(0)
    }

    /// Runs one line of a script for its answer.
    pub(crate) fn answer(&mut self, line: &str) -> Outcome {
        self.run(line).outcome
    }
}

pub(crate) fn dump(view: &View) -> String {
    let mut text = Vec::new();
    view.dump(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// The state hash, and the dump.
pub(crate) fn everything(view: &View) -> (Hash, String) {
    (view.header().state, dump(view))
}
