//! Views are made from logs, and the same log always makes the same view.

use std::fs;

use odgm_proto::odgm::v1::DumpViewRequest;
use odgm_tests::harness::{Home, Node, Objects};
use tokio_stream::StreamExt as _;

use crate::Story;

async fn dump(node: &Node<'_>, partition: u32) -> odgm_tests::Result<String> {
    let request = DumpViewRequest { cls_id: "things".into(), partition_id: partition };
    let mut pieces = node.connection().admin.dump_view(request).await?.into_inner();
    let mut text = String::new();
    while let Some(piece) = pieces.next().await {
        text.push_str(&piece?.text);
    }
    Ok(text)
}

/// A bit of everything that leaves something in a view.
async fn live_a_little(things: &Objects) -> Story {
    for round in 0..30 {
        let id = format!("thing-{}", round % 7);
        things.set(&id, &[("a", "1"), ("round", &round.to_string())]).await?;
        things.once(&format!("request-{round}")).merge(&id, &[("b", "2")]).await?;
        things.batch(&id, &[("c", "3")], &["a"], None).await?;
        things.delete_value(&id, "absent").await?;
        drop(things.batch(&id, &[("d", "4")], &[], Some(1)).await);
        if round % 5 == 0 {
            things.delete(&id).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_view_that_was_removed_is_made_again_byte_for_byte() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    live_a_little(&node.objects("things", 0)).await?;
    live_a_little(&node.objects("things", 1)).await?;
    let before = [dump(&node, 0).await?, dump(&node, 1).await?];
    assert!(before[0].contains("thing-3") && before[0].lines().count() > 20, "{}", before[0]);

    // Once after a kill, when the view on disk is old, and once after an orderly stop without any view.
    node.kill()?;
    let node = home.start().await?;
    assert_eq!([dump(&node, 0).await?, dump(&node, 1).await?], before);
    node.stop()?;
    fs::remove_dir_all(home.data().join("views"))?;
    let node = home.start().await?;
    assert_eq!([dump(&node, 0).await?, dump(&node, 1).await?], before);
    node.stop()?;

    let rebuilt = home.odgm(&["view", "rebuild", "things"])?.success()?;
    assert!(rebuilt.contains("things/1"), "{rebuilt}");
    for (partition, before) in before.iter().enumerate() {
        assert_eq!(&home.odgm(&["view", "dump", &format!("things/{partition}")])?.success()?, before);
    }
    Ok(())
}
