//! What the functions do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use odgm_proto::oprc::{InvocationResponse, ResponseStatus};
use parking_lot::Mutex;
use tonic::Status;

use super::call::Call;
use super::counting::{arrive, count};
use super::grid::Grid;
use super::server::Invoked;

/// The entry that `loop` writes.
const TURN: &str = "turn";

/// The longest that `slow` waits.
const LONGEST: Duration = Duration::from_secs(600);

/// How many keys `broken` remembers; then it begins anew.
const MOST_KEYS: usize = 100_000;

/// All of them.
#[derive(Debug)]
pub struct Examples {
    grid: Grid,
    /// How often `broken` has failed, by function and idempotency key.
    failures: Mutex<BTreeMap<(String, String), u32>>,
}

impl Examples {
    /// Functions that read and write there.
    pub fn new(grid: Grid) -> Self {
        Self { grid, failures: Mutex::default() }
    }

    /// What of the grid they use.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Runs the function that is called.
    ///
    /// # Errors
    /// The gRPC status with which the call fails.
    pub async fn run(&self, call: &Call) -> Result<InvocationResponse, Status> {
        match call.action() {
            "echo" => Ok(answer(call.payload.clone())),
            "noop" => Ok(InvocationResponse::default()),
            "count" => count(call, &self.grid).await,
            "arrive" => arrive(call, &self.grid).await,
            "fail" => Ok(refusal("fail refuses whatever it is asked")),
            "broken" => self.broken(call),
            "slow" => slow(call).await,
            "loop" => self.turn(call).await,
            _ => Err(Status::unimplemented(format!(
                "there is no function {:?}: expected echo, noop, count, arrive, fail, broken, slow or loop",
                call.function
            ))),
        }
    }

    fn broken(&self, call: &Call) -> Result<InvocationResponse, Status> {
        let Some(argument) = call.argument() else { return Err(Status::internal("broken as always")) };
        let times: u32 = argument
            .parse()
            .map_err(|_| Status::invalid_argument(format!("broken-{argument}: expected a number")))?;
        let mut failures = self.failures.lock();
        if failures.len() >= MOST_KEYS {
            failures.clear();
        }
        let failed = failures.entry((call.function.clone(), call.key().to_owned())).or_default();
        if *failed < times {
            *failed += 1;
            return Err(Status::internal(format!("broken for the {failed}. time of {times}")));
        }
        Ok(answer(format!("mended after {times}")))
    }

    /// Writes an entry that may well have a trigger that leads back here. The grid knows by the depth and cause that are
    /// passed on when that is enough. The key as request id has it written once, however often it is called.
    async fn turn(&self, call: &Call) -> Result<InvocationResponse, Status> {
        let object = match call.argument() {
            Some(other) => other,
            None => on_object(call)?,
        };
        let once = Some(call.key()).filter(|key| !key.is_empty());
        let depth = call.depth().to_string();
        self.grid.put(call, object, TURN, &depth, once).await?;
        Ok(answer(depth))
    }
}

async fn slow(call: &Call) -> Result<InvocationResponse, Status> {
    let subject = call.subject();
    let text = call.argument().map_or_else(|| String::from_utf8_lossy(&subject), Into::into);
    let wait = text.trim().parse().map(Duration::from_millis).ok().filter(|wait| *wait <= LONGEST);
    let wait = wait.ok_or_else(|| {
        Status::invalid_argument(format!("slow: expected milliseconds, at most {}", LONGEST.as_millis()))
    })?;
    tokio::time::sleep(wait).await;
    Ok(answer(format!("waited {} ms", wait.as_millis())))
}

/// The object that a function is called on, for functions that need one.
pub(super) fn on_object(call: &Call) -> Result<&str, Status> {
    let none = || Status::invalid_argument(format!("{}: expected to be called on an object", call.function));
    call.object.as_deref().ok_or_else(none)
}

/// An answer of a function that has done what it should.
pub(super) fn answer(payload: impl Into<Bytes>) -> InvocationResponse {
    InvocationResponse { payload: Some(payload.into()), ..InvocationResponse::default() }
}

/// The answer of a function that refuses.
fn refusal(reason: &'static str) -> InvocationResponse {
    InvocationResponse { status: ResponseStatus::AppError.into(), ..answer(reason) }
}

impl Invoked for Examples {
    async fn invoked(&self, call: Call) -> Result<InvocationResponse, Status> {
        self.run(&call).await
    }
}

#[cfg(test)]
mod tests {
    use odgm_proto::metadata::IDEMPOTENCY_KEY;
    use tonic::Code;

    use super::*;

    fn called(function: &str, key: &str) -> Call {
        Call {
            function: function.to_owned(),
            beside: [(IDEMPOTENCY_KEY, key.to_owned())].into(),
            ..Call::default()
        }
    }

    #[tokio::test]
    async fn what_is_broken_for_a_while_counts_each_key_by_itself() {
        let examples = Examples::new(Grid::default());
        let run = async |function, key| {
            let run = examples.run(&called(function, key)).await;
            run.map(|answer| answer.payload).map_err(|status| status.code())
        };
        assert_eq!(run("broken-2", "a").await, Err(Code::Internal));
        assert_eq!(run("broken-2", "b").await, Err(Code::Internal));
        assert_eq!(run("broken-2", "a").await, Err(Code::Internal));
        assert_eq!(run("broken-2", "a").await, Ok(Some("mended after 2".into())));
        assert_eq!(run("broken-2", "b").await, Err(Code::Internal));
        assert_eq!(run("broken", "a").await, Err(Code::Internal));
        assert_eq!(run("broken-often", "a").await, Err(Code::InvalidArgument));
    }

    #[tokio::test]
    async fn what_there_is_no_node_for_can_be_tried_again() {
        let examples = Examples::new(Grid::default());
        let call = Call { object: Some("a".to_owned()), ..called("count", "1/0/1/0") };
        let failed = examples.run(&call).await.expect_err("there is no grid");
        assert_eq!(failed.code(), Code::Unavailable);
        let failed = examples.run(&called("count", "1/0/1/0")).await.expect_err("it needs an object");
        assert_eq!(failed.code(), Code::InvalidArgument);
    }
}
