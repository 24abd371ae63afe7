//! What is in front of a server of functions, and can be shut while its address stays.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The pause before a port that is still in use is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// What is no HTTP/2.
const NOISE: &[u8] = b"220 functions.example ESMTP ready\r\n";

/// How a server of functions is to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Door {
    /// As usual.
    #[default]
    Open,
    /// Nobody listens, as after the process has ended.
    Gone,
    /// Connections come about and are never answered.
    Mute,
    /// Whoever connects is told something that is no HTTP/2.
    Noisy,
    /// Answers are in order but for what is in them.
    Garbled,
}

/// Carries connections from `address` to `target` as the door says. Any change of it cuts those that there are; `is` says how
/// the door is as soon as that holds for everybody.
pub(super) async fn keep(
    address: SocketAddr,
    target: SocketAddr,
    mut door: watch::Receiver<Door>,
    is: watch::Sender<Door>,
    mut first: Option<TcpListener>,
) {
    let mut connections = JoinSet::new();
    loop {
        let now = *door.borrow_and_update();
        let listener = match first.take() {
            Some(listener) => Some(listener),
            None if now == Door::Gone => None,
            None => listen(address).await,
        };
        is.send_replace(now);
        tokio::select! {
            changed = door.changed() => if changed.is_err() { return },
            () = carry(listener, now, target, &mut connections) => {}
        }
        // Nothing passes through a connection of before any more when this returns.
        connections.shutdown().await;
    }
}

/// The port is this one's own, though connections of before may still be ending.
async fn listen(address: SocketAddr) -> Option<TcpListener> {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Takes connections for ever.
async fn carry(
    listener: Option<TcpListener>,
    door: Door,
    target: SocketAddr,
    connections: &mut JoinSet<io::Result<()>>,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, door, target));
                }
            }
            // Those that have ended are forgotten.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(mut near: TcpStream, door: Door, target: SocketAddr) -> io::Result<()> {
    near.set_nodelay(true)?;
    match door {
        Door::Mute => while near.read(&mut [0; 1024]).await? > 0 {},
        Door::Noisy => {
            near.write_all(NOISE).await?;
            near.shutdown().await?;
        }
        Door::Open | Door::Garbled | Door::Gone => {
            let mut far = TcpStream::connect(target).await?;
            far.set_nodelay(true)?;
            copy_bidirectional(&mut near, &mut far).await?;
        }
    }
    Ok(())
}
