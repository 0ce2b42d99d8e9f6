//! Dropping the kernel's caches, which a cold measurement needs.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::read::{Plan, ReadArgs};
use crate::time::unix_seconds;

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
const MANY_FILES: u64 = 5_000;

/// The kernel's minute and its five for a block that is to be written (`RECENTCY_MIN`, `RECENTCY_DIRTY`), as
/// one is again that gets a new inode; and a second.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(361);

/// When many files were last removed below a folder; of a data set of few files never.
///
/// ext4 without a journal does not give out an inode that was freed in the last minutes, and looks through
/// all of those first. Who came after the removal of 20,000 cached files paid twice the CPU, or three times.
#[derive(Debug)]
pub(crate) struct Removals {
    are_many: bool,
    unix_seconds: Cell<u64>,
}

impl Removals {
    /// Runs have their folder in `dir`: the last thing that one does is to remove it. `files`: of the data set,
    /// each of which a cache may have held.
    ///
    /// # Errors
    ///
    /// If `dir` cannot be looked at.
    pub(crate) fn below(dir: &Path, files: u64) -> Result<Self> {
        let found = fs::metadata(dir).with_context(|| format!("look at {}", dir.display()))?;
        let unix_seconds = Cell::new(u64::try_from(found.mtime()).unwrap_or_default());
        Ok(Self { are_many: MANY_FILES <= files, unix_seconds })
    }

    /// Many files were removed a moment ago.
    pub(crate) fn note(&self) {
        self.unix_seconds.set(unix_seconds());
    }

    /// Waits until the file system has forgotten them, which may be at once.
    ///
    /// # Errors
    ///
    /// If a signal ends the run.
    pub(crate) fn forget(&self, progress: &dyn Fn(&str)) -> Result<()> {
        let since = Duration::from_secs(unix_seconds().saturating_sub(self.unix_seconds.get()));
        let left = FORGOTTEN_AFTER.saturating_sub(since);
        if self.are_many && !left.is_zero() {
            progress("waiting until the file system has forgotten what was removed");
            rustix::fs::sync();
            crate::interrupt::pause(left)?;
        }
        Ok(())
    }
}
