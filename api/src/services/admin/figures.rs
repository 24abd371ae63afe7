//! The node's figures: what it has done, what it holds, and what of calls there is.

use std::collections::BTreeMap;

use odgm_log::Timestamp;
use odgm_log::body::calls::RowKey;
use odgm_proto::odgm::v1;
use odgm_replication::Partition;
use odgm_triggers::functions::BreakerState;
use odgm_triggers::metrics::{
    DEAD_LETTERS, DELIVERIES, ENDPOINT_STATE, OUTBOX_AGE, OUTBOX_BYTES, OUTBOX_ROWS,
};
use tonic::Status;

use crate::metrics;
use crate::services::{Shared, overdue};
use crate::status;

/// All of them: the node's own, those of calls, and what its parts count.
pub(super) fn all(shared: &Shared) -> Result<Vec<v1::Metric>, Status> {
    let mut all = own(shared);
    let of_calls = of_calls(shared)?;
    // What is looked at now is newer than what was said of it before.
    let is_known = |recorded: &v1::Metric| of_calls.iter().any(|known| base(known) == base(recorded));
    all.extend(metrics::all().into_iter().filter(|recorded| !is_known(recorded)));
    all.extend(of_calls);
    Ok(all)
}

/// The name without labels.
fn base(metric: &v1::Metric) -> &str {
    metric.name.split('{').next().unwrap_or_default()
}

/// What the node has done and holds.
fn own(shared: &Shared) -> Vec<v1::Metric> {
    let log = shared.manager.log_stats();
    let readiness = *shared.manager.readiness().borrow();
    let collections = shared.manager.collections();
    let mut totals = Totals::default();
    for partition in collections.iter().flat_map(|collection| collection.partitions().flatten()) {
        let header = partition.view().header();
        totals.objects += header.objects;
        totals.entries += header.entries;
        totals.in_flight += partition.in_flight() as u64;
        totals.diverged += u64::from(partition.divergence().is_some());
        totals.filling += u64::from(partition.missing_from().is_some());
    }
    let traffic = shared.manager.traffic();
    let subscriptions = shared.limits.subscriptions - shared.subscriptions.available_permits();
    let moved = shared.manager.transfers();
    vec![
        metric("log_fsyncs_total", log.fsyncs, "syncs of the log to disk since the start"),
        metric("log_appends_total", log.appends, "appends since the start, each of one batch"),
        metric("log_records_total", log.records, "records appended since the start"),
        metric("log_bytes_total", log.bytes, "payload bytes appended since the start"),
        metric("log_cache_hits_total", log.cache_hits, "reads of the log answered from memory"),
        metric("log_cache_misses_total", log.cache_misses, "reads of the log that went to disk"),
        metric("collections", collections.len() as u64, "collections of this node"),
        metric("partitions_starting", readiness.starting as u64, "partitions that catch up with their log"),
        metric("partitions_ready", readiness.ready as u64, "partitions in service"),
        metric("partitions_failed", readiness.failed as u64, "partitions out of service"),
        metric("partitions_diverged", totals.diverged, "partitions whose replicas were found to differ"),
        metric("objects", totals.objects, "objects that exist"),
        metric("entries", totals.entries, "entries that exist"),
        metric("writes_in_flight", totals.in_flight, "writes that wait to be durable and applied"),
        metric("client_calls", shared.calling.under_way() as u64, "calls of functions whose clients wait"),
        metric("subscriptions", subscriptions as u64, "subscriptions that are open"),
        metric("peer_messages_sent_total", traffic.sent, "messages to other nodes since the start"),
        metric("peer_messages_received_total", traffic.received, "messages of other nodes since the start"),
        metric("peer_frames_sent_total", traffic.frames, "frames with those messages to other nodes"),
        metric("peer_bytes_sent_total", traffic.bytes, "bytes sent to other nodes"),
        metric(
            "peer_frames_dropped_total",
            traffic.dropped,
            "frames that did not come from this cluster's nodes",
        ),
        metric("partitions_filling", totals.filling, "replicas that fetch the records before their snapshot"),
        metric(
            "snapshot_bytes_sent_total",
            moved.snapshot_bytes_sent,
            "bytes of snapshots sent to other nodes",
        ),
        metric("snapshot_bytes_received_total", moved.snapshot_bytes_received, "bytes of snapshots received"),
        metric("snapshots_installed_total", moved.snapshots_installed, "snapshots of other nodes installed"),
        metric("filled_records_total", moved.filled_records, "records fetched that were before a snapshot"),
        metric("filled_bytes_total", moved.filled_bytes, "payload bytes of those records"),
    ]
}

#[derive(Default)]
struct Totals {
    objects: u64,
    entries: u64,
    in_flight: u64,
    diverged: u64,
    filling: u64,
}

// Counters beyond 2^53 would be shown rounded.
#[allow(clippy::cast_precision_loss)]
fn metric(name: &str, value: u64, help: &str) -> v1::Metric {
    v1::Metric { name: name.to_owned(), value: value as f64, help: help.to_owned() }
}

/// What there is of calls where this node leads, and how the endpoints of functions are.
fn of_calls(shared: &Shared) -> Result<Vec<v1::Metric>, Status> {
    let here = shared.manager.node_id();
    let mut all = Vec::new();
    for collection in shared.manager.collections() {
        let led = collection.partitions().flatten().filter(|partition| partition.leader() == Some(here));
        for partition in led {
            of_partition(&partition, &mut all)?;
        }
    }
    all.extend(endpoints(shared));
    Ok(all)
}

fn of_partition(partition: &Partition, all: &mut Vec<v1::Metric>) -> Result<(), Status> {
    let view = partition.view();
    let calls = view.header().calls;
    let oldest = if calls.outbox_rows > 0 {
        view.outbox(RowKey::default(), Timestamp(u64::MAX), 1).map_err(|error| status::from_view(&error))?
    } else {
        Vec::new()
    };
    let age = oldest.first().map_or(Timestamp(0), |(key, _)| overdue(key.due));
    let index = partition.index().to_string();
    let labels = [("class", partition.class()), ("partition", index.as_str())];
    let values = [
        (OUTBOX_ROWS, float(calls.outbox_rows)),
        (OUTBOX_BYTES, float(calls.outbox_bytes)),
        (OUTBOX_AGE, float(age.as_millis()) / 1e3),
        (DEAD_LETTERS, float(calls.dead_letters)),
        (DELIVERIES, float(calls.deliveries)),
    ];
    all.extend(values.map(|(name, value)| metrics::figure(name, &labels, value)));
    Ok(())
}

/// How the endpoints of functions are. One that is bounded differently by several collections is as bad as it is for any.
fn endpoints(shared: &Shared) -> impl Iterator<Item = v1::Metric> {
    let mut states: BTreeMap<String, f64> = BTreeMap::new();
    for endpoint in shared.calling.functions.endpoints() {
        let state = match endpoint.breaker {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        let worst = states.entry(endpoint.url).or_insert(state);
        *worst = worst.max(state);
    }
    states.into_iter().map(|(url, value)| metrics::figure(ENDPOINT_STATE, &[("url", url.as_str())], value))
}

// As for counters.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}
