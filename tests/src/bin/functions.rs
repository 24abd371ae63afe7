//! `make functions`: the example functions. See `odgm_tests::functions`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use odgm_tests::functions::{Examples, Grid, serve};
use odgm_tests::{Result, process};
use tokio::net::TcpListener;

/// Functions to try ODGM with: echo, noop, count, arrive, fail, broken, slow, loop.
#[derive(Debug, clap::Parser)]
#[command(name = "functions")]
struct Options {
    /// The port to listen on, of the loopback interface; 0 chooses one
    #[arg(long, default_value_t = 7001)]
    port: u16,
    /// Where the port is written as soon as it is listened on
    #[arg(long, value_name = "FILE")]
    port_file: Option<PathBuf>,
    /// The node that functions read and write at; several separated by commas
    #[arg(long, value_name = "URL", value_delimiter = ',', default_value = "http://127.0.0.1:8080")]
    grid: Vec<String>,
}

async fn run(options: Options) -> Result<()> {
    let grid = Grid::at(&options.grid)?;
    let listener = TcpListener::bind(("127.0.0.1", options.port))
        .await
        .map_err(|error| format!("cannot listen on port {}: {error}", options.port))?;
    let address = listener.local_addr()?;
    println!("functions listen on http://{address}, and write to {}", options.grid.join(","));
    if let Some(file) = &options.port_file {
        // Whoever waits for the file never sees a part of it.
        let part = file.with_extension("part");
        std::fs::write(&part, address.port().to_string())?;
        std::fs::rename(&part, file)?;
    }
    serve(listener, Arc::new(Examples::new(grid))).await
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = tokio::select! {
        outcome = run(options) => outcome,
        () = process::interrupted() => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("functions: {error}");
            ExitCode::FAILURE
        }
    }
}
