//! Whoever talks to the nodes and does not belong to them.

use std::net::SocketAddr;
use std::time::Duration;

use odgm_tests::Result;
use odgm_tests::harness::{Cluster, Layout, Wire};
use odgm_tests::random::Random;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::load::Load;
use crate::{CLASS, Story};

const NAME: &str = "bad-luck-strangers";

/// Acknowledgements while strangers talk.
const SOME: u64 = 200;

/// How much a node may grow over it, in KiB: it serves meanwhile.
const GROWTH_KIB: u64 = 96 << 10;

/// A frame as nodes send them, without messages: of which format, cluster, and for whom.
fn frame(version: u8, cluster: u64, recipient: u64) -> Vec<u8> {
    let mut bytes = b"odgF".to_vec();
    bytes.extend([version, 0]);
    for number in [cluster, 7, 7, recipient] {
        bytes.extend(number.to_be_bytes());
    }
    bytes
}

fn cluster_id() -> Result<u64> {
    Ok(u64::from_be_bytes(blake3::hash(NAME.as_bytes()).as_bytes()[..8].try_into()?))
}

/// All that strangers say, as a frame each.
fn nonsense(random: &mut Random) -> Result<Vec<Vec<u8>>> {
    let noise = |length: usize, random: &mut Random| {
        (0..length).map(|_| random.next().to_be_bytes()[7]).collect::<Vec<u8>>()
    };
    let mut broken = frame(1, cluster_id()?, 1);
    broken.extend(noise(64, random));
    Ok(vec![
        noise(200, random),
        noise(70_000, random),
        Vec::new(),
        frame(1, 0x1234, 1),
        frame(9, cluster_id()?, 1),
        frame(1, cluster_id()?, 99),
        frame(1, cluster_id()?, 1)[..20].to_vec(),
        broken,
    ])
}

async fn dropped(cluster: &Cluster, node: u64) -> Result<f64> {
    let metrics = cluster.metrics(node).await?;
    Ok(*metrics.get("peer_frames_dropped_total").ok_or("it is not counted")?)
}

fn resident_kib(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Has strangers talk to node 1 while the cluster is written to.
async fn bear<F: Future<Output = Story>>(wire: Wire, talk: impl FnOnce(SocketAddr) -> F) -> Story {
    let cluster = Layout::of(3).wire(wire).with("ODGM_CLUSTER", NAME).collection(CLASS, 1).start().await?;
    let mut load = Load::begin(&cluster, 4)?;
    load.proceed(SOME).await?;
    let process = cluster.process(1)?.ok_or("it runs")?;
    let (before, already) = (resident_kib(process)?, dropped(&cluster, 1).await?);
    let place = if wire == Wire::Tcp { 1 } else { 0 };
    talk(cluster.listening(1)[place]).await?;
    load.proceed(SOME).await?;
    let written = load.end().await?;
    println!("{written:?}");
    assert!(dropped(&cluster, 1).await? > already + 100.0, "each is counted");
    let growth = resident_kib(process)?.saturating_sub(before);
    assert!(growth < GROWTH_KIB, "it has grown by {growth} KiB");
    // Each cause is named, and not each time.
    let output = cluster.output(1)?;
    for cause in ["reason=Unreadable", "it is of cluster", "it has format 9", "it is for node 99"] {
        let times = output.lines().filter(|line| line.contains(cause)).count();
        assert!((1..=12).contains(&times), "{cause:?} was said {times} times");
    }
    assert!(!output.contains("panicked"), "{output}");
    cluster.converged(CLASS).await?;
    cluster.prove(CLASS, 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_another_clusters_traffic_over_tcp_are_counted_and_do_no_harm() -> Story {
    bear(Wire::Tcp, async |address| {
        let mut random = Random::new(1);
        let mut talkers = JoinSet::new();
        for _ in 0..20 {
            for said in nonsense(&mut random)? {
                let length = u32::try_from(said.len())?.to_be_bytes();
                talkers.spawn(async move {
                    let mut stream = TcpStream::connect(address).await?;
                    stream.write_all(&[&length[..], &said].concat()).await?;
                    stream.shutdown().await
                });
            }
        }
        // Lengths that no memory holds, as the beginning of something that is one of ours as far as it goes, and not.
        for (length, beginning) in
            [(u32::MAX, Vec::new()), (79 << 20, frame(1, 0x1234, 1)), (79 << 20, vec![7; 64])]
        {
            talkers.spawn(async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(&[&length.to_be_bytes()[..], &beginning].concat()).await?;
                // It is hung up on, so writing on fails.
                let chunk = vec![0; 1 << 20];
                while stream.write_all(&chunk).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            });
        }
        while let Some(talked) = talkers.join_next().await {
            // Who is hung up on may see it as an error.
            drop(talked?);
        }
        // Those that connect and say nothing, or a byte, may stay for a while, and keep nobody else out.
        for number in 0..300 {
            let mut stream = TcpStream::connect(address).await?;
            if number % 2 == 0 {
                stream.write_all(&[0]).await?;
            }
            talkers.spawn(async move {
                let _kept = stream;
                std::future::pending().await
            });
        }
        // Kept until the story is over.
        std::mem::forget(talkers);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_and_another_clusters_traffic_over_zenoh_are_counted_and_do_no_harm() -> Story {
    bear(Wire::Zenoh, async |address| {
        let mut config = zenoh::Config::default();
        for (key, value) in [
            ("mode", "\"peer\"".to_owned()),
            ("connect/endpoints", format!("[\"tcp/{address}\"]")),
            ("listen/endpoints", "[]".to_owned()),
            ("scouting/multicast/enabled", "false".to_owned()),
        ] {
            config.insert_json5(key, &value)?;
        }
        let session = zenoh::open(config).await?;
        let mut random = Random::new(2);
        for _ in 0..40 {
            for said in nonsense(&mut random)? {
                for class in ["urgent", "log", "bulk"] {
                    session.put(format!("odgm/{NAME}/raft/1/{class}"), said.clone()).await?;
                }
            }
        }
        session.close().await?;
        Ok(())
    })
    .await
}
