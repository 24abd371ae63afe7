//! Nodes that were away.

use odgm_proto::metadata::consistency::LOCAL;
use odgm_tests::harness::Layout;

use crate::{CLASS, Story};

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
