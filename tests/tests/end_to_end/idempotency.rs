//! Writes that are sent again.

use odgm_tests::harness::{Home, fields};
use tonic::Code;

use crate::Story;

#[tokio::test]
async fn a_write_that_is_sent_again_is_applied_once_and_answered_the_same() -> Story {
    let home = Home::new()?.collection("orders", 1);
    let node = home.start().await?;
    let orders = node.objects("orders", 0);

    let first = orders.once("pay-17").set_value("17", "state", "paid").await?;
    orders.set_value("17", "state", "shipped").await?;
    assert_eq!(orders.once("pay-17").set_value("17", "state", "paid").await?, first);
    assert_eq!(orders.value("17", "state").await?.as_deref(), Some("shipped"), "the repeat was applied");

    let merged = orders.once("merge-17").merge("17", &[("note", "fragile")]).await?;
    orders.set_value("17", "note", "none").await?;
    assert_eq!(orders.once("merge-17").merge("17", &[("note", "fragile")]).await?, merged);

    let refused =
        orders.once("cas-17").batch("17", &[("k", "v")], &[], Some(99)).await.expect_err("a stale version");
    let again =
        orders.once("cas-17").batch("17", &[("k", "v")], &[], Some(99)).await.expect_err("the same answer");
    assert_eq!((refused.code(), refused.message()), (again.code(), again.message()));
    assert_eq!(refused.code(), Code::Aborted);
    node.kill()?;

    let node = home.start().await?;
    let orders = node.objects("orders", 0);
    assert_eq!(
        orders.once("pay-17").set_value("17", "state", "paid").await?,
        first,
        "forgotten by a restart"
    );
    let expected = fields(&[("note", "none"), ("state", "shipped")]);
    assert_eq!(orders.get("17").await?, expected);
    Ok(())
}

#[tokio::test]
async fn an_id_that_was_used_for_another_request_is_refused() -> Story {
    let home = Home::new()?.collection("orders", 2);
    let node = home.start().await?;
    let orders = node.objects("orders", 0);
    orders.once("one").set_value("17", "state", "paid").await?;
    let refused = orders.once("one").set_value("17", "state", "stolen").await.expect_err("another request");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("odgm-request-id"), "{refused}");
    assert_eq!(orders.value("17", "state").await?.as_deref(), Some("paid"));
    // The key is partition and id: elsewhere the id is free.
    node.objects("orders", 1).once("one").set_value("18", "state", "new").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_sent_many_times_at_once_is_applied_once() -> Story {
    let home = Home::new()?.collection("orders", 1);
    let node = home.start().await?;
    let orders = node.objects("orders", 0);
    let attempts: Vec<_> = (0..32)
        .map(|_| {
            let orders = orders.once("burst");
            tokio::spawn(async move { orders.set_value("17", "state", "paid").await })
        })
        .collect();
    let mut answers = Vec::new();
    for attempt in attempts {
        answers.push(attempt.await??);
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "one request had several answers: {answers:?}");
    assert_eq!(answers[0].version, 1);
    assert_eq!(orders.history("17").await?.len(), 1);
    Ok(())
}
