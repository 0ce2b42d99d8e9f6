//! Counters of a mount: requests by name, opens by mode, bytes, and the proof that it lives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The requests that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Request {
    /// A name is looked up.
    Lookup,
    /// Attributes are asked for.
    Getattr,
    /// A batch of names.
    Readdir,
    /// A batch of names with attributes.
    Readdirplus,
    /// A directory is opened (once per mount where the kernel can do without).
    Opendir,
    /// A file is opened.
    Open,
    /// Bytes are asked for.
    Read,
    /// The last reference to a handle is gone.
    Release,
    /// Lookups of one inode are taken back.
    Forget,
    /// A control call; `ioctl(TCGETS)` of `isatty`.
    Ioctl,
    /// Capacity is asked for.
    Statfs,
    /// An extended attribute is asked for (once per mount).
    Xattr,
    /// Anything else.
    Other,
}

/// Names in the order of [`Request`].
const NAMES: [&str; 13] = [
    "lookup",
    "getattr",
    "readdir",
    "readdirplus",
    "opendir",
    "open",
    "read",
    "release",
    "forget",
    "ioctl",
    "statfs",
    "xattr",
    "other",
];

/// Live counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; NAMES.len()],
    pub(crate) ring_requests: AtomicU64,
    pub(crate) passthrough_opens: AtomicU64,
    pub(crate) reused_opens: AtomicU64,
    pub(crate) cached_opens: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) read_bytes_local: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) invalidations: AtomicU64,
}

impl Counters {
    /// Counts a request.
    pub(crate) fn count(&self, request: Request) {
        add(&self.requests[request as usize], 1);
    }

    /// The counters now.
    pub(crate) fn snapshot(&self, inodes: usize, idle_backings: usize) -> MountStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MountStats {
            requests: NAMES.into_iter().zip(self.requests.iter().map(get)).collect(),
            ring_requests: get(&self.ring_requests),
            passthrough_opens: get(&self.passthrough_opens),
            reused_opens: get(&self.reused_opens),
            cached_opens: get(&self.cached_opens),
            read_bytes: get(&self.read_bytes),
            read_bytes_local: get(&self.read_bytes_local),
            errors: get(&self.errors),
            invalidations: get(&self.invalidations),
            inodes: inodes as u64,
            backing_ids: idle_backings as u64,
        }
    }
}

/// Adds to a counter; order between counters does not matter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// What a mount did so far. What the kernel answers alone is not seen and not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountStats {
    /// FUSE requests by name.
    pub requests: BTreeMap<&'static str, u64>,
    /// Those of them that came over a ring.
    pub ring_requests: u64,
    /// Opens answered with a cached file that the kernel reads alone.
    pub passthrough_opens: u64,
    /// Those of them that took the backing id of an earlier open.
    pub reused_opens: u64,
    /// Opens whose reads we answer.
    pub cached_opens: u64,
    /// Bytes answered to READ.
    pub read_bytes: u64,
    /// Those of them that came straight from a complete file on this node.
    pub read_bytes_local: u64,
    /// Requests answered with an error that is not the client's own (EIO, EACCES, ESTALE).
    pub errors: u64,
    /// Notices sent to the kernel to drop pages or names.
    pub invalidations: u64,
    /// Inodes that the kernel knows.
    pub inodes: u64,
    /// Backing ids held, at most: some may have been closed since.
    pub backing_ids: u64,
}

impl MountStats {
    /// All requests.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.requests.values().sum()
    }
}
