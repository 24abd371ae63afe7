//! The settings of a node, read from environment variables.
//!
//! [`table`] is the one place that names each variable with its default and meaning; reading, help text and
//! `odgm config` are all driven by it. A wrong value is refused when the node starts.

mod calls;
mod cluster;
mod parse;
mod table;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use odgm_replication::sessions::ZenohOptions;
use odgm_replication::{ClusterOptions, Definition, Options};

pub use calls::Calls;
pub use cluster::{EventLocality, ZenohRoutes};
pub use table::{Effect, Setting};

/// What a node is told by its environment.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen on.
    pub host: IpAddr,
    /// The port to listen on; 0 takes any that is free.
    pub port: u16,
    /// A file that is written with the port once the node listens.
    pub port_file: Option<PathBuf>,
    /// Collections to create when the node first sees their names.
    pub collections: Vec<Definition>,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
    /// How long a stopping node waits for requests that are under way.
    pub shutdown_grace: Duration,
    /// What is logged, and how.
    pub logging: Logging,
    /// Bounds of requests.
    pub limits: Limits,
    /// Where data are kept, and their bounds.
    pub store: Options,
    /// Who makes calls, and how.
    pub calls: Calls,
    /// How the node is part of a cluster, if it is.
    cluster: ClusterOptions,
    /// How it speaks Zenoh, if it does.
    zenoh: ZenohOptions,
    /// What it then serves over it.
    pub(crate) routes: ZenohRoutes,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default)]
pub struct Logging {
    /// Directives of `tracing`, such as `info` or `odgm_api=debug,warn`.
    pub filter: String,
    /// Text for people or JSON for machines.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object in each line.
    Json,
}

/// Bounds of requests; those of the store are in [`Options`].
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Bytes of one request message.
    pub request_bytes: usize,
    /// Requests under way in one connection.
    pub connection_requests: u32,
    /// Entries put or deleted by one request.
    pub request_entries: usize,
    /// Bytes of an id or key.
    pub id_bytes: usize,
    /// Unacknowledged writes of one write stream.
    pub write_stream_window: usize,
    /// How long a write stream waits for its next acknowledgement; up to twice as long before it ends.
    pub write_stream_patience: Duration,
    /// Subscriptions of the node.
    pub subscriptions: usize,
    /// Calls of the node whose clients wait.
    pub calls: usize,
    /// Bytes of their requests.
    pub call_bytes: usize,
    /// How long such a call may take where neither its client nor its collection says so.
    pub call_timeout: Duration,
}

/// A value that a setting does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: expected {expected}")]
pub struct ConfigError {
    /// The environment variable.
    pub name: &'static str,
    /// What it was set to.
    pub value: String,
    /// What would have been right.
    pub expected: String,
}

/// One setting as it stands, for people to read.
#[derive(Clone, Debug)]
pub struct Current {
    /// Name, default and meaning.
    pub setting: &'static Setting,
    /// What holds: the environment's value, or else the default.
    pub value: String,
    /// Whether the environment has set it.
    pub is_set: bool,
    /// Why the value would be refused.
    pub problem: Option<ConfigError>,
}

impl Config {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`ConfigError`] for the first value that a setting does not take.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// Reads variables from wherever `lookup` finds them. An empty value counts as unset.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let mut config = Self::blank();
        let mut speaks_zenoh = false;
        for setting in table::all() {
            let given = value_of(setting, &lookup)?;
            speaks_zenoh |= given.is_some() && setting.begins_zenoh;
            let value = given.as_deref().unwrap_or(setting.default);
            if !value.is_empty() {
                read(setting, &mut config, value)?;
            }
        }
        let is_member = !config.cluster.members.is_empty();
        config.store.cluster = is_member.then(|| config.cluster.clone());
        config.store.zenoh = (is_member || speaks_zenoh).then(|| config.zenoh.clone());
        Ok(config)
    }

    /// A place for the table's values: each is overwritten, or is right for an unset variable without a default.
    fn blank() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            port_file: None,
            collections: Vec::new(),
            reflection: false,
            shutdown_grace: Duration::ZERO,
            logging: Logging::default(),
            limits: Limits::default(),
            store: Options::new(""),
            calls: Calls::default(),
            cluster: ClusterOptions::default(),
            zenoh: ZenohOptions::default(),
            routes: ZenohRoutes::default(),
        }
    }
}

/// Every setting with what it is set to in the environment of this process.
pub fn settings() -> Vec<Current> {
    settings_from(|name| std::env::var_os(name))
}

/// Every setting with what `lookup` finds for it.
pub fn settings_from(lookup: impl Fn(&str) -> Option<OsString>) -> Vec<Current> {
    table::all().map(|setting| current(setting, &lookup)).collect()
}

/// Names in the environment of this process that begin like settings but are none: likely slips of the pen.
pub fn unknown_names() -> Vec<String> {
    let known = |name: &str| OTHER_NAMES.contains(&name) || table::all().any(|s| s.name == name);
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| name.starts_with("ODGM_") && !known(name)).collect()
}

/// Read by the command line, not by the node.
const OTHER_NAMES: [&str; 1] = ["ODGM_ENDPOINT"];

fn current(setting: &'static Setting, lookup: &impl Fn(&str) -> Option<OsString>) -> Current {
    match value_of(setting, lookup) {
        Err(problem) => {
            Current { setting, value: problem.value.clone(), is_set: true, problem: Some(problem) }
        }
        Ok(None) => Current { setting, value: setting.default.to_owned(), is_set: false, problem: None },
        Ok(Some(value)) => {
            let problem = read(setting, &mut Config::blank(), &value).err();
            Current { setting, value, is_set: true, problem }
        }
    }
}

fn value_of(
    setting: &'static Setting,
    lookup: &impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, ConfigError> {
    let value = lookup(setting.name).map(OsString::into_string).transpose().map_err(|raw| ConfigError {
        name: setting.name,
        value: raw.to_string_lossy().into_owned(),
        expected: "text in UTF-8".into(),
    })?;
    Ok(value.filter(|value| !value.is_empty()))
}

fn read(setting: &'static Setting, config: &mut Config, value: &str) -> Result<(), ConfigError> {
    (setting.read)(config, value).map_err(|expected| ConfigError {
        name: setting.name,
        value: value.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into())
    }

    #[test]
    fn the_listed_defaults_are_those_of_the_store() {
        let config = Config::from_lookup(with(&[])).expect("defaults are valid");
        let expected = Options::new("./data");
        assert_eq!(format!("{:#?}", config.store), format!("{expected:#?}"));
        assert_eq!((config.port, config.limits.request_bytes, config.limits.id_bytes), (8080, 4 << 20, 160));
        assert_eq!(config.calls.processor, odgm_triggers::processor::Settings::default());
        assert_eq!(config.calls.functions, odgm_triggers::functions::Settings::default());
    }

    #[test]
    fn odgm_names_win_and_empty_values_count_as_unset() {
        let config = Config::from_lookup(with(&[
            ("RUST_LOG", "warn"),
            ("ODGM_LOG", "debug"),
            ("LOG_FORMAT", "json"),
            ("ODGM_HTTP_PORT", ""),
            ("ODGM_NODE_ID", "rack-1"),
            ("ODGM_COLLECTION", r#"[{"name": "objects", "partition_count": 3}]"#),
        ]));
        let config = config.expect("valid");
        assert_eq!((config.logging.filter.as_str(), config.logging.format), ("debug", LogFormat::Json));
        assert_eq!((config.port, config.collections[0].partitions), (8080, 3));
        assert!(config.store.node.is_some());
    }

    #[test]
    fn a_wrong_value_is_refused_by_name_with_what_was_expected() {
        const WRONG: [(&str, &str); 12] = [
            ("ODGM_HTTP_PORT", "70000"),
            ("ODGM_HTTP_HOST", "localhost"),
            ("ODGM_NODE_ID", "two words"),
            ("ODGM_REFLECTION_ENABLED", "maybe"),
            ("ODGM_MAX_REQUEST_BYTES", "4MB"),
            ("ODGM_COLLECTION", "{"),
            ("ODGM_COLLECTION", r#"[{"name": "a", "shard_type": "mst"}]"#),
            ("ODGM_MEMBERS", "1,,2"),
            ("LOG_FORMAT", "xml"),
            ("ODGM_PAYLOAD_FORMAT", "xml"),
            ("ODGM_TRIGGER_TIMEOUT_MS", "0"),
            ("OPRC_ZENOH_MODE", "star"),
        ];
        let refusal = |at: usize| {
            let lookup = move |name: &str| (WRONG[at].0 == name).then(|| WRONG[at].1.into());
            Config::from_lookup(lookup).expect_err(WRONG[at].1).to_string()
        };
        let refusals: Vec<_> = (0..WRONG.len()).map(refusal).collect();
        insta::assert_snapshot!(refusals.join("\n"), @r#"
        ODGM_HTTP_PORT="70000": expected a whole number from 0 to 65535
        ODGM_HTTP_HOST="localhost": expected an IP address, as in 127.0.0.1
        ODGM_NODE_ID="two words": expected a number, or a name of 1 to 160 printable characters without spaces
        ODGM_REFLECTION_ENABLED="maybe": expected true or false
        ODGM_MAX_REQUEST_BYTES="4MB": expected bytes, from 1024 to 50331648, bare or as in 64MiB (KiB, MiB, GiB, TiB)
        ODGM_COLLECTION="{": expected a JSON array of collections, as in [{"name": "objects"}]: invalid type: map, expected a sequence at line 1 column 0
        ODGM_COLLECTION="[{\"name\": \"a\", \"shard_type\": \"mst\"}]": expected valid collections: "a" has shard_type: this build does not replicate by mst yet; expected raft, basic, none or single
        ODGM_MEMBERS="1,,2": expected node numbers or names separated by commas
        LOG_FORMAT="xml": expected text or json
        ODGM_PAYLOAD_FORMAT="xml": expected json, protobuf or protobuf-numeric
        ODGM_TRIGGER_TIMEOUT_MS="0": expected a whole number from 1 to 86400000
        OPRC_ZENOH_MODE="star": expected peer, client or router
        "#);
    }

    #[test]
    fn every_setting_is_listed_once_with_a_meaning_and_a_valid_default() {
        let settings = settings_from(with(&[("ODGM_HTTP_PORT", "x")]));
        for (at, current) in settings.iter().enumerate() {
            assert!(!current.setting.meaning.is_empty(), "{}", current.setting.name);
            assert!(settings[..at].iter().all(|other| other.setting.name != current.setting.name));
            assert_eq!(current.problem.is_some(), current.setting.name == "ODGM_HTTP_PORT");
        }
    }
}
