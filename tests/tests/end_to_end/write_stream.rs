//! The pipelined write stream.

use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::{WriteRequest, WriteResponse};
use odgm_proto::oprc::BatchSetValuesRequest;
use odgm_tests::harness::{Home, Objects, fields, text};
use tokio_stream::StreamExt as _;
use tonic::Code;

use crate::Story;

fn put(things: &Objects, object: &str, value: &str) -> Operation {
    Operation::SetValue(things.put(object, "k", value))
}

fn numbered(operations: impl IntoIterator<Item = Operation>) -> Vec<WriteRequest> {
    let numbered = operations.into_iter().zip(100..);
    numbered
        .map(|(operation, sequence)| WriteRequest { sequence, operation: Some(operation), request_id: None })
        .collect()
}

async fn send(things: &Objects, requests: Vec<WriteRequest>) -> odgm_tests::Result<Vec<WriteResponse>> {
    let stream = things.connection.writes.clone().write(tokio_stream::iter(requests)).await?.into_inner();
    Ok(stream.collect::<Result<Vec<_>, _>>().await?)
}

#[tokio::test]
async fn every_operation_goes_down_a_stream_and_is_acknowledged_in_order() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let requests = numbered([
        Operation::Set(things.whole("a", &[("x", "1"), ("y", "1")])),
        Operation::Merge(things.whole("a", &[("z", "2")])),
        put(&things, "a", "3"),
        Operation::DeleteValue(things.entry("a", "y")),
        Operation::DeleteValue(things.entry("a", "absent")),
        Operation::BatchSetValues(BatchSetValuesRequest {
            cls_id: "things".into(),
            object_id_str: Some("a".into()),
            delete_keys: vec!["x".into()],
            expected_object_version: Some(4),
            ..BatchSetValuesRequest::default()
        }),
        Operation::Delete(things.object("b")),
    ]);
    let responses = send(&things, requests).await?;
    let mut start = None;
    let told: Vec<_> = responses
        .iter()
        .map(|response| match &response.result {
            Some(Outcome::Written(w)) => {
                let start = *start.get_or_insert(w.offset);
                format!("{}: +{} v{} {}", response.sequence, w.offset - start, w.object_version, w.changed)
            }
            other => format!("{}: {other:?}", response.sequence),
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r"
    100: +0 v1 true
    101: +1 v2 true
    102: +2 v3 true
    103: +3 v4 true
    104: +4 v4 false
    105: +5 v5 true
    106: +6 v0 false
    ");
    assert_eq!(things.get("a").await?, fields(&[("k", "3"), ("z", "2")]));
    Ok(())
}

#[tokio::test]
async fn a_refused_write_leaves_the_stream_open_and_the_order_as_it_is() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let stale = BatchSetValuesRequest {
        cls_id: "things".into(),
        object_id_str: Some("a".into()),
        values: [("k".to_owned(), text("stale"))].into(),
        expected_object_version: Some(7),
        ..BatchSetValuesRequest::default()
    };
    let mut requests = numbered([
        put(&things, "a", "1"),
        put(&things, "not an id", "2"),
        Operation::BatchSetValues(stale),
        put(&node.objects("nothing", 0), "a", "3"),
        put(&things, "a", "4"),
    ]);
    requests.push(WriteRequest { sequence: 105, operation: None, request_id: None });
    requests.push(WriteRequest {
        sequence: 106,
        operation: Some(put(&things, "a", "5")),
        request_id: Some("two words".into()),
    });
    let responses = send(&things, requests).await?;
    let told: Vec<_> = responses
        .iter()
        .map(|response| match &response.result {
            Some(Outcome::Written(written)) => format!("{}: v{}", response.sequence, written.object_version),
            Some(Outcome::Refused(refused)) => {
                let (code, not_applied) = (Code::from(refused.code), refused.not_applied);
                format!("{}: {code:?}, not applied: {not_applied}: {}", response.sequence, refused.message)
            }
            None => format!("{}: nothing", response.sequence),
        })
        .collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    100: v1
    101: InvalidArgument, not applied: true: invalid object_id "not an id": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : -
    102: Aborted, not applied: true: version mismatch: expected 7, got 1
    103: NotFound, not applied: true: there is no collection "nothing"
    104: v2
    105: InvalidArgument, not applied: true: operation required: expected set, merge, delete, set_value, delete_value or batch_set_values
    106: InvalidArgument, not applied: true: odgm-request-id "two words": expected 1 to 256 printable ASCII characters without spaces
    "#);
    assert_eq!(things.value("a", "k").await?.as_deref(), Some("4"));
    Ok(())
}

#[tokio::test]
async fn more_than_a_window_can_be_sent_before_anything_is_read() -> Story {
    const WRITES: u64 = 5_000;
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    let partitions = [node.objects("things", 0), node.objects("things", 1)];
    let writes = (0..WRITES).map(|number| {
        let things = &partitions[usize::try_from(number % 2).unwrap_or(0)];
        put(things, &format!("thing-{}", number % 50), &number.to_string())
    });
    let responses = send(&partitions[0], numbered(writes)).await?;
    assert!(responses.iter().map(|response| response.sequence).eq(100..100 + WRITES));
    assert!(responses.iter().all(|response| matches!(response.result, Some(Outcome::Written(_)))));
    assert_eq!(partitions[1].value("thing-49", "k").await?, Some((WRITES - 1).to_string()));
    Ok(())
}

#[tokio::test]
async fn a_request_id_works_in_a_stream_as_in_a_call() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let things = node.objects("things", 0);
    let by_call = things.once("r-1").set_value("a", "k", "v").await?;
    let request =
        WriteRequest { sequence: 1, operation: Some(put(&things, "a", "v")), request_id: Some("r-1".into()) };
    let responses = send(&things, vec![request]).await?;
    let Some(Outcome::Written(written)) = &responses[0].result else {
        return Err(format!("{responses:?}").into());
    };
    assert_eq!((written.offset, written.object_version), (by_call.offset, by_call.version));
    Ok(())
}
