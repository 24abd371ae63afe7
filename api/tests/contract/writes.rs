//! What `odgm.v1.Writes` means.

use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::{WriteRequest, WriteResponse};
use tonic::Code;

use crate::node::{TestNode, batch, entry, one, put, set, text};

fn line(response: &WriteResponse) -> String {
    match response.result.as_ref().expect("a result") {
        Outcome::Written(written) => {
            format!(
                "{}: offset {} v{} {}",
                response.sequence, written.offset, written.object_version, written.changed
            )
        }
        Outcome::Refused(refused) => {
            let code = Code::from(refused.code);
            format!(
                "{}: {code:?} {} (not applied: {})",
                response.sequence, refused.message, refused.not_applied
            )
        }
    }
}

#[tokio::test]
async fn a_refused_write_leaves_the_stream_open() {
    let node = TestNode::start().await;
    let operations = [
        Some(Operation::Set(set("a", &[("k", "1")]))),
        Some(Operation::SetValue(put("a", "bad key", "2"))),
        Some(Operation::BatchSetValues(batch("a", &[("k", "3")], &[], Some(7)))),
        Some(Operation::Merge(set("a", &[("l", "4")]))),
        None,
        Some(Operation::DeleteValue(entry("a", "none"))),
        Some(Operation::Delete(one("a"))),
    ];
    let requests: Vec<_> = operations
        .into_iter()
        .zip(100..)
        .map(|(operation, sequence)| WriteRequest { sequence, operation, request_id: None })
        .collect();
    let mut answers = node.writes().write(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let mut lines = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        lines.push(line(&answer));
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
    100: offset 3 v1 true
    101: InvalidArgument invalid key "bad key": ' ' is not allowed, expected 1 to 160 bytes of a-z 0-9 . _ : - (not applied: true)
    102: Aborted version mismatch: expected 7, got 1 (not applied: true)
    103: offset 5 v2 true
    104: InvalidArgument operation required: expected set, merge, delete, set_value, delete_value or batch_set_values (not applied: true)
    105: offset 6 v2 false
    106: offset 7 v0 true
    "#);
}

#[tokio::test]
async fn a_request_that_is_too_large_ends_the_stream_after_those_before_it() {
    let node = TestNode::start().await;
    let huge = "x".repeat(5 << 20);
    let requests =
        [put("a", "k", "v"), put("a", "k", &huge)].into_iter().zip(100..).map(|(operation, sequence)| {
            WriteRequest { sequence, operation: Some(Operation::SetValue(operation)), request_id: None }
        });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut answers = node.writes().write(requests).await.expect("a stream").into_inner();
    let first = answers.message().await.expect("an answer").expect("of the first");
    assert_eq!(line(&first), "100: offset 3 v1 true");
    let refused = answers.message().await.expect_err("the second is refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.metadata().get("odgm-outcome").expect("an outcome"), "not-applied");
    insta::assert_snapshot!(refused.message(), @"the request message is too large: expected at most 4194304 bytes (ODGM_MAX_REQUEST_BYTES)");
}

#[tokio::test]
async fn thousands_of_writes_are_acknowledged_in_the_order_of_their_requests() {
    const COUNT: u64 = 3_000;
    let node = TestNode::start().await;
    let requests = (0..COUNT).map(|sequence| {
        let mut request = put(&format!("o{}", sequence % 7), "k", &sequence.to_string());
        request.partition_id = i32::try_from(sequence % 2).expect("small");
        WriteRequest { sequence, operation: Some(Operation::SetValue(request)), request_id: None }
    });
    let mut answers = node.writes().write(tokio_stream::iter(requests)).await.expect("a stream").into_inner();
    let mut last = [0; 2];
    for expected in 0..COUNT {
        let answer = answers.message().await.expect("an answer").expect("one for each request");
        assert_eq!(answer.sequence, expected);
        let Some(Outcome::Written(written)) = answer.result else { panic!("refused: {answer:?}") };
        let last = &mut last[usize::try_from(expected % 2).expect("small")];
        assert!(written.offset > *last, "requests keep their order within a partition");
        *last = written.offset;
    }
    assert!(answers.message().await.expect("the end").is_none());
    let newest = (COUNT - 7..COUNT).find(|sequence| sequence % 7 == 3 && sequence % 2 == 1);
    let mut request = entry("o3", "k");
    request.partition_id = 1;
    let value = node.data().get_value(request).await.expect("an answer").into_inner().value;
    let expected =
        newest.unwrap_or_else(|| (0..COUNT).rev().find(|s| s % 7 == 3 && s % 2 == 1).expect("one"));
    assert_eq!(text(value.as_ref()), expected.to_string());
}

#[tokio::test]
async fn a_request_id_makes_one_write_of_many() {
    let node = TestNode::start().await;
    let request = |sequence| WriteRequest {
        sequence,
        operation: Some(Operation::SetValue(put("a", "k", "v"))),
        request_id: Some("once".into()),
    };
    let requests = tokio_stream::iter([request(1), request(2)]);
    let mut answers = node.writes().write(requests).await.expect("a stream").into_inner();
    let mut lines = Vec::new();
    while let Some(answer) = answers.message().await.expect("an answer") {
        lines.push(line(&answer));
    }
    assert_eq!(lines, ["1: offset 3 v1 true", "2: offset 3 v1 true"]);
}
