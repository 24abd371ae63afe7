//! Backups: a partition as a bundle, while it goes on serving.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use odgm_log::store::{ReadError, ReadLimit};
use odgm_log::{Hash, Offset};
use odgm_projections::storage;

use crate::bundle::{Begin, BundleError, Writer};
use crate::manager::Manager;
use crate::partition::Partition;
use crate::pieces::Outgoing;

/// Records that are read at once.
const CHUNK: ReadLimit = ReadLimit { records: 4_096, bytes: 4 << 20 };

/// What a record needs in a bundle beside its payload, in bytes.
const RECORD_OVERHEAD: u64 = 54;

/// How often the snapshot before the first record is looked for, which retention may put in another's place meanwhile.
const ATTEMPTS: usize = 3;

/// Why a partition was not backed up. What was written of the bundle is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// This replica is not a whole copy.
    #[error(
        "this replica came back through a snapshot and still fetches the records from {kept} on: back up another \
         replica, or this one later"
    )]
    Missing {
        /// The first record that the partition keeps.
        kept: Offset,
    },
    /// Without records, those would be missing that say what is to be called.
    #[error(
        "{calls} calls wait for their functions, and what they are to be called with is in their records: back up with the \
         log, or again when none waits (odgm calls)"
    )]
    Waiting {
        /// How many.
        calls: u64,
    },
    /// Retention has deleted what was to be read.
    #[error("records were trimmed while they were read: back it up again")]
    Trimmed,
    /// The log cannot be read.
    #[error(transparent)]
    Log(ReadError),
    /// The view cannot be read.
    #[error(transparent)]
    View(#[from] odgm_projections::Error),
    /// The bundle cannot be written, or files of the snapshot cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

impl From<std::io::Error> for BackupError {
    fn from(error: std::io::Error) -> Self {
        Self::Bundle(error.into())
    }
}

impl Manager {
    /// Writes the state of a partition as it is now, and with `with_log` the records that are kept up to it. What was
    /// acknowledged before is in it if reads of the partition are confirmed before. Without records it is refused while calls
    /// wait. Blocks.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn back_up(
        &self,
        partition: &Partition,
        with_log: bool,
        out: &mut dyn Write,
    ) -> Result<Begin, BackupError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if with_log && let Some(kept) = partition.missing_from() {
            return Err(BackupError::Missing { kept });
        }
        let folder = format!("backup-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = self.opener.data.scratch_folder(&folder)?;
        let (first, base) =
            if with_log { pin_base(partition, folder.path())? } else { (Offset(u64::MAX), None) };
        let head = folder.path().join("head");
        let header = partition.view().snapshot_to(&head)?;
        let calls = header.calls.outbox_rows;
        if !with_log && calls > 0 {
            return Err(BackupError::Waiting { calls });
        }
        let first = first.min(header.applied.next());
        let (log, group) = (partition.log(), partition.group());
        let before = log.chain_at(group, first.previous()).map_err(trimmed)?;
        let head = Outgoing::open(&head)?;
        let base = base.map(|dir| Outgoing::open(&dir)).transpose()?;
        let begin = Begin {
            group,
            offset: header.applied,
            term: header.term,
            time: header.time,
            chain: header.chain,
            state: header.state,
            first,
            before,
            expected: head.bytes()
                + base.as_ref().map_or(0, Outgoing::bytes)
                + if with_log { self.log_bytes(partition, first) } else { 0 },
            names_calls: header.calls.has_named,
        };
        let mut writer = Writer::begin(out, &begin)?;
        let reached = write_records(partition, &begin, &mut writer)?;
        if reached != begin.chain {
            let damaged = "the view was made from other records than those in the log: verify both";
            return Err(std::io::Error::other(damaged).into());
        }
        if let Some(base) = base {
            writer.snapshot(first.previous(), base)?;
        }
        writer.snapshot(begin.offset, head)?;
        writer.end()?;
        Ok(begin)
    }

    /// About how many bytes the records of a partition need in a bundle.
    fn log_bytes(&self, partition: &Partition, first: Offset) -> u64 {
        let records = partition.head().0.saturating_sub(first.previous().0);
        self.log().payload_bytes(partition.group()) + records * RECORD_OVERHEAD
    }
}

/// The first record, and the snapshot before it, kept from being deleted; none where the log begins with the first of all.
fn pin_base(
    partition: &Partition,
    folder: &std::path::Path,
) -> Result<(Offset, Option<PathBuf>), BackupError> {
    for attempt in 0..ATTEMPTS {
        let first = partition.bounds().first;
        let view = partition.view();
        if first <= Offset(1) || !view.snapshots().contains(&first.previous()) {
            return Ok((first, None));
        }
        let base = folder.join(format!("base-{attempt}"));
        match storage::restore(&view.snapshot_dir(first.previous()), &base) {
            Ok(()) => return Ok((first, Some(base))),
            // Its place was taken by a later one.
            Err(_) if partition.bounds().first != first => {}
            Err(error) => return Err(odgm_projections::Error::from(error).into()),
        }
    }
    Err(BackupError::Trimmed)
}

/// Writes all records from the first one on, up to the snapshot; answers the chain that they lead to.
fn write_records(
    partition: &Partition,
    begin: &Begin,
    writer: &mut Writer<&mut dyn Write>,
) -> Result<Hash, BackupError> {
    let mut next = begin.first;
    let mut chain = begin.before;
    while next <= begin.offset {
        let mut records = partition.log().read(partition.group(), next, CHUNK).map_err(trimmed)?;
        records.truncate(records.partition_point(|record| record.offset <= begin.offset));
        chain = records.iter().fold(chain, odgm_log::chain::link);
        next = records.last().map_or(next, |record| record.offset.next());
        writer.records(&records)?;
    }
    Ok(chain)
}

fn trimmed(error: ReadError) -> BackupError {
    match error {
        ReadError::BelowFloor { .. } => BackupError::Trimmed,
        error => BackupError::Log(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::path::Path;
    use std::sync::Arc;

    use odgm_log::body::calls::{Attempt, Finished, RowKey, Source};
    use odgm_log::body::{Invoke, Outcome};
    use odgm_log::{Body, Cause, Payload, Timestamp};
    use odgm_proto::oprc::CreateCollectionRequest;

    use super::*;
    use crate::definition::Definition;
    use crate::manager::Options;
    use crate::restoring::RestoreError;

    async fn node(dir: &Path) -> Arc<Manager> {
        Manager::open(Options::new(dir)).await.expect("the node starts")
    }

    fn definition() -> Definition {
        Definition::from_wire(CreateCollectionRequest { name: "c".into(), ..Default::default() })
            .expect("valid")
    }

    async fn propose(partition: &Partition, body: Body) {
        partition.propose(Payload { cause: Cause::default(), body }).await.expect("written");
    }

    /// A call that nobody makes here, so that it waits.
    async fn accept_call(partition: &Partition) {
        let invoke = Invoke { invocation: "i".into(), function: "f".into(), ..Invoke::default() };
        propose(partition, Body::Invoke(invoke)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_records_are_left_out_while_calls_wait_that_need_them() {
        let dir = tempfile::tempdir().expect("a folder");
        let manager = node(dir.path()).await;
        manager.create_collection(definition()).await.expect("created");
        let partition = manager.partition("c", 0).expect("in service");
        let begin = manager.back_up(&partition, false, &mut Vec::new()).expect("none waits");
        assert!(!begin.names_calls);
        accept_call(&partition).await;
        let refused = manager.back_up(&partition, false, &mut Vec::new()).expect_err("one waits");
        assert!(matches!(refused, BackupError::Waiting { calls: 1 }), "{refused}");
        manager.back_up(&partition, true, &mut Vec::new()).expect("its record is there, too");

        let rows = partition.view().outbox(RowKey::default(), Timestamp(u64::MAX), 1);
        let (row, _) = rows.expect("readable").remove(0);
        let source = Source::Outbox(Attempt { row, generation: 0, attempt: 0 });
        let (invocation, function, finished) = ("i".into(), "f".into(), Finished::default());
        propose(&partition, Body::Outcome(Outcome { source, invocation, object: None, function, finished }))
            .await;
        let begin = manager.back_up(&partition, false, &mut Vec::new()).expect("none waits any more");
        assert!(begin.names_calls, "others may know it");
        manager.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_has_named_calls_goes_on_under_another_group() {
        let (dir, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let manager = node(dir.path()).await;
        manager.create_collection(definition()).await.expect("created");
        let partition = manager.partition("c", 0).expect("in service");
        accept_call(&partition).await;
        let mut bundle = Vec::new();
        let begin = manager.back_up(&partition, true, &mut bundle).expect("backed up");
        manager.shutdown().await;

        let manager = node(other.path()).await;
        let refused = manager.restore(definition(), vec![begin.group], Cursor::new(bundle.clone())).await;
        let refused = refused.err().expect("offsets would be given out again under names that are known");
        assert!(matches!(refused, RestoreError::SameGroup { partition: 0, .. }), "{refused}");
        let restored =
            manager.restore(definition(), Vec::new(), Cursor::new(bundle)).await.expect("restored");
        assert!(!restored.same_groups);
        let partition = manager.partition("c", 0).expect("in service");
        assert_ne!(partition.group(), begin.group);
        let header = partition.view().header();
        assert_eq!((header.state, header.calls.outbox_rows), (begin.state, 1), "the call waits still");
        manager.shutdown().await;
    }
}
