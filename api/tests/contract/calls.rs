//! What `odgm.v1.Calls` and triggers mean: calls that nobody waits for.

use odgm_proto::odgm::v1::{
    DeadLetter, DiscardRequest, GetDeadLetterRequest, GetResultRequest, GetResultResponse, InvokeRequest,
    ListCallsRequest, ListDeadLettersRequest, RedriveRequest, TraceRequest, TracedRecord,
    UpdateCollectionRequest,
};
use odgm_proto::oprc::{
    DataTrigger, FuncTrigger, ObjectEvent, SetObjectRequest, TriggerPayload, TriggerTarget,
};
use tonic::{Code, Request};

use crate::functions::{TestFunctions, nowhere, routes};
use crate::invocations::{JOBS, Outcomes, line, outcome_of};
use crate::node::{THINGS, TestNode, batch, data, entry, object, one, put, set};

fn target(class: &str, object: Option<&str>, function: &str) -> TriggerTarget {
    TriggerTarget {
        cls_id: class.into(),
        object_id_str: object.map(str::to_owned),
        fn_id: function.into(),
        ..Default::default()
    }
}

/// A trigger on all that happens to an entry.
fn on_all(key: &str, target: &TriggerTarget) -> ObjectEvent {
    let trigger = DataTrigger {
        on_create: vec![target.clone()],
        on_update: vec![target.clone()],
        on_delete: vec![target.clone()],
    };
    ObjectEvent { data_trigger_str: [(key.to_owned(), trigger)].into(), ..Default::default() }
}

fn set_with(id: &str, entries: &[(&str, &str)], event: ObjectEvent) -> SetObjectRequest {
    let object = odgm_proto::oprc::ObjData { event: Some(event), ..object(entries) };
    SetObjectRequest { object: Some(object), ..set(id, entries) }
}

/// `event of class/object key`, out of a trigger's payload.
fn told(payload: &[u8]) -> String {
    let payload: TriggerPayload = serde_json::from_slice(payload).expect("a payload in JSON");
    let info = payload.event_info.expect("what happened");
    let event = info.event_type().as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase();
    let object = info.source_object_id_str.unwrap_or_default();
    let key = info.key.or(info.fn_id).unwrap_or_default();
    let value = payload.original_payload.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    format!("{event} of {}/{object} {key} {}", info.source_cls_id, value.unwrap_or_default())
        .trim_end()
        .to_owned()
}

fn invoke(id: &str, function: &str, payload: &'static str) -> InvokeRequest {
    InvokeRequest {
        cls_id: JOBS.into(),
        fn_id: function.into(),
        payload: payload.into(),
        invocation_id: id.into(),
        ..Default::default()
    }
}

async fn result(node: &TestNode, id: &str, wait_ms: u32) -> GetResultResponse {
    let request =
        GetResultRequest { cls_id: JOBS.into(), invocation_id: id.into(), wait_ms, ..Default::default() };
    node.calls().get_result(request).await.expect("a result").into_inner()
}

async fn letters(node: &TestNode, class: &str) -> Vec<DeadLetter> {
    let request = ListDeadLettersRequest { cls_id: class.into(), ..Default::default() };
    let listed = node.calls().list_dead_letters(request).await.expect("a list").into_inner();
    assert!(!listed.more);
    listed.letters
}

#[tokio::test]
async fn an_accepted_call_is_made_and_its_result_is_kept() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["slow", "fail"])), &[]).await;
    let mut client = node.calls();
    let request = InvokeRequest { object_id: Some("Flight-1".into()), ..invoke("Job-1", "slow", "x") };
    let accepted = client.invoke(request.clone()).await.expect("accepted").into_inner();
    let again = client.invoke(request.clone()).await.expect("accepted before").into_inner();
    assert_eq!((accepted.invocation_id.as_str(), &accepted), ("Job-1", &again));
    let other = InvokeRequest { payload: "y".into(), ..request };
    let reused = client.invoke(other).await.expect_err("another call");
    assert_eq!((reused.code(), outcome_of(&reused)), (Code::InvalidArgument, "not-applied"), "{reused}");

    functions.asked(1).await;
    let pending = result(&node, "Job-1", 0).await;
    assert_eq!((pending.state.as_str(), pending.outcome), ("pending", None));
    functions.let_go(1);
    let ended = result(&node, "Job-1", 60_000).await;
    let outcome = ended.outcome.as_ref().expect("an outcome");
    assert_eq!((ended.state.as_str(), outcome.payload.as_ref()), ("ended", b"1".as_slice()));
    assert_eq!((ended.fn_id.as_str(), ended.object_id.as_deref()), ("slow", Some("flight-1")));
    assert!(ended.ended_offset.is_some_and(|offset| offset > ended.accepted_offset));
    let node = node.restart().await;
    assert_eq!(result(&node, "Job-1", 0).await, ended, "it is kept");
    assert_eq!(functions.asked(1).await.len(), 1);

    let by_request = || {
        let mut request = Request::new(invoke("", "fail", ""));
        request.metadata_mut().insert("odgm-request-id", "order-17".parse().expect("a value"));
        request
    };
    let accepted = node.calls().invoke(by_request()).await.expect("accepted").into_inner();
    assert_eq!(node.calls().invoke(by_request()).await.expect("accepted before").into_inner(), accepted);
    assert_eq!(accepted.invocation_id, "order-17");
    let failed = result(&node, "order-17", 60_000).await.outcome.expect("an outcome");
    assert_eq!(
        (failed.status().as_str_name(), failed.detail.as_str()),
        ("RESPONSE_STATUS_APP_ERROR", "the function answered with application_error: no such flight")
    );
}

#[tokio::test]
async fn what_cannot_be_accepted_is_refused() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    let mut all = functions.routes(&["echo"]);
    all.fn_routes.extend(routes("ftp://nowhere", &["odd"]).fn_routes);
    node.create(JOBS, Some(all), &[]).await;
    let mut client = node.calls();
    let mut lines = Vec::new();
    let mut tell = |what: &str, status: Option<tonic::Status>| {
        let status = status.unwrap_or_else(|| tonic::Status::ok("was not refused"));
        lines.push(format!("{what}: {:?} [{}] {}", status.code(), outcome_of(&status), status.message()));
    };
    tell("no function", client.invoke(invoke("1", "other", "")).await.err());
    tell("odd URL", client.invoke(invoke("1", "odd", "")).await.err());
    tell("bad id", client.invoke(invoke("a/b", "echo", "")).await.err());
    let nothing = InvokeRequest { cls_id: "nothing".into(), ..invoke("1", "echo", "") };
    tell("no class", client.invoke(nothing).await.err());
    let object = InvokeRequest { object_id: Some("a b".into()), ..invoke("1", "echo", "") };
    tell("bad object", client.invoke(object).await.err());
    let mut deep = invoke("1", "echo", "");
    deep.options.insert("odgm-depth".into(), "11".into());
    tell("too deep", client.invoke(deep).await.err());
    let ask = |invocation_id: &str, wait_ms| GetResultRequest {
        cls_id: JOBS.into(),
        invocation_id: invocation_id.into(),
        wait_ms,
        ..Default::default()
    };
    tell("no such call", client.get_result(ask("1", 0)).await.err());
    tell("long wait", client.get_result(ask("1", 60_001)).await.err());
    let after =
        ListDeadLettersRequest { cls_id: JOBS.into(), after: Some(Default::default()), ..Default::default() };
    tell("letters after none", client.list_dead_letters(after).await.err());
    let letter =
        GetDeadLetterRequest { cls_id: JOBS.into(), id: Some(Default::default()), ..Default::default() };
    tell("no such letter", client.get_dead_letter(letter).await.err());
    let redrive =
        RedriveRequest { cls_id: JOBS.into(), letters: vec![Default::default()], ..Default::default() };
    tell("no such letter to try again", client.redrive(redrive.clone()).await.err());
    let none = RedriveRequest { letters: Vec::new(), ..redrive.clone() };
    tell("no letters to try again", client.redrive(none).await.err());
    tell("all and some", client.redrive(RedriveRequest { all: true, ..redrive }).await.err());
    let none = DiscardRequest { cls_id: JOBS.into(), ..Default::default() };
    tell("no letters to drop", client.discard(none).await.err());
    let trace = TraceRequest { cls_id: JOBS.into(), offset: 99, ..Default::default() };
    tell("no such record", client.trace(trace).await.err());
    insta::assert_snapshot!(lines.join("\n"), @r#"
    no function: NotFound [not-applied] class "jobs" has no function "other" to call: expected one that invocations.fn_routes of its collection names
    odd URL: FailedPrecondition [not-applied] function "odd" of class "jobs" cannot be called: "ftp://nowhere" is no endpoint; expected http://host:port
    bad id: InvalidArgument [not-applied] invalid invocation_id "a/b": expected 1 to 160 of A-Z a-z 0-9 . _ : -
    no class: NotFound [not-applied] there is no collection "nothing"
    bad object: InvalidArgument [not-applied] invalid object_id "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    too deep: FailedPrecondition [not-applied] depth 11 is beyond max_trigger_depth 10 of collection "jobs": what calls this is called by itself in the end
    no such call: NotFound [-] partition jobs/0 knows no invocation "1": none was accepted under this id, or its result is not kept any more
    long wait: InvalidArgument [-] wait_ms 60001: expected at most 60000
    letters after none: InvalidArgument [-] after is the place of a dead letter in one partition: expected a partition_id with it
    no such letter: NotFound [-] partition jobs/0 has no dead letter 0/0
    no such letter to try again: NotFound [not-applied] partition jobs/0 has no dead letter 0/0
    no letters to try again: InvalidArgument [not-applied] expected the ids of dead letters in letters; or none there, and all, for all that there are
    all and some: InvalidArgument [not-applied] expected the ids of dead letters in letters; or none there, and all, for all that there are
    no letters to drop: InvalidArgument [not-applied] expected the ids of dead letters in letters; or none there, and all, for all that there are
    no such record: NotFound [-] partition jobs/0 has no record 99
    "#);
}

#[tokio::test]
async fn triggers_fire_for_what_happens_to_their_entry_and_are_kept_until_they_are_cleared() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["echo"])), &[]).await;
    let mut client = node.data();
    let mut outcomes = Outcomes::of(&node, JOBS).await;
    let to = target(JOBS, Some("iah"), "echo");
    client.set(set_with("n1", &[("dest", "IAH"), ("alt", "1")], on_all("dest", &to))).await.expect("created");
    client.set_value(put("n1", "dest", "DFW")).await.expect("updated");
    client.set_value(put("n1", "alt", "2")).await.expect("another entry");
    // A Set that says nothing of triggers leaves them.
    client.set(set("n1", &[("alt", "3")])).await.expect("deleted by being left out");
    client.batch_set_values(batch("n1", &[("dest", "JFK")], &[], None)).await.expect("created");
    client.delete_value(entry("n1", "dest")).await.expect("deleted");
    let events = outcomes.next(5).await;
    let mut fired: Vec<_> = functions.asked(5).await.iter().map(|asked| told(&asked.payload)).collect();
    fired.sort_unstable();
    insta::assert_snapshot!(fired.join("\n"), @"
    data_create of things/n1 dest IAH
    data_create of things/n1 dest JFK
    data_delete of things/n1 dest
    data_delete of things/n1 dest
    data_update of things/n1 dest DFW
    ");
    assert!(
        events
            .iter()
            .all(|event| event.object_id == "iah" && event.cause.as_ref().is_some_and(|it| it.depth == 1))
    );

    let listed = client.get(one("n1")).await.expect("it is there").into_inner().obj.expect("an object");
    assert_eq!(listed.event.expect("triggers").data_trigger_str.len(), 1);
    client.merge(set_with("n1", &[], on_all("alt", &to))).await.expect("other triggers");
    client.set_value(put("n1", "dest", "ORD")).await.expect("no trigger any more");
    client.set_value(put("n1", "alt", "4")).await.expect("updated");
    outcomes.next(1).await;
    client.merge(set_with("n1", &[], ObjectEvent::default())).await.expect("cleared");
    client.delete(one("n1")).await.expect("deleted");
    let asked = functions.asked(6).await;
    assert_eq!(told(&asked[5].payload), "data_update of things/n1 alt 4");
    let calls = ListCallsRequest { cls_id: THINGS.into(), ..Default::default() };
    let calls = node.calls().list_calls(calls).await.expect("a list").into_inner();
    assert!(calls.calls.is_empty() && calls.totals.iter().all(|totals| totals.outbox_rows == 0), "{calls:?}");
}

#[tokio::test]
async fn numeric_keys_of_old_clients_are_triggers_too() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["echo"])), &[]).await;
    let to = TriggerTarget { object_id: Some(7), ..target(JOBS, None, "echo") };
    let trigger = DataTrigger { on_create: vec![to], ..Default::default() };
    let object = odgm_proto::oprc::ObjData {
        entries: [(5, data("five"))].into(),
        event: Some(ObjectEvent { data_trigger: [(5, trigger)].into(), ..Default::default() }),
        ..Default::default()
    };
    let request =
        SetObjectRequest { cls_id: THINGS.into(), object_id: 42, object: Some(object), ..Default::default() };
    node.data().set(request).await.expect("created");
    let asked = functions.asked(1).await.remove(0);
    assert_eq!(asked.object.as_deref(), Some("7"));
    assert_eq!(told(&asked.payload), "data_create of things/42 5 five");
}

#[tokio::test]
async fn a_function_that_ends_triggers_others() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["echo", "fail"])), &[]).await;
    let trigger = FuncTrigger {
        on_complete: vec![target(JOBS, Some("completed"), "echo")],
        on_error: vec![target(JOBS, Some("failed"), "echo")],
    };
    let func_trigger = [("echo".to_owned(), trigger.clone()), ("fail".to_owned(), trigger)].into();
    let event = ObjectEvent { func_trigger, ..Default::default() };
    let mut with_triggers = set_with("o", &[], event);
    with_triggers.cls_id = JOBS.into();
    node.data().set(with_triggers).await.expect("set");
    let mut outcomes = Outcomes::of(&node, JOBS).await;
    for function in ["echo", "fail"] {
        let request = odgm_proto::oprc::ObjectInvocationRequest {
            cls_id: JOBS.into(),
            fn_id: function.into(),
            object_id_str: Some("o".into()),
            payload: "hi".into(),
            ..Default::default()
        };
        node.functions().invoke_obj(request).await.expect("an answer");
    }
    let mut lines: Vec<_> = outcomes
        .next(4)
        .await
        .iter()
        .filter(|event| event.object_id != "o")
        .map(|event| {
            let payload = &event.outcome.as_ref().expect("an outcome").payload;
            format!("{}: {}", event.object_id, told(payload))
        })
        .collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @"
    completed: func_complete of jobs/o echo hi
    failed: func_error of jobs/o fail no such flight
    ");
}

/// What one dead letter says.
fn letter_line(letter: &DeadLetter) -> String {
    let id = letter.id.expect("an id");
    let subject = letter.subject.clone().expect("a subject");
    let target = letter.target.clone().expect("a target");
    format!(
        "{}/{} {} {} {} {} -> {}/{} depth {} generation {} attempts {}: {}",
        id.offset,
        id.index,
        subject.kind,
        subject.object_id,
        subject.key,
        subject.action,
        target.cls_id,
        target.fn_id,
        letter.depth,
        letter.generation,
        letter.attempts,
        letter.reason
    )
}

#[tokio::test]
async fn what_is_given_up_is_listed_tried_again_and_dropped() {
    const SHALLOW: &str = "shallow";
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["echo"])), &[]).await;
    node.create(SHALLOW, None, &[("max_trigger_depth", "0")]).await;
    let mut write = set_with("n1", &[("dest", "IAH")], on_all("dest", &target(JOBS, None, "echo")));
    write.cls_id = SHALLOW.into();
    node.data().set(write.clone()).await.expect("written all the same");
    let listed = letters(&node, SHALLOW).await;
    let lines: Vec<_> = listed.iter().map(letter_line).collect();
    insta::assert_snapshot!(lines.join("\n"), @"3/0 data n1 dest created -> jobs/echo depth 1 generation 0 attempts 0: depth 1 is beyond max_trigger_depth 0");

    let id = listed[0].id;
    let request = GetDeadLetterRequest { cls_id: SHALLOW.into(), id, ..Default::default() };
    let found = node.calls().get_dead_letter(request).await.expect("it is there").into_inner();
    assert_eq!(found.letter.as_ref(), Some(&listed[0]));
    let causes: Vec<_> = found.causes.iter().map(traced_line).collect();
    insta::assert_snapshot!(causes.join("\n"), @"shallow/0 depth 0: set n1: dest=IAH, with triggers");
    // Whoever asks for it again is not held back by the depth.
    let mut outcomes = Outcomes::of(&node, JOBS).await;
    let redrive = RedriveRequest { cls_id: SHALLOW.into(), all: true, ..Default::default() };
    let redriven = node.calls().redrive(redrive).await.expect("tried again").into_inner().redriven;
    assert_eq!(redriven, 1);
    let done = outcomes.next(1).await.remove(0);
    assert_eq!(told(&done.outcome.expect("an outcome").payload), "data_create of shallow/n1 dest IAH");
    assert!(letters(&node, SHALLOW).await.is_empty());

    node.data().set(write).await.expect("written again");
    let discard = DiscardRequest {
        cls_id: SHALLOW.into(),
        letters: letters(&node, SHALLOW).await.iter().filter_map(|letter| letter.id).collect(),
        reason: "seen".into(),
        ..Default::default()
    };
    let under_an_id = || {
        let mut request = Request::new(discard.clone());
        request.metadata_mut().insert("odgm-request-id", "tidy-up".parse().expect("a value"));
        request
    };
    let dropped = node.calls().discard(under_an_id()).await.expect("dropped").into_inner();
    assert_eq!((dropped.discarded, dropped.refused.as_str()), (1, ""));
    assert_eq!(node.calls().discard(under_an_id()).await.expect("the same answer").into_inner(), dropped);
    let gone = node.calls().discard(discard).await.expect_err("they are gone");
    assert_eq!((gone.code(), outcome_of(&gone)), (Code::NotFound, "not-applied"), "{gone}");
    assert!(letters(&node, SHALLOW).await.is_empty());
}

/// A trigger on the entry `dest` with so many targets.
fn with_targets(class: &str, object: &str, function: &str, count: usize) -> SetObjectRequest {
    let on_create = vec![target(JOBS, None, function); count];
    let trigger = DataTrigger { on_create, ..Default::default() };
    let event = ObjectEvent { data_trigger_str: [("dest".to_owned(), trigger)].into(), ..Default::default() };
    SetObjectRequest { cls_id: class.into(), ..set_with(object, &[("dest", "IAH")], event) }
}

#[tokio::test]
async fn what_is_done_to_many_dead_letters_is_told_though_a_part_is_refused() {
    const NARROW: &str = "narrow";
    const LETTERS: usize = 600;
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["slow"])), &[]).await;
    let options = [("max_trigger_depth", "0"), ("outbox_max_rows", "256")];
    node.create(NARROW, None, &options).await;
    let written = node.data().set(with_targets(NARROW, "n1", "slow", LETTERS)).await.expect("written");
    let offset = crate::node::number(written.metadata(), "odgm-offset");
    let id = |index| odgm_proto::odgm::v1::LetterId { offset, index };
    // Eight records of dead letters have room, and the next one has none.
    let all = RedriveRequest { cls_id: NARROW.into(), all: true, ..Default::default() };
    let redriven = node.calls().redrive(all.clone()).await.expect("a part").into_inner();
    assert_eq!(redriven.redriven, 256);
    assert!(redriven.refused.contains("has 256 calls and"), "{}", redriven.refused);
    let full = node.calls().redrive(all).await.expect_err("no room at all");
    assert_eq!((full.code(), outcome_of(&full)), (Code::ResourceExhausted, "not-applied"), "{full}");

    let letters: Vec<_> = (256..600).map(id).collect();
    let discard = || {
        let (cls_id, letters) = (NARROW.to_owned(), letters.clone());
        let mut request = Request::new(DiscardRequest { cls_id, letters, ..Default::default() });
        request.metadata_mut().insert("odgm-request-id", "tidy-up".parse().expect("a value"));
        request
    };
    let dropped = node.calls().discard(discard()).await.expect("dropped").into_inner();
    assert_eq!((dropped.discarded, dropped.refused.as_str()), (344, ""));
    let again = node.calls().discard(discard()).await.expect("the same, over several records").into_inner();
    assert_eq!(again, dropped);
}

#[tokio::test]
async fn a_record_tells_of_its_waiting_calls_however_many_wait_before_them() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["slow"])), &[]).await;
    let mut offsets = Vec::new();
    for n in 0..11 {
        let request = with_targets(THINGS, &format!("n{n}"), "slow", 1_000);
        let written = node.data().set(request).await.expect("written");
        offsets.push(crate::node::number(written.metadata(), "odgm-offset"));
    }
    let mut found = Vec::new();
    for offset in [offsets[10], offsets[0]] {
        let request = TraceRequest { cls_id: THINGS.into(), offset, ..Default::default() };
        let traced = node.calls().trace(request).await.expect("a tree").into_inner();
        let indexes: Vec<_> = traced.records[0].waiting.iter().map(|call| call.index).collect();
        assert_eq!(indexes, (0..1_000).collect::<Vec<_>>());
        found.push(traced.more_waiting);
    }
    assert_eq!(
        found,
        [false, true],
        "behind the first stand more than are looked at, and one may be its own"
    );
}

#[tokio::test]
async fn a_call_that_cannot_be_made_waits_and_is_given_up_after_its_attempts() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    let gone = nowhere().await;
    let options = [("trigger_max_attempts", "2"), ("trigger_backoff_ms", "10")];
    node.create(JOBS, Some(routes(&gone, &["echo"])), &options).await;
    node.create("sources", None, &options).await;
    let mut write = set_with("n1", &[("dest", "IAH")], on_all("dest", &target(JOBS, Some("iah"), "echo")));
    write.cls_id = "sources".into();
    node.data().set(write).await.expect("written");
    let mut outcomes = Outcomes::of(&node, JOBS).await;
    let failed = outcomes.next(1).await.remove(0);
    let told_of = line(&failed).replace(&gone, "URL").replace(&gone[7..], "HOST");
    insta::assert_snapshot!(told_of, @"failed iah echo system_error the function was not reached: URL: Connection refused (os error 111) (depth 1)");
    let listed = letters(&node, "sources").await;
    let lines: Vec<_> =
        listed.iter().map(|it| letter_line(it).replace(&gone, "URL").replace(&gone[7..], "HOST")).collect();
    insta::assert_snapshot!(lines.join("\n"), @"3/0 data n1 dest created -> jobs/echo depth 1 generation 0 attempts 2: given up after 2 attempts: the function was not reached: URL: Connection refused (os error 111)");

    let update = UpdateCollectionRequest {
        name: JOBS.into(),
        invocations: Some(functions.routes(&["echo"])),
        ..Default::default()
    };
    node.admin().update_collection(update).await.expect("mended");
    let redrive = RedriveRequest {
        cls_id: "sources".into(),
        letters: listed.iter().filter_map(|letter| letter.id).collect(),
        ..Default::default()
    };
    assert_eq!(node.calls().redrive(redrive).await.expect("tried again").into_inner().redriven, 1);
    let done = outcomes.next(1).await.remove(0);
    assert_eq!(done.kind().as_str_name(), "EVENT_KIND_COMPLETED");
    let asked = functions.asked(1).await.remove(0);
    let key = asked.metadata.get("odgm-idempotency-key").expect("a key").to_str().expect("ASCII").to_owned();
    assert_eq!(
        Some(&key),
        listed.first().map(|letter| &letter.idempotency_key),
        "the same in each generation"
    );
}

#[tokio::test]
async fn calls_that_wait_are_listed() {
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    node.create(JOBS, Some(functions.routes(&["slow"])), &[("max_concurrent_triggers", "1")]).await;
    for n in 0..3 {
        node.calls().invoke(invoke(&format!("job-{n}"), "slow", "")).await.expect("accepted");
    }
    functions.asked(1).await;
    let request = ListCallsRequest { cls_id: JOBS.into(), limit: 2, ..Default::default() };
    let listed = node.calls().list_calls(request).await.expect("a list").into_inner();
    let lines: Vec<_> = listed
        .calls
        .iter()
        .map(|call| {
            let (subject, target) = (call.subject.clone().expect("one"), call.target.clone().expect("one"));
            let invocation = subject.invocation_id;
            format!("{}/{} {} {invocation} -> {}", call.offset, call.index, subject.kind, target.fn_id)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @"
    3/0 invocation job-0 -> slow
    4/0 invocation job-1 -> slow
    ");
    let totals = &listed.totals[0];
    assert_eq!((listed.totals.len(), totals.outbox_rows, totals.pending_invocations), (1, 3, 3));
    functions.let_go(3);
    for n in 0..3 {
        assert_eq!(result(&node, &format!("job-{n}"), 60_000).await.state, "ended");
    }
}

/// `class/partition: summary`, with times left out.
fn traced_line(record: &TracedRecord) -> String {
    let words: Vec<_> = record.summary.split(' ').collect();
    let words = words.iter().enumerate().map(|(at, word)| {
        let is_time = words.get(at + 1).is_some_and(|next| next.trim_end_matches(':') == "ms");
        if is_time { "N" } else { word }
    });
    let summary = words.collect::<Vec<_>>().join(" ");
    format!("{}/{} depth {}: {summary}", record.cls_id, record.partition_id, record.depth)
}

#[tokio::test]
async fn what_a_record_caused_is_a_tree() {
    const MARKS: &str = "marks";
    let functions = TestFunctions::start().await;
    let node = TestNode::start().await;
    functions.write_to(node.channel.clone());
    node.create(JOBS, Some(functions.routes(&["echo"])), &[]).await;
    node.create(MARKS, Some(functions.routes(&["mark"])), &[("max_trigger_depth", "2")]).await;
    let mut event = on_all("mark", &target(JOBS, Some("written"), "echo"));
    let ended = FuncTrigger { on_complete: vec![target(JOBS, Some("ended"), "echo")], ..Default::default() };
    event.func_trigger.insert("mark".into(), ended);
    let mut watched = set_with("iah", &[], event);
    watched.cls_id = MARKS.into();
    node.data().set(watched).await.expect("set");
    let to = target(MARKS, Some("iah"), "mark");
    let written = node.data().set(set_with("n14228", &[("dest", "IAH")], on_all("dest", &to))).await;
    let offset = crate::node::number(written.expect("written").metadata(), "odgm-offset");
    Outcomes::of(&node, JOBS).await.next(2).await;

    let request = TraceRequest { cls_id: THINGS.into(), offset, ..Default::default() };
    let traced = node.calls().trace(request.clone()).await.expect("a tree").into_inner();
    assert!(!traced.truncated && traced.unreachable.is_empty(), "{traced:?}");
    let mut indents: Vec<(u32, u64, usize)> = Vec::new();
    let mut lines = Vec::new();
    for record in &traced.records {
        let parent = record.parent.as_ref();
        let above = parent.and_then(|parent| {
            indents.iter().find(|(group, offset, _)| (*group, *offset) == (parent.group, parent.offset))
        });
        let indent = above.map_or(0, |(_, _, indent)| indent + 1);
        indents.push((record.group, record.offset, indent));
        lines.push(format!("{}{}", "  ".repeat(indent), traced_line(record)));
    }
    insta::assert_snapshot!(lines.join("\n"), @"
    things/0 depth 0: set n14228: dest=IAH, with triggers
      marks/0 depth 1: set iah: mark=x
      marks/0 depth 1: mark on marks/0/iah completed in N ms
        jobs/0 depth 2: echo on jobs/0/written completed in N ms
        jobs/0 depth 2: echo on jobs/0/ended completed in N ms
    ");
    let short = TraceRequest { limit: 2, ..request };
    let short = node.calls().trace(short).await.expect("a part").into_inner();
    assert_eq!((short.records.len(), short.truncated), (2, true));
}
