//! The bytes that go between nodes: a frame is a header and as many messages as were waiting.
//!
//! ```text
//! header (38 bytes)            every message
//! magic        4  "odgF"       kind      1  1 request, 2 answer, 3 refusal
//! version      1  1            id        8  of the request, also in what answers it
//! class        1  0, 1, 2      group     4  requests only
//! cluster      8               left      4  requests only: for how many ms the answer is of use
//! sender       8               length    4
//! incarnation  8  the sender's bytes     length
//! recipient    8
//! ```
//!
//! Numbers are big-endian. A frame ends with its last message. A refusal's bytes say why, in UTF-8. Reading is total: no
//! bytes make it panic, and nothing is allocated because a length was announced.

use bytes::Bytes;
use odgm_log::{GroupId, NodeId};

use super::Class;

/// What a sender packs into one frame; a larger message goes alone.
pub(crate) const FRAME_BYTES: usize = 512 << 10;

/// The largest frame that is sent or read: the largest record, and room for what surrounds it.
pub(crate) const MAX_FRAME_BYTES: usize = 80 << 20;

/// The bytes of a reason that a refusal carries.
pub(crate) const REASON_BYTES: usize = 1_024;

const MAGIC: [u8; 4] = *b"odgF";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 38;
const REQUEST_HEAD: usize = 21;
const ANSWER_HEAD: usize = 13;

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
const REFUSAL: u8 = 3;

/// A cluster, by a hash of its name: enough to notice that two clusters were wired together by mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClusterId(pub(crate) u64);

impl ClusterId {
    /// The cluster of this name.
    pub(crate) fn of(name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The bytes end within a header or a message.
    #[error("it ends early")]
    Short,
    /// The bytes do not begin as a frame does.
    #[error("it is not a frame")]
    NotAFrame,
    /// It was written by another format.
    #[error("it has format {0}; this build reads format {VERSION}")]
    Version(u8),
    /// No class has this number.
    #[error("it has class {0}, which is unknown")]
    Class(u8),
    /// No kind of message has this number.
    #[error("it has a message of kind {0}, which is unknown")]
    Kind(u8),
}

/// What all messages of a frame have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) class: Class,
    pub(crate) cluster: ClusterId,
    pub(crate) sender: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) recipient: NodeId,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Somebody asks.
    Request { id: u64, group: GroupId, left_ms: u32, bytes: Bytes },
    /// What was asked for.
    Answer { id: u64, bytes: Bytes },
    /// There will be no answer, and why.
    Refusal { id: u64, reason: Bytes },
}

impl Class {
    /// Its name in keys.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Log => "log",
            Self::Bulk => "bulk",
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Urgent => 0,
            Self::Log => 1,
            Self::Bulk => 2,
        }
    }

    const fn of_code(code: u8) -> Result<Self, FrameError> {
        match code {
            0 => Ok(Self::Urgent),
            1 => Ok(Self::Log),
            2 => Ok(Self::Bulk),
            _ => Err(FrameError::Class(code)),
        }
    }
}

impl Message {
    /// A refusal, whose reason is cut where it is long.
    pub(crate) fn refusal(id: u64, reason: &str) -> Self {
        let end = reason.floor_char_boundary(REASON_BYTES);
        Self::Refusal { id, reason: Bytes::copy_from_slice(&reason.as_bytes()[..end]) }
    }

    /// How many bytes of a frame it takes.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Request { bytes, .. } => REQUEST_HEAD + bytes.len(),
            Self::Answer { bytes, .. } | Self::Refusal { reason: bytes, .. } => ANSWER_HEAD + bytes.len(),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        let (kind, id, bytes) = match self {
            Self::Request { id, bytes, .. } => (REQUEST, id, bytes),
            Self::Answer { id, bytes } => (ANSWER, id, bytes),
            Self::Refusal { id, reason } => (REFUSAL, id, reason),
        };
        to.push(kind);
        to.extend_from_slice(&id.to_be_bytes());
        if let Self::Request { group, left_ms, .. } = self {
            to.extend_from_slice(&group.0.to_be_bytes());
            to.extend_from_slice(&left_ms.to_be_bytes());
        }
        to.extend_from_slice(&length(bytes).to_be_bytes());
        to.extend_from_slice(bytes);
    }
}

/// Invariant: who sends refuses messages beyond [`MAX_FRAME_BYTES`], which is far below `u32::MAX`.
#[allow(clippy::expect_used)]
fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("invariant: a message is smaller than the largest frame")
}

/// Packs messages into a frame. Each payload is copied once, into it.
pub(crate) fn encode<'a>(header: &Header, messages: impl Iterator<Item = &'a Message> + Clone) -> Vec<u8> {
    let size = messages.clone().map(Message::size).sum::<usize>();
    let mut frame = Vec::with_capacity(HEADER_BYTES + size);
    frame.extend_from_slice(&MAGIC);
    frame.push(VERSION);
    frame.push(header.class.code());
    frame.extend_from_slice(&header.cluster.0.to_be_bytes());
    frame.extend_from_slice(&header.sender.0.to_be_bytes());
    frame.extend_from_slice(&header.incarnation.to_be_bytes());
    frame.extend_from_slice(&header.recipient.0.to_be_bytes());
    for message in messages {
        message.write(&mut frame);
    }
    frame
}

/// Whether one message fits into a frame at all.
pub(crate) const fn fits(bytes: usize) -> bool {
    bytes <= MAX_FRAME_BYTES - HEADER_BYTES - REQUEST_HEAD
}

/// The header of a frame of which perhaps only the beginning is there; none where that is not enough of it.
pub(crate) fn decode_beginning(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    match decode_header(bytes) {
        Ok(header) => Ok(Some(header)),
        Err(FrameError::Short) => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode_header(frame: &[u8]) -> Result<Header, FrameError> {
    if take::<4>(frame, 0)? != MAGIC {
        return Err(FrameError::NotAFrame);
    }
    let [version, class] = take(frame, 4)?;
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    Ok(Header {
        class: Class::of_code(class)?,
        cluster: ClusterId(u64::from_be_bytes(take(frame, 6)?)),
        sender: NodeId(u64::from_be_bytes(take(frame, 14)?)),
        incarnation: u64::from_be_bytes(take(frame, 22)?),
        recipient: NodeId(u64::from_be_bytes(take(frame, 30)?)),
    })
}

/// Reads a frame as a whole, so that of a broken one nothing is heeded. The messages share its bytes.
pub(crate) fn decode(frame: Bytes) -> Result<(Header, Messages), FrameError> {
    let header = decode_header(&frame)?;
    let (mut at, mut total) = (HEADER_BYTES, 0);
    while at < frame.len() {
        at = Head::read(&frame, at)?.end;
        total += 1;
    }
    Ok((header, Messages { frame, at: HEADER_BYTES, total }))
}

/// The messages of a frame, in the order in which they were sent.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    frame: Bytes,
    at: usize,
    total: u64,
}

impl Messages {
    /// How many there were in the frame.
    pub(crate) const fn total(&self) -> u64 {
        self.total
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        let head = Head::read(&self.frame, self.at).ok()?;
        let bytes = self.frame.slice(head.begin..head.end);
        self.at = head.end;
        let Head { kind, id, group, left_ms, .. } = head;
        Some(match kind {
            Kind::Request => Message::Request { id, group, left_ms, bytes },
            Kind::Answer => Message::Answer { id, bytes },
            Kind::Refusal => Message::Refusal { id, reason: bytes },
        })
    }
}

enum Kind {
    Request,
    Answer,
    Refusal,
}

/// A message without its bytes, and where they are.
struct Head {
    kind: Kind,
    id: u64,
    group: GroupId,
    left_ms: u32,
    begin: usize,
    end: usize,
}

impl Head {
    fn read(frame: &[u8], at: usize) -> Result<Self, FrameError> {
        let kind = match take(frame, at)? {
            [REQUEST] => Kind::Request,
            [ANSWER] => Kind::Answer,
            [REFUSAL] => Kind::Refusal,
            [other] => return Err(FrameError::Kind(other)),
        };
        let id = u64::from_be_bytes(take(frame, at + 1)?);
        let (group, left_ms, begin) = match kind {
            Kind::Request => (u32_at(frame, at + 9)?, u32_at(frame, at + 13)?, at + REQUEST_HEAD),
            Kind::Answer | Kind::Refusal => (0, 0, at + ANSWER_HEAD),
        };
        let length = usize::try_from(u32_at(frame, begin - 4)?).map_err(|_| FrameError::Short)?;
        let end = begin.checked_add(length).filter(|end| *end <= frame.len()).ok_or(FrameError::Short)?;
        Ok(Self { kind, id, group: GroupId(group), left_ms, begin, end })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, FrameError> {
    Ok(u32::from_be_bytes(take(bytes, at)?))
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], FrameError> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(FrameError::Short)
}
