//! One node: every operation of the contract, and how it refuses.

use std::collections::BTreeMap;

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{CreateCollectionRequest, DeleteCollectionRequest, Earliest};
use odgm_proto::oprc::{ListObjectsRequest, ObjData, ObjectMetaEnvelope, ValueResponse};
use odgm_tests::Result;
use odgm_tests::harness::{Home, Node, entries, fields};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Code;

use crate::Story;
use crate::client::{Client, With, attachment, batch_of, free_ports, object_of, until};

const ROOT: &str = "oprc/Things/0";

/// The settings of a node with one collection, and the port that it speaks Zenoh on.
fn home() -> Result<(Home, u16)> {
    let [port] = free_ports()?;
    let home = Home::new()?
        .collection("Things", 1)
        .with("ODGM_ZENOH_HOST", "127.0.0.1")
        .with("OPRC_ZENOH_PORT", &port.to_string());
    Ok((home, port))
}

async fn connected(node: &Home, port: u16) -> Result<(Node<'_>, Client)> {
    let node = node.start().await?;
    let client = Client::peer(&[port]).await?;
    client.reaches(&format!("{ROOT}/objects/nobody")).await?;
    Ok((node, client))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_works_with_text_and_with_numbers() -> Story {
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let things = node.objects("Things", 0);
    for (id, read_as) in [("Sensor:a", "sensor:a"), ("42", "42"), ("007", "7")] {
        client.set(ROOT, id, &[("a", "1"), ("0", "zero")]).await?;
        let object: ObjData = client.get(&format!("{ROOT}/objects/{id}")).await?;
        assert_eq!(entries(&object), fields(&[("0", "zero"), ("a", "1")]));
        let metadata = object.metadata.clone().unwrap_or_default();
        assert_eq!(metadata.object_id_str.as_deref(), Some(read_as));
        assert_eq!((metadata.cls_id.as_str(), metadata.partition_id), ("Things", 0));
        assert_eq!(object.entries.keys().copied().collect::<Vec<_>>(), [0], "numbers in their own column");
        assert_eq!(things.get(read_as).await?, entries(&object), "the same over gRPC");

        let entry: ValueResponse = client.get(&format!("{ROOT}/objects/{id}/entries/A")).await?;
        assert_eq!(entry.value.map(|value| value.data.to_vec()), Some(b"1".to_vec()));
        assert_eq!((entry.object_version, entry.key.as_deref()), (Some(1), Some("a")));

        let batch = batch_of(("b", "2"), "a", Some(1));
        let (_, payload, _) = client.one(&format!("{ROOT}/objects/{id}/batch-set"), batch).await??;
        assert!(payload.is_empty());
        assert_eq!(things.get(read_as).await?, fields(&[("0", "zero"), ("b", "2")]));

        client.put(ROOT, id, &[("c", "3")]).await?;
        until("the PUT", async || Ok(things.value(read_as, "c").await?)).await?;
        assert_eq!(things.get(read_as).await?, fields(&[("c", "3")]), "a PUT sets the whole object");
        client.delete(ROOT, id).await?;
        until("the DELETE", async || Ok(things.get(read_as).await.err().map(|error| error.code()))).await?;
        assert_eq!(things.get(read_as).await.expect_err("it is deleted").code(), Code::NotFound);
    }
    node.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_ways_to_name_an_object_are_understood() -> Story {
    let (home, port) = home()?;
    let (_node, client) = connected(&home, port).await?;
    client.set(ROOT, "7", &[("is", "seven")]).await?;
    client.set(ROOT, "cat", &[("is", "cat")]).await?;
    for (selector, expected) in [
        ("objects?oid=7", "seven"),
        ("objects?oid=007", "seven"),
        ("objects?oid_str=cat", "cat"),
        ("objects/-?oid_str=Cat", "cat"),
        ("objects/get/cat", "cat"),
        ("objects/get/07", "seven"),
    ] {
        let object: ObjData = client.get(&format!("{ROOT}/{selector}")).await?;
        assert_eq!(entries(&object), fields(&[("is", expected)]), "{selector}");
    }
    for selector in ["objects/set/dog", "objects/-/set?oid_str=dog"] {
        let with = With { payload: Some(object_of(&[("by", selector)])), ..With::default() };
        client.one(&format!("{ROOT}/{selector}"), with).await??;
        let object: ObjData = client.get(&format!("{ROOT}/objects/dog")).await?;
        assert_eq!(entries(&object), fields(&[("by", selector)]));
    }
    client.one(&format!("{ROOT}/objects/batch-set/dog"), batch_of(("k", "v"), "by", None)).await??;
    let object: ObjData = client.get(&format!("{ROOT}/objects/dog")).await?;
    assert_eq!(entries(&object), fields(&[("k", "v")]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_have_the_words_of_the_contract() -> Story {
    let (home, port) = home()?;
    let home = home.with("ODGM_MAX_REQUEST_BYTES", "4096");
    let (node, client) = connected(&home, port).await?;
    client.set(ROOT, "a", &[("k", "v")]).await?;
    client.set(ROOT, "a", &[("k", "w")]).await?;
    let payload = |bytes: Vec<u8>| With { payload: Some(bytes), ..With::default() };
    let beside = |bytes: Vec<u8>| With { attachment: Some(bytes), ..With::default() };
    let asked = [
        ("objects/nobody", With::default()),
        ("objects/über", With::default()),
        ("objects?oid=x y", With::default()),
        ("objects/a/entries/nothing", With::default()),
        ("objects/nobody/entries/k", With::default()),
        ("objects/a/entries/k+l", With::default()),
        ("objects/a/set", With::default()),
        ("objects/a/set", payload(vec![0xff])),
        ("objects/a/set", payload(vec![0; 4097])),
        ("objects/a+b/set", payload(Vec::new())),
        ("objects/a/batch-set", batch_of(("k", "x"), "l", Some(1))),
        ("objects/a/batch-set", batch_of(("k", "x"), "k", None)),
        ("objects/a/remove", With::default()),
        ("objects/list-objects", payload(vec![0xff])),
        ("objects/a", beside(vec![7])),
        ("objects/a", beside(attachment(&[("odgm-consistency", "strong")]))),
    ];
    let mut texts = Vec::new();
    for (selector, with) in asked {
        texts.push(format!("{selector}: {}", client.refused(&format!("{ROOT}/{selector}"), with).await?));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    objects/nobody: object not found
    objects/über: invalid object id
    objects?oid=x y: invalid object id
    objects/a/entries/nothing: entry not found
    objects/nobody/entries/k: entry not found
    objects/a/entries/k+l: invalid entry key: invalid key "k+l": '+' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    objects/a/set: payload required: expected an ObjData, which may be empty
    objects/a/set: invalid payload: expected an ObjData, which may be empty: failed to decode Protobuf message: invalid varint
    objects/a/set: the payload has 4097 bytes: expected at most 4096 (ODGM_MAX_REQUEST_BYTES)
    objects/a+b/set: invalid object id
    objects/a/batch-set: version mismatch: expected 1, got 2
    objects/a/batch-set: key "k" is both put and deleted: expected each key in one of values and delete_keys
    objects/a/remove: oprc/Things/0/objects/a/remove is nothing that can be asked for: expected one object, its entries/KEY, set or batch-set, or list-objects, without wildcards
    objects/list-objects: invalid payload: expected a ListObjectsRequest: failed to decode Protobuf message: invalid varint
    objects/a: invalid attachment: expected a map from text to text as Zenoh serializes it
    objects/a: get failed: odgm-consistency "strong": expected linearizable, lease or local
    "#);

    let wild = client.ask(&format!("{ROOT}/objects/*"), With::default()).await?;
    assert!(!wild.is_empty() && wild.iter().all(Result::is_err), "{wild:?}");
    let nowhere = client.ask("oprc/Things/1/objects/a", With::default()).await?;
    assert_eq!(nowhere, [], "nobody has that partition");
    assert_eq!(node.objects("Things", 0).get("a").await?, fields(&[("k", "w")]));

    // What a PUT is refused for stands in the log, and the next one is applied.
    client.put(ROOT, "a+b", &[]).await?;
    client.put(ROOT, "b", &[("k", "v")]).await?;
    until("the PUT", async || Ok(node.objects("Things", 0).value("b", "k").await?)).await?;
    let said = node.output();
    assert!(said.contains("PUTs and DELETEs over Zenoh were not applied"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_one_reply_for_each_object() -> Story {
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let key = format!("{ROOT}/objects/list-objects");
    assert_eq!(client.ask(&key, With::default()).await?, [], "no objects, no replies");
    for number in 0..300 {
        client.put(ROOT, &format!("o-{number:03}"), &[("k", "v")]).await?;
    }
    client.set(ROOT, "p", &[("a", "1"), ("b", "2")]).await?;
    // A query does not wait for PUTs before it.
    until("the last PUT", async || Ok(node.objects("Things", 0).value("o-299", "k").await?)).await?;

    let (mut found, mut cursor) = (BTreeMap::new(), None);
    let mut pages = Vec::new();
    loop {
        let request = ListObjectsRequest {
            // The key says which partition it is.
            cls_id: "other".to_owned(),
            partition_id: 9,
            limit: 200,
            cursor: cursor.take(),
            ..ListObjectsRequest::default()
        };
        let with = With { payload: Some(request.encode_to_vec()), ..With::default() };
        let replies: Vec<_> = client.ask(&key, with).await?.into_iter().collect::<Result<_, _>>()?;
        assert!(replies.iter().all(|(replied, _, _)| *replied == key));
        let page: Vec<_> = replies
            .iter()
            .map(|(_, payload, _)| ObjectMetaEnvelope::decode(payload.as_slice()))
            .collect::<Result<_, _>>()?;
        pages.push(page.len());
        let (last, before) = page.split_last().expect("a page has objects");
        assert!(before.iter().all(|envelope| envelope.next_cursor.is_none()), "only the last has a cursor");
        cursor = last.next_cursor.clone();
        found.extend(page.into_iter().map(|object| (object.object_id, (object.version, object.entry_count))));
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((pages.as_slice(), found.len()), ([200, 101].as_slice(), 301));
    assert_eq!(found.get("p"), Some(&(1, 2)));

    let prefix = ListObjectsRequest { object_id_prefix: Some("P".into()), ..ListObjectsRequest::default() };
    let with = With { payload: Some(prefix.encode_to_vec()), ..With::default() };
    assert_eq!(client.ask(&key, with).await?.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_of_one_client_are_applied_in_their_order() -> Story {
    const PUTS: usize = 2_000;
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let things = node.objects("Things", 0);
    for number in 0..PUTS {
        client.put(ROOT, "counter", &[("n", &number.to_string())]).await?;
    }
    until("all PUTs", async || {
        let last = things.value("counter", "n").await?;
        Ok((last == Some((PUTS - 1).to_string())).then_some(()))
    })
    .await?;
    let numbers: Vec<String> = things
        .watch_until_current(From::Earliest(Earliest {}))
        .await?
        .into_iter()
        .flat_map(|event| event.changes)
        .filter_map(|change| String::from_utf8(change.value?.data.to_vec()).ok())
        .collect();
    assert_eq!(numbers, (0..PUTS).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grpc_has_in_metadata_is_in_attachments() -> Story {
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let things = node.objects("Things", 0);
    let set = async |id: &str, value: &str| {
        let (payload, beside) = (object_of(&[("k", value)]), attachment(&[("odgm-request-id", id)]));
        let with = With { payload: Some(payload), attachment: Some(beside), ..With::default() };
        client.one(&format!("{ROOT}/objects/a/set"), with).await
    };
    let (_, _, first) = set("order-1", "v").await??;
    let (_, _, again) = set("order-1", "v").await??;
    assert_eq!(again, first, "the same answer again");
    assert!(String::from_utf8_lossy(&first).contains("odgm-version\u{1}1"), "{first:?}");
    let refused = set("order-1", "w").await?.expect_err("another request under the same id");
    assert!(refused.contains("different request"), "{refused}");
    let (_, _, read) = client.one(&format!("{ROOT}/objects/a"), With::default()).await??;
    assert_eq!(read, attachment(&[("odgm-version", "1")]));

    for _ in 0..2 {
        let put = client.0.put(format!("{ROOT}/objects/a"), object_of(&[("k", "put")]));
        put.attachment(attachment(&[("odgm-request-id", "order-2"), ("odgm-depth", "3")])).await?;
    }
    client.put(ROOT, "b", &[("k", "v")]).await?;
    until("the PUTs", async || Ok(things.value("b", "k").await?)).await?;
    let versions: Vec<_> = things.history("a").await?.iter().map(|event| event.object_version).collect();
    assert_eq!(versions, [1, 2], "each id once");
    let depths = things.history("a").await?.into_iter().map(|event| event.cause.unwrap_or_default().depth);
    assert_eq!(depths.collect::<Vec<_>>(), [0, 3]);

    let local = With { attachment: Some(attachment(&[("odgm-consistency", "local")])), ..With::default() };
    client.one(&format!("{ROOT}/objects/a"), local).await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_tells_what_it_can_do_and_that_it_lives() -> Story {
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let capabilities = |replies: Vec<_>| -> Result<Vec<(String, Value)>> {
        let json = |reply: crate::client::Reply| {
            let (key, payload, _) = reply?;
            Ok((key, serde_json::from_slice(&payload)?))
        };
        replies.into_iter().map(json).collect()
    };
    let tokens = client.tokens().await?;
    let shard = tokens[0].rsplit('/').next().expect("an id").to_owned();
    assert_eq!(tokens, [format!("{ROOT}/liveliness/{shard}")]);
    let own = format!("{ROOT}/shards/{shard}/capabilities");
    let expected = json!({
        "class": "Things",
        "partition": 0,
        "shard_id": shard.parse::<u64>()?,
        "event_pipeline_v2": true,
        "storage_backend": "rocksdb",
        "odgm_version": env!("CARGO_PKG_VERSION"),
        "features": { "granular_storage": true, "bridge_mode": false, "wasm_runtime": false },
    });
    for asked in [own.as_str(), "oprc/*/*/shards/*/capabilities", "oprc/**/shards/**/capabilities"] {
        let replies = capabilities(client.ask(asked, With::default()).await?)?;
        assert_eq!(replies, [(own.clone(), expected.clone())], "{asked}");
    }
    let other = format!("{ROOT}/shards/999/capabilities");
    let replies = capabilities(client.ask(&other, With::default()).await?)?;
    assert_eq!(replies, [(other, json!({"error": "not_found"}))]);
    node.kill()?;
    until("the token to go", async || Ok(client.tokens().await?.is_empty().then_some(()))).await?;

    let home = home.with("ODGM_CAPS_QUERYABLE_ENABLED", "false");
    let (_node, client) = connected(&home, port).await?;
    assert_eq!(client.ask(&own, With::default()).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_come_and_go_with_their_collection() -> Story {
    let (home, port) = home()?;
    let (node, client) = connected(&home, port).await?;
    let mut admin = node.connection().admin;
    let name = "Later".to_owned();
    for round in 0..2 {
        let collection = odgm_proto::oprc::CreateCollectionRequest {
            name: name.clone(),
            partition_count: 2,
            ..Default::default()
        };
        admin.create_collection(CreateCollectionRequest { collection: Some(collection) }).await?;
        client.reaches("oprc/Later/1/objects/a").await?;
        let absent = client.refused("oprc/Later/1/objects/a", With::default()).await?;
        assert_eq!(absent, "object not found", "round {round}");
        client.set("oprc/Later/1", "a", &[("k", "v")]).await?;
        assert_eq!(client.tokens().await?.len(), 3);
        admin.delete_collection(DeleteCollectionRequest { name: name.clone() }).await?;
        until("the routes to go", async || {
            let replies = client.ask("oprc/Later/1/objects/a", With::default()).await?;
            Ok((replies.is_empty() && client.tokens().await?.len() == 1).then_some(()))
        })
        .await?;
    }
    assert!(!node.output().contains("ERROR"), "{}", node.output());
    node.stop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_objects_is_published_where_that_is_wanted() -> Story {
    let (home, port) = home()?;
    let home = home.with("ODGM_ZENOH_EVENT_PUBLISH", "true");
    let (node, client) = connected(&home, port).await?;
    let events = client.0.declare_subscriber("oprc/Things/*/events/*").await?;
    let things = node.objects("Things", 0);
    // A subscription takes a moment to be heard of.
    until("the first event", async || {
        things.set_value("first", "k", "v").await?;
        events.recv_timeout(std::time::Duration::from_millis(200))
    })
    .await?;
    while events.recv_timeout(std::time::Duration::from_millis(500))?.is_some() {}

    client.set(ROOT, "42", &[("a", "1"), ("b", "1")]).await?;
    things.set("42", &[("b", "2"), ("c", "2")]).await?;
    things.delete_value("42", "absent").await?;
    client.delete(ROOT, "42").await?;
    let mut frames = Vec::new();
    for _ in 0..3 {
        let sample = events.recv_async().await?;
        assert_eq!(sample.key_expr().as_str(), "oprc/Things/0/events/42");
        frames.push(serde_json::from_slice::<Value>(&sample.payload().to_bytes())?);
    }
    let frame = |changes: &[(&str, &str)]| {
        let changes = changes.iter().map(|(key, action)| json!({"key": key, "action": action}));
        json!({
            "object_id": "42",
            "cls_id": "Things",
            "partition_id": 0,
            "source": "local",
            "changes": changes.collect::<Vec<_>>(),
        })
    };
    let expected = [
        frame(&[("a", "create"), ("b", "create")]),
        frame(&[("a", "delete"), ("b", "update"), ("c", "create")]),
        frame(&[("b", "delete"), ("c", "delete")]),
    ];
    assert_eq!(frames, expected);
    Ok(())
}
