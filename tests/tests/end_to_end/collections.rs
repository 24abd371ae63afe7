//! The administration of collections.

use odgm_proto::odgm::v1::{
    CreateCollectionRequest, DeleteCollectionRequest, DescribeCollectionRequest, ListCollectionsRequest,
};
use odgm_proto::oprc;
use odgm_tests::harness::{Home, Node};
use tonic::{Code, Status};

use crate::Story;

fn definition(name: &str, partitions: i32) -> oprc::CreateCollectionRequest {
    oprc::CreateCollectionRequest {
        name: name.into(),
        partition_count: partitions,
        replica_count: 1,
        shard_type: "basic".into(),
        ..oprc::CreateCollectionRequest::default()
    }
}

async fn create(node: &Node<'_>, definition: oprc::CreateCollectionRequest) -> Result<(), Status> {
    let request = CreateCollectionRequest { collection: Some(definition) };
    node.connection().admin.create_collection(request).await.map(drop)
}

async fn names(node: &Node<'_>) -> Result<Vec<String>, Status> {
    let listed = node.connection().admin.list_collections(ListCollectionsRequest {}).await?.into_inner();
    Ok(listed
        .collections
        .into_iter()
        .filter_map(|c| c.definition)
        .map(|definition| definition.name)
        .collect())
}

async fn delete(node: &Node<'_>, name: &str) -> Result<(), Status> {
    node.connection().admin.delete_collection(DeleteCollectionRequest { name: name.into() }).await.map(drop)
}

#[tokio::test]
async fn a_collection_is_created_described_used_and_deleted() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    create(&node, definition("orders", 3)).await?;
    assert_eq!(names(&node).await?, ["orders"]);

    let request = DescribeCollectionRequest { name: "orders".into() };
    let described = node.connection().admin.describe_collection(request).await?.into_inner();
    let collection = described.collection.expect("the collection");
    assert_eq!(collection.groups.len(), 3);
    let options = collection.definition.expect("the definition").options;
    assert_eq!(
        options.get("storage").map(String::as_str),
        Some("rocksdb"),
        "defaults are filled in: {options:?}"
    );
    assert_eq!(
        described.partitions.iter().map(|partition| partition.partition_id).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert!(described.partitions.iter().all(|partition| partition.state == "ready"));

    node.objects("orders", 2).set("a", &[("k", "v")]).await?;
    delete(&node, "orders").await?;
    assert_eq!(names(&node).await?, [""; 0]);
    let gone = node.objects("orders", 2).get("a").await.expect_err("the collection is gone");
    assert_eq!(gone.code(), Code::NotFound);

    // A collection of the same name is another one.
    create(&node, definition("orders", 3)).await?;
    let gone = node.objects("orders", 2).get("a").await.expect_err("an empty collection");
    assert_eq!(gone.code(), Code::NotFound);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_created_is_refused_with_the_reason() -> Story {
    let home = Home::new()?.collection("taken", 1);
    let node = home.start().await?;
    let with = |options: &[(&str, &str)]| {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        oprc::CreateCollectionRequest { options, ..definition("new", 1) }
    };
    let with_type =
        |kind: &str| oprc::CreateCollectionRequest { shard_type: kind.into(), ..definition("new", 1) };
    let with_replicas =
        |count| oprc::CreateCollectionRequest { replica_count: count, ..definition("new", 1) };
    let attempts = [
        (definition("taken", 1), Code::AlreadyExists, "\"taken\""),
        (definition("", 1), Code::InvalidArgument, "name"),
        (definition("no good", 1), Code::InvalidArgument, "name"),
        (definition("new", -1), Code::InvalidArgument, "partition_count"),
        (definition("new", 65_537), Code::InvalidArgument, "partition_count"),
        (definition("new", 65_536), Code::ResourceExhausted, "partitions"),
        (with_type("mst"), Code::InvalidArgument, "does not replicate by mst yet"),
        (with_type("paxos"), Code::InvalidArgument, "expected raft, basic, none or single"),
        (with_replicas(3), Code::InvalidArgument, "replica_count"),
        (with(&[("storage", "tape")]), Code::InvalidArgument, "storage"),
        (with(&[("retention", "forever")]), Code::InvalidArgument, "retention"),
        (with(&[("set_mode", "both")]), Code::InvalidArgument, "set_mode"),
        (with(&[("colour", "blue")]), Code::InvalidArgument, "colour"),
    ];
    for (attempt, code, told) in attempts {
        let what = format!("{attempt:?}");
        let refused = create(&node, attempt).await.expect_err(&what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(told), "{what}: {refused}");
    }
    assert_eq!(delete(&node, "nothing").await.expect_err("it does not exist").code(), Code::NotFound);
    assert_eq!(names(&node).await?, ["taken"]);
    Ok(())
}

#[tokio::test]
async fn a_bootstrapped_collection_that_was_deleted_does_not_come_back() -> Story {
    let home = Home::new()?.collection("kept", 1).collection("deleted", 2);
    let node = home.start().await?;
    assert_eq!(names(&node).await?, ["deleted", "kept"]);
    delete(&node, "deleted").await?;
    create(&node, definition("by-hand", 1)).await?;
    node.kill()?;

    // And a definition that has changed since is logged and ignored.
    let node = home.start().await?;
    assert_eq!(names(&node).await?, ["by-hand", "kept"]);
    Ok(())
}

#[tokio::test]
async fn a_collection_in_memory_is_made_again_from_its_log() -> Story {
    let home = Home::new()?.collection_with("cache", 2, &[("storage", "memory")]);
    let node = home.start().await?;
    let cache = node.objects("cache", 1);
    for number in 0..100 {
        cache.set_value(&format!("item-{number}"), "k", &number.to_string()).await?;
    }
    node.kill()?;
    let node = home.start().await?;
    assert_eq!(node.objects("cache", 1).value("item-99", "k").await?.as_deref(), Some("99"));
    Ok(())
}
