//! What the `odgm` command shows of calls, and does with them.

use odgm_tests::harness::{Answer, Attached, Gate, Home, Node, target};
use serde_json::{Deserializer, Value};
use tokio::task::block_in_place;
use tonic::Code;

use super::{CLASS, functions, outcomes};
use crate::Story;

/// What a command says in JSON: the documents one after the other.
fn documents(node: &Node<'_>, line: &str) -> odgm_tests::Result<Vec<Value>> {
    let said = block_in_place(|| node.odgm(&words(line))?.success());
    let said = said.map_err(|error| format!("odgm {line}: {error}"))?;
    Ok(Deserializer::from_str(&said).into_iter().collect::<Result<_, _>>()?)
}

/// The one document that a command says.
fn document(node: &Node<'_>, line: &str) -> odgm_tests::Result<Value> {
    let mut said = documents(node, line)?;
    match (said.pop(), said.len()) {
        (Some(said), 0) => Ok(said),
        _ => Err(format!("odgm {line} was to say one thing").into()),
    }
}

/// The exit code of a command that fails, and what it says.
fn failure(node: &Node<'_>, line: &str) -> odgm_tests::Result<(i32, String)> {
    block_in_place(|| node.odgm(&words(line))?.failure())
        .map_err(|error| format!("odgm {line}: {error}").into())
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// A trigger of `odgm trigger list --json` in one line.
fn trigger(row: &Value) -> String {
    let calls = &row["calls"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let (on, of, object, function) = (&row["on"], &row["of"], &calls["object"], &calls["function"]);
    format!("{} {} -> {} {}", text(on), text(of), text(object), text(function))
}

fn triggers(said: &Value) -> Vec<String> {
    said["triggers"].as_array().map(|rows| rows.iter().map(trigger).collect()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_are_set_added_listed_and_cleared() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo", "count"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let first = ["create k -> b echo"];
    let said = document(&node, "trigger set things/0/a --on-create k=things/0/b/echo --json")?;
    assert_eq!(triggers(&said), first);
    let both = ["create k -> b echo", "complete echo -> tally count"];
    let said = document(&node, "trigger add things/0/a --on-complete echo=things/0/tally/count --json")?;
    assert_eq!(triggers(&said), both);
    assert_eq!(triggers(&document(&node, "trigger list things/0/a --json")?), both);

    things.set_value("a", "k", "").await?;
    node.connection().settled(&[CLASS]).await?;
    things.invoke(Some("a"), "echo", "").await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!((functions.calls_of("echo").len(), functions.calls_of("count").len()), (2, 1));

    // What is set is in the place of all others.
    let other = ["delete k -> - echo"];
    let said = document(&node, "trigger set things/0/a --on-delete k=things/0/echo --yes --json")?;
    assert_eq!(triggers(&said), other);
    let (code, said) = failure(&node, "trigger clear things/0/a")?;
    assert_eq!(code, 2, "{said}");
    assert_eq!(triggers(&document(&node, "trigger list things/0/a --json")?), other);
    assert_eq!(triggers(&document(&node, "trigger clear things/0/a --yes --json")?), [""; 0]);
    things.delete_value("a", "k").await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(functions.calls().len(), 3, "what was cleared is not called");
    let (code, said) = failure(&node, "trigger list things/0/nobody")?;
    assert_eq!(code, 3, "{said}");
    let (code, said) = failure(&node, "trigger clear things/0/nobody --yes")?;
    assert_eq!(code, 3, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_and_what_came_of_it_is_shown() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["echo", "fail"], &[]).await?;
    let things = node.objects(CLASS, 0);
    let attached = Attached::none()
        .on_create("k", target(CLASS, 0, Some("b"), "echo"))
        .on_create("k", target(CLASS, 0, Some("b"), "fail"));
    things.attach("a", attached).await?;
    functions.answer("echo", Answer::Text("heard"));
    functions.hold("echo", Gate::BeforeEffect);
    let offset = things.set_value("a", "k", "hello").await?.offset;
    functions.held(1).await?;
    node.connection().figure_where("odgm_calls_failed_total", |failed| failed >= 1.0).await?;

    let said = document(&node, "calls things --json")?;
    let waiting = said["calls"].as_array().cloned().unwrap_or_default();
    assert_eq!(said["partitions"][0]["outbox_rows"], 1, "{said}");
    assert_eq!(waiting.len(), 1, "{said}");
    assert_eq!((&waiting[0]["offset"], &waiting[0]["index"]), (&offset.into(), &0.into()), "{said}");
    assert_eq!((&waiting[0]["target"]["object"], &waiting[0]["subject"]["key"]), (&"b".into(), &"k".into()));
    let place = format!("things/0/{offset}");
    let traced = document(&node, &format!("trace {place} --json"))?;
    assert_eq!(traced["records"][0]["waiting"][0]["target"]["function"], "echo", "{traced}");
    let figure = |name: &str| {
        let said = document(&node, "stats --json")?;
        let metrics = said["metrics"].as_array().cloned().unwrap_or_default();
        let found =
            metrics.iter().find(|metric| metric["name"].as_str().is_some_and(|full| full.starts_with(name)));
        let found = found.and_then(|found| found["value"].as_f64()).map(|value| value.to_string());
        found.ok_or_else(|| odgm_tests::Error::from(format!("there is no figure {name}")))
    };
    assert_eq!(
        (figure("odgm_calls_in_flight")?, figure("odgm_calls_failed_total")?),
        ("1".into(), "1".into())
    );

    functions.release("echo");
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(document(&node, "calls things --json")?["calls"], Value::Array(Vec::new()));
    let line = "watch things --from earliest --kind completed --kind failed --values --until-current --json";
    let events = documents(&node, line)?;
    let told = |event: &Value| {
        let outcome = &event["outcome"];
        format!("{} {} {} {}", event["kind"], event["id"], outcome["function"], outcome["payload"])
    };
    let told: Vec<_> = events.iter().filter(|event| event["outcome"].is_object()).map(told).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    "failed" "b" "fail" "fail refuses whatever it is asked"
    "completed" "b" "echo" "heard"
    "#);
    let traced = document(&node, &format!("trace {place} --json"))?;
    assert_eq!(traced["records"].as_array().map(Vec::len), Some(3), "{traced}");
    node.connection().figure_where("odgm_calls_succeeded_total", |succeeded| succeeded >= 1.0).await?;
    assert_eq!(
        (figure("odgm_calls_in_flight")?, figure("odgm_calls_succeeded_total")?),
        ("0".into(), "1".into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_listed_shown_redriven_and_discarded() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options = [("trigger_max_attempts", "1")];
    let functions = functions(&node, 1, &["echo"], &options).await?;
    let things = node.objects(CLASS, 0);
    things.attach("a", Attached::none().on_write("k", target(CLASS, 0, Some("b"), "echo"))).await?;
    functions.answer("echo", Answer::Status(Code::Internal));
    let first = things.set_value("a", "k", "one").await?.offset;
    let second = things.set_value("a", "k", "two").await?.offset;
    node.connection().died(CLASS, 2).await?;

    let listed = documents(&node, "dead-letter list things --json")?;
    let mut offsets: Vec<_> = listed.iter().filter_map(|letter| letter["offset"].as_u64()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [first, second]);
    assert_eq!(documents(&node, "dead-letter list things --limit 1 --json")?.len(), 1);
    let [one, two] = [first, second].map(|offset| format!("things/0/{offset}/0"));
    let shown = document(&node, &format!("dead-letter show {one} --json"))?;
    assert_eq!((&shown["payload"], &shown["attempts"]), (&"one".into(), &1.into()), "{shown}");
    assert_eq!(shown["causes"][0]["offset"], first, "{shown}");

    // Many are meant only where that is said.
    let (code, said) = failure(&node, "dead-letter redrive things/0")?;
    assert_eq!(code, 2, "{said}");
    functions.answer("echo", Answer::Example);
    let done = document(&node, &format!("dead-letter redrive {one} --json"))?;
    assert_eq!((&done["done"], &done["count"]), (&"redriven".into(), &1.into()), "{done}");
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(outcomes(&things).await?.len(), 3, "two failed, and one of them completed then");
    for what in ["show", "redrive", "discard --yes"] {
        let (code, said) = failure(&node, &format!("dead-letter {what} {one}"))?;
        assert_eq!(code, 3, "{what}: it is none any more: {said}");
    }

    let (code, said) = failure(&node, &format!("dead-letter discard {two}"))?;
    assert_eq!(code, 2, "nobody can be asked: {said}");
    let done = document(&node, &format!("dead-letter discard {two} --yes --reason seen --json"))?;
    assert_eq!((&done["done"], &done["count"]), (&"discarded".into(), &1.into()), "{done}");
    assert_eq!(documents(&node, "dead-letter list things --json")?, [Value::Null; 0]);
    let (code, said) = failure(&node, &format!("dead-letter discard {two} --yes"))?;
    assert_eq!(code, 3, "{said}");
    // All that there are may be none.
    let done = document(&node, "dead-letter redrive things --all --json")?;
    assert_eq!(done["count"], 0, "{done}");
    assert_eq!(functions.distinct(), 2, "what was discarded was called no more");
    assert_eq!(functions.calls().len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_dead_letters_of_a_collection_are_redriven_or_discarded_at_once() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 2, &["count"], &[("trigger_max_attempts", "1")]).await?;
    for partition in 0..2 {
        let called = target(CLASS, partition, Some("tally"), "count");
        let things = node.objects(CLASS, partition);
        things.attach("a", Attached::none().on_write("k", called)).await?;
    }
    let give_up = async || -> Story {
        functions.answer("count", Answer::Status(Code::Internal));
        for partition in 0..2 {
            node.objects(CLASS, partition).write_all("a", "k", 3).await?;
        }
        node.connection().died(CLASS, 6).await?;
        functions.answer("count", Answer::Example);
        Ok(())
    };
    give_up().await?;
    let done = documents(&node, "dead-letter redrive things --all --json")?;
    assert_eq!(done.iter().map(|done| done["count"].clone()).collect::<Vec<_>>(), [3, 3], "{done:?}");
    node.connection().settled(&[CLASS]).await?;
    give_up().await?;
    let done = documents(&node, "dead-letter discard things --all --yes --json")?;
    assert_eq!(done.iter().map(|done| done["count"].clone()).collect::<Vec<_>>(), [3, 3], "{done:?}");
    assert_eq!(node.connection().dead(CLASS).await?, []);
    for partition in 0..2 {
        let counted = node.objects(CLASS, partition).value("tally", "count").await?;
        assert_eq!(counted.as_deref(), Some("3"), "of those that were discarded none was counted");
    }
    Ok(())
}
