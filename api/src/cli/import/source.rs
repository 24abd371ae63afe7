//! The lines of a file or of standard input, plain or compressed with gzip.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use indicatif::ProgressBar;

/// A longer line is refused; no request may be as large.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;

const BUFFER_BYTES: usize = 256 << 10;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Numbered lines.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
    number: u64,
}

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NumberedLine {
    /// From 1.
    pub(crate) number: u64,
    /// Its bytes.
    pub(crate) text: Vec<u8>,
}

/// The size of a file in bytes, where it says something about the work ahead.
pub(crate) fn size(path: &Path) -> Option<u64> {
    let metadata = path.metadata().ok()?;
    metadata.is_file().then_some(metadata.len())
}

impl Lines {
    /// Opens a file, or standard input for `-`. The bar advances by the bytes read.
    pub(crate) fn open(path: &Path, progress: &ProgressBar) -> io::Result<Self> {
        if path == Path::new("-") {
            Self::new(progress.wrap_read(io::stdin()))
        } else {
            Self::new(progress.wrap_read(File::open(path)?))
        }
    }

    /// The lines of what `input` gives; gzip is recognised by its first bytes.
    pub(crate) fn new(mut input: impl Read + Send + 'static) -> io::Result<Self> {
        // A pipe may give its first bytes one by one.
        let mut magic = Vec::new();
        input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let is_gzip = magic == GZIP_MAGIC;
        let input = BufReader::with_capacity(BUFFER_BYTES, io::Cursor::new(magic).chain(input));
        let reader: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(input)))
        } else {
            Box::new(input)
        };
        Ok(Self { reader, number: 0 })
    }

    /// The next line that is not blank.
    pub(crate) fn next(&mut self) -> io::Result<Option<NumberedLine>> {
        loop {
            let mut text = Vec::new();
            // One byte more than allowed, to tell a line of just that length from a longer one.
            let limit = MAX_LINE_BYTES as u64 + 2;
            if Read::take(&mut self.reader, limit).read_until(b'\n', &mut text)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            while text.last().is_some_and(u8::is_ascii_whitespace) {
                text.pop();
            }
            if text.len() > MAX_LINE_BYTES {
                let reason = format!("line {} is longer than {MAX_LINE_BYTES} bytes", self.number);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            if !text.is_empty() {
                return Ok(Some(NumberedLine { number: self.number, text }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn lines(bytes: Vec<u8>) -> Vec<(u64, String)> {
        let mut lines = Lines::new(io::Cursor::new(bytes)).expect("opens");
        std::iter::from_fn(|| lines.next().expect("reads"))
            .map(|line| (line.number, String::from_utf8(line.text).expect("text")))
            .collect()
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).expect("compresses");
        encoder.finish().expect("compresses")
    }

    #[test]
    fn lines_keep_their_numbers_when_blank_ones_are_skipped() {
        let expected = vec![(1, "one".to_owned()), (4, "four".to_owned()), (5, "last".to_owned())];
        assert_eq!(lines(b"one\r\n\n  \nfour\nlast".to_vec()), expected);
        assert_eq!(lines(Vec::new()), []);
    }

    #[test]
    fn gzip_is_recognised_also_in_several_members() {
        let mut bytes = gzip("one\ntwo\n");
        bytes.extend(gzip("three\n"));
        let expected = vec![(1, "one".to_owned()), (2, "two".to_owned()), (3, "three".to_owned())];
        assert_eq!(lines(bytes), expected);
    }

    #[test]
    fn a_torn_gzip_is_an_error() {
        let mut bytes = gzip(&"a line of text\n".repeat(100));
        bytes.truncate(bytes.len() - 9);
        let mut lines = Lines::new(io::Cursor::new(bytes)).expect("opens");
        let error = loop {
            match lines.next() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the end is missing, and nobody says so"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
