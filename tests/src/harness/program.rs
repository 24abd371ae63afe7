//! Finds the `odgm` binary.

use std::env;
use std::path::PathBuf;

use crate::Result;

/// The binary that `ODGM_BIN` names, or else the one that cargo has put beside this program.
///
/// # Errors
/// When it is not there; the message says how to build it.
pub fn odgm() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ODGM_BIN") {
        return Ok(path.into());
    }
    beside("odgm", "cargo build -p odgm-api")
}

/// The binary of that name that cargo has put beside this program.
pub(super) fn beside(name: &str, build: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    // Tests are in `deps`, one level below the binaries.
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no {name} beside {}: build it with `{build}`", own.display()).into())
}
