//! What was given up: listed, looked at, tried again, dropped.

use std::ops::ControlFlow;
use std::sync::Arc;

use odgm_log::body::calls::{Discard, Place, Redrive};
use odgm_log::body::{Cause, Parent};
use odgm_log::{Body, Offset, Payload};
use odgm_projections::Letter;
use odgm_proto::odgm::v1::{
    DiscardRequest, DiscardResponse, GetDeadLetterRequest, GetDeadLetterResponse, LetterId,
    ListDeadLettersRequest, ListDeadLettersResponse, RedriveRequest, RedriveResponse,
};
use odgm_replication::{Consistency, Partition};
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::pages::each_letter;
use super::trace;
use crate::convert::calls::{dead_letter, place};
use crate::request;
use crate::services::function::known;
use crate::services::relay::onward;
use crate::services::{PATIENCE, Shared, blocking, list};
use crate::status;

/// Dead letters that one record tries again or drops; more take several records. Applying it writes what they hold once more, up
/// to the largest payload of a record each.
const LETTERS_PER_RECORD: usize = 32;

/// Why a record leaves some of its dead letters what they are.
const NO_ROOM: &str = "the partition's outbox has no room for the others: wait until calls are settled, or see why they are not \
     (odgm calls)";

/// Why the others are not tried again though there is room.
fn unknown_payloads(letters: u64) -> String {
    format!(
        "{letters} cannot be tried again, as nobody knows any more what they are called with: discard them"
    )
}

/// The longest reason for dropping dead letters, in bytes.
const REASON_BYTES: usize = 1_024;

/// The dead letters of a collection, partition after partition.
pub(super) async fn list(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: ListDeadLettersRequest,
) -> Result<ListDeadLettersResponse, Status> {
    let limit = list::limit(request.limit);
    if request.after.is_some() && request.partition_id.is_none() {
        return Err(Status::invalid_argument(
            "after is the place of a dead letter in one partition: expected a partition_id with it",
        ));
    }
    let mut all = ListDeadLettersResponse::default();
    for id in shared.indexes(&request.cls_id, request.partition_id)? {
        // Of what is beyond the limit, one is enough to know that there is more.
        let room = limit - all.letters.len();
        let asked = u32::try_from(room.max(1)).unwrap_or(u32::MAX);
        let of_one = match shared.elsewhere(metadata, &request.cls_id, id) {
            Some(nodes) => {
                let way = shared.way(&nodes).await?;
                let asked =
                    ListDeadLettersRequest { partition_id: Some(id), limit: asked, ..request.clone() };
                way.heed(way.calls().list_dead_letters(onward(metadata, asked)).await)?.into_inner()
            }
            None => {
                let partition = shared.readable(metadata, &request.cls_id, id).await?;
                let after = request.after.map(place);
                blocking(move || of_partition(&partition, after, room.max(1))).await?
            }
        };
        all.more = of_one.more || of_one.letters.len() > room;
        all.letters.extend(of_one.letters.into_iter().take(room));
        if all.more {
            break;
        }
    }
    Ok(all)
}

fn of_partition(
    partition: &Partition,
    after: Option<Place>,
    limit: usize,
) -> Result<ListDeadLettersResponse, Status> {
    let (index, group) = (partition.index(), partition.group());
    let mut letters = Vec::new();
    // One more than asked for tells whether there are more.
    each_letter(&partition.view(), after, |at, letter| {
        letters.push(dead_letter(index, group, at, letter));
        if letters.len() > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    Ok(ListDeadLettersResponse { letters, more })
}

/// One dead letter with what led to it.
pub(super) async fn get(
    shared: &Arc<Shared>,
    metadata: &MetadataMap,
    request: &GetDeadLetterRequest,
) -> Result<GetDeadLetterResponse, Status> {
    let at = request.id.ok_or_else(|| Status::invalid_argument("id required: expected offset and index"))?;
    let at = place(at);
    let partition = shared.readable(metadata, &request.cls_id, request.partition_id).await?;
    let read = Arc::clone(&partition);
    let letter = blocking(move || {
        let found = read.view().dead_letter(at).map_err(|error| status::from_view(&error))?;
        found.ok_or_else(|| unknown(&read, at))
    })
    .await?;
    let (asked_for_by, payload) = match &letter.letter {
        Letter::Call(row) => {
            let cause = Parent { group: partition.group(), origin: row.origin, offset: at.offset };
            (cause, row.payload.clone().unwrap_or_default())
        }
        Letter::Delivery(row) => {
            let cause = Parent { group: partition.group(), origin: row.origin, offset: row.call.offset };
            (cause, row.finished.payload.clone())
        }
    };
    let causes = trace::causes(shared, metadata, asked_for_by).await;
    let letter = dead_letter(partition.index(), partition.group(), at, letter);
    Ok(GetDeadLetterResponse { letter: Some(letter), payload: payload.0, causes })
}

fn unknown(partition: &Partition, at: Place) -> Status {
    let (class, index) = (partition.class(), partition.index());
    Status::not_found(format!("partition {class}/{index} has no dead letter {}/{}", at.offset, at.index))
}

/// Has dead letters tried again: those for which there is room.
pub(super) async fn redrive(
    shared: &Shared,
    metadata: &MetadataMap,
    request: RedriveRequest,
) -> Result<RedriveResponse, Status> {
    let RedriveRequest { cls_id, partition_id, letters, all } = request;
    let change = Change { shared, metadata, body: &|letters| Body::Redrive(Redrive { letters }) };
    let Changed { count, refused, .. } = change.make(&cls_id, partition_id, letters, all).await?;
    Ok(RedriveResponse { redriven: count, refused })
}

/// Drops dead letters.
pub(super) async fn discard(
    shared: &Shared,
    metadata: &MetadataMap,
    request: DiscardRequest,
) -> Result<DiscardResponse, Status> {
    let DiscardRequest { cls_id, partition_id, letters, reason, all } = request;
    if reason.len() > REASON_BYTES {
        let found = reason.len();
        return Err(Status::invalid_argument(format!(
            "reason of {found} bytes: expected at most {REASON_BYTES}"
        )));
    }
    let reason = if reason.is_empty() { "discarded by request".to_owned() } else { reason };
    let body = |letters| Body::Discard(Discard { letters, reason: reason.clone() });
    let change = Change { shared, metadata, body: &body };
    let Changed { count, refused, .. } = change.make(&cls_id, partition_id, letters, all).await?;
    Ok(DiscardResponse { discarded: count, refused })
}

/// The next dead letters that were there at `head`, as many as one record takes.
fn meant(partition: &Partition, after: Option<Place>, head: Offset) -> Result<Vec<Place>, Status> {
    let mut meant = Vec::new();
    each_letter(&partition.view(), after, |at, letter| {
        if letter.died.offset <= head {
            meant.push(at);
        }
        let is_enough = meant.len() == LETTERS_PER_RECORD || at.offset > head;
        if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(meant)
}

/// What is done to dead letters, in as many records as it takes.
struct Change<'a> {
    shared: &'a Shared,
    metadata: &'a MetadataMap,
    body: &'a (dyn Fn(Vec<Place>) -> Body + Sync),
}

/// What has been done so far.
#[derive(Default)]
struct Changed {
    count: u64,
    /// Those of them that stay what they are, whatever is done.
    hopeless: u64,
    /// Why it was not done to the others; empty: there are no others.
    refused: String,
}

/// What one record has done.
struct Done {
    /// To so many.
    count: u64,
    /// To so many others nothing can be done.
    hopeless: u64,
}

impl Changed {
    /// Adds what came of one more record, of so many letters; whether there may be more records. A refusal is the answer only
    /// where nothing was done before it: it says that nothing was applied.
    fn add(&mut self, done: Result<Done, Status>, letters: usize) -> Result<ControlFlow<()>, Status> {
        match done {
            Ok(Done { count, hopeless }) => {
                self.count += count;
                self.hopeless += hopeless;
                if count + hopeless == letters as u64 {
                    return Ok(ControlFlow::Continue(()));
                }
                NO_ROOM.clone_into(&mut self.refused);
            }
            Err(status) if self.count == 0 => return Err(status),
            Err(status) => status.message().clone_into(&mut self.refused),
        }
        Ok(ControlFlow::Break(()))
    }

    /// With all that is to be said.
    fn told(mut self) -> Self {
        if self.hopeless > 0 {
            let said = unknown_payloads(self.hopeless);
            self.refused = if self.refused.is_empty() { said } else { format!("{said}; {}", self.refused) };
        }
        self
    }
}

impl Change<'_> {
    /// Does it to those that are named, or to all that there are at the moment.
    async fn make(
        &self,
        class: &str,
        partition: u32,
        letters: Vec<LetterId>,
        all: bool,
    ) -> Result<Changed, Status> {
        let cause = request::cause(self.metadata)?;
        if letters.is_empty() != all {
            return Err(Status::invalid_argument(
                "expected the ids of dead letters in letters; or none there, and all, for all that there are",
            ));
        }
        let partition = self.shared.partition(class, partition)?;
        // Those that were told of are seen here, too.
        self.shared.confirm(&partition, Consistency::Linearizable, PATIENCE).await?;
        if all {
            return self.make_of_all(&partition, cause).await.map(Changed::told);
        }
        let mut named: Vec<Place> = letters.into_iter().map(place).collect();
        named.sort_unstable();
        named.dedup();
        self.make_of_named(&partition, &cause, named).await.map(Changed::told)
    }

    async fn make_of_named(
        &self,
        partition: &Arc<Partition>,
        cause: &Cause,
        named: Vec<Place>,
    ) -> Result<Changed, Status> {
        let (checked, id) = (Arc::clone(partition), cause.request_id.clone());
        let named = blocking(move || {
            // What was asked for before is answered as it was then, though the letters have gone since.
            let is_known = id.map(|id| known(&checked, &id)).transpose()?.flatten().is_some();
            let unchecked = if is_known { named.len() } else { 0 };
            for at in &named[unchecked..] {
                let found = checked.view().dead_letter(*at).map_err(|error| status::from_view(&error))?;
                found.ok_or_else(|| unknown(&checked, *at))?;
            }
            Ok(named)
        })
        .await?;
        let mut changed = Changed::default();
        for (number, some) in named.chunks(LETTERS_PER_RECORD).enumerate() {
            let request_id = cause.request_id.as_ref().map(|id| id_of_part(id, number));
            let cause = Cause { request_id, ..cause.clone() };
            let done = self.propose(partition, &cause, some.to_vec()).await;
            if changed.add(done, some.len())?.is_break() {
                break;
            }
        }
        Ok(changed)
    }

    async fn make_of_all(&self, partition: &Arc<Partition>, cause: Cause) -> Result<Changed, Status> {
        // Which there are is not what was asked for, so asked again it would be another request of the same id.
        let cause = Cause { request_id: None, ..cause };
        // Those that come meanwhile are not meant: what is tried again may come back.
        let head = partition.head();
        let (mut changed, mut after) = (Changed::default(), None);
        loop {
            let read_from = Arc::clone(partition);
            let some = blocking(move || meant(&read_from, after, head)).await?;
            after = some.last().copied();
            let (letters, is_last) = (some.len(), some.len() < LETTERS_PER_RECORD);
            if letters > 0 {
                let done = self.propose(partition, &cause, some).await;
                if changed.add(done, letters)?.is_break() {
                    return Ok(changed);
                }
            }
            if is_last {
                return Ok(changed);
            }
        }
    }

    /// Makes it a record; what that has done.
    async fn propose(
        &self,
        partition: &Arc<Partition>,
        cause: &Cause,
        letters: Vec<Place>,
    ) -> Result<Done, Status> {
        let payload = Payload { cause: cause.clone(), body: (self.body)(letters.clone()) };
        let within = request::timeout(self.metadata.as_ref()).unwrap_or(PATIENCE);
        let written = self.shared.answer(partition.propose_within(payload, within).await, false)?;
        let offset = written.offset;
        // The leader has applied it; this replica may still be about to.
        partition.applied(offset).await.map_err(|error| status::applied(offset, &error))?;
        let partition = Arc::clone(partition);
        blocking(move || {
            let (mut done, floor) = (Done { count: 0, hopeless: 0 }, partition.view().header().floor);
            for at in letters {
                let found =
                    partition.view().dead_letter(at).map_err(|error| status::applied(offset, &error))?;
                match found.map(|letter| (letter.died.offset > offset, letter.letter)) {
                    // Its payload is neither here nor in a record.
                    Some((false, Letter::Call(row))) if row.payload.is_none() && at.offset < floor => {
                        done.hopeless += 1;
                    }
                    Some((false, _)) => {}
                    // One that was tried again may be back already.
                    Some((true, _)) | None => done.count += 1,
                }
            }
            Ok(done)
        })
        .await
    }
}

/// The request id of one of the records that a request takes: an id stands for one record.
fn id_of_part(id: &str, number: usize) -> String {
    if number == 0 {
        return id.to_owned();
    }
    let mut hasher = blake3::Hasher::new_derive_key("odgm 2025 part of a request for dead letters");
    hasher.update(&(number as u64).to_be_bytes()).update(id.as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_cannot_be_tried_again_are_told_of_and_are_not_in_the_way_of_others() {
        let mut changed = Changed::default();
        let done = |count, hopeless| Ok(Done { count, hopeless });
        let goes_on = ControlFlow::Continue(());
        assert_eq!(changed.add(done(0, 32), 32).expect("applied"), goes_on);
        assert_eq!(changed.add(done(31, 1), 32).expect("applied"), goes_on);
        assert_eq!(changed.add(done(3, 0), 4).expect("applied"), ControlFlow::Break(()), "there was no room");
        let Changed { count, refused, .. } = changed.told();
        assert_eq!((count, refused), (34, format!("{}; {NO_ROOM}", unknown_payloads(33))));
    }
}
