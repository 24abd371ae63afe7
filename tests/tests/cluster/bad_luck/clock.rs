//! Clocks that jump.

use std::fs;
use std::path::{Path, PathBuf};

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_tests::Result;
use odgm_tests::harness::Layout;
use tempfile::TempDir;

use super::{others, things, until_answered};
use crate::{CLASS, Story};

const HOUR: i64 = 3_600;

/// The clocks of three nodes: files that say by how many seconds each is wrong.
struct Clocks(TempDir);

impl Clocks {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn file(&self, node: u64) -> PathBuf {
        self.0.path().join(node.to_string())
    }

    /// Has each node read its file, in builds that have failpoints, as those of tests do.
    fn given_to(&self, layout: Layout) -> Layout {
        [1, 2, 3].into_iter().fold(layout, |layout, node| {
            let point = format!("clock=return({})", self.file(node).display());
            layout.with_at(node, "FAILPOINTS", &point)
        })
    }

    fn set(&self, node: u64, seconds: i64) -> Story {
        replace(&self.file(node), &seconds.to_string())
    }
}

/// Whoever reads it meanwhile reads the old or the new.
fn replace(path: &Path, text: &str) -> Story {
    let beside = path.with_extension("new");
    fs::write(&beside, text)?;
    Ok(fs::rename(beside, path)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_gives_the_lead_to_one_whose_did_not() -> Story {
    let clocks = Clocks::new()?;
    let cluster = clocks.given_to(Layout::of(3).collection(CLASS, 1)).start().await?;
    for jump in [HOUR, -HOUR] {
        let leader = cluster.leader(CLASS, 0).await?;
        things(&cluster, leader)?.set_value("thing", "k", "before").await?;
        clocks.set(leader, jump)?;
        let said = cluster.said(leader, &format!("clock of node {leader} is")).await?;
        println!("{said}");
        cluster.said(leader, "this node gives the lead to another one").await?;
        let next = cluster.leader_among(&others(&cluster, leader), CLASS, 0).await?;
        assert_ne!(next, leader);
        // Wherever it is asked for, it is done under the time of the others.
        for node in cluster.nodes() {
            until_answered(async || Ok(things(&cluster, node)?.set_value("thing", "k", "after").await?))
                .await?;
        }
        let event = things(&cluster, next)?.history("thing").await?.pop().ok_or("it was written")?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        assert!(now.abs_diff(u128::from(event.time_ms)) < 600_000, "{event:?} is not of now, {now}");
        clocks.set(leader, 0)?;
        cluster.said(leader, "the clock of this node is that of the others again").await?;
    }
    cluster.converged(CLASS).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_records_does_not_go_back_with_the_leaders_clock() -> Story {
    let clocks = Clocks::new()?;
    let layout = Layout::of(3).collection(CLASS, 1).with("ODGM_CLOCK_DRIFT_MS", "86400000");
    let cluster = clocks.given_to(layout).start().await?;
    let mut expected = 0;
    for round in 0..3 {
        let leader = cluster.leader(CLASS, 0).await?;
        for (write, offset) in [HOUR, -HOUR].into_iter().enumerate() {
            clocks.set(leader, offset)?;
            let id = format!("thing-{round}-{write}");
            until_answered(async || Ok(things(&cluster, leader)?.once(&id).set_value(&id, "k", "v").await?))
                .await?;
            expected += 1;
        }
        // The next one's clock is an hour behind the last that this one's showed.
        cluster.restart(leader).await?;
    }
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        let events = things(&cluster, node)?.watch_until_current(From::Earliest(Earliest {})).await?;
        let times: Vec<_> = events.iter().map(|event| event.time_ms).collect();
        assert_eq!(times.len(), expected, "node {node}");
        assert!(times.is_sorted(), "node {node}: {times:?}");
        assert!(times[0] > 0);
        // The first was written under a clock that was an hour ahead.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        assert!(u128::from(times[0]) > now + 1_800_000, "node {node}: {} is not ahead of {now}", times[0]);
    }
    cluster.prove(CLASS, 1).await
}
