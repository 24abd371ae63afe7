//! Every refusal says what was expected.

use odgm_proto::odgm::v1::{
    CreateCollectionRequest, Cursors, DeleteCollectionRequest, DescribeCollectionRequest, DumpLogRequest,
    Filter, GetAtRequest, HistoryRequest, MoveCursorRequest, SubscribeRequest, UpdateCollectionRequest,
    VerifyRequest, get_at_request, subscribe_request,
};
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::{
    self, InvocationRequest, ListObjectsRequest, ListValuesRequest, ObjectInvocationRequest, SetKeyRequest,
    SetObjectRequest, SingleKeyRequest, SingleObjectRequest,
};
use tonic::{Request, Status};

use crate::node::{THINGS, TestNode, batch, entry, one, put, set};

#[derive(Default)]
struct Refusals(Vec<String>);

impl Refusals {
    fn add<T>(&mut self, what: &str, answer: Result<T, Status>) {
        let status = answer.err().unwrap_or_else(|| Status::ok("was not refused"));
        let outcome = status.metadata().get("odgm-outcome").map(|outcome| outcome.to_str().expect("ASCII"));
        let outcome = outcome.map_or(String::new(), |outcome| format!(" [{outcome}]"));
        self.0.push(format!("{what}: {:?}{outcome} {}", status.code(), status.message()));
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "most of them are the snapshot")]
async fn of_object_data() {
    let node = TestNode::start().await;
    let mut client = node.data();
    let mut refusals = Refusals::default();
    let class = |cls_id: &str| SingleObjectRequest { cls_id: cls_id.into(), ..one("o") };
    let partition = |partition_id| SingleObjectRequest { partition_id, ..one("o") };
    refusals.add("get, no such class", client.get(class("nothing")).await);
    refusals.add("get, class of 20 KiB", client.get(class(&"c".repeat(20 << 10))).await);
    let elsewhere = SetKeyRequest { cls_id: "c".repeat(20 << 10), ..put("o", "k", "v") };
    refusals.add("set_value, class of 20 KiB", client.set_value(elsewhere).await);
    refusals.add("get, class of 128 bytes", client.get(class(&"c".repeat(128))).await);
    refusals.add("get, no such partition", client.get(partition(2)).await);
    refusals.add("get, huge partition", client.get(partition(70_000)).await);
    refusals.add("get, no such object", client.get(one("o")).await);
    let nameless = SingleObjectRequest { object_id_str: None, ..one("o") };
    refusals.add("get, no id", client.get(nameless.clone()).await);
    refusals.add("get, bad id", client.get(one("a/b")).await);
    refusals.add("get, 161 bytes", client.get(one(&"x".repeat(161))).await);
    let keyless = SingleKeyRequest { key_str: None, ..entry("o", "k") };
    refusals.add("get_value, no key", client.get_value(keyless.clone()).await);
    refusals.add("delete, no id", client.delete(nameless).await);
    refusals.add("delete_value, no key", client.delete_value(keyless).await);
    refusals.add("set, no object", client.set(SetObjectRequest { object: None, ..set("o", &[]) }).await);
    refusals.add(
        "set, negative partition",
        client.set(SetObjectRequest { partition_id: -1, ..set("o", &[]) }).await,
    );
    refusals.add("set, two spellings of a key", client.set(set("o", &[("a", "1"), ("A", "2")])).await);
    refusals.add("set, bad key", client.set(set("o", &[("a b", "1")])).await);
    refusals.add("merge, no object", client.merge(SetObjectRequest { object: None, ..set("o", &[]) }).await);
    let document = oprc::ValData { data: "no document".into(), r#type: 1 };
    let mut crdt = set("o", &[]);
    crdt.object.as_mut().expect("an object").entries_str.insert("doc".into(), document);
    refusals.add("merge, no document", client.merge(crdt).await);
    refusals.add(
        "set_value, no value",
        client.set_value(SetKeyRequest { value: None, ..put("o", "k", "") }).await,
    );
    let typed = oprc::ValData { data: "v".into(), r#type: 9 };
    let typed = SetKeyRequest { value: Some(typed), ..put("o", "k", "") };
    refusals.add("set_value, no such type", client.set_value(typed).await);
    let huge = "x".repeat(5 << 20);
    refusals.add("set_value, 5 MiB", client.set_value(put("o", "k", &huge)).await);
    refusals.add("get, 5 MiB", client.get(one(&huge)).await);
    refusals.add(
        "batch, put and deleted",
        client.batch_set_values(batch("o", &[("k", "v")], &["K"], None)).await,
    );
    refusals.add("batch, other version", client.batch_set_values(batch("o", &[], &[], Some(3))).await);
    let garbage = ListObjectsRequest {
        cls_id: THINGS.into(),
        cursor: Some(vec![1, 2, 3].into()),
        ..Default::default()
    };
    refusals.add("list_objects, garbage cursor", client.list_objects(garbage).await);
    let prefix = ListValuesRequest {
        cls_id: THINGS.into(),
        object_id_str: Some("o".into()),
        key_prefix: Some("a b".into()),
        ..Default::default()
    };
    refusals.add("list_values, bad prefix", client.list_values(prefix).await);
    let mut consistency = Request::new(one("o"));
    consistency.metadata_mut().insert("odgm-consistency", "strong".parse().expect("a value"));
    refusals.add("get, no such consistency", client.get(consistency).await);
    insta::assert_snapshot!(refusals.0.join("\n"), @r#"
    get, no such class: NotFound there is no collection "nothing"
    get, class of 20 KiB: NotFound there is no collection "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc...": a name has at most 128 bytes
    set_value, class of 20 KiB: NotFound [not-applied] there is no collection "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc...": a name has at most 128 bytes
    get, class of 128 bytes: NotFound there is no collection "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
    get, no such partition: NotFound collection "things" has 2 partitions, 0 to 1: there is no partition 2
    get, huge partition: InvalidArgument invalid partition_id 70000: expected 0 to 65535
    get, no such object: NotFound object "o" not found
    get, no id: InvalidArgument object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    get, bad id: InvalidArgument invalid object_id "a/b": '/' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    get, 161 bytes: InvalidArgument invalid object_id of 161 bytes: expected 1 to 160 bytes of a-z 0-9 . _ : -
    get_value, no key: InvalidArgument key required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    delete, no id: InvalidArgument [not-applied] object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    delete_value, no key: InvalidArgument [not-applied] key required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    set, no object: InvalidArgument [not-applied] object required: expected an ObjData, which may be empty
    set, negative partition: InvalidArgument [not-applied] invalid partition_id -1: expected 0 to 65535
    set, two spellings of a key: InvalidArgument [not-applied] key "a" is given twice: keys are lowered, so expected keys that differ in more than case
    set, bad key: InvalidArgument [not-applied] invalid key "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    merge, no object: InvalidArgument [not-applied] object required: expected an ObjData, which may be empty
    merge, no document: InvalidArgument [not-applied] the value of entry "doc" is not an automerge document: the value given cannot be read
    set_value, no value: InvalidArgument [not-applied] value required: expected a ValData
    set_value, no such type: InvalidArgument [not-applied] value of type 9: expected 0 (BYTE) or 1 (CRDT_MAP)
    set_value, 5 MiB: InvalidArgument [not-applied] the request message is too large: expected at most 4194304 bytes (ODGM_MAX_REQUEST_BYTES)
    get, 5 MiB: InvalidArgument the request message is too large: expected at most 4194304 bytes (ODGM_MAX_REQUEST_BYTES)
    batch, put and deleted: InvalidArgument [not-applied] key "k" is both put and deleted: expected each key in one of values and delete_keys
    batch, other version: Aborted [not-applied] version mismatch: expected 3, got 0
    list_objects, garbage cursor: InvalidArgument invalid cursor: expected next_cursor of a page of the same class, partition, object and prefix
    list_values, bad prefix: InvalidArgument invalid prefix "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    get, no such consistency: InvalidArgument odgm-consistency "strong": expected linearizable, lease or local
    "#);
    client.set_value(put("o", "k", "v")).await.expect("the node serves on");
}

#[tokio::test]
async fn of_functions() {
    let node = TestNode::start().await;
    let mut client = OprcFunctionClient::new(node.channel.clone());
    let mut refusals = Refusals::default();
    let call =
        |cls_id: &str| InvocationRequest { cls_id: cls_id.into(), fn_id: "f".into(), ..Default::default() };
    refusals.add("invoke_fn, no such class", client.invoke_fn(call("nothing")).await);
    refusals.add("invoke_fn, no route", client.invoke_fn(call(THINGS)).await);
    let on = |partition_id| ObjectInvocationRequest {
        partition_id,
        cls_id: THINGS.into(),
        fn_id: "f".into(),
        object_id_str: Some("o".into()),
        ..Default::default()
    };
    refusals.add("invoke_obj, no such partition", client.invoke_obj(on(9)).await);
    refusals.add("invoke_obj, no route", client.invoke_obj(on(0)).await);

    let routes = oprc::InvocationRoute {
        fn_routes: [("f".to_owned(), oprc::FuncInvokeRoute::default())].into(),
        disabled_fn: Vec::new(),
    };
    let collection = oprc::CreateCollectionRequest {
        name: "routed".into(),
        invocations: Some(routes),
        ..Default::default()
    };
    let create = CreateCollectionRequest { collection: Some(collection) };
    node.admin().create_collection(create).await.expect("a collection with a route");
    refusals.add("invoke_fn, with a route", client.invoke_fn(call("routed")).await);
    insta::assert_snapshot!(refusals.0.join("\n"), @r#"
    invoke_fn, no such class: NotFound [not-applied] there is no collection "nothing"
    invoke_fn, no route: NotFound [not-applied] class "things" has no function "f" to call: expected one that invocations.fn_routes of its collection names
    invoke_obj, no such partition: NotFound [not-applied] collection "things" has 2 partitions, 0 to 1: there is no partition 9
    invoke_obj, no route: NotFound [not-applied] class "things" has no function "f" to call: expected one that invocations.fn_routes of its collection names
    invoke_fn, with a route: FailedPrecondition [not-applied] function "f" of class "routed" cannot be called: its route has no url, and this node does not speak Zenoh; expected either
    "#);
}

#[tokio::test]
async fn of_streams() {
    let node = TestNode::start().await;
    let mut client = node.streams();
    let mut refusals = Refusals::default();
    let subscribe = || SubscribeRequest { cls_id: THINGS.into(), partitions: vec![0], ..Default::default() };
    let from = |from| SubscribeRequest { from: Some(from), ..subscribe() };
    let cursors =
        |cursor: Vec<u8>| subscribe_request::From::Cursors(Cursors { cursors: vec![cursor.into()] });
    let other = SubscribeRequest { partitions: vec![1], ..subscribe() };
    let mut other = client.subscribe(other).await.expect("a subscription").into_inner();
    let other = other.message().await.expect("a response").expect("the first").cursor;
    refusals
        .add("no such class", client.subscribe(SubscribeRequest { cls_id: "x".into(), ..subscribe() }).await);
    refusals.add("garbage cursor", client.subscribe(from(cursors(vec![7; 20]))).await);
    refusals.add("another partition's cursor", client.subscribe(from(cursors(other.to_vec()))).await);
    let two = SubscribeRequest { partitions: Vec::new(), ..from(subscribe_request::From::Offset(1)) };
    refusals.add("an offset in two partitions", client.subscribe(two).await);
    refusals.add("beyond the head", client.subscribe(from(subscribe_request::From::Offset(99))).await);
    refusals
        .add("fast heartbeat", client.subscribe(SubscribeRequest { heartbeat_ms: 5, ..subscribe() }).await);
    let kinds = Some(Filter { kinds: vec![9], ..Default::default() });
    refusals.add("no such kind", client.subscribe(SubscribeRequest { filter: kinds, ..subscribe() }).await);

    let at = |at| GetAtRequest { cls_id: THINGS.into(), object_id: "o".into(), at, ..Default::default() };
    refusals.add("get_at, nowhere", client.get_at(at(None)).await);
    refusals.add("get_at, beyond", client.get_at(at(Some(get_at_request::At::Offset(99)))).await);
    refusals.add("get_at, not there", client.get_at(at(Some(get_at_request::At::Offset(1)))).await);
    let history = HistoryRequest { cls_id: THINGS.into(), ..Default::default() };
    refusals.add("history, no id", client.history(history).await);
    let cursor = |name: &str, offset| MoveCursorRequest {
        cls_id: THINGS.into(),
        name: name.into(),
        offset,
        ..Default::default()
    };
    refusals.add("move_cursor, bad name", client.move_cursor(cursor("a b", 0)).await);
    refusals.add("move_cursor, beyond", client.move_cursor(cursor("c", 99)).await);
    insta::assert_snapshot!(refusals.0.join("\n"), @r#"
    no such class: NotFound there is no collection "x"
    garbage cursor: InvalidArgument invalid cursor: expected a cursor as received in a SubscribeResponse
    another partition's cursor: InvalidArgument a cursor is of group 2, which is none of the partitions asked for: expected cursors of these partitions
    an offset in two partitions: InvalidArgument an offset is a place in one partition, and 2 are asked for: expected a single partition, or earliest, latest, time_ms, cursors or named_cursor
    beyond the head: OutOfRange offset 99 is beyond the head 2 of the partition: this cursor is of another log
    fast heartbeat: InvalidArgument heartbeat_ms 5: expected at least 100, or 0 for 1000
    no such kind: InvalidArgument filter.kinds has 9: expected 1 (created), 2 (updated), 3 (deleted), 4 (completed) or 5 (failed)
    get_at, nowhere: InvalidArgument at required: expected offset or time_ms
    get_at, beyond: OutOfRange offset 99 is not applied yet: the view is at 2
    get_at, not there: NotFound object "o" did not exist at offset 1 of 2 records
    history, no id: InvalidArgument object_id required: expected 1 to 160 bytes of a-z 0-9 . _ : -
    move_cursor, bad name: InvalidArgument [not-applied] invalid cursor name "a b": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    move_cursor, beyond: InvalidArgument [not-applied] offset 99 is beyond the head 2: expected an offset that has been seen
    "#);
}

#[tokio::test]
async fn of_administration() {
    let node = TestNode::start().await;
    let mut client = node.admin();
    let mut refusals = Refusals::default();
    let create =
        |definition: oprc::CreateCollectionRequest| CreateCollectionRequest { collection: Some(definition) };
    let named = |name: &str| oprc::CreateCollectionRequest { name: name.into(), ..Default::default() };
    refusals
        .add("create, nothing", client.create_collection(CreateCollectionRequest { collection: None }).await);
    refusals.add("create, no name", client.create_collection(create(named(""))).await);
    refusals.add("create, again", client.create_collection(create(named(THINGS))).await);
    let mst = oprc::CreateCollectionRequest { shard_type: "mst".into(), ..named("replicated") };
    refusals.add("create, mst", client.create_collection(create(mst)).await);
    let many = oprc::CreateCollectionRequest { partition_count: 2_000, ..named("many") };
    refusals.add("create, many", client.create_collection(create(many)).await);
    let name = "nothing".to_owned();
    refusals
        .add("describe", client.describe_collection(DescribeCollectionRequest { name: name.clone() }).await);
    let update = |collection: &str, key: &str, value: &str| UpdateCollectionRequest {
        name: collection.into(),
        options: [(key.to_owned(), value.to_owned())].into(),
        invocations: None,
    };
    refusals.add("update", client.update_collection(update(&name, "retention", "1d")).await);
    refusals.add("update, fixed", client.update_collection(update(THINGS, "storage", "memory")).await);
    refusals.add("update, unknown", client.update_collection(update(THINGS, "colour", "red")).await);
    refusals.add("update, wrong", client.update_collection(update(THINGS, "retention", "red")).await);
    refusals.add("delete", client.delete_collection(DeleteCollectionRequest { name: name.clone() }).await);
    let verify = VerifyRequest { cls_id: name.clone(), ..Default::default() };
    refusals.add("verify", client.verify(verify).await);
    let dump = DumpLogRequest { cls_id: THINGS.into(), partition_id: 7, ..Default::default() };
    refusals.add("dump_log", client.dump_log(dump).await);
    insta::assert_snapshot!(refusals.0.join("\n"), @r#"
    create, nothing: InvalidArgument [not-applied] collection required: expected a definition with at least a name
    create, no name: InvalidArgument [not-applied] name: ""; expected 1 to 128 of A-Z a-z 0-9 . _ -
    create, again: AlreadyExists [not-applied] there is a collection "things" already
    create, mst: InvalidArgument [not-applied] shard_type: this build does not replicate by mst yet; expected raft, basic, none or single
    create, many: ResourceExhausted [not-applied] 2000 more partitions beside the 2 of this node; it takes 1024 in all
    describe: NotFound there is no collection "nothing"
    update: NotFound [not-applied] there is no collection "nothing"
    update, fixed: InvalidArgument [not-applied] options.storage: it is fixed when a collection is created; expected another option, or a new collection
    update, unknown: InvalidArgument [not-applied] options.colour: no such option; expected one of batch_size, consistency, dead_letter_age_ms, dead_letter_max_bytes, enable_event_logging, enable_metrics, events_enabled, invoke_only_primary, invoke_timeout_ms, max_concurrent_triggers, max_trigger_depth, mst_gc_grace, mst_sync_interval, offload_max_pool_size, outbox_max_bytes, outbox_max_rows, payload_format, pool_max_idle_lifetime, pool_max_lifetime, raft_init_leader_only, raft_net_leader_only, result_max_bytes, result_retention_ms, retention, set_mode, storage, timeout_ms, trigger_backoff_max_ms, trigger_backoff_ms, trigger_max_attempts, trigger_timeout_ms
    update, wrong: InvalidArgument [not-applied] options.retention: "red"; expected all, an age (30s, 15m, 12h, 7d), a size (512MiB, 10GiB), or age,size
    delete: NotFound [not-applied] there is no collection "nothing"
    verify: NotFound there is no collection "nothing"
    dump_log: NotFound collection "things" has 2 partitions, 0 to 1: there is no partition 7
    "#);
}
