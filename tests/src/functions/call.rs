//! A call as a function sees it.

use std::collections::BTreeMap;

use bytes::Bytes;
use odgm_proto::metadata::{CAUSE, DEPTH, IDEMPOTENCY_KEY, TRACEPARENT};
use odgm_proto::oprc::{InvocationRequest, ObjectInvocationRequest, TriggerPayload};
use tonic::Request;
use tonic::metadata::MetadataMap;

/// What a function passes on with all that it writes: so the grid knows how deep a chain of triggers is, and what caused it.
pub(super) const PASSED_ON: [&str; 3] = [DEPTH, CAUSE, TRACEPARENT];

/// One call of a function, whether on an object or by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The class.
    pub class: String,
    /// The partition.
    pub partition: u32,
    /// The object that it is called on; none for a function of the class.
    pub object: Option<String>,
    /// The function.
    pub function: String,
    /// The options of the request.
    pub options: BTreeMap<String, String>,
    /// What it is called with.
    pub payload: Bytes,
    /// What travels beside the request.
    pub beside: BTreeMap<&'static str, String>,
    /// How long the caller waits, as gRPC writes it; empty if it does not say.
    pub timeout: String,
}

impl Call {
    /// A call of a function by itself.
    pub fn of_class(request: Request<InvocationRequest>) -> Self {
        let (metadata, _, request) = request.into_parts();
        Self {
            class: request.cls_id,
            partition: request.partition_id,
            object: None,
            function: request.fn_id,
            beside: beside(&metadata, &request.options),
            options: request.options,
            payload: request.payload,
            timeout: text(&metadata, "grpc-timeout").unwrap_or_default(),
        }
    }

    /// A call of a function on an object.
    pub fn of_object(request: Request<ObjectInvocationRequest>) -> Self {
        let (metadata, _, request) = request.into_parts();
        Self {
            class: request.cls_id,
            partition: request.partition_id,
            // The string wins; the number is for clients that have no strings.
            object: Some(request.object_id_str.unwrap_or_else(|| request.object_id.to_string())),
            function: request.fn_id,
            beside: beside(&metadata, &request.options),
            options: request.options,
            payload: request.payload,
            timeout: text(&metadata, "grpc-timeout").unwrap_or_default(),
        }
    }

    /// What the function does: its name up to the first `-`.
    pub fn action(&self) -> &str {
        self.function.split_once('-').map_or(self.function.as_str(), |(action, _)| action)
    }

    /// What follows the first `-` of its name.
    pub fn argument(&self) -> Option<&str> {
        self.function.split_once('-').map(|(_, argument)| argument)
    }

    /// The same for every attempt at the same call; empty if the caller gives none.
    pub fn key(&self) -> &str {
        self.beside.get(IDEMPOTENCY_KEY).map_or("", String::as_str)
    }

    /// How many triggers led here.
    pub fn depth(&self) -> u32 {
        self.beside.get(DEPTH).and_then(|depth| depth.parse().ok()).unwrap_or_default()
    }

    /// What a trigger says of itself, if it was one that called.
    pub fn trigger(&self) -> Option<TriggerPayload> {
        let payload: TriggerPayload = serde_json::from_slice(&self.payload).ok()?;
        payload.event_info.is_some().then_some(payload)
    }

    /// What the call is about: what was written, if a trigger tells of that, or else all that it was called with.
    pub fn subject(&self) -> Bytes {
        match self.trigger() {
            Some(trigger) => trigger.original_payload.unwrap_or_default(),
            None => self.payload.clone(),
        }
    }
}

/// What travels beside the request, in its metadata or else in its options.
fn beside(metadata: &MetadataMap, options: &BTreeMap<String, String>) -> BTreeMap<&'static str, String> {
    let names = PASSED_ON.into_iter().chain([IDEMPOTENCY_KEY]);
    let found = names.filter_map(|name| {
        let value = text(metadata, name).or_else(|| options.get(name).cloned())?;
        Some((name, value))
    });
    found.collect()
}

fn text(metadata: &MetadataMap, name: &str) -> Option<String> {
    metadata.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use odgm_proto::oprc::EventInfo;

    use super::*;

    fn called(function: &str, payload: &[u8]) -> Call {
        Call { function: function.to_owned(), payload: payload.to_vec().into(), ..Call::default() }
    }

    #[test]
    fn a_name_is_what_is_done_and_an_argument() {
        let parts = |name: &str| {
            let call = called(name, b"");
            (call.action().to_owned(), call.argument().map(str::to_owned))
        };
        assert_eq!(parts("count"), ("count".to_owned(), None));
        assert_eq!(parts("loop-b-2"), ("loop".to_owned(), Some("b-2".to_owned())));
    }

    #[test]
    fn metadata_come_before_options_and_the_rest_is_not_heeded() {
        let mut request = Request::new(InvocationRequest {
            options: [(DEPTH, "7"), (CAUSE, "1/0/9"), ("color", "red")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..InvocationRequest::default()
        });
        request.metadata_mut().insert(DEPTH, "2".parse().expect("digits"));
        request.metadata_mut().insert(IDEMPOTENCY_KEY, "1/0/9/0".parse().expect("a key"));
        let call = Call::of_class(request);
        assert_eq!((call.depth(), call.key()), (2, "1/0/9/0"));
        assert_eq!(call.beside.get(CAUSE).map(String::as_str), Some("1/0/9"));
        assert_eq!(call.options.get("color").map(String::as_str), Some("red"));
        assert_eq!(call.beside.len(), 3);
    }

    #[test]
    fn a_call_is_about_what_was_written_or_about_all_it_came_with() {
        let trigger = TriggerPayload {
            event_info: Some(EventInfo { key: Some("dest".to_owned()), ..EventInfo::default() }),
            original_payload: Some(Bytes::from_static(b"OSL")),
        };
        let payload = serde_json::to_vec(&trigger).expect("JSON");
        assert_eq!(called("arrive", &payload).subject(), "OSL");
        for plain in ["OSL", "{}", ""] {
            assert_eq!(called("arrive", plain.as_bytes()).subject(), plain);
        }
    }
}
