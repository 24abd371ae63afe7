//! kill -9 of a node while functions are being called, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{Earliest, EventKind};
use odgm_tests::functions::mark;
use odgm_tests::harness::{Attached, Functions, Gate, Home, Node, target, until};
use odgm_tests::random::Random;
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

use super::{CLASS, caused_by, functions, outcomes_by_call};
use crate::Story;

const KILLS: u64 = 8;

/// Each is written by one writer, in partition 0 or 1, and counted by a counter in the other one.
const SOURCES: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_effect_and_the_outcome_has_the_call_made_again_and_counted_once() -> Story {
    let home = Home::new()?;
    let mut node = home.start().await?;
    let functions = functions(&node, 1, &["count"], &[]).await?;
    let called = target(CLASS, 0, Some("tally"), "count");
    node.objects(CLASS, 0).attach("a", Attached::none().on_write("k", called)).await?;
    for (round, gate) in (1..).zip([Gate::BeforeEffect, Gate::BeforeAnswer]) {
        functions.hold("count", gate);
        node.objects(CLASS, 0).set_value("a", "k", "").await?;
        functions.held(1).await?;
        node.kill()?;
        node = home.start().await?;
        functions.write_to(&[node.address()])?;
        // Both run at the same time now: the one that nobody waits for any more, and the one that was made again.
        functions.held(2).await?;
        functions.release("count");
        node.connection().settled(&[CLASS]).await?;
        let things = node.objects(CLASS, 0);
        assert_eq!(things.value("tally", "count").await?, Some(round.to_string()));
        assert_eq!(outcomes_by_call(&things).await?.len(), round);
        assert!(functions.calls().len() >= 2 * round, "it was called before and after");
        assert_eq!(functions.distinct(), round);
    }
    Ok(())
}

/// As many writes as are made before a node stands still at a point of its own code.
const WRITES: usize = 3;

/// A node that stands still the first time it comes to a point, is killed there, and started again without it. Each of its
/// calls is counted, once, and has one outcome. Answers how many were recorded when it was killed.
async fn kill_at(
    point: &str,
    is_there: impl AsyncFn(&Node<'_>, &Functions) -> odgm_tests::Result<Option<()>>,
) -> odgm_tests::Result<(Functions, usize)> {
    // Whoever stands still keeps a thread; the node is to answer nevertheless, on a small machine, too.
    let home = Home::new()?.with("TOKIO_WORKER_THREADS", "4");
    let mut home = home.with("FAILPOINTS", &format!("{point}=1*pause"));
    let functions = {
        let node = home.start().await?;
        let functions = functions(&node, 1, &["count"], &[]).await?;
        let things = node.objects(CLASS, 0);
        let called = target(CLASS, 0, Some("tally"), "count");
        things.attach("a", Attached::none().on_write("k", called)).await?;
        functions.hold("count", Gate::BeforeAnswer);
        for _ in 0..WRITES {
            things.set_value("a", "k", "").await?;
        }
        let waiting = || format!("the node to be at {point}");
        until(waiting, async || is_there(&node, &functions).await).await?;
        node.kill()?;
        // Who is called from now on waits until it is known what had been recorded, and where the node is.
        functions.hold("count", Gate::BeforeEffect);
        functions
    };
    home.set("FAILPOINTS", "");
    let node = home.start().await?;
    functions.write_to(&[node.address()])?;
    let things = node.objects(CLASS, 0);
    let recorded = outcomes_by_call(&things).await?.len();
    functions.release("count");
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?, Some(WRITES.to_string()));
    let ended: BTreeSet<_> = outcomes_by_call(&things).await?.into_keys().collect();
    let called: BTreeSet<_> = functions.calls().iter().map(|call| call.key().to_owned()).collect();
    assert_eq!((ended.len(), &ended), (WRITES, &called));
    Ok((functions, recorded))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_a_call_is_sent_has_it_made_for_the_first_time() -> Story {
    let (functions, recorded) = kill_at("call-before-dispatch", async |node, functions| {
        // One that is under way has not come, and the others have.
        let under_way = node.connection().figure("odgm_calls_in_flight").await?;
        let is_there = functions.waiting() == WRITES as u64 - 1 && (under_way - WRITES as f64).abs() < 0.5;
        Ok(is_there.then_some(()))
    })
    .await?;
    assert_eq!(
        (functions.calls().len(), recorded),
        (2 * WRITES - 1, 0),
        "those that had come were made again"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_an_outcome_is_recorded_has_the_call_made_again() -> Story {
    let (functions, recorded) = kill_at("call-before-record", async |node, functions| {
        if functions.waiting() == WRITES as u64 {
            functions.release("count");
        }
        let under_way = node.connection().figure("odgm_calls_in_flight").await?;
        let has_heard = functions.answered() == WRITES as u64 && under_way.abs() < 0.5;
        Ok(has_heard.then_some(()))
    })
    .await?;
    assert_eq!((functions.calls().len(), recorded), (2 * WRITES, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_after_an_outcome_was_recorded_does_not_have_the_call_made_again() -> Story {
    let (functions, recorded) = kill_at("call-after-record", async |node, functions| {
        if functions.waiting() == WRITES as u64 {
            functions.release("count");
        }
        let recorded = outcomes_by_call(&node.objects(CLASS, 0)).await?.len();
        let is_there = functions.answered() == WRITES as u64 && recorded > 0;
        Ok(is_there.then_some(()))
    })
    .await?;
    assert!(recorded > 0);
    assert_eq!(functions.calls().len(), 2 * WRITES - recorded, "only what was not recorded is made again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_no_call_and_count_none_twice() -> Story {
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let home = Home::new()?;
    let mut node = home.start().await?;
    let functions = functions(&node, 2, &["count"], &[]).await?;
    for source in 0..SOURCES {
        let called = target(CLASS, other(partition(source)), Some(&counter(source)), "count");
        let things = node.objects(CLASS, partition(source));
        things.attach(&object(source), Attached::none().on_write("k", called)).await?;
    }
    for _ in 0..KILLS {
        let (stop, stopped) = watch::channel(false);
        let written = Arc::new(AtomicU64::new(0));
        let writers = write(&node, &written, &stopped);
        let enough = 50 + random.below(300) as u64;
        while written.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        // Some are killed while calls are held at either gate, others at any moment.
        match random.below(3) {
            0 => functions.hold("count", Gate::BeforeEffect),
            1 => functions.hold("count", Gate::BeforeAnswer),
            _ => {}
        }
        let more = enough + random.below(100) as u64;
        while written.load(Ordering::Relaxed) < more {
            tokio::task::yield_now().await;
        }
        node.kill()?;
        stop.send(true)?;
        writers.join_all().await;
        node = home.start().await?;
        functions.write_to(&[node.address()])?;
        functions.release("count");
    }
    node.connection().settled(&[CLASS]).await?;
    check(&node, &functions).await.map_err(|error| format!("seed {seed}: {error}"))?;
    block_in_place(|| {
        node.odgm(&["partition", "verify", CLASS])?.success()?;
        node.odgm(&["partition", "verify-view", CLASS])?.success()
    })?;
    let (calls, distinct) = (functions.calls().len(), functions.distinct());
    println!("{KILLS} kills, {distinct} calls, made {calls} times");
    assert!(calls > distinct, "no kill came between a call and its outcome: nothing was tested");
    Ok(())
}

fn partition(source: u64) -> u32 {
    u32::from(source % 2 == 1)
}

fn other(partition: u32) -> u32 {
    1 - partition
}

fn object(source: u64) -> String {
    format!("source-{source}")
}

fn counter(source: u64) -> String {
    format!("counter-{source}")
}

/// Writers that go on until the node is gone.
fn write(node: &Node<'_>, written: &Arc<AtomicU64>, stopped: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for source in 0..SOURCES {
        let things = node.objects(CLASS, partition(source));
        let written = Arc::clone(written);
        let mut stopped = stopped.clone();
        writers.spawn(async move {
            let writing = async {
                while things.set_value(&object(source), "k", "").await.is_ok() {
                    written.fetch_add(1, Ordering::Relaxed);
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

/// Each change called once at least, was counted once, and has one outcome; and nothing else was called.
async fn check(node: &Node<'_>, functions: &Functions) -> Story {
    let mut calls = BTreeMap::<String, BTreeMap<u64, String>>::new();
    for call in functions.calls() {
        let object = call.object.clone().ok_or("it was called on an object")?;
        calls.entry(object).or_default().insert(caused_by(&call)?, call.key().to_owned());
    }
    let mut ended = [BTreeMap::new(), BTreeMap::new()];
    for (partition, ended) in (0..).zip(&mut ended) {
        *ended = outcomes_by_call(&node.objects(CLASS, partition)).await?;
    }
    for source in 0..SOURCES {
        let things = node.objects(CLASS, partition(source));
        let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
        let is_write = |kind| matches!(kind, EventKind::Created | EventKind::Updated);
        let changes = events.iter().filter(|event| event.object_id == object(source));
        let changes = changes.filter(|event| is_write(event.kind()) && !event.changes.is_empty());
        let changes: BTreeSet<u64> = changes.map(|event| event.offset).collect();
        let calls = calls.remove(&counter(source)).unwrap_or_default();
        let called: BTreeSet<u64> = calls.keys().copied().collect();
        if called != changes {
            let lost: Vec<_> = changes.difference(&called).collect();
            let invented: Vec<_> = called.difference(&changes).collect();
            return Err(format!("{source}: no call of {lost:?}, and calls of {invented:?}").into());
        }
        let there = node.objects(CLASS, other(partition(source)));
        let counted = there.get(&counter(source)).await.unwrap_or_default();
        let count = counted.get("count").cloned().unwrap_or_default();
        if !changes.is_empty() && count != changes.len().to_string() {
            return Err(format!("{source}: {} changes were counted {count} times", changes.len()).into());
        }
        let ended = &ended[other(partition(source)) as usize];
        for key in calls.values() {
            if !counted.contains_key(&mark(key)) || !ended.contains_key(key) {
                return Err(format!("{source}: {key} has no effect, or no outcome").into());
            }
        }
    }
    let ended: usize = ended.iter().map(BTreeMap::len).sum();
    if ended != functions.distinct() {
        return Err(format!("{} calls have {ended} outcomes", functions.distinct()).into());
    }
    Ok(())
}
