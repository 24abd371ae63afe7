//! Disks that are soon full.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::Result;

/// A file system of its own, in memory and small. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// None where this process may not mount. `size` is as `mount` takes it, such as 96m.
    ///
    /// # Errors
    /// When there is no place to mount it at.
    pub fn mount(size: &str) -> Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("odgm-small-disk-").tempdir()?;
        let options = format!("size={size}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        Ok(mount.is_ok_and(|mount| mount.status.success()).then_some(Self(folder)))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn grow(&self, size: &str) -> Result<()> {
        let options = format!("remount,size={size}");
        let grown = Command::new("mount").args(["-o", &options]).arg(self.path()).status()?;
        if grown.success() { Ok(()) } else { Err(format!("remount: {grown}").into()) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nothing can be done about a failure here.
        drop(Command::new("umount").arg(self.path()).status());
    }
}
