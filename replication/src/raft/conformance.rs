//! openraft's own suite for storage, over our log and our view.
//!
//! The suite writes and applies entries out of nowhere: the first at index 2, the next at 5. A group never does, and the
//! log and the view refuse it. So the entries that the suite leaves out are put in here, as blanks.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use futures_util::{Stream, StreamExt};
use odgm_log::GroupId;
use odgm_log::store::{LogStore, Options};
use odgm_projections::storage::{Engine, Resources};
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use openraft::{EntryPayload, OptionalSend, RaftLogReader, StorageError};

use super::log::Log;
use super::machine::{Builder, Machine, Place, Snapshot, SnapshotFiles};
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, Types, Vote};

const GROUP: GroupId = GroupId(7);

/// What lies before `entry` and was left out.
fn missing(next: u64, entry: &Entry) -> impl Iterator<Item = Entry> + use<> {
    let term = entry.log_id.leader_id.term;
    let blank =
        move |index| Entry { log_id: LogId::new_term_index(term, index), payload: EntryPayload::Blank };
    (next..entry.log_id.index).map(blank)
}

struct WholeLog(Log);

impl WholeLog {
    /// The index that comes next.
    async fn next(&mut self) -> io::Result<u64> {
        Ok(self.0.get_log_state().await?.last_log_id.map_or(0, |last| last.index + 1))
    }
}

impl RaftLogReader<Types> for WholeLog {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        self.0.try_get_log_entries(range).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.0.read_vote().await
    }
}

impl RaftLogStorage<Types> for WholeLog {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        self.0.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Log {
        self.0.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.0.save_vote(vote).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut next = self.next().await?;
        let mut whole = Vec::new();
        for entry in entries {
            whole.extend(missing(next, &entry));
            next = entry.log_id.index + 1;
            whole.push(entry);
        }
        self.0.append(whole, callback).await
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> io::Result<()> {
        self.0.truncate_after(keep).await
    }

    async fn purge(&mut self, through: LogId) -> io::Result<()> {
        let next = self.next().await?;
        let last = Entry { log_id: through, payload: EntryPayload::Blank };
        if next <= through.index {
            let whole: Vec<_> = missing(next, &last).chain([last]).collect();
            self.0.append(whole, IOFlushed::noop()).await?;
        }
        self.0.purge(through).await
    }
}

/// The view, with a log of its own that gets what is applied: the suite applies what it never wrote.
struct WholeMachine {
    log: WholeLog,
    machine: Machine,
}

impl RaftStateMachine<Types> for WholeMachine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.machine.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut whole = Vec::new();
        for entry in entries.collect::<Vec<_>>().await {
            let (entry, responder) = entry?;
            let next = self.log.next().await? + whole.len() as u64;
            whole.extend(missing(next, &entry).map(|blank| (blank, None)));
            whole.push((entry, responder));
        }
        let entries = whole.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>();
        self.log.append(entries, IOFlushed::noop()).await?;
        self.machine.apply(futures_util::stream::iter(whole.into_iter().map(Ok))).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.machine.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> io::Result<()> {
        self.machine.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.machine.get_current_snapshot().await
    }
}

struct Stores(Engine);

impl StoreBuilder<Types, WholeLog, WholeMachine, tempfile::TempDir> for Stores {
    async fn build(&self) -> Result<(tempfile::TempDir, WholeLog, WholeMachine), StorageError<Types>> {
        let failed = |error: io::Error| StorageError::read(Types::err_from_error(&error));
        let dir = tempfile::tempdir().map_err(failed)?;
        let log = |name| {
            let options = Options { free_space_reserve: 0, ..Options::default() };
            let store = LogStore::open(&dir.path().join(name), options).map_err(io::Error::other)?;
            Log::open(store, GROUP)
        };
        let (written, applied) = (log("written").map_err(failed)?, log("applied").map_err(failed)?);
        let place = Place {
            engine: self.0,
            views: dir.path().join("views"),
            snapshots: dir.path().join("snapshots"),
            resources: Resources::default(),
        };
        let machine = Machine::open(applied.clone(), place).map_err(failed)?;
        Ok((dir, WholeLog(written), WholeMachine { log: WholeLog(applied), machine }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_on_rocksdb() {
    Suite::test_all(Stores(Engine::RocksDb)).await.expect("conforming");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_in_memory() {
    Suite::test_all(Stores(Engine::Memory)).await.expect("conforming");
}
