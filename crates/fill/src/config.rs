//! What fill is told, and what it talks to.

use std::fmt;
use std::sync::Arc;

use feedline_model::{BlockSource, Clock, ObjectIndex, Ownership, Tree};
use tokio::runtime::Handle;

use crate::memory::OrderMemory;

/// Settings, all resolved.
#[derive(Debug, Clone)]
pub struct FillConfig {
    /// Fetch ahead at all. Without it nothing is fetched, but accesses are still watched for
    /// eviction.
    pub enabled: bool,
    /// If not empty, only files whose path in the tree matches one of these.
    pub patterns: Vec<glob::Pattern>,
    /// Predict the order of reads.
    pub oracle: bool,
    /// Bytes a second that fill fetches at most; 0: no limit.
    pub rate_bytes_per_s: u64,
    /// Fetches in flight at most.
    pub window_max: usize,
    /// Bytes that are brought into the page cache ahead of the reads at most; 0: none. Takes effect
    /// only where files are fetched ahead and the order is predicted.
    pub push_bytes_max: u64,
}

impl Default for FillConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            patterns: Vec::new(),
            oracle: true,
            rate_bytes_per_s: 0,
            // Seven eighths of the 384 requests that the store allows: what it lets fill have.
            window_max: 336,
            // Some hundred images: little of any machine's memory, and more than a disk reads in the
            // time between two looks at the accesses.
            push_bytes_max: 64 << 20,
        }
    }
}

/// Tells whether a process (a thread, by its id) still runs; 0 is one that cannot be named.
#[derive(Clone)]
pub struct Liveness(Arc<dyn Fn(u32) -> bool + Send + Sync>);

impl Liveness {
    /// Wraps a function that must not block.
    pub fn new(is_alive: impl Fn(u32) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(is_alive))
    }

    pub(crate) fn is_alive(&self, process: u32) -> bool {
        (self.0)(process)
    }
}

impl fmt::Debug for Liveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Liveness")
    }
}

/// Components.
#[derive(Debug, Clone)]
pub struct FillParts {
    /// Names and sizes.
    pub tree: Arc<dyn Tree>,
    /// What is here already, and how much room there is.
    pub index: Arc<dyn ObjectIndex>,
    /// Where to fetch through: the cache.
    pub blocks: Arc<dyn BlockSource>,
    /// Whose the objects are, among nodes that share a cache; `None`: all are this node's to keep.
    pub ownership: Option<Arc<dyn Ownership>>,
    /// Where orders that are learned are kept over a restart; `None`: they are lost with it.
    pub memory: Option<Arc<dyn OrderMemory>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tasks run.
    pub runtime: Handle,
    /// Who still reads.
    pub liveness: Liveness,
}
