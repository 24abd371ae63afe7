//! kill -9 under load, again and again: what was acknowledged is there, what was not sent is not, and the chain holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::{Earliest, Event, VerifyRequest, WriteRequest};
use odgm_tests::harness::{Home, Node, Objects};
use odgm_tests::random::Random;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::Story;

const KILLS: u64 = 20;
const PARTITIONS: u32 = 4;
const CALLERS: u64 = 8;
const STREAMS: u64 = 4;
/// Unacknowledged writes of each stream.
const WINDOW: usize = 32;

/// What the writers know. Each write has a value that is never sent twice.
#[derive(Debug, Default)]
struct Ledger {
    sent: BTreeSet<String>,
    /// The place of each acknowledged value: partition and offset.
    acknowledged: BTreeMap<String, (u32, u64)>,
}

type Shared = Arc<Mutex<Ledger>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_under_load_lose_nothing_and_invent_nothing() -> Story {
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let home = Home::new()?.collection("things", PARTITIONS);
    let ledger = Shared::default();
    for kill in 0..KILLS {
        let node = home.start().await?;
        check(&node, &ledger).await.map_err(|error| format!("before kill {kill}, seed {seed}: {error}"))?;
        let before = acknowledged(&ledger);
        let (stop, stopped) = watch::channel(false);
        let writers = write(&node, kill, &ledger, &stopped);
        // At any moment: after a random number of acknowledgements, while writers of both kinds are at work.
        let enough = before + 100 + random.below(900);
        while acknowledged(&ledger) < enough {
            tokio::task::yield_now().await;
        }
        node.kill()?;
        stop.send(true)?;
        writers.join_all().await;
    }
    let node = home.start().await?;
    check(&node, &ledger).await?;
    let Ledger { sent, acknowledged } = &*ledger.lock();
    println!("{KILLS} kills, {} writes sent, {} acknowledged", sent.len(), acknowledged.len());
    assert!(sent.len() > acknowledged.len(), "no kill came while a write was under way: nothing was tested");
    Ok(())
}

fn acknowledged(ledger: &Shared) -> usize {
    ledger.lock().acknowledged.len()
}

/// Writers that go on until the node is gone.
fn write(node: &Node<'_>, kill: u64, ledger: &Shared, stopped: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for writer in 0..CALLERS + STREAMS {
        let partition = u32::try_from(writer).unwrap_or(0) % PARTITIONS;
        let things = node.objects("things", partition);
        let name = format!("{kill}.{writer}");
        let ledger = Arc::clone(ledger);
        let mut stopped = stopped.clone();
        writers.spawn(async move {
            let writing = async {
                // They end with the connection.
                match writer {
                    0..CALLERS => drop(call(&things, partition, &name, &ledger).await),
                    _ => drop(stream(&things, partition, &name, &ledger).await),
                }
            };
            tokio::select! {
                () = writing => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
    }
    writers
}

fn object_of(number: u64) -> String {
    format!("thing-{}", number % 40)
}

async fn call(things: &Objects, partition: u32, name: &str, ledger: &Shared) -> Story {
    for number in 0.. {
        let value = format!("{name}.{number}");
        ledger.lock().sent.insert(value.clone());
        let written = things.set_value(&object_of(number), "k", &value).await?;
        ledger.lock().acknowledged.insert(value, (partition, written.offset));
    }
    Ok(())
}

async fn stream(things: &Objects, partition: u32, name: &str, ledger: &Shared) -> Story {
    let (requests, outgoing) = mpsc::channel(WINDOW);
    let mut responses =
        things.connection.writes.clone().write(ReceiverStream::new(outgoing)).await?.into_inner();
    let value = |number: u64| format!("{name}.{number}");
    let request = |number: u64| {
        let put = things.put(&object_of(number), "k", &value(number));
        WriteRequest { sequence: number, operation: Some(Operation::SetValue(put)), request_id: None }
    };
    for number in 0.. {
        ledger.lock().sent.insert(value(number));
        requests.send(request(number)).await?;
        if number < WINDOW as u64 {
            continue;
        }
        let response = responses.message().await?.ok_or("the stream ended")?;
        let Some(Outcome::Written(written)) = response.result else { return Err("a refusal".into()) };
        let value = value(response.sequence);
        ledger.lock().acknowledged.insert(value, (partition, written.offset));
    }
    Ok(())
}

/// Compares what the node holds with what the writers know.
async fn check(node: &Node<'_>, ledger: &Shared) -> Story {
    let mut found = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let things = node.objects("things", partition);
        let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
        let mut newest = BTreeMap::new();
        for event in &events {
            let value = value_of(event)?;
            if let Some(before) = found.insert(value.clone(), (partition, event.offset)) {
                return Err(
                    format!("{value} is at {before:?} and again at {partition}/{}", event.offset).into()
                );
            }
            newest.insert(&event.object_id, value);
        }
        for (object, value) in newest {
            let held = things.value(object, "k").await?;
            if held.as_ref() != Some(&value) {
                return Err(format!("{object} holds {held:?}, but the log says {value}").into());
            }
        }
    }
    {
        let ledger = ledger.lock();
        for (value, place) in &ledger.acknowledged {
            if found.get(value) != Some(place) {
                let now = found.get(value);
                return Err(format!("{value} was acknowledged at {place:?}; now it is at {now:?}").into());
            }
        }
        if let Some(invented) = found.keys().find(|value| !ledger.sent.contains(*value)) {
            return Err(format!("{invented} was never sent").into());
        }
    }
    verify(node).await
}

fn value_of(event: &Event) -> odgm_tests::Result<String> {
    match event.changes.as_slice() {
        [change] => Ok(String::from_utf8(change.value.clone().unwrap_or_default().data.to_vec())?),
        changes => Err(format!("expected one change, found {changes:?}").into()),
    }
}

/// The chain of every partition, and that every view is what its log says.
async fn verify(node: &Node<'_>) -> Story {
    let request = VerifyRequest { cls_id: "things".into(), partition_id: None };
    let mut admin = node.connection().admin;
    let logs = admin.verify(request.clone()).await?.into_inner();
    let views = admin.verify_view(request).await?.into_inner();
    for mut proofs in [logs, views] {
        let mut proven = BTreeSet::new();
        while let Some(proof) = proofs.message().await? {
            let Some(result) = proof.result else { continue };
            if !result.ok {
                return Err(format!("partition {}: {}", proof.partition_id, result.problem).into());
            }
            proven.insert(proof.partition_id);
        }
        if !proven.iter().copied().eq(0..PARTITIONS) {
            return Err(format!("only partitions {proven:?} were proven").into());
        }
    }
    Ok(())
}
