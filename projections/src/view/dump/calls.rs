//! Calls in a dump: those that wait, what came of others, and what caused what. Sections without rows are left out.

use odgm_log::Offset;
use odgm_log::body::Parent;
use odgm_log::body::calls::{DeliveryKey, Finished, Place, RowKey};

use super::{Dump, DumpError, readable_bytes};
use crate::calls::{Calls, DeadLetter, DeliveryRow, Invocation, InvocationState, Letter, OutboxRow, Subject};
use crate::error::Error;
use crate::header::Header;
use crate::keys::{Key, Table};
use crate::rows::calls::{SourceFloor, decode};
use crate::view::read::misplaced;

/// The tables about calls, in the order in which they are read best.
const TABLES: [Table; 8] = [
    Table::Outbox,
    Table::Delivery,
    Table::DeadLetter,
    Table::SourceFloor,
    Table::Delivered,
    Table::Invocation,
    Table::ResultOrder,
    Table::Caused,
];

impl Dump<'_> {
    pub(super) fn calls_in_header(&mut self, header: &Header) -> Result<(), DumpError> {
        let config = &header.config;
        writeln!(
            self.out,
            "  config outbox={}/{}B results={}ms/{}B",
            config.max_outbox_rows,
            config.max_outbox_bytes,
            config.result_retention_ms,
            config.max_result_bytes,
        )?;
        let Calls {
            // It says nothing that the counts and the log do not.
            has_named: _,
            outbox_rows,
            outbox_bytes,
            deliveries,
            delivery_bytes,
            dead_letters,
            dead_letter_bytes,
            pending_invocations,
            results,
            result_bytes,
            oldest_result,
            stale,
        } = header.calls;
        writeln!(
            self.out,
            "  outbox {outbox_rows} ({outbox_bytes} B) deliveries {deliveries} ({delivery_bytes} B) dead letters \
             {dead_letters} ({dead_letter_bytes} B)"
        )?;
        write!(
            self.out,
            "  invocations {pending_invocations} pending results {results} ({result_bytes} B) stale {stale}"
        )?;
        if let Some(oldest) = oldest_result {
            write!(self.out, " oldest result {}@{}", oldest.offset, oldest.time)?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    pub(super) fn calls(&mut self, floor: Offset) -> Result<(), DumpError> {
        for table in TABLES {
            let mut is_headed = false;
            for row in self.table(table) {
                let (key, value) = row.map_err(Error::from)?;
                let key = Key::parse(&key).ok_or(misplaced(table))?;
                if matches!(key, Key::Caused(_, offset) if offset < floor) {
                    continue;
                }
                if !is_headed {
                    writeln!(self.out, "{}", table.name())?;
                    is_headed = true;
                }
                write!(self.out, "  ")?;
                self.row_of_calls(key, &value)?;
            }
        }
        Ok(())
    }

    fn row_of_calls(&mut self, key: Key<'_>, value: &[u8]) -> Result<(), DumpError> {
        let table = key.table();
        match key {
            Key::Outbox(RowKey { due, offset, index }) => {
                write!(self.out, "due {due} ")?;
                self.call(Place { offset, index }, &decode(table, value)?)?;
            }
            Key::Delivery(place) => self.delivery(place, &decode(table, value)?)?,
            Key::DeadLetter(place) => self.dead_letter(place, decode(table, value)?)?,
            Key::SourceFloor(group, origin) => {
                let SourceFloor { below, swept } = decode(table, value)?;
                writeln!(self.out, "{group}/{origin} below {below} swept {swept}")?;
            }
            Key::Delivered(DeliveryKey { group, origin, offset, index }) => {
                writeln!(self.out, "{group}/{origin}/{offset}/{index}")?;
            }
            Key::Invocation(id) => self.invocation(id, &decode(table, value)?)?,
            Key::ResultOrder(offset, id) => writeln!(self.out, "{offset} {id:?}")?,
            Key::Caused(Parent { group, origin, offset: cause }, offset) => {
                writeln!(self.out, "{group}/{origin}/{cause} -> {offset}")?;
            }
            _ => return Err(misplaced(table).into()),
        }
        Ok(())
    }

    fn call(&mut self, place: Place, row: &OutboxRow) -> Result<(), DumpError> {
        write!(self.out, "{}/{} ", place.offset, place.index)?;
        match &row.subject {
            Subject::Data { object, key, action, version } => {
                write!(self.out, "{}:{key:?} of {object:?} at version {version}", action.name())?;
            }
            Subject::Function { object, function, is_complete, version } => {
                let how = if *is_complete { "complete" } else { "error" };
                write!(self.out, "{how}:{function:?} of {object:?} at version {version}")?;
            }
            Subject::Invocation { invocation } => write!(self.out, "invocation {invocation:?}")?,
        }
        write!(self.out, " -> ")?;
        self.target(&row.target)?;
        let OutboxRow {
            depth, generation, attempt, origin, created, traceparent, last_error, payload, ..
        } = row;
        write!(self.out, " depth {depth} attempt {generation}.{attempt} by {origin} at {created}")?;
        if let Some(trace) = traceparent {
            write!(self.out, " trace {trace:?}")?;
        }
        if !last_error.is_empty() {
            write!(self.out, " after {last_error:?}")?;
        }
        if let Some(payload) = payload {
            write!(self.out, " with {}", readable_bytes(&payload.0))?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    fn delivery(&mut self, place: Place, row: &DeliveryRow) -> Result<(), DumpError> {
        let DeliveryRow { call, origin, target, invocation, depth, traceparent, finished, created } = row;
        write!(self.out, "{}/{} of {}/{} -> ", place.offset, place.index, call.offset, call.index)?;
        self.target(target)?;
        write!(self.out, " id {invocation:?} depth {depth} by {origin} at {created}")?;
        if let Some(trace) = traceparent {
            write!(self.out, " trace {trace:?}")?;
        }
        self.finished(finished)
    }

    fn finished(&mut self, finished: &Finished) -> Result<(), DumpError> {
        let Finished { status, detail, payload, headers, took_us } = finished;
        write!(self.out, " {} {} in {took_us}us", status.name(), readable_bytes(&payload.0))?;
        if !detail.is_empty() {
            write!(self.out, " because {detail:?}")?;
        }
        for (name, value) in headers {
            write!(self.out, " {name}={value:?}")?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    fn dead_letter(&mut self, place: Place, dead: DeadLetter) -> Result<(), DumpError> {
        writeln!(self.out, "{:?} {}@{}", dead.reason, dead.died.offset, dead.died.time)?;
        write!(self.out, "    ")?;
        match dead.letter {
            Letter::Call(row) => self.call(place, &row),
            Letter::Delivery(row) => self.delivery(place, &row),
        }
    }

    fn invocation(&mut self, id: &str, invocation: &Invocation) -> Result<(), DumpError> {
        let Invocation { accepted, fingerprint, object, function, state } = invocation;
        let object = object.as_deref().unwrap_or_default();
        write!(self.out, "{id:?} {}@{} ", accepted.offset, accepted.time)?;
        fingerprint.iter().try_for_each(|byte| write!(self.out, "{byte:02x}"))?;
        write!(self.out, " {object}/{function}")?;
        match state {
            InvocationState::Pending => writeln!(self.out, " pending")?,
            InvocationState::Ended { at, finished } => {
                write!(self.out, " ended {}@{}", at.offset, at.time)?;
                self.finished(finished)?;
            }
            InvocationState::Dead { at, reason, has_letter } => {
                let letter = if *has_letter { "" } else { " without a letter" };
                writeln!(self.out, " dead {}@{} {reason:?}{letter}", at.offset, at.time)?;
            }
        }
        Ok(())
    }
}
