//! The `odgm` command: the server and its tools in one binary.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
