//! What happens to objects calls functions.

use std::collections::{BTreeMap, BTreeSet};

use odgm_proto::oprc::{
    DataTrigger, NumericTriggerPayload, ObjectEvent, SetKeyRequest, TriggerPayload, TriggerTarget, ValData,
};
use odgm_tests::harness::{Attached, Gate, Home, letter, target, until};
use prost::Message as _;

use super::{CLASS, create, functions, outcomes, outcomes_by_call, told_in_order};
use crate::Story;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_comes_changes_or_goes_calls_what_is_attached_to_that() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo", "echo-gone"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_create("k", target(CLASS, 0, Some("log"), "echo"))
        .on_update("k", target(CLASS, 0, Some("log"), "echo"))
        .on_delete("k", target(CLASS, 0, None, "echo-gone"));
    things.attach("a", attached).await?;

    things.set_value("a", "k", "1").await?;
    things.set_value("a", "k", "2").await?;
    things.set_value("a", "k", "2").await?;
    things.batch("a", &[("k", "3"), ("l", "3")], &[], None).await?;
    things.delete_value("a", "k").await?;
    things.delete_value("a", "k").await?;
    things.set("a", &[("k", "4")]).await?;
    things.merge("a", &[("l", "5")]).await?;
    // Nobody has asked about another object, or another entry.
    things.set_value("b", "k", "6").await?;
    things.delete("a").await?;
    // With the object, what was attached to it is gone.
    things.set_value("a", "k", "7").await?;

    node.connection().settled(&[CLASS]).await?;
    let calls = functions.calls();
    insta::assert_snapshot!(told_in_order(&calls)?, @r"
    create a.k=1 -> log echo, depth 1
    update a.k=2 -> log echo, depth 1
    update a.k=2 -> log echo, depth 1
    update a.k=3 -> log echo, depth 1
    delete a.k= -> - echo-gone, depth 1
    create a.k=4 -> log echo, depth 1
    delete a.k= -> - echo-gone, depth 1
    ");
    assert_eq!(functions.distinct(), calls.len(), "nothing failed, so nothing is called twice");
    let ended = outcomes_by_call(&things).await?;
    let keys: BTreeSet<_> = calls.iter().map(|call| call.key().to_owned()).collect();
    assert_eq!(ended.keys().cloned().collect::<BTreeSet<_>>(), keys, "each call stands once in the log");
    for call in &calls {
        assert!(!call.timeout.is_empty(), "a call says how long it is waited for: {call:?}");
        assert!(call.beside.contains_key("odgm-cause"), "a call says what caused it: {call:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_all_generations_attach_triggers_and_read_what_they_say() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[]).await?;
    let numeric = [("payload_format", "protobuf-numeric")];
    create(&node, "numeric", 1, &["echo"], &numeric, &functions).await?;
    create(&node, "protobuf", 1, &["echo"], &[("payload_format", "protobuf")], &functions).await?;
    // As the first generation does it: object 42, entry 5, and the same to be called.
    let called = |class: &str| TriggerTarget {
        cls_id: class.to_owned(),
        object_id: Some(43),
        fn_id: "echo".to_owned(),
        ..TriggerTarget::default()
    };
    for class in [CLASS, "numeric", "protobuf"] {
        let things = node.objects(class, 0);
        let trigger = DataTrigger { on_create: vec![called(class)], ..DataTrigger::default() };
        let event = ObjectEvent { data_trigger: [(5, trigger)].into(), ..ObjectEvent::default() };
        things.attach_event("42", event).await?;
        let put = SetKeyRequest {
            cls_id: class.to_owned(),
            object_id: 42,
            key: 5,
            value: Some(ValData { data: class.as_bytes().to_vec().into(), r#type: 0 }),
            ..SetKeyRequest::default()
        };
        things.connection.data.clone().set_value(put).await?;
        // It can be read by both.
        let event = things.attached("42").await?.ok_or("it has triggers")?;
        let (numbers, texts) = (event.data_trigger.get(&5), event.data_trigger_str.get("5"));
        assert_eq!((numbers, numbers.is_some()), (texts, true), "{event:?}");
    }
    let calls = functions.called("echo", 3).await?;
    let of = |class: &str| {
        let call = calls.iter().find(|call| call.class == class);
        call.ok_or_else(|| format!("{class} was to be called: {calls:?}"))
    };
    assert!(calls.iter().all(|call| call.object.as_deref() == Some("43")), "{calls:?}");

    let json: TriggerPayload = serde_json::from_slice(&of(CLASS)?.payload)?;
    let protobuf = TriggerPayload::decode(of("protobuf")?.payload.clone())?;
    for (trigger, class) in [(json, CLASS), (protobuf, "protobuf")] {
        assert_eq!(trigger.original_payload.as_deref(), Some(class.as_bytes()));
        let event = trigger.event_info.ok_or("it says why")?;
        assert_eq!((event.source_cls_id.as_str(), event.key.as_deref()), (class, Some("5")));
        assert_eq!(event.source_object_id_str.as_deref(), Some("42"));
    }
    let numbers = NumericTriggerPayload::decode(of("numeric")?.payload.clone())?;
    let event = numbers.event_info.ok_or("it says why")?;
    assert_eq!((event.source_object_id, event.key), (42, Some(5)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_end_call_others_until_the_triggers_are_cleared() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo", "fail", "count-done", "count-failed"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_complete("echo", target(CLASS, 0, Some("tally"), "count-done"))
        .on_error("fail", target(CLASS, 0, Some("tally"), "count-failed"));
    things.attach("a", attached.clone()).await?;
    assert_eq!(things.attached("a").await?, Some(attached.into()));

    assert_eq!(things.invoke(Some("a"), "echo", "hello").await?.payload.as_deref(), Some(&b"hello"[..]));
    things.invoke(Some("a"), "fail", "hello").await?;
    // Neither is about another object's functions, or about those of the class.
    things.invoke(Some("b"), "echo", "hello").await?;
    things.invoke(None, "echo", "hello").await?;
    node.connection().settled(&[CLASS]).await?;
    let called: Vec<_> = functions.calls().into_iter().filter(|call| call.action() == "count").collect();
    insta::assert_snapshot!(told_in_order(&called)?, @r"
    complete a.echo=hello -> tally count-done, depth 1
    error a.fail=fail refuses whatever it is asked -> tally count-failed, depth 1
    ");
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("2"));

    things.attach("a", Attached::none()).await?;
    assert_eq!(things.attached("a").await?, None);
    things.invoke(Some("a"), "echo", "hello").await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(things.value("tally", "count").await?.as_deref(), Some("2"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_are_in_any_partition_of_any_collection_and_outcomes_in_its_log() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 3, &["count"], &[]).await?;
    create(&node, "others", 2, &["count"], &[], &functions).await?;
    let places = [(CLASS, 0), (CLASS, 2), ("others", 0), ("others", 1)];
    let attached = places.iter().fold(Attached::none(), |attached, (class, partition)| {
        attached.on_write("k", target(class, *partition, Some("tally"), "count"))
    });
    let things = node.objects(CLASS, 0);
    // Its own object, too.
    things.attach("a", attached.on_write("k", target(CLASS, 0, Some("a"), "count"))).await?;
    let mut written = Vec::new();
    for value in ["1", "2", "3"] {
        written.push(things.set_value("a", "k", value).await?.offset);
    }
    node.connection().settled(&[CLASS, "others"]).await?;
    assert_eq!(things.value("a", "count").await?.as_deref(), Some("3"));
    for (class, partition) in places {
        let there = node.objects(class, partition);
        assert_eq!(there.value("tally", "count").await?.as_deref(), Some("3"), "{class}/{partition}");
        let ended = outcomes(&there).await?;
        let ended: Vec<_> = ended.iter().filter(|event| event.object_id == "tally").collect();
        let mut causes = Vec::new();
        for event in &ended {
            let cause = event.cause.as_ref().ok_or("an outcome has a cause")?;
            assert_eq!(cause.depth, 1, "{event:?}");
            causes.push(cause.parent.ok_or("an outcome has a parent")?.offset);
        }
        causes.sort_unstable();
        assert_eq!(causes, written, "{class}/{partition}: {ended:?}");
    }
    assert_eq!(node.connection().dead(CLASS).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_write_calls_a_thousand_functions_and_not_too_many_at_once() -> Story {
    const TARGETS: usize = 1_000;
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 2, &["noop"], &[("max_concurrent_triggers", "8")]).await?;
    let things = node.objects(CLASS, 0);
    let attached = (0..TARGETS).fold(Attached::none(), |attached, number| {
        let partition = u32::from(number % 2 == 1);
        attached.on_create("k", target(CLASS, partition, Some(&format!("o{number}")), "noop"))
    });
    things.attach("a", attached).await?;
    functions.hold("noop", Gate::BeforeAnswer);
    things.set_value("a", "k", "").await?;
    // Three quarters of the places are the most that one function has.
    functions.held(6).await?;
    node.connection().figure_where("odgm_calls_in_flight", |calls| calls >= 6.0).await?;
    functions.release("noop");
    node.connection().settled(&[CLASS]).await?;
    let objects: BTreeSet<_> = functions.calls().into_iter().filter_map(|call| call.object).collect();
    assert_eq!((objects.len(), functions.distinct()), (TARGETS, TARGETS));
    assert_eq!(functions.most_at_once(), 6);
    let ended = [outcomes_by_call(&things).await?, outcomes_by_call(&node.objects(CLASS, 1)).await?];
    assert_eq!(ended.map(|ended| ended.len()), [TARGETS / 2, TARGETS / 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_batch_calls_for_each_of_its_keys_however_many_there_are() -> Story {
    // More than fit into a byte.
    const KEYS: usize = 300;
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let keys: Vec<_> = (0..KEYS).map(|number| format!("k{number}")).collect();
    let object = |key: &str| key.replace('k', "o");
    let attached = keys.iter().fold(Attached::none(), |attached, key| {
        attached.on_write(key, target(CLASS, 0, Some(&object(key)), "echo"))
    });
    things.attach("a", attached).await?;
    let puts: Vec<_> = keys.iter().map(|key| (key.as_str(), key.as_str())).collect();
    for _ in 0..2 {
        things.batch("a", &puts, &[], None).await?;
    }
    node.connection().settled(&[CLASS]).await?;
    let mut calls = BTreeMap::<_, Vec<_>>::new();
    for call in functions.calls() {
        calls.entry(call.object.clone().unwrap_or_default()).or_default().push(call.subject());
    }
    let expected = keys.iter().map(|key| (object(key), vec![key.clone().into(); 2]));
    assert_eq!(calls, expected.collect());
    assert_eq!(functions.distinct(), 2 * KEYS);
    assert_eq!(outcomes_by_call(&things).await?.len(), 2 * KEYS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_of_the_calls_of_those_collections_that_want_it() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let silent = [("enable_event_logging", "false"), ("trigger_max_attempts", "1")];
    let functions = functions(&node, 1, &["echo", "broken"], &silent).await?;
    let told = [("enable_event_logging", "true"), ("trigger_max_attempts", "1")];
    create(&node, "told", 1, &["echo", "broken"], &told, &functions).await?;
    for class in [CLASS, "told"] {
        let things = node.objects(class, 0);
        let attached = Attached::none()
            .on_write("k", target(class, 0, None, "echo"))
            .on_write("k", target(class, 0, None, "broken"));
        things.attach("a", attached).await?;
        things.set_value("a", "k", "").await?;
        node.connection().settled(&[class]).await?;
    }
    let of = |class: &str| {
        let target = format!("{class}/0/");
        let is_told = |line: &&str| line.contains("a trigger's call") && line.contains(&target);
        node.output().lines().filter(is_told).count()
    };
    let waiting = || format!("two lines of the log:\n{}", node.output());
    until(waiting, async || Ok((of("told") == 2).then_some(()))).await?;
    assert_eq!(of(CLASS), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_called_is_a_dead_letter_that_says_why_and_can_be_redriven() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_create("k", target("nowhere", 0, Some("b"), "echo"))
        .on_create("k", target(CLASS, 99, Some("b"), "echo"))
        .on_create("k", target(CLASS, 0, Some("b"), "nothing"))
        .on_create("k", target(CLASS, 0, Some("b"), "echo"));
    things.attach("a", attached).await?;
    things.set_value("a", "k", "hello").await?;

    let dead = node.connection().died(CLASS, 3).await?;
    insta::assert_snapshot!(dead.iter().map(letter).collect::<Vec<_>>().join("\n"), @r#"
    a.k created -> nowhere/0/b echo, depth 1, attempts 0: there is no class "nowhere": expected the name of a collection
    a.k created -> things/99/b echo, depth 1, attempts 0: class "things" has 1 partitions, 0 to 0: there is no partition 99
    a.k created -> things/0/b nothing, depth 1, attempts 0: class "things" has no function "nothing" to call: expected one that invocations.fn_routes of its collection names
    "#);
    node.connection().settled(&[CLASS]).await?;
    let called: Vec<_> = functions.calls().iter().map(|call| call.partition).collect();
    assert_eq!(called, [0], "the one that exists was called");

    // A dead letter holds what it was about, and says what it was because of.
    let id = dead[0].id.ok_or("a letter has an id")?;
    let whole = things.dead_letter(&id).await?;
    assert_eq!(whole.payload.as_ref(), b"hello");
    let causes: Vec<_> = whole.causes.iter().map(|cause| cause.operation.as_str()).collect();
    assert_eq!(causes, ["set_values"]);

    create(&node, "nowhere", 1, &["echo"], &[], &functions).await?;
    assert_eq!(things.redrive(&[id]).await?, 1);
    let waiting = || "the call to be made".to_owned();
    let called =
        until(waiting, async || Ok(functions.calls().into_iter().find(|call| call.class == "nowhere")));
    let called = called.await?;
    assert_eq!((called.object.as_deref(), called.subject()), (Some("b"), "hello".into()));
    node.connection().settled(&[CLASS, "nowhere"]).await?;
    assert_eq!(outcomes(&node.objects("nowhere", 0)).await?.len(), 1);

    // What is redriven in vain is dead again; what is discarded is gone.
    assert_eq!(things.redrive(&[]).await?, 2);
    node.connection().settled(&[CLASS]).await?;
    let dead = node.connection().died(CLASS, 2).await?;
    assert!(dead.iter().all(|letter| letter.is_delivery || letter.generation == 1), "{dead:?}");
    assert_eq!(things.discard(&[], "a story has ended").await?, 2);
    assert_eq!(node.connection().dead(CLASS).await?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_without_events_calls_nothing_and_keeps_its_triggers() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo"], &[("events_enabled", "false")]).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none().on_write("k", target(CLASS, 0, Some("b"), "echo"));
    things.attach("a", attached.clone()).await?;
    things.write_all("a", "k", 3).await?;
    let totals = node.connection().totals(CLASS).await?;
    assert!(totals.iter().all(|totals| totals.outbox_rows == 0), "{totals:?}");
    assert_eq!(things.attached("a").await?, Some(attached.into()));
    // A client calls as ever.
    things.invoke(Some("a"), "echo", "hello").await?;
    assert_eq!(functions.calls().len(), 1);
    Ok(())
}
