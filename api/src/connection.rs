//! Accepted connections. One that has not greeted may not keep the node waiting.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What every client sends first: `PRI * HTTP/2.0` and four line ends (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// A client has so long to send it.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that ends by itself if its client sends no preface in time, or has not when the node stops. The HTTP
/// library would wait for it in both cases.
pub(crate) struct Connection {
    stream: TcpStream,
    /// None once the preface has come.
    preface: Option<Box<Preface>>,
}

/// A preface that is waited for.
struct Preface {
    received: usize,
    overdue: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, stop: &CancellationToken) -> Self {
        Self::with_timeout(stream, stop, PREFACE_TIMEOUT)
    }

    fn with_timeout(stream: TcpStream, stop: &CancellationToken, timeout: Duration) -> Self {
        let preface = Preface {
            received: 0,
            overdue: Box::pin(tokio::time::sleep(timeout)),
            stop: Box::pin(stop.clone().cancelled_owned()),
        };
        Self { stream, preface: Some(Box::new(preface)) }
    }
}

impl Preface {
    /// Whether it is waited for no longer.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.stop.as_mut().poll(cx).is_ready() || self.overdue.as_mut().poll(cx).is_ready()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if let Some(preface) = &mut this.preface {
            preface.received += buffer.filled().len() - before;
            if preface.received >= PREFACE_BYTES {
                this.preface = None;
            } else if read.is_pending() && preface.poll_over(cx) {
                // The end of the stream, as if the client had closed it.
                return Poll::Ready(Ok(()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair(stop: &CancellationToken, timeout: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        (client, Connection::with_timeout(stream, stop, timeout))
    }

    #[tokio::test]
    async fn a_client_that_has_not_greeted_is_let_go_when_the_node_stops() {
        let stop = CancellationToken::new();
        let (mut client, mut connection) = pair(&stop, PREFACE_TIMEOUT).await;
        client.write_all(b"PRI * HTTP").await.expect("sent");
        stop.cancel();
        let mut received = Vec::new();
        connection.read_to_end(&mut received).await.expect("it ends in order");
        assert!(b"PRI * HTTP".starts_with(&received), "{received:?}");
    }

    #[tokio::test]
    async fn a_client_that_never_greets_is_let_go() {
        let (_client, mut connection) = pair(&CancellationToken::new(), Duration::from_millis(1)).await;
        assert_eq!(connection.read(&mut [0; 8]).await.expect("it ends in order"), 0);
    }

    #[tokio::test]
    async fn a_client_that_has_greeted_is_served_on() {
        let stop = CancellationToken::new();
        let (mut client, mut connection) = pair(&stop, PREFACE_TIMEOUT).await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
        connection.read_exact(&mut [0; PREFACE_BYTES]).await.expect("received");
        stop.cancel();
        client.write_all(b"more").await.expect("sent");
        let mut more = [0; 4];
        connection.read_exact(&mut more).await.expect("received");
        assert_eq!(&more, b"more");
    }
}
