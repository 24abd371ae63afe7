//! Readers of single values. Each says what it expected when it refuses.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use odgm_log::NodeId;
use odgm_proto::oprc::CreateCollectionRequest;
use odgm_replication::{Definition, NodeName};

use super::LogFormat;

/// What was expected instead of the value.
pub(super) type Expected = String;

/// A whole number within bounds.
pub(super) fn number<T>(value: &str, bounds: RangeInclusive<T>) -> Result<T, Expected>
where
    T: FromStr + PartialOrd + Display,
{
    let number = value.parse().ok().filter(|number| bounds.contains(number));
    number.ok_or_else(|| format!("a whole number from {} to {}", bounds.start(), bounds.end()))
}

/// A duration in whole milliseconds.
pub(super) fn millis(value: &str) -> Result<Duration, Expected> {
    let millis = value.parse().ok().filter(|millis| *millis <= 86_400_000);
    millis.map(Duration::from_millis).ok_or_else(|| "milliseconds, from 0 to 86400000 (a day)".into())
}

/// A size in bytes, bare or with one of the units KiB, MiB, GiB, TiB.
pub(super) fn bytes<T: TryFrom<u64>>(value: &str, bounds: RangeInclusive<u64>) -> Result<T, Expected> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let unit = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1_u64 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    let bytes = bytes.filter(|bytes| bounds.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
    bytes.ok_or_else(|| {
        format!(
            "bytes, from {} to {}, bare or as in 64MiB (KiB, MiB, GiB, TiB)",
            bounds.start(),
            bounds.end()
        )
    })
}

/// A yes or no.
pub(super) fn boolean(value: &str) -> Result<bool, Expected> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// Anything that `T` can be read from.
pub(super) fn any<T: FromStr>(value: &str, expected: &str) -> Result<T, Expected> {
    value.parse().map_err(|_| expected.to_owned())
}

/// A node's number or name.
pub(super) fn node(value: &str) -> Result<NodeName, Expected> {
    NodeName::parse(value)
        .ok_or_else(|| "a number, or a name of 1 to 160 printable characters without spaces".into())
}

/// Nodes separated by commas.
pub(super) fn nodes(value: &str) -> Result<Vec<NodeName>, Expected> {
    let nodes = value.split(',').map(|node| NodeName::parse(node.trim())).collect::<Option<_>>();
    nodes.ok_or_else(|| "node numbers or names separated by commas".into())
}

/// A host and a port.
pub(super) fn host_and_port(value: &str) -> Result<(), Expected> {
    let parts = value.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let valid = parts.is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if valid { Ok(()) } else { Err("host:port, as in 10.0.0.5:8080".into()) }
}

/// A name that can be part of a Zenoh key.
pub(super) fn cluster_name(value: &str) -> Result<String, Expected> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=128).contains(&value.len()) && value.bytes().all(allowed);
    if valid { Ok(value.to_owned()) } else { Err("1 to 128 of A-Z a-z 0-9 . _ -".into()) }
}

/// Addresses of nodes, separated by commas.
pub(super) fn addresses(value: &str) -> Result<BTreeMap<NodeId, String>, Expected> {
    let one = |text: &str| {
        let (node, address) = text.trim().split_once('=')?;
        host_and_port(address).ok()?;
        Some((NodeName::parse(node)?.node_id(), address.to_owned()))
    };
    let addresses = value.split(',').map(one).collect::<Option<_>>();
    addresses.ok_or_else(|| "NODE=host:port separated by commas, as in 1=10.0.0.5:7448".into())
}

/// A JSON array of collection definitions.
pub(super) fn collections(value: &str) -> Result<Vec<Definition>, Expected> {
    let wires: Vec<CreateCollectionRequest> = serde_json::from_str(value).map_err(|error| {
        format!("a JSON array of collections, as in [{{\"name\": \"objects\"}}]: {error}")
    })?;
    wires
        .into_iter()
        .map(|wire| {
            let name = wire.name.clone();
            Definition::from_wire(wire)
                .map_err(|invalid| format!("valid collections: {name:?} has {invalid}"))
        })
        .collect()
}

/// Directives of the log filter.
pub(super) fn log_filter(value: &str) -> Result<String, Expected> {
    match tracing_subscriber::EnvFilter::try_new(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => Err(format!("log directives, as in info or odgm_api=debug,warn: {error}")),
    }
}

/// How log lines look.
pub(super) fn log_format(value: &str) -> Result<LogFormat, Expected> {
    match value.to_ascii_lowercase().as_str() {
        "text" | "plain" | "pretty" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".into()),
    }
}
