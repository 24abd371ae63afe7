//! Subscriptions: the events of some partitions merged into one stream.
//!
//! Each partition has a feed, a task that reads its log at the client's pace. Feeds share a few slots for batches, so
//! a subscription holds a bounded amount of memory whatever the number of its partitions, and a client that does not
//! read holds nothing back but its own feeds.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use odgm_log::{GroupId, Offset, Timestamp};
use odgm_proto::odgm::v1::subscribe_request::From as Begin;
use odgm_proto::odgm::v1::{SubscribeRequest, SubscribeResponse};
use odgm_replication::{Consistency, EventBatch, EventReader, Partition, StartPoint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ended;
use super::event::Selection;
use crate::cursor::Place;
use crate::identity::Kind;
use crate::services::{Shared, blocking};
use crate::status;

/// Batches of one subscription that are read or wait to be sent.
const BATCHES: usize = 2;

const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(1);
const MIN_HEARTBEAT_MS: u32 = 100;

/// The stream of one subscription. Dropping it ends its feeds.
pub(crate) struct Subscription {
    responses: mpsc::Receiver<Result<SubscribeResponse, Status>>,
    _feeds: JoinSet<()>,
    /// None where it is a part of one that has it.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Stream for Subscription {
    type Item = Result<SubscribeResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.responses.poll_recv(cx)
    }
}

/// Checks a request and starts its feeds.
pub(super) async fn open(
    shared: &Arc<Shared>,
    request: SubscribeRequest,
    permit: Option<OwnedSemaphorePermit>,
) -> Result<Subscription, Status> {
    let heartbeat = heartbeat(request.heartbeat_ms)?;
    let selection = Arc::new(Selection::checked(&shared.rules, request.filter, request.with_values)?);
    let partitions = partitions(shared, &request.cls_id, &request.partitions)?;
    check_start(request.from.as_ref(), partitions.len())?;
    let starts = starts(shared, request.from, &partitions)?;
    for (partition, start) in partitions.iter().zip(&starts) {
        if request.until_current || start.may_be_behind(partition) {
            let confirmed = partition.confirm(Consistency::Linearizable).await;
            confirmed.map_err(|error| status::from_read(&error))?;
        }
    }
    let opening = Arc::clone(shared);
    let readers = blocking(move || {
        let open = |(partition, start): (Arc<Partition>, Start)| {
            let reader = start.open(Arc::clone(&partition));
            Ok((reader.map_err(|status| opening.past(status, &partition))?, partition.head()))
        };
        partitions.into_iter().zip(starts).map(open).collect()
    });
    let readers: Vec<(EventReader, Offset)> = readers.await?;

    let (sender, responses) = mpsc::channel(BATCHES);
    let slots = Arc::new(Semaphore::new(BATCHES));
    let mut feeds = JoinSet::new();
    for (reader, head) in readers {
        let feed = Feed {
            partition: reader.partition().index(),
            group: reader.partition().group(),
            progress: reader.progress(),
            until: request.until_current.then_some(head),
            selection: Arc::clone(&selection),
            heartbeat,
            slots: Arc::clone(&slots),
            sender: sender.clone(),
        };
        feeds.spawn(feed.run(reader, shared.stop.clone()));
    }
    Ok(Subscription { responses, _feeds: feeds, _permit: permit })
}

fn heartbeat(millis: u32) -> Result<Duration, Status> {
    match millis {
        0 => Ok(DEFAULT_HEARTBEAT),
        MIN_HEARTBEAT_MS.. => Ok(Duration::from_millis(millis.into())),
        _ => Err(Status::invalid_argument(format!(
            "heartbeat_ms {millis}: expected at least {MIN_HEARTBEAT_MS}, or 0 for {}",
            DEFAULT_HEARTBEAT.as_millis()
        ))),
    }
}

fn partitions(shared: &Shared, class: &str, ids: &[u32]) -> Result<Vec<Arc<Partition>>, Status> {
    if ids.is_empty() {
        return shared.partitions(class, None);
    }
    let mut distinct = ids.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    distinct.into_iter().map(|id| shared.partition(class, id)).collect()
}

/// Where a feed begins.
enum Start {
    At(StartPoint),
    /// After a named cursor, which is looked up in the partition's view.
    Named(String),
}

impl Start {
    /// Whether another replica may have shown the client more than this one has applied.
    fn may_be_behind(&self, partition: &Partition) -> bool {
        match self {
            Self::At(StartPoint::Offset(offset)) => offset.previous() > partition.head(),
            Self::At(StartPoint::After(offset)) => *offset > partition.head(),
            Self::At(StartPoint::Earliest | StartPoint::Latest | StartPoint::Time(_)) => false,
            Self::Named(_) => true,
        }
    }

    fn open(self, partition: Arc<Partition>) -> Result<EventReader, Status> {
        let start = match self {
            Self::At(start) => start,
            Self::Named(name) => {
                let cursors = partition.view().cursors().map_err(|error| status::from_view(&error))?;
                let cursor = cursors.into_iter().find(|cursor| cursor.name == name);
                cursor.map_or(StartPoint::Earliest, |cursor| StartPoint::After(cursor.position))
            }
        };
        EventReader::open(partition, start).map_err(|error| ended(&error))
    }
}

/// Refuses a beginning that so many partitions cannot have.
pub(super) fn check_start(from: Option<&Begin>, partitions: usize) -> Result<(), Status> {
    match from {
        Some(Begin::Offset(_)) if partitions != 1 => Err(Status::invalid_argument(format!(
            "an offset is a place in one partition, and {partitions} are asked for: expected a single partition, or \
             earliest, latest, time_ms, cursors or named_cursor"
        ))),
        _ => Ok(()),
    }
}

fn starts(shared: &Shared, from: Option<Begin>, partitions: &[Arc<Partition>]) -> Result<Vec<Start>, Status> {
    let all = |start| partitions.iter().map(|_| Start::At(start)).collect();
    Ok(match from {
        None | Some(Begin::Latest(_)) => all(StartPoint::Latest),
        Some(Begin::Earliest(_)) => all(StartPoint::Earliest),
        Some(Begin::TimeMs(millis)) => all(StartPoint::Time(Timestamp::from_millis(millis))),
        Some(Begin::Offset(offset)) => all(StartPoint::Offset(Offset(offset))),
        Some(Begin::Cursors(cursors)) => {
            let groups: Vec<_> = partitions.iter().map(|partition| partition.group()).collect();
            let places = places(&cursors.cursors, &groups)?;
            let start = |partition: &Arc<Partition>| {
                places.get(&partition.group()).map_or(StartPoint::Earliest, |at| StartPoint::After(*at))
            };
            partitions.iter().map(|partition| Start::At(start(partition))).collect()
        }
        Some(Begin::NamedCursor(name)) => {
            let name = shared.rules.identity.check(Kind::Cursor, name)?;
            partitions.iter().map(|_| Start::Named(name.clone())).collect()
        }
    })
}

/// The place of each cursor, by group. Each has to be of one of the partitions, and no two of the same.
pub(super) fn places(
    cursors: &[impl AsRef<[u8]>],
    groups: &[GroupId],
) -> Result<HashMap<GroupId, Offset>, Status> {
    let mut places = HashMap::with_capacity(cursors.len());
    for cursor in cursors {
        let place = Place::decode(cursor.as_ref())?;
        if !groups.contains(&place.group) {
            return Err(Status::invalid_argument(format!(
                "a cursor is of group {}, which is none of the partitions asked for: expected cursors of these \
                 partitions",
                place.group
            )));
        }
        if places.insert(place.group, place.offset).is_some() {
            return Err(Status::invalid_argument("two cursors of the same partition: expected one of each"));
        }
    }
    Ok(places)
}

/// The way from one partition's log to the subscription.
struct Feed {
    partition: u32,
    group: GroupId,
    progress: Offset,
    /// Where the feed ends, if it does.
    until: Option<Offset>,
    selection: Arc<Selection>,
    heartbeat: Duration,
    slots: Arc<Semaphore>,
    sender: mpsc::Sender<Result<SubscribeResponse, Status>>,
}

/// Why a feed ends before its end.
enum End {
    /// The client has gone.
    Gone,
    /// The client has to be told.
    Failed(Status),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

impl Feed {
    async fn run(mut self, reader: EventReader, stop: CancellationToken) {
        let status = tokio::select! {
            biased;
            () = stop.cancelled() => status::unavailable("the node is stopping: go on from the last cursor"),
            fed = self.feed(reader) => match fed {
                Ok(()) | Err(End::Gone) => return,
                Err(End::Failed(status)) => status,
            },
        };
        // An error says that the client has gone.
        drop(self.sender.send(Err(status)).await);
    }

    /// Returns where the feed ends.
    async fn feed(&mut self, mut reader: EventReader) -> Result<(), End> {
        // Tells the client at once that the subscription stands, and from where.
        let head = reader.partition().head();
        self.send(EventBatch { events: Vec::new(), progress: self.progress, head }).await?;
        let mut last_sent = Instant::now();
        while self.until.is_none_or(|until| self.progress < until) {
            let ready = tokio::time::timeout_at(last_sent + self.heartbeat, reader.ready()).await;
            match ready {
                Ok(ready) => ready.map_err(|error| ended(&error))?,
                Err(_) => {
                    let head = reader.partition().head();
                    self.send(EventBatch { events: Vec::new(), progress: self.progress, head }).await?;
                    last_sent = Instant::now();
                    continue;
                }
            }
            // Held from reading to handing over: what waits in memory is bounded over all partitions.
            let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(status::internal)?;
            let (batch, returned) = blocking(move || {
                let batch = reader.read().map_err(|error| ended(&error))?;
                Ok((batch, reader))
            })
            .await?;
            reader = returned;
            let is_last = self.until.is_some_and(|until| batch.progress >= until);
            let is_due = last_sent.elapsed() >= self.heartbeat;
            if self.send_batch(batch, is_last || is_due).await? {
                last_sent = Instant::now();
            }
            drop(slot);
        }
        Ok(())
    }

    /// Sends what is wanted of a batch; if nothing is, then only if it `must` be sent.
    async fn send_batch(&mut self, mut batch: EventBatch, must: bool) -> Result<bool, End> {
        if let Some(until) = self.until {
            batch.events.retain(|event| event.change.offset <= until);
            batch.progress = batch.progress.min(until);
        }
        self.progress = batch.progress;
        let response = self.response(batch);
        if response.events.is_empty() && !must {
            return Ok(false);
        }
        self.sender.send(Ok(response)).await.map_err(|_| End::Gone)?;
        Ok(true)
    }

    async fn send(&self, batch: EventBatch) -> Result<(), End> {
        self.sender.send(Ok(self.response(batch))).await.map_err(|_| End::Gone)
    }

    fn response(&self, batch: EventBatch) -> SubscribeResponse {
        let events = batch.events.into_iter();
        let place = Place { group: self.group, offset: batch.progress };
        SubscribeResponse {
            partition_id: self.partition,
            events: events
                .filter_map(|e| self.selection.select(self.partition, e.change, e.payload))
                .collect(),
            cursor: place.encode().into(),
            progress_offset: batch.progress.get(),
            head_offset: batch.head.get(),
        }
    }
}
