//! Records with what they caused and what caused them: `trace` and `dead-letter show` show them in one way.

use std::collections::{BTreeMap, HashMap};

use odgm_proto::odgm::v1;
use serde::Serialize;

use super::{
    call::{self, PendingView, SubjectView, TargetView},
    output::{Style, Tint},
    time,
};

/// How far what a record caused stands to the right of it.
const INDENT: &str = "  ";

/// A record, and the calls that it asked for and that have not ended.
#[derive(Debug, Serialize)]
pub(crate) struct TracedView {
    class: String,
    partition: u32,
    offset: u64,
    group: u32,
    origin: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ParentView>,
    operation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    object: String,
    depth: u32,
    time: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<PendingView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dead: Vec<LetterView>,
}

/// The record that caused another one.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ParentView {
    group: u32,
    origin: u64,
    offset: u64,
}

impl ParentView {
    /// What no other record has.
    fn name(self) -> (u32, u64, u64) {
        (self.group, self.origin, self.offset)
    }
}

/// A dead letter.
#[derive(Debug, Serialize)]
pub(crate) struct LetterView {
    /// The partition that gave it up.
    pub(crate) partition: u32,
    /// The record that caused it.
    pub(crate) offset: u64,
    /// The place among what that record caused.
    pub(crate) index: u32,
    /// Why it was given up.
    pub(crate) reason: String,
    /// The record that gave it up.
    pub(crate) died_offset: u64,
    /// When.
    pub(crate) died: String,
    is_delivery: bool,
    subject: SubjectView,
    target: Option<TargetView>,
    /// How many triggers led to it.
    pub(crate) depth: u32,
    /// How often it was redriven.
    pub(crate) generation: u32,
    /// How often it was tried.
    pub(crate) attempts: u32,
    /// The same for all attempts.
    pub(crate) idempotency_key: String,
    /// Of what it was called with.
    pub(crate) payload_bytes: u64,
}

impl From<v1::DeadLetter> for LetterView {
    fn from(letter: v1::DeadLetter) -> Self {
        let v1::LetterId { offset, index } = letter.id.unwrap_or_default();
        Self {
            partition: letter.partition_id,
            offset,
            index,
            reason: letter.reason,
            died_offset: letter.died_offset,
            died: time::format_ms(letter.died_ms),
            is_delivery: letter.is_delivery,
            subject: letter.subject.map(SubjectView::from).unwrap_or_default(),
            target: letter.target.map(TargetView::from),
            depth: letter.depth,
            generation: letter.generation,
            attempts: letter.attempts,
            idempotency_key: letter.idempotency_key,
            payload_bytes: letter.payload_bytes,
        }
    }
}

impl LetterView {
    /// The address that the other commands take.
    pub(crate) fn address(&self, class: &str) -> String {
        format!("{class}/{}/{}/{}", self.partition, self.offset, self.index)
    }

    /// What asked for it. Of an outcome that was not delivered it is not known.
    pub(crate) fn because(&self) -> String {
        if self.is_delivery { "outcome not delivered".to_owned() } else { self.subject.to_string() }
    }

    /// What it was to call; of an outcome, whose it is.
    pub(crate) fn called(&self) -> String {
        call::target_text(self.target.as_ref())
    }
}

impl From<v1::TracedRecord> for TracedView {
    fn from(record: v1::TracedRecord) -> Self {
        let parent =
            record.parent.map(|v1::Parent { group, origin, offset }| ParentView { group, origin, offset });
        Self {
            class: record.cls_id,
            partition: record.partition_id,
            offset: record.offset,
            group: record.group,
            origin: record.origin,
            parent,
            operation: record.operation,
            object: record.object_id,
            depth: record.depth,
            time: time::format_ms(record.time_ms),
            summary: record.summary,
            waiting: record.waiting.into_iter().map(PendingView::from).collect(),
            dead: record.dead.into_iter().map(LetterView::from).collect(),
        }
    }
}

impl TracedView {
    /// One line: `demo/0/17  2026-03-01T12:30:00.000Z  set alice: city=Oslo`.
    pub(crate) fn line(&self, style: Style) -> String {
        let place = format!("{}/{}/{}", self.class, self.partition, self.offset);
        if self.operation.is_empty() {
            return style.paint(Tint::Faint, &format!("{place}  not kept any more"));
        }
        let said = if self.summary.is_empty() {
            format!("{} {}", self.operation, self.object)
        } else {
            self.summary.clone()
        };
        format!("{place}  {}  {}", style.paint(Tint::Faint, &self.time), said.trim_end())
    }

    /// The calls that it asked for and that have not ended, one line each.
    fn leaves(&self, style: Style) -> Vec<String> {
        let waiting = self.waiting.iter().map(|call| {
            let mut line = format!(
                "{}  {}/{}/{}/{}  {} calls {}  depth {}, attempt {} due {}",
                style.paint(Tint::Notice, "waiting"),
                self.class,
                call.partition,
                call.offset,
                call.index,
                call.subject,
                call::target_text(call.target.as_ref()),
                call.depth,
                call.attempt + 1,
                call.due,
            );
            if !call.last_error.is_empty() {
                line += &format!(": {}", call.last_error);
            }
            line
        });
        let dead = self.dead.iter().map(|letter| {
            format!(
                "{}  {}  {} calls {}  depth {}, attempts {}: {}",
                style.paint(Tint::Bad, "dead"),
                letter.address(&self.class),
                letter.because(),
                letter.called(),
                letter.depth,
                letter.attempts,
                letter.reason,
            )
        });
        waiting.chain(dead).collect()
    }
}

/// Records as a tree, each below the one that caused it. What caused none of them stands at the left.
pub(crate) fn tree(records: &[TracedView], style: Style) -> String {
    let mut known: HashMap<(u32, u64, u64), usize> = HashMap::new();
    let mut caused: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        // Those before it only: so nothing is ever below itself.
        let parent = record.parent.and_then(|parent| known.get(&parent.name()).copied());
        caused.entry(parent).or_default().push(at);
        known.entry((record.group, record.origin, record.offset)).or_insert(at);
    }
    let mut text = String::new();
    let below = |parent: Option<usize>, depth: usize| {
        let of_parent = caused.get(&parent).into_iter().flatten().rev();
        of_parent.map(move |at| (*at, depth)).collect::<Vec<_>>()
    };
    // Not recursive: chains are as long as the depth of triggers allows.
    let mut waiting = below(None, 0);
    while let Some((at, depth)) = waiting.pop() {
        let record = &records[at];
        text += &format!("{}{}\n", INDENT.repeat(depth), record.line(style));
        for leaf in record.leaves(style) {
            text += &format!("{}{leaf}\n", INDENT.repeat(depth + 1));
        }
        waiting.extend(below(Some(at), depth + 1));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::call::tests::{pending, targets};

    /// A call that was given up.
    pub(crate) fn letter() -> v1::DeadLetter {
        let [of_class, _] = targets();
        v1::DeadLetter {
            partition_id: 3,
            id: Some(v1::LetterId { offset: 17, index: 2 }),
            reason: "20 attempts failed: the function did not answer within 30000 ms".into(),
            died_offset: 60,
            died_ms: 1_772_368_260_000,
            is_delivery: false,
            subject: pending().subject,
            target: Some(of_class),
            depth: 1,
            generation: 0,
            attempts: 20,
            idempotency_key: "4/1/17/2".into(),
            payload_bytes: 11,
        }
    }

    /// A record that is caused by the one at another offset, in another group.
    pub(crate) fn record(group: u32, offset: u64, parent: Option<(u32, u64)>) -> v1::TracedRecord {
        v1::TracedRecord {
            cls_id: "flights".into(),
            partition_id: group - 1,
            offset,
            group,
            parent: parent.map(|(group, offset)| v1::Parent { group, origin: 1, offset }),
            operation: if parent.is_some() { "outcome" } else { "set" }.into(),
            object_id: "n14228".into(),
            depth: u32::from(parent.is_some()),
            time_ms: 1_772_368_200_000,
            summary: if parent.is_some() {
                "count on flights/0/iah completed in 1 ms"
            } else {
                "set n14228: dest=IAH"
            }
            .into(),
            waiting: Vec::new(),
            dead: Vec::new(),
            origin: 1,
        }
    }

    #[test]
    fn what_a_record_caused_stands_below_it() {
        let begin =
            v1::TracedRecord { waiting: vec![pending()], dead: vec![letter()], ..record(4, 17, None) };
        let untold = v1::TracedRecord { operation: String::new(), ..record(1, 9, Some((2, 5))) };
        let records = [
            begin,
            record(2, 5, Some((4, 17))),
            record(3, 8, Some((4, 17))),
            record(4, 21, Some((2, 5))),
            untold,
            record(1, 10, Some((9, 9))),
        ];
        let records = records.map(TracedView::from);
        insta::assert_snapshot!(tree(&records, Style::PLAIN), @"
        flights/3/17  2026-03-01T12:30:00.000Z  set n14228: dest=IAH
          waiting  flights/3/17/1  n14228/dest updated calls flights/2/iah/count  depth 1, attempt 3 due 2026-03-01T12:30:00.000Z: the function was not reached: connection refused
          dead  flights/3/17/2  n14228/dest updated calls flights/0/count  depth 1, attempts 20: 20 attempts failed: the function did not answer within 30000 ms
          flights/1/5  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
            flights/3/21  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
            flights/0/9  not kept any more
          flights/2/8  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
        flights/0/10  2026-03-01T12:30:00.000Z  count on flights/0/iah completed in 1 ms
        ");
    }

    #[test]
    fn a_long_chain_is_drawn_too() {
        let records: Vec<_> = (1..2_000_u64)
            .map(|offset| record(1, offset, (offset > 1).then(|| (1, offset - 1))))
            .map(TracedView::from)
            .collect();
        assert_eq!(tree(&records, Style::PLAIN).lines().count(), records.len());
    }
}
