//! Collections, partitions and the node, as they are at this moment.

use odgm_proto::odgm::v1;
use odgm_replication::{Collection, LookupError, Partition};

use crate::services::Shared;

/// What a collection is.
pub(super) fn collection(collection: &Collection) -> v1::Collection {
    v1::Collection {
        definition: Some(collection.definition().wire.clone()),
        groups: collection.groups().map(|group| group.get()).collect(),
        created_ms: collection.created().as_millis(),
    }
}

/// How each partition of a collection is.
pub(super) fn partitions(collection: &Collection) -> impl Iterator<Item = v1::Partition> + '_ {
    let groups = collection.groups();
    (0..).zip(groups).zip(collection.partitions()).map(|((index, group), partition)| {
        let named = v1::Partition {
            cls_id: collection.definition().name.clone(),
            partition_id: index,
            group: group.get(),
            replicas: collection.replicas(index).iter().map(|node| node.0).collect(),
            ..Default::default()
        };
        match partition {
            Ok(partition) => serving(named, &partition),
            Err(LookupError::Failed { reason, .. }) => {
                v1::Partition { state: "failed".into(), reason: Some(reason), ..named }
            }
            Err(LookupError::Elsewhere { .. }) => v1::Partition { state: "elsewhere".into(), ..named },
            Err(_) => v1::Partition { state: "starting".into(), ..named },
        }
    })
}

fn serving(named: v1::Partition, partition: &Partition) -> v1::Partition {
    let header = partition.view().header();
    let bounds = partition.bounds();
    let failure = partition.failure().map(|failure| failure.to_string());
    let divergence = partition.divergence();
    let state = match (&failure, &divergence) {
        (Some(_), _) => "failed",
        (None, Some(_)) => "diverged",
        (None, None) => "ready",
    };
    v1::Partition {
        state: state.to_owned(),
        reason: failure.or(divergence),
        first_offset: bounds.first.get(),
        durable_offset: bounds.durable.get(),
        applied_offset: header.applied.get(),
        objects: header.objects,
        entries: header.entries,
        chain: header.chain.to_string(),
        state_hash: header.state.to_string(),
        leader: partition.leader().unwrap_or_default().0,
        fills_from: partition.missing_from().map(|first| first.get()),
        ..named
    }
}

/// What the node has done and holds.
pub(super) fn metrics(shared: &Shared) -> Vec<v1::Metric> {
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
