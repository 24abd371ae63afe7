//! What travels beside a request over Zenoh: the metadata of gRPC, as an attachment.
//!
//! An attachment is a map from text to text in the form in which Zenoh's own serialization has it (`z_serialize` of a
//! dictionary in its libraries): the number of pairs, then of each the key and the value, each as its length in bytes
//! and UTF-8. Numbers are LEB128. The names are those of [`odgm_proto::metadata`]; others are not looked at.

use odgm_proto::metadata::{CAUSE, CONSISTENCY, DEPTH, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT, VERSION};
use tonic::Status;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};

use super::limits::ATTACHMENT_BYTES;
use crate::status::OFFSET;

/// What is looked at in an attachment to a request.
const ASKED: [&str; 6] = [CAUSE, CONSISTENCY, DEPTH, IDEMPOTENCY_KEY, REQUEST_ID, TRACEPARENT];

/// What is attached to an answer, where it is known.
const ANSWERED: [&str; 2] = [OFFSET, VERSION];

/// The metadata of a request.
pub(super) fn metadata(attachment: Option<&[u8]>) -> Result<MetadataMap, Status> {
    let mut metadata = MetadataMap::new();
    let Some(bytes) = attachment.filter(|bytes| !bytes.is_empty()) else { return Ok(metadata) };
    let pairs = read(bytes).ok_or_else(|| {
        Status::invalid_argument(
            "invalid attachment: expected a map from text to text as Zenoh serializes it",
        )
    })?;
    for (name, value) in pairs {
        let Some(name) = ASKED.into_iter().find(|known| *known == name) else { continue };
        let value = AsciiMetadataValue::try_from(value)
            .map_err(|_| Status::invalid_argument(format!("{name}: expected printable ASCII text")))?;
        metadata.insert(name, value);
    }
    Ok(metadata)
}

/// The attachment of an answer; none where nothing is known.
pub(super) fn of_answer(metadata: &MetadataMap) -> Option<Vec<u8>> {
    let pair = |name: &'static str| Some((name, metadata.get(name)?.to_str().ok()?));
    let pairs: Vec<_> = ANSWERED.into_iter().filter_map(pair).collect();
    (!pairs.is_empty()).then(|| write(&pairs))
}

/// Pairs as an attachment.
pub(super) fn write(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_number(&mut bytes, pairs.len());
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        write_number(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

fn write_number(bytes: &mut Vec<u8>, mut number: usize) {
    loop {
        let low = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// All pairs; none if the bytes are something else.
fn read(mut bytes: &[u8]) -> Option<Vec<(&str, &str)>> {
    if bytes.len() > ATTACHMENT_BYTES {
        return None;
    }
    // Each pair takes two bytes or more.
    let count = read_number(&mut bytes).filter(|count| *count <= bytes.len() / 2)?;
    let pairs: Option<Vec<_>> =
        (0..count).map(|_| Some((read_text(&mut bytes)?, read_text(&mut bytes)?))).collect();
    pairs.filter(|_| bytes.is_empty())
}

fn read_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = read_number(bytes)?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

fn read_number(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0_u64;
    // Five bytes have more bits than the length of anything that is read here.
    for place in 0..5 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return usize::try_from(number).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_read_and_the_rest_is_not_looked_at() {
        let long = "x".repeat(200);
        let bytes = write(&[(REQUEST_ID, "order-17"), ("theirs", &long), (CONSISTENCY, "local")]);
        let metadata = metadata(Some(&bytes)).expect("valid");
        assert_eq!(metadata.len(), 2);
        assert_eq!(metadata.get(REQUEST_ID).map(|v| v.as_bytes()), Some(b"order-17".as_slice()));
        assert_eq!(metadata.get(CONSISTENCY).map(|v| v.as_bytes()), Some(b"local".as_slice()));
    }

    #[test]
    fn the_form_is_that_of_zenoh() {
        // What `zenoh_ext::z_serialize(&HashMap::from([("ab", "c")]))` makes.
        assert_eq!(write(&[("ab", "c")]), [1, 2, b'a', b'b', 1, b'c']);
        assert_eq!(write(&[("", &"x".repeat(300))])[..4], [1, 0, 0xac, 2]);
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let whole = write(&[(REQUEST_ID, "order-17")]);
        let cut = (1..whole.len()).map(|end| whole[..end].to_vec());
        let others = [vec![0xff; 9], vec![1, 1, 0xff, 0], [whole.as_slice(), &[0]].concat()];
        for bytes in cut.chain(others) {
            let refused = metadata(Some(&bytes)).expect_err("no map");
            assert!(refused.message().starts_with("invalid attachment: expected a map"), "{bytes:?}");
        }
        let text = write(&[(REQUEST_ID, "two\nlines")]);
        let refused = metadata(Some(&text)).expect_err("no metadata");
        assert_eq!(refused.message(), "odgm-request-id: expected printable ASCII text");
        assert!(metadata(None).is_ok_and(|metadata| metadata.is_empty()));
    }

    #[test]
    fn an_answer_tells_its_version_and_offset() {
        let mut metadata = MetadataMap::new();
        assert_eq!(of_answer(&metadata), None);
        metadata.insert(VERSION, 7.into());
        assert_eq!(of_answer(&metadata), Some(write(&[(VERSION, "7")])));
    }
}
