//! Counters, and the picture of them that others see.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, number: u64) {
        self.0.fetch_add(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of a whole cache since it was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Counter,
    pub(crate) hit_bytes: Counter,
    pub(crate) misses: Counter,
    pub(crate) fetched_bytes: Counter,
    pub(crate) joined: Counter,
    pub(crate) not_kept: Counter,
    pub(crate) readahead_pages: Counter,
}

/// One cache directory, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirStats {
    /// The directory.
    pub dir: PathBuf,
    /// The most bytes on disk it may take.
    pub quota_bytes: u64,
    /// Bytes on disk, blocks, index and space promised to writes under way included.
    pub used_bytes: u64,
    /// Complete objects.
    pub objects: u64,
    /// Objects of which some pages are here.
    pub partial_objects: u64,
    /// Objects pinned, wishes for absent ones included.
    pub pinned: u64,
    /// `ok`, `full` or `set aside: REASON`.
    pub state: String,
    /// Objects evicted since the cache was opened.
    pub evicted: u64,
    /// Objects and pages dropped because their bytes, size or file were not as recorded.
    pub corrupt: u64,
}

/// A cache, now; counters run since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStats {
    /// Each directory.
    pub dirs: Vec<DirStats>,
    /// Opens and reads answered from disk.
    pub hits: u64,
    /// Bytes of the reads among them.
    pub hit_bytes: u64,
    /// Pages fetched from the next link because they were not here.
    pub misses: u64,
    /// Bytes of them.
    pub fetched_bytes: u64,
    /// Reads that joined a fetch already under way.
    pub joined: u64,
    /// Pages served without being kept: no space, everything pinned or in use, or disk trouble.
    pub not_kept: u64,
    /// Pages fetched ahead of a sequential reader.
    pub readahead_pages: u64,
    /// Fetches under way or not yet on disk.
    pub flights: u64,
    /// Bytes of the budget in use.
    pub budget_used_bytes: u64,
}

impl CacheStats {
    /// Bytes on disk in all directories.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.dirs.iter().map(|dir| dir.used_bytes).sum()
    }

    /// Complete objects in all directories.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.dirs.iter().map(|dir| dir.objects).sum()
    }

    /// Objects evicted in all directories.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.dirs.iter().map(|dir| dir.evicted).sum()
    }

    /// Objects found corrupt in all directories.
    #[must_use]
    pub fn corrupt(&self) -> u64 {
        self.dirs.iter().map(|dir| dir.corrupt).sum()
    }
}
