//! What happens because of a record: functions are called, and what came of it becomes a record too.
//!
//! Triggers are rows of a projection and their dispatch is a consumer of it. Matching records against triggers belongs
//! to apply, in `odgm-projections`; here is a [`Call`], which an outbox row or a client's request turns into, the
//! [`Invoker`] that makes it: [`functions`], and who goes through the outboxes and records what came of it: the
//! [`processor`].

mod call;
mod catalogue;
pub mod functions;
mod invoker;
pub mod metrics;
mod post;
pub mod processor;

pub use call::{Call, IdempotencyKey};
pub use catalogue::{Catalogue, ConfirmedCatalogue};
pub use functions::{Functions, Remote};
pub use invoker::{Answer, Failure, Invoker};
pub use post::{Announce, Post, PostError};
