//! Backups of a node, and what is made of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use odgm_proto::odgm::v1::get_at_request::At;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Cursors, Earliest, SubscribeRequest};
use odgm_tests::Result;
use odgm_tests::harness::{Home, Node};

use crate::{Story, live_a_little};

fn folder() -> Result<(tempfile::TempDir, String)> {
    let parent = tempfile::tempdir()?;
    let path = parent.path().join("backup").to_str().ok_or("a path in UTF-8")?.to_owned();
    Ok((parent, path))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_backed_up_is_restored_byte_for_byte_with_its_history_and_cursors() -> Story {
    let home = Home::new()?.collection("things", 2).collection("others", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    live_a_little(&things).await?;
    live_a_little(&node.objects("others", 0)).await?;
    node.odgm(&["cursor", "move", "things/0", "reader", "10"])?.success()?;
    let subscribe = SubscribeRequest {
        cls_id: "things".into(),
        partitions: vec![0],
        from: Some(From::Earliest(Earliest {})),
        until_current: true,
        ..SubscribeRequest::default()
    };
    let mut feed = node.connection().streams.subscribe(subscribe.clone()).await?.into_inner();
    let mut cursor = Vec::new();
    while let Some(response) = feed.message().await? {
        cursor = response.cursor.to_vec();
    }
    let dumps = [node.objects("things", 0).dump().await?, node.objects("things", 1).dump().await?];
    let past = things.get_at("thing-4", At::Offset(40)).await?;
    assert!(past.contains_key("round"), "it existed then: {past:?}");
    let (_parent, backup) = folder()?;
    let made = node.odgm(&["backup", &backup])?.success()?;
    assert!(made.contains("things") && made.contains("others"), "{made}");
    let proven = node.odgm(&["backup", "verify", &backup])?.success()?;
    assert!(proven.contains("things/1") && proven.contains("ok"), "{proven}");
    let (code, said) = node.odgm(&["backup", &backup])?.failure()?;
    assert!(code == 4 && said.contains("there is"), "a backup is not written over: {said}");
    let (code, said) = node.odgm(&["restore", &backup])?.failure()?;
    assert!(code == 4 && said.contains("already"), "no collection is replaced: {said}");
    node.stop()?;

    // Everything was lost.
    let home = Home::new()?;
    let node = home.start().await?;
    node.odgm(&["restore", &backup])?.success()?;
    expect(&node, &dumps).await?;
    assert_eq!(node.objects("things", 0).get_at("thing-4", At::Offset(40)).await?, past, "as it was then");
    let cursors = node.odgm(&["cursor", "list", "things"])?.success()?;
    assert!(cursors.contains("reader") && cursors.contains("10"), "{cursors}");
    node.kill()?;

    let node = home.start().await?;
    expect(&node, &dumps).await?;
    // A request that was made before is not made twice, and a subscriber goes on where it was.
    let things = node.objects("things", 0);
    things.once("request-39").merge("thing-4", &[("b", "2")]).await?;
    things.set("new", &[("a", "1")]).await?;
    let from = Some(From::Cursors(Cursors { cursors: vec![cursor.into()] }));
    let mut feed =
        node.connection().streams.subscribe(SubscribeRequest { from, ..subscribe }).await?.into_inner();
    let mut changed = Vec::new();
    while let Some(response) = feed.message().await? {
        changed.extend(response.events.into_iter().map(|event| event.object_id));
    }
    assert_eq!(changed, ["new"]);
    node.stop()?;
    home.odgm(&["log", "verify"])?.success()?;
    let before = home.odgm(&["view", "dump", "things/0"])?.success()?;
    home.odgm(&["view", "rebuild", "things"])?.success()?;
    assert_eq!(home.odgm(&["view", "dump", "things/0"])?.success()?, before);
    Ok(())
}

/// Logs and views are what they were, and prove themselves.
async fn expect(node: &Node<'_>, dumps: &[String; 2]) -> Story {
    assert_eq!([node.objects("things", 0).dump().await?, node.objects("things", 1).dump().await?], *dumps);
    for class in ["things", "others"] {
        node.odgm(&["partition", "verify", class])?.success()?;
        node.odgm(&["partition", "verify-view", class])?.success()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_restored_under_another_name_beside_the_first_and_without_its_log() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    live_a_little(&things).await?;
    let (_parent, backup) = folder()?;
    node.odgm(&["backup", "--collection", "things", &backup])?.success()?;
    let said = node.odgm(&["restore", &backup, "--as", "copy"])?.success()?;
    assert!(said.contains("new groups"), "the old ones are taken: {said}");
    let lines = |text: String| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (first, copy) = (node.objects("things", 0).dump().await?, node.objects("copy", 0).dump().await?);
    assert_eq!(lines(copy), lines(first), "but for the group in the first line");
    // Both go their own ways.
    node.objects("copy", 0).set("thing-1", &[("a", "changed")]).await?;
    assert_ne!(things.get("thing-1").await?, node.objects("copy", 0).get("thing-1").await?);

    let stateonly = format!("{backup}-state");
    node.odgm(&["backup", "--no-log", &stateonly, "--collection", "things"])?.success()?;
    node.odgm(&["restore", &stateonly, "--as", "bare"])?.success()?;
    let bare = node.objects("bare", 0);
    assert_eq!(bare.get("thing-2").await?, things.get("thing-2").await?);
    let refused = bare.get_at("thing-2", At::Offset(5)).await.err().ok_or("there is no history")?;
    assert!(refused.to_string().contains("below what is kept"), "{refused}");
    bare.set("thing-2", &[("a", "more")]).await?;
    node.odgm(&["partition", "verify", "bare"])?.success()?;
    node.odgm(&["partition", "verify-view", "bare"])?.success()?;
    let (code, said) = node.odgm(&["restore", &backup, "--collection", "nothing"])?.failure()?;
    assert!(code == 3 && said.contains("nothing"), "{said}");
    node.stop()
}

fn bundle(backup: &str) -> PathBuf {
    Path::new(backup).join("things.0.odgm")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_backup_is_named_and_refused() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    live_a_little(&node.objects("things", 0)).await?;
    let (_parent, backup) = folder()?;
    node.odgm(&["backup", &backup])?.success()?;
    node.odgm(&["collection", "delete", "things", "--yes"])?.success()?;
    let whole = fs::read(bundle(&backup))?;
    let manifest = Path::new(&backup).join("manifest.json");
    let described = fs::read(&manifest)?;

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    let mut swapped = described.clone();
    swapped[described.len() / 2] ^= 0x01;
    let damages: [(&str, &dyn Fn() -> std::io::Result<()>); 5] = [
        ("things.0.odgm", &|| fs::write(bundle(&backup), &flipped)),
        ("things.0.odgm", &|| fs::write(bundle(&backup), &whole[..whole.len() - 7])),
        ("things.0.odgm", &|| fs::remove_file(bundle(&backup))),
        ("things.0.odgm", &|| fs::copy(Path::new(&backup).join("things.1.odgm"), bundle(&backup)).map(drop)),
        ("manifest.json", &|| fs::write(&manifest, &swapped)),
    ];
    for (number, (named, damage)) in damages.iter().enumerate() {
        damage()?;
        for command in [&["backup", "verify", &backup][..], &["restore", &backup]] {
            let (code, said) = node.odgm(command)?.failure()?;
            assert!(code == 1 && said.contains(named), "damage {number}, {command:?}: {code} {said}");
        }
        fs::write(bundle(&backup), &whole)?;
        fs::write(&manifest, &described)?;
    }
    fs::remove_file(Path::new(&backup).join("CHECKSUMS"))?;
    let (code, said) = node.odgm(&["restore", &backup])?.failure()?;
    assert!(code == 1 && said.contains("no whole backup"), "{said}");
    let listed = node.odgm(&["collection", "list"])?.success()?;
    assert!(!listed.contains("things"), "nothing was restored: {listed}");
    node.stop()
}

/// Requires that two views say the same, but which group they are of.
fn expect_same(found: &str, expected: &str) {
    assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), expected.lines().skip(1).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_killed_leaves_nothing_and_can_be_repeated() -> Story {
    const OBJECTS: usize = 3_000;
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let value = "a value of some length, so that there is something to send ".repeat(40);
    let writes = (0..OBJECTS).map(|number| (format!("thing-{number}"), "k", format!("{number} {value}")));
    node.objects("things", 0).set_values(writes.collect()).await?;
    let expected = node.objects("things", 0).dump().await?;
    let (_parent, backup) = folder()?;
    node.odgm(&["backup", &backup])?.success()?;
    node.stop()?;

    // All data are in place, and no catalogue has them.
    let mut home = Home::new()?.with("FAILPOINTS", "restore-after-partition=pause");
    let node = home.start().await?;
    let mut command = node.odgm_command(&["restore", &backup])?;
    let mut restoring = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let folders = |name: &str| fs::read_dir(home.data().join(name)).map_or(0, Iterator::count);
    while folders("views") < 2 || folders("scratch") > 0 {
        assert!(restoring.try_wait()?.is_none(), "it waits for the rest");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    node.kill()?;
    assert!(!restoring.wait()?.success());
    home.set("FAILPOINTS", "");
    let node = home.start().await?;
    assert!(!node.odgm(&["collection", "list"])?.success()?.contains("things"));
    node.stop()?;
    assert_eq!(fs::read_dir(home.data().join("views"))?.count(), 1, "what was restored is removed");

    let mut killed = 0;
    for after in [5, 20, 60, 120] {
        let node = home.start().await?;
        let mut command = node.odgm_command(&["restore", &backup])?;
        let mut restoring = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // As soon as data have begun to arrive, and a little later each time.
        while !home.data().join("scratch").exists() && restoring.try_wait()?.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(after)).await;
        node.kill()?;
        if restoring.wait()?.success() {
            break;
        }
        killed += 1;
        let node = home.start().await?;
        let listed = node.odgm(&["collection", "list"])?.success()?;
        let is_there = listed.contains("things");
        if is_there {
            // Only the answer was lost: then all of it is there.
            expect_same(&node.objects("things", 0).dump().await?, &expected);
            node.odgm(&["collection", "delete", "things", "--yes"])?.success()?;
        }
        node.stop()?;
    }
    assert!(killed > 0, "no restore was interrupted");
    let node = home.start().await?;
    if node.odgm(&["collection", "list"])?.success()?.contains("things") {
        node.odgm(&["collection", "delete", "things", "--yes"])?.success()?;
    }
    node.odgm(&["restore", &backup])?.success()?;
    let found = node.objects("things", 0).dump().await?;
    expect_same(&found, &expected);
    node.odgm(&["partition", "verify-view", "things"])?.success()?;
    node.stop()?;
    for folder in ["views", "snapshots"] {
        let kept = fs::read_dir(home.data().join(folder))?.count();
        assert!(kept <= 2, "data of what was interrupted is still in {folder}");
    }
    Ok(())
}
