//! The options of a collection that concern triggers, functions and their calls.

use std::ops::RangeInclusive;
use std::time::Duration;

use odgm_log::body::Config;

use super::{Invalid, bytes_of, invalid, parse_bool, shortened};

/// What a collection says of calls. None: as the node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// By which rules apply queues and keeps them; fixed when a partition begins.
    pub rules: CallRules,
    /// Calls that one partition has under way at once.
    pub max_concurrent_triggers: Option<usize>,
    /// How long one attempt may take.
    pub trigger_timeout: Option<Duration>,
    /// Attempts before a call is given up.
    pub trigger_max_attempts: Option<u32>,
    /// The pause before the second attempt; it doubles with each further one.
    pub trigger_backoff: Option<Duration>,
    /// The longest such pause.
    pub trigger_backoff_max: Option<Duration>,
    /// Whether a line is logged for each call that a trigger asked for and that is settled or given up.
    pub event_logging: Option<bool>,
    /// In which form functions are told what happened.
    pub payload_format: Option<PayloadFormat>,
    /// Dead letters older than this are dropped.
    pub dead_letter_age: Option<Duration>,
    /// Beyond so many bytes of dead letters in a partition the oldest are dropped.
    pub dead_letter_bytes: Option<u64>,
    /// How long a call may take whose client does not say how long it waits.
    pub invoke_timeout: Option<Duration>,
    /// Whether only the leader of a partition answers calls over Zenoh.
    pub invoke_only_primary: bool,
    /// Connections to one endpoint of a function.
    pub pool_size: usize,
    /// How long a connection is kept that nobody uses.
    pub pool_idle: Duration,
    /// How long a connection is used at most.
    pub pool_lifetime: Duration,
}

/// Rules of apply that a new partition begins with. None: as the node has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallRules {
    /// Whether changes are matched against triggers.
    pub events_enabled: Option<bool>,
    /// The deepest chain of triggers that is still called.
    pub max_trigger_depth: Option<u32>,
    /// Calls that may wait in a partition.
    pub outbox_max_rows: Option<u64>,
    /// Their bytes.
    pub outbox_max_bytes: Option<u64>,
    /// How long a result is kept, in milliseconds.
    pub result_retention_ms: Option<u64>,
    /// Bytes of results that are kept.
    pub result_max_bytes: Option<u64>,
}

/// In which form functions are told what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadFormat {
    /// `oprc.TriggerPayload` as JSON.
    #[default]
    Json,
    /// The message itself.
    Protobuf,
    /// `oprc.NumericTriggerPayload`, for clients that read an entry's key as a number.
    ProtobufNumeric,
}

impl PayloadFormat {
    /// Reads the word by which collections and nodes name a form.
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "json" => Some(Self::Json),
            "protobuf" => Some(Self::Protobuf),
            "protobuf-numeric" => Some(Self::ProtobufNumeric),
            _ => None,
        }
    }
}

/// Options that become rules of apply.
pub(super) const RULES: [&str; 6] = [
    "events_enabled",
    "max_trigger_depth",
    "outbox_max_bytes",
    "outbox_max_rows",
    "result_max_bytes",
    "result_retention_ms",
];

/// The others.
pub(super) const CHANGEABLE: [&str; 14] = [
    "dead_letter_age_ms",
    "dead_letter_max_bytes",
    "enable_event_logging",
    "invoke_only_primary",
    "invoke_timeout_ms",
    "max_concurrent_triggers",
    "offload_max_pool_size",
    "payload_format",
    "pool_max_idle_lifetime",
    "pool_max_lifetime",
    "trigger_backoff_max_ms",
    "trigger_backoff_ms",
    "trigger_max_attempts",
    "trigger_timeout_ms",
];

/// A year, in milliseconds.
const YEAR: u64 = 365 * 24 * 60 * 60 * 1_000;
const DAY: u64 = 24 * 60 * 60 * 1_000;

impl Default for CallOptions {
    fn default() -> Self {
        Self {
            rules: CallRules::default(),
            max_concurrent_triggers: None,
            trigger_timeout: None,
            trigger_max_attempts: None,
            trigger_backoff: None,
            trigger_backoff_max: None,
            event_logging: None,
            payload_format: None,
            dead_letter_age: None,
            dead_letter_bytes: None,
            invoke_timeout: None,
            invoke_only_primary: true,
            pool_size: 64,
            pool_idle: Duration::from_secs(30),
            pool_lifetime: Duration::from_secs(600),
        }
    }
}

impl CallOptions {
    /// Takes an option over; whether it is one of these.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool, Invalid> {
        let rules = &mut self.rules;
        match name {
            "events_enabled" => rules.events_enabled = Some(parse_bool(name, value)?),
            "max_trigger_depth" => rules.max_trigger_depth = Some(number(name, value, 0..=1_000_000)?),
            "outbox_max_rows" => rules.outbox_max_rows = Some(number(name, value, 0..=1_000_000_000)?),
            "outbox_max_bytes" => rules.outbox_max_bytes = Some(bytes(name, value)?),
            "result_retention_ms" => rules.result_retention_ms = Some(number(name, value, 0..=YEAR)?),
            "result_max_bytes" => rules.result_max_bytes = Some(bytes(name, value)?),
            "max_concurrent_triggers" => {
                self.max_concurrent_triggers = Some(number(name, value, 1..=100_000)?);
            }
            "trigger_timeout_ms" => self.trigger_timeout = Some(millis(name, value, 1..=DAY)?),
            "trigger_max_attempts" => self.trigger_max_attempts = Some(number(name, value, 1..=1_000_000)?),
            "trigger_backoff_ms" => self.trigger_backoff = Some(millis(name, value, 1..=DAY)?),
            "trigger_backoff_max_ms" => self.trigger_backoff_max = Some(millis(name, value, 1..=DAY)?),
            "enable_event_logging" => self.event_logging = Some(parse_bool(name, value)?),
            "payload_format" => self.payload_format = Some(parse_format(value)?),
            "dead_letter_age_ms" => self.dead_letter_age = Some(millis(name, value, 1..=10 * YEAR)?),
            "dead_letter_max_bytes" => self.dead_letter_bytes = Some(bytes(name, value)?),
            "invoke_timeout_ms" => self.invoke_timeout = Some(millis(name, value, 1..=DAY)?),
            "invoke_only_primary" => self.invoke_only_primary = parse_bool(name, value)?,
            "offload_max_pool_size" => self.pool_size = number(name, value, 1..=10_000)?,
            "pool_max_idle_lifetime" => self.pool_idle = millis(name, value, 1..=DAY)?,
            "pool_max_lifetime" => self.pool_lifetime = millis(name, value, 1..=YEAR)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl CallRules {
    /// The rules of a new partition whose node has these.
    pub(crate) fn over(&self, node: &Config) -> Config {
        Config {
            events_enabled: self.events_enabled.unwrap_or(node.events_enabled),
            max_trigger_depth: self.max_trigger_depth.unwrap_or(node.max_trigger_depth),
            max_outbox_rows: self.outbox_max_rows.unwrap_or(node.max_outbox_rows),
            max_outbox_bytes: self.outbox_max_bytes.unwrap_or(node.max_outbox_bytes),
            result_retention_ms: self.result_retention_ms.unwrap_or(node.result_retention_ms),
            max_result_bytes: self.result_max_bytes.unwrap_or(node.max_result_bytes),
            ..node.clone()
        }
    }
}

fn parse_format(value: &str) -> Result<PayloadFormat, Invalid> {
    PayloadFormat::parse(value).ok_or_else(|| {
        let reason = format!("{:?}; expected json, protobuf or protobuf-numeric", shortened(value));
        invalid("options.payload_format", reason)
    })
}

fn number<T>(option: &str, value: &str, bounds: RangeInclusive<u64>) -> Result<T, Invalid>
where
    T: TryFrom<u64>,
{
    let number = value.parse().ok().filter(|number| bounds.contains(number));
    number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        let (first, last) = (bounds.start(), bounds.end());
        let reason = format!("{:?}; expected a whole number from {first} to {last}", shortened(value));
        invalid(&format!("options.{option}"), reason)
    })
}

fn millis(option: &str, value: &str, bounds: RangeInclusive<u64>) -> Result<Duration, Invalid> {
    number(option, value, bounds).map(Duration::from_millis)
}

/// Bare bytes, or with a unit.
fn bytes(option: &str, value: &str) -> Result<u64, Invalid> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let unit = if unit.is_empty() { Some(1) } else { bytes_of(unit) };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| {
        let reason = format!("{:?}; expected bytes, bare or as in 64MiB", shortened(value));
        invalid(&format!("options.{option}"), reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_taken_and_a_slip_is_named() {
        let mut options = CallOptions::default();
        for name in RULES.into_iter().chain(CHANGEABLE) {
            let value = match name {
                "events_enabled" | "enable_event_logging" | "invoke_only_primary" => "false",
                "payload_format" => "protobuf",
                _ => "7",
            };
            assert_eq!(options.set(name, value), Ok(true), "{name}");
            let refused = options.set(name, "seven").expect_err("no value").to_string();
            assert!(refused.starts_with(&format!("options.{name}: \"seven\"; expected ")), "{refused}");
        }
        assert_eq!(options.set("storage", "memory"), Ok(false));
        let rules = options.rules.over(&Config::default());
        assert_eq!((rules.max_outbox_rows, rules.events_enabled), (7, false));
        assert_eq!(options.trigger_timeout, Some(Duration::from_millis(7)));
        assert_eq!(options.set("outbox_max_bytes", "64MiB"), Ok(true));
        assert_eq!(options.rules.outbox_max_bytes, Some(64 << 20));
    }
}
