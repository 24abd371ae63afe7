//! Views: what the log of a partition says, kept so that it can be read.
//!
//! [`View::apply`] is the only way in: a deterministic state machine that reads nothing but the records and the
//! view itself, and writes each batch of records as one batch of rows. Everything else reads.

pub mod keys;
pub mod limits;
pub mod storage;

mod calls;
mod change;
mod core;
mod error;
mod header;
mod object;
mod outcome;
mod rows;
mod source;
mod varint;
mod view;

pub use calls::{
    Calls, DeadLetter, DeliveryRow, Invocation, InvocationState, Letter, OutboxRow, Queued, Subject,
    delivery_key,
};
pub use change::{Action, Change, ChangeKind};
pub use error::{ApplyError, Error, OpenError};
pub use header::{FORMAT, Header, RequestWindow, SEMANTICS};
pub use object::{Cursor, Entry, EntryRead, Members, Moment, Object, ObjectSummary, Request};
pub use outcome::{Applied, Committed, Outcome, Rejection, fingerprint};
pub use source::{RecordSource, SourceError};
pub use view::dump::DumpError;
pub use view::{RebuildError, Start, View, ViewOptions, rebind, rebuild};
