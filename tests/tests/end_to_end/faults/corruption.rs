//! Bytes on disk that are not those that were written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use odgm_proto::odgm::v1::ListPartitionsRequest;
use odgm_tests::Result;
use odgm_tests::harness::Home;
use tonic::Code;

use super::{refusal, write};
use crate::Story;

/// The largest file of the log with that extension.
fn largest(home: &Home, extension: &str) -> Result<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(home.data().join("log"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push((fs::metadata(&path)?.len(), path));
        }
    }
    let largest = files.into_iter().max().ok_or_else(|| format!("the log has no .{extension} file"))?;
    Ok(largest.1)
}

/// Where the records of a write-ahead file end; behind that there may be zeros that are only reserved. A record is a checksum of
/// four bytes, its length in two, its type in one, and then itself; none crosses the end of a block of 32 KiB.
fn written(path: &Path) -> Result<usize> {
    const BLOCK: usize = 32 << 10;
    let (bytes, mut at) = (fs::read(path)?, 0);
    while let Some(header) = bytes.get(at..at + 7) {
        match (BLOCK - at % BLOCK, header[6]) {
            (left @ ..7, _) => at += left,
            (_, 0) => return Ok(at),
            _ => at += 7 + usize::from(u16::from_le_bytes([header[4], header[5]])),
        }
    }
    Ok(bytes.len())
}

fn flip(path: &Path, at: usize) -> Story {
    let mut bytes = fs::read(path)?;
    bytes[at] ^= 0x40;
    fs::write(path, bytes)?;
    Ok(())
}

#[tokio::test]
async fn a_flipped_byte_in_a_table_of_the_log_is_found_by_verify_and_named() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    write(&node.objects("things", 0), 3_000).await?;
    node.stop()?;
    // An orderly stop and the next start leave the log in table files.
    home.start().await?.stop()?;
    let table = largest(&home, "sst")?;
    flip(&table, usize::try_from(fs::metadata(&table)?.len())? / 3)?;

    let before = home.snapshot()?;
    let verified = home.odgm(&["log", "verify"])?;
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let told = verified.stdout + &verified.stderr;
    assert!(told.contains("things/0") && told.contains(".sst") && told.contains("offset"), "{told}");
    // The catalogue's view is opened for the names, which is a change of its files.
    let mut changed = before.changed_in(&home.snapshot()?);
    changed.retain(|file| !file.starts_with("views/0/"));
    assert_eq!(changed, [""; 0], "verify has changed files");
    Ok(())
}

#[tokio::test]
async fn a_flipped_byte_in_what_was_written_last_stops_the_start() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let last = write(&node.objects("things", 0), 500).await?.offset;
    node.kill()?;
    let wal = largest(&home, "log")?;
    flip(&wal, written(&wal)? / 2)?;
    let told = refusal(&home)?;
    assert!(told.contains(&format!("up to {last} were synced")), "{told}");
    assert!(told.contains("group 1: the log ends at offset"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_shorter_than_its_watermark_is_refused() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let last = write(&node.objects("things", 0), 500).await?.offset;
    node.kill()?;
    let wal = largest(&home, "log")?;
    let length = u64::try_from(written(&wal)?)?;
    File::options().write(true).open(&wal)?.set_len(length * 3 / 4)?;
    let told = refusal(&home)?;
    assert!(told.contains(&format!("up to {last} were synced")), "{told}");
    assert!(told.contains("group 1: the log ends at offset"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_torn_tail_is_tolerated_and_nothing_that_was_acknowledged_is_lost() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    write(&node.objects("things", 0), 200).await?;
    node.kill()?;
    // A write that the power cut short: the beginning of a block, never acknowledged.
    let wal = largest(&home, "log")?;
    let torn = [0x5a, 0x17, 0xc0, 0xde, 0xff, 0x00, 0x01, 0x99, 0x42];
    File::options().write(true).open(&wal)?.write_all_at(&torn, u64::try_from(written(&wal)?)?)?;

    let node = home.start().await?;
    let things = node.objects("things", 0);
    for number in 150..200 {
        let expected = number.to_string();
        assert_eq!(things.value(&format!("thing-{}", number % 50), "k").await?, Some(expected));
    }
    write(&things, 10).await?;
    node.odgm(&["partition", "verify", "things"])?.success()?;
    Ok(())
}

#[tokio::test]
async fn a_view_that_is_ahead_of_its_log_is_refused_and_left_as_it_is() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let old = write(&node.objects("things", 0), 100).await?.offset;
    node.stop()?;
    let log = home.data().join("log");
    let (old_log, new_log) = (home.data().with_file_name("old"), home.data().with_file_name("new"));
    copy(&log, &old_log)?;
    let node = home.start().await?;
    let new = write(&node.objects("things", 0), 150).await?.offset;
    node.stop()?;
    // An operator restores an old copy of the log, but not of the views.
    fs::rename(&log, &new_log)?;
    copy(&old_log, &log)?;

    let node = home.listen().await?;
    let mut admin = node.connection().admin;
    let partition = loop {
        let request = ListPartitionsRequest { cls_id: "things".into() };
        let partition = admin.list_partitions(request).await?.into_inner().partitions.remove(0);
        if partition.state != "starting" {
            break partition;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(partition.state, "failed");
    let reason = partition.reason.unwrap_or_default();
    assert!(reason.contains(&new.to_string()) && reason.contains(&old.to_string()), "{reason}");
    let refused = node.objects("things", 0).value("thing-1", "k").await.expect_err("it is out of service");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    node.stop()?;

    // With the right log all is well: nothing was thrown away.
    fs::remove_dir_all(&log)?;
    fs::rename(&new_log, &log)?;
    let node = home.start().await?;
    assert_eq!(node.objects("things", 0).value("thing-49", "k").await?.as_deref(), Some("149"));
    Ok(())
}

#[tokio::test]
async fn a_watermark_file_that_is_gone_or_damaged_is_refused() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    write(&node.objects("things", 0), 100).await?;
    node.stop()?;
    let file = home.data().join("log/watermarks");
    let bytes = fs::read(&file)?;

    let mut damaged = bytes.clone();
    damaged[..8].copy_from_slice(b"garbage!");
    fs::write(&file, &damaged)?;
    let wrong_bytes = refusal(&home)?;
    fs::remove_file(&file)?;
    let missing = refusal(&home)?;
    insta::assert_snapshot!(format!("{wrong_bytes}\n{missing}"), @r"
    odgm: DATA/log/watermarks: this is no watermark file; to accept the log as it is, empty this file (truncate -s 0)
    odgm: DATA/log/watermarks: the file is missing, so nothing tells whether synced records were lost; to accept the log as it is, create it empty
    ");

    fs::write(&file, bytes)?;
    assert_eq!(home.start().await?.objects("things", 0).value("thing-49", "k").await?.as_deref(), Some("99"));
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Story {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
