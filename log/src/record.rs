//! One record of a log: a payload that is encoded once, and what stands beside it.

use bincode::{Decode, Encode};
use bytes::Bytes;

use crate::body::{Body, BodyType, Cause, ConfigV1, Payload};
use crate::ids::{NodeId, Offset, Term, Timestamp};

/// No encoded payload is larger than this; proposers refuse earlier, by their own limits.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 20;

const CODEC: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<{ 4 * MAX_PAYLOAD_BYTES }>,
> = bincode::config::standard().with_limit();

/// One record. The payload, the stamp and the origin are fixed by the proposer and travel, rest and are hashed
/// as they are; offset and term are given to it by the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub offset: Offset,
    /// The leader's term; 0 without Raft.
    pub term: Term,
    /// When the proposer stamped it. The time of a record is the largest stamp up to it, so time never goes back.
    pub stamp: Timestamp,
    /// The node that stamped it.
    pub origin: NodeId,
    /// What the payload is.
    pub kind: Kind,
    /// The encoded cause and body.
    pub payload: Bytes,
}

/// The type of a body and the version of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Which body.
    pub body_type: BodyType,
    /// Which version of its struct.
    pub body_version: u8,
}

/// Why a payload could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// A newer build wrote it.
    #[error("body {name} has version {found}; this build reads up to version {supported}: upgrade the node", name = .body_type.name())]
    UnknownVersion {
        /// The body.
        body_type: BodyType,
        /// The version in the envelope.
        found: u8,
        /// The newest version this build reads.
        supported: u8,
    },
    /// The bytes are not what the envelope says they are.
    #[error("the payload is not a {name}: {reason}", name = .body_type.name())]
    Malformed {
        /// The body that was expected.
        body_type: BodyType,
        /// What the decoder found.
        reason: String,
    },
    /// The body is larger than a record may be.
    #[error("the operation needs {bytes} bytes; a record holds at most {limit}", limit = MAX_PAYLOAD_BYTES)]
    TooLarge {
        /// The size of the encoding.
        bytes: usize,
    },
}

impl Payload {
    /// Encodes cause and body; done once, by the proposer.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`] if the operation does not fit a record.
    pub fn encode(&self) -> Result<(Kind, Bytes), PayloadError> {
        let body_type = self.body.body_type();
        let mut bytes = Vec::with_capacity(self.size_hint());
        let written = encode_into(&self.cause, &mut bytes).and_then(|()| match &self.body {
            Body::Set(body) => encode_into(body, &mut bytes),
            Body::Delete(body) => encode_into(body, &mut bytes),
            Body::Merge(body) => encode_into(body, &mut bytes),
            Body::SetValues(body) => encode_into(body, &mut bytes),
            Body::CursorMoved(body) => encode_into(body, &mut bytes),
            Body::Config(body) => encode_into(body, &mut bytes),
            Body::Semantics(body) => encode_into(body, &mut bytes),
            Body::Trimmed(body) => encode_into(body, &mut bytes),
            Body::CollectTombstones(body) => encode_into(body, &mut bytes),
            Body::Blank => Ok(()),
            Body::Membership(body) => encode_into(body, &mut bytes),
            Body::Invoke(body) => encode_into(body, &mut bytes),
            Body::Outcome(body) => encode_into(body, &mut bytes),
            Body::TriggerSettled(body) => encode_into(body, &mut bytes),
            Body::Delivered(body) => encode_into(body, &mut bytes),
            Body::Redrive(body) => encode_into(body, &mut bytes),
            Body::Discard(body) => encode_into(body, &mut bytes),
        });
        written.map_err(|error| PayloadError::Malformed { body_type, reason: error.to_string() })?;
        if bytes.len() > MAX_PAYLOAD_BYTES {
            return Err(PayloadError::TooLarge { bytes: bytes.len() });
        }
        Ok((Kind { body_type, body_version: body_type.version() }, bytes.into()))
    }

    /// Reads a payload back. The whole of `bytes` must be used.
    ///
    /// # Errors
    /// [`PayloadError::UnknownVersion`] for a body written by a newer build, [`PayloadError::Malformed`] otherwise.
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, PayloadError> {
        let Kind { body_type, body_version } = kind;
        if body_version == 0 || body_version > body_type.version() {
            return Err(PayloadError::UnknownVersion {
                body_type,
                found: body_version,
                supported: body_type.version(),
            });
        }
        let malformed = |reason: String| PayloadError::Malformed { body_type, reason };
        let (cause, used): (Cause, usize) =
            bincode::decode_from_slice(bytes, CODEC).map_err(|error| malformed(error.to_string()))?;
        let rest = bytes.get(used..).unwrap_or_default();
        let body = match body_type {
            BodyType::Set => decode_all(rest).map(Body::Set),
            BodyType::Delete => decode_all(rest).map(Body::Delete),
            BodyType::Merge => decode_all(rest).map(Body::Merge),
            BodyType::SetValues => decode_all(rest).map(Body::SetValues),
            BodyType::CursorMoved => decode_all(rest).map(Body::CursorMoved),
            BodyType::Config if body_version == 1 => {
                decode_all::<ConfigV1>(rest).map(|first| Body::Config(first.into()))
            }
            BodyType::Config => decode_all(rest).map(Body::Config),
            BodyType::Semantics => decode_all(rest).map(Body::Semantics),
            BodyType::Trimmed => decode_all(rest).map(Body::Trimmed),
            BodyType::CollectTombstones => decode_all(rest).map(Body::CollectTombstones),
            BodyType::Blank => decode_all(rest).map(|()| Body::Blank),
            BodyType::Membership => decode_all(rest).map(Body::Membership),
            BodyType::Invoke => decode_all(rest).map(Body::Invoke),
            BodyType::Outcome => decode_all(rest).map(Body::Outcome),
            BodyType::TriggerSettled => decode_all(rest).map(Body::TriggerSettled),
            BodyType::Delivered => decode_all(rest).map(Body::Delivered),
            BodyType::Redrive => decode_all(rest).map(Body::Redrive),
            BodyType::Discard => decode_all(rest).map(Body::Discard),
        }
        .map_err(malformed)?;
        Ok(Self { cause, body })
    }

    /// The part of the encoding that is the body: without the cause, equal operations have equal bytes. `encoded` is
    /// what [`Self::encode`] gave for this payload.
    pub fn body_bytes<'a>(&self, encoded: &'a [u8]) -> &'a [u8] {
        let mut size = bincode::enc::EncoderImpl::new(bincode::enc::write::SizeWriter::default(), CODEC);
        let cause = self.cause.encode(&mut size).map_or(0, |()| size.into_writer().bytes_written);
        encoded.get(cause..).unwrap_or_default()
    }

    /// Roughly the encoded size, so that encoding allocates once.
    fn size_hint(&self) -> usize {
        fn entries(entries: &[(String, crate::body::Value)]) -> usize {
            entries.iter().map(|(key, value)| key.len() + value.data.len() + 8).sum()
        }
        let body = match &self.body {
            Body::Set(body) => body.object.len() + entries(&body.entries),
            Body::Merge(body) => body.object.len() + entries(&body.entries),
            Body::SetValues(body) => body.object.len() + entries(&body.puts) + 24 * body.deletes.len(),
            Body::Invoke(body) => body.payload.0.len() + 128,
            Body::Outcome(body) => body.finished.payload.0.len() + 128,
            _ => 64,
        };
        64 + body
    }
}

impl Record {
    /// Reads the cause and the body.
    ///
    /// # Errors
    /// As [`Payload::decode`].
    pub fn decode(&self) -> Result<Payload, PayloadError> {
        Payload::decode(self.kind, &self.payload)
    }

    /// The memory that keeping this record costs, in bytes.
    pub fn weight(&self) -> usize {
        self.payload.len() + std::mem::size_of::<Self>()
    }
}

fn encode_into<T: Encode>(value: &T, bytes: &mut Vec<u8>) -> Result<(), bincode::error::EncodeError> {
    bincode::encode_into_std_write(value, bytes, CODEC).map(|_| ())
}

fn decode_all<T: Decode<()>>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = bincode::decode_from_slice(bytes, CODEC).map_err(|error| error.to_string())?;
    if used != bytes.len() {
        return Err(format!("{} bytes are left over", bytes.len() - used));
    }
    Ok(value)
}
