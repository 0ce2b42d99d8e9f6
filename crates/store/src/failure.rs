//! What went wrong with one try, and the one table that turns it into a [`ReadError`].
//!
//! # Invariants
//!
//! - Both questions, "try again?" and "what does the caller see?", are answered here by matches
//!   without a wildcard over [`Failure`], and nowhere else.
//! - No message carries a secret: of an error document only code, message and region are kept.

use std::sync::Arc;
use std::time::Duration;

use feedline_model::ReadError;

/// Why a try is repeated: the label under which it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the HTTP statuses and what happened to the socket")]
pub enum RetryCause {
    Status500,
    Status502,
    Status503,
    Status504,
    Status429,
    Status408,
    Timeout,
    Connect,
    Reset,
    Short,
    Credentials,
}

impl RetryCause {
    /// All causes, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::Status500,
        Self::Status502,
        Self::Status503,
        Self::Status504,
        Self::Status429,
        Self::Status408,
        Self::Timeout,
        Self::Connect,
        Self::Reset,
        Self::Short,
        Self::Credentials,
    ];

    /// The label in metrics, where 500 is any 5xx without its own: `503`, `timeout`, `reset`, …
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Status500 => "500",
            Self::Status502 => "502",
            Self::Status503 => "503",
            Self::Status504 => "504",
            Self::Status429 => "429",
            Self::Status408 => "408",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Short => "short",
            Self::Credentials => "credentials",
        }
    }

    /// True if the store asks for fewer requests.
    #[must_use]
    pub fn is_slow_down(self) -> bool {
        matches!(self, Self::Status503 | Self::Status429)
    }
}

/// An answer that is not a success, as the store gave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct StatusAnswer {
    pub(crate) status: u16,
    /// The store's error code, such as `NoSuchKey`; empty when it gave none.
    pub(crate) code: String,
    pub(crate) message: String,
    /// The region that the bucket is in, when the answer tells.
    pub(crate) region: Option<String>,
    pub(crate) retry_after: Option<Duration>,
}

/// Why one try failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Status(StatusAnswer),
    /// No connection.
    Connect(String),
    /// Nothing came for the request timeout, or too slowly altogether.
    Timeout(String),
    /// The connection broke before the answer or within its body.
    Reset(String),
    /// The body ended before its bytes did.
    Short {
        got: u64,
        expected: u64,
    },
    /// The answer is of another version than the one asked for.
    Changed(String),
    /// The object is gone.
    Absent(String),
    /// The folder's or the store's permissions refuse.
    Denied(String),
    /// The answer is no valid answer of such a store, or the request cannot be expressed.
    Malformed(String),
    /// Credentials could not be had just now (an STS or a metadata service that does not answer).
    CredentialsUnavailable(String),
    /// A signature was refused for its time; the next one has the store's.
    ClockSkewed(String),
    /// There are no usable credentials.
    CredentialsMissing(String),
    /// The disk under a local folder failed.
    Disk(String),
}

impl Failure {
    /// Why to try again, or `None` if that would not help.
    pub(crate) fn retry_cause(&self) -> Option<RetryCause> {
        match self {
            Self::Status(answer) => match (answer.status, answer.code.as_str()) {
                (500, _) => Some(RetryCause::Status500),
                (502, _) => Some(RetryCause::Status502),
                (503, _) | (_, "SlowDown") => Some(RetryCause::Status503),
                (504, _) => Some(RetryCause::Status504),
                (429, _) => Some(RetryCause::Status429),
                // S3 answers 400 when the request arrived too slowly.
                (408, _) | (400, "RequestTimeout") => Some(RetryCause::Status408),
                // What a store never will do, however often it is asked.
                (501 | 505, _) => None,
                // Gateways and CDNs in front of stores have 5xx of their own: 520 to 530, 599.
                (501.., _) => Some(RetryCause::Status500),
                _ => None,
            },
            Self::Connect(_) => Some(RetryCause::Connect),
            Self::Timeout(_) => Some(RetryCause::Timeout),
            Self::Reset(_) => Some(RetryCause::Reset),
            Self::Short { .. } => Some(RetryCause::Short),
            Self::CredentialsUnavailable(_) | Self::ClockSkewed(_) => Some(RetryCause::Credentials),
            Self::Changed(_)
            | Self::Absent(_)
            | Self::Denied(_)
            | Self::Malformed(_)
            | Self::CredentialsMissing(_)
            | Self::Disk(_) => None,
        }
    }

    /// True if the session token was refused because its time is over.
    pub(crate) fn is_expired_token(&self) -> bool {
        let codes = ["ExpiredToken", "TokenRefreshRequired"];
        matches!(self, Self::Status(answer) if codes.contains(&answer.code.as_str()))
    }

    /// True if a signature was refused because of its time.
    pub(crate) fn is_skewed(&self) -> bool {
        matches!(self, Self::Status(answer) if answer.code == "RequestTimeTooSkewed")
    }

    /// How long the store asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status(answer) => answer.retry_after,
            _ => None,
        }
    }

    /// One word for "log the why once per kind".
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Status(answer) => format!("{} {}", answer.status, answer.code),
            Self::Connect(_) => "connect".into(),
            Self::Timeout(_) => "timeout".into(),
            Self::Reset(_) => "reset".into(),
            Self::Short { .. } => "short".into(),
            Self::Changed(_) => "changed".into(),
            Self::Absent(_) => "absent".into(),
            Self::Denied(_) => "denied".into(),
            Self::Malformed(_) => "malformed".into(),
            Self::CredentialsUnavailable(_) | Self::CredentialsMissing(_) => "credentials".into(),
            Self::ClockSkewed(_) => "clock".into(),
            Self::Disk(_) => "disk".into(),
        }
    }

    /// What happened, in words.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Status(answer) => answer.text(),
            Self::Connect(why) => format!("no connection: {why}"),
            Self::Timeout(why) | Self::Changed(why) | Self::Absent(why) | Self::Denied(why) => {
                why.clone()
            }
            Self::Reset(why) => format!("connection broke: {why}"),
            Self::Short { got, expected } => format!("body ended after {got} of {expected} bytes"),
            Self::Malformed(why) => why.clone(),
            Self::CredentialsUnavailable(why) => format!("no credentials at the moment: {why}"),
            Self::ClockSkewed(why) | Self::CredentialsMissing(why) => why.clone(),
            Self::Disk(why) => why.clone(),
        }
    }

    /// The error for the caller. `after` is when to come back if that may help.
    pub(crate) fn into_read_error(self, location: Arc<str>, after: Duration) -> ReadError {
        let retryable = self.retry_cause().is_some();
        let cause: Arc<str> = self.text().into();
        if retryable {
            return ReadError::Unavailable { location, cause, after };
        }
        match self {
            Self::Status(answer) => status_error(&answer, location, cause),
            Self::Changed(_) => ReadError::Changed { location, cause },
            Self::Absent(_) => ReadError::NotFound { location, cause },
            Self::Denied(_) | Self::CredentialsMissing(_) => {
                ReadError::Forbidden { location, cause }
            }
            Self::Malformed(_) => ReadError::Rejected { location, cause },
            Self::Disk(_)
            | Self::Connect(_)
            | Self::Timeout(_)
            | Self::Reset(_)
            | Self::Short { .. }
            | Self::ClockSkewed(_)
            | Self::CredentialsUnavailable(_) => ReadError::Unavailable { location, cause, after },
        }
    }
}

/// The table for answers that are final.
fn status_error(answer: &StatusAnswer, location: Arc<str>, cause: Arc<str>) -> ReadError {
    if answer.region.is_some() {
        return ReadError::Rejected { location, cause };
    }
    match (answer.status, answer.code.as_str()) {
        // S3 says 400 for credentials that ended or never were.
        (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => {
            ReadError::Forbidden { location, cause }
        }
        (404 | 410, _) => ReadError::NotFound { location, cause },
        // 416: the range ends behind the object, which is therefore not the one that was listed.
        (412 | 416, _) => ReadError::Changed { location, cause },
        _ => ReadError::Rejected { location, cause },
    }
}

impl StatusAnswer {
    /// What the store said, and the way out where there is one.
    fn text(&self) -> String {
        let code = if self.code.is_empty() { "no error code" } else { &self.code };
        let said = format!("{} {code}", self.status);
        if let Some(region) = &self.region {
            return format!("{said}: the bucket is in region {region}; set --region {region}");
        }
        let hint = match (self.status, self.code.as_str()) {
            (_, "InvalidAccessKeyId") => {
                "wrong credentials: the access key is unknown to the store"
            }
            (_, "SignatureDoesNotMatch") => {
                "wrong credentials: the secret key does not belong to the access key"
            }
            (_, "ExpiredToken" | "TokenRefreshRequired") => {
                "the session token has expired; get new credentials"
            }
            (_, "InvalidToken") => "wrong credentials: the session token is not valid",
            (_, "RequestTimeTooSkewed") => {
                "the clock of this machine and the store's differ by over 15 minutes; set the clock"
            }
            (_, "NoSuchBucket" | "InvalidBucketName") => {
                "the bucket does not exist here; check its name, --endpoint and --region"
            }
            (
                _,
                "AuthorizationHeaderMalformed"
                | "PermanentRedirect"
                | "IllegalLocationConstraintException",
            ) => "the bucket is in another region; set --region",
            (301 | 307 | 308, _) => "redirected: check --region and --endpoint",
            (401 | 403, _) => {
                "the credentials may not do this; they need s3:GetObject and s3:ListBucket \
                 (without the latter S3 also refuses absent keys)"
            }
            (412, _) => "replaced by another version",
            (404, "NoSuchKey") => "no such object",
            (404, _) => "no such object or bucket",
            (429 | 503, _) => "the store asks to slow down",
            _ => self.message.as_str(),
        };
        if hint.is_empty() { said } else { format!("{said}: {hint}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, code: &str) -> ReadError {
        let answer = StatusAnswer { status, code: code.into(), ..StatusAnswer::default() };
        Failure::Status(answer).into_read_error("s3://b/k".into(), Duration::from_secs(1))
    }

    #[test]
    fn every_status_has_its_error() {
        for status in [500, 502, 503, 504, 429, 408, 520, 524, 599] {
            assert!(error(status, "").is_retryable(), "{status}");
        }
        assert!(matches!(error(403, "AccessDenied"), ReadError::Forbidden { .. }));
        assert!(matches!(error(401, ""), ReadError::Forbidden { .. }));
        assert!(matches!(error(400, "ExpiredToken"), ReadError::Forbidden { .. }));
        assert!(matches!(error(404, "NoSuchKey"), ReadError::NotFound { .. }));
        assert!(matches!(error(404, "NoSuchBucket"), ReadError::NotFound { .. }));
        assert!(matches!(error(412, "PreconditionFailed"), ReadError::Changed { .. }));
        assert!(matches!(error(416, "InvalidRange"), ReadError::Changed { .. }));
        assert!(matches!(error(400, "InvalidRequest"), ReadError::Rejected { .. }));
        assert!(matches!(error(301, "PermanentRedirect"), ReadError::Rejected { .. }));
        assert!(matches!(error(501, "NotImplemented"), ReadError::Rejected { .. }));
        assert!(error(400, "RequestTimeout").is_retryable());
    }

    #[test]
    fn a_message_names_the_way_out() {
        let answer = StatusAnswer {
            status: 301,
            code: "PermanentRedirect".into(),
            region: Some("eu-west-1".into()),
            ..StatusAnswer::default()
        };
        let error = Failure::Status(answer).into_read_error("s3://b".into(), Duration::ZERO);
        assert!(error.to_string().contains("set --region eu-west-1"), "{error}");
        assert!(matches!(error, ReadError::Rejected { .. }));
        let skewed = super::tests::error(403, "RequestTimeTooSkewed");
        assert!(matches!(skewed, ReadError::Forbidden { .. }));
        assert!(skewed.to_string().contains("set the clock"), "{skewed}");
    }
}
