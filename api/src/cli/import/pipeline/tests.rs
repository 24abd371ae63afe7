//! Imports into a server that answers by the ids of the objects, and remembers what it got.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use odgm_proto::odgm::v1::{
    write_request::Operation,
    writes_server::{Writes, WritesServer},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::cli::progress;

/// Ids and lines, in the order of arrival.
type Arrived = Arc<Mutex<Vec<(String, u64)>>>;

struct Server {
    arrived: Arrived,
}

#[tonic::async_trait]
impl Writes for Server {
    type WriteStream = ReceiverStream<Result<WriteResponse, Status>>;

    async fn write(
        &self,
        requests: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (sender, answers) = mpsc::channel(1);
        let arrived = Arc::clone(&self.arrived);
        tokio::spawn(async move {
            let mut requests = requests.into_inner();
            while let Ok(Some(WriteRequest { sequence, operation, .. })) = requests.message().await {
                let Some(Operation::Delete(delete)) = operation else { return };
                let id = delete.object_id_str.unwrap_or_default();
                let answer = answer(&id, sequence);
                arrived.lock().unwrap_or_else(PoisonError::into_inner).push((id, sequence));
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn answer(id: &str, sequence: u64) -> Result<WriteResponse, Status> {
    let written = |changed| Written { offset: sequence, object_version: 1, changed };
    let result = match id {
        "absent" => write_response::Result::Written(written(false)),
        "full" => write_response::Result::Refused(Refused {
            code: 8,
            message: "the disk is full".to_owned(),
            not_applied: true,
        }),
        "crash" => return Err(Status::unavailable("the node stops")),
        _ => write_response::Result::Written(written(true)),
    };
    Ok(WriteResponse { sequence, result: Some(result) })
}

/// Deletes these objects one after the other.
async fn import(ids: &[&str], keep_going: bool) -> (Tally, Vec<(String, u64)>) {
    let lines = ids.iter().map(|id| match *id {
        "bad" => "not json\n".to_owned(),
        id => format!("{{\"op\":\"delete\",\"id\":\"{id}\"}}\n"),
    });
    let text: String = lines.collect();
    let lines = Lines::new(io::Cursor::new(text.into_bytes())).expect("opens");

    let arrived = Arrived::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let server = WritesServer::new(Server { arrived: Arc::clone(&arrived) });
    let serving = tonic::transport::Server::builder().add_service(server);
    let serving = tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));

    let plan =
        Plan { class: "demo".into(), partitions: 8, streams: 3, in_flight: 4, keep_going, request_ids: None };
    let tally = run(&endpoint, lines, Arc::new(plan), &progress::hidden()).await.expect("begins");
    serving.abort();
    let arrived = std::mem::take(&mut *arrived.lock().unwrap_or_else(PoisonError::into_inner));
    (tally, arrived)
}

#[tokio::test]
async fn all_lines_arrive_and_those_of_one_object_in_their_order() {
    let names: Vec<_> = (0..400).map(|line| format!("object-{}", line % 20)).collect();
    let ids: Vec<_> = names.iter().map(String::as_str).chain(["absent"]).collect();
    let (tally, arrived) = import(&ids, false).await;

    assert_eq!((tally.changed, tally.unchanged, tally.refused, tally.stopped), (400, 1, 0, false));
    assert_eq!(arrived.len(), 401);
    for name in &names[..20] {
        let lines: Vec<_> = arrived.iter().filter(|(id, _)| id == name).map(|(_, line)| *line).collect();
        assert!(lines.len() == 20 && lines.is_sorted(), "{name}: {lines:?}");
    }
}

#[tokio::test]
async fn a_bad_line_stops_the_import_after_those_before_it() {
    let (tally, arrived) = import(&["alice", "bob", "bad", "carol"], false).await;
    assert_eq!((tally.changed, tally.invalid, tally.stopped), (2, 1, true));
    assert_eq!(arrived.len(), 2);
}

#[tokio::test]
async fn a_refused_operation_stops_the_import() {
    let (tally, _) = import(&["alice", "full"], false).await;
    assert_eq!((tally.changed, tally.refused, tally.stopped), (1, 1, true));
}

#[tokio::test]
async fn whoever_keeps_going_hears_of_everything_at_the_end() {
    let (tally, _) = import(&["full", "alice", "bad", "full", "absent"], true).await;
    assert_eq!((tally.changed, tally.unchanged, tally.refused, tally.invalid), (1, 1, 2, 1));
    assert!(!tally.stopped && tally.broken.is_none());
}

#[tokio::test]
async fn what_was_not_acknowledged_when_the_stream_broke_is_unknown() {
    let (tally, _) = import(&["alice", "crash"], false).await;
    assert_eq!((tally.changed, tally.unknown, tally.stopped), (1, 1, true));
    assert_eq!(tally.broken.map(|error| error.exit_code()), Some(5));
}

#[test]
fn a_stream_waits_when_what_is_under_way_is_large() {
    let plan = Plan {
        class: "demo".into(),
        partitions: 8,
        streams: 4,
        in_flight: 128,
        keep_going: false,
        request_ids: None,
    };
    let mut pending = Pending::new(&plan);
    for line in 0..8 {
        assert!(pending.has_room(), "{line} of half a MiB");
        pending.push(line, 512 << 10);
    }
    assert!(!pending.has_room(), "a quarter of the room is used");
    pending.pop();
    assert!(pending.has_room());
    pending.push(8, IN_FLIGHT_BYTES);
    assert!(!pending.has_room());
    (0..8).for_each(|_| pending.pop());
    assert!(pending.operations.is_empty() && pending.has_room());
}
