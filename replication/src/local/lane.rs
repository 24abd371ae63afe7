//! What one partition has on its way: queued proposals, and batches that wait for the disk.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use odgm_log::store::{AppendError, SyncError};
use odgm_log::{Offset, Record, Term, Timestamp};
use odgm_projections::Committed;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::limits::{COMPANY_LATELY, COMPANY_PATIENCE, Limits};
use crate::proposal::{Admission, Answer, Proposal, ProposeError, Reply};
use crate::replica::Replica;

/// Appends that may wait for the disk at once. While one is being synced the next proposals gather, so that a
/// second append in flight would only make batches smaller.
const APPENDS_IN_FLIGHT: usize = 1;

/// So many records are applied by the worker itself, and so many answers given: a switch of threads costs more. One who
/// writes alone has beside each write what became of the calls that those before asked for.
pub(super) const FEW: usize = 3;

/// One partition as proposers see it.
pub(super) struct Lane {
    pub(super) replica: Replica,
    limits: Limits,
    /// Where those who propose wait.
    runtime: Handle,
    /// Whoever counts the partitions in service is told here when this one fails.
    failures: watch::Sender<()>,
    failed: AtomicBool,
    inbox: Mutex<Inbox>,
    /// Whether the worker has been told, or has work in flight after which it looks again by itself. Spares a
    /// wake-up for every proposal that arrives while the disk is busy.
    awake: AtomicBool,
    /// Appends that the applier has and has not applied.
    applying: AtomicUsize,
}

#[derive(Default)]
struct Inbox {
    queued: VecDeque<Proposal>,
    /// How many of those somebody is answered by.
    urgent: usize,
    /// When the last of those came that somebody is answered by.
    last_urgent: Option<Instant>,
    /// Until when the others wait for company.
    patient_until: Option<Instant>,
    closed: Option<ProposeError>,
}

/// What there is to append.
enum Batch {
    Nothing,
    /// Nothing that anybody is answered by; it waits for company until then.
    Later(Instant),
    Ready(Vec<Proposal>),
}

/// What the worker keeps of a lane; nobody else touches it.
#[derive(Default)]
pub(super) struct InFlight {
    appends: VecDeque<Append>,
}

/// Records that are in the log, but perhaps not on the disk.
pub(super) struct Append {
    last: Offset,
    committed: Vec<Committed>,
    waiting: Vec<(Reply, Admission)>,
    /// How many of them somebody is answered by.
    urgent: usize,
}

impl Lane {
    pub(super) fn new(
        replica: Replica,
        limits: Limits,
        runtime: Handle,
        failures: watch::Sender<()>,
    ) -> Arc<Self> {
        Arc::new(Self {
            replica,
            limits,
            runtime,
            failures,
            failed: AtomicBool::new(false),
            inbox: Mutex::default(),
            awake: AtomicBool::new(false),
            applying: AtomicUsize::new(0),
        })
    }

    /// Queues a proposal. Returns whether the worker must be told.
    pub(super) fn push(&self, proposal: Proposal) -> bool {
        {
            let mut inbox = self.inbox.lock();
            if let Some(error) = &inbox.closed {
                let error = error.clone();
                drop(inbox);
                proposal.reply.send(Err(error));
                return false;
            }
            let has_timer = inbox.patient_until.is_some();
            let is_urgent = inbox.push(proposal);
            if has_timer && !is_urgent {
                // The worker looks when the first of them has waited for long enough.
                return false;
            }
        }
        !self.awake.swap(true, Ordering::AcqRel)
    }

    /// Refuses all proposals from now on; those in the queue are still worked on.
    pub(super) fn close(&self, error: ProposeError) {
        self.inbox.lock().closed.get_or_insert(error);
    }

    /// Why proposals are refused.
    pub(super) fn closed(&self) -> Option<ProposeError> {
        self.inbox.lock().closed.clone()
    }

    /// Refuses all proposals from now on, and those in the queue too.
    pub(super) fn fail(&self, error: &ProposeError) {
        let queued = {
            let mut inbox = self.inbox.lock();
            // What failed first is the cause of what fails after it.
            if !self.failed.swap(true, Ordering::AcqRel) {
                inbox.closed = Some(error.clone());
                self.failures.send_replace(());
            }
            inbox.urgent = 0;
            std::mem::take(&mut inbox.queued)
        };
        for proposal in queued {
            proposal.reply.send(Err(error.clone()));
        }
    }

    /// Whether it has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Answers those who wait. Many are answered from a task of their runtime, which wakes its own tasks at a
    /// fraction of what being woken from outside costs for each.
    fn answer(&self, answers: impl ExactSizeIterator<Item = ((Reply, Admission), Answer)>) {
        let send = |((reply, admission), answer): ((Reply, Admission), Answer)| {
            drop(admission);
            reply.send(answer);
        };
        if answers.len() <= FEW {
            answers.for_each(send);
            return;
        }
        let answers: Vec<_> = answers.collect();
        self.runtime.spawn(async move { answers.into_iter().for_each(send) });
    }

    /// Notes that the applier is about to be given an append.
    pub(super) fn begin_applying(&self) {
        self.applying.fetch_add(1, Ordering::AcqRel);
    }

    /// Notes that the applier is done with an append.
    pub(super) fn end_applying(&self) {
        self.applying.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether the applier has nothing of this lane.
    pub(super) fn is_applied(&self) -> bool {
        self.applying.load(Ordering::Acquire) == 0
    }

    /// Goes to sleep, unless proposals have come in the meantime that are not to wait for company.
    fn may_sleep(&self) -> bool {
        self.awake.store(false, Ordering::Release);
        let may_sleep = {
            let inbox = self.inbox.lock();
            inbox.queued.is_empty() || (inbox.urgent == 0 && inbox.patient_until.is_some())
        };
        may_sleep || self.awake.swap(true, Ordering::AcqRel)
    }

    /// Takes what fits one append from the queue; what nobody is answered by only if it has waited for long enough, or is `hurried`.
    fn take_batch(&self, hurried: bool) -> Batch {
        let mut inbox = self.inbox.lock();
        if inbox.queued.is_empty() {
            inbox.patient_until = None;
            return Batch::Nothing;
        }
        if let Some(until) = inbox.patience(Instant::now()).filter(|_| !hurried) {
            return Batch::Later(until);
        }
        inbox.patient_until = None;
        let mut bytes = 0;
        let fits = inbox
            .queued
            .iter()
            .take(self.limits.batch_records)
            .take_while(|proposal| {
                let first = bytes == 0;
                bytes += proposal.encoded.len();
                first || bytes <= self.limits.batch_bytes
            })
            .count();
        if fits == inbox.queued.len() {
            inbox.urgent = 0;
            return Batch::Ready(std::mem::take(&mut inbox.queued).into());
        }
        let batch: Vec<_> = inbox.queued.drain(..fits).collect();
        inbox.urgent -= batch.iter().filter(|proposal| is_urgent(proposal)).count();
        Batch::Ready(batch)
    }
}

impl Inbox {
    /// Whether somebody is answered by it.
    fn push(&mut self, proposal: Proposal) -> bool {
        let is_urgent = is_urgent(&proposal);
        if is_urgent {
            self.urgent += 1;
            self.last_urgent = Some(Instant::now());
        }
        self.queued.push_back(proposal);
        is_urgent
    }

    /// Until when all that is queued waits for company, if it still does.
    fn patience(&mut self, now: Instant) -> Option<Instant> {
        if self.urgent > 0 {
            return None;
        }
        let is_busy = self.last_urgent.is_some_and(|last| now.duration_since(last) < COMPANY_LATELY);
        if !is_busy {
            return None;
        }
        let until = *self.patient_until.get_or_insert(now + COMPANY_PATIENCE);
        (now < until).then_some(until)
    }
}

/// Nobody is answered by what a leader proposes by itself.
fn is_urgent(proposal: &Proposal) -> bool {
    proposal.term.is_none()
}

impl InFlight {
    /// Appends what is queued, as far as the number of appends in flight allows. `on_durable` is called once for
    /// each append, from the log's fsync thread; a caller that is `idle` may be made to sync itself. Answers until when the rest
    /// waits for company, if it does; nothing that is `hurried` does.
    pub(super) fn fill(
        &mut self,
        lane: &Lane,
        idle: bool,
        hurried: bool,
        on_durable: impl Fn(Result<Offset, SyncError>) + Clone + Send + 'static,
    ) -> Option<Instant> {
        while self.appends.len() < APPENDS_IN_FLIGHT {
            match lane.take_batch(hurried) {
                Batch::Nothing => return None,
                Batch::Later(until) => return Some(until),
                Batch::Ready(batch) => self.append(lane, batch, idle, on_durable.clone()),
            }
        }
        None
    }

    /// Whether an append waits for the disk.
    pub(super) fn busy(&self) -> bool {
        !self.appends.is_empty()
    }

    /// Whether nothing is in flight or queued; the next proposal will then tell the worker.
    pub(super) fn may_sleep(&self, lane: &Lane) -> bool {
        self.appends.is_empty() && lane.may_sleep()
    }

    fn append(
        &mut self,
        lane: &Lane,
        batch: Vec<Proposal>,
        idle: bool,
        on_durable: impl FnOnce(Result<Offset, SyncError>) + Send + 'static,
    ) {
        let replica = &lane.replica;
        let stamp = Timestamp::now();
        let mut offset = replica.log.bounds(replica.group).last;
        let mut records = Vec::with_capacity(batch.len());
        let mut payloads = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        let urgent = batch.iter().filter(|proposal| is_urgent(proposal)).count();
        for proposal in batch {
            offset = offset.next();
            records.push(Record {
                offset,
                term: Term(0),
                stamp,
                origin: replica.node,
                kind: proposal.kind,
                payload: proposal.encoded,
            });
            payloads.push(proposal.payload);
            waiting.push((proposal.reply, proposal.admission));
        }
        let last = offset;
        let on_durable = Box::new(move |synced: Result<(), SyncError>| on_durable(synced.map(|()| last)));
        let appended = if idle {
            replica.log.append_and_sync(replica.group, &records, on_durable)
        } else {
            replica.log.append(replica.group, &records, on_durable)
        };
        match appended {
            Ok(chain) => {
                let committed = records
                    .into_iter()
                    .zip(payloads)
                    .zip(chain)
                    .map(|((record, payload), chain)| Committed { record, payload, chain })
                    .collect();
                self.appends.push_back(Append { last, committed, waiting, urgent });
            }
            Err(error) => {
                tracing::error!(group = %replica.group, %error, "append failed; the partition takes no more writes");
                lane.fail(&stopped(&error));
                let refusal = match error {
                    // The write may have reached the file; only a later look at the log can tell.
                    AppendError::Failed(error) => unknown(&error),
                    error => stopped(&error),
                };
                refuse(waiting, &refusal);
            }
        }
    }

    /// Takes out what has become durable, or gives up on all of it.
    pub(super) fn durable(&mut self, lane: &Lane, durable: Result<Offset, SyncError>) -> Vec<Append> {
        match durable {
            Ok(durable) => {
                let count = self.appends.iter().take_while(|append| append.last <= durable).count();
                self.appends.drain(..count).collect()
            }
            Err(error) => {
                lane.fail(&stopped(&error));
                for mut append in self.appends.drain(..) {
                    refuse(std::mem::take(&mut append.waiting), &unknown(&error));
                }
                Vec::new()
            }
        }
    }
}

impl Append {
    /// How many records it is.
    pub(super) fn len(&self) -> usize {
        self.committed.len()
    }

    /// Whether no two of them were proposed by those who write.
    pub(super) fn is_of_one(&self) -> bool {
        self.urgent <= 1
    }

    /// Applies the records and answers those who wait. A panic fails the lane, and only that.
    pub(super) fn apply(self, lane: &Lane) {
        if catch_unwind(AssertUnwindSafe(|| self.apply_or_panic(lane))).is_err() {
            lane.fail(&stopped(&"applying a record panicked: this is a bug"));
        }
    }

    fn apply_or_panic(mut self, lane: &Lane) {
        if lane.has_failed() {
            // The view lacks what came before. Its own words say "not applied", which these records may yet be.
            let reason = match lane.closed() {
                Some(ProposeError::Stopped { reason }) => reason,
                _ => "a record before it could not be applied".to_owned(),
            };
            refuse(std::mem::take(&mut self.waiting), &unknown(&reason));
            return;
        }
        let replica = &lane.replica;
        match replica.view.apply(&self.committed) {
            Ok(mut applied) => {
                debug_assert_eq!(applied.len(), self.waiting.len(), "one answer for each record");
                replica.visible.send_replace(self.last);
                let news = replica.feeder.feed(&mut applied);
                let waiting = std::mem::take(&mut self.waiting);
                lane.answer(waiting.into_iter().zip(applied.into_iter().map(Ok)));
                drop(news);
            }
            Err(error) => {
                tracing::error!(group = %replica.group, %error, "apply failed; the partition takes no more writes");
                lane.fail(&stopped(&error));
                refuse(std::mem::take(&mut self.waiting), &unknown(&error));
            }
        }
    }
}

impl Drop for Append {
    /// Whoever still waits when it goes, as by a panic, is told that nobody knows.
    fn drop(&mut self) {
        refuse(std::mem::take(&mut self.waiting), &unknown(&"it was not applied on this replica"));
    }
}

fn refuse(waiting: Vec<(Reply, Admission)>, error: &ProposeError) {
    for (reply, admission) in waiting {
        drop(admission);
        reply.send(Err(error.clone()));
    }
}

fn unknown(error: &dyn std::fmt::Display) -> ProposeError {
    ProposeError::Unknown { reason: error.to_string() }
}

fn stopped(error: &dyn std::fmt::Display) -> ProposeError {
    ProposeError::Stopped { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use odgm_log::body::Delete;
    use odgm_log::{Body, Cause, Payload};

    use super::*;
    use crate::proposal::Gate;

    fn proposal(term: Option<Term>) -> Proposal {
        let body = Body::Delete(Delete { object: "thing".into() });
        let payload = Payload { cause: Cause::default(), body };
        let (kind, encoded) = payload.encode().expect("it is small");
        let admission = Gate::new(Limits::default()).admit(encoded.len(), true).expect("there is room");
        let reply = Reply::Call(Box::new(drop));
        Proposal { payload, kind, encoded, needs_room: false, until: None, term, reply, admission }
    }

    #[test]
    fn what_nobody_waits_for_waits_for_company_where_there_was_some_lately() {
        let now = Instant::now();
        let mut inbox = Inbox::default();
        assert!(!inbox.push(proposal(Some(Term(0)))));
        assert_eq!(inbox.patience(now), None, "nobody writes");

        inbox.last_urgent = Some(now);
        assert_eq!(inbox.patience(now), Some(now + COMPANY_PATIENCE));
        let later = now + COMPANY_PATIENCE / 2;
        assert_eq!(inbox.patience(later), Some(now + COMPANY_PATIENCE), "it does not begin anew");
        assert_eq!(inbox.patience(now + COMPANY_PATIENCE), None, "that is long enough");

        inbox.patient_until = None;
        assert!(inbox.push(proposal(None)));
        assert_eq!(inbox.patience(now), None, "company is there");
        inbox.urgent = 0;
        assert_eq!(inbox.patience(Instant::now() + COMPANY_LATELY), None, "nobody has written for a while");
    }
}
