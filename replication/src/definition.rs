//! What a collection is: its partitions, how they are replicated and stored, and by which rules they apply.

mod calls;

use std::collections::BTreeMap;
use std::time::Duration;

use odgm_log::body::SetMode;
use odgm_projections::storage::Engine;
use odgm_proto::oprc::CreateCollectionRequest;

use crate::reading::Consistency;

pub use self::calls::{CallOptions, CallRules, PayloadFormat};

/// Partition ids are 0 to 65,535.
pub const MAX_PARTITIONS: u32 = 65_536;

/// On how many nodes a partition is at most.
pub const MAX_REPLICAS: usize = 9;
/// On how many nodes the partitions of a raft collection are if it does not say.
pub const DEFAULT_REPLICAS: usize = 3;

/// The longest name of a collection, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// A checked definition of a collection.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// The class.
    pub name: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// How a command becomes a committed record.
    pub replication: Replication,
    /// On how many nodes each partition is to be, as far as there are so many.
    pub replicas: usize,
    /// Its options, with defaults filled in.
    pub options: Options,
    /// The definition as it came, with the defaults of this build filled in; kept in the catalogue.
    pub wire: CreateCollectionRequest,
}

/// How a command becomes a committed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// One replica on one node: `basic`, `none`, `single`.
    Local,
    /// Several replicas, of which a majority has every record that is acknowledged: `raft`.
    Raft,
}

/// The options of a collection that this build acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The engine of its views.
    pub storage: Engine,
    /// How much of its log is kept.
    pub retention: Retention,
    /// What `Set` does with entries that it does not name.
    pub set_mode: SetMode,
    /// How fresh a read is that does not say so itself.
    pub consistency: Consistency,
    /// Whether only the node that is to lead makes a new group of replicas; else others do when it is late.
    pub raft_init_leader_only: bool,
    /// Whether only the leader of a partition answers over Zenoh.
    pub raft_net_leader_only: bool,
    /// What concerns triggers, functions and their calls.
    pub calls: CallOptions,
}

/// How much of a log is kept. With both bounds, what is beyond either may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this may go.
    pub age: Option<Duration>,
    /// Records before the newest so many bytes may go.
    pub bytes: Option<u64>,
}

/// A definition that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// The field or option.
    pub field: String,
    /// What was expected.
    pub reason: String,
}

/// Options of the contract that concern anti-entropy, or that nothing reads: kept with the collection.
const KEPT_OPTIONS: [&str; 5] =
    ["batch_size", "enable_metrics", "mst_gc_grace", "mst_sync_interval", "timeout_ms"];

/// Options that partitions begin with, and keep.
const FIXED_OPTIONS: [&str; 3] = ["raft_init_leader_only", "set_mode", "storage"];

impl Definition {
    /// The definition with other options: those that are not named stay, an empty value gives one its default back.
    ///
    /// # Errors
    /// [`Invalid`], naming the option and what was expected; of one that cannot be changed, that.
    pub fn with_options(&self, changes: BTreeMap<String, String>) -> Result<Self, Invalid> {
        let mut wire = self.wire.clone();
        for (name, value) in changes {
            if FIXED_OPTIONS.contains(&name.as_str()) || calls::RULES.contains(&name.as_str()) {
                let reason =
                    "it is fixed when a collection is created; expected another option, or a new collection";
                return Err(invalid(&format!("options.{name}"), reason.to_owned()));
            }
            if value.is_empty() {
                wire.options.remove(&name);
            } else {
                wire.options.insert(name, value);
            }
        }
        Self::from_catalogue(wire)
    }

    /// Checks the definition of a new collection and fills in what it leaves open.
    ///
    /// # Errors
    /// [`Invalid`], naming the field and what was expected.
    pub fn from_wire(wire: CreateCollectionRequest) -> Result<Self, Invalid> {
        if wire.name.starts_with('_') {
            let reason = format!(
                "{:?}; expected one that does not begin with _, as the node's own do",
                shortened(&wire.name)
            );
            return Err(invalid("name", reason));
        }
        Self::from_catalogue(wire)
    }

    /// Checks the definition of an existing collection.
    ///
    /// # Errors
    /// As [`Definition::from_wire`].
    pub(crate) fn from_catalogue(mut wire: CreateCollectionRequest) -> Result<Self, Invalid> {
        check_name(&wire.name)?;
        if wire.partition_count == 0 {
            wire.partition_count = 1;
        }
        let partitions = u32::try_from(wire.partition_count)
            .ok()
            .filter(|count| *count <= MAX_PARTITIONS)
            .ok_or_else(|| {
                let reason = format!("{} partitions; expected 1 to {MAX_PARTITIONS}", wire.partition_count);
                invalid("partition_count", reason)
            })?;
        if wire.shard_type.is_empty() {
            "single".clone_into(&mut wire.shard_type);
        }
        let replication = Replication::parse(&wire.shard_type)?;
        let replicas = replication.replicas(&wire)?;
        wire.replica_count = i32::try_from(replicas).unwrap_or(i32::MAX);
        let given: BTreeMap<_, _> = wire.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let options = Options::parse(&given)?;
        for (option, default) in [("storage", "rocksdb"), ("retention", "all"), ("set_mode", "replace")] {
            wire.options.entry(option.to_owned()).or_insert_with(|| default.to_owned());
        }
        Ok(Self { name: wire.name.clone(), partitions, replication, replicas, options, wire })
    }
}

impl Replication {
    fn parse(shard_type: &str) -> Result<Self, Invalid> {
        match shard_type {
            "basic" | "none" | "single" => Ok(Self::Local),
            "raft" => Ok(Self::Raft),
            "mst" => Err(invalid(
                "shard_type",
                "this build does not replicate by mst yet; expected raft, basic, none or single".to_owned(),
            )),
            other => {
                let found = shortened(other);
                Err(invalid("shard_type", format!("{found:?}; expected raft, basic, none or single")))
            }
        }
    }

    /// How many replicas a definition asks for.
    fn replicas(self, wire: &CreateCollectionRequest) -> Result<usize, Invalid> {
        let (default, most) = match self {
            Self::Local => (1, 1),
            Self::Raft => (DEFAULT_REPLICAS, MAX_REPLICAS),
        };
        match usize::try_from(wire.replica_count) {
            Ok(0) => Ok(default),
            Ok(replicas) if replicas <= most => Ok(replicas),
            _ => {
                let (asked, shard_type) = (wire.replica_count, &wire.shard_type);
                let reason = if most == 1 {
                    format!("{asked} replicas of a {shard_type} collection; it keeps 1: leave it 0 or 1")
                } else {
                    format!(
                        "{asked} replicas of a {shard_type} collection; expected 1 to {most}, or 0 for {default}"
                    )
                };
                Err(invalid("replica_count", reason))
            }
        }
    }
}

impl Options {
    fn parse(given: &BTreeMap<&str, &str>) -> Result<Self, Invalid> {
        let mut options = Self {
            storage: Engine::RocksDb,
            retention: Retention::default(),
            set_mode: SetMode::Replace,
            consistency: Consistency::Linearizable,
            raft_init_leader_only: false,
            raft_net_leader_only: false,
            calls: CallOptions::default(),
        };
        for (&name, &value) in given {
            match name {
                "storage" => options.storage = parse_storage(value)?,
                "retention" => options.retention = Retention::parse(value)?,
                "set_mode" => options.set_mode = parse_set_mode(value)?,
                "consistency" => options.consistency = parse_consistency(value)?,
                "raft_init_leader_only" => options.raft_init_leader_only = parse_bool(name, value)?,
                "raft_net_leader_only" => options.raft_net_leader_only = parse_bool(name, value)?,
                kept if KEPT_OPTIONS.contains(&kept) => {}
                call if options.calls.set(call, value)? => {}
                unknown => return Err(unknown_option(unknown)),
            }
        }
        Ok(options)
    }
}

impl Retention {
    /// Whether everything is kept.
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }

    /// Reads `all`, or one age and one size separated by a comma: `7d`, `10GiB`, `12h,500MiB`.
    fn parse(text: &str) -> Result<Self, Invalid> {
        let mut retention = Self::default();
        if text == "all" {
            return Ok(retention);
        }
        let expected = || {
            let reason = format!(
                "{:?}; expected all, an age (30s, 15m, 12h, 7d), a size (512MiB, 10GiB), or age,size",
                shortened(text)
            );
            invalid("options.retention", reason)
        };
        for term in text.split(',').map(str::trim) {
            let digits = term.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
            let (number, unit) = term.split_at(digits);
            let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(expected)?;
            if let Some(seconds) = seconds_of(unit) {
                let age = number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(expected)?;
                if retention.age.replace(age).is_some() {
                    return Err(expected());
                }
            } else {
                let bytes = bytes_of(unit).and_then(|unit| number.checked_mul(unit)).ok_or_else(expected)?;
                if retention.bytes.replace(bytes).is_some() {
                    return Err(expected());
                }
            }
        }
        Ok(retention)
    }
}

fn seconds_of(unit: &str) -> Option<u64> {
    match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        _ => None,
    }
}

fn bytes_of(unit: &str) -> Option<u64> {
    match unit {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    }
}

fn check_name(name: &str) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    let reason = format!("{:?}; expected 1 to {MAX_NAME_BYTES} of A-Z a-z 0-9 . _ -", shortened(name));
    Err(invalid("name", reason))
}

fn parse_storage(value: &str) -> Result<Engine, Invalid> {
    match value {
        "rocksdb" => Ok(Engine::RocksDb),
        "memory" => Ok(Engine::Memory),
        _ => Err(invalid("options.storage", format!("{:?}; expected rocksdb or memory", shortened(value)))),
    }
}

fn parse_set_mode(value: &str) -> Result<SetMode, Invalid> {
    match value {
        "replace" => Ok(SetMode::Replace),
        "upsert" => Ok(SetMode::Upsert),
        _ => Err(invalid("options.set_mode", format!("{:?}; expected replace or upsert", shortened(value)))),
    }
}

fn parse_consistency(value: &str) -> Result<Consistency, Invalid> {
    Consistency::parse(value).ok_or_else(|| {
        let reason = format!("{:?}; expected linearizable, lease or local", shortened(value));
        invalid("options.consistency", reason)
    })
}

fn parse_bool(option: &str, value: &str) -> Result<bool, Invalid> {
    value.parse().map_err(|_| {
        invalid(&format!("options.{option}"), format!("{:?}; expected true or false", shortened(value)))
    })
}

fn unknown_option(name: &str) -> Invalid {
    let mut known = vec![
        "consistency",
        "raft_init_leader_only",
        "raft_net_leader_only",
        "retention",
        "set_mode",
        "storage",
    ];
    known.extend(KEPT_OPTIONS);
    known.extend(calls::RULES);
    known.extend(calls::CHANGEABLE);
    known.sort_unstable();
    invalid(
        &format!("options.{}", shortened(name)),
        format!("no such option; expected one of {}", known.join(", ")),
    )
}

/// Enough of a text to recognise it by.
fn shortened(text: &str) -> &str {
    const ENOUGH: usize = 64;
    text.char_indices().nth(ENOUGH).map_or(text, |(at, _)| &text[..at])
}

fn invalid(field: &str, reason: String) -> Invalid {
    Invalid { field: field.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(name: &str, options: &[(&str, &str)]) -> CreateCollectionRequest {
        CreateCollectionRequest {
            name: name.into(),
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        }
    }

    fn refusal(wire: CreateCollectionRequest) -> String {
        Definition::from_wire(wire).expect_err("must be refused").to_string()
    }

    #[test]
    fn what_is_left_open_is_filled_in() {
        let definition = Definition::from_wire(wire("Video", &[])).expect("valid");
        assert_eq!((definition.partitions, definition.replication), (1, Replication::Local));
        assert_eq!(definition.wire.options["retention"], "all");
        let again = Definition::from_wire(definition.wire.clone()).expect("valid");
        assert_eq!(again, definition, "a filled-in definition is its own fixed point");
    }

    #[test]
    fn retention_is_an_age_a_size_or_both() {
        let parse = |text: &str| {
            Definition::from_wire(wire("c", &[("retention", text)])).map(|d| d.options.retention)
        };
        let week = Duration::from_secs(7 * 24 * 3600);
        assert_eq!(parse("7d"), Ok(Retention { age: Some(week), bytes: None }));
        assert_eq!(parse("7d, 10GiB"), Ok(Retention { age: Some(week), bytes: Some(10 << 30) }));
        for bad in ["", "7", "0s", "7d,8d", "10GB", "-1s", "99999999999999999999d", "d"] {
            assert!(parse(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn refusals_name_the_field_and_what_was_expected() {
        let mut mst = wire("c", &[]);
        mst.shard_type = "mst".into();
        let mut many = wire("c", &[]);
        many.partition_count = 70_000;
        let mut replicas = wire("c", &[]);
        replicas.replica_count = 3;
        let refusals = [
            refusal(mst),
            refusal(many),
            refusal(replicas),
            refusal(wire("no/slash", &[])),
            refusal(wire(&"n".repeat(129), &[])),
            refusal(wire("_catalogue", &[])),
            refusal(wire("c", &[("storage", "fjall")])),
            refusal(wire("c", &[("storage", &"s".repeat(10_000))])),
            refusal(wire("c", &[("set_mode", "merge")])),
            refusal(wire("c", &[("retenton", "7d")])),
        ];
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        shard_type: this build does not replicate by mst yet; expected raft, basic, none or single
        partition_count: 70000 partitions; expected 1 to 65536
        replica_count: 3 replicas of a single collection; it keeps 1: leave it 0 or 1
        name: "no/slash"; expected 1 to 128 of A-Z a-z 0-9 . _ -
        name: "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"; expected 1 to 128 of A-Z a-z 0-9 . _ -
        name: "_catalogue"; expected one that does not begin with _, as the node's own do
        options.storage: "fjall"; expected rocksdb or memory
        options.storage: "ssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss"; expected rocksdb or memory
        options.set_mode: "merge"; expected replace or upsert
        options.retenton: no such option; expected one of batch_size, consistency, dead_letter_age_ms, dead_letter_max_bytes, enable_event_logging, enable_metrics, events_enabled, invoke_only_primary, invoke_timeout_ms, max_concurrent_triggers, max_trigger_depth, mst_gc_grace, mst_sync_interval, offload_max_pool_size, outbox_max_bytes, outbox_max_rows, payload_format, pool_max_idle_lifetime, pool_max_lifetime, raft_init_leader_only, raft_net_leader_only, result_max_bytes, result_retention_ms, retention, set_mode, storage, timeout_ms, trigger_backoff_max_ms, trigger_backoff_ms, trigger_max_attempts, trigger_timeout_ms
        "#);
    }
}
