//! `make bench`: this node against etcd, Redis, Restate and gRPC services that do nothing. See `tests/BENCHMARKS.md`.

use std::process::ExitCode;

use clap::Parser as _;
use odgm_tests::bench::{self, Options};

/// The node's, so that the ceiling, which runs in this binary, is not behind for want of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Two workers whatever the machine has: the load is the same everywhere.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever ends the run, `run` is dropped first, and with it every server and its data.
    let outcome = tokio::select! {
        outcome = bench::run(options) => outcome,
        () = odgm_tests::process::interrupted() => Err("interrupted".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
