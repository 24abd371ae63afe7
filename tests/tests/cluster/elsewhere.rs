//! A node that has no replica of a partition serves it all the same.

use odgm_proto::metadata::VERSION;
use odgm_proto::odgm::v1::get_at_request::At;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::{
    Cursors, DumpLogRequest, Earliest, ListCursorsRequest, ListPartitionsRequest, MoveCursorRequest,
    SubscribeRequest, WriteRequest, WriteResponse,
};
use odgm_proto::oprc::{ListObjectsRequest, ListValuesRequest, ObjectMetaEnvelope, SingleObjectRequest};
use odgm_tests::harness::{Cluster, Found, Knowledge, Layout, Objects, fields, knowledge, line};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::{CLASS, Story};

/// Each on another node.
const PARTITIONS: u32 = 3;

const WRITES: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_asked_for_the_streams_of_all() -> Story {
    let cluster = Layout::of(3).start().await?;
    scatter(&cluster).await?;
    let things = cluster.objects(1, CLASS, 0)?;

    let answers = write(&cluster, 0..WRITES).await?;
    let order: Vec<_> = answers.iter().map(|answer| answer.sequence).collect();
    assert_eq!(order, (0..WRITES).collect::<Vec<_>>(), "answers come in the order of the requests");
    assert!(answers.iter().all(|answer| matches!(answer.result, Some(Outcome::Written(_)))), "{answers:?}");

    let all = SubscribeRequest {
        partitions: Vec::new(),
        from: Some(From::Earliest(Earliest {})),
        until_current: true,
        ..things.subscription()
    };
    let mut feed = things.subscribe(all.clone()).await?;
    let (mut seen, mut cursors) = (vec![Vec::new(); PARTITIONS as usize], vec![None; PARTITIONS as usize]);
    while let Some(batch) = feed.batch().await? {
        let partition = batch.partition_id as usize;
        seen[partition].extend(batch.events.iter().map(line));
        cursors[partition] = Some(batch.cursor);
    }
    let mut owners = Vec::new();
    for partition in 0..PARTITIONS {
        let owner = owner(&cluster, partition).await?;
        let there = cluster.objects(owner, CLASS, partition)?;
        let told = there.watch_until_current(From::Earliest(Earliest {})).await?;
        assert_eq!(told.len() as u64, 1 + WRITES / u64::from(PARTITIONS));
        assert_eq!(seen[partition as usize], told.iter().map(line).collect::<Vec<_>>());
        owners.push((owner, told));
    }
    let mut distinct: Vec<_> = owners.iter().map(|(owner, _)| *owner).collect();
    distinct.sort_unstable();
    assert_eq!(distinct, [1, 2, 3], "each partition is on another node");

    // With what came last of each partition, nothing comes again and nothing is missed.
    write(&cluster, WRITES..2 * WRITES).await?;
    let cursors = cursors.into_iter().flatten().collect();
    let rest = SubscribeRequest { from: Some(From::Cursors(Cursors { cursors })), ..all };
    let rest = things.subscribe(rest).await?.rest().await?;
    assert_eq!(rest.len() as u64, WRITES);

    for (partition, (owner, told)) in (0..PARTITIONS).zip(&owners) {
        let (here, there) =
            (cluster.objects(1, CLASS, partition)?, cluster.objects(*owner, CLASS, partition)?);
        let object = object(u64::from(partition));
        assert_eq!(here.history(&object).await?, there.history(&object).await?);
        let then = At::Offset(told.last().ok_or("there are events")?.offset);
        assert_eq!(here.get_at(&object, then).await?, there.get_at(&object, then).await?);
        assert_eq!(dump(&cluster, 1, partition).await?, dump(&cluster, *owner, partition).await?);
    }
    name_cursors(&cluster).await?;

    // A subscription ends with a node that it needs, and goes on from its cursors when that is back.
    let (owner, partition) = owners
        .iter()
        .zip(0..)
        .find(|((owner, _), _)| *owner != 1)
        .map_or_else(|| Err("one is elsewhere"), |((owner, _), partition)| Ok((*owner, partition)))?;
    let here = cluster.objects(1, CLASS, partition)?;
    let mut feed = here.watch(From::Earliest(Earliest {})).await?;
    cluster.kill(&[owner]).await?;
    let ended = loop {
        match feed.batch().await {
            Ok(Some(_)) => {}
            Ok(None) => return Err("a stream does not end by itself".into()),
            Err(status) => break status,
        }
    };
    assert!(matches!(ended.code(), Code::Unavailable | Code::Unknown), "{ended}");
    let refused = here.watch(From::Earliest(Earliest {})).await.err().ok_or("nobody has the partition")?;
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("has the partition"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_on_objects_goes_through_a_node_that_has_them_not() -> Story {
    let cluster = Layout::of(3).start().await?;
    scatter(&cluster).await?;
    let mut partition = 0;
    while owner(&cluster, partition).await? == 1 {
        partition += 1;
    }
    let owner = owner(&cluster, partition).await?;
    let (here, there) = (cluster.objects(1, CLASS, partition)?, cluster.objects(owner, CLASS, partition)?);
    // What both nodes say of the object.
    let found = async |version, pairs: &[(&str, &str)]| {
        let expected = Some(Found { version, fields: fields(pairs) });
        assert_eq!(here.find("a").await?, expected, "here");
        assert_eq!(there.find("a").await?, expected, "where it is");
        Ok::<_, odgm_tests::Error>(())
    };

    assert_eq!(here.set("a", &[("k", "1"), ("l", "1")]).await?.version, 1);
    found(1, &[("k", "1"), ("l", "1")]).await?;
    let (merged, whole) = here.merge_and_place("a", &[("l", "2"), ("m", "2")]).await?;
    assert_eq!((merged.version, whole), (2, fields(&[("k", "1"), ("l", "2"), ("m", "2")])));
    found(2, &[("k", "1"), ("l", "2"), ("m", "2")]).await?;
    assert_eq!(here.set_value("a", "n", "3").await?.version, 3);
    assert_eq!(here.value_and_version("a", "n").await?, (Some("3".to_owned()), Some(3)));
    assert_eq!(here.delete_value("a", "n").await?.version, 4);
    assert_eq!(here.value_and_version("a", "n").await?, (None, Some(4)));
    assert_eq!(here.batch("a", &[("k", "5")], &["l"], Some(4)).await?.version, 5);
    found(5, &[("k", "5"), ("m", "2")]).await?;

    // What travels beside a request and its answer arrives, too.
    let refused = here.batch("a", &[("k", "6")], &[], Some(4)).await.err().ok_or("it has changed")?;
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    assert_eq!(knowledge(&refused), Knowledge::NotApplied);
    assert_eq!(refused.metadata().get(VERSION).map(|version| version.as_bytes()), Some(b"5".as_slice()));
    let once = here.once("once");
    let first = once.set_value("a", "k", "6").await?;
    assert_eq!(once.set_value("a", "k", "6").await?, first, "it is the same request");
    assert_eq!(there.once("once").set_value("a", "k", "6").await?, first, "and where it was applied");
    found(6, &[("k", "6"), ("m", "2")]).await?;

    here.set("b", &[]).await?;
    for things in [&here, &there] {
        assert_eq!(objects(things).await?, [vec!["a v6 2", "b v1 0"], vec!["first v1 1"]]);
        assert_eq!(values(things, "a").await?, [vec!["k v6"], vec!["m v2"]]);
    }
    assert_eq!(here.delete("b").await?.version, 0);
    assert_eq!(here.find("b").await?, None);
    assert_eq!(there.find("b").await?, None);
    Ok(())
}

/// The objects of a partition in pages of two, as `id version entries`.
async fn objects(things: &Objects) -> Result<Vec<Vec<String>>, Status> {
    let SingleObjectRequest { cls_id, partition_id, .. } = things.object("");
    let first = ListObjectsRequest { cls_id, partition_id, limit: 2, ..ListObjectsRequest::default() };
    let mut pages = Vec::new();
    let mut next = Some(first.clone());
    while let Some(request) = next.take() {
        let page = things.connection.data.clone().list_objects(request).await?.into_inner();
        let page: Vec<_> = page.collect::<Result<_, _>>().await?;
        let cursor = page.last().and_then(|object| object.next_cursor.clone());
        next = cursor.map(|cursor| ListObjectsRequest { cursor: Some(cursor), ..first.clone() });
        let line = |object: &ObjectMetaEnvelope| {
            format!("{} v{} {}", object.object_id, object.version, object.entry_count)
        };
        pages.push(page.iter().map(line).collect());
    }
    Ok(pages)
}

/// The entries of an object in pages of one, as `key version`.
async fn values(things: &Objects, object: &str) -> Result<Vec<Vec<String>>, Status> {
    let SingleObjectRequest { cls_id, partition_id, object_id_str, .. } = things.object(object);
    let first =
        ListValuesRequest { cls_id, partition_id, object_id_str, limit: 1, ..ListValuesRequest::default() };
    let mut pages = Vec::new();
    let mut next = Some(first.clone());
    while let Some(request) = next.take() {
        let page = things.connection.data.clone().list_values(request).await?.into_inner();
        let page: Vec<_> = page.collect::<Result<_, _>>().await?;
        let cursor = page.last().and_then(|entry| entry.next_cursor.clone());
        next = cursor.map(|cursor| ListValuesRequest { cursor: Some(cursor), ..first.clone() });
        pages.push(page.iter().map(|entry| format!("{} v{}", entry.key, entry.version)).collect());
    }
    Ok(pages)
}

/// Creates the collection, one replica of each partition, and waits until all have a leader.
async fn scatter(cluster: &Cluster) -> Story {
    cluster.create(CLASS, PARTITIONS, 1, &[]).await?;
    // The first write waits for the leader.
    for partition in 0..PARTITIONS {
        cluster.objects(1, CLASS, partition)?.set_value("first", "k", "").await?;
    }
    Ok(())
}

/// The one node that has a partition.
pub(crate) async fn owner(cluster: &Cluster, partition: u32) -> odgm_tests::Result<u64> {
    let request = ListPartitionsRequest { cls_id: CLASS.to_owned() };
    let listed = cluster.client(1)?.admin.list_partitions(request).await?.into_inner().partitions;
    let found = listed.iter().find(|found| found.partition_id == partition);
    match found.map(|found| found.replicas.as_slice()) {
        Some([owner]) => Ok(*owner),
        found => Err(format!("one node was expected to have partition {partition}, found {found:?}").into()),
    }
}

fn object(number: u64) -> String {
    format!("o{number}")
}

/// Sends writes to all partitions in turn down one stream of the first node.
async fn write(cluster: &Cluster, numbers: std::ops::Range<u64>) -> odgm_tests::Result<Vec<WriteResponse>> {
    let mut requests = Vec::new();
    for sequence in numbers {
        let partition = u32::try_from(sequence % u64::from(PARTITIONS))?;
        let things = cluster.objects(1, CLASS, partition)?;
        let put = things.put(&object(sequence % 9), "k", &sequence.to_string());
        let operation = Some(Operation::SetValue(put));
        requests.push(WriteRequest { sequence, operation, request_id: None });
    }
    let answers = cluster.client(1)?.writes.write(tokio_stream::iter(requests)).await?.into_inner();
    Ok(answers.collect::<Result<_, _>>().await?)
}

async fn dump(cluster: &Cluster, node: u64, partition: u32) -> odgm_tests::Result<Vec<String>> {
    let request =
        DumpLogRequest { cls_id: CLASS.to_owned(), partition_id: partition, ..DumpLogRequest::default() };
    let records = cluster.client(node)?.admin.dump_log(request).await?.into_inner();
    let records: Vec<_> = records.collect::<Result<_, _>>().await?;
    Ok(records.into_iter().map(|record| format!("{record:?}")).collect())
}

/// A cursor of each partition, moved and listed at one node.
async fn name_cursors(cluster: &Cluster) -> Story {
    let mut streams = cluster.client(1)?.streams;
    for partition in 0..PARTITIONS {
        let moved = MoveCursorRequest {
            cls_id: CLASS.to_owned(),
            partition_id: partition,
            name: "reader".to_owned(),
            offset: 5,
            ..MoveCursorRequest::default()
        };
        streams.move_cursor(moved).await?;
    }
    let listed = ListCursorsRequest { cls_id: CLASS.to_owned(), partition_id: None };
    let listed = streams.list_cursors(listed).await?.into_inner().cursors;
    let listed: Vec<_> =
        listed.iter().map(|cursor| (cursor.partition_id, cursor.name.as_str(), cursor.offset)).collect();
    assert_eq!(listed, [(0, "reader", 5), (1, "reader", 5), (2, "reader", 5)]);
    Ok(())
}
