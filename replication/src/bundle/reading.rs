//! Taking a bundle apart. Nothing is handed out that has not been checked, but for the bytes of files, whose hash comes
//! with their last piece.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes, BytesMut};
use odgm_log::envelope::decode_stored;
use odgm_log::{Hash, Offset, Record, chain};

use super::{Begin, BundleError, FRAME_HEAD, FRAME_TAIL, Kind, MAGIC, MAX_FRAME_BYTES, VERSION, VERSION_1};
use crate::pieces::{File, Piece, get_files, get_piece};

/// A part of a bundle.
#[derive(Debug)]
pub(crate) enum Part {
    /// The next records.
    Records(Vec<Record>),
    /// A snapshot begins: its offset and its files.
    Snapshot(Offset, Vec<File>),
    /// Some bytes of that.
    Piece(Piece),
}

/// Reads bundles that follow each other in a stream.
pub(crate) struct Reader<R> {
    input: R,
    /// How much has been read.
    at: u64,
    bundle: Option<Bundle>,
}

/// The bundle that is being read.
struct Bundle {
    begin: Begin,
    next: Offset,
    chain: Hash,
    records: u64,
    file_bytes: u64,
    snapshot: Option<Snapshot>,
}

/// The snapshot that is being read.
struct Snapshot {
    offset: Offset,
    files: Vec<File>,
    file: usize,
    at: u64,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, at: 0, bundle: None }
    }

    /// Something is wrong with what was read last.
    pub(crate) fn damaged(&self, reason: String) -> BundleError {
        BundleError::Damaged { at: self.at, reason }
    }

    /// Begins to read the next bundle; none if nothing follows.
    pub(crate) fn begin(&mut self) -> Result<Option<Begin>, BundleError> {
        let mut magic = [0; MAGIC.len()];
        let found = self.input.read(&mut magic[..1])?;
        if found == 0 {
            return Ok(None);
        }
        self.at += 1;
        self.fill(&mut magic[1..])?;
        if magic != MAGIC {
            return Err(self.damaged("this is no bundle: its first bytes are others".to_owned()));
        }
        let mut version = [0; 4];
        self.fill(&mut version)?;
        let version = u32::from_be_bytes(version);
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(BundleError::Version { found: version });
        }
        let (kind, payload) = self.frame()?;
        if kind != Kind::Begin {
            return Err(self.damaged(format!("begin was expected, found {kind:?}")));
        }
        let begin = self.whole(payload, |input| Begin::decode(version, input))?;
        if begin.first.0 == 0 || begin.first > begin.offset.next() {
            let Begin { first, offset, .. } = begin;
            return Err(self.damaged(format!("records from {first} on cannot end at {offset}")));
        }
        self.bundle = Some(Bundle {
            begin,
            next: begin.first,
            chain: begin.before,
            records: 0,
            file_bytes: 0,
            snapshot: None,
        });
        Ok(Some(begin))
    }

    /// The next part; none at the end, when all has been there.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, BundleError> {
        let Some(mut bundle) = self.bundle.take() else { return Ok(None) };
        let (kind, payload) = self.frame()?;
        let part = match kind {
            Kind::Begin => return Err(self.damaged("a bundle begins within another".to_owned())),
            Kind::Records => {
                let records = self.whole(payload, |input| get_records(&bundle.begin, input))?;
                self.follow(&mut bundle, &records)?;
                Part::Records(records)
            }
            Kind::Snapshot => {
                let (offset, files) =
                    self.whole(payload, |input| Ok((Offset(input.try_get_u64()?), get_files(input)?)))?;
                self.open(&mut bundle, offset, &files)?;
                Part::Snapshot(offset, files)
            }
            Kind::Piece => {
                let piece = self.whole(payload, get_piece)?;
                self.take(&mut bundle, &piece)?;
                Part::Piece(piece)
            }
            Kind::End => {
                let said = self.whole(payload, |input| Ok((input.try_get_u64()?, input.try_get_u64()?)))?;
                self.end(&bundle, said)?;
                return Ok(None);
            }
        };
        self.bundle = Some(bundle);
        Ok(Some(part))
    }

    /// Records have to follow each other; the last of them leads to the chain that was told first.
    fn follow(&self, bundle: &mut Bundle, records: &[Record]) -> Result<(), BundleError> {
        for record in records {
            if record.offset != bundle.next || bundle.snapshot.is_some() {
                let (found, expected) = (record.offset, bundle.next);
                return Err(self.damaged(format!("record {found} where {expected} was expected")));
            }
            bundle.chain = chain::link(bundle.chain, record);
            bundle.next = record.offset.next();
            bundle.records += 1;
        }
        Ok(())
    }

    fn open(&self, bundle: &mut Bundle, offset: Offset, files: &[File]) -> Result<(), BundleError> {
        self.closed(bundle)?;
        let Begin { first, offset: last, chain: expected, .. } = bundle.begin;
        let (reached, found) = (bundle.next.previous(), bundle.chain);
        if bundle.snapshot.is_none() && (reached != last || found != expected) {
            return Err(self.damaged(format!(
                "the records end at {reached} with chain {found}, not at {last} with {expected}"
            )));
        }
        let is_base = bundle.snapshot.is_none() && offset == first.previous() && first <= last;
        let is_head = offset == last && bundle.snapshot.as_ref().is_none_or(|base| base.offset < last);
        if !is_base && !is_head {
            return Err(self.damaged(format!("a snapshot at {offset} does not belong there")));
        }
        bundle.snapshot = Some(Snapshot { offset, files: files.to_vec(), file: 0, at: 0 });
        Ok(())
    }

    /// Files come one after the other, each from its first byte to its last.
    fn take(&self, bundle: &mut Bundle, piece: &Piece) -> Result<(), BundleError> {
        let misplaced = || self.damaged(format!("{} of file {} does not belong there", piece.at, piece.file));
        let snapshot = bundle.snapshot.as_mut().ok_or_else(misplaced)?;
        let file = snapshot.files.get(snapshot.file).ok_or_else(misplaced)?;
        let end = piece.at.saturating_add(piece.bytes.len() as u64);
        let is_last = end == file.bytes;
        if piece.file as usize != snapshot.file
            || piece.at != snapshot.at
            || end > file.bytes
            || is_last != piece.hash.is_some()
        {
            return Err(misplaced());
        }
        snapshot.at = end;
        if is_last {
            (snapshot.file, snapshot.at) = (snapshot.file + 1, 0);
        }
        bundle.file_bytes += piece.bytes.len() as u64;
        Ok(())
    }

    fn closed(&self, bundle: &Bundle) -> Result<(), BundleError> {
        match &bundle.snapshot {
            Some(snapshot) if snapshot.file < snapshot.files.len() => {
                let name = &snapshot.files[snapshot.file].name;
                Err(self.damaged(format!("{name} of the snapshot at {} is not whole", snapshot.offset)))
            }
            _ => Ok(()),
        }
    }

    fn end(&self, bundle: &Bundle, said: (u64, u64)) -> Result<(), BundleError> {
        self.closed(bundle)?;
        if bundle.snapshot.as_ref().is_none_or(|snapshot| snapshot.offset != bundle.begin.offset) {
            return Err(self.damaged(format!("the snapshot at {} is missing", bundle.begin.offset)));
        }
        let found = (bundle.records, bundle.file_bytes);
        if found != said {
            return Err(self.damaged(format!("{found:?} records and bytes where {said:?} were announced")));
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(Kind, Bytes), BundleError> {
        let mut head = [0; FRAME_HEAD];
        self.fill(&mut head)?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(
                self.damaged(format!("a frame of {length} bytes; at most {MAX_FRAME_BYTES} are read"))
            );
        }
        let mut rest = BytesMut::zeroed(length + FRAME_TAIL);
        self.fill(&mut rest)?;
        let stored = rest.split_off(length);
        let expected = u32::from_be_bytes([stored[0], stored[1], stored[2], stored[3]]);
        let found = crc32c::crc32c_append(crc32c::crc32c(&head), &rest);
        if found != expected {
            return Err(self.damaged(format!("the frame before has CRC-32C {found:08x}, not {expected:08x}")));
        }
        let kind = match head[0] {
            1 => Kind::Begin,
            2 => Kind::Records,
            3 => Kind::Snapshot,
            4 => Kind::Piece,
            5 => Kind::End,
            other => return Err(self.damaged(format!("there is no frame of kind {other}"))),
        };
        Ok((kind, rest.freeze()))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BundleError> {
        match self.input.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("it is cut off".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn whole<T>(
        &self,
        mut payload: Bytes,
        parse: impl FnOnce(&mut Bytes) -> io::Result<T>,
    ) -> Result<T, BundleError> {
        let parsed = parse(&mut payload).map_err(|error| self.damaged(error.to_string()))?;
        match payload.len() {
            0 => Ok(parsed),
            left => Err(self.damaged(format!("{left} bytes are left over"))),
        }
    }
}

fn get_records(begin: &Begin, input: &mut Bytes) -> io::Result<Vec<Record>> {
    let count = input.try_get_u32()?;
    let mut records = Vec::new();
    for _ in 0..count {
        let (offset, length) = (Offset(input.try_get_u64()?), input.try_get_u32()? as usize);
        if length > input.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let record = decode_stored(begin.group, offset, &input.split_to(length)).map_err(io::Error::other)?;
        records.push(record);
    }
    Ok(records)
}
