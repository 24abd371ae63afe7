//! Subscribers that follow all partitions from the beginning, and go on at another node whenever their stream ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Cursors, Filter, SubscribeRequest, SubscribeResponse};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::events::Event;
use super::{CLASS, Run};
use crate::Result;
use crate::harness::Connection;
use crate::random::Random;

/// How often the node says something.
const HEARTBEAT_MS: u32 = 200;

/// After so long without a word the subscriber goes elsewhere.
const SILENCE: Duration = Duration::from_secs(2);

/// How long it stays at a node at least, and at most so much longer.
const STAYS: Duration = Duration::from_secs(2);
const STAYS_LONGER_MS: usize = 5_000;

/// The pause before it goes elsewhere after an error.
const REST: Duration = Duration::from_millis(100);

/// How long it may take to see all that there is once everything runs.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);

/// What a subscriber asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// All that happens.
    Everything,
    /// What never happens: it hears of nothing but how far the stream has come.
    Nothing,
}

impl Wants {
    fn filter(self) -> Option<Filter> {
        // No object that clients write begins so.
        let nobody = || Filter { object_prefix: "nobody-".to_owned(), ..Filter::default() };
        (self == Self::Nothing).then(nobody)
    }
}

/// What it has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// By partition, in the order in which they came.
    pub(super) events: BTreeMap<u32, Vec<Event>>,
    /// By partition, how far its stream was when it last said so.
    pub(super) progress: BTreeMap<u32, u64>,
    /// How often that was said.
    pub(super) responses: u64,
    cursors: BTreeMap<u32, Vec<u8>>,
    /// Subscriptions that were opened.
    pub(super) subscriptions: u64,
    /// Why subscriptions ended, and how often; those that it ended itself are not among them.
    pub(super) ends: BTreeMap<String, u64>,
    /// What does not fit what streams promise.
    pub(super) complaints: Vec<String>,
}

/// The task that subscribes. Dropping it ends it.
pub(super) struct Subscriber {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    pub(super) fn start(run: &Arc<Run>, wants: Wants, random: Random) -> Result<Self> {
        let nodes = run.cluster.nodes().into_iter().map(|node| run.cluster.client(node));
        let nodes: Vec<Connection> = nodes.collect::<Result<_>>()?;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let task = tokio::spawn(follow(nodes, wants, Arc::clone(&seen), random));
        Ok(Self { seen, task })
    }

    /// Waits until it has seen everything up to these offsets.
    pub(super) async fn reach(&self, targets: &BTreeMap<u32, u64>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let progress = self.seen.lock().progress.clone();
            let reached = |partition: &u32| progress.get(partition).copied().unwrap_or_default();
            if targets.iter().all(|(partition, target)| reached(partition) >= *target) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let ends = &self.seen.lock().ends;
                let text = format!(
                    "got to {progress:?} of {targets:?} within {PATIENCE:?}; streams ended with {ends:?}"
                );
                return Err(text.into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it, and answers what it has seen.
    pub(super) fn end(self) -> Seen {
        self.task.abort();
        std::mem::take(&mut *self.seen.lock())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(nodes: Vec<Connection>, wants: Wants, seen: Arc<Mutex<Seen>>, mut random: Random) {
    for node in nodes.iter().cycle() {
        let stays = STAYS + Duration::from_millis(random.below(STAYS_LONGER_MS) as u64);
        // It leaves at any moment, also between two responses that belong together.
        let followed = tokio::time::timeout(stays, follow_at(node, wants, &seen)).await;
        if let Ok(end) = followed {
            *seen.lock().ends.entry(end).or_default() += 1;
            tokio::time::sleep(REST).await;
        }
    }
}

/// Follows at one node until the stream ends, and answers why it did.
async fn follow_at(node: &Connection, wants: Wants, seen: &Mutex<Seen>) -> String {
    let cursors = seen.lock().cursors.values().cloned().map(Into::into).collect();
    let request = SubscribeRequest {
        cls_id: CLASS.to_owned(),
        from: Some(From::Cursors(Cursors { cursors })),
        filter: wants.filter(),
        with_values: true,
        heartbeat_ms: HEARTBEAT_MS,
        ..SubscribeRequest::default()
    };
    let mut streams = node.streams.clone();
    let mut responses = match tokio::time::timeout(SILENCE, streams.subscribe(request)).await {
        Ok(Ok(responses)) => responses.into_inner(),
        Ok(Err(status)) => return format!("{:?}", status.code()),
        Err(_) => return "no answer".to_owned(),
    };
    seen.lock().subscriptions += 1;
    loop {
        match tokio::time::timeout(SILENCE, responses.message()).await {
            Ok(Ok(Some(response))) => seen.lock().take(response),
            Ok(Ok(None)) => return "end of stream".to_owned(),
            Ok(Err(status)) => return format!("{:?}", status.code()),
            Err(_) => return "silence".to_owned(),
        }
    }
}

impl Seen {
    fn take(&mut self, response: SubscribeResponse) {
        let SubscribeResponse { partition_id, events, cursor, progress_offset, head_offset } = response;
        let last = self.events.get(&partition_id).and_then(|events| events.last()).map(|event| event.offset);
        let mut last = last.unwrap_or_default();
        for event in events {
            if event.offset <= last {
                let text =
                    format!("partition {partition_id}: an event at {} after one at {last}", event.offset);
                self.complaints.push(text);
            }
            if event.offset > progress_offset {
                let text = format!(
                    "partition {partition_id}: an event at {}, beyond the progress {progress_offset}",
                    event.offset
                );
                self.complaints.push(text);
            }
            last = event.offset;
            self.events.entry(partition_id).or_default().push(Event::of(&event));
        }
        if progress_offset > head_offset {
            let text =
                format!("partition {partition_id}: progress {progress_offset} beyond the head {head_offset}");
            self.complaints.push(text);
        }
        // A stream goes on where its cursor was, so this holds from one subscription to the next as well.
        let before = self.progress.insert(partition_id, progress_offset).unwrap_or_default();
        if progress_offset < before {
            let text = format!("partition {partition_id}: progress {progress_offset} after {before}");
            self.complaints.push(text);
        }
        self.responses += 1;
        self.cursors.insert(partition_id, cursor.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use odgm_proto::odgm::v1;

    use super::*;

    fn response(events: &[u64], progress_offset: u64) -> SubscribeResponse {
        let event = |offset: &u64| v1::Event { offset: *offset, ..v1::Event::default() };
        let events = events.iter().map(event).collect();
        SubscribeResponse { events, progress_offset, head_offset: 9, ..SubscribeResponse::default() }
    }

    fn complaints(responses: Vec<SubscribeResponse>) -> Vec<String> {
        let mut seen = Seen::default();
        responses.into_iter().for_each(|response| seen.take(response));
        seen.complaints
    }

    #[test]
    fn a_stream_goes_on_with_events_and_without() {
        let other = SubscribeResponse { partition_id: 1, ..response(&[], 2) };
        let all = vec![response(&[1, 3], 3), response(&[], 5), other, response(&[], 5), response(&[6], 9)];
        assert!(complaints(all).is_empty());
    }

    #[test]
    fn what_goes_back_comes_twice_or_is_too_far_is_named() {
        let wrong = [
            (vec![response(&[], 5), response(&[], 4)], "partition 0: progress 4 after 5"),
            (vec![response(&[3], 3), response(&[3], 4)], "partition 0: an event at 3 after one at 3"),
            (vec![response(&[4], 3)], "partition 0: an event at 4, beyond the progress 3"),
            (vec![response(&[], 10)], "partition 0: progress 10 beyond the head 9"),
        ];
        for (responses, expected) in wrong {
            assert_eq!(complaints(responses), [expected]);
        }
    }
}
