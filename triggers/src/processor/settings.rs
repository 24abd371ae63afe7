//! How calls are made, where a collection does not say it itself.

use std::time::Duration;

use odgm_replication::definition::{CallOptions, PayloadFormat};

/// How the processor makes calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Calls that one partition has under way at once.
    pub max_concurrent_triggers: usize,
    /// How long one attempt may take.
    pub trigger_timeout: Duration,
    /// Attempts before a call is given up.
    pub trigger_max_attempts: u32,
    /// The pause before the second attempt; it doubles with each further one.
    pub trigger_backoff: Duration,
    /// The longest such pause.
    pub trigger_backoff_max: Duration,
    /// Whether a line is logged for each call that a trigger asked for and that is settled or given up.
    pub event_logging: bool,
    /// In which form functions are told what happened.
    pub payload_format: PayloadFormat,
    /// Dead letters older than this are dropped.
    pub dead_letter_age: Duration,
    /// Beyond so many bytes of dead letters in a partition the oldest are dropped.
    pub dead_letter_bytes: u64,
    /// Bytes, for all partitions of a node, of what the calls are called with that are under way. It is the node's to say.
    pub payload_bytes: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_triggers: 100,
            trigger_timeout: Duration::from_secs(30),
            trigger_max_attempts: 20,
            trigger_backoff: Duration::from_millis(100),
            trigger_backoff_max: Duration::from_secs(60),
            event_logging: true,
            payload_format: PayloadFormat::Json,
            dead_letter_age: Duration::from_secs(30 * 24 * 60 * 60),
            dead_letter_bytes: 256 << 20,
            payload_bytes: 256 << 20,
        }
    }
}

impl Settings {
    /// What holds for a collection that says this.
    pub(super) fn with(&self, collection: &CallOptions) -> Self {
        Self {
            max_concurrent_triggers: collection
                .max_concurrent_triggers
                .unwrap_or(self.max_concurrent_triggers),
            trigger_timeout: collection.trigger_timeout.unwrap_or(self.trigger_timeout),
            trigger_max_attempts: collection.trigger_max_attempts.unwrap_or(self.trigger_max_attempts),
            trigger_backoff: collection.trigger_backoff.unwrap_or(self.trigger_backoff),
            trigger_backoff_max: collection.trigger_backoff_max.unwrap_or(self.trigger_backoff_max),
            event_logging: collection.event_logging.unwrap_or(self.event_logging),
            payload_format: collection.payload_format.unwrap_or(self.payload_format),
            dead_letter_age: collection.dead_letter_age.unwrap_or(self.dead_letter_age),
            dead_letter_bytes: collection.dead_letter_bytes.unwrap_or(self.dead_letter_bytes),
            payload_bytes: self.payload_bytes,
        }
    }
}
