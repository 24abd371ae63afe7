//! Stories of a plan, and of whatever order things happen in.

mod million;
mod model;
mod stories;
mod world;
