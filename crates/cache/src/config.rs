//! What the cache is told, and why it may refuse to open.

use std::path::PathBuf;

/// Bytes in flight when nothing else is said: room for 32 pages, or about a thousand small
/// objects, which covers 10 Gb/s of 110 KB objects (370 requests in flight).
pub const BUFFER_BYTES_DEFAULT: u64 = 128 << 20;

/// Background verification when nothing else is said: a terabyte in three days, unnoticeable on
/// any disk.
pub const SCRUB_BYTES_PER_S_DEFAULT: u64 = 4 << 20;

/// The smallest quota accepted: the fan-out directories, the index and one page must fit.
pub const QUOTA_BYTES_MIN: u64 = 8 << 20;

/// One directory to keep objects in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDirConfig {
    /// The directory; created if missing, its parent must exist.
    pub dir: PathBuf,
    /// The most bytes on disk it may take, blocks and index included.
    pub quota_bytes: u64,
}

/// Settings of a [`crate::Cache`], all resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// At least one. With several, objects are spread in proportion to the quotas.
    pub dirs: Vec<CacheDirConfig>,
    /// The most bytes fetched and not yet on disk. At least one page is always allowed.
    pub buffer_bytes: u64,
    /// True: what is written stays in the page cache, which makes a passthrough open hot. False:
    /// the kernel's FUSE pages hold the data, so the cache's own pages are given back at once.
    pub keep_pages: bool,
    /// Bytes a second of the background verification; 0 switches it off.
    pub scrub_bytes_per_s: u64,
}

impl CacheConfig {
    /// Defaults for these directories.
    #[must_use]
    pub fn new(dirs: Vec<CacheDirConfig>) -> Self {
        Self {
            dirs,
            buffer_bytes: BUFFER_BYTES_DEFAULT,
            keep_pages: true,
            scrub_bytes_per_s: SCRUB_BYTES_PER_S_DEFAULT,
        }
    }
}

/// Why a cache directory cannot be used. Each message names the directory and the way out.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum CacheError {
    #[error("no cache directory is configured; give one as --cache DIR:SIZE")]
    NoDirectory,
    #[error("{dir}: more cache directories than the {max} that one cache can have")]
    TooMany { dir: PathBuf, max: usize },
    #[error("{dir}: is used by another daemon (pid {pid}); stop it or choose another directory")]
    Locked { dir: PathBuf, pid: String },
    #[error("{dir}: is on {kind}, which cannot hold a cache; choose a directory on a local disk")]
    FileSystem { dir: PathBuf, kind: &'static str },
    #[error(
        "{dir}: is not empty and not a Feedline cache (it holds {example:?}); \
         choose an empty directory"
    )]
    Foreign { dir: PathBuf, example: String },
    #[error("{dir}: was written by another version ({found:?}); empty it or choose another")]
    Version { dir: PathBuf, found: String },
    #[error("{dir}: a quota of {quota_bytes} bytes is too small; give at least {min} bytes")]
    QuotaTooSmall { dir: PathBuf, quota_bytes: u64, min: u64 },
    #[error("{dir}: cannot be used as a cache: {action}: {error}")]
    Io { dir: PathBuf, action: &'static str, error: std::io::Error },
}
