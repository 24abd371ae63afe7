//! Lines about calls.
//!
//! - `invoke ID FUNCTION [on=OBJECT] [TEXT]`
//! - `outcome SOURCE FUNCTION STATUS [on=OBJECT] [id=ID] [TEXT]`, where SOURCE is `client`, `row:ROW`,
//!   `from:GROUP/OFFSET/INDEX/BELOW` or `own:PLACE`, and STATUS `ok`, `wrong`, `no` or `broken`
//! - `settle ROW=ended:STATUS | ROW=retry:MILLIS:REASON | ROW=dead:REASON[:STATUS] ...`
//! - `delivered [PLACE ...] [lost=PLACE:REASON ...]`, `redrive PLACE ...`, `discard PLACE ... [because=REASON]`
//!
//! A ROW is `MILLIS[.MICROS]/OFFSET/INDEX[~GENERATION.ATTEMPT]`, when it is due and its place; a PLACE is `OFFSET/INDEX`.

use odgm_log::body::Body;
use odgm_log::body::calls::{
    Attempt, Blob, Delivered, DeliveryKey, Discard, Finished, Invoke, Outcome, Place, Redrive, RowKey,
    Settlement, Source, Status, TriggerSettled, Verdict,
};
use odgm_log::{GroupId, NodeId, Offset, Timestamp};

use super::number;

pub(super) fn body(command: &str, words: &[&str]) -> Body {
    match command {
        "invoke" => Body::Invoke(invoke(words)),
        "outcome" => Body::Outcome(outcome(words)),
        "settle" => Body::TriggerSettled(TriggerSettled {
            settlements: words.iter().map(|word| settlement(word)).collect(),
        }),
        "delivered" => Body::Delivered(delivered(words)),
        "redrive" => Body::Redrive(Redrive { letters: words.iter().map(|word| place(word)).collect() }),
        "discard" => Body::Discard(Discard {
            letters: words.iter().filter(|word| !word.contains('=')).map(|word| place(word)).collect(),
            reason: named(words, "because").unwrap_or_default(),
        }),
        _ => panic!("unknown command {command:?}"),
    }
}

fn invoke(words: &[&str]) -> Invoke {
    Invoke {
        invocation: words[0].to_owned(),
        object: named(words, "on"),
        function: words[1].to_owned(),
        options: Vec::new(),
        payload: text(&words[2..]),
    }
}

fn outcome(words: &[&str]) -> Outcome {
    Outcome {
        source: source(words[0]),
        invocation: named(words, "id").unwrap_or_default(),
        object: named(words, "on"),
        function: words[1].to_owned(),
        finished: Finished { payload: text(&words[3..]), ..finished(words[2]) },
    }
}

fn source(word: &str) -> Source {
    match word.split_once(':') {
        None => Source::Client,
        Some(("row", row)) => Source::Outbox(attempt(row)),
        Some(("own", at)) => Source::Own(place(at)),
        Some((_, key)) => {
            let [group, offset, index, below] = numbers(key);
            let (group, offset, index) = (GroupId(short(group)), Offset(offset), short(index));
            let key = DeliveryKey { group, origin: NodeId(0), offset, index };
            Source::Delivery { key, forgotten_below: Offset(below) }
        }
    }
}

fn settlement(word: &str) -> Settlement {
    let (row, verdict) = word.split_once('=').unwrap();
    let parts: Vec<&str> = verdict.split(':').collect();
    let verdict = match parts.as_slice() {
        ["ended", status] => Verdict::Ended(finished(status)),
        ["retry", at, reason] => {
            Verdict::Retry { at: Timestamp::from_millis(number(at)), reason: (*reason).into() }
        }
        ["dead", reason, rest @ ..] => Verdict::Dead {
            reason: (*reason).into(),
            payload: Some(Blob("payload".into())),
            finished: rest.first().map(|status| finished(status)),
        },
        _ => panic!("unknown verdict {verdict:?}"),
    };
    Settlement { attempt: attempt(row), verdict }
}

fn delivered(words: &[&str]) -> Delivered {
    let lost = |word: &&str| {
        let (at, reason) = word.strip_prefix("lost=")?.split_once(':')?;
        Some((place(at), reason.to_owned()))
    };
    Delivered {
        arrived: words.iter().filter(|word| !word.contains('=')).map(|word| place(word)).collect(),
        undeliverable: words.iter().filter_map(lost).collect(),
    }
}

fn finished(status: &str) -> Finished {
    let (status, detail) = match status {
        "ok" => (Status::Completed, ""),
        "wrong" => (Status::InvalidRequest, "not like this"),
        "no" => (Status::ApplicationError, "it does not want to"),
        "broken" => (Status::SystemError, "it broke"),
        other => panic!("unknown status {other:?}"),
    };
    Finished { status, detail: detail.into(), took_us: 250, ..Finished::default() }
}

fn attempt(text: &str) -> Attempt {
    let (row, attempt) = text.split_once('~').unwrap_or((text, "0.0"));
    let (due, place_of_row) = row.split_once('/').unwrap();
    let (millis, micros) = due.split_once('.').unwrap_or((due, "0"));
    let due = Timestamp(1_000 * number::<u64>(millis) + number::<u64>(micros));
    let Place { offset, index } = place(place_of_row);
    let (generation, attempt) = attempt.split_once('.').unwrap();
    Attempt { row: RowKey { due, offset, index }, generation: number(generation), attempt: number(attempt) }
}

fn place(text: &str) -> Place {
    let [offset, index] = numbers(text);
    Place { offset: Offset(offset), index: short(index) }
}

fn numbers<const N: usize>(text: &str) -> [u64; N] {
    let numbers: Vec<u64> = text.split('/').map(number).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("{text:?} is not {N} numbers"))
}

fn short(number: u64) -> u32 {
    number.try_into().unwrap()
}

fn named(words: &[&str], name: &str) -> Option<String> {
    words.iter().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// The word that is none of those with a name.
fn text(words: &[&str]) -> Blob {
    let word = words.iter().find(|word| !word.contains('=')).copied().unwrap_or_default();
    Blob(bytes::Bytes::copy_from_slice(word.as_bytes()))
}
