//! What a view makes of its log: golden scripts, a model, and the stories of single rules.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a step that fails is a test that fails")]

mod calls;
mod calls_acts;
mod calls_model;
mod calls_rules;
mod crdt;
mod golden;
mod keys;
mod model;
mod opening;
mod past;
mod reads;
mod rebuilding;
mod requests;
mod script;
mod support;
