//! Giving a view to another partition: the rows of a backup become those of a new group.

use odgm_log::Offset;

use super::{ViewOptions, read_header};
use crate::error::OpenError;
use crate::header::Header;
use crate::keys::Key;
use crate::storage::Batch;

/// Makes the view in the directory of `options`, which nobody has open, one of that group, whichever it was of; durable on
/// return. With a `floor`, what it knows of records below is not shown any more: they are not there. Nothing else changes,
/// not the chain and not the state.
///
/// So calls and outcomes that waited then wait still: what was committed is not forgotten. Their rows do not name the view's
/// own group, and those about outcomes that came, and about causes, name groups as the records do. But the idempotency keys and the keys of
/// deliveries are made with the group when they are sent, and offsets after the backup are given out a second time: whoever
/// knows those of the first time would take other calls for what is done. So a view that has ever named a call becomes one of
/// another group ([`crate::Calls::has_named`]), and what waited when the backup was taken is called again under new
/// keys. Whoever does not want that of a copy beside the original makes the copy without functions.
///
/// # Errors
/// [`OpenError`] if the directory is not one of a view of this engine and format.
pub fn rebind(options: &ViewOptions, floor: Option<Offset>) -> Result<Header, OpenError> {
    let storage = options.engine.open(&options.dir, &options.resources)?;
    let header = match storage.get(&Key::Header.to_vec())? {
        Some(row) => {
            let group = Header::decode(&row).map_or(options.group, |header| header.group);
            read_header(&row, &options.dir, group)?
        }
        None => Header::new(options.group),
    };
    let floor = floor.unwrap_or(header.floor).max(header.floor);
    let header = Header { group: options.group, floor, ..header };
    let mut batch = Batch::new();
    batch.put(Key::Header.to_vec(), header.encode());
    storage.write(batch)?;
    storage.flush()?;
    Ok(header)
}
