//! Merging of CRDT map values, which are saved automerge documents.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::AutoCommit;
use bytes::Bytes;

use crate::outcome::Rejection;

/// Merges `incoming` into what is stored under `key`. What is saved depends on the order in which contributions
/// arrive; the log fixes that order.
///
/// # Errors
/// If either side is no automerge document, or what is given or the result is larger than `limit` bytes.
pub(crate) fn merge(
    key: &str,
    stored: Option<&[u8]>,
    incoming: &Bytes,
    limit: u64,
) -> Result<Bytes, Rejection> {
    let malformed =
        |reason: &str| Rejection::CrdtMalformed { key: key.to_owned(), reason: reason.to_owned() };
    let too_large = |bytes: u64| Rejection::CrdtTooLarge { key: key.to_owned(), bytes, limit };
    // Before it is read: reading takes several times its size.
    if incoming.len() as u64 > limit {
        return Err(too_large(incoming.len() as u64));
    }
    let mut document = load(incoming).ok_or_else(|| malformed("the value given cannot be read"))?;
    let merged = match stored {
        None => incoming.clone(),
        Some(stored) => {
            let mut merged = load(stored).ok_or_else(|| malformed("the stored value cannot be read"))?;
            guarded(|| merged.merge(&mut document).ok().map(|_| merged.save()))
                .ok_or_else(|| malformed("the stored value and the one given contradict each other"))?
                .into()
        }
    };
    let bytes = merged.len() as u64;
    if bytes > limit {
        return Err(too_large(bytes));
    }
    Ok(merged)
}

/// None if it is no document. What automerge says about it would be stored with the answer, and must not differ
/// between its versions, so it is left out.
fn load(bytes: &[u8]) -> Option<AutoCommit> {
    guarded(|| AutoCommit::load(bytes).ok())
}

/// A record must never be able to stop every node that applies it, whatever bytes it carries: a panic inside
/// automerge is a malformed document, the same on every replica.
fn guarded<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_default()
}
