//! Functions that call each other without end, until the grid ends it.

use std::collections::BTreeSet;

use odgm_tests::functions::Call;
use odgm_tests::harness::{Attached, Home, Objects, causes, letter, target};
use tokio::task::block_in_place;

use super::{CLASS, functions, told_in_order};
use crate::Story;

/// Each object's turn calls the function that writes the next one's.
async fn attach_ring(things: &Objects, ring: &[&str]) -> Story {
    for (at, object) in ring.iter().enumerate() {
        let next = ring[(at + 1) % ring.len()];
        let called = target(CLASS, 0, Some(object), &format!("loop-{next}"));
        things.attach(object, Attached::none().on_write("turn", called)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_over_three_functions_ends_at_the_limit_and_its_causes_are_known() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let options = [("max_trigger_depth", "7")];
    let functions = functions(&node, 1, &["loop-a", "loop-b", "loop-c"], &options).await?;
    let things = node.objects(CLASS, 0);
    attach_ring(&things, &["a", "b", "c"]).await?;
    let first = things.set_value("a", "turn", "begin").await?.offset;

    let dead = node.connection().died(CLASS, 1).await?;
    node.connection().settled(&[CLASS]).await?;
    insta::assert_snapshot!(told_in_order(&functions.calls())?, @r"
    create a.turn=begin -> a loop-b, depth 1
    create b.turn=1 -> b loop-c, depth 2
    create c.turn=2 -> c loop-a, depth 3
    update a.turn=3 -> a loop-b, depth 4
    update b.turn=4 -> b loop-c, depth 5
    update c.turn=5 -> c loop-a, depth 6
    update a.turn=6 -> a loop-b, depth 7
    ");
    insta::assert_snapshot!(dead.iter().map(letter).collect::<Vec<_>>().join("\n"), @r"
    b.turn updated -> things/0/b loop-c, depth 8, attempts 0: depth 8 is beyond max_trigger_depth 7
    ");

    let whole = things.dead_letter(&dead[0].id.ok_or("a letter has an id")?).await?;
    insta::assert_snapshot!(causes(&whole.causes), @r"
    things/0 set_values b, depth 7
    things/0 set_values a, depth 6
    things/0 set_values c, depth 5
    things/0 set_values b, depth 4
    things/0 set_values a, depth 3
    things/0 set_values c, depth 2
    things/0 set_values b, depth 1
    things/0 set_values a, depth 0
    ");
    let offsets: Vec<_> = whole.causes.iter().map(|cause| cause.offset).collect();
    assert!(offsets.is_sorted_by(|later, earlier| later > earlier), "{offsets:?}");
    assert_eq!(offsets.last(), Some(&first), "the chain goes back to the client's write");

    let place = format!("{CLASS}/0/{first}");
    let traced = block_in_place(|| node.odgm(&["trace", &place])?.success())?;
    insta::assert_snapshot!(stable(&traced), @r#"
    #0  TIME  set a: turn=begin
      #1  TIME  set b: turn=1
        #2  TIME  set c: turn=2
          #3  TIME  set a: turn=3
            #4  TIME  set b: turn=4
              #5  TIME  set c: turn=5
                #6  TIME  set a: turn=6
                  #7  TIME  set b: turn=7
                    dead  #7/0  b/turn updated calls things/0/b/loop-c  depth 8, attempts 0: depth 8 is beyond max_trigger_depth 7
                  #8  TIME  loop-b on things/0/a completed
                #9  TIME  loop-a on things/0/c completed
              #10  TIME  loop-c on things/0/b completed
            #11  TIME  loop-b on things/0/a completed
          #12  TIME  loop-a on things/0/c completed
        #13  TIME  loop-c on things/0/b completed
      #14  TIME  loop-b on things/0/a completed
    "#);
    Ok(())
}

/// A trace without its times. Records have numbers in the order in which they are shown instead of their offsets: which one
/// comes first of an outcome and what the next function writes is not said.
fn stable(traced: &str) -> String {
    let place = format!("{CLASS}/0/");
    let mut offsets = Vec::new();
    let mut word = |word: &str| {
        if let Some((offset, rest)) =
            word.strip_prefix(&place).map(|rest| rest.split_once('/').unwrap_or((rest, "")))
            && offset.bytes().all(|byte| byte.is_ascii_digit())
        {
            let known = offsets.iter().position(|known| known == offset);
            let number = known.unwrap_or_else(|| {
                offsets.push(offset.to_owned());
                offsets.len() - 1
            });
            let rest = if rest.is_empty() { String::new() } else { format!("/{rest}") };
            return format!("#{number}{rest}");
        }
        let is_time = word.len() == 24 && word.ends_with('Z');
        if is_time { "TIME".to_owned() } else { word.to_owned() }
    };
    let line = |line: &str| {
        let line = line.split(" in ").next().unwrap_or_default();
        line.split(' ').map(&mut word).collect::<Vec<_>>().join(" ")
    };
    traced.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_calls_itself_ends_at_the_limit_too_and_may_go_on_if_it_is_wanted() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let functions = functions(&node, 1, &["loop"], &[("max_trigger_depth", "3")]).await?;
    let things = node.objects(CLASS, 0);
    things.attach("a", Attached::none().on_write("turn", target(CLASS, 0, Some("a"), "loop"))).await?;
    things.set_value("a", "turn", "begin").await?;
    node.connection().died(CLASS, 1).await?;
    node.connection().settled(&[CLASS]).await?;
    let depths = |calls: Vec<Call>| -> BTreeSet<u32> { calls.iter().map(Call::depth).collect() };
    assert_eq!(depths(functions.calls()), BTreeSet::from([1, 2, 3]));
    assert_eq!(things.value("a", "turn").await?.as_deref(), Some("3"));

    // Whoever redrives it wants it: one more, and what that causes is beyond the limit again.
    assert_eq!(things.redrive(&[]).await?, 1);
    functions.called("loop", 4).await?;
    node.connection().settled(&[CLASS]).await?;
    assert_eq!(depths(functions.calls()), BTreeSet::from([1, 2, 3, 4]));
    let dead = node.connection().died(CLASS, 1).await?;
    assert_eq!(dead.iter().map(|letter| letter.depth).collect::<Vec<_>>(), [5]);
    Ok(())
}
