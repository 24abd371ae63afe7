//! Views are made from logs, and the same log always makes the same view.

use std::fs;

use odgm_tests::harness::{Home, Node};

use crate::{Story, live_a_little};

async fn dumps(node: &Node<'_>) -> odgm_tests::Result<[String; 2]> {
    Ok([node.objects("things", 0).dump().await?, node.objects("things", 1).dump().await?])
}

#[tokio::test]
async fn a_view_that_was_removed_is_made_again_byte_for_byte() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    live_a_little(&node.objects("things", 0)).await?;
    live_a_little(&node.objects("things", 1)).await?;
    let before = dumps(&node).await?;
    assert!(before[0].contains("thing-3") && before[0].lines().count() > 20, "{}", before[0]);

    // Once after a kill, when the view on disk is old, and once after an orderly stop without any view.
    node.kill()?;
    let node = home.start().await?;
    assert_eq!(dumps(&node).await?, before);
    node.stop()?;
    fs::remove_dir_all(home.data().join("views"))?;
    let node = home.start().await?;
    assert_eq!(dumps(&node).await?, before);
    node.stop()?;

    let rebuilt = home.odgm(&["view", "rebuild", "things"])?.success()?;
    assert!(rebuilt.contains("things/1"), "{rebuilt}");
    for (partition, before) in before.iter().enumerate() {
        assert_eq!(&home.odgm(&["view", "dump", &format!("things/{partition}")])?.success()?, before);
    }
    Ok(())
}
