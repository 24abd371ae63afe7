//! `oprc.OprcFunction`: calls of functions whose clients wait for the answer.
//!
//! A call goes through the invocation manager, and how it ended becomes a record of its class and partition before the
//! client is told: so a call that is asked for again under its request id is answered from the record. A call that has
//! begun goes on when its client goes away, and is recorded; who asks for it again meanwhile waits for its end.

mod ended;
mod going_on;
mod joining;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odgm_log::body::Target;
use odgm_log::{BodyType, Offset};
use odgm_proto::oprc::oprc_function_server::OprcFunction;
use odgm_proto::oprc::{InvocationRequest, InvocationResponse, ObjectInvocationRequest};
use odgm_replication::{Consistency, Partition, ProposeError};
use odgm_triggers::{Call, functions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

pub(crate) use self::ended::Ended;
pub(super) use self::running::known;

use self::going_on::GoesOn;
use self::joining::Requests;
use self::running::{Running, recorded};
use super::{PATIENCE, Shared};
use crate::config::Limits;
use crate::convert::Rules;
use crate::identity;
use crate::request;
use crate::room::{Full, Room, Seat};
use crate::status::{self, not_applied};

/// Of the partition's own records, those among which its rules are.
const BEGINNING: usize = 64;

/// The longest name of a function, in bytes.
const FUNCTION_BYTES: usize = 256;

/// What of the time that a client waits is left to record how the call ended, and for the answer: a part, and at most so
/// much.
const FOR_THE_RECORD: (u32, Duration) = (8, Duration::from_millis(500));

/// The service, for partitions of this node.
pub(crate) struct Functions(pub(crate) Arc<Shared>);

/// What calls of clients share.
pub(crate) struct Calling {
    /// Who makes the calls.
    pub(crate) functions: Arc<functions::Functions>,
    /// How long a call may take where nobody says so.
    timeout: Duration,
    room: Arc<Room>,
    /// The requests that they are made for.
    requests: Arc<Requests>,
    /// Room for clients that wait for results of other calls.
    waiting: Arc<Semaphore>,
    max_waiting: usize,
    /// Those under way, whether or not their clients are there still.
    running: TaskTracker,
}

/// A checked request.
pub(crate) struct Asked {
    pub(super) class: String,
    pub(super) partition: u32,
    /// None for a function of the class.
    pub(super) object: Option<String>,
    pub(super) function: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) payload: Bytes,
}

/// What becomes of a request before anything is called.
enum Prepared {
    /// It is known, or the call of it that was under way has ended: how.
    Known(Result<Ended, Status>),
    /// It is to be called.
    New(Box<Running>),
}

#[tonic::async_trait]
impl OprcFunction for Functions {
    async fn invoke_fn(
        &self,
        request: Request<InvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.call(&metadata, Asked::by_itself(request)).await?.response()
    }

    async fn invoke_obj(
        &self,
        request: Request<ObjectInvocationRequest>,
    ) -> Result<Response<InvocationResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.call(&metadata, Asked::on_object(&self.0.rules, request)).await?.response()
    }
}

impl Calling {
    pub(crate) fn new(functions: Arc<functions::Functions>, limits: &Limits) -> Self {
        Self {
            functions,
            timeout: limits.call_timeout,
            room: Room::new(limits.calls, limits.call_bytes),
            requests: Arc::default(),
            waiting: Arc::new(Semaphore::new(limits.calls)),
            max_waiting: limits.calls,
            running: TaskTracker::new(),
        }
    }

    /// Room for a client that waits for the result of a call.
    pub(super) fn wait_for_result(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{} clients wait for results of calls, the limit of the node (ODGM_MAX_CONCURRENT_CALLS): ask without \
                 waiting, or try again later",
                self.max_waiting
            ))
        })
    }

    /// Room for a call whose request has so many bytes.
    fn enter(&self, bytes: usize) -> Result<Seat, Status> {
        self.room.enter(bytes).map_err(|full| {
            Status::resource_exhausted(match full {
                Full::Number(calls) => format!(
                    "the node makes {calls} calls for clients, its limit (ODGM_MAX_CONCURRENT_CALLS): try again later, or let it \
                     call by itself (odgm.v1.Calls.Invoke)"
                ),
                Full::Bytes(bytes) => format!(
                    "the node holds {bytes} bytes of requests of calls, and has no room for this one (ODGM_MAX_CALL_BYTES): try again \
                     later"
                ),
            })
        })
    }

    /// How many calls of clients are under way.
    pub(super) fn under_way(&self) -> usize {
        self.room.taken()
    }

    /// How long a call of a class may take whose client does not say how long it waits.
    pub(super) fn timeout(&self, shared: &Shared, class: &str) -> Duration {
        let collection = shared.manager.collection(class);
        collection.and_then(|it| it.definition().options.calls.invoke_timeout).unwrap_or(self.timeout)
    }

    /// Waits for the calls under way, no longer than `within`; no more may come.
    pub(crate) async fn ended(&self, within: Duration) {
        self.running.close();
        if tokio::time::timeout(within, self.running.wait()).await.is_err() {
            let calls = self.running.len();
            tracing::warn!(calls, "calls were still under way when the time to stop was over: not recorded");
        }
    }
}

impl Asked {
    /// A function of a class.
    pub(crate) fn by_itself(request: InvocationRequest) -> Result<Self, Status> {
        let InvocationRequest { partition_id, cls_id: class, fn_id, options, payload } = request;
        let (partition, function) = (identity::partition(partition_id)?, function(fn_id)?);
        Ok(Self { class, partition, object: None, function, options, payload })
    }

    /// A function on an object.
    pub(crate) fn on_object(rules: &Rules, request: ObjectInvocationRequest) -> Result<Self, Status> {
        let object = rules.identity.object(request.object_id_str, request.object_id, false)?;
        let ObjectInvocationRequest { partition_id, cls_id: class, fn_id, options, payload, .. } = request;
        let (partition, function) = (identity::partition(partition_id)?, function(fn_id)?);
        Ok(Self { class, partition, object: Some(object), function, options, payload })
    }
}

impl Asked {
    /// Tells it from other requests: what travels beside a request is no part of it.
    fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("odgm 2025 request for a call");
        let mut add = |part: &[u8]| {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        };
        add(self.object.as_ref().map_or(b"class", |_| b"object"));
        add(self.object.as_deref().unwrap_or_default().as_bytes());
        add(self.function.as_bytes());
        for (name, value) in self.options.iter().filter(|(name, _)| !request::is_beside(name)) {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        add(&self.payload);
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

/// What a client hears whose time was over before its call could begin.
fn too_late(within: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "the {} ms that there were had passed before the function could be called: ask again, with a later deadline",
        within.as_millis()
    ))
}

/// Checks the name of a function.
pub(super) fn function(name: String) -> Result<String, Status> {
    if (1..=FUNCTION_BYTES).contains(&name.len()) {
        return Ok(name);
    }
    let found = request::shortened(&name);
    Err(Status::invalid_argument(format!("invalid fn_id {found:?}: expected 1 to {FUNCTION_BYTES} bytes")))
}

/// Refuses calls of a partition by whose rules there are none yet, and those that are too many triggers away from a client's
/// own request.
pub(super) fn check_rules(partition: &Partition, depth: u32) -> Result<(), Status> {
    let header = partition.view().header();
    if !header.has_calls() {
        if has_begun(partition)? {
            return Err(status::unavailable(format!(
                "partition {}/{} is also on nodes that do not know calls of functions, or did not until a moment ago: \
                 upgrade them, or try again later",
                partition.class(),
                partition.index()
            )));
        }
        if let Some(error) = partition.cannot_begin() {
            return Err(status::from_proposal(&error));
        }
    }
    let limit = header.config.max_trigger_depth;
    if depth <= limit {
        return Ok(());
    }
    let class = partition.class();
    Err(Status::failed_precondition(format!(
        "depth {depth} is beyond max_trigger_depth {limit} of collection {class:?}: what calls this is called by itself in \
         the end"
    )))
}

/// Whether a log says already by which rules it is applied. One that does not begins with the newest, as soon as all of its
/// nodes know them.
fn has_begun(partition: &Partition) -> Result<bool, Status> {
    let view = partition.view();
    if view.header().floor > Offset(1) {
        return Ok(true);
    }
    let own = view.history("", Offset::ZERO, false, BEGINNING).map_err(|error| status::from_view(&error))?;
    Ok(own.iter().any(|change| change.operation == BodyType::Config))
}

/// An id for what has none.
pub(super) fn new_id() -> Result<String, Status> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(status::internal)?;
    Ok(format!("{:032x}", u128::from_be_bytes(id)))
}

impl Functions {
    /// Calls a function, and returns when it is recorded how that ended. An error says that it was not called, or not
    /// recorded.
    pub(crate) async fn call(
        &self,
        metadata: &MetadataMap,
        asked: Result<Asked, Status>,
    ) -> Result<Ended, Status> {
        let asked = asked.map_err(not_applied)?;
        match self.prepare(metadata, asked).await.map_err(status::else_not_applied)? {
            Prepared::Known(ended) => ended,
            Prepared::New(work) => {
                let running = &self.0.calling.running;
                GoesOn::new(running.track_future(work.run())).await.unwrap_or_else(|panicked| {
                    Err(status::unknown(status::internal(format!("the call panicked: {panicked}"))))
                })
            }
        }
    }

    /// Checks all that can be known before the call: that it may be made, and that its outcome can be recorded.
    async fn prepare(&self, metadata: &MetadataMap, asked: Asked) -> Result<Prepared, Status> {
        let shared = &self.0;
        let since = Instant::now();
        let metadata = request::with_options(metadata, &asked.options)?;
        let mut cause = request::cause(&metadata)?;
        cause.depth = cause.depth_of_call();
        let key = request::idempotency_key(&metadata)?;
        let partition = shared.partition(&asked.class, asked.partition)?;
        let place = shared.calling.enter(asked.payload.len())?;
        let given = request::timeout(metadata.as_ref());
        let within = given.unwrap_or_else(|| shared.calling.timeout(shared, &asked.class));
        let fingerprint = cause.request_id.as_ref().map(|_| asked.fingerprint());
        let mut turn = None;
        if let Some((id, fingerprint)) = cause.request_id.as_ref().zip(fingerprint.as_ref()) {
            let joined = shared.calling.requests.join(partition.group(), id, fingerprint);
            match tokio::time::timeout(within, joined).await.map_err(|_| too_late(within))?? {
                Ok(ended) => return Ok(Prepared::Known(ended)),
                Err(mine) => turn = Some(mine),
            }
        }
        let left = within.saturating_sub(since.elapsed());
        shared.can_record(&partition, left.min(PATIENCE)).await?;
        // Only now: the rules by which the log goes on, and what has been recorded by then, here or by another node, are seen.
        check_rules(&partition, cause.depth)?;
        if let Some((id, fingerprint)) = cause.request_id.as_ref().zip(fingerprint.as_ref())
            && let Some(offset) = known(&partition, id)?
        {
            return Ok(Prepared::Known(recorded(&partition, offset, fingerprint).await));
        }
        let kept = |given: Duration| (given / FOR_THE_RECORD.0).min(FOR_THE_RECORD.1) + since.elapsed();
        let timeout = given.map_or(within, |given| given.saturating_sub(kept(given)));
        if timeout.is_zero() {
            // Its end would be recorded under the request id, and would be that of a call that was never made.
            return Err(too_late(within));
        }
        let invocation = cause.request_id.clone().map_or_else(new_id, Ok)?;
        let call = Call {
            // A function that is called again for the same request can know it by its id.
            key: key.or_else(|| cause.request_id.clone()).unwrap_or_default(),
            target: Target {
                class: asked.class,
                partition: asked.partition,
                object: asked.object,
                function: asked.function,
                options: asked.options.into_iter().collect(),
            },
            payload: asked.payload,
            depth: cause.depth,
            cause: cause.parent,
            traceparent: cause.traceparent.clone(),
            timeout,
            is_given_its_time: false,
        };
        let shared = Arc::clone(shared);
        Ok(Prepared::New(Box::new(Running {
            shared,
            partition,
            call,
            cause,
            invocation,
            fingerprint,
            turn,
            _place: place,
        })))
    }
}

impl Shared {
    /// Whether what comes of a call can become a record, as far as that can be known; and that nothing is missing here that
    /// was acknowledged before.
    async fn can_record(&self, partition: &Partition, within: Duration) -> Result<(), Status> {
        if let Some(failure) = partition.failure() {
            return Err(status::from_proposal(&failure));
        }
        // Where another node leads, its disk counts.
        if partition.leader() == Some(self.manager.node_id()) && self.manager.log().is_low_on_space() {
            let space = self.manager.log().space();
            let full = ProposeError::LowSpace { free: space.free, reserve: space.reserve };
            return Err(status::from_proposal(&full));
        }
        self.confirm(partition, Consistency::Linearizable, within).await
    }
}
