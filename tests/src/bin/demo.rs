//! `make demo`: a year of flights through the public API, and a check of everything that should hold afterwards.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use odgm_tests::{demo, process};

/// Loads flights into a node and proves what it keeps.
#[derive(Debug, clap::Parser)]
#[command(name = "demo")]
struct Options {
    /// JSON lines compressed with gzip [default: ../shared/data/flights.jsonl.gz if it is there, or else the slice
    /// that comes with the sources]
    #[arg(env = "FLIGHTS")]
    flights: Option<PathBuf>,
}

/// The whole year, or what there is of it.
fn default_flights() -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let year = sources.join("../../shared/data/flights.jsonl.gz");
    if year.exists() { year } else { sources.join("data/flights-slice.jsonl.gz") }
}

#[tokio::main]
async fn main() -> ExitCode {
    let flights = Options::parse().flights.unwrap_or_else(default_flights);
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
