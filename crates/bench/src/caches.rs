//! Dropping the kernel's caches, which a cold measurement needs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::read::{Plan, ReadArgs};

/// Writes dirty pages back, then drops page cache, dentries and inodes of the whole machine.
///
/// # Errors
///
/// Without the right to do so (it takes root).
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .context("drop the kernel's caches (write 3 to /proc/sys/vm/drop_caches): run as root")
}

/// The same start for every contestant: the kernel's caches dropped, then the bucket's own files below
/// `folder` in memory again, and nobody's unwritten pages left to write.
///
/// # Errors
///
/// As [`drop_caches`], or if the files cannot be read.
pub(crate) fn level(folder: &Path) -> Result<()> {
    drop_caches()?;
    Plan::new(&ReadArgs::new(folder))?.pass(0)?;
    rustix::fs::sync();
    Ok(())
}

/// Removing fewer files than this costs nobody after it.
pub(crate) const MANY_FILES: usize = 5_000;

/// The kernel's minute and its five for a block that is to be written (`RECENTCY_MIN`, `RECENTCY_DIRTY`), as
/// one is again that gets a new inode; and a second.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(361);

/// Waits until the file system has forgotten what was removed before.
///
/// ext4 without a journal does not give out an inode that was freed a moment ago, and looks through all of
/// those first. Who came after the removal of 20,000 cached files paid twice the CPU, or three times.
///
/// # Errors
///
/// If a signal ends the run.
pub(crate) fn forget_removed() -> Result<()> {
    rustix::fs::sync();
    Ok(crate::interrupt::pause(FORGOTTEN_AFTER)?)
}
