//! Conditions of a request on the version that there is, in the order of RFC 9110, section 13.2.2.

use std::time::{Duration, UNIX_EPOCH};

use feedline_model::Version;
use http::HeaderMap;
use http::header::ETAG;
use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Error, S3Result, s3_error};

/// What a request says of the version it wants.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
    pub(super) if_modified_since: Option<Timestamp>,
    pub(super) if_unmodified_since: Option<Timestamp>,
}

/// The tag as S3 sends it; `None`: the store gave none.
pub(super) fn tag(version: &Version) -> Option<ETag> {
    version.etag.text().map(ETag::Strong)
}

/// When the version was made, to the millisecond.
pub(super) fn modified(version: &Version) -> Timestamp {
    (UNIX_EPOCH + Duration::from_millis(version.modified_ms.try_into().unwrap_or(0))).into()
}

/// Cut to the second, which is all that HTTP's dates have.
fn date(version: &Version) -> Timestamp {
    let seconds = u64::try_from(version.modified_ms).unwrap_or(0) / 1000;
    (UNIX_EPOCH + Duration::from_secs(seconds)).into()
}

impl Conditions {
    /// An error if the version is not what the request wants.
    pub(super) fn check(&self, version: &Version) -> S3Result<()> {
        let tag = tag(version);
        let is = |wanted: &ETagCondition| match wanted {
            ETagCondition::Any => true,
            ETagCondition::ETag(wanted) => tag.as_ref().is_some_and(|it| it.weak_cmp(wanted)),
        };
        let date = date(version);
        let failed = match (&self.if_match, &self.if_unmodified_since) {
            (Some(wanted), _) => !is(wanted),
            (None, Some(since)) => *since < date,
            (None, None) => false,
        };
        if failed {
            return Err(s3_error!(
                PreconditionFailed,
                "At least one of the preconditions you specified did not hold"
            ));
        }
        let unchanged = match (&self.if_none_match, &self.if_modified_since) {
            (Some(known), _) => is(known),
            (None, Some(since)) => date <= *since,
            (None, None) => false,
        };
        if unchanged { Err(not_modified(tag.as_ref())) } else { Ok(()) }
    }
}

fn not_modified(tag: Option<&ETag>) -> S3Error {
    let mut error = s3_error!(NotModified);
    let mut headers = HeaderMap::new();
    let value = tag.map(ETag::to_http_header);
    // A tag that no header can carry came from no header.
    if let Some(Ok(value)) = value {
        headers.insert(ETAG, value);
    }
    error.set_headers(headers);
    error
}
