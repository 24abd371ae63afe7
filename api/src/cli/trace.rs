//! `odgm trace`: what a record caused.

use clap::Args;
use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    address::RecordAddress,
    client::Context,
    error::Error,
    output::{Human, Style, Tint},
    traced::{self, TracedView},
};

/// `odgm trace`.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The record
    #[arg(value_name = "CLASS/PARTITION/OFFSET")]
    address: RecordAddress,
    /// At most so many records
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Help below the options.
pub(crate) const HELP: &str = "\
Each record stands below the one that caused it, in whatever partition of whatever collection. Calls that have not \
ended are leaves: waiting in an outbox, or dead. Offsets are in `odgm watch`, `odgm history` and `odgm calls`.

Examples:
  odgm trace flights/3/17
  odgm trace flights/3/17 --json";

/// `odgm trace`.
pub(crate) async fn run(args: TraceArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let TraceArgs { address: RecordAddress { partition, offset }, limit } = args;
    let request =
        v1::TraceRequest { cls_id: partition.class, partition_id: partition.partition.into(), offset, limit };
    let answer = client.calls().trace(request).await?.into_inner();
    context.output.document(&Trace::from(answer))
}

#[derive(Debug, Serialize)]
struct Trace {
    records: Vec<TracedView>,
    truncated: bool,
    /// Whether calls that wait may be missing.
    more_waiting: bool,
    unreachable: Vec<String>,
}

impl From<v1::TraceResponse> for Trace {
    fn from(answer: v1::TraceResponse) -> Self {
        Self {
            records: answer.records.into_iter().map(TracedView::from).collect(),
            truncated: answer.truncated,
            more_waiting: answer.more_waiting,
            unreachable: answer.unreachable,
        }
    }
}

impl Human for Trace {
    fn human(&self, style: Style) -> String {
        let mut text = traced::tree(&self.records, style);
        if self.truncated {
            text += &format!("there are more than these {} records: raise --limit\n", self.records.len());
        }
        if self.more_waiting {
            text += "so many calls wait that not all of them were looked at: some of those that were tried before may be missing\n";
        }
        for partition in &self.unreachable {
            text += &style.paint(Tint::Bad, &format!("what this partition has is missing: {partition}"));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::traced::tests::record;

    fn trace() -> Trace {
        v1::TraceResponse {
            records: vec![record(4, 17, None), record(2, 5, Some((4, 17)))],
            truncated: true,
            more_waiting: true,
            unreachable: vec!["flights/6: no node that has the partition answers".into()],
        }
        .into()
    }

    #[test]
    fn a_trace_says_what_is_missing_of_it() {
        insta::assert_snapshot!(trace().human(Style::PLAIN), @"
        flights/3/17  2026-03-01T12:30:00.000Z  set n14228: dest=IAH
          flights/1/5  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
        there are more than these 2 records: raise --limit
        so many calls wait that not all of them were looked at: some of those that were tried before may be missing
        what this partition has is missing: flights/6: no node that has the partition answers
        ");
    }

    #[test]
    fn programs_get_records_that_name_their_parents() {
        insta::assert_json_snapshot!(trace(), @r#"
        {
          "records": [
            {
              "class": "flights",
              "partition": 3,
              "offset": 17,
              "group": 4,
              "origin": 1,
              "operation": "set",
              "object": "n14228",
              "depth": 0,
              "time": "2026-03-01T12:30:00.000Z",
              "summary": "set n14228: dest=IAH"
            },
            {
              "class": "flights",
              "partition": 1,
              "offset": 5,
              "group": 2,
              "origin": 1,
              "parent": {
                "group": 4,
                "origin": 1,
                "offset": 17
              },
              "operation": "outcome",
              "object": "n14228",
              "depth": 1,
              "time": "2026-03-01T12:30:00.000Z",
              "summary": "count on flights/0/iah completed in 1 ms"
            }
          ],
          "truncated": true,
          "more_waiting": true,
          "unreachable": [
            "flights/6: no node that has the partition answers"
          ]
        }
        "#);
    }
}
