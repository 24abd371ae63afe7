//! `make demo`: a year of flights through the public API, and a check of everything that should hold afterwards.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use odgm_tests::{demo, process};

/// Loads flights into a node and proves what it keeps.
#[derive(Debug, clap::Parser)]
#[command(name = "demo")]
struct Options {
    /// JSON lines compressed with gzip; a small slice comes with the sources
    #[arg(env = "FLIGHTS", default_value = "../shared/data/flights.jsonl.gz")]
    flights: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Options { flights } = Options::parse();
    // Whatever ends the run, the node and its data go with it.
    let outcome = tokio::select! {
        outcome = demo::run(&flights) => outcome,
        () = process::interrupted() => Err("interrupted".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
