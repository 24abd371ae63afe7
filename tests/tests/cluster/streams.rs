//! Event streams over failures.

use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Cursors, Earliest, Event, SubscribeRequest};
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Feed, Layout};

use crate::load::{Load, check_events};
use crate::{CLASS, Story};

/// How long a node may take to go on with a stream: the cursor may be of what it is yet to learn.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_goes_on_at_another_node_and_misses_nothing() -> Story {
    const SOME: usize = 150;
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    let mut load = Load::begin(&cluster, 4)?;
    let mut subscriber = Subscriber::default();
    // Each node is killed while it is followed, the leader first.
    let leader = cluster.leader(CLASS, 0).await?;
    let mut order = cluster.nodes();
    order.sort_unstable_by_key(|node| *node != leader);
    for node in order {
        let mut feed = subscriber.resume(&cluster, node).await?;
        subscriber.follow(&mut feed, SOME).await?;
        cluster.kill(&[node]).await?;
        while let Ok(Some(response)) = feed.batch().await {
            // What had been sent before still comes.
            subscriber.take(response);
        }
        load.proceed(SOME as u64).await?;
        cluster.start(&[node]).await?;
    }
    let written = load.end().await?;
    let last = cluster.converged(CLASS).await?[&0].applied;
    let mut feed = subscriber.resume(&cluster, leader).await?;
    while subscriber.progress < last {
        let response = feed.batch().await?.ok_or("a stream does not end by itself")?;
        subscriber.take(response);
    }
    check_events(&subscriber.events, &written)?;
    for node in cluster.nodes() {
        let things = cluster.objects(node, CLASS, 0)?;
        let all = things.watch_until_current(From::Earliest(Earliest {})).await?;
        assert_eq!(subscriber.events, all, "node {node}");
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Subscriber {
    cursor: Option<Vec<u8>>,
    progress: u64,
    events: Vec<Event>,
}

impl Subscriber {
    /// Goes on after the last batch that came.
    async fn resume(&self, cluster: &Cluster, node: u64) -> Result<Feed> {
        let things = cluster.objects(node, CLASS, 0)?;
        let cursors = self.cursor.clone().map(Into::into).into_iter().collect();
        let from = From::Cursors(Cursors { cursors });
        let request = SubscribeRequest { from: Some(from), ..things.subscription() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match things.subscribe(request.clone()).await {
                Ok(feed) => return Ok(feed),
                Err(status) if Instant::now() > deadline => return Err(status.into()),
                Err(status) => println!("node {node} does not go on yet: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Takes so many events in.
    async fn follow(&mut self, feed: &mut Feed, count: usize) -> Story {
        let enough = self.events.len() + count;
        while self.events.len() < enough {
            let response = feed.batch().await?.ok_or("a stream does not end by itself")?;
            self.take(response);
        }
        Ok(())
    }

    fn take(&mut self, response: odgm_proto::odgm::v1::SubscribeResponse) {
        self.events.extend(response.events);
        self.cursor = Some(response.cursor.to_vec());
        self.progress = response.progress_offset;
    }
}
