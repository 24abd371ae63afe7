//! Backups of a cluster, and what is made of them.

use std::process::Stdio;

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Connection, Home, Layout, until};

use crate::load::Load;
use crate::{CLASS, Story};

/// The text of a view without what says who has it: the group, the members, and how far the log has come with them.
async fn dump(client: Connection) -> Result<Vec<String>> {
    let text = client.objects(CLASS, 0).dump().await?;
    let own = ["view of", "  chain", "  state", "members", "  voters", "  nodes"];
    let is_own = |line: &&str| own.iter().any(|own| line.starts_with(own)) || line.contains(" membership ");
    let lines = text.lines().filter(|line| !is_own(line));
    Ok(lines.map(str::to_owned).collect())
}

/// Requires that two views say the same.
fn expect_same(found: &[String], expected: &[String], whose: &str) -> Story {
    match found.iter().zip(expected).find(|(found, expected)| found != expected) {
        Some((found, expected)) => Err(format!("{whose}: {found:?}, and it was {expected:?}").into()),
        None if found.len() == expected.len() => Ok(()),
        None => Err(format!("{whose}: {} lines, and there were {}", found.len(), expected.len()).into()),
    }
}

fn folder() -> Result<(tempfile::TempDir, String)> {
    let parent = tempfile::tempdir()?;
    let path = parent.path().join("backup").to_str().ok_or("a path in UTF-8")?.to_owned();
    Ok((parent, path))
}

/// What is written while it is backed up is in it up to some record, and everything acknowledged before.
async fn backed_up(cluster: &Cluster, backup: &str) -> Story {
    let leader = cluster.leader(CLASS, 0).await?;
    let follower = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    cluster.odgm(follower, &["backup", backup]).await?.success()?;
    cluster.odgm(follower, &["backup", "verify", backup]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_restored_into_a_new_one_with_equal_replicas_and_all_of_its_history() -> Story {
    let (_parent, backup) = folder()?;
    let (expected, events) = {
        let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
        let mut load = Load::begin(&cluster, 4)?;
        load.proceed(300).await?;
        let under_load = format!("{backup}-under-load");
        backed_up(&cluster, &under_load).await?;
        load.proceed(100).await?;
        load.end().await?;
        cluster.converged(CLASS).await?;
        backed_up(&cluster, &backup).await?;
        let things = cluster.objects(1, CLASS, 0)?;
        let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
        (dump(cluster.client(1)?).await?, events)
    };

    // Everything was lost: three new nodes, restored through one of them.
    let cluster = Layout::of(3).start().await?;
    cluster.odgm(2, &["restore", &backup]).await?.success()?;
    cluster.leader(CLASS, 0).await?;
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        cluster.figure_where(node, "partitions_filling", |filling| filling == 0).await?;
        expect_same(&dump(cluster.client(node)?).await?, &expected, &format!("node {node}"))?;
        let things = cluster.objects(node, CLASS, 0)?;
        let found = things.watch_until_current(From::Earliest(Earliest {})).await?;
        assert!(found == events, "node {node} has {} events, and there were {}", found.len(), events.len());
    }
    // It goes on, whoever is lost.
    cluster.kill(&[2]).await?;
    let left = cluster.awake();
    cluster.leader_among(&left, CLASS, 0).await?;
    cluster.objects(1, CLASS, 0)?.set_value("after", "k", "1").await?;
    cluster.start(&[2]).await?;
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_had_goes_into_a_lone_node_and_back() -> Story {
    let (_parent, backup) = folder()?;
    let expected = {
        let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
        let mut load = Load::begin(&cluster, 4)?;
        load.proceed(200).await?;
        load.end().await?;
        backed_up(&cluster, &backup).await?;
        dump(cluster.client(1)?).await?
    };
    let home = Home::new()?;
    let again = format!("{backup}-again");
    {
        let node = home.start().await?;
        node.odgm(&["restore", &backup])?.success()?;
        expect_same(&dump(node.connection()).await?, &expected, "the lone node")?;
        node.odgm(&["partition", "verify", CLASS])?.success()?;
        node.odgm(&["partition", "verify-view", CLASS])?.success()?;
        node.objects(CLASS, 0).set_value("alone", "k", "1").await?;
        node.kill()?;
        let node = home.start().await?;
        assert_eq!(node.objects(CLASS, 0).value("alone", "k").await?.as_deref(), Some("1"));
        node.odgm(&["backup", &again])?.success()?;
        node.stop()?;
    }
    let cluster = Layout::of(3).start().await?;
    cluster.odgm(1, &["restore", &again, "--replicas", "3"]).await?.success()?;
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        assert_eq!(cluster.objects(node, CLASS, 0)?.value("alone", "k").await?.as_deref(), Some("1"));
    }
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lone_node_had_grows_into_a_cluster() -> Story {
    let (_parent, backup) = folder()?;
    {
        let home = Home::new()?.collection(CLASS, 1);
        let node = home.start().await?;
        for number in 0..50 {
            node.objects(CLASS, 0)
                .set_value(&format!("thing-{}", number % 9), "k", &number.to_string())
                .await?;
        }
        node.odgm(&["backup", &backup])?.success()?;
    }
    let cluster = Layout::of(3).start().await?;
    cluster.odgm(3, &["restore", &backup, "--type", "raft", "--replicas", "3"]).await?.success()?;
    cluster.objects(1, CLASS, 0)?.set_value("thing-1", "k", "more").await?;
    cluster.converged(CLASS).await?;
    for node in cluster.nodes() {
        cluster.figure_where(node, "partitions_filling", |filling| filling == 0).await?;
        let things = cluster.objects(node, CLASS, 0)?;
        let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
        assert_eq!(events.len(), 51, "node {node}");
    }
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_catalogue_has_is_kept_until_the_catalogue_is_known() -> Story {
    let (_parent, backup) = folder()?;
    {
        let home = Home::new()?.collection(CLASS, 1);
        let node = home.start().await?;
        node.objects(CLASS, 0).set_value("thing", "k", "1").await?;
        node.odgm(&["backup", &backup])?.success()?;
    }
    // It is killed with all data in place, and no catalogue has them.
    let mut cluster = Layout::of(3).with_at(1, "FAILPOINTS", "restore-after-partition=pause").start().await?;
    let mut command = cluster.odgm_command(1, &["restore", &backup, "--type", "raft", "--replicas", "3"])?;
    let mut restoring = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let folders = |cluster: &Cluster, name: &str| -> Result<usize> {
        Ok(std::fs::read_dir(cluster.home(1)?.data().join(name)).map_or(0, Iterator::count))
    };
    let what = || "the data to be in place".to_owned();
    until(what, async || {
        let placed = folders(&cluster, "views")? == 2 && folders(&cluster, "scratch")? == 0;
        Ok(placed.then_some(()))
    })
    .await?;
    cluster.kill(&[1, 2, 3]).await?;
    restoring.wait()?;

    // Alone it does not know what the others have decided: its data may be the only copy of what they created since.
    cluster.set(1, "FAILPOINTS", "")?;
    cluster.begin_to_start(1)?;
    cluster.said(1, "members do not answer").await?;
    assert_eq!(folders(&cluster, "views")?, 2, "it is kept");
    cluster.start(&[2, 3]).await?;
    cluster.in_service(&[1]).await?;
    let what = || "the data that nobody has to be removed".to_owned();
    until(what, async || Ok((folders(&cluster, "views")? == 1).then_some(()))).await?;
    cluster.odgm(1, &["restore", &backup, "--type", "raft", "--replicas", "3"]).await?.success()?;
    assert_eq!(cluster.objects(2, CLASS, 0)?.value("thing", "k").await?.as_deref(), Some("1"));
    Ok(())
}
