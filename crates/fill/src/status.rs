//! What fill does, for `feedline status` and metrics.

/// One data set that is being read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ScanStatus {
    /// Its folder, as a path in the tree.
    pub root: String,
    /// Files in it.
    pub files: u64,
    /// Of those, known to be complete here or under way.
    pub handled: u64,
    /// Different files read since the epoch began, as far as it can be told.
    pub read: u64,
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
    /// Accesses that were not looked at because too many came at once.
    pub dropped: u64,
}
