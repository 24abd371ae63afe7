//! The record decoder: whatever the bytes, it answers with a record or an error, and never guesses. What it accepts
//! it would have written itself.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use odgm_log::envelope::{self, ENVELOPE_HEADER, STORED_HEADER};
use odgm_log::{BodyType, GroupId, Kind, Offset, Payload, Record, Term};

const GROUP: GroupId = GroupId(7);
const OFFSET: Offset = Offset(1 << 40);

fuzz_target!(|data: &[u8]| {
    stored(data);
    payload(data);
});

/// The bytes as they are, and with sums that fit them: without that, hardly an input gets past the checksums.
fn stored(data: &[u8]) {
    let _ = envelope::decode_stored(GROUP, OFFSET, &Bytes::copy_from_slice(data));
    let Some((term, rest)) = data.split_first_chunk() else { return };
    let Ok((record, _)) = envelope::decode(OFFSET, Term(u64::from_be_bytes(*term)), &with_sum(rest)) else { return };
    let mut bytes = Vec::new();
    envelope::encode_stored(GROUP, &record, &mut bytes);
    assert_eq!(bytes.len(), STORED_HEADER + ENVELOPE_HEADER + record.payload.len());
    let again = envelope::decode_stored(GROUP, OFFSET, &bytes.into());
    assert_eq!(again.as_ref(), Ok(&record), "a record is not read back as it was written");
    check(&record);
}

/// An envelope with a right length and checksum over what `rest` says.
fn with_sum(rest: &[u8]) -> Bytes {
    let mut bytes = rest.to_vec();
    if bytes.len() < ENVELOPE_HEADER {
        return bytes.into();
    }
    let length = u32::try_from(bytes.len() - ENVELOPE_HEADER).unwrap_or(u32::MAX);
    bytes[..3].copy_from_slice(&[b'O', b'G', envelope::FORMAT]);
    bytes[6..10].copy_from_slice(&length.to_be_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..26]), &bytes[ENVELOPE_HEADER..]);
    bytes[26..ENVELOPE_HEADER].copy_from_slice(&sum.to_be_bytes());
    bytes.into()
}

/// The first two bytes choose the body's type, by its number, and the version; the rest is its payload.
fn payload(data: &[u8]) {
    let Some((&[number, version], bytes)) = data.split_first_chunk() else { return };
    let body_type = BodyType::ALL[usize::from(number) % BodyType::ALL.len()];
    let kind = Kind { body_type, body_version: 1 + version % body_type.version() };
    if let Ok(payload) = Payload::decode(kind, bytes) {
        same_again(&payload);
    }
}

fn check(record: &Record) {
    if let Ok(payload) = record.decode() {
        same_again(&payload);
    }
}

/// Encoding is the inverse of decoding. Not the other way round: bincode reads numbers that are longer than need be.
fn same_again(payload: &Payload) {
    let Ok((kind, bytes)) = payload.encode() else { return };
    assert_eq!(Payload::decode(kind, &bytes).as_ref(), Ok(payload));
}
