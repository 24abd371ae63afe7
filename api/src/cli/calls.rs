//! `odgm calls`: what waits to be called, and what there is of calls in all.

use std::time::Duration;

use clap::Args;
use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    address::ClassAddress,
    call::{self, PendingView},
    client::Context,
    error::Error,
    output::{Cell, Human, Style, Table, Tint},
};

/// `odgm calls`.
#[derive(Debug, Args)]
pub(crate) struct CallsArgs {
    /// The collection or one partition of it
    #[arg(value_name = "CLASS[/PARTITION]")]
    address: ClassAddress,
    /// At most so many waiting calls of each partition
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1024))]
    limit: u32,
}

/// Help below the options.
pub(crate) const HELP: &str = "\
CALL is CLASS/PARTITION/OFFSET/INDEX: the record that caused the call, and its place among what that record caused. \
OFFSET is what `odgm trace` takes. Calls that were given up are in `odgm dead-letter list`.

Examples:
  odgm calls flights
  odgm calls flights/3 --limit 10";

/// `odgm calls`.
pub(crate) async fn run(args: CallsArgs, context: &mut Context) -> Result<(), Error> {
    let client = context.connect().await?;
    let CallsArgs { address: ClassAddress { class, partition }, limit } = args;
    let request =
        v1::ListCallsRequest { cls_id: class.clone(), partition_id: partition.map(u32::from), limit };
    let answer = client.calls().list_calls(request).await?.into_inner();
    context.output.document(&Calls::new(class, answer))
}

#[derive(Debug, Serialize)]
struct Calls {
    class: String,
    partitions: Vec<Totals>,
    calls: Vec<PendingView>,
}

#[derive(Debug, Serialize)]
struct Totals {
    partition: u32,
    outbox_rows: u64,
    outbox_bytes: u64,
    outbox_age_ms: u64,
    deliveries: u64,
    pending_invocations: u64,
    results: u64,
    result_bytes: u64,
    dead_letters: u64,
    dead_letter_bytes: u64,
}

impl From<v1::CallTotals> for Totals {
    fn from(totals: v1::CallTotals) -> Self {
        Self {
            partition: totals.partition_id,
            outbox_rows: totals.outbox_rows,
            outbox_bytes: totals.outbox_bytes,
            outbox_age_ms: totals.outbox_age_ms,
            deliveries: totals.deliveries,
            pending_invocations: totals.pending_invocations,
            results: totals.results,
            result_bytes: totals.result_bytes,
            dead_letters: totals.dead_letters,
            dead_letter_bytes: totals.dead_letter_bytes,
        }
    }
}

impl Calls {
    fn new(class: String, answer: v1::ListCallsResponse) -> Self {
        Self {
            class,
            partitions: answer.totals.into_iter().map(Totals::from).collect(),
            calls: answer.calls.into_iter().map(PendingView::from).collect(),
        }
    }

    fn totals(&self, style: Style) -> String {
        let mut table = Table::new(&[
            "PARTITION",
            "WAITING",
            "BYTES",
            "OLDEST DUE",
            "DELIVERIES",
            "INVOCATIONS",
            "RESULTS",
            "DEAD",
        ]);
        for totals in &self.partitions {
            let age = match totals.outbox_age_ms {
                0 => String::new(),
                millis => format!("{} ago", call::span(Duration::from_millis(millis))),
            };
            let dead = Cell::from(totals.dead_letters);
            table.row(vec![
                format!("{}/{}", self.class, totals.partition).into(),
                totals.outbox_rows.into(),
                totals.outbox_bytes.into(),
                age.into(),
                totals.deliveries.into(),
                totals.pending_invocations.into(),
                totals.results.into(),
                if totals.dead_letters > 0 { dead.tinted(Tint::Bad) } else { dead },
            ]);
        }
        table.render(style)
    }

    fn rows(&self, style: Style) -> String {
        let mut table = Table::new(&["CALL", "DUE", "ATTEMPT", "DEPTH", "BECAUSE", "CALLS", "LAST ERROR"]);
        for call in &self.calls {
            table.row(vec![
                format!("{}/{}/{}/{}", self.class, call.partition, call.offset, call.index).into(),
                call.due.as_str().into(),
                call.attempt.into(),
                call.depth.into(),
                call.subject.to_string().into(),
                call::target_text(call.target.as_ref()).into(),
                call.last_error.as_str().into(),
            ]);
        }
        table.render(style)
    }
}

impl Human for Calls {
    fn human(&self, style: Style) -> String {
        let mut text = self.totals(style);
        if self.calls.is_empty() {
            return text;
        }
        text.push('\n');
        text += &self.rows(style);
        for totals in &self.partitions {
            let shown = self.calls.iter().filter(|call| call.partition == totals.partition).count() as u64;
            if shown < totals.outbox_rows {
                text += &format!(
                    "{}/{}: the first {shown} of {} are shown\n",
                    self.class, totals.partition, totals.outbox_rows
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::call::tests::pending;

    fn calls() -> Calls {
        let totals = |partition_id, outbox_rows| v1::CallTotals {
            partition_id,
            outbox_rows,
            outbox_bytes: outbox_rows * 120,
            deliveries: 2,
            dead_letters: outbox_rows / 10,
            dead_letter_bytes: 0,
            pending_invocations: 1,
            results: 7,
            result_bytes: 512,
            outbox_age_ms: outbox_rows * 100,
        };
        let asked = v1::CallSubject {
            kind: "invocation".into(),
            invocation_id: "report-17".into(),
            ..Default::default()
        };
        let invocation = v1::PendingCall {
            index: 0,
            attempt: 0,
            depth: 0,
            last_error: String::new(),
            subject: Some(asked),
            ..pending()
        };
        let answer = v1::ListCallsResponse {
            totals: vec![totals(0, 0), totals(3, 40)],
            calls: vec![pending(), invocation],
        };
        Calls::new("flights".into(), answer)
    }

    #[test]
    fn calls_are_totals_and_what_waits() {
        insta::assert_snapshot!(calls().human(Style::PLAIN), @"
        PARTITION  WAITING  BYTES  OLDEST DUE  DELIVERIES  INVOCATIONS  RESULTS  DEAD
        flights/0        0      0                       2            1        7     0
        flights/3       40   4800  4.0 s ago            2            1        7     4

        CALL            DUE                       ATTEMPT  DEPTH  BECAUSE               CALLS                LAST ERROR
        flights/3/17/1  2026-03-01T12:30:00.000Z        2      1  n14228/dest updated   flights/2/iah/count  the function was not reached: connection refused
        flights/3/17/0  2026-03-01T12:30:00.000Z        0      0  invocation report-17  flights/2/iah/count
        flights/3: the first 2 of 40 are shown
        ");
    }

    #[test]
    fn programs_get_everything_of_a_call() {
        insta::assert_json_snapshot!(calls().calls[0], @r#"
        {
          "partition": 3,
          "offset": 17,
          "index": 1,
          "subject": {
            "kind": "data",
            "object": "n14228",
            "key": "dest",
            "action": "updated",
            "version": 5
          },
          "target": {
            "class": "flights",
            "partition": 2,
            "object": "iah",
            "function": "count"
          },
          "depth": 1,
          "generation": 0,
          "attempt": 2,
          "due": "2026-03-01T12:30:00.000Z",
          "created": "2026-03-01T12:29:59.000Z",
          "last_error": "the function was not reached: connection refused",
          "idempotency_key": "4/1/17/1"
        }
        "#);
    }
}
