//! The log consumer that dispatches triggers, and the invocation manager.
