//! How dead letters are shown.

use odgm_proto::odgm::v1;
use serde::Serialize;

use crate::cli::{
    output::{Cell, Human, Style},
    traced::{LetterView, TracedView},
    value::EntryValue,
};

impl LetterView {
    /// The heading of [`LetterView::cells`].
    pub(super) const HEADING: &'static [&'static str] =
        &["LETTER", "DIED", "ATTEMPTS", "DEPTH", "BECAUSE", "CALLS", "BYTES", "REASON"];

    /// As a row of a table.
    pub(super) fn cells(&self, class: &str) -> Vec<Cell> {
        vec![
            self.address(class).into(),
            self.died.as_str().into(),
            self.attempts.into(),
            self.depth.into(),
            self.because().into(),
            self.called().into(),
            self.payload_bytes.into(),
            self.reason.as_str().into(),
        ]
    }
}

/// A dead letter with all that is known of it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    class: String,
    #[serde(flatten)]
    letter: LetterView,
    payload: EntryValue,
    /// From the record that asked for the call back to the one that nothing caused.
    causes: Vec<TracedView>,
}

impl Shown {
    pub(super) fn new(class: String, answer: v1::GetDeadLetterResponse) -> Self {
        Self {
            class,
            letter: answer.letter.unwrap_or_default().into(),
            payload: EntryValue::bytes(answer.payload),
            causes: answer.causes.into_iter().map(TracedView::from).collect(),
        }
    }
}

impl Human for Shown {
    fn human(&self, style: Style) -> String {
        let letter = &self.letter;
        let mut text = format!("{}  died {}\n", letter.address(&self.class), letter.died);
        let mut fact = |name: &str, value: String| {
            if !value.is_empty() {
                text += &format!("  {name:<15} {value}\n");
            }
        };
        fact("reason", letter.reason.clone());
        fact("because", letter.because());
        fact("calls", letter.called());
        fact("attempts", letter.attempts.to_string());
        fact("redriven", if letter.generation > 0 { letter.generation.to_string() } else { String::new() });
        fact("depth", letter.depth.to_string());
        fact("idempotency key", letter.idempotency_key.clone());
        fact("given up at", letter.died_offset.to_string());
        fact("payload", self.payload.to_string());
        if !self.causes.is_empty() {
            text += "caused by, the nearest first:\n";
        }
        for record in &self.causes {
            text += &format!("  {}\n", record.line(style));
        }
        text
    }
}

/// How many letters of a partition something was done with.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    pub(super) class: String,
    pub(super) partition: u16,
    /// What was done with them.
    #[serde(rename = "done")]
    pub(super) what: &'static str,
    pub(super) count: u64,
}

impl Human for Done {
    fn human(&self, _: Style) -> String {
        format!("{}/{}  {} {}\n", self.class, self.partition, self.count, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        output::Table,
        traced::tests::{letter, record},
    };

    #[test]
    fn letters_are_a_table() {
        let mut table = Table::new(LetterView::HEADING);
        table.row(LetterView::from(letter()).cells("flights"));
        let delivery = v1::DeadLetter { is_delivery: true, subject: None, ..letter() };
        table.row(LetterView::from(delivery).cells("flights"));
        insta::assert_snapshot!(table.render(Style::PLAIN), @"
        LETTER          DIED                      ATTEMPTS  DEPTH  BECAUSE                CALLS            BYTES  REASON
        flights/3/17/2  2026-03-01T12:31:00.000Z        20      1  n14228/dest updated    flights/0/count     11  20 attempts failed: the function did not answer within 30000 ms
        flights/3/17/2  2026-03-01T12:31:00.000Z        20      1  outcome not delivered  flights/0/count     11  20 attempts failed: the function did not answer within 30000 ms
        ");
    }

    #[test]
    fn a_letter_is_shown_with_its_payload_and_its_causes() {
        let answer = v1::GetDeadLetterResponse {
            letter: Some(v1::DeadLetter { generation: 1, ..letter() }),
            payload: r#"{"event_info":{}}"#.into(),
            causes: vec![record(4, 17, Some((2, 5))), record(2, 5, None)],
        };
        let shown = Shown::new("flights".into(), answer);
        insta::assert_snapshot!(shown.human(Style::PLAIN), @r#"
        flights/3/17/2  died 2026-03-01T12:31:00.000Z
          reason          20 attempts failed: the function did not answer within 30000 ms
          because         n14228/dest updated
          calls           flights/0/count
          attempts        20
          redriven        1
          depth           1
          idempotency key 4/1/17/2
          given up at     60
          payload         {"event_info":{}}
        caused by, the nearest first:
          flights/3/17  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
          flights/1/5  2026-03-01T12:30:00.000Z  set n14228: dest=IAH
        "#);
        let json = serde_json::to_value(&shown).expect("JSON");
        assert_eq!(json["payload"], r#"{"event_info":{}}"#);
        assert_eq!((&json["offset"], &json["causes"][1]["offset"]), (&17.into(), &5.into()));
    }

    #[test]
    fn what_was_done_is_told_of_each_partition() {
        let done = Done { class: "demo".into(), partition: 3, what: "redriven", count: 2 };
        assert_eq!(done.human(Style::PLAIN), "demo/3  2 redriven\n");
    }
}
