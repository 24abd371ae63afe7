//! How fast a follower that was away comes back through a snapshot, held against what the machine can do at best: the same
//! files sent over loopback TCP, written, synced and hashed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use odgm_proto::odgm::v1::{CreateCollectionRequest, ListPartitionsRequest};
use odgm_proto::oprc;
use serde::Serialize;
use tokio::task::block_in_place;

use super::install;
use super::options::Options;
use super::statistics::Spread;
use crate::Result;
use crate::harness::{Cluster, Layout, Way};
use crate::random::Random;

const CLASS: &str = "things";

/// Values, and the bytes of each: together the size of the snapshot, about.
const OBJECTS: usize = 65_536;
const VALUE_BYTES: usize = 8_192;

/// Values that are written so that the follower misses more than is kept.
const MISSED: usize = 4_096;

/// Writes on one stream at once.
const AT_ONCE: usize = 2_048;

/// How much of the log is kept.
const RETENTION: &str = "16MiB";

/// How often both are measured.
const ROUNDS: usize = 3;

/// The bytes of one read or write of the yardstick.
const CHUNK: usize = 1 << 20;

/// What was found.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CatchUp {
    snapshot_bytes: u64,
    files: usize,
    /// From the first bytes that arrive until the snapshot serves.
    catch_up_mb_per_second: Spread,
    /// Sending, receiving, writing, syncing and hashing the same files.
    files_mb_per_second: Spread,
    /// Of the same round.
    pub(super) of_files: Spread,
}

impl CatchUp {
    /// Lets a follower come back, and sends the files by hand, in turns.
    pub(super) async fn measure(options: &Options) -> Result<Self> {
        let odgm = install::odgm(options.odgm.as_deref())?;
        let layout = Layout::of(3).within(options.dir.clone()).program(Some(odgm)).quiet();
        let layout = layout.with("ODGM_RETENTION_INTERVAL_MS", "200").with("ODGM_LOG", "warn");
        let cluster = layout.start().await?;
        create(&cluster).await?;
        let leader = cluster.leader(CLASS, 0).await?;
        let away = cluster.nodes().into_iter().find(|node| *node != leader).ok_or("there are others")?;
        write(&cluster, leader, OBJECTS).await?;
        let (mut caught, mut sent, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        let (mut snapshot_bytes, mut files) = (0, 0);
        for round in 1..=ROUNDS {
            let (bytes, seconds) = come_back(&cluster, leader, away).await?;
            let snapshot = newest_snapshot(&cluster.data(leader)?)?;
            let by_hand = block_in_place(|| by_hand(&snapshot, &options.dir))?;
            #[allow(clippy::cast_precision_loss)] // far below 2^52
            let rate = |bytes: u64, seconds: f64| bytes as f64 / 1e6 / seconds;
            let (ours, yardstick) = (rate(bytes, seconds), rate(by_hand.bytes, by_hand.seconds));
            eprintln!("catch-up, round {round}: {ours:.0} MB/s, by hand {yardstick:.0} MB/s");
            caught.push(ours);
            sent.push(yardstick);
            ratios.push(ours / yardstick);
            (snapshot_bytes, files) = (by_hand.bytes, by_hand.files);
        }
        let spread = |figures| Spread::of(figures).ok_or("at least one round is needed");
        Ok(Self {
            snapshot_bytes,
            files,
            catch_up_mb_per_second: spread(caught)?,
            files_mb_per_second: spread(sent)?,
            of_files: spread(ratios)?,
        })
    }
}

async fn create(cluster: &Cluster) -> Result<()> {
    let definition = oprc::CreateCollectionRequest {
        name: CLASS.to_owned(),
        partition_count: 1,
        replica_count: 3,
        shard_type: "raft".to_owned(),
        options: BTreeMap::from([("retention".to_owned(), RETENTION.to_owned())]),
        ..Default::default()
    };
    let request = CreateCollectionRequest { collection: Some(definition) };
    cluster.client(1)?.admin.create_collection(request).await?;
    Ok(())
}

/// Writes so many values that do not compress.
async fn write(cluster: &Cluster, leader: u64, count: usize) -> Result<()> {
    let things = cluster.objects(leader, CLASS, 0)?;
    let mut random = Random::new(7);
    for first in (0..count).step_by(AT_ONCE) {
        let value = |number: usize| {
            let mut text = String::with_capacity(VALUE_BYTES + 16);
            while text.len() < VALUE_BYTES {
                text += &format!("{:016x}", random.next());
            }
            (format!("thing-{number}"), "k", text)
        };
        let writes = (first..count.min(first + AT_ONCE)).map(value).collect();
        things.set_values(writes).await?;
    }
    Ok(())
}

/// Keeps a follower away until it misses what is no longer kept, and lets it come back; answers the bytes that arrived and
/// the seconds from the first of them until the snapshot had taken the place of its view.
async fn come_back(cluster: &Cluster, leader: u64, away: u64) -> Result<(u64, f64)> {
    let had = first_offset(cluster, leader).await?;
    cluster.kill(&[away]).await?;
    // More than is kept, however far behind it was.
    while first_offset(cluster, leader).await? <= had + 2 * MISSED as u64 {
        write(cluster, leader, MISSED).await?;
    }
    cluster.network().isolate(away, Way::Cut);
    cluster.begin_to_start(away)?;
    cluster.figure_where(away, "snapshot_bytes_received_total", |bytes| bytes == 0).await?;
    cluster.network().heal();
    let before = cluster.figure_where(away, "snapshot_bytes_received_total", |bytes| bytes > 0).await?;
    let begun = Instant::now();
    cluster.figure_where(away, "snapshots_installed_total", |installed| installed > 0).await?;
    let took = begun.elapsed();
    let after = cluster.figure(away, "snapshot_bytes_received_total").await?.ok_or("it answers")?;
    cluster.in_service(&[away]).await?;
    cluster.figure_where(away, "partitions_filling", |filling| filling == 0).await?;
    Ok((after - before, took.as_secs_f64()))
}

async fn first_offset(cluster: &Cluster, node: u64) -> Result<u64> {
    let request = ListPartitionsRequest { cls_id: CLASS.to_owned() };
    let listed = cluster.client(node)?.admin.list_partitions(request).await?.into_inner();
    Ok(listed.partitions.first().ok_or("it has a partition")?.first_offset)
}

/// The folder of the newest snapshot of the newest group.
fn newest_snapshot(data: &Path) -> Result<PathBuf> {
    let newest = |folder: &Path| -> Result<PathBuf> {
        let entries = fs::read_dir(folder)?.filter_map(std::result::Result::ok);
        let numbered = entries.filter_map(|entry| {
            let number: u64 = entry.file_name().to_str()?.parse().ok()?;
            Some((number, entry.path()))
        });
        Ok(numbered.max().ok_or_else(|| format!("nothing in {}", folder.display()))?.1)
    };
    newest(&newest(&data.join("snapshots"))?)
}

/// What was sent by hand.
struct ByHand {
    bytes: u64,
    files: usize,
    seconds: f64,
}

/// Sends the files of a folder over loopback TCP to a thread that writes, syncs and hashes them.
fn by_hand(folder: &Path, within: &Path) -> Result<ByHand> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        files.push((entry.path(), entry.metadata()?.len()));
    }
    files.sort();
    let target = tempfile::tempdir_in(within)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let lengths: Vec<u64> = files.iter().map(|(_, length)| *length).collect();
    let begun = Instant::now();
    let receiver = thread::spawn({
        let (lengths, target) = (lengths.clone(), target.path().to_owned());
        move || receive(&listener, &lengths, &target)
    });
    let mut stream = BufWriter::with_capacity(CHUNK, TcpStream::connect(address)?);
    let mut chunk = vec![0; CHUNK];
    for (path, _) in &files {
        let mut file = File::open(path)?;
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            stream.write_all(&chunk[..count])?;
        }
    }
    stream.flush()?;
    drop(stream);
    receiver.join().map_err(|_| "the receiver has panicked")??;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(ByHand { bytes: lengths.iter().sum(), files: files.len(), seconds })
}

fn receive(listener: &TcpListener, lengths: &[u64], target: &Path) -> std::io::Result<()> {
    let (stream, _) = listener.accept()?;
    let mut stream = BufReader::with_capacity(CHUNK, stream);
    let mut chunk = vec![0; CHUNK];
    for (number, length) in lengths.iter().enumerate() {
        let mut file = File::create(target.join(number.to_string()))?;
        let mut hasher = blake3::Hasher::new();
        let mut left = *length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            stream.read_exact(&mut chunk[..wanted])?;
            hasher.update(&chunk[..wanted]);
            file.write_all(&chunk[..wanted])?;
            left -= wanted as u64;
        }
        std::hint::black_box(hasher.finalize());
        file.sync_all()?;
    }
    File::open(target)?.sync_all()
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            snapshot_bytes,
            files,
            catch_up_mb_per_second: ours,
            files_mb_per_second: theirs,
            of_files,
        } = self;
        let megabytes = snapshot_bytes / 1_000_000;
        let shown = |Spread { median, min, max }: &Spread| format!("{median:.0} [{min:.0}-{max:.0}] MB/s");
        writeln!(f, "follower through a snapshot of {megabytes} MB in {files} files: {}", shown(ours))?;
        let Spread { median, min, max } = of_files;
        writeln!(
            f,
            "the same files over loopback TCP, written, synced, hashed: {}; ratio {median:.2} [{min:.2}-{max:.2}]",
            shown(theirs)
        )
    }
}
