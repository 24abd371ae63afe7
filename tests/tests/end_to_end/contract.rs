//! What reads and writes mean.

use odgm_proto::odgm::v1::Earliest;
use odgm_proto::odgm::v1::subscribe_request::From;
use odgm_proto::oprc::{
    DataTrigger, ObjData, ObjectEvent, SetObjectRequest, SingleObjectRequest, StatsRequest, TriggerTarget,
};
use odgm_tests::harness::{Home, Objects, fields, lines};
use tonic::Code;

use crate::Story;

#[tokio::test]
async fn a_set_replaces_the_object_a_merge_adds_and_an_entry_write_touches_only_its_key() -> Story {
    let home = Home::new()?.collection("people", 1);
    let node = home.start().await?;
    let people = node.objects("people", 0);

    people.set("ada", &[("name", "Ada"), ("born", "1815")]).await?;
    assert_eq!(people.get("ada").await?, fields(&[("born", "1815"), ("name", "Ada")]));
    people.set("ada", &[("name", "Ada Lovelace")]).await?;
    assert_eq!(people.get("ada").await?, fields(&[("name", "Ada Lovelace")]));

    let merged = people.merge("ada", &[("city", "London"), ("name", "Ada King")]).await?;
    assert_eq!(merged, fields(&[("city", "London"), ("name", "Ada King")]));
    people.set_value("ada", "city", "Ockham").await?;
    people.batch("ada", &[("field", "analysis"), ("title", "countess")], &["city"], None).await?;
    people.delete_value("ada", "title").await?;
    assert_eq!(people.get("ada").await?, fields(&[("field", "analysis"), ("name", "Ada King")]));

    assert_eq!(people.value("ada", "name").await?.as_deref(), Some("Ada King"));
    assert_eq!(people.value("ada", "city").await?, None);
    assert_eq!(people.value("nobody", "city").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_collection_can_keep_what_the_first_implementation_did_with_set() -> Story {
    let home = Home::new()?.collection_with("old", 1, &[("set_mode", "upsert")]);
    let node = home.start().await?;
    let old = node.objects("old", 0);
    old.set("a", &[("x", "1"), ("y", "1")]).await?;
    old.set("a", &[("y", "2")]).await?;
    assert_eq!(old.get("a").await?, fields(&[("x", "1"), ("y", "2")]));
    Ok(())
}

#[tokio::test]
async fn versions_count_the_records_that_put_or_removed_something_and_are_never_used_twice() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);

    let versions = [
        things.set("a", &[]).await?.version,
        things.set_value("a", "k", "same").await?.version,
        things.set_value("a", "k", "same").await?.version,
        things.delete_value("a", "absent").await?.version,
        things.batch("a", &[("k", "1"), ("l", "1"), ("m", "1")], &[], None).await?.version,
        things.batch("a", &[], &["l", "m"], None).await?.version,
        things.batch("a", &[], &["l", "m"], None).await?.version,
    ];
    assert_eq!(versions, [1, 2, 3, 3, 4, 5, 5]);

    assert_eq!(things.delete("a").await?.version, 0);
    assert_eq!(things.delete("a").await?.version, 0, "a second delete is no error");
    assert_eq!(things.delete("never").await?.version, 0);
    assert_eq!(things.get("a").await.expect_err("it is deleted").code(), Code::NotFound);
    assert_eq!(things.value("a", "k").await?, None);

    let again = things.set("a", &[("k", "new life")]).await?.version;
    assert!(again > 5, "version {again} of the new life was already one of the old");
    assert_eq!(things.get("a").await?, fields(&[("k", "new life")]));
    Ok(())
}

#[tokio::test]
async fn ids_and_keys_are_lower_cased_on_every_path() -> Story {
    let home = Home::new()?.collection("names", 1);
    let node = home.start().await?;
    let names = node.objects("names", 0);
    names.set("User:A", &[("First.Name", "1")]).await?;
    names.merge("USER:a", &[("Second_Name", "2")]).await?;
    names.batch("user:A", &[("Third-Name", "3")], &["FIRST.NAME"], None).await?;
    names.set_value("user:a", "FOURTH", "4").await?;
    let expected = fields(&[("fourth", "4"), ("second_name", "2"), ("third-name", "3")]);
    assert_eq!(names.get("uSER:A").await?, expected);
    assert_eq!(names.value("USER:A", "Third-NAME").await?.as_deref(), Some("3"));
    names.delete_value("USER:A", "Fourth").await?;
    names.delete("User:a").await?;
    assert_eq!(names.get("user:a").await.expect_err("it is deleted").code(), Code::NotFound);
    Ok(())
}

#[tokio::test]
async fn one_operation_is_one_record_and_one_event() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let start = things.set("a", &[("x", "1"), ("y", "1"), ("z", "1")]).await?.offset;
    things.set("a", &[("y", "2"), ("w", "2")]).await?;
    things.batch("a", &[("y", "3"), ("v", "3")], &["w", "absent"], None).await?;
    things.merge("b", &[("k", "v")]).await?;
    things.delete_value("b", "absent").await?;
    things.delete("a").await?;
    things.delete("a").await?;
    let last = things.set("c", &[]).await?.offset;
    assert_eq!(last, start + 7, "a write was not exactly one record");

    let mut events = things.watch_until_current(From::Earliest(Earliest {})).await?;
    events.iter_mut().for_each(|event| event.offset -= start);
    insta::assert_snapshot!(lines(&events), @r"
    0 created a v1: +x=1 +y=1 +z=1
    1 updated a v2: +w=2 -x ~y=2 -z
    2 updated a v3: +v=3 -w ~y=3
    3 created b v1: +k=v
    5 deleted a v4: -v -y
    7 created c v1:
    ");
    Ok(())
}

#[tokio::test]
async fn triggers_stay_when_a_set_does_not_mention_them_and_go_when_it_clears_them() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let target = TriggerTarget {
        cls_id: "things".into(),
        fn_id: "notify".into(),
        object_id_str: Some("other".into()),
        ..TriggerTarget::default()
    };
    let triggers = ObjectEvent {
        data_trigger_str: [(
            "k".to_owned(),
            DataTrigger { on_update: vec![target], ..DataTrigger::default() },
        )]
        .into(),
        ..ObjectEvent::default()
    };

    put(&things, Some(triggers.clone())).await?;
    assert_eq!(event_of(&things).await?, Some(triggers.clone()));
    put(&things, None).await?;
    assert_eq!(event_of(&things).await?, Some(triggers));
    put(&things, Some(ObjectEvent::default())).await?;
    assert_eq!(event_of(&things).await?, None);
    return Ok(());

    async fn put(things: &Objects, event: Option<ObjectEvent>) -> Story {
        let whole = things.whole("a", &[("k", "v")]);
        let object = whole.object.map(|object| ObjData { event, ..object });
        things.connection.data.clone().set(SetObjectRequest { object, ..whole }).await?;
        Ok(())
    }

    async fn event_of(things: &Objects) -> odgm_tests::Result<Option<ObjectEvent>> {
        let response = things.connection.data.clone().get(things.object("a")).await?.into_inner();
        Ok(response.obj.and_then(|object| object.event))
    }
}

#[tokio::test]
async fn an_object_says_where_it_lives_and_stats_count_the_living() -> Story {
    let home = Home::new()?.collection("things", 3);
    let node = home.start().await?;
    for partition in 0..3 {
        let things = node.objects("things", partition);
        for number in 0..=partition {
            things.set(&format!("thing-{number}"), &[("k", "v")]).await?;
        }
        things.set("gone", &[]).await?;
        things.delete("gone").await?;
    }
    let mut data = node.connection().data;
    let stats = data.stats(StatsRequest {}).await?.into_inner().shards;
    let counts: Vec<_> = stats.iter().map(|s| (s.collection.as_str(), s.partition_id, s.count)).collect();
    assert_eq!(counts, [("things", 0, 1), ("things", 1, 2), ("things", 2, 3)]);

    let request = SingleObjectRequest {
        cls_id: "things".into(),
        partition_id: 2,
        object_id_str: Some("thing-1".into()),
        ..SingleObjectRequest::default()
    };
    let metadata = data.get(request).await?.into_inner().obj.and_then(|object| object.metadata);
    let metadata = metadata.expect("metadata in every answer");
    assert_eq!((metadata.cls_id.as_str(), metadata.partition_id), ("things", 2));
    assert_eq!(metadata.object_id_str.as_deref(), Some("thing-1"));
    Ok(())
}

#[tokio::test]
async fn of_two_writers_who_saw_the_same_version_one_wins() -> Story {
    let home = Home::new()?.collection("accounts", 1);
    let node = home.start().await?;
    let accounts = node.objects("accounts", 0);
    let version = accounts.set("joint", &[("balance", "100")]).await?.version;

    const WRITERS: usize = 16;
    let attempts = (0..WRITERS).map(|writer| {
        let accounts = accounts.clone();
        tokio::spawn(async move {
            let balance = writer.to_string();
            accounts.batch("joint", &[("balance", &balance)], &[], Some(version)).await.map(|_| balance)
        })
    });
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await? {
            Ok(balance) => winners.push(balance),
            Err(status) => losers.push(status),
        }
    }
    assert_eq!((winners.len(), losers.len()), (1, WRITERS - 1));
    assert_eq!(accounts.value("joint", "balance").await?, winners.first().cloned());
    for loser in losers {
        assert_eq!((loser.code(), loser.message()), (Code::Aborted, "version mismatch: expected 1, got 2"));
        assert_eq!(loser.metadata().get("odgm-version").and_then(|v| v.to_str().ok()), Some("2"));
    }
    Ok(())
}

#[tokio::test]
async fn version_zero_means_that_the_object_must_not_exist() -> Story {
    let home = Home::new()?.collection("accounts", 1);
    let node = home.start().await?;
    let accounts = node.objects("accounts", 0);
    accounts.batch("a", &[("k", "first")], &[], Some(0)).await?;
    let refused = accounts.batch("a", &[("k", "second")], &[], Some(0)).await.expect_err("it exists");
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "version mismatch: expected 0, got 1"));
    accounts.delete("a").await?;
    let refused = accounts.batch("a", &[("k", "late")], &[], Some(1)).await.expect_err("it is deleted");
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "version mismatch: expected 1, got 0"));
    accounts.batch("a", &[("k", "again")], &[], Some(0)).await?;
    Ok(())
}
