//! Functions that count, each call once however often it is made.

use odgm_proto::oprc::InvocationResponse;
use tonic::{Code, Status};

use super::call::Call;
use super::examples::{answer, on_object};
use super::grid::Grid;

/// The entry that counts.
const COUNT: &str = "count";

/// How often a count is tried again because somebody else has written the object in between.
const TRIES: u32 = 1_000;

/// The key of an entry that says that a call was made: its idempotency key in the characters that keys may have.
pub fn mark(key: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._:-".contains(c);
    let key = key.to_ascii_lowercase().replace(|c| !allowed(c), ".");
    format!("by.{key}")
}

/// Adds one to the count of the object that it is called on.
///
/// The count and the mark of the call are written at once, and only if the object is as it was read. So a call that is
/// made again finds its mark, and of two that are made at the same time one is refused and looks again.
pub(super) async fn count(call: &Call, grid: &Grid) -> Result<InvocationResponse, Status> {
    let object = on_object(call)?;
    let mark = mark(call.key());
    for _ in 0..TRIES {
        let marked = grid.entry(call, object, &mark).await?;
        if let Some(counted) = marked.value.filter(|_| !call.key().is_empty()) {
            return Ok(answer(counted));
        }
        let before = grid.entry(call, object, COUNT).await?.value.unwrap_or_default();
        let before: u64 = std::str::from_utf8(&before).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
        let count = (before + 1).to_string();
        let mut puts = vec![(COUNT, count.as_str())];
        if !call.key().is_empty() {
            puts.push((mark.as_str(), count.as_str()));
        }
        match grid.put_at(call, object, &puts, marked.version).await {
            Ok(()) => return Ok(answer(count)),
            Err(status) if status.code() == Code::Aborted => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::aborted(format!("{object} was written {TRIES} times while it was to be counted")))
}

/// Notes an arrival at the airport that the call is about: an entry of that object, named by the idempotency key. The
/// arrivals of an airport are its entries; one that is noted again is the same entry.
pub(super) async fn arrive(call: &Call, grid: &Grid) -> Result<InvocationResponse, Status> {
    let subject = call.subject();
    let airport = std::str::from_utf8(&subject).ok().filter(|airport| !airport.is_empty());
    let airport =
        airport.ok_or_else(|| Status::invalid_argument("arrive: expected the name of an airport"))?;
    if call.key().is_empty() {
        return Err(Status::invalid_argument("arrive: expected a call with an idempotency key"));
    }
    grid.put(call, airport, &mark(call.key()), "", None).await?;
    Ok(answer(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_the_characters_of_keys() {
        assert_eq!(mark("7/0/42/3"), "by.7.0.42.3");
        assert_eq!(mark("Order 66"), "by.order.66");
    }
}
