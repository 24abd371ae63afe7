//! One replica's disk is full.

use std::fs;
use std::path::PathBuf;

use odgm_proto::metadata::consistency::LOCAL;
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout, SmallDisk};
use odgm_tests::random::Random;

use super::{others, things, until_answered};
use crate::{CLASS, Story};

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// Nodes that keep little in memory, so that a small disk is enough, and 32 MiB in reserve.
fn small() -> Layout {
    ["ODGM_LOG_BUFFER_BYTES", "ODGM_LOG_WAL_BYTES", "ODGM_VIEW_BUFFER_BYTES", "ODGM_VIEW_GATHER_BYTES"]
        .into_iter()
        .fold(Layout::of(3).collection(CLASS, 1), |layout, setting| layout.with(setting, "4MiB"))
        .with("ODGM_FREE_SPACE_RESERVE", "32MiB")
}

/// Something else that takes up a node's disk, all but 14 MiB of it.
fn fill(disk: &SmallDisk) -> Result<PathBuf> {
    let space = rustix::fs::statvfs(disk.path())?;
    let all_but = (space.f_bavail * space.f_frsize).saturating_sub(14 << 20);
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; usize::try_from(all_but)?])?;
    Ok(ballast)
}

/// Has the disk of the leader, or of a follower, filled up, and freed again.
async fn full_disk(of_leader: bool) -> Story {
    let Some(disk) = SmallDisk::mount("128m")? else {
        eprintln!("skipped: this process may not mount a file system");
        return Ok(());
    };
    let cluster = small().within_at(2, disk.path().to_owned()).start().await?;
    lead(&cluster, if of_leader { 2 } else { 1 }).await?;
    things(&cluster, 2)?.set_value("thing", "k", "before").await?;
    let ballast = fill(&disk)?;
    cluster.said(2, "free space crossed the reserve, so writes are refused: free some").await?;
    if of_leader {
        // A write makes it known, if a look at the disk has not.
        cluster.said(2, "this node gives the lead to another one").await?;
    }
    // Whoever leads now has room, and so has a quorum; also where the node with the full disk is asked.
    let value = "x".repeat(64 << 10);
    for number in 0..400 {
        let node = cluster.nodes()[number % 3];
        let id = format!("thing-{number}");
        until_answered(async || Ok(things(&cluster, node)?.once(&id).set_value(&id, "k", &value).await?))
            .await?;
    }
    assert_ne!(cluster.leader(CLASS, 0).await?, 2, "its disk is full");
    cluster.check()?;
    let behind = things(&cluster, 2)?.reading(LOCAL);
    assert_eq!(behind.value("thing", "k").await?.as_deref(), Some("before"));
    assert_ne!(behind.value("thing-399", "k").await?.as_deref(), Some(value.as_str()), "its disk is full");
    fs::remove_file(ballast)?;
    cluster.converged(CLASS).await?;
    for number in [0, 399] {
        let held = things(&cluster, 2)?.reading(LOCAL).value(&format!("thing-{number}"), "k").await?;
        assert_eq!(held.as_deref(), Some(value.as_str()));
    }
    cluster.prove(CLASS, 1).await
}

/// Stops leaders until this node leads.
async fn lead(cluster: &Cluster, node: u64) -> Story {
    loop {
        let leader = cluster.leader(CLASS, 0).await?;
        if leader == node {
            return Ok(());
        }
        // Another one leads then, of those that run.
        let third = others(cluster, node).into_iter().find(|other| *other != leader).ok_or("three nodes")?;
        cluster.kill(&[leader]).await?;
        let next = cluster.leader_among(&[node, third], CLASS, 0).await?;
        cluster.start(&[leader]).await?;
        if next == node {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_fills_up_is_left_behind_and_catches_up_when_there_is_room() -> Story {
    full_disk(false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_fills_up_gives_the_lead_to_one_that_has_room() -> Story {
    full_disk(true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_fills_its_disk_to_the_last_byte_stops_and_comes_back() -> Story {
    let Some(disk) = SmallDisk::mount("64m")? else {
        eprintln!("skipped: this process may not mount a file system");
        return Ok(());
    };
    let cluster =
        small().within_at(2, disk.path().to_owned()).with("ODGM_FREE_SPACE_RESERVE", "0").start().await?;
    lead(&cluster, 1).await?;
    let (mut random, mut number) = (Random::new(1), 0);
    while cluster.check().is_ok() {
        let things = things(&cluster, 1)?;
        // What can be compressed would take long to fill it.
        let value: String = (0..64 << 10).map(|_| char::from(LETTERS[random.below(LETTERS.len())])).collect();
        until_answered(async || Ok(things.set_value(&format!("thing-{number}"), "k", &value).await?)).await?;
        number += 1;
        assert!(number < 10_000, "the disk never filled");
    }
    assert!(!cluster.ended(2).await?.success());
    cluster.said(2, "the log can no longer be made durable, so the node stops").await?;
    cluster.said(2, "is full, free some space there, then start the node again").await?;
    things(&cluster, 3)?.set_value("thing", "k", "without it").await?;
    disk.grow("512m")?;
    cluster.start(&[2]).await?;
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}
