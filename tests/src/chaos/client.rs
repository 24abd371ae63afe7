//! Clients that read and write a few objects at any node, each one request at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use odgm_linearizability::merging::Request;
use odgm_linearizability::object::{Input, Output, Whole};
use odgm_proto::metadata::VERSION;
use odgm_proto::metadata::consistency::LINEARIZABLE;
use tonic::{Code, Status};

use super::journal::{Asked, Call, Key, Kind};
use super::{CLASS, Run};
use crate::Result;
use crate::harness::{Acknowledged, Connection, Fields, Knowledge, Objects, Retrying, knowledge};
use crate::random::Random;

/// How long a client waits for an answer; shorter than a node is cut off, so that some never learn what came of a write.
const DEADLINE: Duration = Duration::from_secs(1);

/// The longest pause between two requests of a client: they should not take the cores from the nodes.
const PAUSE_MS: usize = 10;

/// The pause after a request that was not answered, before the next goes to another node.
const REST: Duration = Duration::from_millis(30);

/// How often a write with a request id is sent.
const ATTEMPTS: u32 = 4;

/// One in so many writes has a request id and is sent again while nothing is known of it.
const WITH_ID: u64 = 4;

/// One in so many requests goes to another node for no reason.
const WANDER: usize = 50;

/// How long a last read is tried.
const LAST_READ: Duration = Duration::from_secs(15);

/// The entry that is written, and the one that is merged in.
pub(super) const WRITTEN: &str = "k";
pub(super) const MERGED: &str = "m";

/// One client.
pub(super) struct Client {
    run: Arc<Run>,
    random: Random,
    nodes: Vec<Connection>,
    at: usize,
    /// The version in which it last saw each object.
    seen: BTreeMap<Key, u64>,
}

impl Client {
    pub(super) fn new(run: &Arc<Run>, mut random: Random) -> Result<Self> {
        let nodes = run.cluster.nodes().into_iter().map(|node| run.cluster.client(node));
        let nodes: Vec<Connection> = nodes.collect::<Result<_>>()?;
        let at = random.below(nodes.len());
        Ok(Self { run: Arc::clone(run), random, nodes, at, seen: BTreeMap::new() })
    }

    /// Works until the run is over.
    pub(super) async fn work(mut self) {
        while !self.run.is_over() {
            let key = self.run.any_object(&mut self.random);
            let kind = self.choose();
            let expected = self.seen.get(&key).copied().unwrap_or_default();
            let call = self.run.journal.call(key, kind, expected);
            let asked = self.ask(&call).await;
            let was_answered = matches!(asked, Asked::Answered(..));
            if let Asked::Answered(output, _) = &asked {
                self.remember(&call.key, output);
            }
            self.run.journal.returned(call, asked);
            if was_answered {
                let pause = self.random.below(PAUSE_MS) as u64;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
            if !was_answered || self.random.below(WANDER) == 0 {
                self.at = self.random.below(self.nodes.len());
            }
        }
    }

    fn choose(&mut self) -> Kind {
        match self.random.below(20) {
            0..=4 => Kind::SetValue,
            5..=8 => Kind::BatchSetValues,
            9..=10 => Kind::Merge,
            11 => Kind::Delete,
            12..=15 => Kind::Get,
            _ => Kind::GetValue,
        }
    }

    fn remember(&mut self, key: &Key, output: &Output) {
        let version = match output {
            Output::Changed(version) | Output::Mismatch(version) | Output::Found(Some((version, _))) => {
                *version
            }
            Output::Whole(Some(whole)) => whole.version,
            Output::Deleted | Output::Unchanged | Output::Whole(None) => 0,
            // There may still be the other entry.
            Output::Found(None) => return,
        };
        self.seen.insert(key.clone(), version);
    }

    /// Asks once, or a write with a request id several times at several nodes, as long as nothing is known of it.
    async fn ask(&mut self, call: &Call) -> Asked {
        let has_id = call.kind.is_write() && call.number.is_multiple_of(WITH_ID);
        let attempts = if has_id { ATTEMPTS } else { 1 };
        let mut is_unknown = false;
        for _ in 0..attempts {
            let objects = self.nodes[self.at].objects(CLASS, call.key.partition);
            let objects = objects.reading(self.run.level.word()).within(DEADLINE);
            let objects = if has_id { objects.once(&request_id(call.number)) } else { objects };
            // The node and the library keep the deadline; this is in case that they do not.
            match tokio::time::timeout(2 * DEADLINE, attempt(&objects, call)).await {
                Ok(Ok((output, place))) => return Asked::Answered(output, place),
                Ok(Err(status)) => {
                    self.note(call, &status);
                    is_unknown |= knowledge(&status) == Knowledge::Unknown;
                }
                Err(_) => {
                    self.run.journal.failed("no answer".to_owned());
                    is_unknown = true;
                }
            }
            self.at = self.random.below(self.nodes.len());
            tokio::time::sleep(REST).await;
        }
        if is_unknown { Asked::Unknown } else { Asked::Refused }
    }

    fn note(&self, call: &Call, status: &Status) {
        let what = if call.kind.is_write() {
            format!("{:?}, {:?}", status.code(), knowledge(status))
        } else {
            format!("{:?}", status.code())
        };
        self.run.journal.failed(what);
        // All that clients ask here is right.
        let is_wrong = !status.message().contains("there is no collection")
            && matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::Unimplemented
                    | Code::DataLoss
                    | Code::OutOfRange
            );
        if is_wrong {
            self.run.journal.complain(format!("{:?} of {} was answered with {status}", call.kind, call.key));
        }
    }
}

/// The request id of a write, where it has one.
pub(super) fn request_id(number: u64) -> String {
    format!("chaos-{number}")
}

/// Sends a request once.
async fn attempt(objects: &Objects, call: &Call) -> Result<(Output, Option<Acknowledged>), Status> {
    let object = call.key.object.as_str();
    let text = call.number.to_string();
    let text = text.as_str();
    let changed = |place: Acknowledged| (Output::Changed(place.version), Some(place));
    match call.kind {
        Kind::GetValue => {
            let (value, version) = objects.value_and_version(object, WRITTEN).await?;
            let found = version.zip(value.as_deref().map(number));
            Ok((Output::Found(found), None))
        }
        Kind::Get => {
            let found = objects.find(object).await?;
            Ok((Output::Whole(found.map(|found| whole(found.version, &found.fields))), None))
        }
        Kind::SetValue => objects.set_value(object, WRITTEN, text).await.map(changed),
        Kind::BatchSetValues => {
            let Request::Entry(Input::CompareAndSet { expected, .. }) = call.input else {
                return Err(Status::invalid_argument("no version is expected"));
            };
            match objects.batch(object, &[(WRITTEN, text)], &[], Some(expected)).await {
                Ok(place) => Ok(changed(place)),
                Err(status) => mismatch(&status).map(|output| (output, None)).ok_or(status),
            }
        }
        Kind::Merge => {
            let (place, fields) = objects.merge_and_place(object, &[(MERGED, text)]).await?;
            Ok((Output::Whole(Some(whole(place.version, &fields))), Some(place)))
        }
        Kind::Delete => objects.delete(object).await.map(|place| (Output::Deleted, Some(place))),
    }
}

/// The version that was in the way.
fn mismatch(status: &Status) -> Option<Output> {
    let version = status.metadata().get(VERSION).filter(|_| status.code() == Code::Aborted)?;
    Some(Output::Mismatch(version.to_str().ok()?.parse().ok()?))
}

fn whole(version: u64, fields: &Fields) -> Whole {
    let entry = |key| fields.get(key).map(|value: &String| number(value));
    Whole { version, value: entry(WRITTEN), merged: entry(MERGED) }
}

/// The number that was written. Nobody writes the largest, so that no order explains what is no number.
fn number(text: &str) -> u64 {
    text.parse().unwrap_or(u64::MAX)
}

/// Reads every object at every node, as the last that happens to it.
pub(super) async fn read_all(run: &Arc<Run>) -> Result<()> {
    for node in run.cluster.nodes() {
        let client = run.cluster.client(node)?;
        for key in run.journal.keys() {
            let objects = client.objects(CLASS, key.partition).reading(LINEARIZABLE).within(DEADLINE);
            let call = run.journal.call(key, Kind::Get, 0);
            let mut retrying = Retrying::new(vec![objects], LAST_READ);
            let read = retrying.ask(|objects| {
                let call = call.clone();
                async move { attempt(&objects, &call).await }
            });
            let (output, _) = read
                .await
                .map_err(|status| format!("{} cannot be read at node {node}: {status}", call.key))?;
            run.journal.returned(call, Asked::Answered(output, None));
        }
    }
    Ok(())
}
