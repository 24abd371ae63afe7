//! Calls of functions over Zenoh: those that clients ask this node for, and those that it makes.
//!
//! A function with a URL is called through the nodes that have its partition. One without is a queryable of its own, at the
//! key where clients call it; so the node declares nothing there, and asks there itself ([`Remote`]). Who listens is told of
//! the calls that triggers ask for ([`Announcer`]).

mod accepting;
mod announcing;
mod answering;
mod remote;

pub(crate) use self::announcing::Announcer;
pub(crate) use self::remote::Remote;

pub(super) use self::accepting::Accepting;
pub(super) use self::answering::{CallAnswers, busy};

use bytes::Bytes;
use odgm_proto::metadata::{CAUSE, DEPTH, IDEMPOTENCY_KEY, TRACEPARENT};
use odgm_triggers::Call;
use odgm_triggers::functions::Message;
use prost::Message as _;

use super::attachment;
use super::places::is_segment;

/// What of a request's options is attached to it, too.
const ATTACHED: [&str; 4] = [CAUSE, DEPTH, IDEMPOTENCY_KEY, TRACEPARENT];

/// The request of a call and its attachment.
fn request(call: &Call) -> (Bytes, Vec<u8>) {
    let message = Message::of(call);
    let (bytes, options) = match &message {
        Message::Function(request) => (request.encode_to_vec(), &request.options),
        // Whoever expects a request without object finds one in it.
        Message::Object(request) => (request.encode_to_vec(), &request.options),
    };
    let attached = ATTACHED.iter().filter_map(|name| Some((*name, options.get(*name)?.as_str())));
    (bytes.into(), attachment::write(&attached.collect::<Vec<_>>()))
}

/// The key of something about a call: `oprc/CLASS/PARTITION/[objects/ID/]WORD/FUNCTION`. None if a name cannot be a part
/// of a key.
fn key(call: &Call, on_object: bool, word: &str) -> Option<String> {
    let target = &call.target;
    let object = target.object.as_deref().filter(|_| on_object);
    if !is_segment(&target.class) || !is_segment(&target.function) || !object.is_none_or(is_segment) {
        return None;
    }
    let object = object.map_or_else(String::new, |object| format!("objects/{object}/"));
    Some(format!("oprc/{}/{}/{object}{word}/{}", target.class, target.partition, target.function))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use odgm_log::body::{Parent, Target};
    use odgm_log::{GroupId, NodeId, Offset};
    use odgm_proto::oprc::{InvocationRequest, ObjectInvocationRequest};

    use super::*;

    /// A call that a trigger asks for.
    fn call(object: Option<&str>) -> Call {
        Call {
            key: "4/1/17/0".into(),
            target: Target {
                class: "Airports".into(),
                partition: 2,
                object: object.map(str::to_owned),
                function: "count".into(),
                options: vec![("mode".into(), "fast".into())],
            },
            payload: "{}".into(),
            depth: 3,
            cause: Some(Parent { group: GroupId(4), origin: NodeId(1), offset: Offset(17) }),
            traceparent: None,
            timeout: Duration::from_secs(1),
            is_given_its_time: true,
        }
    }

    #[test]
    fn a_request_on_an_object_can_be_read_as_one_without() {
        let (bytes, attached) = request(&call(Some("42")));
        let on_object = ObjectInvocationRequest::decode(bytes.clone()).expect("a request");
        assert_eq!((on_object.object_id, on_object.object_id_str.as_deref()), (42, Some("42")));
        let by_itself = InvocationRequest::decode(bytes).expect("the same as a request without object");
        assert_eq!((by_itself.fn_id, by_itself.options), (on_object.fn_id, on_object.options));
        let metadata = attachment::metadata(Some(&attached)).expect("an attachment");
        let pairs: Vec<_> = ATTACHED
            .iter()
            .filter_map(|name| Some(format!("{name}={}", metadata.get(*name)?.to_str().ok()?)))
            .collect();
        assert_eq!(pairs.join(" "), "odgm-cause=4/1/17 odgm-depth=3 odgm-idempotency-key=4/1/17/0");
    }

    #[test]
    fn the_key_of_a_call_is_that_of_its_target() {
        let on = |object: Option<&str>, on_object| key(&call(object), on_object, "invokes");
        assert_eq!(on(None, true).as_deref(), Some("oprc/Airports/2/invokes/count"));
        assert_eq!(on(Some("iah"), true).as_deref(), Some("oprc/Airports/2/objects/iah/invokes/count"));
        assert_eq!(
            on(Some("iah"), false).as_deref(),
            Some("oprc/Airports/2/invokes/count"),
            "a stateless one"
        );
        let mut odd = call(None);
        odd.target.function = "count/all".into();
        assert_eq!(key(&odd, true, "invokes"), None);
    }
}
