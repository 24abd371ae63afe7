//! The state machine of a group, as openraft wants it: the view.
//!
//! Entries are applied in batches of what has been committed meanwhile, and never before they are durable here: a view
//! must not know what its own log could lose. A snapshot that is installed starts a new view in a directory of its own,
//! named by the snapshot's offset; whoever still reads the old one may get an error, once its files are gone. What is
//! under way is noted in the log store first and finished at the next start:
//!
//! 1. the note `raft.installing` names the snapshot, which has been checked,
//! 2. its files are put among this view's snapshots,
//! 3. the log goes on behind it: if it does not lead there, all its records go,
//! 4. a view starts from it, in a directory of its own,
//! 5. the note is removed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _};
use odgm_log::{Offset, chain};
use odgm_projections::storage::{Engine, Resources};
use odgm_projections::{Applied, Committed, Header, Members, View, ViewOptions};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::checkpoints::{Checkpoint, Checkpoints, GRID};
use super::log::Log;
use super::types::{self, Entry, LogId, SnapshotMeta, StoredMembership, Types, offset, to_record};
use super::{APPLY_BYTES, APPLY_RECORDS};
use crate::encoding::invalid;
use crate::feed::Feeder;
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
    /// Held while a snapshot is made or installed: one that is made must not lose its view meanwhile.
    snapshots: Mutex<()>,
    /// The newest offset that is committed and applied here.
    visible: watch::Sender<Offset>,
    /// Told what records put into the outbox.
    feeder: Arc<Feeder>,
    /// What other replicas are compared with.
    checkpoints: Mutex<Checkpoints>,
    /// Why nothing more is applied.
    failure: watch::Sender<Option<String>>,
    /// Raised when a snapshot has taken the place of the view.
    installed: watch::Sender<()>,
}

struct Current {
    view: View,
    dir: PathBuf,
}

impl Machine {
    /// Opens the newest view of the group, or an empty one. Finishes what a crash interrupted.
    pub(crate) fn open(log: Log, place: Place) -> io::Result<Self> {
        let started = newest(&place.views)?.unwrap_or(Offset::ZERO);
        let mut current = Current::open(&log, &place, started)?;
        if let Some(at) = log.installing()? {
            // Where its files did not arrive, nothing was changed yet.
            if current.view.snapshots().contains(&at) {
                go_on_behind(&log, &current.view, at)?;
                if started != at {
                    current = Current::open(&log, &place, at)?;
                }
            }
            log.installed()?;
        }
        if let Some(at) = current.view.snapshots().last().copied()
            && at > current.view.header().applied
        {
            // Of an engine that keeps rows in memory: its snapshot is younger than what it has written out.
            current = Current::open(&log, &place, at)?;
        }
        let (group, header) = (log.group(), current.view.header());
        // What is durable behind it is applied when a leader says that it is committed.
        let end = log.store().bounds(group).durable;
        if header.applied > end || !log.leads_to(header.applied, header.chain)? {
            let applied = header.applied;
            return Err(invalid(format!(
                "the view of group {group} has applied record {applied} of another log than this, which ends at {end}"
            )));
        }
        let visible = watch::Sender::new(header.applied);
        let view = RwLock::new(current);
        let (snapshots, failure) = (Mutex::default(), watch::Sender::default());
        let mut checkpoints = Checkpoints::default();
        checkpoints.note(&header);
        let checkpoints = Mutex::new(checkpoints);
        let installed = watch::Sender::new(());
        let feeder = Arc::default();
        let shared = Shared { log, place, view, snapshots, visible, feeder, checkpoints, failure, installed };
        shared.remove_old_views();
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The snapshot whose files another member has sent, after checking that it is the one it says.
    pub(crate) fn received(&self, through: LogId, files: &Path) -> io::Result<Snapshot> {
        described(self.shared.check(through, files)?, files.to_path_buf())
    }

    /// The view as it is now. After a snapshot was installed it is another one.
    pub(crate) fn view(&self) -> View {
        self.shared.view()
    }

    /// The newest offset that is committed and applied here.
    pub(crate) fn visible(&self) -> &watch::Sender<Offset> {
        &self.shared.visible
    }

    /// Where what records put into the outbox is told.
    pub(crate) fn feeder(&self) -> &Arc<Feeder> {
        &self.shared.feeder
    }

    /// What it was at an offset and at those behind it, as far as that is remembered.
    pub(super) fn checkpoints(&self, since: Offset) -> Vec<Checkpoint> {
        self.shared.checkpoints.lock().since(since)
    }

    /// News of snapshots that have taken the place of the view.
    pub(crate) fn installed(&self) -> watch::Receiver<()> {
        self.shared.installed.subscribe()
    }

    /// Set, once, when something could not be applied or installed: this member then does nothing more.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }
}

impl Current {
    fn open(log: &Log, place: &Place, started: Offset) -> io::Result<Self> {
        let dir = place.views.join(started.to_string());
        let options = ViewOptions {
            group: log.group(),
            engine: place.engine,
            dir: dir.clone(),
            snapshots: place.snapshots.clone(),
            resources: place.resources.clone(),
        };
        let view = View::open_at(&options, started).map_err(io::Error::other)?;
        let applied = view.header().applied;
        if applied < started {
            return Err(invalid(format!(
                "the view in {} began at {started} but is at {applied}",
                dir.display()
            )));
        }
        Ok(Self { view, dir })
    }
}

impl Shared {
    fn view(&self) -> View {
        self.view.read().view.clone()
    }

    /// Lets an error be known to those who ask for the state of the partition, too.
    fn noting<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome {
            tracing::error!(group = %self.log.group(), %error, "the replica can apply nothing more");
            self.failure.send_if_modified(|failure| {
                let first = failure.is_none();
                failure.get_or_insert_with(|| error.to_string());
                first
            });
        }
        outcome
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
        let mut applied = Vec::with_capacity(committed.len());
        for part in committed.chunk_by(|before, _| !before.record.offset.0.is_multiple_of(GRID)) {
            applied.append(&mut view.apply(part).map_err(io::Error::other)?);
            self.checkpoints.lock().note(&view.header());
        }
        self.visible.send_replace(view.header().applied);
        drop(self.feeder.feed(&mut applied));
        Ok(applied)
    }

    /// Puts a snapshot in the place of the view, and of the log up to it.
    fn install(&self, through: LogId, files: &Path) -> io::Result<()> {
        let _alone = self.snapshots.lock();
        let at = offset(through.index);
        let (header, _) = self.check(through, files)?;
        // Asked again below; a log of which it cannot be told must not be found out after the note.
        self.log.leads_to(at, header.chain)?;
        self.log.begin_installing(at)?;
        fail::fail_point!("raft-install-noted", |_| Err(io::Error::other("a failpoint")));
        {
            let view = self.view();
            view.adopt_snapshot(files, at).map_err(io::Error::other)?;
            fail::fail_point!("raft-install-adopted", |_| Err(io::Error::other("a failpoint")));
            go_on_behind(&self.log, &view, at)?;
        }
        fail::fail_point!("raft-install-log", |_| Err(io::Error::other("a failpoint")));
        let next = Current::open(&self.log, &self.place, at)?;
        self.checkpoints.lock().note(&next.view.header());
        *self.view.write() = next;
        self.visible.send_replace(at);
        self.feeder.miss();
        fail::fail_point!("raft-install-view", |_| Err(io::Error::other("a failpoint")));
        self.log.installed()?;
        self.remove_old_views();
        self.installed.send_replace(());
        Ok(())
    }

    /// Whether files are those of the snapshot of this group that was meant.
    fn check(&self, through: LogId, files: &Path) -> io::Result<(Header, Option<Members>)> {
        let (header, members) = self.view().state_of_files(files).map_err(io::Error::other)?;
        let wanted = (self.log.group(), Some(through));
        if (header.group, types::log_id(header.term, header.applied)) != wanted {
            let Header { group, applied, term, .. } = header;
            let reason = format!(
                "the snapshot is of group {group} at record {applied} of term {term}, not of group {} at {through}",
                self.log.group()
            );
            return Err(invalid(reason));
        }
        Ok((header, members))
    }

    /// Not being able to is no failure: the next start tries again.
    fn remove_old_views(&self) {
        let current = self.view.read().dir.clone();
        let removed = std::fs::read_dir(&self.place.views).and_then(|mut views| {
            views.try_for_each(|view| {
                let path = view?.path();
                if path == current { Ok(()) } else { std::fs::remove_dir_all(path) }
            })
        });
        if let Err(error) = removed {
            tracing::warn!(group = %self.log.group(), %error, "an old view was not removed");
        }
    }

    fn snapshot(&self, at: Offset) -> io::Result<Snapshot> {
        let view = self.view();
        let dir = view.snapshot_dir(at);
        if at == Offset::ZERO {
            // openraft asks for one before anything is applied, and sends it nowhere.
            return Ok(Snapshot { meta: SnapshotMeta::default(), snapshot: SnapshotFiles { dir } });
        }
        described(view.snapshot_state(at).map_err(io::Error::other)?, dir)
    }
}

/// A snapshot with what it says of itself.
fn described((header, members): (Header, Option<Members>), dir: PathBuf) -> io::Result<Snapshot> {
    let (last_log_id, last_membership) = types::applied(&header, members.as_ref())?;
    let meta = SnapshotMeta { last_log_id, last_membership };
    Ok(Snapshot { meta, snapshot: SnapshotFiles { dir } })
}

/// Lets the log go on behind a snapshot among the view's own.
fn go_on_behind(log: &Log, view: &View, at: Offset) -> io::Result<()> {
    let (header, _) = view.snapshot_state(at).map_err(io::Error::other)?;
    let through = types::log_id(header.term, at).ok_or_else(|| invalid("a snapshot of nothing"))?;
    log.go_on_behind(through, header.chain)
}

/// Where the view began that is in use, of those in a directory: the one that began last.
pub(crate) fn newest(views: &Path) -> io::Result<Option<Offset>> {
    std::fs::create_dir_all(views)?;
    let mut newest = None;
    for entry in std::fs::read_dir(views)? {
        let name = entry?.file_name();
        // Other names are those of views that a crash left unfinished.
        newest = newest.max(name.to_str().and_then(|name| name.parse().ok()).map(Offset));
    }
    Ok(newest)
}

/// Entries and who waits for each of them.
type Batch = (Vec<Entry>, Vec<Option<ApplyResponder<Types>>>);

/// What is there already, behind a first entry, as far as one batch goes.
fn gather<S>(first: EntryResponder<Types>, entries: &mut S) -> io::Result<Batch>
where
    S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin,
{
    let mut bytes = 0;
    let mut batch = (Vec::new(), Vec::new());
    let mut next = Some(first);
    while let Some((entry, responder)) = next {
        bytes += match &entry.payload {
            EntryPayload::Normal(command) => command.encoded.len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        };
        batch.0.push(entry);
        batch.1.push(responder);
        let full = batch.0.len() >= APPLY_RECORDS || bytes >= APPLY_BYTES;
        next = if full { None } else { entries.next().now_or_never().flatten().transpose()? };
    }
    Ok(batch)
}

/// Makes a snapshot of what is applied.
pub(crate) struct Builder(Arc<Shared>);

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotFiles;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let shared = Arc::clone(&self.0);
        blocking(move || {
            let _alone = shared.snapshots.lock();
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

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let (entries, responders) = gather(first?, &mut entries)?;
            if let Some(last) = entries.last() {
                self.shared.log.durable(offset(last.log_id.index)).await?;
            }
            let shared = Arc::clone(&self.shared);
            let applied = blocking(move || shared.noting(shared.apply(entries))).await?;
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
        blocking(move || shared.noting(shared.install(through, &snapshot.dir))).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.view().snapshots().last().map(|at| shared.snapshot(*at)).transpose()).await
    }
}
