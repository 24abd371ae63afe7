//! Frames over TCP: each behind its length, in four bytes.
//!
//! A node connects to another once for each class, and only sends on what it opened: answers come over the connections that
//! the other one opened. So neither side has to know what a connection is for, and each frame says who it is from.
//! A connection is made by the task that has something to send; while there is none, and between tries, frames fail at once.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use odgm_log::NodeId;
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Class;
use super::frame::{FRAME_BYTES, MAX_FRAME_BYTES};
use super::mux::{Carrier, Dropped, Inbound, Outlet};

/// Connections that others may have open to this node.
const CONNECTIONS: usize = 1_024;

/// How long a connection may take to be made, with all addresses of a host.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// How long a frame may take to be taken by the machine. After that, or where what was sent is not acknowledged for as
/// long, the other side counts as gone.
const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// The first and the longest wait between two tries to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How long a connection on which nothing comes is left alone, and how often it is then asked whether it is there.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// Room for what is read at once.
const READ_BYTES: usize = 64 << 10;

/// How long a new connection may take until its first frame is there, and how long any frame may take from its first byte
/// to its last. So connections that say nothing, or hardly anything, do not keep others out.
const FRAME_WITHIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;

/// How long nothing is accepted after that failed, as it does where there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LENGTH_BYTES: usize = 4;

/// Where nodes listen.
pub(crate) trait Addresses: Send + Sync + 'static {
    /// A host and port at which the node can be reached, if it is known.
    fn address(&self, node: NodeId) -> BoxFuture<'_, Option<String>>;

    /// The node could not be reached there; it may be elsewhere now.
    fn forget(&self, node: NodeId);
}

/// A [`Carrier`] over TCP.
pub(crate) struct TcpCarrier {
    addresses: Arc<dyn Addresses>,
    /// As long as it is kept, connections are accepted and read.
    listening: Mutex<Option<DropGuard>>,
}

impl TcpCarrier {
    /// A carrier that finds nodes by these addresses.
    pub(crate) fn new(addresses: Arc<dyn Addresses>) -> Self {
        Self { addresses, listening: Mutex::new(None) }
    }

    /// Begins to take in what comes over a listener. It ends when the carrier is dropped.
    pub(crate) fn listen(&self, listener: TcpListener, inbound: Inbound) {
        let ended = CancellationToken::new();
        tokio::spawn(accept_all(listener, inbound, ended.clone()));
        *self.listening.lock() = Some(ended.drop_guard());
    }
}

/// A listener; port 0 is any free one. A port that was left a moment ago can be had again.
pub(crate) async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(ErrorKind::NotFound, format!("{host} has no address"));
    for address in lookup_host((host.trim_matches(['[', ']']), port)).await? {
        let bound = || {
            let socket = socket_for(address)?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match bound() {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

impl Carrier for TcpCarrier {
    fn open(&self, to: NodeId, _class: Class) -> Box<dyn Outlet> {
        let addresses = Arc::clone(&self.addresses);
        Box::new(TcpOutlet { to, addresses, way: Way::Untried { wait: BACKOFF.0 } })
    }

    fn close(&self) {
        self.listening.lock().take();
    }
}

/// Sends to one node, in one class.
struct TcpOutlet {
    to: NodeId,
    addresses: Arc<dyn Addresses>,
    way: Way,
}

enum Way {
    Open {
        stream: TcpStream,
        since: Instant,
        /// How long to wait before the next, if this one does not last.
        wait: Duration,
    },
    /// It may be tried at once; if that fails, again after this.
    Untried {
        wait: Duration,
    },
    Failed {
        until: Instant,
        wait: Duration,
        reason: String,
    },
}

impl Outlet for TcpOutlet {
    fn send(&mut self, frame: Vec<u8>, _heard: u64) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.look();
            if !matches!(self.way, Way::Open { .. }) {
                self.connect().await?;
            }
            let Way::Open { stream, .. } = &mut self.way else {
                return Err("it is not connected".to_owned());
            };
            match timeout(WRITE_WITHIN, write(stream, &frame)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(self.broke(&error.to_string())),
                Err(_) => Err(self.broke("it takes nothing any more")),
            }
        })
    }
}

impl TcpOutlet {
    /// Notices that the other side has closed. Nothing is ever received here, so this asks the system only when it has told
    /// of something.
    fn look(&mut self) {
        if let Way::Open { stream, .. } = &self.way
            && !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        {
            self.lose("the other side closed it");
        }
    }

    async fn connect(&mut self) -> Result<(), String> {
        let wait = match &self.way {
            Way::Failed { until, reason, .. } if Instant::now() < *until => return Err(reason.clone()),
            Way::Failed { wait, .. } | Way::Untried { wait } => *wait,
            Way::Open { .. } => return Ok(()),
        };
        let address = self.addresses.address(self.to).await;
        let reason = match address {
            None => "nobody says where it listens".to_owned(),
            Some(address) => match timeout(CONNECT_WITHIN, connect(&address)).await {
                Ok(Ok(stream)) => {
                    self.way = Way::Open { stream, since: Instant::now(), wait };
                    return Ok(());
                }
                Ok(Err(error)) => format!("{address}: {error}"),
                Err(_) => format!("{address}: no connection within {CONNECT_WITHIN:?}"),
            },
        };
        self.addresses.forget(self.to);
        self.rest(wait, &reason);
        Err(reason)
    }

    /// Gives a connection up. One that lasted may be made again at once; one that did not is no better than none.
    fn lose(&mut self, reason: &str) {
        match self.way {
            Way::Open { since, wait, .. } if since.elapsed() < BACKOFF.1 => self.rest(wait, reason),
            _ => self.way = Way::Untried { wait: BACKOFF.0 },
        }
    }

    fn rest(&mut self, wait: Duration, reason: &str) {
        let until = Instant::now() + wait;
        self.way = Way::Failed { until, wait: (2 * wait).min(BACKOFF.1), reason: reason.to_owned() };
    }

    fn broke(&mut self, reason: &str) -> String {
        self.addresses.forget(self.to);
        let reason = format!("the connection broke: {reason}");
        self.lose(&reason);
        reason
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Sends at once, and notices when the other side is gone.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(WRITE_WITHIN))?;
    Ok(())
}

/// The length and the frame in one go, without copying the frame.
async fn write(stream: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    let length = length.to_be_bytes();
    let mut bytes = Buf::chain(length.as_slice(), frame);
    stream.write_all_buf(&mut bytes).await
}

async fn accept_all(listener: TcpListener, inbound: Inbound, ended: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let reading = read_all(stream, from, inbound.clone(), place);
                    let ended = ended.clone();
                    tokio::spawn(async move { ended.run_until_cancelled(reading).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    ended.run_until_cancelled(accepting).await;
}

async fn read_all(mut stream: TcpStream, from: SocketAddr, inbound: Inbound, _place: OwnedSemaphorePermit) {
    if let Err(error) = tune(&stream) {
        tracing::debug!(%from, %error, "a connection could not be set up");
        return;
    }
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut deadline = Some(Instant::now() + FRAME_WITHIN.0);
    loop {
        match next_frame(&mut buffer) {
            Next::Frame(frame) => {
                inbound.receive(frame);
                deadline = None;
            }
            Next::TooLong(length) => {
                inbound.drop_frame(Dropped::Unreadable, &format!("{from} announces {length} bytes"));
                return;
            }
            Next::Missing(bytes) => {
                let beginning = buffer.get(LENGTH_BYTES..).unwrap_or_default();
                if !inbound.is_worth_reading(beginning) {
                    return;
                }
                if !buffer.is_empty() {
                    deadline.get_or_insert_with(|| Instant::now() + FRAME_WITHIN.1);
                }
                // What is announced is believed up to a usual frame; beyond it the buffer grows with what comes.
                buffer.reserve(bytes.clamp(READ_BYTES, FRAME_BYTES + READ_BYTES));
                let reading = stream.read_buf(&mut buffer);
                let read = match deadline {
                    Some(deadline) => timeout_at(deadline, reading).await,
                    None => Ok(reading.await),
                };
                match read {
                    Err(_) => {
                        return inbound
                            .drop_frame(Dropped::Unreadable, &format!("{from} takes too long to say it"));
                    }
                    Ok(Ok(0)) => return,
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(%from, %error, "a connection broke");
                        return;
                    }
                }
            }
        }
    }
}

enum Next {
    Frame(Bytes),
    /// So many bytes more, at least.
    Missing(usize),
    TooLong(usize),
}

fn next_frame(buffer: &mut BytesMut) -> Next {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Next::Missing(LENGTH_BYTES) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME_BYTES {
        return Next::TooLong(length);
    }
    let missing = (LENGTH_BYTES + length).saturating_sub(buffer.len());
    if missing > 0 {
        return Next::Missing(missing);
    }
    buffer.advance(LENGTH_BYTES);
    Next::Frame(buffer.split_to(length).freeze())
}
