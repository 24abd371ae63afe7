//! Records of calls as JSON.

use odgm_log::body::calls::{
    Attempt, Delivered, DeliveryKey, Discard, Finished, Invoke, Outcome, Place, Redrive, Settlement, Source,
    TriggerSettled, Verdict,
};
use serde_json::{Map, Value as Json, json};

use super::{bytes, map, texts};

pub(super) fn invoke(body: &Invoke) -> Map<String, Json> {
    let mut json = map([
        ("invocation", json!(body.invocation)),
        ("object", json!(body.object)),
        ("function", json!(body.function)),
        ("payload", bytes(&body.payload.0)),
    ]);
    if !body.options.is_empty() {
        json.insert("options".into(), texts(&body.options));
    }
    json
}

pub(super) fn outcome(body: &Outcome) -> Map<String, Json> {
    let mut json = map([
        ("source", source(&body.source)),
        ("object", json!(body.object)),
        ("function", json!(body.function)),
        ("finished", finished(&body.finished)),
    ]);
    if !body.invocation.is_empty() {
        json.insert("invocation".into(), json!(body.invocation));
    }
    json
}

pub(super) fn settled(body: &TriggerSettled) -> Map<String, Json> {
    map([("settlements", body.settlements.iter().map(settlement).collect())])
}

pub(super) fn delivered(body: &Delivered) -> Map<String, Json> {
    let undeliverable = body.undeliverable.iter();
    let undeliverable = undeliverable.map(|(at, reason)| json!({ "place": place(at), "reason": reason }));
    map([("arrived", places(&body.arrived)), ("undeliverable", undeliverable.collect())])
}

pub(super) fn redrive(body: &Redrive) -> Map<String, Json> {
    map([("letters", places(&body.letters))])
}

pub(super) fn discard(body: &Discard) -> Map<String, Json> {
    map([("letters", places(&body.letters)), ("reason", json!(body.reason))])
}

fn source(source: &Source) -> Json {
    match source {
        Source::Client => json!("client"),
        Source::Outbox(of) => json!({ "outbox": attempt(of) }),
        Source::Own(at) => json!({ "own": place(at) }),
        Source::Delivery { key, forgotten_below } => {
            let DeliveryKey { group, origin, offset, index } = key;
            json!({ "delivery": {
                "group": group.get(), "origin": origin.get(), "offset": offset.get(), "index": index,
                "forgotten_below": forgotten_below.get(),
            } })
        }
    }
}

fn finished(finished: &Finished) -> Json {
    let mut json = map([
        ("status", json!(finished.status.name())),
        ("payload", bytes(&finished.payload.0)),
        ("took_us", json!(finished.took_us)),
    ]);
    if !finished.detail.is_empty() {
        json.insert("detail".into(), json!(finished.detail));
    }
    if !finished.headers.is_empty() {
        json.insert("headers".into(), texts(&finished.headers));
    }
    json.into()
}

fn settlement(settlement: &Settlement) -> Json {
    let verdict = match &settlement.verdict {
        Verdict::Ended(how) => json!({ "ended": finished(how) }),
        Verdict::Retry { at, reason } => json!({ "retry": { "at_us": at.get(), "reason": reason } }),
        Verdict::Dead { reason, payload, finished: how } => {
            let how = how.as_ref().map(finished);
            let payload = payload.as_ref().map(|payload| bytes(&payload.0));
            json!({ "dead": { "reason": reason, "payload": payload, "finished": how } })
        }
    };
    json!({ "attempt": attempt(&settlement.attempt), "verdict": verdict })
}

fn attempt(attempt: &Attempt) -> Json {
    let Attempt { row, generation, attempt } = attempt;
    json!({
        "due_us": row.due.get(), "offset": row.offset.get(), "index": row.index,
        "generation": generation, "attempt": attempt,
    })
}

fn places(places: &[Place]) -> Json {
    places.iter().map(place).collect()
}

fn place(place: &Place) -> Json {
    json!({ "offset": place.offset.get(), "index": place.index })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use odgm_log::body::Body;
    use odgm_log::body::calls::{RowKey, Status};
    use odgm_log::{Cause, GroupId, NodeId, Offset, Payload, Timestamp};

    use super::*;
    use crate::record_json::payload_json;

    fn shown(body: Body) -> String {
        payload_json(&Payload { cause: Cause::default(), body }).to_string()
    }

    #[test]
    fn records_of_calls_say_whose_call_it_was_and_how_it_ended() {
        let attempt = Attempt {
            row: RowKey { due: Timestamp(5), offset: Offset(3), index: 1 },
            generation: 1,
            attempt: 2,
        };
        let how = Finished {
            status: Status::ApplicationError,
            detail: "no such flight".into(),
            payload: bytes::Bytes::from_static(b"\xff").into(),
            headers: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())])
                .into_iter()
                .collect(),
            took_us: 1_500,
        };
        let key = DeliveryKey { group: GroupId(7), origin: NodeId(0), offset: Offset(9), index: 0 };
        let outcome = |source, invocation: &str| {
            Body::Outcome(Outcome {
                source,
                invocation: invocation.into(),
                object: Some("iah".into()),
                function: "count".into(),
                finished: Finished { took_us: 7, ..Finished::default() },
            })
        };
        let at = Place { offset: Offset(4), index: 0 };
        let settlement = |verdict| Settlement { attempt, verdict };
        let dead = Verdict::Dead {
            reason: "20 attempts failed".into(),
            payload: Some(bytes::Bytes::from_static(b"{}").into()),
            finished: None,
        };
        let retry = Verdict::Retry { at: Timestamp(8), reason: "busy".into() };
        let lines = [
            shown(Body::Invoke(Invoke {
                invocation: "job-1".into(),
                function: "count".into(),
                options: vec![("accept".into(), "text/plain".into())],
                ..Invoke::default()
            })),
            shown(outcome(Source::Client, "")),
            shown(outcome(Source::Outbox(attempt), "job-1")),
            shown(outcome(Source::Delivery { key, forgotten_below: Offset(2) }, "7/1/3/0")),
            shown(Body::TriggerSettled(TriggerSettled {
                settlements: [Verdict::Ended(how), retry, dead].into_iter().map(settlement).collect(),
            })),
            shown(Body::Delivered(Delivered { arrived: vec![at], undeliverable: vec![(at, "gone".into())] })),
            shown(Body::Redrive(Redrive { letters: vec![at] })),
            shown(Body::Discard(Discard { letters: vec![at], reason: "too old".into() })),
        ];
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"function":"count","invocation":"job-1","object":null,"options":{"accept":"text/plain"},"payload":""}
        {"finished":{"payload":"","status":"completed","took_us":7},"function":"count","object":"iah","source":"client"}
        {"finished":{"payload":"","status":"completed","took_us":7},"function":"count","invocation":"job-1","object":"iah","source":{"outbox":{"attempt":2,"due_us":5,"generation":1,"index":1,"offset":3}}}
        {"finished":{"payload":"","status":"completed","took_us":7},"function":"count","invocation":"7/1/3/0","object":"iah","source":{"delivery":{"forgotten_below":2,"group":7,"index":0,"offset":9,"origin":0}}}
        {"settlements":[{"attempt":{"attempt":2,"due_us":5,"generation":1,"index":1,"offset":3},"verdict":{"ended":{"detail":"no such flight","headers":{"content-type":"text/plain"},"payload":{"base64":"/w=="},"status":"application_error","took_us":1500}}},{"attempt":{"attempt":2,"due_us":5,"generation":1,"index":1,"offset":3},"verdict":{"retry":{"at_us":8,"reason":"busy"}}},{"attempt":{"attempt":2,"due_us":5,"generation":1,"index":1,"offset":3},"verdict":{"dead":{"finished":null,"payload":"{}","reason":"20 attempts failed"}}}]}
        {"arrived":[{"index":0,"offset":4}],"undeliverable":[{"place":{"index":0,"offset":4},"reason":"gone"}]}
        {"letters":[{"index":0,"offset":4}]}
        {"letters":[{"index":0,"offset":4}],"reason":"too old"}
        "#);
    }
}
