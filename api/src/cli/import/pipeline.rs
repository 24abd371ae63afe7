//! Many operations on their way at once, each object's in order.
//!
//! One thread reads and parses; operations go to a stream by their partition, so that those on one object never
//! overtake each other. A stream sends on while fewer than `in_flight` of its operations wait for acknowledgement, and
//! while they are not too large together.
//!
//! What the server refuses for want of room is not sent again: later operations on the same object may have been applied
//! by then, and would be overtaken.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use indicatif::ProgressBar;
use odgm_proto::odgm::v1::{Refused, WriteRequest, WriteResponse, Written, write_response};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{
    line,
    source::{Lines, NumberedLine},
    tally::Tally,
};
use crate::cli::{client::Client, error::Error};

/// Parsed operations that wait for a stream, for each of them.
const READ_AHEAD: usize = 256;

/// Operations that wait for their acknowledgement, in bytes, all streams together; each may have one more. The server
/// refuses what is beyond ODGM_MAX_INFLIGHT_BYTES, by default four times as much, in one partition.
const IN_FLIGHT_BYTES: usize = 16 << 20;

/// The progress message changes once in so many acknowledgements.
const PROGRESS_STEP: u64 = 500;

/// How an import is done.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The collection.
    pub(crate) class: String,
    /// How many partitions it has.
    pub(crate) partitions: u16,
    /// Connections with a write stream each; at least one.
    pub(crate) streams: usize,
    /// Unacknowledged operations on each stream; at least one.
    pub(crate) in_flight: usize,
    /// Whether problems are only counted.
    pub(crate) keep_going: bool,
    /// The prefix of the operations' request ids.
    pub(crate) request_ids: Option<String>,
}

/// What all parts of an import share.
#[derive(Clone)]
struct Shared {
    plan: Arc<Plan>,
    /// Nothing more is read or sent; what is on its way is waited for.
    stop: CancellationToken,
    acknowledged: Arc<AtomicU64>,
    progress: ProgressBar,
}

/// Imports all lines, or up to the first problem. Fails only if it cannot begin.
pub(crate) async fn run(
    endpoint: &str,
    lines: Lines,
    plan: Arc<Plan>,
    progress: &ProgressBar,
) -> Result<Tally, Error> {
    let shared = Shared {
        plan,
        stop: CancellationToken::new(),
        acknowledged: Arc::new(AtomicU64::new(0)),
        progress: progress.clone(),
    };
    let mut queues = Vec::new();
    let mut streams = JoinSet::new();
    for _ in 0..shared.plan.streams {
        let client = Client::connect(endpoint).await?;
        let (queue, waiting) = mpsc::channel(READ_AHEAD);
        queues.push(queue);
        streams.spawn(Box::pin(send_all(client, waiting, shared.clone())));
    }
    // A thread of its own: one that waits for standard input must not keep the process alive.
    let (report, mut reader) = oneshot::channel();
    thread::spawn({
        let shared = shared.clone();
        move || {
            // Reported before the queues end, and with them the streams. Nobody listens after a Ctrl-C.
            let _ = report.send(read_all(lines, &queues, &shared));
            drop(queues);
        }
    });

    let mut tally = Tally::default();
    let is_interrupted = tokio::select! {
        () = add_all(&mut streams, &mut tally) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    if is_interrupted {
        shared.stop.cancel();
        add_all(&mut streams, &mut tally).await;
        tally.interrupted = true;
    }
    // Without a report it still waits for input, while the streams have stopped.
    if let Ok(read) = reader.try_recv() {
        tally.add(read);
    }
    Ok(tally)
}

async fn add_all(streams: &mut JoinSet<Tally>, tally: &mut Tally) {
    while let Some(finished) = streams.join_next().await {
        match finished {
            Ok(part) => tally.add(part),
            Err(error) => tally.broken = Some(Error::Failed(format!("a write stream failed: {error}"))),
        }
    }
}

/// Reads, parses and hands over to the streams.
fn read_all(mut lines: Lines, queues: &[mpsc::Sender<WriteRequest>], shared: &Shared) -> Tally {
    let mut tally = Tally::default();
    let plan = &shared.plan;
    while !shared.stop.is_cancelled() {
        let NumberedLine { number, text } = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => return tally,
            Err(error) => {
                tally.broken = Some(Error::Failed(format!("the input cannot be read on: {error}")));
                break;
            }
        };
        match line::parse(&text, &plan.class, plan.partitions) {
            Ok(parsed) => {
                let request = WriteRequest {
                    sequence: number,
                    operation: Some(parsed.operation),
                    request_id: plan.request_ids.as_ref().map(|prefix| format!("{prefix}:{number}")),
                };
                let queue = &queues[usize::from(parsed.partition) % queues.len()];
                if queue.blocking_send(request).is_err() {
                    break;
                }
            }
            Err(reason) => {
                tally.invalid(number, reason);
                if !plan.keep_going {
                    break;
                }
            }
        }
    }
    // Lines before a bad one are still sent: the queues end only when this returns.
    tally.stopped = true;
    tally
}

/// Sends what waits and counts the acknowledgements, which come in the same order.
async fn send_all(client: Client, mut waiting: mpsc::Receiver<WriteRequest>, shared: Shared) -> Tally {
    let mut tally = Tally::default();
    let (sender, requests) = mpsc::channel(shared.plan.in_flight);
    let mut sender = Some(sender);
    let mut pending = Pending::new(&shared.plan);
    let outcome = async {
        let mut answers = client.writes().write(ReceiverStream::new(requests)).await?.into_inner();
        loop {
            tokio::select! {
                request = waiting.recv(), if sender.is_some() && pending.has_room() => {
                    let Some(request) = request else { sender = None; continue };
                    pending.push(request.sequence, request.encoded_len());
                    // There is room: what is in the channel is pending, too.
                    if sender.as_ref().is_some_and(|sender| sender.try_send(request).is_err()) {
                        sender = None;
                    }
                }
                () = shared.stop.cancelled(), if sender.is_some() => sender = None,
                answer = answers.message() => match answer? {
                    Some(answer) => {
                        pending.pop();
                        shared.count(answer, &mut tally);
                    }
                    None => return Ok::<(), tonic::Status>(()),
                },
            }
        }
    };
    let outcome = Box::pin(outcome).await;
    if let Err(status) = outcome {
        tally.broken = Some(status.into());
    } else if !pending.operations.is_empty() {
        tally.broken = Some(Error::Unavailable("the server ended the write stream early".to_owned()));
    }
    if tally.broken.is_some() {
        tally.stopped = true;
        shared.stop.cancel();
    }
    pending.operations.into_iter().for_each(|(line, _)| tally.unknown(line));
    tally
}

/// The operations of one stream that wait for their acknowledgement.
struct Pending {
    /// Lines and bytes, the oldest first.
    operations: VecDeque<(u64, usize)>,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl Pending {
    fn new(plan: &Plan) -> Self {
        Self {
            operations: VecDeque::with_capacity(plan.in_flight),
            bytes: 0,
            most: plan.in_flight,
            most_bytes: IN_FLIGHT_BYTES / plan.streams.max(1),
        }
    }

    /// Whether one more may be sent, whatever its size: the largest must be sent at some time.
    fn has_room(&self) -> bool {
        self.operations.len() < self.most && self.bytes < self.most_bytes
    }

    fn push(&mut self, line: u64, bytes: usize) {
        self.operations.push_back((line, bytes));
        self.bytes += bytes;
    }

    /// The oldest has been acknowledged.
    fn pop(&mut self) {
        self.bytes -= self.operations.pop_front().map_or(0, |(_, bytes)| bytes);
    }
}

impl Shared {
    fn count(&self, WriteResponse { sequence: line, result }: WriteResponse, tally: &mut Tally) {
        match result {
            Some(write_response::Result::Written(Written { changed: true, .. })) => tally.changed += 1,
            Some(write_response::Result::Written(Written { changed: false, .. })) => tally.unchanged += 1,
            Some(write_response::Result::Refused(Refused { code, message, not_applied })) => {
                let advice = match (not_applied, Code::from(code)) {
                    (false, _) => "; it may have been applied",
                    (true, Code::ResourceExhausted) => {
                        "; import again when the server has room, or with a smaller --in-flight"
                    }
                    (true, _) => "",
                };
                tally.refused(line, format!("{message}{advice}"));
                self.stop_unless_keeping_going(tally);
            }
            None => {
                tally.unknown(line);
                self.stop_unless_keeping_going(tally);
            }
        }
        let acknowledged = self.acknowledged.fetch_add(1, Ordering::Relaxed) + 1;
        if acknowledged.is_multiple_of(PROGRESS_STEP) {
            self.progress.set_message(format!("{acknowledged} operations"));
        }
    }

    fn stop_unless_keeping_going(&self, tally: &mut Tally) {
        if !self.plan.keep_going {
            tally.stopped = true;
            self.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests;
