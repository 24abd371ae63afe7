//! Records about calls, and what other records have to do with calls.

use odgm_log::BodyType;
use odgm_log::body::{self, Body};

use super::changes::Written;
use super::outbox::Calling;
use super::triggers::Asking;
use super::{Core, Done};
use crate::change::{Change, ChangeKind};
use crate::error::Error;
use crate::keys::Key;
use crate::object::Moment;
use crate::outcome::{Committed, Outcome};
use crate::rows::write_change;
use crate::storage::Reader;

impl Core {
    /// Lets a record about calls take effect.
    pub(super) fn call(
        &mut self,
        rows: &dyn Reader,
        moment: Moment,
        committed: &Committed,
    ) -> Result<Done, Error> {
        let Committed { record, payload, .. } = committed;
        let body = &payload.body;
        if !self.header.has_calls() {
            return Ok((Outcome::NotUnderstood, None));
        }
        let mut calling = self.calling(rows, moment, committed);
        let outcome = match body {
            Body::Invoke(body) => {
                let fingerprint = crate::fingerprint(record.kind, payload.body_bytes(&record.payload));
                calling.invoke(body, fingerprint)
            }
            Body::Outcome(body) => return self.end_call(rows, moment, committed, body),
            Body::TriggerSettled(body) => calling.settle(body),
            Body::Delivered(body) => calling.delivered(body),
            Body::Redrive(body) => {
                let outcome = calling.redrive(body)?;
                return Ok(self.by_request(moment, record.kind.body_type, outcome));
            }
            Body::Discard(body) => {
                let outcome = calling.discard(body)?;
                return Ok(self.by_request(moment, record.kind.body_type, outcome));
            }
            _ => Ok(Outcome::Noted),
        }?;
        Ok((outcome, None))
    }

    /// What somebody had done to dead letters is in the partition's own history.
    fn by_request(&mut self, moment: Moment, operation: BodyType, outcome: Outcome) -> Done {
        if outcome == Outcome::Noted {
            self.write_own_history(moment, operation);
        }
        (outcome, None)
    }

    /// Lets the end of a call take effect: an event of the object that it was made on, which stays as it is.
    fn end_call(
        &mut self,
        rows: &dyn Reader,
        moment: Moment,
        committed: &Committed,
        outcome: &body::Outcome,
    ) -> Result<Done, Error> {
        if !self.calling(rows, moment, committed).admit(outcome)? {
            return Ok((Outcome::Stale, None));
        }
        let (mut version, mut asked) = (0, Vec::new());
        if let Some(id) = &outcome.object {
            let asking = self.asking(moment, committed);
            let slot = self.objects.load(rows, id, self.header.tombstones > 0)?;
            version = slot.version();
            let triggers = slot.object.as_ref().and_then(|object| object.triggers.as_deref());
            if let (Some(asking), Some(triggers)) = (asking, triggers) {
                asked = asking.of_function(triggers, id, version, outcome);
            }
        }
        let is_complete = outcome.finished.status.is_complete();
        let change = Change {
            offset: moment.offset,
            time: moment.time,
            object: outcome.object.clone().unwrap_or_default(),
            kind: if is_complete { ChangeKind::Completed } else { ChangeKind::Failed },
            version,
            keys: Vec::new(),
            triggers_changed: false,
            replaced: false,
            operation: committed.record.kind.body_type,
        };
        let key = Key::History(&change.object, moment.offset);
        self.changes.put(key, &mut Written::default(), |out| write_change(&change, out));
        self.calling(rows, moment, committed).ask(asked);
        Ok((Outcome::Noted, Some(change)))
    }

    /// What every record does under these rules, after the operation.
    pub(super) fn end_with_calls(
        &mut self,
        rows: &dyn Reader,
        moment: Moment,
        committed: &Committed,
        done: &Done,
    ) -> Result<(), Error> {
        self.calling(rows, moment, committed).forget_results()?;
        self.index_cause(moment, committed, done);
        Ok(())
    }

    /// What calls are asked for with, where the partition's rules allow any.
    pub(super) fn asking<'a>(&self, moment: Moment, committed: &'a Committed) -> Option<Asking<'a>> {
        let is_on = self.header.has_calls() && self.header.config.events_enabled;
        let Committed { record, payload, .. } = committed;
        is_on.then_some(Asking { moment, origin: record.origin, cause: &payload.cause })
    }

    pub(super) fn calling<'a>(
        &'a mut self,
        rows: &'a dyn Reader,
        moment: Moment,
        committed: &'a Committed,
    ) -> Calling<'a> {
        Calling {
            rows,
            header: &mut self.header,
            changes: &mut self.changes,
            overlay: &mut self.calls,
            queued: &mut self.queued,
            moment,
            origin: committed.record.origin,
            payload: &committed.payload,
        }
    }

    /// Keeps an index from records to what they caused here.
    fn index_cause(&mut self, moment: Moment, committed: &Committed, (outcome, change): &Done) {
        let Some(parent) = committed.payload.cause.parent else { return };
        let is_call = matches!(committed.payload.body, Body::Invoke(_) | Body::Outcome(_));
        if change.is_some() || (is_call && *outcome == Outcome::Noted) {
            self.changes.put(Key::Caused(parent, moment.offset), &mut Written::default(), |_| {});
        }
    }
}

/// Whether a record is one about calls.
pub(super) fn is_about(body: &Body) -> bool {
    matches!(
        body,
        Body::Invoke(_)
            | Body::Outcome(_)
            | Body::TriggerSettled(_)
            | Body::Delivered(_)
            | Body::Redrive(_)
            | Body::Discard(_)
    )
}
