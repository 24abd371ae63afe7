//! A node with a processor, functions that do as they are told, and a post within the node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::body::calls::Status;
use odgm_log::body::{DataTrigger, FunctionTrigger, Set, SetValues, Target, Triggers, Value};
use odgm_log::{Body, Cause, Offset, Payload};
use odgm_projections::{Header, Outcome, RecordSource as _};
use odgm_proto::oprc::CreateCollectionRequest;
use odgm_replication::{Definition, Manager, Options, Partition};
use odgm_triggers::processor::{Processor, Settings};
use odgm_triggers::{Announce, Answer, Call, Failure, Invoker, Post, PostError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What functions do, by their names.
#[derive(Clone, Debug)]
pub(crate) enum Doing {
    Answers(Status),
    Fails,
    /// Its breaker is open.
    IsHeld,
    /// It does not come to an end.
    Hangs,
    IsMissing,
}

/// Makes no calls but notes them.
pub(crate) struct Functions {
    doing: watch::Sender<BTreeMap<String, Doing>>,
    calls: Mutex<Vec<Call>>,
    counts: watch::Sender<Counts>,
}

/// How many calls.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Were made.
    made: usize,
    /// Are under way, those that are held back too.
    under_way: usize,
    /// Were so at most.
    most: usize,
}

impl Functions {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            doing: watch::Sender::new(BTreeMap::new()),
            calls: Mutex::new(Vec::new()),
            counts: watch::Sender::default(),
        })
    }

    pub(crate) fn set(&self, function: &str, doing: Doing) {
        self.doing.send_modify(|all| {
            all.insert(function.to_owned(), doing);
        });
    }

    /// Calls that were made, not those that were held back.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().clone()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.counts.borrow().most
    }

    /// Waits until none is under way.
    pub(crate) async fn left_alone(&self) {
        self.when(|counts| counts.under_way == 0).await;
    }

    /// Waits until so many calls have been made.
    pub(crate) async fn called(&self, times: usize) {
        self.when(|counts| counts.made >= times).await;
    }

    async fn when(&self, reached: impl FnMut(&Counts) -> bool) {
        self.counts.subscribe().wait_for(reached).await.expect("its sender is here");
    }
}

struct UnderWay<'a>(&'a Functions);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.counts.send_modify(|counts| counts.under_way -= 1);
    }
}

impl Invoker for Functions {
    async fn invoke(&self, call: &Call) -> Result<Answer, Failure> {
        let mut doing = self.doing.subscribe();
        let now = doing.borrow_and_update().get(&call.target.function).cloned();
        let is_made = !matches!(now, Some(Doing::IsHeld));
        if is_made {
            self.calls.lock().push(call.clone());
        }
        self.counts.send_modify(|counts| {
            counts.made += usize::from(is_made);
            counts.under_way += 1;
            counts.most = counts.most.max(counts.under_way);
        });
        let _under_way = UnderWay(self);
        match now.unwrap_or(Doing::Answers(Status::Completed)) {
            Doing::Answers(status) => {
                let payload = format!("answer to {}", call.key).into();
                Ok(Answer { status, payload, headers: BTreeMap::from([("by".into(), "nobody".into())]) })
            }
            Doing::Fails => Err(Failure::Unreachable { reason: "nobody is there".into() }),
            Doing::IsHeld => {
                let until = Instant::now() + Duration::from_millis(20);
                Err(Failure::Held { until, reason: "the breaker is open".into() })
            }
            Doing::Hangs => {
                let goes_on = |all: &BTreeMap<String, Doing>| {
                    !matches!(all.get(&call.target.function), Some(Doing::Hangs))
                };
                let _ = doing.wait_for(goes_on).await;
                Ok(Answer::default())
            }
            Doing::IsMissing => Err(Failure::NoClass { class: call.target.class.clone() }),
        }
    }
}

/// Brings outcomes to partitions of this node.
struct Within(Arc<Manager>);

impl Post for Within {
    fn deliver(
        &self,
        class: &str,
        partition: u32,
        payload: Payload,
    ) -> BoxFuture<'static, Result<(), PostError>> {
        let found = self.0.partition(class, partition);
        async move {
            let partition = found.map_err(|error| PostError::Gone(error.to_string()))?;
            let answer = partition.propose(payload).await;
            answer.map(drop).map_err(|error| PostError::Later(error.to_string()))
        }
        .boxed()
    }
}

/// What was announced.
#[derive(Default)]
pub(crate) struct Announced(Mutex<Vec<String>>);

impl Announced {
    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.lock().clone()
    }
}

impl Announce for Announced {
    fn announce(&self, call: &Call) {
        self.0.lock().push(call.key.clone());
    }
}

pub(crate) struct Node {
    pub(crate) manager: Arc<Manager>,
    pub(crate) announced: Arc<Announced>,
    processor: Processor,
    stop: CancellationToken,
}

impl Node {
    pub(crate) async fn start(dir: &Path, functions: &Arc<Functions>) -> Self {
        Self::start_with(dir, functions, Settings::default()).await
    }

    pub(crate) async fn start_with(dir: &Path, functions: &Arc<Functions>, settings: Settings) -> Self {
        let manager = Manager::open(Options::new(dir)).await.expect("the node starts");
        manager.ready().await;
        let (post, announced) = (Arc::new(Within(Arc::clone(&manager))), Arc::new(Announced::default()));
        let settings = Settings {
            trigger_backoff: Duration::from_millis(5),
            trigger_backoff_max: Duration::from_millis(20),
            ..settings
        };
        let stop = CancellationToken::new();
        let processor = Processor::start(
            Arc::clone(&manager),
            Arc::clone(functions),
            post,
            Some(Arc::clone(&announced) as Arc<dyn Announce>),
            settings,
            stop.clone(),
        );
        Self { manager, announced, processor, stop }
    }

    pub(crate) async fn collection(&self, name: &str, options: &[(&str, &str)]) -> Arc<Partition> {
        let definition = Definition::from_wire(CreateCollectionRequest {
            name: name.into(),
            partition_count: 1,
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..Default::default()
        });
        self.manager.create_collection(definition.expect("valid")).await.expect("created");
        self.manager.partition(name, 0).expect("in service")
    }

    /// Ends the processor, then the node.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.processor.ended(Duration::from_secs(30)).await;
        self.manager.shutdown().await;
    }
}

pub(crate) fn target(class: &str, function: &str) -> Target {
    Target {
        class: class.into(),
        function: function.into(),
        object: Some("counter".into()),
        ..Target::default()
    }
}

/// What to call when entry `n` is written, and when a function of the object has completed or failed.
pub(crate) fn triggers(on_write: &[Target], on_complete: &[Target], on_error: &[Target]) -> Triggers {
    let data =
        DataTrigger { on_create: on_write.to_vec(), on_update: on_write.to_vec(), on_delete: Vec::new() };
    let function = FunctionTrigger { on_complete: on_complete.to_vec(), on_error: on_error.to_vec() };
    let functions = if on_complete.is_empty() && on_error.is_empty() {
        Vec::new()
    } else {
        vec![("count".to_owned(), function)]
    };
    Triggers { functions, data: vec![("n".into(), data)] }
}

/// Gives an object its triggers.
pub(crate) async fn attach(partition: &Partition, object: &str, triggers: Triggers) {
    let body = Body::Set(Set { object: object.into(), entries: Vec::new(), triggers: Some(triggers) });
    partition.propose(Payload { cause: Cause::default(), body }).await.expect("written");
}

pub(crate) fn put(object: &str, value: &str) -> Payload {
    let puts = vec![("n".to_owned(), Value::bytes(value.to_owned()))];
    let body = SetValues { object: object.into(), puts, deletes: Vec::new(), expected_version: None };
    Payload { cause: Cause::default(), body: Body::SetValues(body) }
}

pub(crate) async fn write(partition: &Partition, payload: Payload) -> Offset {
    let applied = partition.propose(payload).await.expect("written");
    assert!(matches!(applied.outcome, Outcome::Changed { .. }), "{:?}", applied.outcome);
    applied.offset
}

/// Waits until the view of a partition is so.
pub(crate) async fn until(partition: &Partition, reached: impl Fn(&Header) -> bool) {
    let mut visible = partition.visible();
    loop {
        visible.borrow_and_update();
        if reached(&partition.view().header()) {
            return;
        }
        visible.changed().await.expect("the partition is there");
    }
}

/// Waits until nothing is to be done any more.
pub(crate) async fn settled(partition: &Partition) {
    until(partition, |header| header.calls.outbox_rows == 0 && header.calls.deliveries == 0).await;
}

/// Outcomes in the log, in order: the function, how it ended, and the record that caused the call.
pub(crate) fn outcomes(partition: &Partition) -> Vec<(String, Status, u64)> {
    let records = partition.records();
    let (first, last) = (records.first(), records.last());
    let mut found = Vec::new();
    for offset in first.0..=last.0 {
        let payload = records.get(Offset(offset)).expect("readable").decode().expect("readable");
        if let Body::Outcome(outcome) = payload.body {
            let parent = payload.cause.parent.expect("outcomes have a cause");
            found.push((outcome.function, outcome.finished.status, parent.offset.0));
        }
    }
    found
}
