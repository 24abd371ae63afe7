//! Apply: a pure, deterministic state machine.
//!
//! It takes one record at a time and says which rows change and what the answer is. It reads the records, the
//! header and the rows that it is given, and nothing else: no clock, no random number, no environment. Within a
//! batch it reads through what the batch changed, so batches of any size give the same rows and the same hash.

mod calls;
mod changes;
mod crdt;
mod edit;
mod graves;
mod invocations;
mod letters;
mod objects;
mod outbox;
mod outcomes;
mod overlay;
mod partition;
mod requests;
mod triggers;

use odgm_log::body::Body;
use odgm_log::{Cause, Offset};

use self::changes::{Changes, Written};
use self::edit::Edit;
use self::graves::Graves;
use self::objects::Objects;
use self::overlay::Overlay;
use self::requests::{Known, Lookup, Requests};
use crate::calls::Queued;
use crate::change::Change;
use crate::error::{ApplyError, Error};
use crate::header::Header;
use crate::keys::Key;
use crate::limits::TIME_INDEX_RECORDS;
use crate::object::Moment;
use crate::outcome::{Applied, Committed, Outcome, Rejection};
use crate::storage::{Batch, Reader, Share};

/// The state machine of one view.
pub(crate) struct Core {
    header: Header,
    changes: Changes,
    objects: Objects,
    graves: Graves,
    requests: Requests,
    /// Rows about calls.
    calls: Overlay,
    /// What the current record queued.
    queued: Vec<Queued>,
}

/// What an operation did: the answer, and what changed if anything did.
type Done = (Outcome, Option<Change>);

impl Core {
    /// Continues where `header` says, keeping what it reads of objects as far as `cache` allows.
    pub(crate) fn new(header: Header, cache: Share) -> Self {
        Self {
            header,
            changes: Changes::new(),
            objects: Objects::new(cache),
            graves: Graves::default(),
            requests: Requests::default(),
            calls: Overlay::default(),
            queued: Vec::new(),
        }
    }

    /// Where the view is after the records applied so far.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Applies the next record. `rows` is the view as it was when this batch began. After an error the batch is
    /// lost: call [`Self::abandon`].
    pub(crate) fn apply(&mut self, rows: &dyn Reader, committed: &Committed) -> Result<Applied, ApplyError> {
        let record = &committed.record;
        let expected = self.header.applied.next();
        if record.offset != expected {
            return Err(ApplyError::Gap { expected, found: record.offset });
        }
        self.check_semantics(record.offset, &committed.payload.body)?;
        let moment = Moment { offset: record.offset, time: self.header.time.max(record.stamp) };
        self.header.term = record.term;
        let (outcome, change) = self
            .apply_next(rows, moment, committed)
            .map_err(|source| ApplyError::Read { offset: record.offset, source })?;
        self.index_time(moment);
        self.header.calls.has_named |= !self.queued.is_empty();
        self.header.applied = record.offset;
        self.header.time = moment.time;
        self.header.chain = committed.chain;
        self.header.state = self.changes.seal(self.header.state);
        let queued = std::mem::take(&mut self.queued);
        Ok(Applied { offset: record.offset, time: moment.time, outcome, change, queued })
    }

    /// Ends the batch: what is to be written, header included.
    pub(crate) fn finish(&mut self) -> Batch {
        self.objects.finish();
        self.graves.finish();
        self.requests.finish();
        self.calls.finish();
        let rows = self.changes.finish();
        let mut batch = Batch::with_capacity(rows.len() + 1);
        for (key, value) in rows {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        batch.put(Key::Header.to_vec(), self.header.encode());
        batch
    }

    /// Forgets the batch, and all that was read, and goes back to `header`.
    pub(crate) fn abandon(&mut self, header: Header) {
        self.header = header;
        self.changes.abandon();
        self.objects.clear();
        self.graves.finish();
        self.requests = Requests::default();
        self.calls.finish();
        self.queued.clear();
    }

    fn apply_next(
        &mut self,
        rows: &dyn Reader,
        moment: Moment,
        committed: &Committed,
    ) -> Result<Done, Error> {
        let done = self.request(rows, moment, committed)?;
        if self.header.has_calls() {
            self.end_with_calls(rows, moment, committed, &done)?;
        }
        Ok(done)
    }

    /// Applies the operation once, whatever number of times it was requested.
    fn request(&mut self, rows: &dyn Reader, moment: Moment, committed: &Committed) -> Result<Done, Error> {
        let Committed { record, payload, .. } = committed;
        let done = match &payload.cause {
            Cause { request_id: Some(id), .. } => {
                let fingerprint = crate::fingerprint(record.kind, payload.body_bytes(&record.payload));
                let window = &mut self.requests;
                match window.look_up(rows, &mut self.header, &mut self.changes, moment.time, id)? {
                    Lookup::Known(known) if known.fingerprint == fingerprint => {
                        let Known { offset, outcome, .. } = known;
                        (Outcome::Duplicate { offset, outcome: Box::new(outcome) }, None)
                    }
                    Lookup::Known(known) => (Outcome::RequestIdReused { offset: known.offset }, None),
                    unknown @ (Lookup::Unknown | Lookup::Past) => {
                        let done = self.operate(rows, moment, committed)?;
                        if is_final(&done.0) {
                            let known = Known {
                                offset: moment.offset,
                                time: moment.time,
                                fingerprint,
                                outcome: done.0.clone(),
                            };
                            self.requests.remember(&mut self.header, &mut self.changes, id, known);
                        } else if matches!(unknown, Lookup::Past) {
                            self.requests.forget_past(&mut self.changes, id);
                        }
                        done
                    }
                }
            }
            _ => self.operate(rows, moment, committed)?,
        };
        self.requests.evict(rows, &mut self.header, &mut self.changes, moment.time)?;
        Ok(done)
    }

    fn operate(&mut self, rows: &dyn Reader, moment: Moment, committed: &Committed) -> Result<Done, Error> {
        let Committed { record, payload, .. } = committed;
        let Some(id) = payload.body.object() else {
            if calls::is_about(&payload.body) {
                return self.call(rows, moment, committed);
            }
            self.note(rows, moment, &payload.body)?;
            return Ok((Outcome::Noted, None));
        };
        let asking = self.asking(moment, committed);
        let slot = self.objects.load(rows, id, self.header.tombstones > 0)?;
        let known = slot.entries.len();
        let mut edit = Edit {
            rows,
            header: &mut self.header,
            changes: &mut self.changes,
            graves: &mut self.graves,
            slot,
            id,
            moment,
            operation: record.kind.body_type,
            asking,
            asked: Vec::new(),
        };
        let done = match &payload.body {
            Body::Set(body) => edit.set(body),
            Body::Delete(body) => edit.delete(body),
            Body::Merge(body) => edit.merge(body),
            Body::SetValues(body) => edit.set_values(body),
            _ => Ok((Outcome::Noted, None)),
        }?;
        let asked = std::mem::take(&mut edit.asked);
        let grown = edit.slot.entries.len().saturating_sub(known);
        self.objects.grew(grown);
        if !asked.is_empty() {
            self.calling(rows, moment, committed).ask(asked);
        }
        Ok(done)
    }

    /// Keeps a sparse index from times to offsets.
    fn index_time(&mut self, moment: Moment) {
        let interval = self.header.config.time_index_interval_ms.max(1);
        let due = self.header.time_indexed.is_none_or(|(time, Offset(offset))| {
            time.as_millis() / interval != moment.time.as_millis() / interval
                || moment.offset.get() - offset >= TIME_INDEX_RECORDS
        });
        if due {
            self.changes.put(Key::Time(moment.time, moment.offset), &mut Written::default(), |_| {});
            self.header.time_indexed = Some((moment.time, moment.offset));
        }
    }
}

/// Whether a request that was answered so gets the same answer again. Without that it may be tried another time: there may
/// be room then, or other rules, and an invocation that is known answers by itself.
fn is_final(outcome: &Outcome) -> bool {
    !matches!(
        outcome,
        Outcome::Rejected(Rejection::OutboxFull { .. }) | Outcome::Duplicate { .. } | Outcome::NotUnderstood
    )
}
