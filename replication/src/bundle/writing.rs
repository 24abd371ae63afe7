//! Making a bundle.

use std::io::Write;

use bytes::{BufMut as _, BytesMut};
use odgm_log::envelope::encode_stored;
use odgm_log::{GroupId, Offset, Record};

use super::{Begin, BundleError, FRAME_HEAD, FRAME_TAIL, Kind, MAGIC, RECORD_BYTES, VERSION};
use crate::encoding::put_length;
use crate::pieces::{Outgoing, put_files, put_piece};

/// Writes a bundle, frame by frame.
pub(crate) struct Writer<W> {
    out: W,
    group: GroupId,
    frame: BytesMut,
    records: u64,
    file_bytes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a bundle.
    pub(crate) fn begin(out: W, begin: &Begin) -> Result<Self, BundleError> {
        let frame = BytesMut::new();
        let mut writer = Self { out, group: begin.group, frame, records: 0, file_bytes: 0 };
        writer.out.write_all(&MAGIC)?;
        writer.out.write_all(&VERSION.to_be_bytes())?;
        writer.frame(Kind::Begin, |out| out.put_slice(&begin.encode()))?;
        Ok(writer)
    }

    /// Writes the next records.
    pub(crate) fn records(&mut self, records: &[Record]) -> Result<(), BundleError> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                let is_first = bytes == 0;
                bytes += record.weight();
                is_first || bytes <= RECORD_BYTES
            });
            let (part, behind) = rest.split_at(fits.count());
            let group = self.group;
            self.frame(Kind::Records, |out| {
                put_length(part.len(), out);
                let mut stored = Vec::new();
                for record in part {
                    stored.clear();
                    encode_stored(group, record, &mut stored);
                    out.put_u64(record.offset.0);
                    put_length(stored.len(), out);
                    out.put_slice(&stored);
                }
            })?;
            self.records += part.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// Writes the files of a snapshot.
    pub(crate) fn snapshot(&mut self, at: Offset, mut files: Outgoing) -> Result<(), BundleError> {
        self.frame(Kind::Snapshot, |out| {
            out.put_u64(at.0);
            put_files(files.files(), out);
        })?;
        while let Some(piece) = files.next()? {
            self.frame(Kind::Piece, |out| put_piece(&piece, out))?;
            self.file_bytes += piece.bytes.len() as u64;
        }
        Ok(())
    }

    /// Ends the bundle.
    pub(crate) fn end(mut self) -> Result<(), BundleError> {
        let (records, file_bytes) = (self.records, self.file_bytes);
        self.frame(Kind::End, |out| {
            out.put_u64(records);
            out.put_u64(file_bytes);
        })?;
        Ok(self.out.flush()?)
    }

    fn frame(&mut self, kind: Kind, fill: impl FnOnce(&mut BytesMut)) -> Result<(), BundleError> {
        self.frame.clear();
        self.frame.put_u8(kind as u8);
        self.frame.put_u32(0);
        fill(&mut self.frame);
        let length = self.frame.len() - FRAME_HEAD;
        // Bounded by the largest record and the largest piece.
        #[allow(clippy::cast_possible_truncation)]
        self.frame[1..FRAME_HEAD].copy_from_slice(&(length as u32).to_be_bytes());
        let crc = crc32c::crc32c(&self.frame);
        self.frame.put_u32(crc);
        debug_assert_eq!(self.frame.len(), FRAME_HEAD + length + FRAME_TAIL);
        Ok(self.out.write_all(&self.frame)?)
    }
}
