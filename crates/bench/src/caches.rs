//! Dropping the kernel's caches, which a cold measurement needs.

use std::fs;
use std::path::Path;

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
