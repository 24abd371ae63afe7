//! Invocations: what clients asked for and do not wait for, and what came of it.
//!
//! One that has ended is forgotten when it is too old or when results take too many bytes, always the oldest first and a
//! bounded number for each record. One that was given up is remembered as long as its dead letter, which can bring it back.

use odgm_log::body::Target;
use odgm_log::body::calls::{Invoke, RowKey};
use odgm_log::{Offset, Timestamp};

use super::outbox::{Calling, full, has_room, too_deep, weight};
use super::triggers::Asking;
use crate::calls::{Invocation, InvocationState, Subject, is_past};
use crate::error::Error;
use crate::keys::{Key, Table};
use crate::limits::MAX_RESULTS_FORGOTTEN;
use crate::object::Moment;
use crate::outcome::{Outcome, Rejection};
use crate::rows::calls::{decode, encode};
use crate::rows::damaged;
use crate::storage::Range;

impl Calling<'_> {
    /// Accepts a call, once for each id.
    pub(super) fn invoke(&mut self, invoke: &Invoke, fingerprint: [u8; 16]) -> Result<Outcome, Error> {
        let id = &invoke.invocation;
        let known = self.read::<Invocation>(Key::Invocation(id))?;
        if let Some((known, _)) = &known
            && !known.is_past(self.moment.time, &self.header.config)
        {
            let offset = known.accepted.offset;
            if known.fingerprint == fingerprint {
                return Ok(Outcome::Duplicate { offset, outcome: Box::new(Outcome::Noted) });
            }
            let invocation = id.clone();
            return Ok(Outcome::Rejected(Rejection::InvocationIdReused { invocation, offset }));
        }
        let asking = Asking { moment: self.moment, origin: self.origin, cause: &self.payload.cause };
        let target = Target {
            object: invoke.object.clone(),
            function: invoke.function.clone(),
            options: invoke.options.clone(),
            ..Target::default()
        };
        let depth = self.payload.cause.depth_of_call();
        let row = asking.row(Subject::Invocation { invocation: id.clone() }, &target, depth);
        if too_deep(self.header, row.depth).is_none()
            && !has_room(self.header, 1, weight(&encode(&row)) as u64)
        {
            return Ok(Outcome::Rejected(full(self.header)));
        }
        if let Some((known, bytes)) = known {
            self.forget_past(id, &known, bytes)?;
        }
        let key = RowKey { due: self.moment.time, offset: self.moment.offset, index: 0 };
        let died = self.ask_one(key, row, &mut 0);
        let state = match died {
            None => InvocationState::Pending,
            Some(reason) => InvocationState::Dead { at: self.moment, reason, has_letter: true },
        };
        self.header.calls.pending_invocations += u64::from(state == InvocationState::Pending);
        let (object, function) = (invoke.object.clone(), invoke.function.clone());
        self.put_invocation(id, &Invocation { accepted: self.moment, fingerprint, object, function, state });
        Ok(Outcome::Noted)
    }

    fn put_invocation(&mut self, id: &str, invocation: &Invocation) -> usize {
        let value = encode(invocation);
        let bytes = value.len();
        self.overlay.put(self.changes, Key::Invocation(id), value);
        bytes
    }

    /// Ends the invocation that a call was made for, if it was made for one.
    pub(super) fn end_invocation_of(
        &mut self,
        subject: &Subject,
        state: impl FnOnce(Moment) -> InvocationState,
    ) -> Result<(), Error> {
        let Subject::Invocation { invocation: id } = subject else { return Ok(()) };
        let Some((known, _)) = self.read::<Invocation>(Key::Invocation(id))? else { return Ok(()) };
        self.header.calls.pending_invocations -= 1;
        let ended = Invocation { state: state(self.moment), ..known };
        let bytes = self.put_invocation(id, &ended);
        if matches!(ended.state, InvocationState::Ended { .. }) {
            self.add_result(id, bytes);
        }
        Ok(())
    }

    /// An invocation that was given up waits again.
    pub(super) fn resume_invocation(&mut self, id: &str) -> Result<(), Error> {
        if let Some((known, _)) = self.read::<Invocation>(Key::Invocation(id))? {
            self.header.calls.pending_invocations += 1;
            self.put_invocation(id, &Invocation { state: InvocationState::Pending, ..known });
        }
        Ok(())
    }

    /// An invocation that was given up can not come back any more.
    pub(super) fn keep_as_result(&mut self, id: &str, reason: String) -> Result<(), Error> {
        if let Some((known, _)) = self.read::<Invocation>(Key::Invocation(id))? {
            let state = InvocationState::Dead { at: self.moment, reason, has_letter: false };
            let bytes = self.put_invocation(id, &Invocation { state, ..known });
            self.add_result(id, bytes);
        }
        Ok(())
    }

    fn add_result(&mut self, id: &str, bytes: usize) {
        let Moment { offset, time } = self.moment;
        let calls = &mut self.header.calls;
        calls.results += 1;
        calls.result_bytes += weight_of_result(id, bytes);
        calls.oldest_result.get_or_insert(self.moment);
        self.overlay.put(self.changes, Key::ResultOrder(offset, id), encode(&time));
    }

    /// Makes room for a new invocation of an id whose result is not kept any more but is still there.
    fn forget_past(&mut self, id: &str, past: &Invocation, bytes: usize) -> Result<(), Error> {
        let (InvocationState::Ended { at, .. } | InvocationState::Dead { at, .. }) = past.state else {
            return Ok(());
        };
        self.overlay.delete(self.changes, Key::ResultOrder(at.offset, id));
        self.header.calls.results -= 1;
        self.header.calls.result_bytes -= weight_of_result(id, bytes);
        if self.header.calls.oldest_result.is_some_and(|oldest| oldest.offset == at.offset) {
            let next = self.oldest_results(at.offset, 1)?.pop();
            self.header.calls.oldest_result = next.map(|(moment, _)| moment);
        }
        Ok(())
    }

    /// Forgets the oldest results as far as the rules ask for it.
    pub(super) fn forget_results(&mut self) -> Result<(), Error> {
        let Some(oldest) = self.header.calls.oldest_result.filter(|oldest| self.is_over(*oldest)) else {
            return Ok(());
        };
        let mut order = self.oldest_results(oldest.offset, MAX_RESULTS_FORGOTTEN + 1)?.into_iter().peekable();
        for _ in 0..MAX_RESULTS_FORGOTTEN {
            let Some((moment, id)) = order.next_if(|(moment, _)| self.is_over(*moment)) else { break };
            let row = self.overlay.get(self.rows, Key::Invocation(&id))?;
            let row = row.ok_or(damaged(Table::Invocation, "one that has ended is missing"))?;
            self.overlay.delete(self.changes, Key::ResultOrder(moment.offset, &id));
            self.overlay.delete(self.changes, Key::Invocation(&id));
            self.header.calls.results -= 1;
            self.header.calls.result_bytes -= weight_of_result(&id, row.len());
            self.header.calls.oldest_result = order.peek().map(|(moment, _)| *moment);
        }
        Ok(())
    }

    /// Whether the oldest result, which is of that moment, is to be forgotten.
    fn is_over(&self, oldest: Moment) -> bool {
        let config = &self.header.config;
        self.header.calls.result_bytes > config.max_result_bytes
            || is_past(oldest.time, self.moment.time, config.result_retention_ms)
    }

    /// The first results at or after a record: when and where they ended, and their ids.
    fn oldest_results(&self, from: Offset, limit: usize) -> Result<Vec<(Moment, String)>, Error> {
        let range = Range::prefix(&[Table::ResultOrder as u8]).from(&Key::ResultOrder(from, "").to_vec());
        let rows = self.overlay.first(self.rows, &range, limit)?;
        rows.iter()
            .map(|(key, value)| match Key::parse(key) {
                Some(Key::ResultOrder(offset, id)) => {
                    let time = decode::<Timestamp>(Table::ResultOrder, value)?;
                    Ok((Moment { offset, time }, id.to_owned()))
                }
                _ => Err(damaged(Table::ResultOrder, "its key is not an offset and an id")),
            })
            .collect()
    }
}

/// What a result is counted as: its row, key included.
fn weight_of_result(id: &str, bytes: usize) -> u64 {
    (1 + id.len() + bytes) as u64
}
