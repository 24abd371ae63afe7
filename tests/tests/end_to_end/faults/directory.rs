//! Data directories that are not this node's.

use std::fs;

use odgm_tests::harness::Home;
use serde_json::Value;

use super::{refusal, write};
use crate::Story;

#[tokio::test]
async fn a_directory_of_another_node_is_refused() -> Story {
    let home = Home::new()?.with("ODGM_NODE_ID", "7").collection("things", 1);
    let node = home.start().await?;
    write(&node.objects("things", 0), 10).await?;
    node.stop()?;
    let home = home.with("ODGM_NODE_ID", "8");
    insta::assert_snapshot!(refusal(&home)?, @"odgm: data directory DATA belongs to node 7, not to node 8: correct ODGM_NODE_ID or ODGM_DATA_DIR");
    let home = home.with("ODGM_NODE_ID", "7");
    assert_eq!(home.start().await?.objects("things", 0).value("thing-9", "k").await?.as_deref(), Some("9"));
    Ok(())
}

#[tokio::test]
async fn a_directory_of_another_format_is_refused() -> Story {
    let home = Home::new()?.collection("things", 1);
    home.start().await?.stop()?;
    let file = home.data().join("node.json");
    let mut node: Value = serde_json::from_slice(&fs::read(&file)?)?;
    node["format"] = 999.into();
    fs::write(&file, node.to_string())?;
    insta::assert_snapshot!(refusal(&home)?, @"odgm: data directory DATA has format 999; this build reads format 1: use the build that wrote it");
    Ok(())
}

#[tokio::test]
async fn a_directory_whose_node_file_is_damaged_is_refused() -> Story {
    let home = Home::new()?;
    home.start().await?.stop()?;
    let file = home.data().join("node.json");
    let text = fs::read(&file)?;
    fs::write(&file, &text[..text.len() / 2])?;
    let refused = refusal(&home)?;
    assert!(refused.starts_with("odgm: DATA/node.json is damaged: EOF while parsing an object"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_folder_of_other_files_is_refused() -> Story {
    let home = Home::new()?;
    fs::create_dir(home.data())?;
    fs::write(home.data().join("thesis.txt"), "two years of work")?;
    insta::assert_snapshot!(refusal(&home)?, @"odgm: DATA is not empty and not a data directory: choose an empty or new folder");
    Ok(())
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_offline_commands_name_the_online_form() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    write(&node.objects("things", 0), 10).await?;

    let second = home.refused()?;
    let error = second.output.lines().rfind(|line| line.starts_with("odgm: ")).unwrap_or_default();
    insta::assert_snapshot!(error.replace(&home.data().display().to_string(), "DATA"), @"odgm: data directory DATA is in use by another process: stop it, or choose another ODGM_DATA_DIR");

    let mut told = Vec::new();
    for command in [
        &["log", "verify"][..],
        &["log", "dump", "things/0"],
        &["view", "rebuild", "things"],
        &["view", "dump", "things/0"],
    ] {
        let (code, error) = home.odgm(command)?.failure()?;
        told.push(format!("{} -> {code}: {}", command.join(" "), error.trim_end()));
    }
    let told = told.join("\n").replace(&home.data().display().to_string(), "DATA");
    insta::assert_snapshot!(told, @"
    log verify -> 4: odgm: a node is running on DATA: stop it first, or ask the node itself with `odgm partition verify`
    log dump things/0 -> 4: odgm: a node is running on DATA: stop it first, or ask the node itself with `odgm partition log`
    view rebuild things -> 4: odgm: a node is running on DATA: stop it first, or ask the node itself with `odgm partition verify-view`
    view dump things/0 -> 4: odgm: a node is running on DATA: stop it first, or ask the node itself with `odgm partition dump`
    ");
    assert_eq!(node.objects("things", 0).value("thing-9", "k").await?.as_deref(), Some("9"));
    Ok(())
}
