//! `odgm import`: JSON lines through the pipelined write stream.

mod line;
mod pipeline;
mod source;
mod tally;

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::{Args, builder::RangedU64ValueParser};

use super::{client::Context, error::Error, placement, progress};
use pipeline::Plan;
use source::Lines;
use tally::Summary;

#[cfg(test)]
pub(crate) use line::parse as parse_line;

/// `odgm import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The collection to import into; it must exist
    #[arg(long, value_name = "NAME")]
    class: String,
    /// A file of JSON lines, plain or compressed with gzip; - is standard input
    file: PathBuf,
    /// Report bad lines and refused operations at the end, instead of stopping at the first
    #[arg(long)]
    keep_going: bool,
    /// Connections, each with a write stream of its own; an object's operations stay on one
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    streams: usize,
    /// Operations on each stream that wait for their acknowledgement
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(1..=4096))]
    in_flight: usize,
    /// Send each operation under the request id PREFIX:LINE, so that running the import again repeats nothing
    #[arg(long, value_name = "PREFIX")]
    request_ids: Option<String>,
}

/// Help below the options.
pub(crate) fn help() -> String {
    format!(
        "{}{}.\n\n\
         Operations on one object are applied in the order of their lines.\n\
         An operation larger than the server's ODGM_MAX_REQUEST_BYTES cannot be imported.\n\
         The exit code is 1 if a line was bad or an operation refused, 5 if the connection broke.\n\n\
         Examples:\n  \
         odgm collection create flights --partitions 8\n  \
         odgm import --class flights flights.jsonl.gz\n  \
         odgm export --class demo | odgm import --class copy -",
        line::HELP,
        placement::RULE
    )
}

/// `odgm import`.
pub(crate) async fn run(args: ImportArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let partitions = client.partition_count(&args.class).await?;
    let bar = progress::bytes(source::size(&args.file));
    let lines = Lines::open(&args.file, &bar).map_err(|error| Error::file("read", &args.file, &error))?;
    let plan = Plan {
        class: args.class,
        partitions,
        streams: args.streams.min(usize::from(partitions)),
        in_flight: args.in_flight,
        keep_going: args.keep_going,
        request_ids: args.request_ids,
    };
    let start = Instant::now();
    let tally = pipeline::run(&context.endpoint, lines, Arc::new(plan), &bar).await?;
    bar.finish_and_clear();
    let mut summary = Summary::new(tally, start.elapsed());
    let verdict = summary.take_verdict();
    context.output.document(&summary)?;
    verdict
}
