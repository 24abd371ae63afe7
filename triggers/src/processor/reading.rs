//! What a worker reads of its partition, where it may block.

use bytes::Bytes;
use odgm_log::body::calls::{Blob, Place, RowKey};
use odgm_log::{Offset, Timestamp};
use odgm_projections::{
    DeadLetter, DeliveryRow, Error, Letter, Moment, OutboxRow, RecordSource as _, SourceError, View,
};
use odgm_replication::Partition;

use super::limits::{LETTER_BYTES, LETTERS, PAGE, PAGE_BYTES, PART_OF_A_PAGE};
use super::plan::{Deliver, Dispatch, LetterPage, LetterSeen, Page};

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The view cannot be read.
    #[error("the view cannot be read: {0}")]
    View(#[from] Error),
    /// Nor the log.
    #[error("the record that asks for the call cannot be read: {0}")]
    Log(#[from] SourceError),
    /// Or it is of another version, or damaged.
    #[error("the record that asks for the call cannot be read: {0}")]
    Record(#[from] odgm_log::PayloadError),
    /// Or no replica keeps it any more.
    #[error("record {offset}, which asks for the call, is gone for good: the log begins with {first}")]
    Gone {
        /// The record.
        offset: Offset,
        /// The first that there is.
        first: Offset,
    },
}

impl ReadError {
    /// Whether it will be the same another time.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }
}

/// Where a view is.
pub(super) fn moment(view: &View) -> Moment {
    let header = view.header();
    Moment { offset: header.applied, time: header.time }
}

/// A page of the outbox, without payloads.
pub(super) fn outbox(
    view: &View,
    mut from: RowKey,
    until: Timestamp,
) -> Result<Page<RowKey, OutboxRow>, ReadError> {
    let as_of = moment(view);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    loop {
        let part = view.outbox(from, until, PART_OF_A_PAGE)?;
        let is_last = part.len() < PART_OF_A_PAGE;
        for (key, mut row) in part {
            if rows.len() == PAGE || bytes >= PAGE_BYTES {
                return Ok(Page { rows, next: Some(key), as_of });
            }
            bytes += row.payload.take().map_or(0, |payload| payload.0.len());
            from = after(key);
            rows.push((key, row));
        }
        if is_last {
            let later = view.outbox(from, Timestamp(u64::MAX), 1)?;
            return Ok(Page { rows, next: later.first().map(|(key, _)| *key), as_of });
        }
    }
}

/// A page of what is to be delivered, without answers.
pub(super) fn deliveries(view: &View, mut from: Place) -> Result<Page<Place, DeliveryRow>, ReadError> {
    let as_of = moment(view);
    let (mut rows, mut bytes) = (Vec::new(), 0);
    loop {
        let part = view.deliveries(from, PART_OF_A_PAGE)?;
        let is_last = part.len() < PART_OF_A_PAGE;
        for (place, mut row) in part {
            if rows.len() == PAGE || bytes >= PAGE_BYTES {
                return Ok(Page { rows, next: Some(place), as_of });
            }
            bytes += std::mem::take(&mut row.finished.payload).0.len();
            from = Place { offset: place.offset, index: place.index.saturating_add(1) };
            rows.push((place, row));
        }
        if is_last {
            return Ok(Page { rows, next: None, as_of });
        }
    }
}

/// The next dead letters.
pub(super) fn letters(view: &View, mut after: Option<Place>) -> Result<LetterPage, ReadError> {
    let total_bytes = view.header().calls.dead_letter_bytes;
    let (mut letters, mut bytes) = (Vec::new(), 0);
    loop {
        // A letter may hold a large payload, and is let go before the next is read.
        let part = view.dead_letters(after, 1)?;
        let Some((place, letter)) = part.first() else { break };
        if letters.len() == LETTERS || bytes >= LETTER_BYTES {
            return Ok(LetterPage { letters, has_more: true, total_bytes });
        }
        after = Some(*place);
        bytes += weight(letter);
        letters.push(LetterSeen { place: *place, died: letter.died.time, bytes: weight(letter) });
    }
    Ok(LetterPage { letters, has_more: false, total_bytes })
}

/// About how many bytes a dead letter has.
fn weight(letter: &DeadLetter) -> u64 {
    const BESIDES: usize = 256;
    let payload = match &letter.letter {
        Letter::Call(row) => row.payload.as_ref().map_or(0, |payload| payload.0.len()),
        Letter::Delivery(row) => row.finished.payload.0.len(),
    };
    (BESIDES + letter.reason.len() + payload) as u64
}

/// What a call is called with.
pub(super) fn payload(partition: &Partition, dispatch: &Dispatch) -> Result<Bytes, ReadError> {
    let Dispatch { key, row, .. } = dispatch;
    if row.generation > 0 {
        // One that was redriven has it itself.
        let found = partition.view().outbox(*key, key.due, 1)?.into_iter().next();
        if let Some((_, OutboxRow { payload: Some(Blob(payload)), .. })) =
            found.filter(|(found, _)| found == key)
        {
            return Ok(payload);
        }
    }
    let record =
        partition.records().get(key.offset).map_err(|error| unreadable(partition, key.offset, error))?;
    Ok(row.subject.payload_in(&record.decode()?))
}

/// Whether a record that could not be read is gone, or may come yet: a replica that came back through a snapshot fetches what was
/// before from the others.
fn unreadable(partition: &Partition, offset: Offset, error: SourceError) -> ReadError {
    // In this order: it comes to be whole between the two, and then its log begins with what is kept.
    let kept = partition.missing_from();
    let first = partition.bounds().first;
    if matches!(error, SourceError::Missing { .. }) && is_gone(offset, first, kept) {
        ReadError::Gone { offset, first }
    } else {
        error.into()
    }
}

/// Whether no replica has a record, where this one's log begins with `first` and, if it is no whole copy, should begin with `kept`.
fn is_gone(offset: Offset, first: Offset, kept: Option<Offset>) -> bool {
    offset < first && kept.is_none_or(|kept| offset < kept)
}

/// The row of an outcome that is to be delivered, with the answer; none if it is no more.
pub(super) fn delivery(view: &View, deliver: &Deliver) -> Result<Option<DeliveryRow>, ReadError> {
    let found = view.deliveries(deliver.place, 1)?.into_iter().next();
    Ok(found.filter(|(place, _)| *place == deliver.place).map(|(_, row)| row))
}

fn after(key: RowKey) -> RowKey {
    match key.index.checked_add(1) {
        Some(index) => RowKey { index, ..key },
        None => RowKey { offset: Offset(key.offset.0.saturating_add(1)), index: 0, ..key },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_gone_only_if_nobody_has_it() {
        let gone =
            |offset, first, kept: Option<u64>| is_gone(Offset(offset), Offset(first), kept.map(Offset));
        assert!(gone(50, 100, None), "all replicas trim at the same place");
        assert!(!gone(50, 100, Some(50)), "it is still to be fetched");
        assert!(gone(49, 100, Some(50)));
        assert!(!gone(50, 1, None), "it has come meanwhile");
    }
}
