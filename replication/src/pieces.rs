//! Snapshots as files in pieces: the same between the members of a group and in a backup.
//!
//! Whoever has the files says their names and lengths first, then their bytes in order, in pieces. The last piece of each
//! file carries the hash of the whole file, so that both sides read or write it once and hash it on the way. What has
//! arrived stays over a lost connection and over a crash: a file is written in order, so its length says how much of it
//! there is, and that is not sent again. Whether it is whole is decided by its hash.
//!
//! Numbers are big-endian; text and bytes have their length (u32) before them.
//!
//! ```text
//! files   number of files u32, then of each: name, bytes u64
//! piece   file u32 | at u64 | 0, or 1 and the blake3 of the whole file (32 bytes) | bytes
//! ```

use std::fs::{self, File as Handle, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::encoding::{get_bytes, get_some_hash, get_text, invalid, put_bytes, put_length, put_some_hash};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use odgm_log::Hash;

/// The bytes of a file that one piece carries at most.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// The most files of one snapshot. An engine that makes more has to be thought about.
const MAX_FILES: u32 = 1 << 20;

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Some bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which of the files that were announced.
    pub(crate) file: u32,
    /// Where in it.
    pub(crate) at: u64,
    /// Of the whole file; with its last piece.
    pub(crate) hash: Option<Hash>,
    pub(crate) bytes: Bytes,
}

pub(crate) fn put_files(files: &[File], out: &mut BytesMut) {
    put_length(files.len(), out);
    for file in files {
        put_bytes(file.name.as_bytes(), out);
        out.put_u64(file.bytes);
    }
}

pub(crate) fn get_files(input: &mut Bytes) -> io::Result<Vec<File>> {
    let count = input.try_get_u32()?;
    if count > MAX_FILES {
        return Err(invalid(format!("a snapshot of {count} files; at most {MAX_FILES} are taken")));
    }
    let file = |input: &mut Bytes| {
        let name = get_text(input)?;
        Ok(File { name, bytes: input.try_get_u64()? })
    };
    (0..count).map(|_| file(input)).collect()
}

pub(crate) fn put_piece(piece: &Piece, out: &mut BytesMut) {
    out.put_u32(piece.file);
    out.put_u64(piece.at);
    put_some_hash(piece.hash, out);
    put_bytes(&piece.bytes, out);
}

pub(crate) fn get_piece(input: &mut Bytes) -> io::Result<Piece> {
    let (file, at) = (input.try_get_u32()?, input.try_get_u64()?);
    let hash = get_some_hash(input)?;
    Ok(Piece { file, at, hash, bytes: get_bytes(input)? })
}

/// The files of a directory on their way out. They must not change meanwhile.
pub(crate) struct Outgoing {
    dir: PathBuf,
    files: Vec<File>,
    /// How much of each file the other side has.
    held: Vec<u64>,
    current: usize,
    reading: Option<Reading>,
}

/// A file that is being read.
struct Reading {
    handle: Handle,
    hasher: blake3::Hasher,
    at: u64,
}

impl Outgoing {
    /// All files of a directory, by name.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| invalid(format!("{} has no name in UTF-8", path.display())))?;
            files.push(File { name, bytes: fs::metadata(&path)?.len() });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let held = vec![0; files.len()];
        Ok(Self { dir: dir.to_path_buf(), files, held, current: 0, reading: None })
    }

    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// The bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Leaves out what the other side has of each file, which it said in answer to the list.
    pub(crate) fn leave_out(&mut self, held: Vec<u64>) -> io::Result<()> {
        if held.len() != self.files.len() {
            let (sent, known) = (self.files.len(), held.len());
            return Err(invalid(format!("{sent} files were announced, {known} are known there")));
        }
        self.held = held;
        Ok(())
    }

    /// The next piece; none after the last. What is left out is read all the same, for the hash.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            let Some(file) = self.files.get(self.current) else { return Ok(None) };
            let path = self.dir.join(&file.name);
            let reading = match &mut self.reading {
                Some(reading) => reading,
                none => {
                    let handle = Handle::open(&path)?;
                    none.insert(Reading { handle, hasher: blake3::Hasher::new(), at: 0 })
                }
            };
            let held = self.held[self.current].min(file.bytes);
            let at = reading.at;
            let end = if at < held { held } else { file.bytes };
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut bytes = vec![0; wanted];
            reading.handle.read_exact(&mut bytes).map_err(|error| {
                let (path, all) = (path.display(), file.bytes);
                io::Error::new(error.kind(), format!("{path} at {at} of {all} bytes: {error}"))
            })?;
            reading.hasher.update(&bytes);
            reading.at += wanted as u64;
            let is_last = reading.at == file.bytes;
            if at < held && !is_last {
                continue;
            }
            let hash = is_last.then(|| Hash(*reading.hasher.finalize().as_bytes()));
            // Of a file that is there as a whole only the hash is sent.
            let (at, bytes) = if at < held { (held, Bytes::new()) } else { (at, Bytes::from(bytes)) };
            let file = u32::try_from(self.current).map_err(|_| invalid("too many files".to_owned()))?;
            if is_last {
                self.reading = None;
                self.current += 1;
            }
            return Ok(Some(Piece { file, at, hash, bytes }));
        }
    }
}

/// The piece of a file that begins at a place, for one who asks for pieces one by one. With the last, which may be empty,
/// comes the hash, for which the whole file is read.
pub(crate) fn piece_of(dir: &Path, number: u32, at: u64) -> io::Result<Piece> {
    let listed = Outgoing::open(dir)?;
    let file = listed.files.get(number as usize);
    let file = file
        .filter(|file| at <= file.bytes)
        .ok_or_else(|| invalid(format!("there is no byte {at} of file {number} in {}", dir.display())))?;
    let mut handle = Handle::open(dir.join(&file.name))?;
    handle.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    (&mut handle).take(PIECE_BYTES as u64).read_to_end(&mut bytes)?;
    let hash = if at + bytes.len() as u64 == file.bytes {
        Some(Hash(*hash_of(&mut handle, file.bytes)?.finalize().as_bytes()))
    } else {
        None
    };
    Ok(Piece { file: number, at, hash, bytes: bytes.into() })
}

/// Files on their way in, in a directory of their own.
pub(crate) struct Arriving {
    dir: PathBuf,
    files: Vec<File>,
    progress: Vec<Progress>,
    /// The file that is being written.
    open: Option<(usize, Handle)>,
}

/// How far a file has arrived.
#[derive(Default)]
struct Progress {
    bytes: u64,
    /// Over those bytes; none if they came before this process.
    hasher: Option<blake3::Hasher>,
    is_whole: bool,
}

impl Arriving {
    /// Goes on with what there is in the directory of files that were announced.
    pub(crate) fn begin(dir: &Path, files: Vec<File>) -> io::Result<Self> {
        for file in &files {
            let plain = Path::new(&file.name).file_name().is_some_and(|name| name == file.name.as_str());
            if !plain {
                return Err(invalid(format!("{:?} is not the name of a file", file.name)));
            }
        }
        fs::create_dir_all(dir)?;
        let mut progress = Vec::with_capacity(files.len());
        for file in &files {
            let path = dir.join(&file.name);
            let mut bytes = fs::metadata(&path).map_or(0, |found| found.len());
            if bytes > file.bytes {
                fs::remove_file(&path)?;
                bytes = 0;
            }
            let hasher = (bytes == 0).then(blake3::Hasher::new);
            progress.push(Progress { bytes, hasher, is_whole: false });
        }
        Ok(Self { dir: dir.to_path_buf(), files, progress, open: None })
    }

    /// Whether these are the files that were announced.
    pub(crate) fn is_of(&self, files: &[File]) -> bool {
        self.files == files
    }

    /// How much there is of each file.
    pub(crate) fn held(&self) -> Vec<u64> {
        self.progress.iter().map(|progress| progress.bytes).collect()
    }

    /// Writes a piece of a file behind what is there. One that is there already changes nothing. Answers how many bytes
    /// were new. A file that is not what its hash says is removed, so that it is sent again.
    pub(crate) fn take(&mut self, piece: &Piece) -> io::Result<u64> {
        let number = piece.file as usize;
        let (Some(file), Some(progress)) = (self.files.get(number), self.progress.get_mut(number)) else {
            return Err(invalid(format!("there are {} files, not {number}", self.files.len())));
        };
        let (at, end) = (piece.at, piece.at.saturating_add(piece.bytes.len() as u64));
        if progress.is_whole || (progress.bytes >= end && piece.hash.is_none()) {
            return Ok(0);
        }
        let is_there = progress.bytes >= end;
        if !is_there && (progress.bytes != at || end > file.bytes) {
            let (name, all, there) = (&file.name, file.bytes, progress.bytes);
            return Err(invalid(format!(
                "{at} to {end} of {name} ({all} bytes) cannot follow {there} bytes"
            )));
        }
        let path = self.dir.join(&file.name);
        let handle = match &mut self.open {
            Some((open, handle)) if *open == number => handle,
            open => {
                let mut options = OpenOptions::new();
                let handle = options.create(true).truncate(false).read(true).write(true).open(&path)?;
                &mut open.insert((number, handle)).1
            }
        };
        let hasher = match &mut progress.hasher {
            Some(hasher) => hasher,
            none => none.insert(hash_of(handle, progress.bytes)?),
        };
        let mut new = 0;
        if !is_there {
            handle.seek(SeekFrom::Start(at))?;
            handle.write_all(&piece.bytes)?;
            hasher.update(&piece.bytes);
            new = end - at;
            progress.bytes = end;
        }
        let Some(wanted) = piece.hash else { return Ok(new) };
        let (bytes, found) = (progress.bytes, Hash(*hasher.finalize().as_bytes()));
        if (bytes, found) != (file.bytes, wanted) {
            *progress = Progress { hasher: Some(blake3::Hasher::new()), ..Progress::default() };
            self.open = None;
            fs::remove_file(&path)?;
            let File { name, bytes: all } = file;
            return Err(invalid(format!(
                "{name} arrived as {bytes} bytes with hash {found}, not as {all} bytes with {wanted}: it is sent again"
            )));
        }
        handle.sync_all()?;
        self.open = None;
        *progress = Progress { bytes, hasher: None, is_whole: true };
        Ok(new)
    }

    /// Checks that all files are there, each of them whole and durable, and nothing else; answers where.
    pub(crate) fn finish(&mut self) -> io::Result<PathBuf> {
        if let Some((file, progress)) =
            self.files.iter().zip(&self.progress).find(|(_, progress)| !progress.is_whole)
        {
            let (name, bytes, all) = (&file.name, progress.bytes, file.bytes);
            return Err(invalid(format!("{name} has not arrived as a whole: {bytes} of {all} bytes")));
        }
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if !self.files.iter().any(|file| entry.file_name() == file.name.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        Handle::open(&self.dir)?.sync_all()?;
        Ok(self.dir.clone())
    }
}

/// The hash of the first bytes of a file.
fn hash_of(handle: &mut Handle, bytes: u64) -> io::Result<blake3::Hasher> {
    let mut hasher = blake3::Hasher::new();
    handle.seek(SeekFrom::Start(0))?;
    let read = io::copy(&mut handle.take(bytes), &mut hasher)?;
    if read == bytes { Ok(hasher) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: [(&str, &[u8]); 3] = [("a.sst", b"abcdef"), ("empty", b""), ("z", b"xyz")];

    fn outgoing(dir: &Path) -> Outgoing {
        for (name, content) in CONTENT {
            fs::write(dir.join(name), content).expect("written");
        }
        Outgoing::open(dir).expect("listed")
    }

    fn all(mut outgoing: Outgoing) -> Vec<Piece> {
        std::iter::from_fn(|| outgoing.next().expect("readable")).collect()
    }

    fn piece(file: u32, at: u64, bytes: &'static [u8], whole: Option<&[u8]>) -> Piece {
        let hash = whole.map(|whole| Hash(*blake3::hash(whole).as_bytes()));
        Piece { file, at, hash, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn files_and_pieces_have_these_bytes() {
        let mut out = BytesMut::new();
        put_files(&[File { name: "a.sst".into(), bytes: 0x0102 }], &mut out);
        put_piece(&Piece { file: 1, at: 2, hash: None, bytes: Bytes::from_static(b"xy") }, &mut out);
        put_piece(&Piece { file: 0, at: 0, hash: Some(Hash([7; 32])), bytes: Bytes::new() }, &mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        insta::assert_snapshot!(hex, @"0000000100000005612e73737400000000000001020000000100000000000000020000000002787900000000000000000000000001070707070707070707070707070707070707070707070707070707070707070700000000");
        let mut input = out.freeze();
        assert_eq!(get_files(&mut input).expect("readable"), [File { name: "a.sst".into(), bytes: 0x0102 }]);
        assert_eq!(get_piece(&mut input).expect("readable").bytes, b"xy"[..]);
        assert_eq!(get_piece(&mut input).expect("readable").hash, Some(Hash([7; 32])));
        assert!(input.is_empty());
    }

    #[test]
    fn files_arrive_over_two_tries_and_nothing_is_sent_twice() {
        let (here, there) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let sent = outgoing(here.path());
        let files = sent.files().to_vec();
        let mut arriving = Arriving::begin(there.path(), files.clone()).expect("begun");
        assert_eq!(arriving.held(), [0, 0, 0]);
        assert_eq!(arriving.take(&piece(0, 0, b"abc", None)).expect("written"), 3);
        assert_eq!(arriving.take(&piece(0, 0, b"abc", None)).expect("the same again"), 0);
        arriving.finish().expect_err("half of it is missing");

        // As after a crash.
        let mut arriving = Arriving::begin(there.path(), files.clone()).expect("begun");
        assert_eq!(arriving.held(), [3, 0, 0]);
        assert!(arriving.take(&piece(0, 4, b"ef", None)).is_err(), "there is a hole");
        assert!(arriving.take(&piece(0, 3, b"defg", None)).is_err(), "it is longer than announced");
        assert!(arriving.take(&piece(3, 0, b"x", None)).is_err(), "there is no such file");
        let mut sent = sent;
        sent.leave_out(arriving.held()).expect("as many");
        let pieces = all(sent);
        assert_eq!(pieces[0], piece(0, 3, b"def", Some(b"abcdef")));
        let new: u64 = pieces.iter().map(|piece| arriving.take(piece).expect("written")).sum();
        assert_eq!(new, 6, "and not what was there");
        let dir = arriving.finish().expect("whole");
        for (name, content) in CONTENT {
            assert_eq!(fs::read(dir.join(name)).expect("there"), content, "{name}");
        }

        // All of it is there: only hashes are sent, and they are checked.
        let mut arriving = Arriving::begin(there.path(), files).expect("begun");
        let mut sent = Outgoing::open(here.path()).expect("listed");
        sent.leave_out(arriving.held()).expect("as many");
        let pieces = all(sent);
        assert!(pieces.iter().all(|piece| piece.bytes.is_empty()), "{pieces:?}");
        assert_eq!(pieces.iter().map(|piece| arriving.take(piece).expect("whole")).sum::<u64>(), 0);
        arriving.finish().expect("whole");
    }

    #[test]
    fn what_changed_on_the_way_is_found_and_sent_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let files = vec![File { name: "a.sst".into(), bytes: 6 }];
        let mut arriving = Arriving::begin(dir.path(), files.clone()).expect("begun");
        arriving.take(&piece(0, 0, b"abX", None)).expect("written");
        let error = arriving.take(&piece(0, 3, b"def", Some(b"abcdef"))).expect_err("a byte is another");
        assert!(error.to_string().contains("a.sst arrived as 6 bytes"), "{error}");
        assert_eq!(Arriving::begin(dir.path(), files).expect("begun").held(), [0], "it is sent again");
        for name in ["", "..", "a/b", "/etc/passwd"] {
            let files = vec![File { name: name.into(), bytes: 1 }];
            assert!(Arriving::begin(dir.path(), files).is_err(), "{name:?}");
        }
    }
}
