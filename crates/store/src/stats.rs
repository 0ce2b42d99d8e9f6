//! What the store did, as plain counters that `node` exports.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::failure::RetryCause;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads bytes of an object.
    Get,
    /// Lists one page of keys.
    List,
    /// Writes an object, or a part of one.
    Put,
    /// Asks for an object's version.
    Head,
}

impl Verb {
    /// All verbs, in the order of their counters.
    pub const ALL: [Self; 4] = [Self::Get, Self::List, Self::Put, Self::Head];

    /// The label in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Put => "PUT",
            Self::Head => "HEAD",
        }
    }
}

/// Counters since the store was opened. All only ever grow.
#[derive(Debug, Default)]
pub struct StoreStats {
    requests: [AtomicU64; Verb::ALL.len()],
    retries: [AtomicU64; RetryCause::ALL.len()],
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    names_skipped: AtomicU64,
}

impl StoreStats {
    /// Requests sent, repeated ones included.
    #[must_use]
    pub fn requests(&self, verb: Verb) -> u64 {
        self.requests[verb as usize].load(Ordering::Relaxed)
    }

    /// Tries that failed for `cause` in a way worth repeating, whether or not time was left to.
    #[must_use]
    pub fn retries(&self, cause: RetryCause) -> u64 {
        self.retries[cause as usize].load(Ordering::Relaxed)
    }

    /// Tries that failed in a way worth repeating, of all causes.
    #[must_use]
    pub fn retries_total(&self) -> u64 {
        RetryCause::ALL.into_iter().map(|cause| self.retries(cause)).sum()
    }

    /// Reads and listings that ended in an error.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Bytes of objects received and handed on.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes of objects uploaded.
    #[must_use]
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Names in a local folder that are not UTF-8 and therefore not listed, at each listing.
    #[must_use]
    pub fn names_skipped(&self) -> u64 {
        self.names_skipped.load(Ordering::Relaxed)
    }

    pub(crate) fn count_request(&self, verb: Verb) {
        self.requests[verb as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_retry(&self, cause: RetryCause) {
        self.retries[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_written(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn count_skipped(&self, names: u64) {
        self.names_skipped.fetch_add(names, Ordering::Relaxed);
    }
}
