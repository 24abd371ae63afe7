//! Three replicas: whatever comes is applied once, and answered.

use std::time::{Duration, Instant};

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::oprc::ObjData;
use odgm_tests::Result;
use odgm_tests::harness::{Node, entries, fields};
use serde_json::Value;
use tonic::Code;

use crate::Story;
use crate::client::{Client, PATIENCE, With, batch_of, object_of, until};
use crate::three_nodes::{Homes, head, leader};

const ROOT: &str = "oprc/things/0";

/// A peer that knows all nodes, and a client of each; all know who to ask.
async fn clients(ports: &[u16; 3]) -> Result<Vec<Client>> {
    let mut clients = vec![Client::peer(ports).await?];
    for port in ports {
        clients.push(Client::client(*port).await?);
    }
    for client in &clients {
        for key in ["oprc/things/0/objects/x", "oprc/led/0/objects/x", "oprc/things/0/objects/get/x"] {
            client.reaches(key).await?;
        }
    }
    Ok(clients)
}

/// Who leads, and the newest record, after one of the client's: with the first one a group writes down its rules.
async fn begun(nodes: &[Node<'_>], client: &Client) -> Result<(usize, u64)> {
    client.set(ROOT, "begin", &[]).await?;
    let leading = leader(nodes, "things").await?;
    Ok((leading, head(&nodes[leading], "things").await?))
}

async fn versions(node: &Node<'_>, object: &str) -> Result<Vec<u64>> {
    let history = node.objects("things", 0).history(object).await?;
    Ok(history.into_iter().map(|event| event.object_version).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_put_and_delete_is_applied_once() -> Story {
    const PUTS: u64 = 50;
    let homes = Homes::new(&[])?;
    let nodes = homes.start().await?;
    let clients = clients(&homes.ports).await?;
    let (leading, before) = begun(&nodes, &clients[0]).await?;
    for number in 0..PUTS {
        for (at, client) in clients.iter().enumerate() {
            client.put(ROOT, &format!("o-{at}"), &[("n", &number.to_string())]).await?;
        }
    }
    for at in 0..clients.len() {
        let object = format!("o-{at}");
        let things = nodes[leading].objects("things", 0);
        until(&format!("the PUTs of client {at}"), async || {
            Ok((things.value(&object, "n").await? == Some((PUTS - 1).to_string())).then_some(()))
        })
        .await?;
        let values: Vec<String> = things
            .history(&object)
            .await?
            .into_iter()
            .flat_map(|event| event.changes)
            .filter_map(|change| String::from_utf8(change.value?.data.to_vec()).ok())
            .collect();
        assert_eq!(values, (0..PUTS).map(|number| number.to_string()).collect::<Vec<_>>(), "client {at}");
        assert_eq!(versions(&nodes[leading], &object).await?, (1..=PUTS).collect::<Vec<_>>());
    }
    for (at, client) in clients.iter().enumerate() {
        client.delete(ROOT, &format!("o-{at}")).await?;
        let things = nodes[leading].objects("things", 0);
        until("the DELETE", async || {
            let got = things.get(&format!("o-{at}")).await;
            Ok(got.err().filter(|error| error.code() == Code::NotFound))
        })
        .await?;
    }
    // Whatever comes twice would have come by now: as many again are written and counted.
    for client in &clients {
        client.set(ROOT, "last", &[]).await?;
    }
    let written = head(&nodes[leading], "things").await? - before;
    assert_eq!(written, clients.len() as u64 * (PUTS + 1 + 1), "records");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_query_that_writes_is_applied_and_answered_once() -> Story {
    let homes = Homes::new(&[])?;
    let nodes = homes.start().await?;
    let clients = clients(&homes.ports).await?;
    let (leading, before) = begun(&nodes, &clients[0]).await?;
    let mut writes = 0;
    for (at, client) in clients.iter().enumerate() {
        for everybody in [false, true] {
            let object = format!("o-{at}-{everybody}");
            let with = With { payload: Some(object_of(&[("k", "v")])), everybody, ..With::default() };
            client.one(&format!("{ROOT}/objects/{object}/set"), with).await??;
            let batch = With { everybody, ..batch_of(("k", "w"), "l", Some(1)) };
            client.one(&format!("{ROOT}/objects/{object}/batch-set"), batch).await??;
            let batch = With { everybody, ..batch_of(("k", "x"), "l", Some(1)) };
            let refused = client.refused(&format!("{ROOT}/objects/{object}/batch-set"), batch).await?;
            assert_eq!(refused, "version mismatch: expected 1, got 2");
            writes += 3;
            assert_eq!(versions(&nodes[leading], &object).await?, [1, 2]);
        }
    }
    assert_eq!(head(&nodes[leading], "things").await? - before, writes, "records");
    read_by_all(&clients).await
}

/// Who answers what only reads.
async fn read_by_all(clients: &[Client]) -> Story {
    clients[0].set("oprc/led/0", "a", &[("k", "v")]).await?;
    for (at, client) in clients.iter().enumerate() {
        let replies = client.ask(&format!("{ROOT}/objects/o-0-true"), With::default()).await?;
        eprintln!("client {at} got {} replies to what only reads", replies.len());
        // A client of a replica may get an answer from that one and from another one.
        assert!(replies.len() == 1 || (at > 0 && replies.len() == 2), "client {at}: {}", replies.len());
        for reply in replies {
            let object: ObjData = prost::Message::decode(reply?.1.as_slice())?;
            assert_eq!(entries(&object), fields(&[("k", "w")]), "linearizable at every replica");
        }
        for everybody in [false, true] {
            let with = With { everybody, ..With::default() };
            let (_, object, _) = client.one("oprc/led/0/objects/a", with).await??;
            let object: ObjData = prost::Message::decode(object.as_slice())?;
            assert_eq!(entries(&object), fields(&[("k", "v")]), "only the leader answers");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_without_the_leader_and_tells_whose_replicas_are_gone() -> Story {
    let homes = Homes::new(&[])?;
    let mut nodes = homes.start().await?;
    let client = Client::peer(&homes.ports).await?;
    until("all tokens", async || Ok((client.tokens().await?.len() == 5).then_some(()))).await?;
    client.reaches(&format!("{ROOT}/objects/get/x")).await?;
    client.set(ROOT, "a", &[("n", "1")]).await?;
    client.put(ROOT, "b", &[("n", "1")]).await?;

    let gone = leader(&nodes, "things").await?;
    let survivor = (gone + 1) % 3;
    until("the PUT", async || Ok(nodes[survivor].objects("things", 0).value("b", "n").await?)).await?;
    let whole = client.tokens().await?;
    let killed = Instant::now();
    nodes.remove(gone).kill()?;
    let left = until("a token to go", async || {
        let tokens = client.tokens().await?;
        Ok((tokens.len() < whole.len()).then_some(tokens))
    })
    .await?;
    let missing: Vec<_> = whole.iter().filter(|token| !left.contains(token)).collect();
    assert!(missing.len() == 1 && missing[0].starts_with("oprc/solo/"), "{missing:?}");
    assert_eq!(left.iter().filter(|token| token.starts_with("oprc/things/0/")).count(), 1);

    // As clients do it: nothing was applied where nobody answers.
    until("a set without the old leader", async || {
        let with = With { payload: Some(object_of(&[("n", "2")])), ..With::default() };
        let replies = client.ask(&format!("{ROOT}/objects/a/set"), with).await?;
        Ok(replies.into_iter().next().and_then(Result::ok))
    })
    .await?;
    eprintln!("a set was answered {:?} after the leader was killed", killed.elapsed());
    client.put(ROOT, "b", &[("n", "2")]).await?;
    let things = nodes[0].objects("things", 0);
    until("the PUT", async || Ok((things.value("b", "n").await?.as_deref() == Some("2")).then_some(())))
        .await?;
    assert_eq!(versions(&nodes[0], "a").await?, [1, 2]);
    assert_eq!(versions(&nodes[0], "b").await?, [1, 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_published_once_and_in_order() -> Story {
    const WRITES: usize = 200;
    let homes = Homes::new(&[("ODGM_ZENOH_EVENT_PUBLISH", "true")])?;
    let nodes = homes.start().await?;
    let client = Client::peer(&homes.ports).await?;
    let pause = Duration::from_millis(500);
    let (sender, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let _events = client
        .0
        .declare_subscriber(format!("{ROOT}/events/*"))
        .callback(move |sample| drop(sender.send(sample)))
        .await?;
    leader(&nodes, "things").await?;
    // A subscription takes a moment to be heard of.
    let deadline = Instant::now() + PATIENCE;
    while tokio::time::timeout(pause, arrived.recv()).await.is_err() {
        assert!(Instant::now() < deadline, "no event");
        nodes[0].objects("things", 0).set_value("first", "k", "v").await?;
    }
    while tokio::time::timeout(pause, arrived.recv()).await.is_ok() {}

    for number in 0..WRITES {
        let things = nodes[number % 3].objects("things", 0);
        things.set_value("a", &format!("k-{number}"), "v").await?;
    }
    let mut keys = Vec::new();
    while let Ok(Some(sample)) = tokio::time::timeout(pause, arrived.recv()).await {
        let frame: Value = serde_json::from_slice(&sample.payload().to_bytes())?;
        keys.push(frame["changes"][0]["key"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(keys, (0..WRITES).map(|number| format!("k-{number}")).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_applied_twice_while_another_node_takes_the_lead() -> Story {
    const PUTS: u64 = 300;
    let homes = Homes::new(&[])?;
    let mut nodes = homes.start().await?;
    let client = Client::peer(&homes.ports).await?;
    client.reaches(&format!("{ROOT}/objects/get/x")).await?;
    let (leading, _) = begun(&nodes, &client).await?;
    until("all three to be known", async || {
        Ok((client.0.info().peers_zid().await.count() == 3).then_some(()))
    })
    .await?;
    let publisher = client.clone();
    let puts = tokio::spawn(async move {
        for number in 1..=PUTS {
            publisher.put(ROOT, "a", &[("n", &number.to_string())]).await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, odgm_tests::Error>(())
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    nodes.remove(leading).stop()?;
    puts.await??;

    let things = nodes[0].objects("things", 0);
    until("the last PUT", async || {
        Ok((things.value("a", "n").await? == Some(PUTS.to_string())).then_some(()))
    })
    .await?;
    let events = things.watch_until_current(From::Earliest(Earliest {})).await?;
    let applied: Vec<u64> = events
        .into_iter()
        .filter(|event| event.object_id == "a")
        .flat_map(|event| event.changes)
        .filter_map(|change| String::from_utf8(change.value?.data.to_vec()).ok()?.parse().ok())
        .collect();
    assert!(applied.is_sorted_by(|one, next| one < next), "in order, and each once: {applied:?}");
    let lost = PUTS - applied.len() as u64;
    eprintln!("{lost} of {PUTS} PUTs were lost when the leader was stopped");
    assert!(lost < PUTS / 3, "{lost} of {PUTS} PUTs were lost");
    Ok(())
}
