//! The demonstration: real data in, and every promise about it checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use tokio::task::block_in_place;

use crate::Result;
use crate::arrivals::{AIRPORTS, Arrivals, attach, collections};
use crate::flights::{self, Happened, Model, Operation, exported, partition};
use crate::harness::{FunctionProcess, Home, Language, Node, fields};

const CLASS: &str = "flights";
const PARTITIONS: u32 = 8;

/// Runs all of it and prints a report.
///
/// # Errors
/// What did not hold.
pub async fn run(file: &Path) -> Result<()> {
    let operations = flights::read(file)?;
    let expected = Expected::of(&operations);
    say("data", &format!("{}: {expected}", file.display()));

    let home = Home::new()?.quiet();
    let node = home.start().await?;
    let import = import(&node, file, operations.len())?;
    check_export(&node, &expected)?;
    check_watch(&node, &expected).await?;
    let records = check_logs(&node)?;
    block_in_place(|| node.stop())?;
    check_rebuild(&home, records, import).await?;
    check_arrivals(&operations).await?;
    println!("All of it holds.");
    Ok(())
}

/// What a plain map holds after the same operations, and what happened on the way.
struct Expected {
    operations: usize,
    model: Model,
    happened: BTreeMap<u32, Vec<Happened>>,
}

impl Expected {
    fn of(operations: &[Operation]) -> Self {
        let mut model = Model::default();
        let mut happened = BTreeMap::<u32, Vec<Happened>>::new();
        for operation in operations {
            if let Some(event) = model.apply(operation) {
                happened.entry(partition(operation.id(), PARTITIONS)).or_default().push(event);
            }
        }
        Self { operations: operations.len(), model, happened }
    }

    fn changes(&self) -> usize {
        self.happened.values().map(Vec::len).sum()
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let found_nothing = self.operations - self.changes();
        let objects = self.model.objects().count();
        let operations = self.operations;
        write!(
            f,
            "{operations} operations on {objects} aircraft, of which {found_nothing} find nothing to change"
        )
    }
}

/// Imports the file with the command line; how long it took.
fn import(node: &Node<'_>, file: &Path, operations: usize) -> Result<Duration> {
    let file = file.to_str().ok_or("the path of the file has to be UTF-8")?;
    block_in_place(|| {
        node.odgm(&["collection", "create", CLASS, "--partitions", &PARTITIONS.to_string()])?.success()?;
        let start = Instant::now();
        node.odgm(&["import", "--class", CLASS, file])?.success()?;
        let took = start.elapsed();
        say(
            "import",
            &format!("{PARTITIONS} partitions, every operation fsynced: {}", rate(operations, took)),
        );
        Ok(took)
    })
}

fn check_export(node: &Node<'_>, expected: &Expected) -> Result<()> {
    let export = block_in_place(|| node.odgm(&["export", "--class", CLASS])?.success())?;
    let export = exported(&export)?;
    let empty = fields(&[]);
    for (id, fields) in expected.model.objects() {
        let found = export.get(id).unwrap_or(&empty);
        if found != fields {
            return Err(format!("{id}: the export has {found:?}, a plain map {fields:?}").into());
        }
    }
    let objects = expected.model.objects().count();
    if export.len() != objects {
        return Err(format!("the export has {} objects, a plain map {objects}", export.len()).into());
    }
    say("export", &format!("equals a plain map after the same operations: {objects} objects"));
    Ok(())
}

async fn check_watch(node: &Node<'_>, expected: &Expected) -> Result<()> {
    let start = Instant::now();
    for partition in 0..PARTITIONS {
        let feed = node.objects(CLASS, partition).watch_until_current(From::Earliest(Earliest {})).await?;
        let is_ordered = feed.is_sorted_by(|a, b| a.offset < b.offset && a.time_ms <= b.time_ms);
        let happened: Vec<_> = feed.iter().map(Happened::of).collect();
        let expected = expected.happened.get(&partition).map(Vec::as_slice).unwrap_or_default();
        let wrong = happened.iter().zip(expected).position(|(found, expected)| found != expected);
        if let Some(at) = wrong {
            let (found, expected) = (&happened[at], &expected[at]);
            return Err(format!("partition {partition}, event {at}: {found:?}, expected {expected:?}").into());
        }
        if !is_ordered || happened.len() != expected.len() {
            let (found, expected) = (happened.len(), expected.len());
            return Err(format!("partition {partition}: {found} events, expected {expected} in order").into());
        }
    }
    let events = rate(expected.changes(), start.elapsed());
    say(
        "watch",
        &format!("one event for each record that changed something, in order, from the beginning: {events}"),
    );
    Ok(())
}

/// Proves logs and views; how many records there are.
fn check_logs(node: &Node<'_>) -> Result<usize> {
    block_in_place(|| {
        let proofs = node.odgm(&["--json", "partition", "verify", CLASS])?.success()?;
        node.odgm(&["partition", "verify-view", CLASS])?.success()?;
        let proofs: serde_json::Value = serde_json::from_str(&proofs)?;
        let ends = proofs["partitions"].as_array().into_iter().flatten();
        let records: u64 = ends.filter_map(|proof| proof["last_offset"].as_u64()).sum();
        say(
            "verify",
            &format!(
                "the chains of {PARTITIONS} logs hold, {records} records; each view is what its log says"
            ),
        );
        Ok(usize::try_from(records)?)
    })
}

/// Throws the views away and compares those that are made again.
async fn check_rebuild(home: &Home, records: usize, import: Duration) -> Result<()> {
    let (before, verified) = block_in_place(|| {
        let start = Instant::now();
        home.odgm(&["log", "verify"])?.success()?;
        let took = start.elapsed();
        Ok::<_, crate::Error>((dumps(home)?, took))
    })?;
    say("log verify", &format!("on the stopped node: {}", rate(records, verified)));
    fs::remove_dir_all(home.data().join("views"))?;
    let start = Instant::now();
    let node = home.start().await?;
    let took = start.elapsed();
    block_in_place(|| node.stop())?;
    let after = block_in_place(|| dumps(home))?;
    if before != after {
        let differs = before.iter().zip(&after).position(|(before, after)| before != after);
        return Err(format!("a rebuilt view differs, in partition {differs:?}").into());
    }
    let bytes: usize = before.iter().map(String::len).sum();
    let speed = rate(records, took);
    let ratio = import.as_secs_f64() / took.as_secs_f64();
    say(
        "rebuild",
        &format!(
            "without its views the node starts in {speed}, {ratio:.1} times the import; dumps of {bytes} bytes are the same"
        ),
    );
    Ok(())
}

/// Has a function count arrivals by airport, called by a trigger on the destination of every aircraft.
async fn check_arrivals(operations: &[Operation]) -> Result<()> {
    let expected = Arrivals::expected(operations);
    let home = Home::new()?.quiet();
    let node = home.start().await?;
    let functions = FunctionProcess::start(Language::Rust, node.address()).await?;
    for collection in collections(CLASS, PARTITIONS, &functions.url()) {
        node.connection().create(collection).await?;
    }
    let file = home.data().with_file_name("operations.jsonl");
    fs::write(&file, attach(operations) + &flights::lines(operations)?)?;
    let file = file.to_str().ok_or("the path of the file has to be UTF-8")?;
    let start = Instant::now();
    block_in_place(|| node.odgm(&["import", "--class", CLASS, file])?.success())?;
    node.connection().settled(&[CLASS, AIRPORTS]).await?;
    let took = start.elapsed();
    let found = Arrivals::counted(&node.connection()).await?;
    if found != expected {
        return Err(format!("a function counted {found:?}, but the file has {expected:?}").into());
    }
    if let Some(dead) = node.connection().dead(CLASS).await?.first() {
        return Err(format!("a call was given up: {dead:?}").into());
    }
    let speed = rate(usize::try_from(expected.total())?, took);
    say(
        "functions",
        &format!(
            "a trigger on the destination counts arrivals at {} airports as they are in the file: import and calls, {speed}",
            expected.airports()
        ),
    );
    block_in_place(|| node.stop())
}

fn dumps(home: &Home) -> Result<Vec<String>> {
    (0..PARTITIONS).map(|at| home.odgm(&["view", "dump", &format!("{CLASS}/{at}")])?.success()).collect()
}

fn say(what: &str, text: &str) {
    println!("{what:<11} {text}");
}

#[allow(clippy::cast_precision_loss)] // counts of records
fn rate(count: usize, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!("{count} in {seconds:.1} s, {:.0}/s", count as f64 / seconds)
}
