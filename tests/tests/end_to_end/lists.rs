//! Lists: byte order, prefixes, pages.

use odgm_proto::oprc::{ListObjectsRequest, ListValuesRequest, ObjectMetaEnvelope, ValueEnvelope};
use odgm_tests::harness::{Home, Objects};
use tonic::{Code, Status};

use crate::Story;

#[tokio::test]
async fn objects_come_in_byte_order_and_page_through_without_loss() -> Story {
    let home = Home::new()?.collection("users", 2);
    let node = home.start().await?;
    let users = node.objects("users", 1);
    for id in ["user:10", "user:1", "widget", "user:2", "u", "user", "user:1.5"] {
        users.set(id, &[("k", "v")]).await?;
    }
    users.set_value("user:2", "second", "2").await?;
    users.set("user:gone", &[]).await?;
    users.delete("user:gone").await?;

    let everything = pages(&users, "", 3).await?;
    assert_eq!(
        everything,
        [
            vec!["u v1 1", "user v1 1", "user:1 v1 1"],
            vec!["user:1.5 v1 1", "user:10 v1 1", "user:2 v2 2"],
            vec!["widget v1 1"],
        ]
    );
    assert_eq!(
        pages(&users, "USER:", 2).await?,
        [vec!["user:1 v1 1", "user:1.5 v1 1"], vec!["user:10 v1 1", "user:2 v2 2"],]
    );
    assert_eq!(pages(&users, "x", 2).await?, [Vec::<String>::new()]);
    Ok(())
}

#[tokio::test]
async fn values_page_too_and_know_when_each_was_written() -> Story {
    let home = Home::new()?.collection("users", 1);
    let node = home.start().await?;
    let users = node.objects("users", 0);
    users.set("a", &[("user:1", "one"), ("widget", "w"), ("user:10", "ten")]).await?;
    users.set_value("a", "user:10", "ten again").await?;

    let page = values(&users, "user:", None, 0).await?;
    let found: Vec<_> = page.iter().map(|entry| (entry.key.as_str(), entry.version)).collect();
    assert_eq!(found, [("user:1", 1), ("user:10", 2)]);
    assert!(page.iter().all(|entry| entry.next_cursor.is_none()), "one page is all there is");

    let first = values(&users, "", None, 2).await?;
    let cursor = first.last().and_then(|entry| entry.next_cursor.clone()).expect("there is more");
    let second = values(&users, "", Some(cursor.to_vec()), 2).await?;
    assert_eq!(second.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["widget"]);
    Ok(())
}

#[tokio::test]
async fn a_cursor_is_good_for_the_list_it_came_from_only() -> Story {
    let home = Home::new()?.collection("users", 2);
    let node = home.start().await?;
    let users = node.objects("users", 0);
    users.set("a", &[("x", "1"), ("y", "2")]).await?;
    users.set("b", &[("x", "1"), ("y", "2")]).await?;
    let cursor = values(&users, "", None, 1).await?[0].next_cursor.clone().expect("there is more").to_vec();

    let other_prefix = values(&users, "x", Some(cursor.clone()), 1).await;
    let other_object = {
        let request = ListValuesRequest { object_id_str: Some("b".into()), ..request(&users, "", 1) };
        read_values(&users, ListValuesRequest { cursor: Some(cursor.clone().into()), ..request }).await
    };
    let objects = {
        let request =
            ListObjectsRequest { cls_id: "users".into(), cursor: Some(cursor.into()), ..Default::default() };
        read_objects(&users, request).await.map(|_| Vec::new())
    };
    for refused in [other_prefix, other_object, objects] {
        assert_eq!(refused.expect_err("the cursor of another list").code(), Code::InvalidArgument);
    }
    Ok(())
}

/// Every page of a list of objects, as `id version entries`.
async fn pages(objects: &Objects, prefix: &str, limit: u32) -> Result<Vec<Vec<String>>, Status> {
    let named = objects.object("");
    let mut pages = Vec::new();
    let mut cursor = None;
    loop {
        let request = ListObjectsRequest {
            cls_id: named.cls_id.clone(),
            partition_id: named.partition_id,
            object_id_prefix: Some(prefix.to_owned()),
            limit,
            cursor: cursor.take(),
        };
        let page = read_objects(objects, request).await?;
        cursor = page.last().and_then(|envelope| envelope.next_cursor.clone());
        let line = |e: &ObjectMetaEnvelope| format!("{} v{} {}", e.object_id, e.version, e.entry_count);
        pages.push(page.iter().map(line).collect());
        if cursor.is_none() {
            return Ok(pages);
        }
    }
}

async fn read_objects(
    objects: &Objects,
    request: ListObjectsRequest,
) -> Result<Vec<ObjectMetaEnvelope>, Status> {
    let mut stream = objects.connection.data.clone().list_objects(request).await?.into_inner();
    let mut page = Vec::new();
    while let Some(envelope) = stream.message().await? {
        page.push(envelope);
    }
    Ok(page)
}

fn request(objects: &Objects, prefix: &str, limit: u32) -> ListValuesRequest {
    let named = objects.object("a");
    ListValuesRequest {
        cls_id: named.cls_id,
        partition_id: named.partition_id,
        object_id_str: named.object_id_str,
        key_prefix: Some(prefix.to_owned()),
        limit,
        ..ListValuesRequest::default()
    }
}

async fn values(
    objects: &Objects,
    prefix: &str,
    cursor: Option<Vec<u8>>,
    limit: u32,
) -> Result<Vec<ValueEnvelope>, Status> {
    let cursor = cursor.map(Into::into);
    read_values(objects, ListValuesRequest { cursor, ..request(objects, prefix, limit) }).await
}

async fn read_values(objects: &Objects, request: ListValuesRequest) -> Result<Vec<ValueEnvelope>, Status> {
    let mut stream = objects.connection.data.clone().list_values(request).await?.into_inner();
    let mut page = Vec::new();
    while let Some(envelope) = stream.message().await? {
        page.push(envelope);
    }
    Ok(page)
}
