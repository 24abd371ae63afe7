//! How a call ended, for people and programs: `invoke` and `result` show the same.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use odgm_proto::{odgm::v1, oprc};
use serde::Serialize;

use super::{
    address::CalleeAddress,
    call::{self, status_name},
    error::Error,
    output::Output,
    value::EntryValue,
};

/// A call, and how it ended if it has.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Answered {
    /// The collection.
    pub(crate) class: String,
    /// The partition.
    pub(crate) partition: u16,
    /// The object it was called on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) object: Option<String>,
    /// The function.
    pub(crate) function: String,
    /// The call's id, if it has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) invocation_id: String,
    /// Of accepted calls: pending, ended or dead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) state: String,
    /// How it ended.
    #[serde(flatten)]
    pub(crate) ended: Option<Ended>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// The record that accepted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) accepted_offset: Option<u64>,
    /// The record of how it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<u64>,
}

/// How a call ended.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Ended {
    status: &'static str,
    /// What went wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    /// What the function answered.
    payload: EntryValue,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_us: Option<u64>,
}

impl From<oprc::InvocationResponse> for Ended {
    fn from(response: oprc::InvocationResponse) -> Self {
        Self {
            status: status_name(response.status()),
            detail: String::new(),
            payload: EntryValue::bytes(response.payload.unwrap_or_default()),
            headers: response.headers,
            took_us: None,
        }
    }
}

impl From<v1::CallOutcome> for Ended {
    fn from(outcome: v1::CallOutcome) -> Self {
        Self {
            status: status_name(outcome.status()),
            detail: outcome.detail,
            payload: EntryValue::bytes(outcome.payload),
            headers: outcome.headers,
            took_us: Some(outcome.took_us),
        }
    }
}

impl Answered {
    /// A call of that function, of which nothing is known yet.
    pub(crate) fn of(callee: CalleeAddress, function: String) -> Self {
        let CalleeAddress { class, partition, object } = callee;
        Self { class, partition, object, function, ..Self::default() }
    }

    /// Shows it. An error if it has not completed, after what there was to say has been said.
    pub(crate) fn show(self, output: &mut Output) -> Result<(), Error> {
        let payload = self.ended.as_ref().map(|ended| ended.payload.0.data.clone()).unwrap_or_default();
        self.say(output, &payload)?;
        self.verdict()
    }

    fn say(&self, output: &mut Output, payload: &Bytes) -> Result<(), Error> {
        output.answer(self, payload, &self.note())
    }

    /// What stands beside the answer: `completed  demo/0/alice/count  offset 17  took 1.2 ms`.
    fn note(&self) -> String {
        let state = self.ended.as_ref().map_or(self.state.as_str(), |ended| ended.status);
        let mut parts = vec![state.to_owned(), self.to_string()];
        if !self.invocation_id.is_empty() {
            parts.push(format!("id {}", self.invocation_id));
        }
        parts.extend(self.accepted_offset.map(|offset| format!("accepted at {offset}")));
        parts.extend(self.offset.map(|offset| format!("offset {offset}")));
        if let Some(micros) = self.ended.as_ref().and_then(|ended| ended.took_us) {
            parts.push(format!("took {}", call::span(Duration::from_micros(micros))));
        }
        parts.join("  ")
    }

    fn verdict(&self) -> Result<(), Error> {
        match (&self.ended, self.state.as_str()) {
            (Some(ended), _) if ended.status == status_name(oprc::ResponseStatus::Okay) => Ok(()),
            (Some(Ended { status, detail, .. }), _) if detail.is_empty() => {
                Err(Error::Failed(format!("{self} ended with {status}")))
            }
            (Some(Ended { status, detail, .. }), _) => {
                Err(Error::Failed(format!("{self} ended with {status}: {detail}")))
            }
            (None, "dead") => Err(Error::Failed(format!(
                "{self} was given up: {}; `odgm dead-letter list {}/{}` has it, unless it was dropped",
                self.reason, self.class, self.partition
            ))),
            (None, state) => Err(Error::Unavailable(format!(
                "{self} is {state}: it waits or is being called; ask again later, or with --wait SECONDS"
            ))),
        }
    }
}

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/", self.class, self.partition)?;
        self.object.as_ref().map_or(Ok(()), |object| write!(f, "{object}/"))?;
        f.write_str(&self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::error::exit;

    fn call() -> Answered {
        let callee = CalleeAddress { class: "demo".into(), partition: 0, object: Some("alice".into()) };
        Answered::of(callee, "count".into())
    }

    fn ended(status: oprc::ResponseStatus, detail: &str) -> Answered {
        let outcome = v1::CallOutcome {
            invocation_id: String::new(),
            fn_id: "count".into(),
            status: status.into(),
            detail: detail.into(),
            payload: "3".into(),
            headers: [("content-type".to_owned(), "text/plain".to_owned())].into(),
            took_us: 1_250,
        };
        Answered { ended: Some(outcome.into()), offset: Some(17), state: "ended".into(), ..call() }
    }

    #[test]
    fn beside_an_answer_stands_how_the_call_ended() {
        let answered = Answered { accepted_offset: Some(16), ..ended(oprc::ResponseStatus::Okay, "") };
        let answered = Answered { invocation_id: "i-1".into(), ..answered };
        insta::assert_snapshot!(answered.note(), @"completed  demo/0/alice/count  id i-1  accepted at 16  offset 17  took 1.2 ms");
        insta::assert_json_snapshot!(answered, @r#"
        {
          "class": "demo",
          "partition": 0,
          "object": "alice",
          "function": "count",
          "invocation_id": "i-1",
          "state": "ended",
          "status": "completed",
          "payload": "3",
          "headers": {
            "content-type": "text/plain"
          },
          "took_us": 1250,
          "accepted_offset": 16,
          "offset": 17
        }
        "#);
        assert!(answered.verdict().is_ok());
    }

    #[test]
    fn what_has_not_completed_says_so_by_its_exit_code() {
        let failed = ended(oprc::ResponseStatus::AppError, "out of range").verdict().expect_err("failed");
        insta::assert_snapshot!(failed, @"demo/0/alice/count ended with application_error: out of range");
        assert_eq!(failed.exit_code(), exit::FAILURE);

        let dead = Answered { state: "dead".into(), reason: "20 attempts failed".into(), ..call() };
        let given_up = dead.verdict().expect_err("given up");
        insta::assert_snapshot!(given_up, @"demo/0/alice/count was given up: 20 attempts failed; `odgm dead-letter list demo/0` has it, unless it was dropped");
        assert_eq!(given_up.exit_code(), exit::FAILURE);

        let pending = Answered { state: "pending".into(), accepted_offset: Some(16), ..call() };
        insta::assert_snapshot!(pending.note(), @"pending  demo/0/alice/count  accepted at 16");
        let waits = pending.verdict().expect_err("not yet");
        insta::assert_snapshot!(waits, @"demo/0/alice/count is pending: it waits or is being called; ask again later, or with --wait SECONDS");
        assert_eq!(waits.exit_code(), exit::UNAVAILABLE);
    }
}
