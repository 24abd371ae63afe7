//! `odgm.v1.Writes`: many writes without a round trip each.

mod relayed;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::Stream;
use odgm_log::Body;
use odgm_log::body::Cause;
use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::writes_server::Writes as Service;
use odgm_proto::odgm::v1::{Refused, WriteRequest, WriteResponse, Written};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use self::relayed::Relayed;
use super::{Shared, command};
use crate::request;
use crate::status::{self, is_not_applied, not_applied};

/// The service.
pub(crate) struct Writes(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl Service for Writes {
    type WriteStream = Acknowledgements;

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let cause = request::cause(&metadata).map_err(not_applied)?;
        let window = Arc::default();
        Ok(Response::new(Acknowledgements {
            cause,
            requests: Some(requests),
            relayed: Relayed::new(Arc::clone(&self.0), metadata.clone(), Arc::clone(&window)),
            metadata,
            window,
            failed: None,
            stop: Box::pin(self.0.stop.clone().cancelled_owned()),
            patience: Patience::new(self.0.limits.write_stream_patience),
            shared: Arc::clone(&self.0),
        }))
    }
}

/// The acknowledgements of one write stream, in the order of its requests.
///
/// The whole stream runs where its responses are polled: a client that does not read its acknowledgements is not
/// read from either, once its window is full.
pub(crate) struct Acknowledgements {
    shared: Arc<Shared>,
    /// What all requests of the stream share.
    cause: Cause,
    metadata: MetadataMap,
    /// What is not on this node.
    relayed: Relayed,
    /// None once they have ended.
    requests: Option<Streaming<WriteRequest>>,
    window: Arc<Window>,
    /// Said after the last acknowledgement.
    failed: Option<Status>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    patience: Patience,
}

impl Stream for Acknowledgements {
    type Item = Result<WriteResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(response) = this.window.pop() {
            return Poll::Ready(Some(Ok(response)));
        }
        this.take_requests(cx);
        // Looked at again: a refusal is there at once.
        if let Poll::Ready(response) = this.window.poll_pop(cx) {
            match response {
                Some(response) => return Poll::Ready(Some(Ok(response))),
                None if this.requests.is_none() => return Poll::Ready(this.failed.take().map(Err)),
                None => {}
            }
        }
        if this.patience.poll_ended(this.window.first(), cx).is_ready() {
            // Nothing is acknowledged after what was not.
            this.requests = None;
            this.window.clear();
            return Poll::Ready(Some(Err(status::unknown(status::unavailable(format!(
                "a write was not confirmed for {:?}: what became of those that are not acknowledged is unknown; send them \
                 again, best with their request ids",
                this.shared.limits.write_stream_patience
            ))))));
        }
        Poll::Pending
    }
}

/// How long a stream waits for the acknowledgement that is next. It is looked at no more often than that lasts.
struct Patience {
    lasts: Duration,
    /// The place that was first when it was last looked.
    first: Option<usize>,
    look: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(lasts: Duration) -> Self {
        Self { lasts, first: None, look: Box::pin(tokio::time::sleep(lasts)) }
    }

    /// Ready when the same place was the first all the time.
    fn poll_ended(&mut self, first: Option<usize>, cx: &mut Context<'_>) -> Poll<()> {
        while self.look.as_mut().poll(cx).is_ready() {
            if first.is_some() && first == self.first {
                return Poll::Ready(());
            }
            self.first = first;
            self.look.as_mut().reset(Instant::now() + self.lasts);
        }
        Poll::Pending
    }
}

impl Acknowledgements {
    /// Takes in what has come, as far as the window has room.
    fn take_requests(&mut self, cx: &mut Context<'_>) {
        if self.requests.is_some() && self.stop.as_mut().poll(cx).is_ready() {
            self.requests = None;
            self.failed = Some(status::unavailable("the node is stopping: later writes were not applied"));
        }
        while self.window.len() < self.shared.limits.write_stream_window {
            let Some(requests) = &mut self.requests else { return };
            match Pin::new(requests).poll_next(cx) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(request))) => self.take(request),
                Poll::Ready(ended) => {
                    self.requests = None;
                    self.failed = ended.and_then(Result::err).map(|status| self.failure(status));
                }
            }
        }
    }

    /// Why the requests cannot be read on. What was acknowledged before stays.
    fn failure(&self, status: Status) -> Status {
        status::unreadable(&status, self.shared.limits.request_bytes).map_or(status, not_applied)
    }

    fn take(&mut self, request: WriteRequest) {
        let nodes = place(request.operation.as_ref())
            .and_then(|(class, partition)| self.shared.elsewhere(&self.metadata, class, partition));
        if let Some(nodes) = nodes {
            return self.relayed.send(nodes, request);
        }
        let WriteRequest { sequence, operation, request_id } = request;
        let mut cause = self.cause.clone();
        let prepared = request_id.as_deref().map(request::request_id).transpose().and_then(|request_id| {
            cause.request_id = request_id;
            self.shared.prepare(cause, checked(&self.shared, operation)?)
        });
        match prepared {
            Ok((partition, payload)) => {
                let place = self.window.wait();
                let window = Arc::clone(&self.window);
                let is_deletion = matches!(payload.body, Body::Delete(_));
                let shared = Arc::clone(&self.shared);
                partition.submit(payload, move |answer| {
                    window.fill(place, acknowledge(sequence, shared.answer(answer, is_deletion)));
                });
            }
            Err(status) => {
                let place = self.window.wait();
                self.window.fill(place, refuse(sequence, &not_applied(status)));
            }
        }
    }
}

/// The collection and partition of a write, as they came over the wire.
fn place(operation: Option<&Operation>) -> Option<(&str, i64)> {
    Some(match operation? {
        Operation::Set(request) | Operation::Merge(request) => (&request.cls_id, request.partition_id.into()),
        Operation::Delete(request) => (&request.cls_id, request.partition_id.into()),
        Operation::SetValue(request) => (&request.cls_id, request.partition_id.into()),
        Operation::DeleteValue(request) => (&request.cls_id, request.partition_id.into()),
        Operation::BatchSetValues(request) => (&request.cls_id, request.partition_id.into()),
    })
}

fn checked(shared: &Shared, operation: Option<Operation>) -> Result<command::Command, Status> {
    let rules = &shared.rules;
    match operation {
        Some(Operation::Set(request)) => command::set(rules, request),
        Some(Operation::Merge(request)) => command::merge(rules, request),
        Some(Operation::Delete(request)) => command::delete(rules, request),
        Some(Operation::SetValue(request)) => command::set_value(rules, request),
        Some(Operation::DeleteValue(request)) => command::delete_value(rules, request),
        Some(Operation::BatchSetValues(request)) => command::batch_set_values(rules, request),
        None => Err(Status::invalid_argument(
            "operation required: expected set, merge, delete, set_value, delete_value or batch_set_values",
        )),
    }
}

fn acknowledge(sequence: u64, written: Result<status::Written, Status>) -> WriteResponse {
    match written {
        Ok(written) => WriteResponse {
            sequence,
            result: Some(Outcome::Written(Written {
                offset: written.offset.get(),
                object_version: written.version,
                changed: written.changed,
            })),
        },
        Err(status) => refuse(sequence, &status),
    }
}

fn refuse(sequence: u64, status: &Status) -> WriteResponse {
    let refused = Refused {
        code: status.code() as i32,
        message: status.message().to_owned(),
        not_applied: is_not_applied(status),
    };
    WriteResponse { sequence, result: Some(Outcome::Refused(refused)) }
}

/// Requests under way, in their order. Answers come from the partitions' threads in any order.
#[derive(Default)]
struct Window(Mutex<Places>);

#[derive(Default)]
struct Places {
    /// How many places have been taken off the front.
    taken: usize,
    places: VecDeque<Option<WriteResponse>>,
    /// Who waits for the first place to be filled.
    waker: Option<Waker>,
}

impl Window {
    /// A place at the end, to be filled.
    fn wait(&self) -> usize {
        let mut inner = self.lock();
        inner.places.push_back(None);
        inner.taken + inner.places.len() - 1
    }

    fn fill(&self, place: usize, response: WriteResponse) {
        let waker = {
            let mut inner = self.lock();
            // It may have been given up.
            let Some(at) = place.checked_sub(inner.taken) else { return };
            if let Some(place) = inner.places.get_mut(at) {
                *place = Some(response);
            }
            // Those behind the first are found when the first is taken.
            if at == 0 { inner.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the first place if it is filled.
    fn pop(&self) -> Option<WriteResponse> {
        self.lock().pop()
    }

    /// As [`Window::pop`]; nothing at once if there are no places, and a wake-up when the first is filled.
    fn poll_pop(&self, cx: &Context<'_>) -> Poll<Option<WriteResponse>> {
        let mut inner = self.lock();
        let first = inner.pop();
        if first.is_some() || inner.places.is_empty() {
            return Poll::Ready(first);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn len(&self) -> usize {
        self.lock().places.len()
    }

    /// The number of the place that is the first, if there is one.
    fn first(&self) -> Option<usize> {
        let inner = self.lock();
        (!inner.places.is_empty()).then_some(inner.taken)
    }

    /// Gives all places up.
    fn clear(&self) {
        let mut inner = self.lock();
        inner.taken += inner.places.len();
        inner.places.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing panics while holding it; if something did, the places would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn pop(&mut self) -> Option<WriteResponse> {
        let first = self.places.front_mut()?.take()?;
        self.places.pop_front();
        self.taken += 1;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn response(sequence: u64) -> WriteResponse {
        WriteResponse { sequence, result: None }
    }

    #[tokio::test]
    async fn patience_ends_with_a_write_that_stays_the_first_and_not_with_a_slow_stream() {
        const LASTS: Duration = Duration::from_millis(5);
        let mut patience = Patience::new(LASTS);
        let stuck = poll_fn(|cx| patience.poll_ended(Some(7), cx));
        tokio::time::timeout(Duration::from_secs(60), stuck).await.expect("it ends");

        let mut patience = Patience::new(LASTS);
        let mut first = 0;
        let moving = poll_fn(|cx| {
            first += 1;
            patience.poll_ended(Some(first), cx)
        });
        tokio::time::timeout(20 * LASTS, moving).await.expect_err("each time another write is the first");
        assert!(first > 2, "it was looked at {first} times");

        let mut patience = Patience::new(LASTS);
        let idle = poll_fn(|cx| patience.poll_ended(None, cx));
        tokio::time::timeout(20 * LASTS, idle).await.expect_err("nothing is waited for");
    }

    #[test]
    fn what_was_given_up_is_answered_to_nobody() {
        let window = Window::default();
        let places = [window.wait(), window.wait()];
        window.clear();
        window.fill(places[0], response(0));
        let next = window.wait();
        window.fill(places[1], response(1));
        assert_eq!((window.pop(), window.first()), (None, Some(next)));
    }

    #[test]
    fn answers_leave_in_the_order_of_the_requests() {
        let window = Window::default();
        let places = [window.wait(), window.wait(), window.wait()];
        window.fill(places[2], response(2));
        window.fill(places[1], response(1));
        assert_eq!(window.pop(), None, "the first is still under way");
        window.fill(places[0], response(0));
        let order: Vec<_> = std::iter::from_fn(|| window.pop()).map(|response| response.sequence).collect();
        assert_eq!(order, [0, 1, 2]);
        let place = window.wait();
        window.fill(place, response(3));
        assert_eq!((window.pop().map(|response| response.sequence), window.len()), (Some(3), 0));
    }
}
