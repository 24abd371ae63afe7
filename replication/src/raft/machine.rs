//! The state machine of a group, as openraft wants it: the view.
//!
//! Entries are applied in batches of what has been committed meanwhile, and never before they are durable here: a view
//! must not know what its own log could lose. A snapshot that is installed starts a new view in a directory of its own,
//! named by the snapshot's offset, so that whoever still reads the old one reads it to the end. What is under way is
//! noted in the log store first and finished at the next start:
//!
//! 1. the snapshot is put among this view's snapshots,
//! 2. the note `raft.installing` names it,
//! 3. the log goes on behind it, and all records before are gone,
//! 4. the view starts from it,
//! 5. the note is removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use odgm_log::{Offset, chain};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Applied, Committed, Header, View, ViewOptions};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::APPLY_RECORDS;
use super::log::Log;
use super::types::{self, Entry, LogId, SnapshotMeta, StoredMembership, Types, invalid, offset, to_record};
use crate::manager::blocking;

/// A snapshot of a view: a directory of files that do not change any more.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFiles {
    pub(crate) dir: PathBuf,
}

pub(crate) type Snapshot = openraft::alias::SnapshotOf<Types, SnapshotFiles>;

/// Where a group's views are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) engine: Engine,
    /// Holds a directory for each view, named by the offset at which it started.
    pub(crate) views: PathBuf,
    pub(crate) snapshots: PathBuf,
    pub(crate) resources: Resources,
}

/// The view of a group. Clones are handles of the same one.
#[derive(Clone)]
pub(crate) struct Machine {
    shared: Arc<Shared>,
}

struct Shared {
    log: Log,
    place: Place,
    view: RwLock<Current>,
    /// The newest offset that is committed and applied here.
    visible: watch::Sender<Offset>,
}

struct Current {
    view: View,
    dir: PathBuf,
}

impl Machine {
    /// Opens the newest view of the group, or an empty one. Finishes what a crash interrupted.
    pub(crate) fn open(log: Log, place: Place) -> io::Result<Self> {
        let started = match log.installing()? {
            Some(snapshot) => snapshot,
            None => newest(&place.views)?.unwrap_or(Offset::ZERO),
        };
        let current = Current::open(&log, &place, started)?;
        if log.installing()?.is_some() {
            let (header, _) = current.view.snapshot_state(started).map_err(io::Error::other)?;
            let through =
                types::log_id(header.term, started).ok_or_else(|| invalid("a snapshot of nothing"))?;
            log.restart(through, header.chain)?;
            log.installed()?;
        }
        let header = current.view.header();
        // What is durable but not known to be committed is applied when a leader says that it is.
        let end = log.store().bounds(log.group()).durable;
        if header.applied > end {
            let reason = format!(
                "the view of group {} has applied record {}, but its log ends at {end}",
                log.group(),
                header.applied
            );
            return Err(invalid(reason));
        }
        let visible = watch::Sender::new(header.applied);
        let machine = Self { shared: Arc::new(Shared { log, place, view: RwLock::new(current), visible }) };
        machine.shared.remove_old_views()?;
        Ok(machine)
    }

    /// Takes the files of a snapshot of another member among our own, after checking that it is what it says.
    pub(crate) fn receive(&self, through: LogId, files: &Path) -> io::Result<Snapshot> {
        self.shared.adopt(through, files)?;
        self.shared.snapshot(offset(through.index))
    }

    /// The view as it is now. After a snapshot was installed it is another one.
    pub(crate) fn view(&self) -> View {
        self.shared.view.read().view.clone()
    }
}

impl Current {
    fn open(log: &Log, place: &Place, started: Offset) -> io::Result<Self> {
        let dir = place.views.join(started.to_string());
        let view = View::open(&ViewOptions {
            group: log.group(),
            engine: place.engine,
            dir: dir.clone(),
            snapshots: place.snapshots.clone(),
            resources: place.resources.clone(),
        })
        .map_err(io::Error::other)?;
        Ok(Self { view, dir })
    }
}

impl Shared {
    fn view(&self) -> View {
        self.view.read().view.clone()
    }

    /// Applies records that are durable here.
    fn apply(&self, entries: Vec<Entry>) -> io::Result<Vec<Applied>> {
        let view = self.view();
        let mut chain = view.header().chain;
        let committed = entries.into_iter().map(|entry| {
            let record = to_record(entry)?;
            let payload = record.decode().map_err(invalid)?;
            chain = chain::link(chain, &record);
            Ok(Committed { record, payload, chain })
        });
        let committed: Vec<_> = committed.collect::<io::Result<_>>()?;
        let applied = view.apply(&committed).map_err(io::Error::other)?;
        self.visible.send_replace(view.header().applied);
        Ok(applied)
    }

    /// Puts a snapshot in the place of the view and of the log up to it.
    fn install(&self, through: LogId, files: &Path) -> io::Result<()> {
        let at = offset(through.index);
        let header = self.adopt(through, files)?;
        self.log.begin_installing(at)?;
        self.log.restart(through, header.chain)?;
        let next = Current::open(&self.log, &self.place, at)?;
        *self.view.write() = next;
        self.visible.send_replace(at);
        self.log.installed()?;
        self.remove_old_views()
    }

    /// Takes a snapshot among our own, and checks that it is the one that was meant.
    fn adopt(&self, through: LogId, files: &Path) -> io::Result<Header> {
        let at = offset(through.index);
        let view = self.view();
        view.adopt_snapshot(files, at).map_err(io::Error::other)?;
        let (header, _) = view.snapshot_state(at).map_err(io::Error::other)?;
        if (header.group, header.applied, header.term.0) != (self.log.group(), at, through.leader_id.term) {
            let (group, applied, term) = (header.group, header.applied, header.term);
            let wanted = self.log.group();
            let reason = format!(
                "the snapshot is of group {group} at record {applied} of term {term}, not of group {wanted} at {through}"
            );
            return Err(invalid(reason));
        }
        Ok(header)
    }

    fn remove_old_views(&self) -> io::Result<()> {
        let current = self.view.read().dir.clone();
        for entry in std::fs::read_dir(&self.place.views)? {
            let path = entry?.path();
            if path != current {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    fn snapshot(&self, at: Offset) -> io::Result<Snapshot> {
        let view = self.view();
        if at == Offset::ZERO {
            // openraft asks for one before anything is applied, and sends it nowhere.
            return Ok(Snapshot {
                meta: SnapshotMeta::default(),
                snapshot: SnapshotFiles { dir: view.snapshot_dir(at) },
            });
        }
        let (header, members) = view.snapshot_state(at).map_err(io::Error::other)?;
        let (last_log_id, last_membership) = types::applied(&header, members.as_ref())?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotFiles { dir: view.snapshot_dir(at) } })
    }
}

/// The view that was started last.
fn newest(views: &Path) -> io::Result<Option<Offset>> {
    std::fs::create_dir_all(views)?;
    let mut newest = None;
    for entry in std::fs::read_dir(views)? {
        let name = entry?.file_name();
        // Other names are those of views that a crash left unfinished.
        newest = newest.max(name.to_str().and_then(|name| name.parse().ok()).map(Offset));
    }
    Ok(newest)
}

/// Makes a snapshot of what is applied.
pub(crate) struct Builder(Arc<Shared>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let shared = Arc::clone(&self.0);
        blocking(move || {
            let at = shared.view().snapshot().map_err(io::Error::other)?;
            shared.snapshot(at)
        })
        .await
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotFiles;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let view = self.view();
        let members = view.members().map_err(io::Error::other)?;
        types::applied(&view.header(), members.as_ref())
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_RECORDS);
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<io::Result<Vec<_>>>()?;
            let (entries, responders): (Vec<Entry>, Vec<Option<ApplyResponder<Types>>>) =
                batch.into_iter().unzip();
            if let Some(last) = entries.last() {
                self.shared.log.durable(offset(last.log_id.index)).await?;
            }
            let shared = Arc::clone(&self.shared);
            let applied = blocking(move || shared.apply(entries)).await?;
            for (responder, applied) in responders.into_iter().zip(applied) {
                if let Some(responder) = responder {
                    responder.send(applied);
                }
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(Arc::clone(&self.shared))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFiles) -> io::Result<()> {
        let through = meta.last_log_id.ok_or_else(|| invalid("a snapshot of nothing cannot be installed"))?;
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.install(through, &snapshot.dir)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.view().snapshots().last().map(|at| shared.snapshot(*at)).transpose()).await
    }
}
