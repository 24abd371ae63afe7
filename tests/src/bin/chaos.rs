//! `make chaos`: a cluster under load whose nodes are killed, paused and cut off. See `tests/CHAOS.md`.

use std::process::ExitCode;

use clap::Parser as _;
use odgm_tests::Result;
use odgm_tests::chaos::{self, Options};

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever ends the run, `run` is dropped first, and with it every node and its data.
    let outcome = tokio::select! {
        outcome = run(&options) => outcome,
        () = odgm_tests::process::interrupted() => Err("interrupted".into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything held.
async fn run(options: &Options) -> Result<bool> {
    let report = chaos::run(options).await?;
    print!("{report}");
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
        eprintln!("written: {}", path.display());
    }
    Ok(report.passed())
}
