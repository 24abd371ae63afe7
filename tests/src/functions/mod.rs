//! A service of functions to try ODGM with: what the README's page on functions calls, and many tests. The same in Python is
//! in `deploy/functions/python`.
//!
//! The name of a function up to its first `-` says what it does, the rest is an argument:
//!
//! | | |
//! | --- | --- |
//! | `echo` | answers what it was called with |
//! | `noop` | answers nothing |
//! | `count` | adds one to entry `count` of the object it is called on, once for each idempotency key |
//! | `arrive` | counts an arrival at the airport that the call is about, once for each idempotency key |
//! | `fail` | refuses: `APP_ERROR` |
//! | `broken`, `broken-3` | fails with gRPC's `INTERNAL`, always or the first three times of each idempotency key |
//! | `slow`, `slow-500` | waits so many milliseconds, those that it was called with or its argument |
//! | `loop`, `loop-b` | writes entry `turn` of the object it is called on, or of object `b` beside it |

mod call;
mod counting;
mod examples;
mod grid;
mod server;

pub use call::Call;
pub use counting::mark;
pub use examples::Examples;
pub use grid::Grid;
pub use server::{Invoked, Service, serve};
