//! The file of the memory engine: all rows of one moment.
//!
//! ```text
//! "ODGMROWS"                                          8 bytes
//! format                                              u32, 1
//! rows                                                u64
//! rows times, keys strictly ascending:
//!     key length   u32      value length   u32
//!     key                   value
//! CRC-32C of everything before it                     u32
//! ```
//!
//! Integers are little-endian. The file is never changed in place.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bytes::{Buf, Bytes};

use super::tree::Tree;
use crate::storage::{Error, Order, Range, Row, publish};

/// Its name in the directory of a view or snapshot.
pub(super) const FILE: &str = "rows.image";

const MAGIC: &[u8; 8] = b"ODGMROWS";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 8 + 4 + 8;
const CRC_BYTES: usize = 4;

/// Writes an image, in place of an older one; durable on return.
pub(super) fn write(path: &Path, rows: &Tree) -> Result<(), Error> {
    publish::file(path, |file| {
        let mut out = Checksummed { out: file, crc: 0 };
        out.write_all(MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        out.write_all(&(rows.len() as u64).to_le_bytes())?;
        for (key, value) in rows.range(Range::all(), Order::Ascending) {
            out.write_all(&length(key.len())?)?;
            out.write_all(&length(value.len())?)?;
            out.write_all(key)?;
            out.write_all(value)?;
        }
        let crc = out.crc;
        file.write_all(&crc.to_le_bytes())
    })
}

/// Reads an image. The rows are slices of one buffer.
pub(super) fn read(path: &Path) -> Result<Vec<Row>, Error> {
    let bytes = Bytes::from(fs::read(path).map_err(Error::io("read", path))?);
    parse(bytes).map_err(|reason| Error::Corrupt { path: path.to_path_buf(), reason })
}

fn parse(mut bytes: Bytes) -> Result<Vec<Row>, String> {
    let Some(body) = bytes.len().checked_sub(CRC_BYTES).filter(|&body| body >= HEADER_BYTES) else {
        return Err(format!(
            "it has {} bytes, the smallest image has {}",
            bytes.len(),
            HEADER_BYTES + CRC_BYTES
        ));
    };
    let stored = bytes.split_off(body).get_u32_le();
    let computed = crc32c::crc32c(&bytes);
    if stored != computed {
        return Err(format!("its CRC-32C is {computed:#010x}, expected {stored:#010x}"));
    }
    if bytes.split_to(MAGIC.len()) != MAGIC[..] {
        return Err("it does not begin with ODGMROWS".to_owned());
    }
    let format = bytes.get_u32_le();
    if format != FORMAT {
        return Err(format!("its format is {format}, this build reads {FORMAT}"));
    }
    let rows = bytes.get_u64_le();
    // No row is smaller than its lengths: a wrong count cannot ask for more memory than the file has.
    let mut parsed: Vec<Row> =
        Vec::with_capacity(usize::try_from(rows).unwrap_or(usize::MAX).min(bytes.len() / 8));
    for number in 0..rows {
        let row = parse_row(&mut bytes).ok_or_else(|| format!("it ends within row {number} of {rows}"))?;
        if parsed.last().is_some_and(|(previous, _)| *previous >= row.0) {
            return Err(format!("the key of row {number} is not above the one before"));
        }
        parsed.push(row);
    }
    if bytes.is_empty() { Ok(parsed) } else { Err(format!("{} bytes follow the last row", bytes.len())) }
}

fn parse_row(bytes: &mut Bytes) -> Option<Row> {
    let key = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    let value = usize::try_from(bytes.try_get_u32_le().ok()?).ok()?;
    if bytes.len() < key.checked_add(value)? {
        return None;
    }
    Some((bytes.split_to(key), bytes.split_to(value)))
}

fn length(length: usize) -> io::Result<[u8; 4]> {
    let length = u32::try_from(length)
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "a key or value of more than 4 GiB"))?;
    Ok(length.to_le_bytes())
}

/// Passes bytes on and keeps their CRC.
struct Checksummed<'a, W> {
    out: &'a mut W,
    crc: u32,
}

impl<W: Write> Write for Checksummed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "image_test.rs"]
mod tests;
