//! The real data: a trigger on the destination of every aircraft counts arrivals by airport.

use std::path::Path;

use odgm_tests::arrivals::{AIRPORTS, Arrivals, attach, collections};
use odgm_tests::flights;
use odgm_tests::harness::{Functions, Home};
use tokio::task::block_in_place;

use crate::Story;

/// Of the year, if it is there.
const OPERATIONS: usize = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrivals_that_a_trigger_counts_are_those_of_the_file() -> Story {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let year = sources.join("../../shared/data/flights.jsonl.gz");
    let slice = sources.join("data/flights-slice.jsonl.gz");
    let mut operations = flights::read(if year.exists() { &year } else { &slice })?;
    operations.truncate(OPERATIONS);
    let expected = Arrivals::expected(&operations);
    assert!(expected.total() > 1_000, "nothing is tested with {} arrivals", expected.total());

    let home = Home::new()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    functions.write_to(&[node.address()])?;
    for collection in collections("flights", 4, &functions.url()) {
        node.connection().create(collection).await?;
    }
    let file = home.data().with_file_name("operations.jsonl");
    std::fs::write(&file, attach(&operations) + &flights::lines(&operations)?)?;
    let file = file.to_str().ok_or("a path in UTF-8")?;
    block_in_place(|| node.odgm(&["import", "--class", "flights", file])?.success())?;
    node.connection().settled(&["flights", AIRPORTS]).await?;
    assert_eq!(Arrivals::counted(&node.connection()).await?, expected);
    assert_eq!(node.connection().dead("flights").await?, []);
    println!("{} calls of {} arrivals", functions.calls().len(), expected.total());
    Ok(())
}
