//! The short form of `make chaos`.

use clap::Parser as _;
use odgm_tests::Result;
use odgm_tests::chaos::{self, Options, Report};

use crate::Story;

/// A run of the chaos runner with these arguments. It prints its seed and what was done.
async fn run(arguments: &str) -> Result<Report> {
    let options = Options::try_parse_from(std::iter::once("chaos").chain(arguments.split_whitespace()))?;
    let report = chaos::run(&options).await?;
    println!("{report}");
    Ok(report)
}

fn holds(report: &Report) -> Story {
    if report.passed() { Ok(()) } else { Err("it does not hold: see the report above".into()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_of_a_disturbed_cluster_is_linearizable() -> Story {
    holds(&run("--seconds 25 --wire zenoh").await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_see_with_leases_is_linearizable_over_tcp() -> Story {
    let faults = "kill,isolate,one-way,bridge";
    let arguments = format!("--seconds 12 --wire tcp --consistency lease --partitions 3 --faults {faults}");
    holds(&run(&arguments).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_reads_are_found_out() -> Story {
    let report = run("--seconds 5 --faults isolate,pause --consistency local").await?;
    assert!(report.contradictions() > 0, "nodes that were cut off answered, and nothing was noticed");
    Ok(())
}
