//! Samples of what records say of calls, with every field in use.

use odgm_log::body::calls::{
    Attempt, Delivered, DeliveryKey, Discard, Finished, Invoke, Outcome, Place, Redrive, RowKey, Settlement,
    Source, Status, TriggerSettled, Verdict,
};
use odgm_log::{GroupId, NodeId, Offset, Timestamp};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) fn invoke() -> Invoke {
    Invoke {
        invocation: "invocation-1".to_owned(),
        object: Some("order.1".to_owned()),
        function: "charge".to_owned(),
        options: vec![("mode".to_owned(), "fast".to_owned())],
        payload: bytes::Bytes::from_static(b"\x00request").into(),
    }
}

pub(crate) fn outcome(source: Source, status: Status) -> Outcome {
    Outcome {
        source,
        invocation: "9/4/300/1".to_owned(),
        object: Some("order.1".to_owned()),
        function: "charge".to_owned(),
        finished: finished(status),
    }
}

/// One of each, in the order of their numbers.
pub(crate) fn sources() -> [Source; 4] {
    let key = DeliveryKey { group: GroupId(9), origin: NodeId(4), offset: Offset(300), index: 1 };
    [
        Source::Client,
        Source::Outbox(attempt()),
        Source::Delivery { key, forgotten_below: Offset(299) },
        Source::Own(Place { offset: Offset(300), index: 1 }),
    ]
}

pub(crate) const STATUSES: [Status; 4] =
    [Status::Completed, Status::InvalidRequest, Status::ApplicationError, Status::SystemError];

pub(crate) fn settled() -> TriggerSettled {
    let verdicts = [
        Verdict::Ended(finished(Status::ApplicationError)),
        Verdict::Retry { at: Timestamp(1_700_000_000_500_000), reason: "refused".to_owned() },
        Verdict::Dead {
            reason: "20 attempts".to_owned(),
            payload: Some(bytes::Bytes::from_static(b"payload").into()),
            finished: Some(finished(Status::SystemError)),
        },
        Verdict::Dead { reason: "no such class".to_owned(), payload: None, finished: None },
    ];
    let settlements = verdicts.map(|verdict| Settlement { attempt: attempt(), verdict }).into();
    TriggerSettled { settlements }
}

pub(crate) fn delivered() -> Delivered {
    let undeliverable = vec![(Place { offset: Offset(302), index: 0 }, "no such partition".to_owned())];
    Delivered { arrived: places(), undeliverable }
}

pub(crate) fn redrive() -> Redrive {
    Redrive { letters: places() }
}

pub(crate) fn discard() -> Discard {
    Discard { letters: places(), reason: "older than 30 days".to_owned() }
}

fn places() -> Vec<Place> {
    [(300, 1), (70_000, 0)].map(|(offset, index)| Place { offset: Offset(offset), index }).into()
}

fn attempt() -> Attempt {
    let row = RowKey { due: Timestamp(1_700_000_000_000_000), offset: Offset(300), index: 1 };
    Attempt { row, generation: 2, attempt: 7 }
}

fn finished(status: Status) -> Finished {
    Finished {
        status,
        detail: "not today".to_owned(),
        payload: bytes::Bytes::from_static(b"\xffanswer").into(),
        headers: vec![("etag".to_owned(), "1".to_owned())],
        took_us: 1_500,
    }
}

pub(crate) fn any_invoke() -> impl Strategy<Value = Invoke> {
    (text(), option::of(text()), pairs(), vec(any::<u8>(), 0..60)).prop_map(
        |(text, object, options, payload)| {
            let payload = bytes::Bytes::from(payload).into();
            Invoke { invocation: text.clone(), object, function: text, options, payload }
        },
    )
}

pub(crate) fn any_outcome() -> impl Strategy<Value = Outcome> {
    let source = prop_oneof![
        Just(Source::Client),
        any_attempt().prop_map(Source::Outbox),
        any_place().prop_map(Source::Own),
        (any::<u32>(), any::<u64>(), any_place(), any::<u64>()).prop_map(|(group, origin, place, below)| {
            let Place { offset, index } = place;
            let key = DeliveryKey { group: GroupId(group), origin: NodeId(origin), offset, index };
            Source::Delivery { key, forgotten_below: Offset(below) }
        }),
    ];
    (source, text(), option::of(text()), any_finished()).prop_map(|(source, function, object, finished)| {
        Outcome { source, invocation: function.clone(), object, function, finished }
    })
}

pub(crate) fn any_settled() -> impl Strategy<Value = TriggerSettled> {
    let verdict = prop_oneof![
        any_finished().prop_map(Verdict::Ended),
        (any::<u64>(), text()).prop_map(|(at, reason)| Verdict::Retry { at: Timestamp(at), reason }),
        (text(), option::of(vec(any::<u8>(), 0..60)), option::of(any_finished())).prop_map(
            |(reason, payload, finished)| {
                let payload = payload.map(|payload| bytes::Bytes::from(payload).into());
                Verdict::Dead { reason, payload, finished }
            }
        ),
    ];
    let settlement = (any_attempt(), verdict).prop_map(|(attempt, verdict)| Settlement { attempt, verdict });
    vec(settlement, 0..4).prop_map(|settlements| TriggerSettled { settlements })
}

pub(crate) fn any_delivered() -> impl Strategy<Value = Delivered> {
    (vec(any_place(), 0..4), vec((any_place(), text()), 0..4))
        .prop_map(|(arrived, undeliverable)| Delivered { arrived, undeliverable })
}

pub(crate) fn any_discard() -> impl Strategy<Value = Discard> {
    (vec(any_place(), 0..4), text()).prop_map(|(letters, reason)| Discard { letters, reason })
}

fn any_finished() -> impl Strategy<Value = Finished> {
    let status = prop::sample::select(&STATUSES[..]);
    (status, text(), vec(any::<u8>(), 0..60), pairs(), any::<u64>()).prop_map(
        |(status, detail, payload, headers, took_us)| {
            let payload = bytes::Bytes::from(payload).into();
            Finished { status, detail, payload, headers, took_us }
        },
    )
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    (any::<u64>(), any_place(), any::<u32>(), any::<u32>()).prop_map(|(due, place, generation, attempt)| {
        let row = RowKey { due: Timestamp(due), offset: place.offset, index: place.index };
        Attempt { row, generation, attempt }
    })
}

fn any_place() -> impl Strategy<Value = Place> {
    (any::<u64>(), any::<u32>()).prop_map(|(offset, index)| Place { offset: Offset(offset), index })
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((text(), text()), 0..3)
}

fn text() -> impl Strategy<Value = String> {
    "[a-z0-9._:-]{0,20}"
}
