//! Answers that gRPC takes and nobody can read.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::door::Door;

/// A message of gRPC, in order but for its contents: field 1 says that it is far longer than the message.
const MESSAGE: &str = "\0\0\0\0\x02\x0a\x7f";

/// A service whose answers can be made unreadable.
#[derive(Clone, Debug)]
pub(super) struct Garbling<S> {
    pub(super) inner: S,
    pub(super) door: watch::Receiver<Door>,
}

impl<S: NamedService> NamedService for Garbling<S> {
    const NAME: &'static str = S::NAME;
}

type Answered = Result<http::Response<Body>, Infallible>;

/// The garbled answer, or the real one.
pub(super) type Answering<F> = Pin<Box<dyn Future<Output = <F as Future>::Output> + Send>>;

impl<S> Service<http::Request<Body>> for Garbling<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if *self.door.borrow() == Door::Garbled {
            Box::pin(garbled())
        } else {
            Box::pin(self.inner.call(request))
        }
    }
}

fn garbled() -> Ready<Answered> {
    let mut response = http::Response::new(Body::new(MESSAGE.to_owned()));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    ready(Ok(response))
}
