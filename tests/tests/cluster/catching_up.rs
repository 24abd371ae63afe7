//! Nodes that were away.

use odgm_proto::metadata::consistency::LOCAL;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, ListPartitionsRequest, Partition};
use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout};
use odgm_tests::random::Random;
use tonic::Code;

use crate::load::Load;
use crate::{CLASS, Story};

/// Text that does not compress, so that files are as large as what was written.
fn noise(random: &mut Random, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text += &format!("{:016x}", random.next());
    }
    text
}

/// Three nodes, and spare ones, with a collection that keeps no more than so much of its log.
async fn forgetful(retention: &str, spare: u64) -> Result<Cluster> {
    let cluster = Layout::of(3).spare(spare).with("ODGM_RETENTION_INTERVAL_MS", "100").start().await?;
    cluster.create(CLASS, 1, 3, &[("retention", retention)]).await?;
    Ok(cluster)
}

/// The partition as a node describes it.
async fn described(cluster: &Cluster, node: u64) -> Result<Partition> {
    let request = ListPartitionsRequest { cls_id: CLASS.to_owned() };
    let listed = cluster.client(node)?.admin.list_partitions(request).await?.into_inner();
    Ok(listed.partitions.into_iter().next().ok_or("it has a partition")?)
}

/// The newest view of a partition on a node: where it began, which is at the last snapshot that was installed.
fn begun_at(cluster: &Cluster, node: u64, group: u32) -> Result<u64> {
    let mut newest = None;
    for view in std::fs::read_dir(cluster.data(node)?.join("views").join(group.to_string()))? {
        newest = newest.max(view?.file_name().to_str().and_then(|name| name.parse().ok()));
    }
    Ok(newest.ok_or("there is a view")?)
}

/// The bytes of all files of a snapshot.
fn snapshot_bytes(cluster: &Cluster, node: u64, group: u32, at: u64) -> Result<u64> {
    let snapshots = cluster.data(node)?.join("snapshots").join(group.to_string());
    let mut bytes = 0;
    for file in std::fs::read_dir(snapshots.join(at.to_string()))? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

/// Writes until the leader has trimmed its log beyond what a node has; answers the last record.
async fn forget(cluster: &Cluster, leader: u64, beyond: u64, bytes: usize) -> Result<u64> {
    const WRITES: usize = 400;
    let things = cluster.objects(leader, CLASS, 0)?;
    let mut random = Random::new(7);
    let mut number = 0;
    loop {
        let writes = (0..WRITES).map(|at| (format!("thing-{}", number + at), "k", noise(&mut random, bytes)));
        let last = things.set_values(writes.collect()).await?.offset;
        number += WRITES;
        if described(cluster, leader).await?.first_offset > beyond + 1 {
            return Ok(last);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_past_the_retention_comes_back_through_a_snapshot_under_load() -> Story {
    let cluster = forgetful("2MiB", 0).await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let away = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    let mut load = Load::begin(&cluster, 4)?;
    load.proceed(100).await?;
    let had = described(&cluster, away).await?.applied_offset;
    cluster.kill(&[away]).await?;
    forget(&cluster, leader, had, 1_000).await?;
    load.proceed(100).await?;
    cluster.start(&[away]).await?;
    load.proceed(300).await?;
    cluster.figure_where(away, "snapshots_installed_total", |installed| installed > 0).await?;
    cluster.figure_where(away, "filled_records_total", |records| records > 0).await?;
    load.proceed(100).await?;
    load.end().await?;
    cluster.converged(CLASS).await?;
    cluster.figure_where(away, "partitions_filling", |filling| filling == 0).await?;
    let (here, there) = (described(&cluster, away).await?, described(&cluster, leader).await?);
    assert!(here.first_offset <= there.first_offset && here.fills_from.is_none(), "{here:?}, {there:?}");
    // Whoever leads next finds in it what retention asks for.
    cluster.kill(&[leader]).await?;
    cluster.leader_among(&cluster.awake(), CLASS, 0).await?;
    cluster.objects(away, CLASS, 0)?.set_value("after", "k", "1").await?;
    cluster.start(&[leader]).await?;
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_killed_while_a_snapshot_and_then_the_past_arrive_goes_on_where_it_was() -> Story {
    let mut cluster = forgetful("12MiB", 0).await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let away = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    cluster.objects(leader, CLASS, 0)?.set_value("before", "k", "1").await?;
    cluster.kill(&[away]).await?;
    let last = forget(&cluster, leader, 100, 8_000).await?;
    let sent = cluster.figure(leader, "snapshot_bytes_sent_total").await?.ok_or("the leader answers")?;
    assert_eq!(sent, 0);

    // The second piece is not answered.
    cluster.set(away, "FAILPOINTS", "snapshot-piece-received=1*off->pause")?;
    cluster.begin_to_start(away)?;
    let before = cluster.figure_where(away, "snapshot_bytes_received_total", |bytes| bytes > 0).await?;
    cluster.kill(&[away]).await?;

    // All of it arrives, and of the past what it asks for once.
    cluster.set(away, "FAILPOINTS", "fill-records=1*off->return")?;
    cluster.begin_to_start(away)?;
    let filled = cluster.figure_where(away, "filled_records_total", |records| records > 0).await?;
    let after = cluster.figure(away, "snapshot_bytes_received_total").await?.ok_or("it answers")?;
    let watched = cluster.objects(away, CLASS, 0)?.watch_until_current(From::Earliest(Earliest {})).await;
    let refused = watched.err().ok_or("the past is not here yet")?;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(refused.message().contains("ask node"), "{refused}");
    cluster.kill(&[away]).await?;
    let group = described(&cluster, leader).await?.group;
    let installed = begun_at(&cluster, away, group)?;
    let whole = snapshot_bytes(&cluster, leader, group, installed)?;

    cluster.set(away, "FAILPOINTS", "")?;
    cluster.start(&[away]).await?;
    cluster.converged(CLASS).await?;
    cluster.figure_where(away, "partitions_filling", |filling| filling == 0).await?;
    let rest = cluster.figure(away, "filled_records_total").await?.ok_or("it answers")?;

    let (here, there) = (described(&cluster, away).await?, described(&cluster, leader).await?);
    println!(
        "snapshot: {before} bytes, killed, {after} bytes, of {whole}; past: {filled} records, killed, {rest} records; the log has {} \
         to {last}",
        here.first_offset
    );
    assert!(
        before > 0 && after > 0,
        "it was killed in the middle of the snapshot: {before}, {after} of {whole}"
    );
    // What it is sent a second time it counts again only if it has not kept it.
    assert!(before + after <= whole, "{before} bytes were kept, and then {after} of {whole} came");
    let sent = cluster.figure(leader, "snapshot_bytes_sent_total").await?.ok_or("the leader answers")?;
    assert!(
        after <= sent && sent <= whole,
        "{after} of {whole} bytes came the second time, {sent} were sent in all"
    );
    assert!(filled > 0 && rest > 0, "it was killed in the middle of the past: {filled}, {rest}");
    assert!(filled + rest <= last, "no record came twice: {filled} and {rest} of {last}");
    assert_eq!(here.first_offset, there.first_offset);
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_let_go_before_its_successor_has_the_past_too() -> Story {
    let mut cluster = forgetful("4MiB", 1).await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let old = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    forget(&cluster, leader, 100, 4_000).await?;

    // The new one gets a snapshot and what follows, and not what was before.
    cluster.set(4, "FAILPOINTS", "fill-records=return")?;
    cluster.begin_to_start(4)?;
    cluster.said(4, "odgm cluster add 4").await?;
    let replace = ["cluster", "replace", &old.to_string(), "4", "--yes", "--no-wait"];
    cluster.odgm(leader, &replace).await?.success()?;
    cluster.figure_where(4, "snapshots_installed_total", |installed| installed > 0).await?;
    cluster.said(4, "the past is fetched later").await?;
    let steward = cluster.leader(CLASS, 0).await?;
    cluster.said(steward, "new members are catching up").await?;
    let status = cluster.odgm(leader, &["cluster", "status", "--json"]).await?.success()?;
    let status: serde_json::Value = serde_json::from_str(&status)?;
    assert_eq!(status["moving"], 1, "{status}");
    let votes = status["partitions"][0]["replicas"].as_array().into_iter().flatten();
    let votes: Vec<u64> = votes
        .filter(|replica| replica["votes"] == true)
        .filter_map(|replica| replica["node"].as_u64())
        .collect();
    assert!(votes.contains(&old) && !votes.contains(&4), "{status}");

    cluster.kill(&[4]).await?;
    cluster.set(4, "FAILPOINTS", "")?;
    cluster.start(&[4]).await?;
    cluster.said(old, "this node has left the cluster").await?;
    cluster.stop(old).await?;
    let (here, there) = (described(&cluster, 4).await?, described(&cluster, leader).await?);
    assert!(here.first_offset <= there.first_offset && here.fills_from.is_none(), "{here:?}, {there:?}");
    cluster.objects(4, CLASS, 0)?.set_value("after", "k", "1").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_catches_up() -> Story {
    const WRITES: usize = 3_000;
    const OBJECTS: usize = 50;
    let cluster = Layout::of(3).collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let away = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
    let things = cluster.objects(leader, CLASS, 0)?;
    things.set_value("before", "k", "1").await?;
    cluster.kill(&[away]).await?;

    let writes = (0..WRITES).map(|number| (format!("thing-{}", number % OBJECTS), "k", number.to_string()));
    let last = things.set_values(writes.collect()).await?.offset;
    things.delete("before").await?;
    cluster.start(&[away]).await?;
    let replicas = cluster.converged(CLASS).await?;
    assert!(replicas[&0].applied > last, "{replicas:?} has not all up to {last}");

    let local = cluster.objects(away, CLASS, 0)?.reading(LOCAL);
    assert_eq!(local.find("before").await?, None);
    for number in WRITES - OBJECTS..WRITES {
        let held = local.value(&format!("thing-{}", number % OBJECTS), "k").await?;
        assert_eq!(held, Some(number.to_string()));
    }
    cluster.prove(CLASS, 1).await
}
