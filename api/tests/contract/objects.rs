//! What `oprc.DataService` means.

use std::collections::BTreeMap;

use odgm_proto::oprc::{
    CapabilitiesRequest, DataTrigger, ListObjectsRequest, ListValuesRequest, ObjData, ObjectEvent,
    SetKeyRequest, SetObjectRequest, SingleKeyRequest, SingleObjectRequest, StatsRequest, TriggerTarget,
    ValueEnvelope,
};
use tonic::{Code, Request};

use crate::node::{THINGS, TestNode, batch, data, entry, number, object, one, put, set, text};

fn shown(object: &ObjData) -> String {
    let entries = object.entries_str.iter().map(|(key, value)| format!("{key}={}", text(Some(value))));
    entries.collect::<Vec<_>>().join(" ")
}

async fn get(node: &TestNode, id: &str) -> String {
    match node.data().get(one(id)).await {
        Ok(response) => {
            let version = number(response.metadata(), "odgm-version");
            format!("v{version} {}", shown(response.get_ref().obj.as_ref().expect("an object")))
        }
        Err(status) => format!("{:?}", status.code()),
    }
}

#[tokio::test]
async fn an_object_lives_through_all_its_operations() {
    let node = TestNode::start().await;
    let mut client = node.data();
    client.set(set("Alice", &[("City", "Paris"), ("age", "30")])).await.expect("set");
    assert_eq!(get(&node, "alice").await, "v1 age=30 city=Paris", "ids and keys are lowered on every path");

    client.set_value(put("alice", "age", "31")).await.expect("set_value");
    let written = client.batch_set_values(batch("alice", &[("zip", "75001")], &["city"], Some(2))).await;
    assert_eq!(number(written.expect("version 2 was expected").metadata(), "odgm-version"), 3);
    assert_eq!(get(&node, "alice").await, "v3 age=31 zip=75001");

    let merged = client.merge(set("alice", &[("name", "A")])).await.expect("merge").into_inner();
    assert_eq!(shown(&merged.obj.expect("the whole object")), "age=31 name=A zip=75001");
    client.set(set("alice", &[("only", "this")])).await.expect("set");
    assert_eq!(get(&node, "alice").await, "v5 only=this", "set replaces all entries");

    client.delete_value(entry("alice", "only")).await.expect("delete_value");
    client.delete_value(entry("alice", "only")).await.expect("deleting what is absent is no error");
    assert_eq!(get(&node, "alice").await, "v6 ");
    client.delete(one("alice")).await.expect("delete");
    client.delete(one("alice")).await.expect("deleting what is absent is no error");
    assert_eq!(get(&node, "alice").await, "NotFound");

    client.set_value(put("alice", "back", "again")).await.expect("a deleted id can be created again");
    let again = get(&node, "alice").await;
    assert_eq!(again, "v8 back=again", "versions are never reused");
    let node = node.restart().await;
    assert_eq!(get(&node, "alice").await, again, "it survives a restart");
}

#[tokio::test]
async fn one_of_two_writers_wins() {
    let node = TestNode::start().await;
    let mut client = node.data();
    client.batch_set_values(batch("cas", &[("k", "first")], &[], Some(0))).await.expect("it did not exist");
    let lost = client
        .batch_set_values(batch("cas", &[("k", "second")], &[], Some(0)))
        .await
        .expect_err("it does now");
    assert_eq!((lost.code(), lost.message()), (Code::Aborted, "version mismatch: expected 0, got 1"));
    assert_eq!(number(lost.metadata(), "odgm-version"), 1);
    assert_eq!(lost.metadata().get("odgm-outcome").expect("an outcome"), "not-applied");

    client.delete(one("cas")).await.expect("delete");
    let lost = client.batch_set_values(batch("cas", &[("k", "v")], &[], Some(1))).await.expect_err("deleted");
    assert_eq!(number(lost.metadata(), "odgm-version"), 0);
}

#[tokio::test]
async fn a_missing_entry_is_an_answer_and_a_missing_object_too() {
    let node = TestNode::start().await;
    let mut client = node.data();
    client.set_value(put("o", "k", "v")).await.expect("set_value");
    let mut read = async |id, key| {
        let response = client.get_value(entry(id, key)).await.expect("always an answer").into_inner();
        (text(response.value.as_ref()).to_owned(), response.object_version, response.key.expect("the key"))
    };
    assert_eq!(read("o", "K").await, ("v".into(), Some(1), "k".into()));
    assert_eq!(read("o", "none").await, ("-".into(), Some(1), "none".into()));
    assert_eq!(read("none", "k").await, ("-".into(), None, "k".into()));
}

#[tokio::test]
async fn clients_that_speak_numbers_and_clients_that_speak_text_share_objects() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let trigger = DataTrigger {
        on_update: vec![TriggerTarget {
            cls_id: "c".into(),
            fn_id: "f".into(),
            object_id: Some(7),
            ..Default::default()
        }],
        ..Default::default()
    };
    let numbers = ObjData {
        entries: BTreeMap::from([(0, data("zero")), (1, data("one"))]),
        event: Some(ObjectEvent { data_trigger: BTreeMap::from([(1, trigger)]), ..Default::default() }),
        ..Default::default()
    };
    let request = SetObjectRequest {
        cls_id: THINGS.into(),
        object_id: 42,
        object: Some(numbers),
        ..Default::default()
    };
    client.set(request).await.expect("set by number");
    let request = SetKeyRequest {
        cls_id: THINGS.into(),
        object_id: 42,
        key: 0,
        value: Some(data("nil")),
        ..Default::default()
    };
    client.set_value(request).await.expect("key 0 of object 42");
    client.set_value(put("42", "name", "text")).await.expect("set by text");

    let by_number = SingleObjectRequest { cls_id: THINGS.into(), object_id: 42, ..Default::default() };
    let by_number = client.get(by_number).await.expect("get by number").into_inner();
    let by_text = client.get(one("42")).await.expect("get by text").into_inner();
    assert_eq!(by_number, by_text);
    let object = by_text.obj.expect("an object");
    assert_eq!(shown(&object), "0=nil 1=one name=text");
    assert_eq!(object.entries.into_keys().collect::<Vec<_>>(), [0, 1]);
    let metadata = object.metadata.expect("metadata");
    assert_eq!((metadata.object_id, metadata.object_id_str.as_deref()), (42, Some("42")));
    let event = object.event.expect("triggers");
    assert_eq!(event.data_trigger[&1], event.data_trigger_str["1"]);

    let key = SingleKeyRequest { cls_id: THINGS.into(), object_id: 42, key: 1, ..Default::default() };
    assert_eq!(text(client.get_value(key).await.expect("an answer").into_inner().value.as_ref()), "one");
}

#[tokio::test]
async fn triggers_stay_unless_they_are_given() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let target = TriggerTarget { cls_id: "c".into(), fn_id: "f".into(), ..Default::default() };
    let trigger = DataTrigger { on_create: vec![target], ..Default::default() };
    let event =
        ObjectEvent { data_trigger_str: BTreeMap::from([("k".to_owned(), trigger)]), ..Default::default() };
    let with = |event| {
        let object = ObjData { event, ..object(&[("k", "v")]) };
        SetObjectRequest { object: Some(object), ..set("o", &[]) }
    };
    client.set(with(Some(event.clone()))).await.expect("set with triggers");
    client.set(with(None)).await.expect("set without");
    let mut triggers = async || {
        let object = client.get(one("o")).await.expect("get").into_inner().obj.expect("an object");
        object.event
    };
    assert_eq!(triggers().await, Some(event), "absent triggers are kept");
    node.data().set(with(Some(ObjectEvent::default()))).await.expect("set with empty triggers");
    assert_eq!(triggers().await, None, "empty triggers clear");
}

#[tokio::test]
async fn a_repeated_request_is_applied_once_and_answered_the_same() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let merge = || {
        let mut request = Request::new(set("o", &[("k", "merged")]));
        request.metadata_mut().insert("odgm-request-id", "r-1".parse().expect("a value"));
        request
    };
    let first = client.merge(merge()).await.expect("merge");
    client.set_value(put("o", "k", "changed since")).await.expect("set_value");
    let again = client.merge(merge()).await.expect("merge again");
    for name in ["odgm-offset", "odgm-version"] {
        assert_eq!(number(first.metadata(), name), number(again.metadata(), name));
    }
    assert_eq!(first.get_ref(), again.get_ref(), "the reply is of then, not of now");
    assert_eq!(get(&node, "o").await, "v2 k=changed since");

    let mut other = Request::new(put("o", "k", "something else"));
    other.metadata_mut().insert("odgm-request-id", "r-1".parse().expect("a value"));
    let refused = client.set_value(other).await.expect_err("another request under the same id");
    assert_eq!(refused.code(), Code::InvalidArgument);
    insta::assert_snapshot!(refused.message(), @"odgm-request-id was used at offset 3 for a different request: expected a new id for a new request");
}

#[tokio::test]
async fn lists_page_in_byte_order() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let ids = ["user:1", "user:10", "user:2", "widget"];
    for id in ids {
        client.set(set(id, &[("a", "1"), ("b", "2")])).await.expect("set");
    }
    let mut page = async |prefix: &str, limit, cursor| {
        let request = ListObjectsRequest {
            cls_id: THINGS.into(),
            object_id_prefix: Some(prefix.into()),
            limit,
            cursor,
            ..Default::default()
        };
        let mut stream = client.list_objects(request).await?.into_inner();
        let mut page = Vec::new();
        while let Some(item) = stream.message().await? {
            page.push(item);
        }
        Ok::<_, tonic::Status>(page)
    };
    let all = page("", 0, None).await.expect("a page");
    assert_eq!(all.iter().map(|item| item.object_id.as_str()).collect::<Vec<_>>(), ids);
    assert!(all.iter().all(|item| (item.entry_count, &item.next_cursor) == (2, &None)));

    let first = page("USER:", 2, None).await.expect("a page");
    assert_eq!(first.iter().filter(|item| item.next_cursor.is_some()).count(), 1, "only on the last");
    let cursor = first.last().and_then(|item| item.next_cursor.clone());
    let second = page("user:", 2, cursor.clone()).await.expect("a page");
    assert_eq!(second.iter().map(|item| item.object_id.as_str()).collect::<Vec<_>>(), ["user:2"]);
    assert_eq!(second[0].next_cursor, None, "no empty page at the end");
    let other = page("wid", 2, cursor).await.expect_err("the cursor of another list");
    assert_eq!(other.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn values_page_by_number_and_by_size() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let large = "x".repeat(1 << 20);
    for key in ["a", "b", "c", "d", "e", "f"] {
        client.set_value(put("o", key, &large)).await.expect("set_value");
    }
    client.set_value(put("o", "small", "s")).await.expect("set_value");
    let mut keys = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let request = ListValuesRequest {
            cls_id: THINGS.into(),
            object_id_str: Some("o".into()),
            cursor: cursor.take(),
            ..Default::default()
        };
        let mut stream = client.list_values(request).await.expect("a page").into_inner();
        while let Some(ValueEnvelope { key, version, next_cursor, .. }) =
            stream.message().await.expect("an item")
        {
            keys.push((key, version));
            cursor = next_cursor;
        }
        pages += 1;
        if cursor.is_none() {
            break;
        }
    }
    let expected = ["a", "b", "c", "d", "e", "f", "small"].map(str::to_owned).into_iter().zip(1..);
    assert_eq!(keys, expected.collect::<Vec<_>>(), "each with the version at which it was written");
    assert_eq!(pages, 2, "a page ends when it has gathered 4 MiB");
}

#[tokio::test]
async fn a_node_says_what_it_holds_and_can_do() {
    let node = TestNode::start().await;
    let mut client = node.data();
    for id in ["a", "b"] {
        client.set_value(put(id, "k", "v")).await.expect("set_value");
    }
    client.delete(one("a")).await.expect("delete");
    let stats = client.stats(StatsRequest {}).await.expect("stats").into_inner();
    insta::assert_debug_snapshot!(stats.shards, @r#"
    [
        ShardStats {
            collection: "things",
            partition_id: 0,
            shard_id: 1,
            count: 1,
        },
        ShardStats {
            collection: "things",
            partition_id: 1,
            shard_id: 2,
            count: 0,
        },
    ]
    "#);
    let capabilities = client.capabilities(CapabilitiesRequest {}).await.expect("capabilities").into_inner();
    insta::assert_debug_snapshot!(capabilities, @"
    CapabilitiesResponse {
        string_ids: true,
        string_entry_keys: true,
        granular_entry_storage: true,
        event_pipeline_v2: true,
    }
    ");
}
