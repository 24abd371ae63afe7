//! The past: history of an object, and objects as they were.

use odgm_proto::odgm::v1::get_at_request::At;
use odgm_tests::harness::{Home, fields, lines};
use tonic::Code;

use crate::Story;

#[tokio::test]
async fn history_tells_what_happened_to_one_object() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let start = things.set("a", &[("x", "1"), ("y", "1")]).await?.offset;
    things.set("b", &[("x", "not this one")]).await?;
    things.merge("a", &[("x", "2")]).await?;
    things.batch("a", &[("z", "3")], &["y"], None).await?;
    things.delete_value("a", "absent").await?;
    things.delete("a").await?;
    things.set_value("a", "x", "again").await?;

    let mut events = things.history("a").await?;
    events.iter_mut().for_each(|event| event.offset -= start);
    insta::assert_snapshot!(lines(&events), @r"
    0 created a v1: +x=1 +y=1
    2 updated a v2: ~x=2
    3 updated a v3: -y +z=3
    5 deleted a v4: -x -z
    6 created a v5: +x=again
    ");
    assert_eq!(things.history("nobody").await?, []);
    Ok(())
}

#[tokio::test]
async fn an_object_can_be_read_as_it_was_at_any_offset_and_at_any_time() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let unborn = things.set("other", &[]).await?.offset;
    let mut states = Vec::new();
    let mut note = async |offset| -> Story {
        states.push((offset, things.get("a").await.ok()));
        Ok(())
    };
    note(things.set("a", &[("x", "1"), ("y", "1")]).await?.offset).await?;
    note(things.set_value("a", "x", "2").await?.offset).await?;
    note(things.batch("a", &[("z", "3")], &["y"], None).await?.offset).await?;
    note(things.delete("a").await?.offset).await?;
    note(things.set("other", &[("k", "v")]).await?.offset).await?;
    note(things.set("a", &[("w", "new")]).await?.offset).await?;
    node.kill()?;

    let node = home.start().await?;
    let things = node.objects("things", 0);
    for (offset, state) in states {
        match state {
            Some(fields) => assert_eq!(things.get_at("a", At::Offset(offset)).await?, fields, "at {offset}"),
            None => {
                let missing = things.get_at("a", At::Offset(offset)).await.expect_err("it was deleted");
                assert_eq!(missing.code(), Code::NotFound, "at {offset}: {missing}");
            }
        }
    }
    let missing = things.get_at("a", At::Offset(unborn)).await.expect_err("it was not there yet");
    assert_eq!(missing.code(), Code::NotFound);

    let events = things.history("a").await?;
    let born = events[0].time_ms;
    let missing = things.get_at("a", At::TimeMs(born - 1)).await.expect_err("it was not there yet");
    assert_eq!(missing.code(), Code::NotFound);
    let now = events.last().map_or(0, |event| event.time_ms);
    assert_eq!(things.get_at("a", At::TimeMs(now)).await?, fields(&[("w", "new")]));
    Ok(())
}
