//! Most nodes are gone.

use odgm_proto::metadata::consistency::{LEASE, LINEARIZABLE, LOCAL};
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, SubscribeRequest};
use odgm_tests::harness::{Cluster, Layout, Wire, until};
use tonic::{Code, Status};

use super::{DEADLINE, others, refusal, things, until_answered};
use crate::{CLASS, Story};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_left_alone_refuses_and_all_heals_by_itself() -> Story {
    let cluster =
        Layout::of(3).with("ODGM_WRITE_STREAM_PATIENCE_MS", "500").collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    let alone = others(&cluster, leader)[0];
    left_alone(&cluster, alone).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_left_alone_refuses_and_all_heals_by_itself() -> Story {
    let cluster = Layout::of(3).wire(Wire::Tcp).with("ODGM_WRITE_STREAM_PATIENCE_MS", "500");
    let cluster = cluster.collection(CLASS, 1).start().await?;
    let leader = cluster.leader(CLASS, 0).await?;
    left_alone(&cluster, leader).await
}

async fn left_alone(cluster: &Cluster, alone: u64) -> Story {
    let here = things(cluster, alone)?;
    here.set_value("thing", "k", "before").await?;
    let mut feed = here.watch(From::Earliest(Earliest {})).await?;
    assert_eq!(feed.take(1).await?.len(), 1);
    let gone = others(cluster, alone);
    cluster.kill(&gone).await?;
    cluster.said(alone, "members do not answer").await?;

    let advice = format!(
        "2 of its 3 members have to answer, and nodes {}, {} do not answer node {alone}: start them, or mend the network",
        gone[0], gone[1]
    );
    let write = refusal(here.set_value("thing", "k", "lost")).await?;
    let read = refusal(here.value("thing", "k")).await?;
    let by_lease = refusal(here.reading(LEASE).find("thing")).await?;
    for refused in [&write, &read, &by_lease] {
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(refused.message().contains(&advice), "{refused}");
    }
    let outcome = |status: &Status| Some(status.metadata().get("odgm-outcome")?.to_str().ok()?.to_owned());
    assert_eq!(outcome(&write).as_deref(), Some("not-applied"), "{write}");
    // A stream of writes does not wait for ever either.
    let streamed = here.set_values(vec![("streamed".to_owned(), "k", "lost".to_owned())]).await;
    let ended = streamed.err().ok_or("nobody confirms it")?;
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    // What this node has itself can be read, also as a stream.
    assert_eq!(here.reading(LOCAL).value("thing", "k").await?.as_deref(), Some("before"));
    let from = Some(From::Earliest(Earliest {}));
    let request = SubscribeRequest { from, ..here.subscription() };
    assert_eq!(here.subscribe(request).await?.take(1).await?.len(), 1);

    cluster.start(&gone).await?;
    cluster.said(alone, "all members answer again").await?;
    until_answered(async || Ok(here.set_value("thing", "k", "after").await?)).await?;
    assert_eq!(here.value("thing", "k").await?.as_deref(), Some("after"));
    // The stream that was open went on by itself; nothing that was refused is in it, and perhaps what was left open.
    let mut event = feed.take(1).await?.remove(0);
    if event.object_id == "streamed" {
        event = feed.take(1).await?.remove(0);
    }
    let value = event.changes.first().and_then(|change| change.value.clone()).map(|value| value.data);
    assert_eq!(value.as_deref(), Some(b"after".as_slice()), "{event:?}");
    cluster.converged(CLASS).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_says_how_fresh_reads_are_that_do_not_say_so_themselves() -> Story {
    // A lease lasts as long as the longest election takes, so that there is time to read by it.
    let cluster = Layout::of(3).with("ODGM_ELECTION_MIN_MS", "8000").with("ODGM_ELECTION_MAX_MS", "10000");
    let cluster = cluster.start().await?;
    let levels: [(&str, &[(&str, &str)]); 3] =
        [("default", &[]), ("leased", &[("consistency", LEASE)]), ("loose", &[("consistency", LOCAL)])];
    for (name, options) in levels {
        cluster.create(name, 1, 3, options).await?;
        let leader = cluster.leader(name, 0).await?;
        cluster.objects(leader, name, 0)?.set_value("thing", "k", "1").await?;
        cluster.converged(name).await?;
    }
    let alone = cluster.leader("leased", 0).await?;
    let [default, leased, loose] = levels.map(|(name, _)| cluster.objects(alone, name, 0));
    let (default, leased, loose) =
        (default?.within(DEADLINE), leased?.within(DEADLINE), loose?.within(DEADLINE));
    cluster.kill(&others(&cluster, alone)).await?;

    // Nobody else is there to be asked.
    assert_eq!(leased.value("thing", "k").await?.as_deref(), Some("1"), "by its lease");
    assert_eq!(loose.value("thing", "k").await?.as_deref(), Some("1"), "what it holds itself");
    let refused = refusal(default.value("thing", "k")).await?;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // What a read says itself counts more.
    let refused = refusal(loose.reading(LINEARIZABLE).value("thing", "k")).await?;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(default.reading(LOCAL).value("thing", "k").await?.as_deref(), Some("1"));

    let waiting = || "the lease to end".to_owned();
    let refused = until(waiting, async || Ok(leased.value("thing", "k").await.err())).await?;
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert_eq!(loose.value("thing", "k").await?.as_deref(), Some("1"));
    Ok(())
}
