//! The benchmark: one closed load loop against this node, its peers and a ceiling, in turn, in one run.
//!
//! The method, and how to read the tables, is in `tests/BENCHMARKS.md`.

mod calls;
mod catching_up;
mod ceiling;
mod etcd;
mod failover;
mod footprint;
mod goals;
mod group_commit;
mod idle;
mod install;
mod load;
mod machine;
mod measure;
mod options;
mod rebuild;
mod report;
mod servers;
mod statistics;
mod targets;
mod workload;

pub use options::{Command, Options, Part};

use crate::Result;

/// Runs what the command line asks for.
///
/// # Errors
/// When a server cannot be started or answers wrongly; a goal that is missed is reported, not an error.
pub async fn run(options: Options) -> Result<()> {
    match options.command {
        Some(Command::Ceiling) => ceiling::serve().await,
        Some(Command::Function { at }) => calls::function::serve(at).await,
        Some(Command::Proxy { function }) => calls::proxy::serve(function).await,
        None => {
            let report = measure::run(&options).await?;
            print!("{report}");
            if let Some(path) = &options.json {
                std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
                eprintln!("written: {}", path.display());
            }
            Ok(())
        }
    }
}
