//! Writers that retry as documented, and the proof that each of their writes happened once and in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, Event};
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Objects, Retrying};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{CLASS, Story};

/// How long a request is tried in all, and each time.
const PATIENCE: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(1);

/// Writers, each of which writes 1, 2, 3 and so on to an object of its own.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Result<Written>>,
}

/// What one writer has done.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: String,
    pub(crate) last: u64,
    /// Requests that it sent again.
    pub(crate) retries: u64,
    /// The longest that a write took, from its first try to its acknowledgement.
    pub(crate) longest: Duration,
}

/// The same objects at every node, with a deadline for each request.
pub(crate) fn everywhere(cluster: &Cluster) -> Result<Vec<Objects>> {
    let nodes = cluster.nodes().into_iter();
    nodes.map(|node| Ok(cluster.objects(node, CLASS, 0)?.within(DEADLINE))).collect()
}

/// A client that asks at any node, beginning at the `first` of them.
pub(crate) fn retrying(cluster: &Cluster, first: usize) -> Result<Retrying> {
    Ok(Retrying::new(everywhere(cluster)?, PATIENCE).starting_at(first))
}

impl Load {
    /// So many writers, spread over all nodes.
    pub(crate) fn begin(cluster: &Cluster, writers: usize) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { stop, acknowledged: Arc::default(), writers: JoinSet::new() };
        for writer in 0..writers {
            let object = format!("writer-{writer}");
            let acknowledged = Arc::clone(&load.acknowledged);
            load.writers.spawn(write(object, retrying(cluster, writer)?, acknowledged, stopped.clone()));
        }
        Ok(load)
    }

    /// Waits for so many more acknowledgements.
    pub(crate) async fn proceed(&mut self, count: u64) -> Story {
        let enough = self.acknowledged.load(Ordering::Relaxed) + count;
        while self.acknowledged.load(Ordering::Relaxed) < enough {
            if let Some(ended) = self.writers.try_join_next() {
                ended??;
                return Err("a writer has ended by itself".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends all writers after their next acknowledgement, and answers what they have done.
    pub(crate) async fn end(mut self) -> Result<Vec<Written>> {
        self.stop.send_replace(true);
        let mut written = Vec::new();
        while let Some(ended) = self.writers.join_next().await {
            written.push(ended??);
        }
        Ok(written)
    }
}

async fn write(
    object: String,
    mut retrying: Retrying,
    acknowledged: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Result<Written> {
    let (mut last, mut longest) = (0, Duration::ZERO);
    while !*stopped.borrow() {
        let next = last + 1;
        let (id, value) = (format!("{object}.{next}"), next.to_string());
        let begun = Instant::now();
        let written = retrying.write(&id, |objects| {
            let (object, value) = (object.clone(), value.clone());
            async move { objects.set_value(&object, "k", &value).await }
        });
        written.await.map_err(|status| format!("{id} failed in spite of being sent again: {status}"))?;
        longest = longest.max(begun.elapsed());
        last = next;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    Ok(Written { object, last, retries: retrying.retries, longest })
}

/// Requires that a node holds what was written, and has an event for each write, once and in order.
pub(crate) async fn check(cluster: &Cluster, node: u64, written: &[Written]) -> Story {
    let things = cluster.objects(node, CLASS, 0)?;
    let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
    check_events(&events, written).map_err(|error| format!("node {node}: {error}"))?;
    for Written { object, last, .. } in written {
        let held = things.value(object, "k").await?;
        if held.as_deref() != Some(last.to_string().as_str()) {
            return Err(format!("{object} holds {held:?} at node {node}, but {last} was acknowledged").into());
        }
    }
    Ok(())
}

/// Requires an event for each write, once and in order.
pub(crate) fn check_events(events: &[Event], written: &[Written]) -> Story {
    if !events.is_sorted_by(|a, b| a.offset < b.offset) {
        return Err("the offsets of events do not grow".into());
    }
    let mut values: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for event in events {
        let [change] = event.changes.as_slice() else {
            return Err(format!("expected one change: {event:?}").into());
        };
        let value = change.value.as_ref().map(|value| value.data.to_vec()).unwrap_or_default();
        values.entry(&event.object_id).or_default().push(String::from_utf8(value)?.parse()?);
    }
    for Written { object, last, .. } in written {
        let found = values.remove(object.as_str()).unwrap_or_default();
        if !found.iter().copied().eq(1..=*last) {
            return Err(format!("{object} was written 1 to {last}, but has events of {found:?}").into());
        }
    }
    Ok(())
}
