//! Collections, proofs, dumps, health, reflection, and the end of a node.

use odgm_proto::odgm::v1::{
    CreateCollectionRequest, DeleteCollectionRequest, DescribeCollectionRequest, DumpLogRequest,
    DumpViewRequest, GetNodeRequest, ListCollectionsRequest, ListPartitionsRequest, UpdateCollectionRequest,
    VerifyRequest, VerifyResult,
};
use odgm_proto::oprc;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha;

use crate::node::{THINGS, TestNode, config, one, put, set};

async fn all<T>(answer: Result<tonic::Response<Streaming<T>>, Status>) -> Vec<T> {
    let mut stream = answer.expect("a stream").into_inner();
    let mut items = Vec::new();
    while let Some(item) = stream.message().await.expect("an item") {
        items.push(item);
    }
    items
}

#[tokio::test]
async fn collections_come_and_go() {
    let node = TestNode::start().await;
    let mut client = node.admin();
    let definition = oprc::CreateCollectionRequest {
        name: "videos".into(),
        partition_count: 3,
        options: [("storage".to_owned(), "memory".to_owned())].into(),
        ..Default::default()
    };
    let create = || CreateCollectionRequest { collection: Some(definition.clone()) };
    let created = client.create_collection(create()).await.expect("created").into_inner().collection;
    let created = created.expect("a collection");
    assert_eq!(created.definition.as_ref().map(|d| d.options["retention"].as_str()), Some("all"));
    let list =
        client.list_collections(ListCollectionsRequest {}).await.expect("a list").into_inner().collections;
    let names: Vec<_> = list.iter().filter_map(|c| Some(c.definition.as_ref()?.name.as_str())).collect();
    assert_eq!(names, [THINGS, "videos"]);

    let mut value = put("o", "k", "v");
    value.cls_id = "videos".into();
    node.data().set_value(value.clone()).await.expect("it serves at once");
    let name = "videos".to_owned();
    let described = client
        .describe_collection(DescribeCollectionRequest { name: name.clone() })
        .await
        .expect("described");
    let partitions = described.into_inner().partitions;
    let shown: Vec<_> = partitions.iter().map(|p| (p.partition_id, p.state.as_str(), p.objects)).collect();
    assert_eq!(shown, [(0, "ready", 1), (1, "ready", 0), (2, "ready", 0)]);

    let options = [("retention", "7d"), ("consistency", "local")];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let update = UpdateCollectionRequest { name: name.clone(), options, invocations: None };
    let updated = client.update_collection(update).await.expect("changed").into_inner().collection;
    let options = updated.and_then(|updated| updated.definition).expect("a definition").options;
    let shown: Vec<_> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(shown.join(" "), "consistency=local retention=7d set_mode=replace storage=memory");
    node.data().set_value(value.clone()).await.expect("it goes on");

    client.delete_collection(DeleteCollectionRequest { name }).await.expect("deleted");
    let gone = node.data().set_value(value.clone()).await.expect_err("gone");
    assert_eq!(gone.code(), Code::NotFound);
    client.create_collection(create()).await.expect("created again");
    let partitions = client.list_partitions(ListPartitionsRequest { cls_id: "videos".into() }).await;
    let partitions = partitions.expect("partitions").into_inner().partitions;
    assert!(
        partitions.iter().all(|p| p.objects == 0 && !created.groups.contains(&p.group)),
        "nothing is reused"
    );
}

#[tokio::test]
async fn the_log_and_the_view_prove_each_other() {
    let node = TestNode::start().await;
    let mut data = node.data();
    for n in 0..50 {
        data.set_value(put(&format!("o{}", n % 9), &format!("k{n}"), "v")).await.expect("set_value");
    }
    data.delete(one("o3")).await.expect("delete");
    data.merge(set("o4", &[("m", "merged")])).await.expect("merge");
    let mut client = node.admin();
    let request = VerifyRequest { cls_id: THINGS.into(), partition_id: None };
    let partitions = client.list_partitions(ListPartitionsRequest { cls_id: THINGS.into() }).await;
    let partitions = partitions.expect("partitions").into_inner().partitions;
    let ok = |hash: &String| VerifyResult { ok: true, problem: String::new(), hash: hash.clone() };

    let log: Vec<_> =
        all(client.verify(request.clone()).await).await.into_iter().filter_map(|r| r.result).collect();
    assert_eq!(log, partitions.iter().map(|p| ok(&p.chain)).collect::<Vec<_>>());
    let view: Vec<_> =
        all(client.verify_view(request).await).await.into_iter().filter_map(|r| r.result).collect();
    assert_eq!(view, partitions.iter().map(|p| ok(&p.state_hash)).collect::<Vec<_>>());
}

#[tokio::test]
async fn logs_and_views_can_be_read_as_text() {
    let node = TestNode::start().await;
    node.data().set(set("alice", &[("city", "Paris")])).await.expect("set");
    let mut client = node.admin();
    let request = DumpLogRequest { cls_id: THINGS.into(), partition_id: 0, from_offset: 2, limit: 2 };
    let records = all(client.dump_log(request).await).await;
    let lines: Vec<_> = records.iter().map(|r| format!("{} {} {}", r.offset, r.body_type, r.json)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    2 config {"dedup_max_bytes":268435456,"dedup_max_ids":1000000,"dedup_window_ms":86400000,"events_enabled":true,"max_crdt_bytes":1048576,"max_outbox_bytes":4294967296,"max_outbox_rows":10000000,"max_result_bytes":1073741824,"max_trigger_depth":10,"result_retention_ms":86400000,"set_mode":"replace","time_index_interval_ms":1000}
    3 set {"entries":{"city":"Paris"},"object":"alice"}
    "#);

    let request = || DumpViewRequest { cls_id: THINGS.into(), partition_id: 0 };
    let text = |pieces: Vec<odgm_proto::odgm::v1::DumpViewResponse>| {
        pieces.into_iter().map(|piece| piece.text).collect::<String>()
    };
    let before = text(all(client.dump_view(request()).await).await);
    assert!(before.contains("\"alice\" version 1"), "{before}");
    let node = node.restart().await;
    assert_eq!(text(all(node.admin().dump_view(request()).await).await), before);
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let node = TestNode::start().await;
    let mut health = HealthClient::new(node.channel.clone());
    for service in ["", "oprc.DataService", "odgm.v1.Streams"] {
        let request = HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.expect("an answer").into_inner().status();
        assert_eq!(status.as_str_name(), "SERVING", "{service:?}");
    }
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(node.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::iter([request])).await;
    let answer = all(answers).await.into_iter().find_map(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("no list: {answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    insta::assert_snapshot!(names.join("\n"), @"
    oprc.DataService
    oprc.OprcFunction
    odgm.v1.Streams
    odgm.v1.Writes
    odgm.v1.Admin
    odgm.v1.Calls
    grpc.health.v1.Health
    grpc.reflection.v1.ServerReflection
    ");
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "oprc.DataService".into(),
        )),
    };
    let mut reflection = v1alpha::server_reflection_client::ServerReflectionClient::new(node.channel.clone());
    let answers = all(reflection.server_reflection_info(tokio_stream::iter([request])).await).await;
    assert!(format!("{answers:?}").contains("FileDescriptorResponse"), "{answers:?}");

    let described = node.admin().get_node(GetNodeRequest {}).await.expect("a node").into_inner();
    assert_eq!(described.node_id, node.node.node_id().get());
    let (of_calls, own): (Vec<_>, Vec<_>) =
        described.metrics.iter().partition(|metric| metric.name.starts_with("odgm_"));
    let own: Vec<_> = own.into_iter().map(|metric| metric.name.as_str()).collect();
    insta::assert_snapshot!(own.join(" "), @"log_fsyncs_total log_appends_total log_records_total log_bytes_total log_cache_hits_total log_cache_misses_total collections partitions_starting partitions_ready partitions_failed partitions_diverged objects entries writes_in_flight client_calls subscriptions peer_messages_sent_total peer_messages_received_total peer_frames_sent_total peer_bytes_sent_total peer_frames_dropped_total partitions_filling snapshot_bytes_sent_total snapshot_bytes_received_total snapshots_installed_total filled_records_total filled_bytes_total");
    assert!(
        own.len() + of_calls.len() == described.metrics.len()
            && of_calls.iter().all(|it| !it.help.is_empty())
    );
    for gauge in ["outbox_rows", "outbox_bytes", "outbox_age_seconds", "dead_letters", "deliveries_waiting"] {
        let name = format!(r#"odgm_{gauge}{{class="{THINGS}",partition="1"}}"#);
        assert_eq!(of_calls.iter().filter(|metric| metric.name == name).count(), 1, "{name}");
    }
}

#[tokio::test]
async fn watching_health_does_not_keep_a_node_from_stopping() {
    let node = TestNode::start().await;
    let mut health = HealthClient::new(node.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.expect("a watch").into_inner();
    assert_eq!(
        watch.message().await.expect("a status").expect("the first").status().as_str_name(),
        "SERVING"
    );
    node.node.shutdown();
    let mut last = None;
    while let Ok(Some(status)) = watch.message().await {
        last = Some(status.status().as_str_name().to_owned());
    }
    assert_eq!(last.as_deref(), Some("NOT_SERVING"));
    node.node.wait().await.expect("an orderly stop");
}

#[tokio::test]
async fn a_node_that_cannot_start_says_why_and_changes_nothing() {
    let node = TestNode::start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let port = node.node.local_addr().port().to_string();
    let taken = odgm_api::Node::start(config(dir.path(), &[("ODGM_HTTP_PORT", &port)])).await;
    let message = taken.err().expect("the port is taken").to_string();
    assert!(message.contains("ODGM_HTTP_PORT"), "{message}");
    assert!(!dir.path().join("data").exists());

    let file = dir.path().join("port");
    let first =
        config(dir.path(), &[("ODGM_NODE_ID", "1"), ("ODGM_PORT_FILE", file.to_str().expect("UTF-8"))]);
    let first = odgm_api::Node::start(first).await.expect("a node");
    let written = std::fs::read_to_string(&file).expect("the port file");
    assert_eq!(written.trim(), first.local_addr().port().to_string());
    first.ready().await;
    first.shutdown();
    first.wait().await.expect("an orderly stop");
    let other = odgm_api::Node::start(config(dir.path(), &[("ODGM_NODE_ID", "2")])).await;
    let message = other.err().expect("another node's directory").to_string();
    assert!(message.contains("ODGM_NODE_ID"), "{message}");
}
