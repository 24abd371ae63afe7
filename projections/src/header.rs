//! The one row that says where a view is.

use bincode::{Decode, Encode};
use odgm_log::body::{Config, ConfigV1};
use odgm_log::{GroupId, Hash, Offset, Term, Timestamp};

use crate::calls::Calls;

/// The newest layout of a view's rows that this build knows. It reads those before, too; a view of a later one is refused.
pub const FORMAT: u8 = 2;

/// The layout before calls were in views. Views whose rules are those of then are written in it still, so that builds of then
/// can go on with them, and take them from this one as snapshots.
const FORMAT_1: u8 = 1;

/// The newest rules of apply that this build knows. Rules are only ever added, so that an old log always gives
/// the view that it gave when it was written.
pub const SEMANTICS: u32 = 2;

/// From these rules on records ask for calls, and those about calls take effect.
const SEMANTICS_OF_CALLS: u32 = 2;

/// Where a view is: everything that applying the next record needs besides the tables. It is written in the
/// same batch as the rows, and is a function of the records alone.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// The partition's group.
    pub group: GroupId,
    /// The last record in the view.
    pub applied: Offset,
    /// Its term.
    pub term: Term,
    /// Its time: the largest stamp up to it.
    pub time: Timestamp,
    /// The log's chain up to it.
    pub chain: Hash,
    /// What the row changes of all records hash to, folded record by record. Two views of one log that differ in
    /// any row differ in this; the header row and what pruning removes are not part of it.
    pub state: Hash,
    /// The version of the rules of apply.
    pub semantics: u32,
    /// The partition's rules.
    pub config: Config,
    /// How many objects exist.
    pub objects: u64,
    /// How many entries exist.
    pub entries: u64,
    /// How many deleted objects are remembered.
    pub tombstones: u64,
    /// The first offset that retention keeps. History below it is not shown.
    pub floor: Offset,
    /// The highest version of any object whose tombstone was forgotten; new objects begin above it.
    pub version_floor: u64,
    /// The remembered request ids.
    pub requests: RequestWindow,
    /// The newest row of the time index.
    pub time_indexed: Option<(Timestamp, Offset)>,
    /// Calls that wait, and what is known of others.
    pub calls: Calls,
}

/// The extent of the remembered request ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RequestWindow {
    /// How many.
    pub count: u64,
    /// How many bytes they are counted as.
    pub bytes: u64,
    /// The oldest.
    pub oldest: Option<(Timestamp, Offset)>,
}

/// Why a header row could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Its format is unknown.
    Format(u8),
    /// Its bytes make no sense.
    Damaged(String),
}

impl Header {
    /// The header of a view to which nothing has been applied.
    pub fn new(group: GroupId) -> Self {
        Self {
            group,
            applied: Offset::ZERO,
            term: Term(0),
            time: Timestamp(0),
            chain: Hash::ZERO,
            state: Hash::ZERO,
            semantics: 1,
            config: Config::default(),
            objects: 0,
            entries: 0,
            tombstones: 0,
            floor: Offset(1),
            version_floor: 0,
            requests: RequestWindow::default(),
            time_indexed: None,
            calls: Calls::default(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match HeaderV1::of(self) {
            Some(first) => encode_all(FORMAT_1, &first),
            None => encode_all(FORMAT, self),
        }
    }

    pub(crate) fn decode(row: &[u8]) -> Result<Self, HeaderError> {
        let (&format, rest) = row.split_first().ok_or_else(|| HeaderError::Damaged("it is empty".into()))?;
        match format {
            FORMAT => decode_all(rest),
            FORMAT_1 => decode_all::<HeaderV1>(rest).map(Self::from),
            _ => Err(HeaderError::Format(format)),
        }
    }

    /// Whether calls are part of this partition's rules. Without that no change asks for one, and records about calls are
    /// [`crate::Outcome::NotUnderstood`].
    pub fn has_calls(&self) -> bool {
        self.semantics >= SEMANTICS_OF_CALLS
    }
}

#[allow(clippy::expect_used)]
fn encode_all(format: u8, header: &impl Encode) -> Vec<u8> {
    let mut row = vec![format];
    bincode::encode_into_std_write(header, &mut row, bincode::config::standard())
        .expect("invariant: plain numbers always encode into memory");
    row
}

fn decode_all<T: Decode<()>>(bytes: &[u8]) -> Result<T, HeaderError> {
    let (header, used) = bincode::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|error| HeaderError::Damaged(error.to_string()))?;
    if used != bytes.len() {
        return Err(HeaderError::Damaged(format!("{} bytes are left over", bytes.len() - used)));
    }
    Ok(header)
}

/// [`Header`] as format 1 had it.
#[derive(Encode, Decode)]
struct HeaderV1 {
    group: GroupId,
    applied: Offset,
    term: Term,
    time: Timestamp,
    chain: Hash,
    state: Hash,
    semantics: u32,
    config: ConfigV1,
    objects: u64,
    entries: u64,
    tombstones: u64,
    floor: Offset,
    version_floor: u64,
    requests: RequestWindow,
    time_indexed: Option<(Timestamp, Offset)>,
}

impl HeaderV1 {
    /// What format 1 has of a header; none if that is not all of it.
    fn of(header: &Header) -> Option<Self> {
        let is_all = !header.has_calls() && header.calls == Calls::default();
        let config = header.config.in_version_1().filter(|_| is_all)?;
        Some(Self {
            group: header.group,
            applied: header.applied,
            term: header.term,
            time: header.time,
            chain: header.chain,
            state: header.state,
            semantics: header.semantics,
            config,
            objects: header.objects,
            entries: header.entries,
            tombstones: header.tombstones,
            floor: header.floor,
            version_floor: header.version_floor,
            requests: header.requests.clone(),
            time_indexed: header.time_indexed,
        })
    }
}

impl From<HeaderV1> for Header {
    fn from(first: HeaderV1) -> Self {
        Self {
            group: first.group,
            applied: first.applied,
            term: first.term,
            time: first.time,
            chain: first.chain,
            state: first.state,
            semantics: first.semantics,
            config: first.config.into(),
            objects: first.objects,
            entries: first.entries,
            tombstones: first.tombstones,
            floor: first.floor,
            version_floor: first.version_floor,
            requests: first.requests,
            time_indexed: first.time_indexed,
            calls: Calls::default(),
        }
    }
}
