//! Disks that are nearly full, and disks that are.

use std::collections::BTreeMap;

use odgm_tests::harness::{Home, SmallDisk};
use tonic::Code;

use super::write;
use crate::Story;

#[tokio::test]
async fn below_the_reserve_writes_are_refused_and_reads_go_on() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let last = write(&node.objects("things", 0), 50).await?;
    node.stop()?;

    // More than any test machine has free.
    let home = home.with("ODGM_FREE_SPACE_RESERVE", "1000GiB");
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let refused = things.set_value("a", "k", "v").await.expect_err("there is no space to spare");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("free") && refused.message().contains("reserve"), "{refused}");
    let outcome = refused.metadata().get("odgm-outcome").and_then(|outcome| outcome.to_str().ok());
    assert_eq!(outcome, Some("not-applied"));
    assert_eq!(things.value("thing-49", "k").await?.as_deref(), Some("49"));
    assert_eq!(things.history("thing-49").await?.last().map(|event| event.offset), Some(last.offset));
    Ok(())
}

/// A node for a small disk: what it keeps in memory has to fit into the reserve.
fn small(home: Home) -> Home {
    ["ODGM_LOG_BUFFER_BYTES", "ODGM_LOG_WAL_BYTES", "ODGM_VIEW_BUFFER_BYTES", "ODGM_VIEW_GATHER_BYTES"]
        .into_iter()
        .fold(home.collection("things", 1), |home, setting| home.with(setting, "4MiB"))
}

#[tokio::test]
async fn a_full_disk_stops_the_node_and_loses_nothing_that_was_acknowledged() -> Story {
    let Some(disk) = SmallDisk::mount("48m")? else {
        eprintln!("skipped: this process may not mount a file system");
        return Ok(());
    };
    let home = small(Home::within(disk.path())?).with("ODGM_FREE_SPACE_RESERVE", "0");
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let value = "x".repeat(64 << 10);
    let mut acknowledged = BTreeMap::new();
    let failed = loop {
        let number = acknowledged.len();
        let (object, value) = (format!("thing-{number}"), format!("{number} {value}"));
        match things.set_value(&object, "k", &value).await {
            Ok(_) => acknowledged.insert(object, value),
            Err(status) => break status,
        };
        assert!(number < 10_000, "the disk never filled");
    };
    // The outcome of what was under way is not known, and so says the node before it stops.
    let outcome = failed.metadata().get("odgm-outcome").and_then(|outcome| outcome.to_str().ok());
    assert_ne!(outcome, Some("not-applied"), "{failed}");
    let status = node.ended()?;
    assert!(!status.success());

    disk.grow("256m")?;
    let node = home.start().await?;
    let things = node.objects("things", 0);
    for (object, value) in acknowledged {
        assert_eq!(things.value(&object, "k").await?.as_ref(), Some(&value), "{object}");
    }
    node.odgm(&["partition", "verify", "things"])?.success()?;
    node.odgm(&["partition", "verify-view", "things"])?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_reserve_keeps_a_small_disk_from_filling_up() -> Story {
    let Some(disk) = SmallDisk::mount("160m")? else {
        eprintln!("skipped: this process may not mount a file system");
        return Ok(());
    };
    // Table files that are merged are there twice for a while: all that is written until then fits into the reserve once more.
    let home = small(Home::within(disk.path())?).with("ODGM_FREE_SPACE_RESERVE", "96MiB");
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let value = "x".repeat(64 << 10);
    let mut number = 0;
    let refused = loop {
        match things.set_value(&format!("thing-{number}"), "k", &value).await {
            Ok(_) => number += 1,
            Err(status) => break status,
        }
        assert!(number < 10_000, "the reserve was never reached");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(things.value("thing-0", "k").await?.map(|value| value.len()), Some(64 << 10));
    disk.grow("512m")?;
    // Free space is looked at again now and then.
    while things.set_value("again", "k", &value).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}
