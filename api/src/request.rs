//! What travels beside a request: idempotency, depth, cause, trace, consistency.

use std::collections::BTreeMap;
use std::time::Duration;

use odgm_log::body::{Cause, Parent};
use odgm_log::{GroupId, NodeId, Offset};
use odgm_proto::metadata::{CAUSE, CONSISTENCY, DEPTH, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT};
use odgm_replication::Consistency;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

/// The longest request id, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 256;

/// The metadata that travels on where a node passes a request to another.
pub(crate) const PASSED_ON: [&str; 6] = [CAUSE, CONSISTENCY, DEPTH, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT];

/// What the options of a call may say in the place of metadata.
const IN_OPTIONS: [&str; 5] = [CAUSE, DEPTH, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT];

/// Why a write was asked for.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming the metadata and what was expected.
pub(crate) fn cause(metadata: &MetadataMap) -> Result<Cause, Status> {
    Ok(Cause {
        request_id: text(metadata, REQUEST_ID)?.map(request_id).transpose()?,
        depth: text(metadata, DEPTH)?.map(depth).transpose()?.unwrap_or_default(),
        parent: text(metadata, CAUSE)?.map(parent).transpose()?,
        traceparent: traceparent(metadata),
    })
}

/// The metadata of a call: what it has not, its options may say.
///
/// # Errors
/// `INVALID_ARGUMENT`, naming an option that cannot be metadata.
pub(crate) fn with_options(
    metadata: &MetadataMap,
    options: &BTreeMap<String, String>,
) -> Result<MetadataMap, Status> {
    let mut metadata = metadata.clone();
    for name in IN_OPTIONS {
        if let Some(value) = options.get(name).filter(|_| !metadata.contains_key(name)) {
            let text = AsciiMetadataValue::try_from(value)
                .map_err(|_| invalid(name, value, "printable ASCII text"))?;
            metadata.insert(name, text);
        }
    }
    Ok(metadata)
}

/// Whether an option of a call says what metadata may say.
pub(crate) fn is_beside(option: &str) -> bool {
    IN_OPTIONS.contains(&option)
}

/// By what a function is to know a call again, if the client says so.
///
/// # Errors
/// `INVALID_ARGUMENT`, saying what was expected.
pub(crate) fn idempotency_key(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    text(metadata, IDEMPOTENCY_KEY)?.map(|key| identifier(IDEMPOTENCY_KEY, key)).transpose()
}

/// How fresh a read is asked to be, if it says so.
///
/// # Errors
/// `INVALID_ARGUMENT` for a word that is none of the three.
pub(crate) fn consistency(metadata: &MetadataMap) -> Result<Option<Consistency>, Status> {
    let Some(word) = text(metadata, CONSISTENCY)? else { return Ok(None) };
    let known = Consistency::parse(word);
    known.map(Some).ok_or_else(|| invalid(CONSISTENCY, word, "linearizable, lease or local"))
}

/// Checks a client's idempotency key.
///
/// # Errors
/// `INVALID_ARGUMENT`, saying what was expected.
pub(crate) fn request_id(text: &str) -> Result<String, Status> {
    identifier(REQUEST_ID, text)
}

fn identifier(name: &str, text: &str) -> Result<String, Status> {
    let valid =
        (1..=MAX_REQUEST_ID_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if valid {
        return Ok(text.to_owned());
    }
    Err(invalid(name, text, "1 to 256 printable ASCII characters without spaces"))
}

/// How long the client waits for its answer, from the header `grpc-timeout` (at most eight digits and a unit, as the
/// gRPC protocol has it). What is malformed is no timeout: the client's own still holds.
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let amount: u64 = digits.parse().ok().filter(|_| well_formed)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn depth(text: &str) -> Result<u32, Status> {
    text.parse().map_err(|_| invalid(DEPTH, text, "a decimal number"))
}

fn parent(text: &str) -> Result<Parent, Status> {
    let mut numbers = text.splitn(3, '/').map(str::parse::<u64>);
    let mut next = || numbers.next().and_then(Result::ok);
    let parts = (next().and_then(|group| u32::try_from(group).ok()), next(), next());
    let (Some(group), Some(origin), Some(offset)) = parts else {
        return Err(invalid(CAUSE, text, "group/origin/offset, three decimal numbers"));
    };
    Ok(Parent { group: GroupId(group), origin: NodeId(origin), offset: Offset(offset) })
}

/// A malformed trace context is dropped, as W3C asks: tracing never makes a request fail.
fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get(TRACEPARENT)?.to_str().ok()?;
    let separators = |at: usize| matches!(at, 2 | 35 | 52);
    let well_formed = text.len() == 55
        && text.bytes().enumerate().all(|(at, byte)| {
            if separators(at) { byte == b'-' } else { matches!(byte, b'0'..=b'9' | b'a'..=b'f') }
        });
    well_formed.then(|| text.to_owned())
}

fn text<'a>(metadata: &'a MetadataMap, name: &'static str) -> Result<Option<&'a str>, Status> {
    let Some(value) = metadata.get(name) else { return Ok(None) };
    value
        .to_str()
        .map(Some)
        .map_err(|_| Status::invalid_argument(format!("{name}: expected printable ASCII text")))
}

fn invalid(name: &str, found: &str, expected: &str) -> Status {
    Status::invalid_argument(format!("{name} {:?}: expected {expected}", shortened(found)))
}

/// Enough of a text to recognise it by.
pub(crate) fn shortened(text: &str) -> &str {
    const ENOUGH: usize = 64;
    text.char_indices().nth(ENOUGH).map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(name, value.parse().expect("a metadata value"));
        metadata
    }

    #[test]
    fn a_cause_is_read_from_metadata() {
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut metadata = with(REQUEST_ID, "order-17");
        metadata.insert(DEPTH, "2".parse().expect("a value"));
        metadata.insert(CAUSE, "7/1/99".parse().expect("a value"));
        metadata.insert(TRACEPARENT, trace.parse().expect("a value"));
        let parent = Parent { group: GroupId(7), origin: NodeId(1), offset: Offset(99) };
        let expected = Cause {
            request_id: Some("order-17".into()),
            depth: 2,
            parent: Some(parent),
            traceparent: Some(trace.into()),
        };
        assert_eq!(cause(&metadata).expect("well formed"), expected);
        assert_eq!(cause(&MetadataMap::new()).expect("nothing is needed"), Cause::default());
    }

    #[test]
    fn the_options_of_a_call_say_what_its_metadata_does_not() {
        let mut options = BTreeMap::from([
            (DEPTH.to_owned(), "3".to_owned()),
            (REQUEST_ID.to_owned(), "of-options".to_owned()),
            (IDEMPOTENCY_KEY.to_owned(), "1/2/3/4".to_owned()),
            ("accept".to_owned(), "text/plain".to_owned()),
        ]);
        let both = with_options(&with(REQUEST_ID, "of-metadata"), &options).expect("well formed");
        let known = cause(&both).expect("well formed");
        assert_eq!((known.depth, known.request_id.as_deref()), (3, Some("of-metadata")));
        assert_eq!(idempotency_key(&both).expect("well formed").as_deref(), Some("1/2/3/4"));
        assert_eq!(both.len(), 3, "what is no business of the node's stays an option: {both:?}");
        options.insert(CAUSE.to_owned(), "line\nbreak".to_owned());
        let refused = with_options(&MetadataMap::new(), &options).expect_err("no metadata");
        assert_eq!(refused.message(), r#"odgm-cause "line\nbreak": expected printable ASCII text"#);
    }

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        let timeout = |text: &'static str| {
            timeout(&HeaderMap::from_iter([(
                "grpc-timeout".parse().expect("a name"),
                text.parse().expect("a value"),
            )]))
        };
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for malformed in ["", "S", "10", "-1S", "999999999n", "10x"] {
            assert_eq!(timeout(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn what_is_malformed_is_refused_and_named_but_a_trace_is_only_dropped() {
        let bad = [(REQUEST_ID, "two words"), (DEPTH, "-1"), (CAUSE, "1/2"), (CAUSE, "x/1/2")];
        let refusals =
            bad.map(|(name, value)| cause(&with(name, value)).expect_err(value).message().to_owned());
        let consistency = consistency(&with(CONSISTENCY, "strong")).expect_err("no such word");
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        odgm-request-id "two words": expected 1 to 256 printable ASCII characters without spaces
        odgm-depth "-1": expected a decimal number
        odgm-cause "1/2": expected group/origin/offset, three decimal numbers
        odgm-cause "x/1/2": expected group/origin/offset, three decimal numbers
        "#);
        insta::assert_snapshot!(consistency.message(), @r#"odgm-consistency "strong": expected linearizable, lease or local"#);
        assert_eq!(cause(&with(TRACEPARENT, "garbage")).expect("accepted").traceparent, None);
    }
}
