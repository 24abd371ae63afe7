//! Collections, partitions and the node, as they are at this moment.

use odgm_proto::odgm::v1;
use odgm_replication::{Collection, LookupError, Partition};

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
