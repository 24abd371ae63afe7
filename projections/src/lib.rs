//! Views: a deterministic state machine over a view store.
