//! Rows about calls. They hold names and texts of any length, and are encoded as bincode has them: a changed struct is a
//! new [`crate::FORMAT`].

use bincode::{Decode, Encode};
use odgm_log::Offset;

use super::damaged;
use crate::error::Error;
use crate::keys::Table;

const ROW_BYTES: usize = 128;

/// What is remembered of a source of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SourceFloor {
    /// Keys below it will not come again, and are refused.
    pub(crate) below: Offset,
    /// Keys below it have been removed.
    pub(crate) swept: Offset,
}

/// The value of a row.
#[allow(clippy::expect_used)]
pub(crate) fn encode<T: Encode>(row: &T) -> Vec<u8> {
    // As much as most of them need: finding out how much this one does would encode it twice.
    let mut value = Vec::with_capacity(ROW_BYTES);
    bincode::encode_into_std_write(row, &mut value, bincode::config::standard())
        .expect("invariant: texts and numbers always encode into memory");
    value
}

/// Reads the value of a row, all of it.
pub(crate) fn decode<T: Decode<()>>(table: Table, row: &[u8]) -> Result<T, Error> {
    let (value, used) = bincode::decode_from_slice(row, bincode::config::standard())
        .map_err(|_| damaged(table, "it cannot be read"))?;
    if used != row.len() {
        return Err(damaged(table, "bytes are left over"));
    }
    Ok(value)
}
