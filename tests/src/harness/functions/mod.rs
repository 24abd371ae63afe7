//! Functions for stories: a server whose functions a story holds back, breaks and counts, the example service as a process,
//! and what stories ask of triggers and calls.

mod attached;
mod calls;
mod door;
mod garbling;
mod process;
mod served;

pub use attached::{Attached, routed, target};
pub use calls::{causes, letter};
pub use door::Door;
pub use process::{FunctionProcess, Language};
pub use served::{Answer, Functions, Gate};
