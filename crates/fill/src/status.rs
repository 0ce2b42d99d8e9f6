//! What fill does, for `feedline status` and metrics. The API's own types say the same to clients: what
//! crosses a wire is a type of its own, so that either can change.

/// One data set that is being read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScanStatus {
    /// Its folder, as a path in the tree.
    pub root: String,
    /// Files in it.
    pub files: u64,
    /// Of those, known to be complete here or under way.
    pub handled: u64,
    /// Different files read since the epoch began, as far as it can be told: not counted on while
    /// `watched` is false.
    pub read: u64,
    /// False while all that is read is here and in memory: the accesses are not looked at then, and
    /// what is said of reads, readers and order is what was last known.
    pub watched: bool,
    /// Processes (threads) that read it now.
    pub readers: u64,
    /// What fill does for it: `filling`, `complete`, `cache full`, `waiting for reads`, `idle`, `off`.
    pub state: String,
    /// The order that is believed to be read, in words.
    pub order: String,
    /// How sure that is, 0 to 1.
    pub confidence: f64,
    /// Reads after which the order was known; 0 if it is not.
    pub known_after: u64,
    /// What is brought into the page cache ahead of the reads: `ahead` (the files that come next),
    /// `in memory` (nothing: they are there), `order unknown` (nothing), `off`.
    pub push: String,
}

/// What fill does and did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FillStatus {
    /// Data sets, the one read last first.
    pub scans: Vec<ScanStatus>,
    /// Fetches in flight now.
    pub in_flight: u64,
    /// Fetches in flight allowed now.
    pub window: u64,
    /// Files fetched, or found under way, so far.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Fetches that failed.
    pub failed: u64,
    /// Files brought from the cache's disk into the page cache ahead of the reads.
    pub pushed_files: u64,
    /// Their bytes, those only that were not there.
    pub pushed_bytes: u64,
    /// Accesses that were not looked at because too many came at once.
    pub dropped: u64,
}
