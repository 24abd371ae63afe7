//! Functions over Zenoh: those that nodes call, and those that are queryables themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use odgm_proto::odgm::v1::UpdateCollectionRequest;
use odgm_proto::oprc::{
    CreateCollectionRequest, FuncInvokeRoute, InvocationRequest, InvocationResponse, InvocationRoute,
    ObjectInvocationRequest, ResponseStatus, TriggerPayload,
};
use odgm_tests::Result;
use odgm_tests::harness::{Answer, Attached, Functions, Gate, Home, Node, target};
use prost::Message as _;
use tonic::Code;
use zenoh::Wait as _;
use zenoh::query::Queryable;

use crate::Story;
use crate::client::{Client, With, attachment, free_ports, until};
use crate::three_nodes::{Homes, leader};

const ROOT: &str = "oprc/things/0";

/// Where no function is.
const NOWHERE: &str = "http://127.0.0.1:9";

/// A node that speaks Zenoh, and the port on which it does.
fn home() -> Result<(Home, u16)> {
    let [port] = free_ports()?;
    let home = Home::new()?
        .with("ODGM_ZENOH_HOST", "127.0.0.1")
        .with("OPRC_ZENOH_PORT", &port.to_string())
        .with("ODGM_MAX_REQUEST_BYTES", "65536");
    Ok((home, port))
}

/// A function at a URL or, without one, somewhere in Zenoh.
fn route(url: &str, stateless: bool) -> FuncInvokeRoute {
    FuncInvokeRoute { url: url.to_owned(), stateless, ..FuncInvokeRoute::default() }
}

fn routes(functions: &[(&str, FuncInvokeRoute)]) -> InvocationRoute {
    let fn_routes = functions.iter().map(|(name, route)| ((*name).to_owned(), route.clone())).collect();
    InvocationRoute { fn_routes, disabled_fn: Vec::new() }
}

fn things(functions: &[(&str, FuncInvokeRoute)]) -> CreateCollectionRequest {
    CreateCollectionRequest {
        name: "things".to_owned(),
        partition_count: 1,
        invocations: Some(routes(functions)),
        ..CreateCollectionRequest::default()
    }
}

/// A client that has heard of the collection.
async fn connected(node: &Node<'_>, port: u16, functions: &[(&str, FuncInvokeRoute)]) -> Result<Client> {
    node.connection().create(things(functions)).await?;
    let client = Client::peer(&[port]).await?;
    client.reaches(&format!("{ROOT}/objects/nobody")).await?;
    Ok(client)
}

fn request(payload: &str) -> With {
    let request = InvocationRequest {
        payload: payload.to_owned().into(),
        options: [("color".to_owned(), "red".to_owned())].into(),
        ..InvocationRequest::default()
    };
    With { payload: Some(request.encode_to_vec()), ..With::default() }
}

fn on_object(payload: &str) -> With {
    // The key says which object and which function it is.
    let request = ObjectInvocationRequest {
        payload: payload.to_owned().into(),
        object_id_str: Some("other".to_owned()),
        fn_id: "other".to_owned(),
        ..ObjectInvocationRequest::default()
    };
    With { payload: Some(request.encode_to_vec()), ..With::default() }
}

async fn response(client: &Client, key: &str, with: With) -> Result<InvocationResponse> {
    let (_, payload, _) = client.one(&format!("{ROOT}/{key}"), with).await??;
    Ok(InvocationResponse::decode(payload.as_slice())?)
}

/// A response in a few words.
fn told(response: &InvocationResponse) -> String {
    let payload = response.payload.clone().unwrap_or_default();
    format!("{:?} {}", response.status(), String::from_utf8_lossy(&payload))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_answered_whatever_comes_of_it() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    let url = functions.url();
    let all = [
        ("echo", route(&url, false)),
        ("fail", route(&url, false)),
        ("broken", route(&url, false)),
        ("echo-class", route(&url, true)),
        ("lost", route(NOWHERE, true)),
        ("odd", route("ftp://somewhere", true)),
    ];
    let client = connected(&node, port, &all).await?;
    client.reaches(&format!("{ROOT}/invokes/odd")).await?;

    let mut texts = Vec::new();
    let garbage = With { payload: Some(vec![0xff]), ..With::default() };
    let huge = on_object(&"x".repeat(65_536));
    for (key, with) in [
        ("objects/a/invokes/echo", on_object("hello")),
        ("objects/007/invokes/echo", on_object("a number")),
        ("invokes/echo-class", request("class")),
        ("objects/a/invokes/fail", on_object("hello")),
        ("objects/a/invokes/broken", on_object("hello")),
        ("invokes/lost", request("hello")),
        ("invokes/odd", request("hello")),
        ("objects/a/invokes/echo", With::default()),
        ("objects/a/invokes/echo", garbage),
        ("objects/a/invokes/echo", huge),
        ("objects/a+b/invokes/echo", on_object("hello")),
    ] {
        texts.push(format!("{key}: {}", told(&response(&client, key, with).await?)));
    }
    insta::assert_snapshot!(texts.join("\n"), @r#"
    objects/a/invokes/echo: Okay hello
    objects/007/invokes/echo: Okay a number
    invokes/echo-class: Okay class
    objects/a/invokes/fail: AppError fail refuses whatever it is asked
    objects/a/invokes/broken: AppError broken as always
    invokes/lost: SystemError the function was not reached: http://127.0.0.1:9: Connection refused (os error 111)
    invokes/odd: SystemError function "odd" of class "things" cannot be called: "ftp://somewhere" is no endpoint; expected http://host:port
    objects/a/invokes/echo: InvalidRequest payload required: expected an ObjectInvocationRequest
    objects/a/invokes/echo: InvalidRequest invalid payload: expected an ObjectInvocationRequest: failed to decode Protobuf message: invalid varint
    objects/a/invokes/echo: InvalidRequest the payload has 65554 bytes: expected at most 65536 (ODGM_MAX_REQUEST_BYTES)
    objects/a+b/invokes/echo: InvalidRequest invalid object_id "a+b": '+' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    "#);

    let calls = functions.calls_of("echo");
    let objects: Vec<_> = calls.iter().map(|call| call.object.clone().unwrap_or_default()).collect();
    assert_eq!(objects, ["a", "7"], "what is wrong is not called");
    let by_itself = functions.calls_of("echo-class");
    assert_eq!(by_itself.len(), 1);
    assert_eq!((by_itself[0].object.as_deref(), by_itself[0].options["color"].as_str()), (None, "red"));
    // Only at the key of its kind is a function called.
    assert_eq!(client.ask(&format!("{ROOT}/invokes/echo"), request("x")).await?, []);
    assert_eq!(client.ask(&format!("{ROOT}/objects/a/invokes/echo-class"), on_object("x")).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grpc_has_in_metadata_is_attached_to_calls_and_answers() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    let client = connected(&node, port, &[("echo", route(&functions.url(), false))]).await?;
    let key = format!("{ROOT}/objects/a/invokes/echo");
    client.reaches(&key).await?;
    let beside = attachment(&[("odgm-depth", "3"), ("odgm-request-id", "order-1")]);
    let asked = || With { attachment: Some(beside.clone()), ..on_object("hello") };
    let (_, first, told) = client.one(&key, asked()).await??;
    let (_, again, told_again) = client.one(&key, asked()).await??;
    assert_eq!((first, told.clone()), (again, told_again), "the same answer again");
    assert!(String::from_utf8_lossy(&told).starts_with("\u{1}\u{b}odgm-offset"), "{told:?}");
    let calls = functions.calls_of("echo");
    assert_eq!(calls.len(), 1, "it is called once under one id");
    assert_eq!((calls[0].depth(), calls[0].key()), (3, "order-1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_put_is_made_once_and_its_result_can_be_asked_for() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    let url = functions.url();
    let all = [("echo", route(&url, false)), ("echo-class", route(&url, true)), ("fail", route(&url, true))];
    let client = connected(&node, port, &all).await?;
    functions.hold("echo", Gate::BeforeAnswer);
    let put = async |key: &str, with: With| -> Story {
        let put = client.0.put(format!("{ROOT}/{key}"), with.payload.unwrap_or_default());
        put.attachment(with.attachment).await
    };
    for _ in 0..2 {
        put("objects/a/invokes/echo/async/one", on_object("hello")).await?;
    }
    put("invokes/echo-class/async/two", request("class")).await?;
    put("invokes/fail/async/three", request("hello")).await?;
    // Nobody is told that these come to nothing.
    put("invokes/nothing/async/four", request("hello")).await?;
    put("invokes/fail/async/five", With { payload: Some(vec![0xff]), ..With::default() }).await?;

    functions.held(1).await?;
    let one = "objects/a/results/echo/async/one";
    let refused = async |key: &str| client.refused(&format!("{ROOT}/{key}"), With::default()).await;
    assert_eq!(refused(one).await?, "pending");
    for absent in ["results/nothing/async/four", "results/echo/async/one", "objects/b/results/echo/async/one"]
    {
        assert_eq!(refused(absent).await?, "not found", "{absent}");
    }
    functions.release("echo");
    let result = async |key: &str| -> Result<String> {
        until(&format!("the result {key}"), async || match response(&client, key, With::default()).await {
            Ok(found) => Ok(Some(format!("{} of {}", told(&found), found.invocation_id))),
            Err(error) if error.to_string() == "pending" => Ok(None),
            Err(error) => Err(error),
        })
        .await
    };
    assert_eq!(result(one).await?, "Okay hello of one");
    assert_eq!(result("results/echo-class/async/two").await?, "Okay class of two");
    assert_eq!(
        result("results/fail/async/three").await?,
        "AppError fail refuses whatever it is asked of three"
    );
    assert_eq!(functions.calls_of("echo").len(), 1, "one id is one call");
    until("the losses to be told of", async || {
        let said = node.output();
        Ok(said.contains("calls that were PUT over Zenoh were not accepted").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_a_result_too() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let mut collection = things(&[("lost", route(NOWHERE, true))]);
    collection.options = [("trigger_max_attempts".to_owned(), "1".to_owned())].into();
    node.connection().create(collection).await?;
    let client = Client::peer(&[port]).await?;
    client.reaches(&format!("{ROOT}/objects/nobody")).await?;
    let call =
        client.0.put(format!("{ROOT}/invokes/lost/async/one"), request("hello").payload.unwrap_or_default());
    call.await?;
    let key = "results/lost/async/one";
    let given_up =
        until("the end of the call", async || Ok(response(&client, key, With::default()).await.ok())).await?;
    assert_eq!(given_up.status(), ResponseStatus::SystemError);
    assert!(!given_up.payload.unwrap_or_default().is_empty(), "it says why");
    Ok(())
}

/// What a function was called with: its key, request and attachment.
type Called = (String, ObjectInvocationRequest, Vec<u8>);

/// What a function was called with so far.
type Calls = Arc<Mutex<Vec<Called>>>;

/// A function that is a queryable of a client, and answers with the payload twice. What it was called with is kept.
fn twice(client: &Client, key: &str) -> Result<(Queryable<()>, Calls)> {
    let calls = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&calls);
    let answer = move |query: zenoh::query::Query| {
        let payload = query.payload().map(|payload| payload.to_bytes().into_owned()).unwrap_or_default();
        let beside = query.attachment().map(|bytes| bytes.to_bytes().into_owned()).unwrap_or_default();
        let request = ObjectInvocationRequest::decode(payload.as_slice()).unwrap_or_default();
        let response = InvocationResponse {
            payload: Some([request.payload.as_ref(), request.payload.as_ref()].concat().into()),
            status: ResponseStatus::Okay.into(),
            ..InvocationResponse::default()
        };
        let key = query.key_expr().clone();
        kept.lock().unwrap_or_else(PoisonError::into_inner).push((key.to_string(), request, beside));
        // A reply may wait, which Zenoh's thread must not.
        std::thread::spawn(move || query.reply(key, response.encode_to_vec()).wait());
    };
    let queryable = client.0.declare_queryable(key.to_owned()).callback(answer).wait()?;
    Ok((queryable, calls))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_without_a_url_is_asked_where_it_answers() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let client =
        connected(&node, port, &[("twice", route("", false)), ("twice-class", route("", true))]).await?;
    let things = node.objects("things", 0);
    let absent = things.invoke(Some("a"), "twice", "x").await.expect_err("nobody is there");
    assert_eq!(absent.code(), Code::Unavailable);
    assert!(absent.message().contains("nobody answers at oprc/things/0/objects/a/invokes/twice"), "{absent}");

    let (_on_objects, calls) = twice(&client, "oprc/things/*/objects/*/invokes/twice")?;
    let (_of_class, of_class) = twice(&client, "oprc/things/*/invokes/twice-class")?;
    let called =
        until("the function to be heard of", async || match things.invoke(Some("a"), "twice", "x").await {
            Ok(answer) => Ok(Some(told(&answer))),
            Err(status) if status.code() == Code::Unavailable => Ok(None),
            Err(status) => Err(status.into()),
        });
    assert_eq!(called.await?, "Okay xx");
    until("the other one", async || Ok(things.invoke(None, "twice-class", "y").await.ok())).await?;
    let of_class = of_class.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(of_class.iter().all(|(key, ..)| key == "oprc/things/0/invokes/twice-class"), "{of_class:?}");

    // By a trigger, too; with all that travels with a call.
    let before = calls.lock().unwrap_or_else(PoisonError::into_inner).len();
    things.attach("a", Attached::none().on_write("k", target("things", 0, Some("b"), "twice"))).await?;
    things.set_value("a", "k", "v").await?;
    let calls = until("the trigger's call", async || {
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(calls.get(before).cloned())
    });
    let (key, request, beside) = calls.await?;
    assert_eq!(key, "oprc/things/0/objects/b/invokes/twice");
    let names: Vec<_> = request.options.keys().map(String::as_str).collect();
    assert_eq!(names, ["odgm-cause", "odgm-depth", "odgm-idempotency-key"]);
    let pairs: Vec<_> = request.options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(beside, attachment(&pairs));
    let payload: TriggerPayload = serde_json::from_slice(&request.payload)?;
    assert_eq!(payload.original_payload.as_deref(), Some(b"v".as_slice()));
    node.connection().settled(&["things"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_is_told_of_what_triggers_call() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    let client = connected(&node, port, &[("noop", route(&functions.url(), false))]).await?;
    let words = client.0.declare_subscriber("oprc/things/*/objects/*/async/**").await?;
    let things = node.objects("things", 0);
    things.attach("a", Attached::none().on_write("k", target("things", 0, Some("b"), "noop"))).await?;
    // A subscription takes a moment to be heard of, and nobody is told of what was before.
    let word = until("a word", async || {
        things.set_value("a", "k", "v").await?;
        words.recv_timeout(std::time::Duration::from_millis(200))
    })
    .await?;
    let (at, id) = word.key_expr().as_str().rsplit_once('/').ok_or("a key")?;
    assert_eq!(at, "oprc/things/0/objects/b/async/noop");
    let request = ObjectInvocationRequest::decode(word.payload().to_bytes().as_ref())?;
    assert_eq!(request.options["odgm-idempotency-key"].replace('/', "-"), id);
    let payload: TriggerPayload = serde_json::from_slice(&request.payload)?;
    assert_eq!(payload.event_info.and_then(|event| event.key).as_deref(), Some("k"));
    node.connection().settled(&["things"]).await?;
    assert!(functions.calls().iter().any(|call| call.key().replace('/', "-") == id), "it is called as well");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_come_and_go_with_the_routes_of_their_collection() -> Story {
    let (home, port) = home()?;
    let node = home.start().await?;
    let functions = Functions::start().await?;
    functions.answer("report", Answer::Text("here"));
    let url = functions.url();
    let client = connected(&node, port, &[("noop", route(&url, true))]).await?;
    let mut admin = node.connection().admin;
    let mut change = async |invocations: InvocationRoute| -> Story {
        let name = "things".to_owned();
        let request =
            UpdateCollectionRequest { name, options: BTreeMap::new(), invocations: Some(invocations) };
        admin.update_collection(request).await?;
        Ok(())
    };
    let key = format!("{ROOT}/invokes/report");
    let gone = async || {
        until("nobody to answer", async || Ok(client.ask(&key, request("")).await?.is_empty().then_some(())))
            .await
    };
    let both = routes(&[("noop", route(&url, true)), ("report", route(&url, true))]);
    change(both.clone()).await?;
    client.reaches(&key).await?;
    assert_eq!(told(&response(&client, "invokes/report", request("x")).await?), "Okay here");

    change(InvocationRoute { disabled_fn: vec!["report".to_owned()], ..both.clone() }).await?;
    gone().await?;
    change(both).await?;
    client.reaches(&key).await?;
    // From the class to its objects, and then somewhere else in Zenoh.
    change(routes(&[("report", route(&url, false))])).await?;
    client.reaches(&format!("{ROOT}/objects/a/invokes/report")).await?;
    gone().await?;
    change(routes(&[("report", route("", false))])).await?;
    until("nobody to answer", async || {
        let replies = client.ask(&format!("{ROOT}/objects/a/invokes/report"), on_object("x")).await?;
        Ok(replies.is_empty().then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_replicas_each_call_is_made_once() -> Story {
    const CALLS: usize = 20;
    let homes = Homes::new(&[])?;
    let nodes = homes.start().await?;
    let functions = Functions::start().await?;
    let url = functions.url();
    let collection = CreateCollectionRequest {
        name: "called".to_owned(),
        replica_count: 3,
        shard_type: "raft".to_owned(),
        ..things(&[("echo", route(&url, false)), ("noop", route(&url, true))])
    };
    nodes[0].connection().create(collection).await?;
    leader(&nodes, "called").await?;
    let mut clients = vec![Client::peer(&homes.ports).await?];
    for port in homes.ports {
        clients.push(Client::client(port).await?);
    }
    for client in &clients {
        for key in
            ["oprc/called/0/objects/x", "oprc/called/0/invokes/noop", "oprc/called/0/objects/a/invokes/echo"]
        {
            client.reaches(key).await?;
        }
    }
    for (at, client) in clients.iter().enumerate() {
        for everybody in [false, true] {
            let with = With { everybody, ..on_object(&format!("{at}-{everybody}")) };
            let (_, payload, _) = client.one("oprc/called/0/objects/a/invokes/echo", with).await??;
            let answer = InvocationResponse::decode(payload.as_slice())?;
            assert_eq!(told(&answer), format!("Okay {at}-{everybody}"));
        }
        for number in 0..CALLS {
            let key = format!("oprc/called/0/invokes/noop/async/{at}-{number}");
            client.0.put(key, request("x").payload.unwrap_or_default()).await?;
        }
    }
    for (at, client) in clients.iter().enumerate() {
        for number in 0..CALLS {
            let key = format!("oprc/called/0/results/noop/async/{at}-{number}");
            until(&format!("the result {at}-{number}"), async || {
                let replies = client.ask(&key, With::default()).await?;
                Ok(replies.iter().any(std::result::Result::is_ok).then_some(()))
            })
            .await?;
        }
    }
    // Who leads may have changed meanwhile: the next leader makes calls again whose outcome it does not know.
    let distinct = functions.distinct_of("noop");
    assert_eq!(distinct, clients.len() * CALLS, "each that was put is one call, whoever has heard of it");
    assert_eq!(functions.calls_of("echo").len(), 2 * clients.len(), "those who wait are answered by one");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_replicas_take_calls_each_answers_and_what_is_put_is_still_one_call() -> Story {
    let homes = Homes::new(&[])?;
    let nodes = homes.start().await?;
    let functions = Functions::start().await?;
    let url = functions.url();
    let collection = CreateCollectionRequest {
        name: "called".to_owned(),
        replica_count: 3,
        shard_type: "raft".to_owned(),
        options: [("invoke_only_primary".to_owned(), "false".to_owned())].into(),
        ..things(&[("echo", route(&url, false)), ("noop", route(&url, true))])
    };
    nodes[0].connection().create(collection).await?;
    leader(&nodes, "called").await?;
    let client = Client::peer(&homes.ports).await?;
    let key = "oprc/called/0/objects/a/invokes/echo";
    let replies = until("an answer of each replica", async || {
        let with = With { everybody: true, ..on_object("hello") };
        let replies = client.ask(key, with).await?;
        Ok((replies.len() == homes.ports.len()).then_some(replies))
    });
    for reply in replies.await? {
        let (_, payload, _) = reply?;
        assert_eq!(told(&InvocationResponse::decode(payload.as_slice())?), "Okay hello");
    }
    client.reaches("oprc/called/0/invokes/noop").await?;
    client.0.put("oprc/called/0/invokes/noop/async/one", request("x").payload.unwrap_or_default()).await?;
    until("the result", async || {
        let replies = client.ask("oprc/called/0/results/noop/async/one", With::default()).await?;
        Ok(replies.iter().any(std::result::Result::is_ok).then_some(()))
    })
    .await?;
    let noops = functions.calls_of("noop");
    let of_put: BTreeSet<_> =
        noops.iter().filter(|call| call.payload == "x").map(|call| call.key().to_owned()).collect();
    assert_eq!(of_put.len(), 1, "{noops:?}");
    Ok(())
}
