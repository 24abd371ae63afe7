//! A call as the messages and metadata of the contract.

use std::collections::BTreeMap;
use std::time::Duration;

use odgm_log::body::calls::Status;
use odgm_proto::canonical;
use odgm_proto::metadata;
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::call::Call;
use crate::invoker::{Answer, Failure};

/// A call as it is sent, over whichever transport.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Of a function by itself: `InvokeFn`.
    Function(InvocationRequest),
    /// Of a function on an object: `InvokeObj`.
    Object(ObjectInvocationRequest),
}

impl Message {
    /// The message of a call. What travels with it is in its options, too; an option of the target gives way to one of
    /// the same name that the call itself has.
    pub fn of(call: &Call) -> Self {
        let target = &call.target;
        let mut options: BTreeMap<String, String> = target.options.iter().cloned().collect();
        options.extend(beside(call).map(|(name, value)| (name.to_owned(), value)));
        let (partition_id, cls_id, fn_id) = (target.partition, target.class.clone(), target.function.clone());
        let payload = call.payload.clone();
        match &target.object {
            None => Self::Function(InvocationRequest { partition_id, cls_id, fn_id, options, payload }),
            Some(object) => Self::Object(ObjectInvocationRequest {
                partition_id,
                object_id: canonical(object).unwrap_or_default(),
                cls_id,
                fn_id,
                options,
                payload,
                object_id_str: Some(object.clone()),
            }),
        }
    }
}

/// What travels with a call, by name.
fn beside(call: &Call) -> impl Iterator<Item = (&'static str, String)> {
    let cause = call.cause.map(|cause| format!("{}/{}/{}", cause.group, cause.origin, cause.offset));
    let key = (!call.key.is_empty()).then(|| call.key.clone());
    let all = [
        (metadata::DEPTH, Some(call.depth.to_string())),
        (metadata::CAUSE, cause),
        (metadata::IDEMPOTENCY_KEY, key),
        (metadata::TRACEPARENT, call.traceparent.clone()),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?)))
}

/// A message as a request that may take so long.
pub(crate) fn request<M>(call: &Call, message: M, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    fill(request.metadata_mut(), call);
    request
}

fn fill(metadata: &mut MetadataMap, call: &Call) {
    for (name, value) in beside(call) {
        // What a client made up and metadata cannot hold is in the options all the same.
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.insert(name, value);
        }
    }
}

/// What a function answered.
///
/// # Errors
/// [`Failure::Garbled`] if it gave a status that there is not.
pub fn answer(response: InvocationResponse) -> Result<Answer, Failure> {
    let status = match response.status {
        0 => Status::Completed,
        1 => Status::InvalidRequest,
        2 => Status::ApplicationError,
        3 => Status::SystemError,
        other => {
            return Err(Failure::Garbled {
                reason: format!("it answered with status {other}; expected 0 to 3"),
            });
        }
    };
    let payload = response.payload.unwrap_or_default();
    Ok(Answer { status, payload, headers: response.headers })
}

#[cfg(test)]
mod tests {
    use odgm_log::body::{Parent, Target};
    use odgm_log::{GroupId, NodeId, Offset};

    use super::*;

    fn call(object: Option<&str>) -> Call {
        let options = [("odgm-depth", "0"), ("odgm-cause", "forged"), ("odgm-request-id", "r"), ("x", "y")];
        let target = Target {
            class: "C".into(),
            partition: 3,
            object: object.map(str::to_owned),
            function: "f".into(),
            options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        };
        Call {
            key: "7/1/42/0".into(),
            target,
            payload: "p".into(),
            depth: 4,
            cause: Some(Parent { group: GroupId(7), origin: NodeId(1), offset: Offset(42) }),
            traceparent: None,
            timeout: Duration::from_secs(1),
            is_given_its_time: false,
        }
    }

    #[test]
    fn what_the_call_has_wins_over_options_of_its_target() {
        let Message::Function(request) = Message::of(&call(None)) else { panic!("a function by itself") };
        insta::assert_debug_snapshot!(request.options, @r#"
        {
            "odgm-cause": "7/1/42",
            "odgm-depth": "4",
            "odgm-idempotency-key": "7/1/42/0",
            "odgm-request-id": "r",
            "x": "y",
        }
        "#);
        assert_eq!((request.cls_id.as_str(), request.partition_id, request.fn_id.as_str()), ("C", 3, "f"));
    }

    #[test]
    fn an_object_is_named_in_both_columns_where_it_is_a_number() {
        for (id, number) in [("42", 42), ("0", 0), ("042", 0), ("a", 0), ("99999999999999999999", 0)] {
            let Message::Object(request) = Message::of(&call(Some(id))) else { panic!("on an object") };
            assert_eq!((request.object_id_str.as_deref(), request.object_id), (Some(id), number));
        }
    }

    #[test]
    fn what_metadata_cannot_hold_does_not_hinder_the_call() {
        let call = Call { traceparent: Some("line\nbreak".into()), ..call(None) };
        let request = request(&call, (), call.timeout);
        assert!(request.metadata().get(metadata::TRACEPARENT).is_none());
        let depth = request.metadata().get(metadata::DEPTH).and_then(|depth| depth.to_str().ok());
        assert_eq!(depth, Some("4"));
        assert!(request.metadata().contains_key("grpc-timeout"));
    }

    #[test]
    fn a_status_that_there_is_not_is_no_answer() {
        let response = |status| InvocationResponse { status, ..InvocationResponse::default() };
        assert_eq!(answer(response(2)).map(|answer| answer.status), Ok(Status::ApplicationError));
        assert!(matches!(answer(response(4)), Err(Failure::Garbled { .. })));
    }
}
