//! A slice of the real data, all the way through. `make demo` does the same with the whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_tests::flights::{self, Happened, Model, exported, partition};
use odgm_tests::harness::Home;

use crate::Story;

const PARTITIONS: u32 = 8;

#[tokio::test]
async fn a_slice_of_a_year_of_flights() -> Story {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/flights-slice.jsonl.gz");
    let operations = flights::read(&file)?;
    let mut model = Model::default();
    let mut expected = BTreeMap::<u32, Vec<Happened>>::new();
    for operation in &operations {
        if let Some(happened) = model.apply(operation) {
            expected.entry(partition(operation.id(), PARTITIONS)).or_default().push(happened);
        }
    }
    let changed: usize = expected.values().map(Vec::len).sum();
    assert!(changed < operations.len(), "the slice has removals that find nothing");

    let home = Home::new()?;
    let node = home.start().await?;
    node.odgm(&["collection", "create", "flights", "--partitions", "8"])?.success()?;
    let file = file.to_str().ok_or("a path in UTF-8")?;
    node.odgm(&["import", "--class", "flights", file])?.success()?;

    let export = exported(&node.odgm(&["export", "--class", "flights"])?.success()?)?;
    let map: BTreeMap<_, _> = model.objects().map(|(id, fields)| (id.to_owned(), fields.clone())).collect();
    assert_eq!(export, map);

    for partition in 0..PARTITIONS {
        let events =
            node.objects("flights", partition).watch_until_current(From::Earliest(Earliest {})).await?;
        assert!(events.is_sorted_by(|a, b| a.offset < b.offset && a.time_ms <= b.time_ms));
        let happened: Vec<_> = events.iter().map(Happened::of).collect();
        assert_eq!(Some(&happened), expected.get(&partition), "partition {partition}");
    }
    node.odgm(&["partition", "verify", "flights"])?.success()?;
    node.stop()?;
    home.odgm(&["log", "verify"])?.success()?;
    Ok(())
}
