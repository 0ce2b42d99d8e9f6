//! The table of what a failed read or listing is to an S3 client.

use feedline_model::ReadError;
use s3s::{S3Error, S3ErrorCode};

/// What was being done: a missing object and a missing bucket have different names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Reading an object.
    Reading,
    /// Listing the bucket.
    Listing,
}

/// The S3 error that says what the client should do.
pub(super) fn of(error: &ReadError, doing: Doing) -> S3Error {
    let code = match (error, doing) {
        (ReadError::NotFound { .. }, Doing::Reading) => S3ErrorCode::NoSuchKey,
        (ReadError::NotFound { .. }, Doing::Listing) => S3ErrorCode::NoSuchBucket,
        (ReadError::Forbidden { .. }, _) => S3ErrorCode::AccessDenied,
        // Replaced again while we looked: the next try meets the newest version.
        (ReadError::Changed { .. }, _) => S3ErrorCode::ServiceUnavailable,
        (ReadError::Unavailable { .. }, _) => S3ErrorCode::SlowDown,
        (ReadError::Rejected { .. }, _) => S3ErrorCode::InternalError,
    };
    S3Error::with_message(code, error.to_string())
}
