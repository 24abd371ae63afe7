//! What leaves a partition beside calls: outcomes for other partitions, and word for those who listen.

use futures_util::future::BoxFuture;
use odgm_log::Payload;

use crate::call::Call;

/// Brings records to partitions, wherever their leaders are.
pub trait Post: Send + Sync + 'static {
    /// Has a record proposed to a partition, and returns when it is committed and applied there.
    ///
    /// # Errors
    /// [`PostError`]. A record that may have been committed all the same is [`PostError::Later`]: it is sent again.
    fn deliver(
        &self,
        class: &str,
        partition: u32,
        payload: Payload,
    ) -> BoxFuture<'static, Result<(), PostError>>;
}

/// Why a record was not delivered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// There is no place for it, and will not be.
    #[error("{0}")]
    Gone(String),
    /// There may be another time.
    #[error("{0}")]
    Later(String),
}

/// Tells those who listen of calls that are about to be made.
pub trait Announce: Send + Sync + 'static {
    /// Tells of one, once, before its first attempt. Best effort: nobody waits for it, and it may be lost.
    fn announce(&self, call: &Call);
}
