//! Opening a log directory, and the checks before anything in it is changed.
//!
//! RocksDB repairs while it opens: it cuts the write-ahead log at the first damaged byte and writes what is left to
//! table files. That is right for a torn tail and wrong if synced records were behind the cut. So the directory is
//! opened for reading first, which replays in memory only, and compared with the watermarks.

use std::fs::{self, File};
use std::path::Path;

use super::error::{Corruption, OpenError};
use super::group::Group;
use super::keys::{Link, Row};
use super::options::Options;
use super::space::SpaceWatch;
use super::tables::{Scan, Tables};
use super::watermarks::Watermarks;
use super::write_ahead::WriteAhead;
use crate::ids::{GroupId, Offset};

/// What makes up a store.
pub(super) struct Opened {
    pub tables: Tables,
    pub watermarks: Watermarks,
    pub groups: Vec<Group>,
    pub space: SpaceWatch,
    pub write_ahead: WriteAhead,
}

/// The ends of one group's log as they are on disk.
struct Ends {
    group: GroupId,
    floor: Link,
    head: Link,
}

/// Opens for writing, after all checks.
pub(super) fn open(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let io_error = |source| OpenError::Io { path: dir.to_owned(), source };
    fs::create_dir_all(dir).map_err(io_error)?;
    // RocksDB writes this file last when it creates a directory, so without it there is nothing to lose.
    let is_new = !dir.join("CURRENT").exists();
    let mut watermarks = Watermarks::open(dir, is_new)?;
    // Without a promise there is nothing to compare with: a new directory, one whose creation was cut short, or one
    // that an operator accepts as it is.
    let promised = watermarks.promises_anything();
    if promised {
        check_read_only(dir, is_new, options, &watermarks)?;
    }
    // Before RocksDB has anything: a log without this file is refused.
    watermarks.write_synced().map_err(io_error)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error)?;
    let tables = Tables::open(dir, options).map_err(|error| engine(dir, error))?;
    let ends = ends(&tables).map_err(|source| corrupt(dir, source))?;
    if !promised {
        check_tails(dir, &tables, &ends)?;
    }
    // Opening for writing left nothing in the write-ahead log: all that is there is durable.
    for end in &ends {
        watermarks.set_log(end.group, end.head.offset);
    }
    watermarks.write_synced().map_err(io_error)?;
    Ok(assemble(dir, tables, watermarks, &ends, options))
}

/// Everything that can be checked without a change on disk.
fn check_read_only(
    dir: &Path,
    is_new: bool,
    options: &Options,
    watermarks: &Watermarks,
) -> Result<(), OpenError> {
    if is_new {
        return check_watermarks(dir, &[], 0, watermarks);
    }
    let tables = Tables::open_read_only(dir, options).map_err(|error| engine(dir, error))?;
    let ends = ends(&tables).map_err(|source| corrupt(dir, source))?;
    check_watermarks(dir, &ends, tables.sequence(), watermarks)?;
    check_tails(dir, &tables, &ends)
}

/// Opens for reading, without any check of what is read later.
pub(super) fn open_read_only(dir: &Path, options: &Options) -> Result<Opened, OpenError> {
    let watermarks = Watermarks::open(dir, false)?;
    let tables = Tables::open_read_only(dir, options).map_err(|error| engine(dir, error))?;
    let ends = ends(&tables).map_err(|source| corrupt(dir, source))?;
    Ok(assemble(dir, tables, watermarks, &ends, options))
}

fn assemble(dir: &Path, tables: Tables, watermarks: Watermarks, ends: &[Ends], options: &Options) -> Opened {
    let groups = ends.iter().map(|end| Group::new(end.group, end.floor, end.head)).collect();
    let (space, write_ahead) = (SpaceWatch::new(dir, options.free_space_reserve), WriteAhead::new(dir));
    Opened { tables, watermarks, groups, space, write_ahead }
}

/// The ends of all logs.
fn ends(tables: &Tables) -> Result<Vec<Ends>, Corruption> {
    let mut all = Vec::new();
    let mut next = Some(GroupId::CATALOGUE);
    while let Some(from) = next {
        let Some(group) = tables.next_group(from)? else { break };
        let head = tables.link(group, Row::Head)?.unwrap_or_default();
        let floor = tables.link(group, Row::Floor)?.unwrap_or_default();
        if floor.offset > head.offset {
            let reason = format!("it is at {}, above the head at {}", floor.offset, head.offset);
            return Err(Corruption::Meta { group, row: Row::Floor.name(), reason });
        }
        all.push(Ends { group, floor, head });
        next = group.0.checked_add(1).map(GroupId);
    }
    Ok(all)
}

fn check_watermarks(
    dir: &Path,
    ends: &[Ends],
    sequence: u64,
    watermarks: &Watermarks,
) -> Result<(), OpenError> {
    let mut promised: Vec<_> = watermarks.logs().collect();
    promised.sort_unstable();
    for (group, expected) in promised {
        let end = ends.iter().find(|end| end.group == group);
        let found = end.map_or(Offset::ZERO, |end| end.head.offset);
        if found < expected {
            return Err(OpenError::BelowWatermark { dir: dir.to_owned(), group, expected, found });
        }
    }
    let expected = watermarks.sequence();
    if sequence < expected {
        return Err(OpenError::ChangesLost { dir: dir.to_owned(), expected, found: sequence });
    }
    Ok(())
}

fn check_tails(dir: &Path, tables: &Tables, ends: &[Ends]) -> Result<(), OpenError> {
    ends.iter().try_for_each(|end| check_tail(tables, end)).map_err(|source| corrupt(dir, source))
}

/// Checks that the records from the last checkpoint on are whole, lead to the chain at the head, and end there.
fn check_tail(tables: &Tables, end: &Ends) -> Result<(), Corruption> {
    let Ends { group, floor, head } = *end;
    // The checkpoint below the head, so that at least the last record is read.
    let checkpoint = tables.checkpoint(group, head.offset.previous())?;
    let mut link = checkpoint.filter(|link| link.offset > floor.offset).unwrap_or(floor);
    let mut cursor = tables.cursor(group, Scan::Part);
    cursor.seek(link.offset.next());
    while link.offset < head.offset {
        let record = cursor.next()?;
        link = link.after(&record);
    }
    if link.chain != head.chain {
        let (expected, found) = (head.chain, link.chain);
        return Err(Corruption::Chain { group, offset: head.offset, expected, found });
    }
    match cursor.peek()? {
        Some(found) => Err(Corruption::BeyondHead { group, last: head.offset, found }),
        None => Ok(()),
    }
}

fn corrupt(dir: &Path, source: Corruption) -> OpenError {
    OpenError::Corrupt { dir: dir.to_owned(), source }
}

fn engine(dir: &Path, error: rocksdb::Error) -> OpenError {
    OpenError::Engine { dir: dir.to_owned(), reason: error.into_string() }
}
