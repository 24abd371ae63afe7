//! A view as text: the same for every engine, and for every way in which the view came about.

mod calls;

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use odgm_log::Offset;
use odgm_log::body::{Target, Triggers, Value, ValueKind};

use super::View;
use super::read::misplaced;
use crate::change::Change;
use crate::error::Error;
use crate::header::Header;
use crate::keys::{Key, Table};
use crate::object::{Cursor, Members, Request};
use crate::rows::{EntryRow, ObjectRow, TombstoneRow, damaged};
use crate::storage::{Order, Range, Reader, Row, Rows};

/// Why a dump broke off.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The view could not be read.
    #[error(transparent)]
    View(#[from] Error),
    /// The text could not be written.
    #[error("the dump could not be written: {0}")]
    Out(#[from] io::Error),
}

impl View {
    /// Writes everything that the view says, from one moment, in an order that depends on nothing else. Rows that
    /// retention no longer shows are left out. Answers where the view was at that moment.
    ///
    /// # Errors
    /// If the view cannot be read or the text cannot be written.
    pub fn dump(&self, out: &mut dyn Write) -> Result<Header, DumpError> {
        let rows = self.inner.storage.reader().map_err(Error::from)?;
        let mut dump = Dump { rows: &*rows, out };
        let header = self.header_in(&*rows)?;
        dump.header(&header)?;
        dump.members()?;
        dump.objects()?;
        dump.tombstones()?;
        dump.history(header.floor)?;
        dump.times(header.floor)?;
        dump.cursors()?;
        dump.requests()?;
        dump.calls(header.floor)?;
        Ok(header)
    }
}

struct Dump<'a> {
    rows: &'a dyn Reader,
    out: &'a mut dyn Write,
}

impl<'a> Dump<'a> {
    fn header(&mut self, header: &Header) -> Result<(), DumpError> {
        let Header { group, applied, term, time, chain, state, semantics, config, .. } = header;
        writeln!(self.out, "view of group {group} after record {applied}, term {term}, time {time}")?;
        writeln!(self.out, "  chain {chain}")?;
        writeln!(self.out, "  state {state}")?;
        writeln!(self.out, "  semantics {semantics}")?;
        writeln!(
            self.out,
            "  config events={} max_trigger_depth={} set_mode={:?} max_crdt_bytes={} dedup={}ms/{}/{}B \
             time_index={}ms",
            config.events_enabled,
            config.max_trigger_depth,
            config.set_mode,
            config.max_crdt_bytes,
            config.dedup_window_ms,
            config.dedup_max_ids,
            config.dedup_max_bytes,
            config.time_index_interval_ms,
        )?;
        let Header { objects, entries, tombstones, floor, version_floor, requests, .. } = header;
        writeln!(
            self.out,
            "  objects {objects} entries {entries} tombstones {tombstones} requests {} ({} B)",
            requests.count, requests.bytes
        )?;
        writeln!(self.out, "  floor {floor} version_floor {version_floor}")?;
        // Of a view under older rules there is nothing to say.
        if header.has_calls() { self.calls_in_header(header) } else { Ok(()) }
    }

    /// Nothing where there is one replica.
    fn members(&mut self) -> Result<(), DumpError> {
        for row in self.table(Table::Members) {
            let Members { offset, term, membership } = Members::read(&row.map_err(Error::from)?.1)?;
            writeln!(self.out, "members by record {offset} of term {term}")?;
            for set in membership.voters {
                let voters: Vec<_> = set.iter().map(ToString::to_string).collect();
                writeln!(self.out, "  voters {}", voters.join(" "))?;
            }
            let nodes: Vec<_> = membership.nodes.iter().map(ToString::to_string).collect();
            writeln!(self.out, "  nodes {}", nodes.join(" "))?;
        }
        Ok(())
    }

    /// Objects and entries are in the same order, so one pass over both tables is enough.
    fn objects(&mut self) -> Result<(), DumpError> {
        writeln!(self.out, "objects")?;
        let mut entries = self.table(Table::Entry).peekable();
        for row in self.table(Table::Object) {
            let (key, value) = row.map_err(Error::from)?;
            let Some(Key::Object(id)) = Key::parse(&key) else { return Err(misplaced(Table::Object).into()) };
            let object = ObjectRow::read(&value)?;
            let (created, updated) = (object.created, object.updated);
            writeln!(
                self.out,
                "  {id:?} version {} created {}@{} updated {}@{}",
                object.version, created.offset, created.time, updated.offset, updated.time
            )?;
            if let Some(triggers) = &object.triggers {
                self.triggers(triggers)?;
            }
            while let Some(row) = entries.next_if(|row| row.as_ref().is_ok_and(|row| is_entry_of(row, id))) {
                self.entry(&row.map_err(Error::from)?)?;
            }
        }
        match entries.next() {
            None => Ok(()),
            Some(Ok(_)) => Err(damaged(Table::Entry, "it belongs to no object").into()),
            Some(Err(error)) => Err(Error::from(error).into()),
        }
    }

    fn entry(&mut self, (key, value): &Row) -> Result<(), DumpError> {
        let Some(Key::Entry(_, key)) = Key::parse(key) else { return Err(misplaced(Table::Entry).into()) };
        let entry = EntryRow::read(value)?;
        writeln!(self.out, "    {key:?} {} (version {})", readable(&entry.value), entry.version)?;
        Ok(())
    }

    fn triggers(&mut self, triggers: &Triggers) -> Result<(), DumpError> {
        for (function, trigger) in &triggers.functions {
            self.targets("complete", function, &trigger.on_complete)?;
            self.targets("error", function, &trigger.on_error)?;
        }
        for (key, trigger) in &triggers.data {
            self.targets("create", key, &trigger.on_create)?;
            self.targets("update", key, &trigger.on_update)?;
            self.targets("delete", key, &trigger.on_delete)?;
        }
        Ok(())
    }

    fn targets(&mut self, on: &str, what: &str, targets: &[Target]) -> Result<(), DumpError> {
        for target in targets {
            write!(self.out, "    on {on} {what:?} -> ")?;
            self.target(target)?;
            writeln!(self.out)?;
        }
        Ok(())
    }

    fn target(&mut self, target: &Target) -> Result<(), DumpError> {
        let Target { class, partition, object, function, options } = target;
        let object = object.as_deref().unwrap_or_default();
        write!(self.out, "{class}/{partition}/{object}/{function}")?;
        for (name, value) in options {
            write!(self.out, " {name}={value:?}")?;
        }
        Ok(())
    }

    fn tombstones(&mut self) -> Result<(), DumpError> {
        writeln!(self.out, "tombstones")?;
        for row in self.table(Table::Tombstone) {
            let (key, value) = row.map_err(Error::from)?;
            let Some(Key::Tombstone(id)) = Key::parse(&key) else {
                return Err(misplaced(Table::Tombstone).into());
            };
            let TombstoneRow { version, deleted } = TombstoneRow::read(&value)?;
            writeln!(self.out, "  {id:?} version {version} deleted {deleted}")?;
        }
        Ok(())
    }

    fn history(&mut self, floor: Offset) -> Result<(), DumpError> {
        writeln!(self.out, "history")?;
        for row in self.table(Table::History) {
            let change = super::read::parse_change(&row.map_err(Error::from)?)?;
            if change.offset >= floor {
                self.change(&change)?;
            }
        }
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), DumpError> {
        let Change { offset, time, object, kind, version, keys, operation, .. } = change;
        let (kind, operation) = (kind.name(), operation.name());
        write!(self.out, "  {object:?} {offset}@{time} {operation} {kind} version {version}")?;
        if change.replaced {
            write!(self.out, " replaced")?;
        }
        if change.triggers_changed {
            write!(self.out, " triggers")?;
        }
        for (key, action) in keys {
            write!(self.out, " {}:{key:?}", action.name())?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    fn times(&mut self, floor: Offset) -> Result<(), DumpError> {
        writeln!(self.out, "times")?;
        for row in self.table(Table::Time) {
            let (key, _) = row.map_err(Error::from)?;
            let Some(Key::Time(time, offset)) = Key::parse(&key) else {
                return Err(misplaced(Table::Time).into());
            };
            if offset >= floor {
                writeln!(self.out, "  {time} {offset}")?;
            }
        }
        Ok(())
    }

    fn cursors(&mut self) -> Result<(), DumpError> {
        writeln!(self.out, "cursors")?;
        for row in self.table(Table::Cursor) {
            let (key, value) = row.map_err(Error::from)?;
            let Some(Key::Cursor(name)) = Key::parse(&key) else {
                return Err(misplaced(Table::Cursor).into());
            };
            let Cursor { position, allowed_lag, moved, .. } = Cursor::read(name, &value)?;
            let (offset, time) = (moved.offset, moved.time);
            writeln!(self.out, "  {name:?} at {position} lag {allowed_lag} moved {offset}@{time}")?;
        }
        Ok(())
    }

    fn requests(&mut self) -> Result<(), DumpError> {
        writeln!(self.out, "requests")?;
        for row in self.table(Table::Request) {
            let (key, value) = row.map_err(Error::from)?;
            let Some(Key::Request(id)) = Key::parse(&key) else {
                return Err(misplaced(Table::Request).into());
            };
            let Request { offset, time, fingerprint, outcome } = Request::read(&value)?;
            write!(self.out, "  {id:?} {offset}@{time} ")?;
            fingerprint.iter().try_for_each(|byte| write!(self.out, "{byte:02x}"))?;
            writeln!(self.out, " {outcome:?}")?;
        }
        Ok(())
    }

    fn table(&self, table: Table) -> Rows<'a> {
        self.rows.range(Range::prefix(&[table as u8]), Order::Ascending)
    }
}

fn is_entry_of((key, _): &Row, id: &str) -> bool {
    matches!(Key::parse(key), Some(Key::Entry(object, _)) if object == id)
}

/// A value as quoted text if it is text, else as base64.
fn readable(value: &Value) -> String {
    let kind = match value.kind {
        ValueKind::Bytes => "",
        ValueKind::CrdtMap => "crdt ",
    };
    format!("{kind}{}", readable_bytes(&value.data))
}

fn readable_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) => format!("{text:?}"),
        _ => format!("base64 {}", STANDARD.encode(bytes)),
    }
}
