//! Keeping no more of the logs than their collections ask for, and no more deletions than a partition remembers.
//!
//! Trimming is itself a record, so that every replica trims at the same place. The trim point is always the offset
//! of a kept snapshot, so that the state below it can be had. A round takes three steps, each safe to repeat: take
//! a snapshot when enough has been written since the newest; propose to trim up to the newest snapshot that the
//! policy and the cursors' leases allow; delete what is trimmed, after the view is durable beyond it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use odgm_log::body::{CollectTombstones, Trimmed};
use odgm_log::{Body, Cause, Offset, Payload, Timestamp};
use odgm_projections::limits::MAX_COLLECTED;
use odgm_projections::{Cursor, RecordSource};
use tokio_util::sync::CancellationToken;

use crate::definition::Retention;
use crate::limits::{PRUNE_ROWS, RETENTION_SNAPSHOTS};
use crate::manager::{Manager, blocking};
use crate::partition::Partition;

/// Why a round of retention did not end. It is tried again at the next.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    View(#[from] odgm_projections::Error),
    #[error(transparent)]
    Log(#[from] odgm_log::store::ReadError),
    #[error(transparent)]
    Trim(#[from] odgm_log::store::ChangeError),
    #[error(transparent)]
    Source(#[from] odgm_projections::SourceError),
    #[error(transparent)]
    Replica(#[from] std::io::Error),
    #[error(transparent)]
    Propose(#[from] crate::proposal::ProposeError),
}

/// Looks after every partition once per interval, until the node stops.
pub(crate) async fn run(manager: Weak<Manager>, interval: Duration, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let Some(manager) = manager.upgrade() else { return };
        for collection in manager.collections() {
            let retention = collection.definition().options.retention;
            for partition in collection.partitions().flatten() {
                if let Err(error) = round(&manager, &partition, retention).await {
                    tracing::warn!(group = %partition.group(), %error, "retention is tried again later");
                }
            }
        }
    }
}

/// One round of one partition. Only the leader decides what may go; every replica deletes it.
async fn round(manager: &Manager, partition: &Arc<Partition>, retention: Retention) -> Result<(), Error> {
    let leads = partition.leader() == Some(manager.node_id());
    if leads {
        forget_deletions(partition, manager.limits.tombstones).await?;
    }
    if retention.keeps_all() && partition.view().header().floor <= Offset(1) {
        return Ok(());
    }
    let looked = {
        let partition = Arc::clone(partition);
        blocking(move || {
            let now = Timestamp::now();
            take_snapshot(&partition, retention, now)?;
            // To know where to trim asks for a look at all calls that wait, and only a leader has to know.
            if leads { trim_below(&partition, retention, now) } else { Ok(None) }
        })
        .await?
    };
    if let Some(below) = looked {
        let body = Body::Trimmed(Trimmed { below });
        partition.propose(Payload { cause: Cause::default(), body }).await?;
    }
    let partition = Arc::clone(partition);
    blocking(move || delete_trimmed(&partition)).await
}

/// Forgets the oldest deletions beyond what a partition remembers.
pub(crate) async fn forget_deletions(partition: &Partition, most: u64) -> Result<(), Error> {
    let mut remembered = partition.view().header().tombstones;
    while remembered > most {
        // One record forgets a bounded number; what it did not forget, the next one will.
        let beyond = usize::try_from(remembered - most).unwrap_or(usize::MAX).min(MAX_COLLECTED);
        let Some(through) = partition.view().nth_oldest_tombstone(beyond - 1)? else { break };
        let body = Body::CollectTombstones(CollectTombstones { through });
        partition.propose(Payload { cause: Cause::default(), body }).await?;
        let left = partition.view().header().tombstones;
        if left >= remembered {
            break;
        }
        remembered = left;
    }
    Ok(())
}

/// Takes a snapshot if one is due.
fn take_snapshot(partition: &Partition, retention: Retention, now: Timestamp) -> Result<(), Error> {
    if snapshot_due(partition, retention, now)? {
        let offset = partition.snapshot()?;
        tracing::info!(class = partition.class(), partition = partition.index(), %offset, "took a snapshot");
    }
    Ok(())
}

/// Below which offset the log should be trimmed, if anywhere.
fn trim_below(partition: &Partition, retention: Retention, now: Timestamp) -> Result<Option<Offset>, Error> {
    let view = partition.view();
    let wanted = first_wanted(partition, retention, now)?;
    let mut below = wanted.min(held_back(&view.cursors()?, partition.head()));
    if below > view.header().floor
        && let Some(needed) = view.first_needed()?
    {
        // A call that waits is made with what its record says.
        below = below.min(needed);
    }
    let newest = view.snapshots().into_iter().filter(|snapshot| snapshot.next() <= below).max();
    Ok(newest.map(Offset::next).filter(|below| *below > view.header().floor))
}

/// The first offset that the policy wants to keep.
fn first_wanted(partition: &Partition, retention: Retention, now: Timestamp) -> Result<Offset, Error> {
    let mut first = Offset(1);
    if let Some(age) = retention.age {
        let oldest = Timestamp(now.0.saturating_sub(micros(age)));
        first = first.max(match partition.view().offset_at(oldest, &partition.records()) {
            Ok(newest_that_may_go) => newest_that_may_go.next(),
            // The size has trimmed more than the age asks for.
            Err(odgm_projections::Error::BelowFloor { first, .. }) => first,
            Err(error) => return Err(error.into()),
        });
    }
    if let Some(bytes) = retention.bytes {
        first = first.max(partition.log().first_within(partition.group(), bytes)?);
    }
    Ok(first)
}

/// The first offset that a lease still holds. A consumer that lags further than its lease allows holds nothing
/// beyond that: it will be told where it can go on.
fn held_back(cursors: &[Cursor], head: Offset) -> Offset {
    cursors
        .iter()
        .filter(|cursor| cursor.allowed_lag > 0)
        .map(|cursor| cursor.position.next().max(Offset(head.0.saturating_sub(cursor.allowed_lag).max(1))))
        .min()
        .unwrap_or(Offset(u64::MAX))
}

fn snapshot_due(partition: &Partition, retention: Retention, now: Timestamp) -> Result<bool, Error> {
    if retention.keeps_all() {
        return Ok(false);
    }
    let records = partition.records();
    let newest = partition.view().snapshots().into_iter().max().unwrap_or(Offset::ZERO);
    let since = newest.next().max(records.first());
    if since > records.last() {
        return Ok(false);
    }
    let old = match retention.age {
        Some(age) => {
            let written = records.get(since)?.stamp;
            now.0.saturating_sub(written.0) >= micros(age / RETENTION_SNAPSHOTS)
        }
        None => false,
    };
    let large = match retention.bytes {
        Some(bytes) => {
            let share = bytes / u64::from(RETENTION_SNAPSHOTS);
            partition.log().first_within(partition.group(), share)? > since
        }
        None => false,
    };
    Ok(old || large)
}

/// Deletes the records below the floor that apply has noted, and what belongs to them; as far as a snapshot of this
/// replica has what they say.
pub(crate) fn delete_trimmed(partition: &Partition) -> Result<(), Error> {
    let view = partition.view();
    let floor = view.header().floor;
    let snapshots = view.snapshots();
    let first = partition.bounds().first;
    let Some(snapshot) = snapshots.into_iter().filter(|snapshot| snapshot.next() <= floor).max() else {
        return Ok(());
    };
    if first >= snapshot.next() {
        return Ok(());
    }
    // The log below may only go when the view no longer needs it after a crash.
    if view.flush()? < floor {
        return Ok(());
    }
    if partition.release(snapshot.next())? < snapshot.next() {
        return Ok(());
    }
    partition.log().trim(partition.group(), snapshot.next())?;
    view.drop_snapshots_below(snapshot)?;
    while view.prune(PRUNE_ROWS)? == PRUNE_ROWS {}
    tracing::info!(class = partition.class(), partition = partition.index(), %floor, "trimmed the log");
    Ok(())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use odgm_log::body::calls::{Attempt, Finished, RowKey, Source};
    use odgm_log::body::{Delete, Invoke, Outcome, SetValues, Value};
    use odgm_projections::{Moment, OutboxRow, Outcome as Became};
    use odgm_proto::oprc::CreateCollectionRequest;

    use super::*;
    use crate::definition::Definition;
    use crate::manager::Options;

    /// A node with one partition, whose rounds of retention are too far apart to be met.
    async fn node(dir: &Path) -> (Arc<Manager>, Arc<Partition>) {
        let mut options = Options::new(dir);
        options.retention_interval = Duration::from_secs(3_600);
        let manager = Manager::open(options).await.expect("the node starts");
        let wire = CreateCollectionRequest { name: "c".into(), ..Default::default() };
        let definition = Definition::from_wire(wire).expect("valid");
        manager.create_collection(definition).await.expect("created");
        let partition = manager.partition("c", 0).expect("in service");
        (manager, partition)
    }

    fn first_waiting(partition: &Partition) -> (RowKey, OutboxRow) {
        let rows = partition.view().outbox(RowKey::default(), Timestamp(u64::MAX), 1);
        rows.expect("readable").remove(0)
    }

    fn cursor(position: u64, allowed_lag: u64) -> Cursor {
        Cursor { name: "c".into(), position: Offset(position), allowed_lag, moved: Moment::default() }
    }

    #[test]
    fn a_lease_holds_back_at_most_its_lag() {
        let head = Offset(1_000);
        assert_eq!(held_back(&[], head), Offset(u64::MAX), "nobody holds");
        assert_eq!(
            held_back(&[cursor(10, 0)], head),
            Offset(u64::MAX),
            "a cursor without lease holds nothing"
        );
        assert_eq!(held_back(&[cursor(900, 500)], head), Offset(901), "within its lag: all it has not seen");
        assert_eq!(held_back(&[cursor(10, 500)], head), Offset(500), "beyond its lag the lease breaks");
        assert_eq!(
            held_back(&[cursor(900, 500), cursor(10, 200)], head),
            Offset(800),
            "the furthest back counts"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_age_is_satisfied_where_the_size_has_trimmed_more() {
        let dir = tempfile::tempdir().expect("a folder");
        let (manager, partition) = node(dir.path()).await;
        let trim = |below| Payload { cause: Cause::default(), body: Body::Trimmed(Trimmed { below }) };
        for below in 1..=5 {
            partition.propose(trim(Offset(below))).await.expect("written");
        }
        assert_eq!(partition.view().header().floor, Offset(5));

        let retention = Retention { age: Some(Duration::from_secs(3_600)), bytes: Some(1 << 30) };
        let now = Timestamp::now();
        assert_eq!(first_wanted(&partition, retention, now).expect("known"), Offset(5));
        take_snapshot(&partition, retention, now).expect("taken where one is due");
        let below = trim_below(&partition, retention, now).expect("looked");
        assert_eq!(below, None, "there is nothing more to trim");
        manager.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_record_of_a_call_that_waits_is_kept_as_long_as_it_waits() {
        let dir = tempfile::tempdir().expect("a folder");
        let (manager, partition) = node(dir.path()).await;
        let propose = async |body| {
            let payload = Payload { cause: Cause::default(), body };
            partition.propose(payload).await.expect("written")
        };
        let invoke = Invoke { invocation: "i".into(), function: "f".into(), ..Invoke::default() };
        let call = propose(Body::Invoke(invoke)).await.offset;
        partition.snapshot().expect("a snapshot");
        propose(Body::Delete(Delete { object: "o".into() })).await;
        let last = partition.snapshot().expect("another one");
        assert!(last > call);

        // It keeps nothing that was written before the moment at which it looks.
        let retention = Retention { age: Some(Duration::ZERO), bytes: None };
        let later = Timestamp(Timestamp::now().0 + micros(Duration::from_secs(60)));
        let below = || trim_below(&partition, retention, later).expect("looked");
        assert_eq!(below(), None, "no snapshot is before the call");

        let (row, _) = first_waiting(&partition);
        let source = Source::Outbox(Attempt { row, generation: 0, attempt: 0 });
        let (invocation, function, finished) = ("i".into(), "f".into(), Finished::default());
        let ended = propose(Body::Outcome(Outcome { source, invocation, object: None, function, finished }));
        assert_eq!(ended.await.outcome, Became::Noted);
        assert_eq!(below(), Some(last.next()), "nothing needs it any more");
        manager.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_as_many_deletions_are_forgotten_as_are_too_many() {
        let dir = tempfile::tempdir().expect("a folder");
        let (manager, partition) = node(dir.path()).await;
        for n in 0..5 {
            let object = format!("o{n}");
            let put = SetValues {
                object: object.clone(),
                puts: vec![("k".into(), Value::bytes("v"))],
                deletes: Vec::new(),
                expected_version: None,
            };
            for body in [Body::SetValues(put), Body::Delete(Delete { object })] {
                partition.propose(Payload { cause: Cause::default(), body }).await.expect("written");
            }
        }
        for (most, left) in [(9, 5), (4, 4), (1, 1), (0, 0)] {
            forget_deletions(&partition, most).await.expect("forgotten");
            assert_eq!(partition.view().header().tombstones, left);
        }
        manager.shutdown().await;
    }
}
