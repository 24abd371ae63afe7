//! One HTTP/2 connection to an endpoint, while it is being made and after.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Service, http};

use super::pool::{Line, Standing};
use super::route::Address;
#[cfg(target_os = "linux")]
use super::settings::UNACKNOWLEDGED;
use super::settings::{CONNECTION_WINDOW, KEEPALIVE, STREAM_WINDOW};

/// A connection that is being made, or carries calls, or has gone.
#[derive(Clone)]
pub(crate) struct Link(watch::Receiver<Phase>);

enum Phase {
    Opening,
    Open(http2::SendRequest<Outgoing>),
    Failed(Arc<str>),
}

/// Whoever makes the connection says here what came of it.
pub(crate) struct Opening(watch::Sender<Phase>);

impl Link {
    /// One that is being made.
    pub(crate) fn new() -> (Opening, Self) {
        let (sender, receiver) = watch::channel(Phase::Opening);
        (Opening(sender), Self(receiver))
    }

    /// Waits until it is made.
    pub(crate) async fn made(&mut self) -> Result<Wire, Arc<str>> {
        let gone = || Err(Arc::from("the attempt to connect was given up"));
        match self.0.wait_for(|phase| !matches!(phase, Phase::Opening)).await.as_deref() {
            Ok(Phase::Open(sender)) => Ok(Wire { sender: sender.clone(), said: Arc::default() }),
            Ok(Phase::Failed(reason)) => Err(Arc::clone(reason)),
            Ok(Phase::Opening) | Err(_) => gone(),
        }
    }
}

impl Opening {
    pub(crate) fn open(self, sender: http2::SendRequest<Outgoing>) {
        self.0.send_replace(Phase::Open(sender));
    }

    pub(crate) fn fail(self, reason: Arc<str>) {
        self.0.send_replace(Phase::Failed(reason));
    }
}

impl Line for Link {
    fn standing(&self) -> Standing {
        match &*self.0.borrow() {
            Phase::Opening if self.0.has_changed().is_ok() => Standing::Opening,
            Phase::Open(sender) if !sender.is_closed() => Standing::Open,
            Phase::Opening | Phase::Open(_) | Phase::Failed(_) => Standing::Gone,
        }
    }
}

/// Connects, within a time.
pub(crate) async fn connect(
    address: &Address,
    within: Duration,
) -> Result<http2::SendRequest<Outgoing>, Arc<str>> {
    let connecting = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        tune(&stream)?;
        http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)
    };
    match timeout(within, connecting).await {
        Ok(Ok((sender, connection))) => {
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %chain(&error), "a connection to a function ended");
                }
            });
            Ok(sender)
        }
        Ok(Err(error)) => Err(error.to_string().into()),
        Err(_) => Err(format!("no connection within {} ms", within.as_millis()).into()),
    }
}

/// Sends at once, and notices when the other side is gone.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// An error with all that it stands on.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// The connection as one call sees it: what gRPC is spoken over.
#[derive(Clone)]
pub(crate) struct Wire {
    sender: http2::SendRequest<Outgoing>,
    /// The gRPC status that the other side itself has sent; see [`Wire::heard`].
    said: Arc<AtomicI32>,
}

/// A request did not get its response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// Nothing of it was sent, or the other side says that it has not looked at it.
    #[error("the connection was closed before the request was sent")]
    Unsent(#[source] hyper::Error),
    /// It may have been received.
    #[error("the connection broke before there was an answer")]
    Broken(#[source] hyper::Error),
}

impl Wire {
    /// Where the status that the other side itself has sent will be found: OK until it has sent another. tonic makes up
    /// statuses for what is no gRPC, and they look the same.
    pub(crate) fn heard(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.said)
    }
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Heard>;
    type Error = WireError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // That it is closed is said where the request is handed over, in a form that tonic hands on.
        let _closed = ready!(self.sender.poll_ready(cx));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        const AGENT: http::HeaderValue =
            http::HeaderValue::from_static(concat!("odgm/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(http::header::USER_AGENT, AGENT);
        let sent = self.sender.try_send_request(request.map(Outgoing::new));
        let said = Arc::clone(&self.said);
        Box::pin(async move {
            match sent.await {
                Ok(response) => {
                    hear(&said, response.headers());
                    Ok(response.map(|body| Heard { body, said }))
                }
                Err(failed) if failed.message().is_some() => Err(WireError::Unsent(failed.into_error())),
                Err(failed) => {
                    let error = failed.into_error();
                    let untouched = is_untouched(&error);
                    Err(if untouched { WireError::Unsent(error) } else { WireError::Broken(error) })
                }
            }
        })
    }
}

/// Whether the other side says that it has not looked at the request: it refused the stream, or closed the connection
/// below it (RFC 9113, section 8.7).
fn is_untouched(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| {
        let is_refused = cause.is_reset() && cause.reason() == Some(h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (is_refused || cause.is_go_away())
    })
}

/// The body of a request, which says of its last frame that it is the last, so that this is sent with it. tonic's says so only when
/// it is asked for another one, and then an empty frame is sent for the end: a write more, and a second wake-up of the function.
pub(crate) struct Outgoing {
    body: Body,
    /// What comes after the frame that was handed out, as far as it is known.
    next: Option<Result<Frame<Bytes>, Status>>,
    is_over: bool,
}

impl Outgoing {
    fn new(body: Body) -> Self {
        Self { body, next: None, is_over: false }
    }

    fn look(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.next.is_none() && !self.is_over {
            self.next = ready!(Pin::new(&mut self.body).poll_frame(cx));
            self.is_over = self.next.is_none();
        }
        Poll::Ready(())
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        ready!(self.look(cx));
        let frame = self.next.take();
        // Whether there is another one is found out now, or when it is asked for.
        let _ = self.look(cx);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.next.is_none() && (self.is_over || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, whose status is noticed as it passes.
pub(crate) struct Heard {
    body: Incoming,
    said: Arc<AtomicI32>,
}

fn hear(said: &AtomicI32, headers: &HeaderMap) {
    let status = headers.get(Status::GRPC_STATUS).and_then(|status| status.to_str().ok());
    if let Some(code) = status.and_then(|status| status.parse().ok()) {
        said.store(code, Ordering::Relaxed);
    }
}

impl HttpBody for Heard {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            hear(&self.said, trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::poll_fn;

    use super::*;

    /// Frames, and `None` for each time that there is none yet.
    struct Frames(std::collections::VecDeque<Option<&'static str>>);

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(text)) => Poll::Ready(Some(Ok(Frame::data(text.into())))),
            }
        }
    }

    /// What is sent: each frame, and whether it is said to be the last.
    fn sent(frames: &[Option<&'static str>]) -> Vec<(Option<Bytes>, bool)> {
        let mut body = Outgoing::new(Body::new(Frames(frames.iter().copied().collect())));
        let mut sent = Vec::new();
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never() {
                None => sent.push((None, body.is_end_stream())),
                Some(None) => return sent,
                Some(Some(frame)) => {
                    let data = frame.expect("no error").into_data().expect("data");
                    sent.push((Some(data), body.is_end_stream()));
                }
            }
        }
    }

    #[test]
    fn the_last_frame_of_a_request_says_that_it_is() {
        let data = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert_eq!(sent(&[Some("a")]), [(data("a"), true)]);
        assert_eq!(sent(&[Some("a"), Some("b")]), [(data("a"), false), (data("b"), true)]);
        // It is not known yet whether another one comes.
        assert_eq!(sent(&[Some("a"), None, Some("b")]), [(data("a"), false), (data("b"), true)]);
        assert_eq!(sent(&[None, Some("a"), None]), [(None, false), (data("a"), false)]);
        assert!(sent(&[]).is_empty());
    }
}
