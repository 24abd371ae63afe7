//! A handler that does nothing, for Restate to call: `tests/BENCHMARKS.md` says what it is measured for.

use std::convert::Infallible;
use std::error::Error;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use restate_sdk::hyper::HyperEndpoint;
use restate_sdk::prelude::*;
use tokio::net::TcpListener;

/// The one of the functions that our node calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bench;

#[service]
impl Bench {
    #[handler]
    async fn noop(&self, _context: Context<'_>, _payload: Vec<u8>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Serves on a free port of the loopback interface, which it prints, until the process is killed.
#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("handler listens on {}", listener.local_addr()?);
    let endpoint = HyperEndpoint::new(Endpoint::builder().bind(Bench).build());
    loop {
        // Not through the SDK's own server, which leaves Nagle's algorithm on.
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let serving = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), endpoint.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}
