//! Why bytes or a listing could not be had, sorted by what the caller should do.

use std::sync::Arc;
use std::time::Duration;

/// Why an object could not be read, or a prefix not be listed.
///
/// There is one variant per thing a caller can *do*, not one per thing that can go wrong; the cause
/// is in the message. Add a variant only when some caller will branch on it. Not `non_exhaustive`,
/// on purpose: each crate that translates it must stop compiling and decide. Cheap to clone, since
/// one flight's error goes to everyone who joined it.
///
/// `location` is what the operator knows: `s3://bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum ReadError {
    /// The object, or the bucket, is gone. Do not retry; drop cached metadata for it.
    #[error("{location}: does not exist ({cause})")]
    NotFound { location: Arc<str>, cause: Arc<str> },

    /// The store refuses. Do not retry; credentials or policy must change first.
    #[error("{location}: access denied ({cause})")]
    Forbidden { location: Arc<str>, cause: Arc<str> },

    /// The object was replaced since it was listed. List its directory again, then read.
    #[error("{location}: changed in the bucket since it was listed ({cause})")]
    Changed { location: Arc<str>, cause: Arc<str> },

    /// No answer within the retry budget. Try the next source, or this one after `after`.
    #[error("{location}: unavailable ({cause})")]
    Unavailable { location: Arc<str>, cause: Arc<str>, after: Duration },

    /// The request makes no sense to the store (bad endpoint, bad region, bad name). Do not retry;
    /// the configuration must change.
    #[error("{location}: the store rejected the request ({cause})")]
    Rejected { location: Arc<str>, cause: Arc<str> },
}

impl ReadError {
    /// True if another source, or the same one later, may still serve the bytes.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NotFound { .. }
            | Self::Forbidden { .. }
            | Self::Changed { .. }
            | Self::Rejected { .. } => false,
        }
    }

    /// The object or prefix that it is about.
    #[must_use]
    pub fn location(&self) -> &str {
        match self {
            Self::NotFound { location, .. }
            | Self::Forbidden { location, .. }
            | Self::Changed { location, .. }
            | Self::Unavailable { location, .. }
            | Self::Rejected { location, .. } => location,
        }
    }
}
