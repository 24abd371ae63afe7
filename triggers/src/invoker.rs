//! Who makes the calls.

use std::future::Future;

use bytes::Bytes;

use crate::call::Call;

/// Calls functions, wherever they run. One for all transports: routing, pooling and load balancing are behind it.
pub trait Invoker: Send + Sync + 'static {
    /// Makes one attempt. The future may be dropped at any time: the attempt then has no outcome, though the
    /// function may have run.
    fn invoke(&self, call: &Call) -> impl Future<Output = Result<Completion, Failure>> + Send;
}

/// What a function that ended well answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Its answer.
    pub payload: Bytes,
}

/// Why an attempt did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The function itself refused: trying again gives the same.
    #[error("the function answered with an error: {0}")]
    Application(String),
    /// The function may answer another time: it could not be reached, was too slow, or failed inside.
    #[error("the function could not be called: {0}")]
    Temporary(String),
    /// There is no such class, function or partition.
    #[error("there is nothing to call: {0}")]
    NoTarget(String),
}

impl Failure {
    /// Whether another attempt can end differently.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Temporary(_))
    }
}
