//! What a node says of calls: those that wait, those that were given up, and its figures.

use odgm_proto::odgm::v1::{
    CallSubject, CallTotals, DeadLetter, DiscardRequest, GetDeadLetterRequest, GetDeadLetterResponse,
    GetNodeRequest, GetResultRequest, GetResultResponse, InvokeRequest, InvokeResponse, LetterId,
    ListCallsRequest, ListDeadLettersRequest, PendingCall, RedriveRequest, TracedRecord,
};
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest, TriggerTarget};
use tonic::{Code, Status};

use crate::Result;
use crate::harness::clients::{Connection, Objects};
use crate::harness::until;

/// As many as a node lists at once.
const MOST: u32 = 1024;

impl Connection {
    /// What the partitions of a collection have of calls.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn totals(&self, class: &str) -> Result<Vec<CallTotals>, Status> {
        let request = ListCallsRequest { cls_id: class.to_owned(), partition_id: None, limit: 1 };
        Ok(self.calls.clone().list_calls(request).await?.into_inner().totals)
    }

    /// The calls that wait in the outboxes of a collection, at most 1024 of each partition.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn pending(&self, class: &str) -> Result<Vec<PendingCall>, Status> {
        let request = ListCallsRequest { cls_id: class.to_owned(), partition_id: None, limit: MOST };
        Ok(self.calls.clone().list_calls(request).await?.into_inner().calls)
    }

    /// Waits until no calls wait in these collections and no outcome is under way. Nobody may write meanwhile.
    ///
    /// # Errors
    /// When there are some, and none has gone for a minute.
    pub async fn settled(&self, classes: &[&str]) -> Result<()> {
        let mut least = u64::MAX;
        loop {
            let waiting = || format!("fewer than {least} calls in the outboxes of {classes:?}");
            let fewer = until(waiting, async || Ok(self.waiting(classes).await?.filter(|now| *now < least)));
            least = fewer.await?;
            // What leaves one partition may come to another that was looked at before: twice, then.
            if least == 0 {
                match self.waiting(classes).await? {
                    Some(0) => return Ok(()),
                    _ => least = u64::MAX,
                }
            }
        }
    }

    /// How many calls and outcomes are under way; none if not all partitions answer, as after a change of leader.
    async fn waiting(&self, classes: &[&str]) -> Result<Option<u64>> {
        let mut waiting = 0;
        for class in classes {
            match self.totals(class).await {
                Ok(totals) => {
                    waiting +=
                        totals.iter().map(|totals| totals.outbox_rows + totals.deliveries).sum::<u64>();
                }
                Err(status) if status.code() == Code::Unavailable => return Ok(None),
                Err(status) => return Err(status.into()),
            }
        }
        Ok(Some(waiting))
    }

    /// What was given up in a collection, at most 1024 of them.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn dead(&self, class: &str) -> Result<Vec<DeadLetter>, Status> {
        let request = ListDeadLettersRequest {
            cls_id: class.to_owned(),
            limit: MOST,
            ..ListDeadLettersRequest::default()
        };
        Ok(self.calls.clone().list_dead_letters(request).await?.into_inner().letters)
    }

    /// Waits until so many calls of a collection were given up.
    ///
    /// # Errors
    /// When they were not within a minute.
    pub async fn died(&self, class: &str, count: usize) -> Result<Vec<DeadLetter>> {
        let waiting = || format!("{count} dead letters in {class}");
        until(waiting, async || Ok(Some(self.dead(class).await?).filter(|dead| dead.len() >= count))).await
    }

    /// A figure of the node (`odgm stats`): the sum over its labels.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn figure(&self, name: &str) -> Result<f64, Status> {
        let metrics = self.admin.clone().get_node(GetNodeRequest {}).await?.into_inner().metrics;
        let is_one = |found: &str| {
            found.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        Ok(metrics.iter().filter(|metric| is_one(&metric.name)).map(|metric| metric.value).sum())
    }

    /// Waits until a figure is as wanted.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub async fn figure_where(&self, name: &str, wanted: impl Fn(f64) -> bool) -> Result<f64> {
        let waiting = || format!("{name} to be as wanted");
        until(waiting, async || Ok(Some(self.figure(name).await?).filter(|found| wanted(*found)))).await
    }
}

impl Objects {
    /// One dead letter of this partition, with its payload and its causes.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn dead_letter(&self, id: &LetterId) -> Result<GetDeadLetterResponse, Status> {
        let request =
            GetDeadLetterRequest { cls_id: self.class.clone(), partition_id: self.partition, id: Some(*id) };
        Ok(self.connection.calls.clone().get_dead_letter(request).await?.into_inner())
    }

    /// Tries dead letters again, all if none are named; how many there were.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn redrive(&self, letters: &[LetterId]) -> Result<u64, Status> {
        let request = RedriveRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            letters: letters.to_vec(),
            all: letters.is_empty(),
        };
        Ok(self.connection.calls.clone().redrive(request).await?.into_inner().redriven)
    }

    /// Drops dead letters, all if none are named; how many there were.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn discard(&self, letters: &[LetterId], reason: &str) -> Result<u64, Status> {
        let request = DiscardRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            letters: letters.to_vec(),
            reason: reason.to_owned(),
            all: letters.is_empty(),
        };
        Ok(self.connection.calls.clone().discard(request).await?.into_inner().discarded)
    }

    /// Calls a function and waits for its answer, on an object or a function by itself.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn invoke(
        &self,
        object: Option<&str>,
        function: &str,
        payload: &str,
    ) -> Result<InvocationResponse, Status> {
        let (cls_id, partition_id) = (self.class.clone(), self.partition);
        let (fn_id, payload) = (function.to_owned(), payload.to_owned().into());
        let mut functions = self.connection.functions.clone();
        let answer = match object {
            Some(object) => {
                let object_id_str = Some(object.to_owned());
                let request = ObjectInvocationRequest {
                    partition_id,
                    cls_id,
                    fn_id,
                    payload,
                    object_id_str,
                    ..ObjectInvocationRequest::default()
                };
                functions.invoke_obj(self.to_write(request)).await?
            }
            None => {
                let request = InvocationRequest {
                    partition_id,
                    cls_id,
                    fn_id,
                    payload,
                    ..InvocationRequest::default()
                };
                functions.invoke_fn(self.to_write(request)).await?
            }
        };
        Ok(answer.into_inner())
    }

    /// Asks for a call without waiting for it, on an object or of a function by itself.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn accept(
        &self,
        object: Option<&str>,
        function: &str,
        payload: &str,
        id: &str,
    ) -> Result<InvokeResponse, Status> {
        let request = InvokeRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            object_id: object.map(str::to_owned),
            fn_id: function.to_owned(),
            payload: payload.to_owned().into(),
            invocation_id: id.to_owned(),
            ..InvokeRequest::default()
        };
        Ok(self.connection.calls.clone().invoke(request).await?.into_inner())
    }

    /// What came of such a call; waits for its end for so long.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn result(&self, id: &str, wait_ms: u32) -> Result<GetResultResponse, Status> {
        let request = GetResultRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            invocation_id: id.to_owned(),
            wait_ms,
        };
        Ok(self.connection.calls.clone().get_result(request).await?.into_inner())
    }
}

/// A dead letter in one line: `a.k created -> things/0/b echo, depth 1, attempts 0: there is no ...`.
pub fn letter(letter: &DeadLetter) -> String {
    let subject = match &letter.subject {
        Some(asked) if !letter.is_delivery => subject(asked),
        _ => "outcome".to_owned(),
    };
    let target = letter.target.as_ref().map(target).unwrap_or_default();
    let (depth, attempts) = (letter.depth, letter.attempts);
    format!("{subject} -> {target}, depth {depth}, attempts {attempts}: {}", letter.reason)
}

fn subject(subject: &CallSubject) -> String {
    let CallSubject { kind, object_id, key, fn_id, action, invocation_id, .. } = subject;
    match kind.as_str() {
        "data" => format!("{object_id}.{key} {action}"),
        "function" => format!("{object_id} {fn_id} {action}"),
        "invocation" => format!("invocation {invocation_id}"),
        other => other.to_owned(),
    }
}

fn target(target: &TriggerTarget) -> String {
    let TriggerTarget { cls_id, partition_id, fn_id, object_id_str, .. } = target;
    let object = object_id_str.as_ref().map(|object| format!("/{object}")).unwrap_or_default();
    format!("{cls_id}/{partition_id}{object} {fn_id}")
}

/// Records of a trace without their offsets, one in each line.
pub fn causes(records: &[TracedRecord]) -> String {
    let line = |record: &TracedRecord| {
        let TracedRecord { cls_id, partition_id, operation, object_id, depth, .. } = record;
        format!("{cls_id}/{partition_id} {operation} {object_id}, depth {depth}")
    };
    records.iter().map(line).collect::<Vec<_>>().join("\n")
}
