//! The rules of a partition, as its own log has them.

use bincode::{Decode, Encode};

/// The rules of one partition, all that apply needs to know besides the operations themselves.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Config {
    /// Whether data changes are matched against triggers.
    pub events_enabled: bool,
    /// The deepest chain of triggers that is still dispatched.
    pub max_trigger_depth: u32,
    /// What `Set` does with entries that it does not name.
    pub set_mode: SetMode,
    /// The largest merged CRDT document, in bytes.
    pub max_crdt_bytes: u64,
    /// How long a request id is remembered, in milliseconds.
    pub dedup_window_ms: u64,
    /// After how many newer ids a request id is forgotten.
    pub dedup_max_ids: u64,
    /// How many bytes of request ids are remembered.
    pub dedup_max_bytes: u64,
    /// One time-index row is kept for each interval of this many milliseconds.
    pub time_index_interval_ms: u64,
    /// Calls that may wait in the outbox, and outcomes of calls that may wait to be delivered, together; at that, writes that
    /// would add calls are refused.
    pub max_outbox_rows: u64,
    /// The same for their bytes.
    pub max_outbox_bytes: u64,
    /// How long the result of an invocation is kept after its end, in milliseconds.
    pub result_retention_ms: u64,
    /// How many bytes of results are kept; beyond them the oldest go.
    pub max_result_bytes: u64,
}

/// What [`ConfigV1`] says of what it does not name: rules of logs that were written under it. They stay as they are,
/// whatever becomes of the defaults, so that such a log means the same to every build.
mod of_version_1 {
    pub(super) const MAX_OUTBOX_ROWS: u64 = 10_000_000;
    pub(super) const MAX_OUTBOX_BYTES: u64 = 4 << 30;
    pub(super) const RESULT_RETENTION_MS: u64 = 24 * 60 * 60 * 1_000;
    pub(super) const MAX_RESULT_BYTES: u64 = 1 << 30;
}

/// [`Config`] in its first version, for whoever reads or writes what builds of then read: turn it into one, or see
/// [`Config::in_version_1`].
#[derive(Clone, Debug, Encode, Decode)]
pub struct ConfigV1 {
    events_enabled: bool,
    max_trigger_depth: u32,
    set_mode: SetMode,
    max_crdt_bytes: u64,
    dedup_window_ms: u64,
    dedup_max_ids: u64,
    dedup_max_bytes: u64,
    time_index_interval_ms: u64,
}

impl From<ConfigV1> for Config {
    fn from(first: ConfigV1) -> Self {
        Self {
            events_enabled: first.events_enabled,
            max_trigger_depth: first.max_trigger_depth,
            set_mode: first.set_mode,
            max_crdt_bytes: first.max_crdt_bytes,
            dedup_window_ms: first.dedup_window_ms,
            dedup_max_ids: first.dedup_max_ids,
            dedup_max_bytes: first.dedup_max_bytes,
            time_index_interval_ms: first.time_index_interval_ms,
            max_outbox_rows: of_version_1::MAX_OUTBOX_ROWS,
            max_outbox_bytes: of_version_1::MAX_OUTBOX_BYTES,
            result_retention_ms: of_version_1::RESULT_RETENTION_MS,
            max_result_bytes: of_version_1::MAX_RESULT_BYTES,
        }
    }
}

impl Config {
    /// These rules, and what they say of calls as `rules` have it: of a log that was begun before there were calls.
    #[must_use]
    pub fn with_calls_of(self, rules: &Self) -> Self {
        Self {
            events_enabled: rules.events_enabled,
            max_trigger_depth: rules.max_trigger_depth,
            max_outbox_rows: rules.max_outbox_rows,
            max_outbox_bytes: rules.max_outbox_bytes,
            result_retention_ms: rules.result_retention_ms,
            max_result_bytes: rules.max_result_bytes,
            ..self
        }
    }

    /// The same rules as the first version has them; none if it cannot say them.
    pub fn in_version_1(&self) -> Option<ConfigV1> {
        let first = ConfigV1 {
            events_enabled: self.events_enabled,
            max_trigger_depth: self.max_trigger_depth,
            set_mode: self.set_mode,
            max_crdt_bytes: self.max_crdt_bytes,
            dedup_window_ms: self.dedup_window_ms,
            dedup_max_ids: self.dedup_max_ids,
            dedup_max_bytes: self.dedup_max_bytes,
            time_index_interval_ms: self.time_index_interval_ms,
        };
        (Self::from(first.clone()) == *self).then_some(first)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            events_enabled: true,
            max_trigger_depth: 10,
            set_mode: SetMode::Replace,
            max_crdt_bytes: 1 << 20,
            dedup_window_ms: 24 * 60 * 60 * 1_000,
            dedup_max_ids: 1_000_000,
            dedup_max_bytes: 256 << 20,
            time_index_interval_ms: 1_000,
            max_outbox_rows: 10_000_000,
            max_outbox_bytes: 4 << 30,
            result_retention_ms: 24 * 60 * 60 * 1_000,
            max_result_bytes: 1 << 30,
        }
    }
}

/// What `Set` does with entries that it does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub enum SetMode {
    /// They are removed: the contract's documented meaning.
    #[default]
    Replace,
    /// They stay: what the first implementation did.
    Upsert,
}
