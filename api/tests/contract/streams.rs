//! What `odgm.v1.Streams` means.

use odgm_proto::odgm::v1::{
    Cursors, DropCursorRequest, Earliest, Event, EventKind, Filter, GetAtRequest, HistoryRequest,
    ListCursorsRequest, MoveCursorRequest, SubscribeRequest, SubscribeResponse, get_at_request,
    subscribe_request::From,
};
use tonic::{Code, Request, Streaming};

use crate::node::{THINGS, TestNode, batch, one, put, set, text};

fn subscribe(from: From) -> SubscribeRequest {
    SubscribeRequest { cls_id: THINGS.into(), partitions: vec![0], from: Some(from), ..Default::default() }
}

/// `offset operation kind object version: key action value, ...`
fn line(event: &Event) -> String {
    let changes = event.changes.iter().map(|change| {
        let action = change.action().as_str_name().trim_start_matches("ACTION_").to_lowercase();
        format!("{} {action} {}", change.key, text(change.value.as_ref()))
    });
    let changes = changes.collect::<Vec<_>>().join(", ");
    let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_lowercase();
    let Event { offset, operation, object_id, object_version, .. } = event;
    format!("{offset} {operation} {kind} {object_id} v{object_version}: {changes}")
}

/// The lines of all events until the stream ends, and the last response.
async fn until_end(mut stream: Streaming<SubscribeResponse>) -> (Vec<String>, SubscribeResponse) {
    let (mut lines, mut last) = (Vec::new(), None);
    while let Some(response) = stream.message().await.expect("a response") {
        lines.extend(response.events.iter().map(line));
        last = Some(response);
    }
    (lines, last.expect("at least one response"))
}

/// The lines of the next events, skipping heartbeats.
async fn next(stream: &mut Streaming<SubscribeResponse>) -> (Vec<String>, SubscribeResponse) {
    loop {
        let response = stream.message().await.expect("a response").expect("no end");
        if !response.events.is_empty() {
            return (response.events.iter().map(line).collect(), response);
        }
    }
}

async fn story(node: &TestNode) {
    let mut client = node.data();
    client.set(set("alice", &[("age", "30"), ("city", "Paris")])).await.expect("set");
    client.set_value(put("bob", "age", "1")).await.expect("set_value");
    client.batch_set_values(batch("alice", &[("age", "31")], &["city", "none"], None)).await.expect("batch");
    client.delete(one("nobody")).await.expect("nothing changes");
    let mut caused = Request::new(one("alice"));
    caused.metadata_mut().insert("odgm-request-id", "gone-1".parse().expect("a value"));
    client.delete(caused).await.expect("delete");
}

#[tokio::test]
async fn all_that_changed_something_is_told_once_and_in_order() {
    let node = TestNode::start().await;
    story(&node).await;
    let request =
        SubscribeRequest { until_current: true, with_values: true, ..subscribe(From::Earliest(Earliest {})) };
    let stream = node.streams().subscribe(request).await.expect("a subscription").into_inner();
    let (lines, last) = until_end(stream).await;
    insta::assert_snapshot!(lines.join("\n"), @"
    3 set created alice v1: age created 30, city created Paris
    4 set_values created bob v1: age created 1
    5 set_values updated alice v2: age updated 31, city deleted -
    7 delete deleted alice v3: age deleted -
    ");
    assert_eq!((last.progress_offset, last.head_offset), (7, 7));
}

#[tokio::test]
async fn a_subscription_goes_on_live_and_from_its_cursor() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let request = SubscribeRequest { from: None, ..subscribe(From::Offset(0)) };
    let mut stream = node.streams().subscribe(request).await.expect("a subscription").into_inner();
    stream.message().await.expect("a response").expect("told at once that it stands");
    client.set_value(put("a", "k", "1")).await.expect("set_value");
    let (lines, response) = next(&mut stream).await;
    assert_eq!(lines, ["3 set_values created a v1: k created -"]);
    drop(stream);

    client.set_value(put("a", "k", "2")).await.expect("set_value");
    let node = node.restart().await;
    let resumed = subscribe(From::Cursors(Cursors { cursors: vec![response.cursor] }));
    let mut stream = node.streams().subscribe(resumed).await.expect("a subscription").into_inner();
    assert_eq!(next(&mut stream).await.0, ["4 set_values updated a v2: k updated -"]);
    node.data().set_value(put("a", "k", "3")).await.expect("set_value");
    assert_eq!(next(&mut stream).await.0, ["5 set_values updated a v3: k updated -"]);

    node.node.shutdown();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream says why it ends"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    node.node.wait().await.expect("an orderly stop");
}

#[tokio::test]
async fn filters_choose_and_progress_goes_on_without_matches() {
    let node = TestNode::start().await;
    story(&node).await;
    let filtered = async |filter: Filter| {
        let request = SubscribeRequest {
            until_current: true,
            filter: Some(filter),
            ..subscribe(From::Earliest(Earliest {}))
        };
        until_end(node.streams().subscribe(request).await.expect("a subscription").into_inner()).await
    };
    let by_key = Filter { keys: vec!["AGE".into()], object_prefix: "ali".into(), ..Default::default() };
    let (lines, _) = filtered(by_key).await;
    insta::assert_snapshot!(lines.join("\n"), @"
    3 set created alice v1: age created -
    5 set_values updated alice v2: age updated -
    7 delete deleted alice v3: age deleted -
    ");
    let by_kind = Filter { kinds: vec![EventKind::Deleted.into()], ..Default::default() };
    assert_eq!(filtered(by_kind).await.0.len(), 1);
    let (lines, last) = filtered(Filter { object_prefix: "zzz".into(), ..Default::default() }).await;
    assert_eq!((lines.len(), last.progress_offset), (0, 7));
}

#[tokio::test]
async fn an_object_has_a_past() {
    let node = TestNode::start().await;
    story(&node).await;
    let mut client = node.streams();
    let mut history = async |newest_first, from_offset| {
        let request = HistoryRequest {
            cls_id: THINGS.into(),
            object_id: "alice".into(),
            newest_first,
            from_offset,
            ..Default::default()
        };
        let mut stream = client.history(request).await.expect("a history").into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.expect("an event") {
            events.push(event);
        }
        events
    };
    let oldest_first = history(false, 0).await;
    let mut newest_first = history(true, 0).await;
    assert_eq!(newest_first[0].cause.as_ref().and_then(|cause| cause.request_id.as_deref()), Some("gone-1"));
    newest_first.reverse();
    assert_eq!(oldest_first, newest_first);
    assert_eq!(history(true, 5).await.len(), 2, "only at and after offset 5");

    let time = oldest_first[0].time_ms;
    let ats = [
        get_at_request::At::Offset(3),
        get_at_request::At::Offset(4),
        get_at_request::At::Offset(5),
        get_at_request::At::TimeMs(time + 3_600_000),
    ];
    let mut seen = Vec::new();
    for at in ats {
        let request = GetAtRequest {
            cls_id: THINGS.into(),
            object_id: "alice".into(),
            at: Some(at),
            ..Default::default()
        };
        seen.push(match client.get_at(request).await {
            Ok(response) => {
                let response = response.into_inner();
                let object = response.obj.expect("an object");
                let keys: Vec<_> =
                    object.entries_str.iter().map(|(k, v)| format!("{k}={}", text(Some(v)))).collect();
                format!("at {}: v{} {}", response.offset, response.object_version, keys.join(" "))
            }
            Err(status) => format!("{:?}", status.code()),
        });
    }
    insta::assert_snapshot!(seen.join("\n"), @"
    at 3: v1 age=30 city=Paris
    at 4: v1 age=30 city=Paris
    at 5: v2 age=31
    NotFound
    ");
}

#[tokio::test]
async fn a_named_cursor_is_kept_in_the_log() {
    let node = TestNode::start().await;
    story(&node).await;
    let mut client = node.streams();
    let moved = MoveCursorRequest {
        cls_id: THINGS.into(),
        name: "Billing".into(),
        offset: 4,
        allowed_lag: 10,
        ..Default::default()
    };
    client.move_cursor(moved).await.expect("moved");
    let node = node.restart().await;
    let mut client = node.streams();
    let list = ListCursorsRequest { cls_id: THINGS.into(), partition_id: None };
    let cursors = client.list_cursors(list.clone()).await.expect("cursors").into_inner().cursors;
    let shown: Vec<_> =
        cursors.iter().map(|c| (c.partition_id, c.name.as_str(), c.offset, c.allowed_lag)).collect();
    assert_eq!(shown, [(0, "billing", 4, 10)]);

    let request = SubscribeRequest { until_current: true, ..subscribe(From::NamedCursor("billing".into())) };
    let stream = client.subscribe(request).await.expect("a subscription").into_inner();
    let (lines, _) = until_end(stream).await;
    assert_eq!(lines.len(), 2, "the two changes after offset 4: {lines:?}");

    let dropped = DropCursorRequest { cls_id: THINGS.into(), name: "billing".into(), ..Default::default() };
    client.drop_cursor(dropped).await.expect("dropped");
    assert!(client.list_cursors(list).await.expect("cursors").into_inner().cursors.is_empty());
}
