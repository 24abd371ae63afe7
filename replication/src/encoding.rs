//! The parts of which messages between nodes, and bundles, are made. Numbers are big-endian; bytes have their number in front of
//! them, in four bytes; a hash is its 32 bytes; a yes or no is 1 or 0.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use odgm_log::Hash;

pub(crate) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

pub(crate) fn put_length(length: usize, out: &mut BytesMut) {
    // What is sent and stored is bounded far below: entries, pieces, lists and names by the limits of who makes them.
    #[allow(clippy::cast_possible_truncation)]
    out.put_u32(length as u32);
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut BytesMut) {
    put_length(bytes.len(), out);
    out.put_slice(bytes);
}

pub(crate) fn get_bytes(input: &mut Bytes) -> io::Result<Bytes> {
    let length = input.try_get_u32()? as usize;
    if length > input.len() {
        return Err(invalid(format!("{length} bytes were announced, {} are there", input.len())));
    }
    Ok(input.split_to(length))
}

pub(crate) fn get_text(input: &mut Bytes) -> io::Result<String> {
    String::from_utf8(get_bytes(input)?.into()).map_err(invalid)
}

pub(crate) fn get_bool(input: &mut Bytes) -> io::Result<bool> {
    match input.try_get_u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(invalid(format!("0 or 1 was expected, found {other}"))),
    }
}

pub(crate) fn get_hash(input: &mut Bytes) -> io::Result<Hash> {
    let mut hash = Hash::ZERO;
    input.try_copy_to_slice(&mut hash.0)?;
    Ok(hash)
}

pub(crate) fn put_some_hash(hash: Option<Hash>, out: &mut BytesMut) {
    out.put_u8(u8::from(hash.is_some()));
    if let Some(hash) = hash {
        out.put_slice(&hash.0);
    }
}

pub(crate) fn get_some_hash(input: &mut Bytes) -> io::Result<Option<Hash>> {
    if get_bool(input)? { get_hash(input).map(Some) } else { Ok(None) }
}
