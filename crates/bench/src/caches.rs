//! Dropping the kernel's caches, which a cold measurement needs.

use std::fs;

use anyhow::{Context, Result};

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
