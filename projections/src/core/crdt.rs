//! Merging of CRDT map values, which are saved automerge documents.

use std::panic::{AssertUnwindSafe, catch_unwind};

use automerge::AutoCommit;
use bytes::Bytes;

use crate::outcome::Rejection;

/// Merges `incoming` into what is stored under `key`. What is saved depends on the order in which contributions
/// arrive; the log fixes that order.
///
/// # Errors
/// If either side is no automerge document, or the result is larger than `limit` bytes.
pub(crate) fn merge(
    key: &str,
    stored: Option<&[u8]>,
    incoming: &Bytes,
    limit: u64,
) -> Result<Bytes, Rejection> {
    let malformed = |reason: String| Rejection::CrdtMalformed { key: key.to_owned(), reason };
    let mut document = load(incoming).map_err(|reason| malformed(format!("the value given: {reason}")))?;
    let merged = match stored {
        None => incoming.clone(),
        Some(stored) => {
            let mut merged =
                load(stored).map_err(|reason| malformed(format!("the stored value: {reason}")))?;
            guarded(|| merged.merge(&mut document).map(|_| merged.save()).map_err(|error| error.to_string()))
                .map_err(|reason| malformed(format!("the two values do not merge: {reason}")))?
                .into()
        }
    };
    let bytes = merged.len() as u64;
    if bytes > limit {
        return Err(Rejection::CrdtTooLarge { key: key.to_owned(), bytes, limit });
    }
    Ok(merged)
}

fn load(bytes: &[u8]) -> Result<AutoCommit, String> {
    guarded(|| AutoCommit::load(bytes).map_err(|error| error.to_string()))
}

/// A record must never be able to stop every node that applies it, whatever bytes it carries: a panic inside
/// automerge is a malformed document, the same on every replica.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("automerge cannot handle it".to_owned()))
}
