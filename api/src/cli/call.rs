//! Calls of functions as they are shown: what asks for them, what they call, and how they ended.

use std::{collections::BTreeMap, fmt, time::Duration};

use odgm_proto::{odgm::v1, oprc};
use serde::Serialize;

use super::time;

/// A function that is called, and what on. For people as it is typed: `CLASS/PARTITION[/OBJECT]/FUNCTION`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TargetView {
    class: String,
    partition: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    function: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    options: BTreeMap<String, String>,
}

impl From<oprc::TriggerTarget> for TargetView {
    fn from(target: oprc::TriggerTarget) -> Self {
        let number = target.object_id.map(|number| number.to_string());
        Self {
            class: target.cls_id,
            partition: target.partition_id,
            object: target.object_id_str.or(number),
            function: target.fn_id,
            options: target.req_options,
        }
    }
}

impl fmt::Display for TargetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/", self.class, self.partition)?;
        self.object.as_ref().map_or(Ok(()), |object| write!(f, "{object}/"))?;
        f.write_str(&self.function)
    }
}

impl TargetView {
    /// The options of the request, as they are typed.
    pub(crate) fn options(&self) -> String {
        let options: Vec<_> = self.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        options.join(" ")
    }
}

/// What asks for a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SubjectView {
    /// data, function or invocation
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    object: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    function: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    action: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    invocation_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    version: u64,
}

// serde wants a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<v1::CallSubject> for SubjectView {
    fn from(subject: v1::CallSubject) -> Self {
        Self {
            kind: subject.kind,
            object: subject.object_id,
            key: subject.key,
            function: subject.fn_id,
            action: subject.action,
            invocation_id: subject.invocation_id,
            version: subject.version,
        }
    }
}

/// `OBJECT/KEY updated`, `OBJECT/FUNCTION complete`, `invocation ID`.
impl fmt::Display for SubjectView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.as_str() {
            "data" => write!(f, "{}/{} {}", self.object, self.key, self.action),
            "function" if self.object.is_empty() => write!(f, "{} {}", self.function, self.action),
            "function" => write!(f, "{}/{} {}", self.object, self.function, self.action),
            "invocation" => write!(f, "invocation {}", self.invocation_id),
            other => f.write_str(other),
        }
    }
}

/// A call that waits in an outbox.
#[derive(Debug, Serialize)]
pub(crate) struct PendingView {
    /// The partition whose outbox it is in.
    pub(crate) partition: u32,
    /// The record that caused it.
    pub(crate) offset: u64,
    /// The place among what that record caused.
    pub(crate) index: u32,
    /// What asks for it.
    pub(crate) subject: SubjectView,
    /// What it calls.
    pub(crate) target: Option<TargetView>,
    /// How many triggers led to it.
    pub(crate) depth: u32,
    generation: u32,
    /// How many attempts came before.
    pub(crate) attempt: u32,
    /// From when on it may be made.
    pub(crate) due: String,
    created: String,
    /// Why the last attempt failed; empty before there was one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) last_error: String,
    idempotency_key: String,
}

impl From<v1::PendingCall> for PendingView {
    fn from(call: v1::PendingCall) -> Self {
        Self {
            partition: call.partition_id,
            offset: call.offset,
            index: call.index,
            subject: call.subject.map(SubjectView::from).unwrap_or_default(),
            target: call.target.map(TargetView::from),
            depth: call.depth,
            generation: call.generation,
            attempt: call.attempt,
            due: time::format_ms(call.due_ms),
            created: time::format_ms(call.created_ms),
            last_error: call.last_error,
            idempotency_key: call.idempotency_key,
        }
    }
}

/// A target for people; nothing where there is none.
pub(crate) fn target_text(target: Option<&TargetView>) -> String {
    target.map_or_else(String::new, TargetView::to_string)
}

/// How a call ended, as the log has it.
pub(crate) const fn status_name(status: oprc::ResponseStatus) -> &'static str {
    match status {
        oprc::ResponseStatus::Okay => "completed",
        oprc::ResponseStatus::InvalidRequest => "invalid_request",
        oprc::ResponseStatus::AppError => "application_error",
        oprc::ResponseStatus::SystemError => "system_error",
    }
}

/// How long something took, to about three digits.
pub(crate) fn span(time: Duration) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    let seconds = time.as_secs_f64();
    match time.as_micros() {
        micros @ 0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 2.0 * MINUTE => format!("{seconds:.1} s"),
        _ if seconds < 2.0 * HOUR => format!("{:.1} min", seconds / MINUTE),
        _ => format!("{:.1} h", seconds / HOUR),
    }
}

/// Reads an option of a request.
pub(crate) fn parse_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, for example accept=text/plain".to_owned()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A function of an object, and one of a class.
    pub(crate) fn targets() -> [oprc::TriggerTarget; 2] {
        let of_class = oprc::TriggerTarget {
            cls_id: "flights".into(),
            partition_id: 0,
            fn_id: "count".into(),
            req_options: [("mode".to_owned(), "fast".to_owned())].into(),
            ..Default::default()
        };
        let of_object = oprc::TriggerTarget {
            partition_id: 2,
            object_id_str: Some("iah".into()),
            req_options: BTreeMap::new(),
            ..of_class.clone()
        };
        [of_class, of_object]
    }

    /// A call that a trigger asks for, and that has failed twice.
    pub(crate) fn pending() -> v1::PendingCall {
        let [_, of_object] = targets();
        v1::PendingCall {
            partition_id: 3,
            offset: 17,
            index: 1,
            subject: Some(v1::CallSubject {
                kind: "data".into(),
                object_id: "n14228".into(),
                key: "dest".into(),
                action: "updated".into(),
                version: 5,
                ..Default::default()
            }),
            target: Some(of_object),
            depth: 1,
            generation: 0,
            attempt: 2,
            due_ms: 1_772_368_200_000,
            created_ms: 1_772_368_199_000,
            last_error: "the function was not reached: connection refused".into(),
            idempotency_key: "4/1/17/1".into(),
        }
    }

    #[test]
    fn what_is_called_and_what_asks_for_it_is_a_few_words() {
        let targets = targets().map(TargetView::from);
        assert_eq!(
            targets.clone().map(|target| target.to_string()),
            ["flights/0/count", "flights/2/iah/count"]
        );
        assert_eq!(targets.map(|target| target.options()), ["mode=fast", ""]);
        let subject = |kind: &str, object: &str| {
            SubjectView::from(v1::CallSubject {
                kind: kind.into(),
                object_id: object.into(),
                key: "dest".into(),
                fn_id: "count".into(),
                action: "done".into(),
                invocation_id: "i-1".into(),
                version: 0,
            })
            .to_string()
        };
        assert_eq!(subject("data", "n14228"), "n14228/dest done");
        assert_eq!(subject("function", "n14228"), "n14228/count done");
        assert_eq!(subject("function", ""), "count done");
        assert_eq!(subject("invocation", ""), "invocation i-1");
    }

    #[test]
    fn times_are_short() {
        let spans = [999, 1_240, 999_900, 2_500_000, 119_000_000, 3_600_000_000, 90_000_000_000];
        let spans: Vec<_> = spans.into_iter().map(|micros| span(Duration::from_micros(micros))).collect();
        assert_eq!(spans.join(", "), "999 us, 1.2 ms, 999.9 ms, 2.5 s, 119.0 s, 60.0 min, 25.0 h");
    }
}
