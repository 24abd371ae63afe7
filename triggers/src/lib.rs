//! What happens because of a record: functions are called, and what came of it becomes a record too.
//!
//! Triggers are rows of a projection and their dispatch is a consumer of it. This crate has the two ends that the
//! dispatcher will stand between: a [`Call`], which an outbox row turns into, and the [`Invoker`] that makes it.
//! Matching records against triggers belongs to apply, in `odgm-projections`.

mod call;
mod invoker;

pub use call::{Call, IdempotencyKey, InvalidKey};
pub use invoker::{Completion, Failure, Invoker};
