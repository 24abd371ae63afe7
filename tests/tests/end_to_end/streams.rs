//! Event streams: ordered, complete, without repeats, resumable, with progress and explicit gaps.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::odgm::v1::{
    Cursors, DropCursorRequest, Earliest, EventKind, Filter, Latest, ListCursorsRequest,
    ListPartitionsRequest, MoveCursorRequest, SubscribeRequest,
};
use odgm_tests::harness::{Home, Objects, lines};
use tonic::Code;

use crate::Story;

const EARLIEST: From = From::Earliest(Earliest {});
const LATEST: From = From::Latest(Latest {});

#[tokio::test]
async fn a_live_subscriber_sees_only_what_comes_after_it() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let before = things.set("a", &[("k", "before")]).await?.offset;

    let mut feed = things.watch(LATEST).await?;
    // The first response says that the subscription stands.
    let stands = feed.batch().await?.expect("a response");
    assert!(stands.events.is_empty());
    assert_eq!(stands.progress_offset, before);

    things.set_value("a", "k", "after").await?;
    things.delete("a").await?;
    let mut events = feed.take(2).await?;
    events.iter_mut().for_each(|event| event.offset -= before);
    insta::assert_snapshot!(lines(&events), @r"
    1 updated a v2: ~k=after
    2 deleted a v3: -k
    ");
    Ok(())
}

#[tokio::test]
async fn a_stream_can_begin_at_an_offset_or_at_a_time() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    things.set_value("a", "k", "1").await?;
    let second = things.set_value("a", "k", "2").await?.offset;
    let noon = next_millisecond(&things).await?;
    let third = things.set_value("a", "k", "3").await?.offset;

    let offsets = async |from| -> odgm_tests::Result<Vec<u64>> {
        let events = things.watch_until_current(from).await?;
        Ok(events.iter().map(|event| event.offset).collect())
    };
    assert_eq!(offsets(From::Offset(second)).await?, [second, third]);
    assert_eq!(offsets(From::TimeMs(noon)).await?, [third]);
    assert_eq!(offsets(From::TimeMs(0)).await?, [second - 1, second, third]);
    assert_eq!(offsets(From::TimeMs(noon + 3_600_000)).await?, [0; 0]);
    Ok(())
}

/// A time after everything that has been written, which later writes are not before.
async fn next_millisecond(things: &Objects) -> odgm_tests::Result<u64> {
    let newest = things.watch_until_current(EARLIEST).await?.last().map_or(0, |event| event.time_ms);
    loop {
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        if now > newest {
            return Ok(now);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn filters_choose_events_and_keys_and_progress_goes_on_without_a_match() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let start = things.set("user:1", &[("mail", "a@b.c"), ("name", "A")]).await?.offset;
    things.set("group:1", &[("name", "all")]).await?;
    things.batch("user:1", &[("name", "B"), ("phone", "1")], &["mail"], None).await?;
    things.set_value("user:1", "phone", "2").await?;
    things.delete("user:1").await?;
    let last = things.set("user:2", &[("name", "C")]).await?.offset;

    let matching = async |filter| -> odgm_tests::Result<String> {
        let request = SubscribeRequest {
            from: Some(EARLIEST),
            filter: Some(filter),
            until_current: true,
            ..things.subscription()
        };
        let mut events = things.subscribe(request).await?.rest().await?;
        events.iter_mut().for_each(|event| event.offset -= start);
        Ok(lines(&events))
    };
    let users = Filter { object_prefix: "user:".into(), ..Filter::default() };
    insta::assert_snapshot!(matching(users.clone()).await?, @r"
    0 created user:1 v1: +mail=a@b.c +name=A
    2 updated user:1 v2: -mail ~name=B +phone=1
    3 updated user:1 v3: ~phone=2
    4 deleted user:1 v4: -name -phone
    5 created user:2 v1: +name=C
    ");
    let mail = Filter { keys: vec!["mail".into()], ..Filter::default() };
    insta::assert_snapshot!(matching(mail).await?, @"
    0 created user:1 v1: +mail=a@b.c
    2 updated user:1 v2: -mail
    ");
    let ends = Filter { kinds: vec![EventKind::Created.into(), EventKind::Deleted.into()], ..users };
    insta::assert_snapshot!(matching(ends).await?, @r"
    0 created user:1 v1: +mail=a@b.c +name=A
    4 deleted user:1 v4: -name -phone
    5 created user:2 v1: +name=C
    ");

    let nothing = Filter { object_prefix: "nobody:".into(), ..Filter::default() };
    let request = SubscribeRequest { from: Some(EARLIEST), filter: Some(nothing), ..things.subscription() };
    let mut feed = things.subscribe(request).await?;
    while feed.progress < last {
        let response = feed.batch().await?.expect("progress for ever");
        assert!(response.events.is_empty());
    }
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_stops_anywhere_goes_on_without_loss_or_repeat() -> Story {
    const PARTITIONS: u32 = 3;
    const WRITES: usize = 400;
    let home = Home::new()?.collection("things", PARTITIONS);
    let node = home.start().await?;
    let all = node.objects("things", 0);
    let request = || SubscribeRequest { partitions: Vec::new(), ..all.subscription() };

    let writer = {
        let connection = node.connection();
        tokio::spawn(async move {
            for number in 0..WRITES {
                let partition = u32::try_from(number)? % PARTITIONS;
                connection.objects("things", partition).set_value("a", "k", &number.to_string()).await?;
            }
            Ok::<_, odgm_tests::Error>(())
        })
    };

    let mut cursors: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let mut values = Vec::new();
    let mut connections = 0;
    while values.len() < WRITES {
        connections += 1;
        let from = From::Cursors(Cursors { cursors: cursors.values().cloned().map(Into::into).collect() });
        let mut feed = all.subscribe(SubscribeRequest { from: Some(from), ..request() }).await?;
        // A consumer that loses its connection after every few batches.
        for _ in 0..connections % 7 + 4 {
            let response = feed.batch().await?.expect("the stream is endless");
            for event in response.events {
                seen.entry(response.partition_id).or_default().push(event.offset);
                let value = event.changes[0].value.as_ref().expect("values were asked for");
                values.push(String::from_utf8(value.data.to_vec())?.parse::<usize>()?);
            }
            cursors.insert(response.partition_id, response.cursor.to_vec());
        }
    }
    writer.await??;

    assert!(connections > 1, "the consumer was never interrupted");
    for (partition, offsets) in seen {
        assert!(offsets.is_sorted_by(|a, b| a < b), "partition {partition}: {offsets:?}");
    }
    values.sort_unstable();
    assert!(values.into_iter().eq(0..WRITES), "an event was lost or came twice");
    Ok(())
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_holds_nothing_back_and_misses_nothing() -> Story {
    const WRITES: u32 = 3_000;
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let mut slow = things.watch(EARLIEST).await?;

    // Far more than any window or buffer on the way takes in.
    let value = "x".repeat(4 << 10);
    let writes = (0..WRITES).map(|number| (format!("thing-{}", number % 10), "k", value.clone()));
    let last = things.set_values(writes.collect()).await?.offset;
    assert!(slow.progress < last);
    let events = slow.take(WRITES as usize).await?;
    assert_eq!(events.last().map(|event| event.offset), Some(last));
    assert!(events.windows(2).all(|pair| pair[0].offset + 1 == pair[1].offset));
    Ok(())
}

#[tokio::test]
async fn named_cursors_are_durable_and_streams_begin_after_them() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    let things = node.objects("things", 1);
    let first = things.set_value("a", "k", "1").await?.offset;
    things.set_value("a", "k", "2").await?;
    let cursor = MoveCursorRequest {
        cls_id: "things".into(),
        partition_id: 1,
        name: "Billing".into(),
        offset: first,
        allowed_lag: 0,
    };
    node.connection().streams.move_cursor(cursor.clone()).await?;
    node.kill()?;

    let node = home.start().await?;
    let mut streams = node.connection().streams;
    let things = node.objects("things", 1);
    let list = ListCursorsRequest { cls_id: "things".into(), partition_id: None };
    let listed = streams.list_cursors(list.clone()).await?.into_inner().cursors;
    let listed: Vec<_> = listed.iter().map(|c| (c.partition_id, c.name.as_str(), c.offset)).collect();
    assert_eq!(listed, [(1, "billing", first)]);

    let events = things.watch_until_current(From::NamedCursor("billing".into())).await?;
    assert_eq!(events.iter().map(|event| event.offset).collect::<Vec<_>>(), [first + 1]);

    let drop = DropCursorRequest { cls_id: "things".into(), partition_id: 1, name: "billing".into() };
    streams.drop_cursor(drop).await?;
    assert!(streams.list_cursors(list).await?.into_inner().cursors.is_empty());
    Ok(())
}

#[tokio::test]
async fn below_the_retention_a_stream_ends_and_says_where_to_go_on() -> Story {
    let home = Home::new()?.collection_with("short", 1, &[("retention", "64KiB")]);
    let node = home.start().await?;
    let short = node.objects("short", 0);
    let value = "x".repeat(1 << 10);
    let mut admin = node.connection().admin;
    let first = loop {
        // A log is trimmed behind a snapshot that is older than what is to be kept, so it has to grow on.
        let writes = (0..100).map(|number| (format!("thing-{}", number % 20), "k", value.clone()));
        short.set_values(writes.collect()).await?;
        let request = ListPartitionsRequest { cls_id: "short".into() };
        let partition = admin.list_partitions(request).await?.into_inner().partitions.remove(0);
        if partition.first_offset > 1 {
            break partition.first_offset;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };

    let mut gap = short.watch(From::Offset(1)).await;
    let refused = match &mut gap {
        Ok(feed) => feed.take(1).await.expect_err("offset 1 is gone"),
        Err(status) => status.clone(),
    };
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let number = |name: &str| {
        let text = refused.metadata().get(name).and_then(|value| value.to_str().ok());
        text.and_then(|text| text.parse::<u64>().ok())
    };
    assert!(number("odgm-first-offset").is_some_and(|offset| offset >= first), "{refused}");
    assert!(number("odgm-snapshot-offset").is_some_and(|offset| offset + 1 >= first), "{refused}");

    let kept = short.watch_until_current(EARLIEST).await?;
    assert!(kept.first().is_some_and(|event| event.offset >= first));
    // What the view holds is not trimmed.
    assert_eq!(short.value("thing-0", "k").await?, Some(value));
    Ok(())
}
