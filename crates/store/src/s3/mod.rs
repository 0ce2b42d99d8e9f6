//! S3 and what speaks its protocol: GET and ListObjectsV2, signed, over [`crate::direct`].
//!
//! Requests are made here and not through `object_store::ObjectStore`, because that parses every key
//! of a listing as a path: one key with an empty part, `.` or a control character fails the whole
//! page, and the slash of a marker `a/` is lost. Its credential providers are used.
//!
//! # Invariants
//!
//! - A GET carries `If-Match` whenever the version has a tag, and the answer's tag and size are
//!   compared with the version: bytes of another version are [`Failure::Changed`].
//!
//! # Deliberately absent
//!
//! - No retry, no limit, no writing. A refused session token is renewed, a refused time is corrected, and the
//!   retry loop tries again.

pub(crate) mod credentials;
pub(crate) mod profile;
pub(crate) mod sign;
pub(crate) mod xml;

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{Clock, ListPage, ListRequest, Object};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, IF_MATCH, RANGE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use object_store::client::{HttpClient, HttpRequest, HttpRequestBody, HttpResponse};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::backend::Backend;
use crate::failure::{Failure, StatusAnswer};
use crate::http::{Watchdog, http_failure, read_body, read_text};
use credentials::S3Credentials;
use sign::Signer;

/// What a signature leaves as it is; everything else is percent-encoded.
const QUERY_ENCODE: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// As in a query, with the slashes between the parts of a key.
const PATH_ENCODE: AsciiSet = QUERY_ENCODE.remove(b'/');

/// A page of 1,000 keys of 1,024 bytes, percent-encoded threefold and with their tags, is 4 MiB.
const LIST_BYTES_MAX: usize = 16 << 20;

/// Error documents are a few hundred bytes; more is no error document of S3.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// A store's time is taken if it differs by more from the one that was signed with: with less it would not have
/// refused that, and something else is wrong.
const SKEW_MIN_MS: u64 = 60_000;

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

/// One bucket.
#[derive(Debug)]
pub(crate) struct S3Backend {
    pub(crate) http: HttpClient,
    /// `None`: requests are not signed.
    pub(crate) credentials: Option<S3Credentials>,
    pub(crate) region: String,
    pub(crate) signer: Signer,
    /// The bucket's address, without a slash at the end.
    pub(crate) bucket_url: String,
    pub(crate) clock: Arc<dyn Clock>,
    /// By how much the store's clock is ahead of ours, once it has refused our time, in milliseconds.
    pub(crate) skew_ms: AtomicI64,
    pub(crate) timeout: Duration,
}

impl S3Backend {
    /// The time to sign with.
    fn signing_ms(&self) -> u64 {
        self.clock.unix_ms().saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }

    /// The store says what time it is. True if that is another time than the one signed with.
    fn take_time(&self, signed_ms: u64, headers: &HeaderMap) -> bool {
        let date = headers.get(DATE).and_then(|value| value.to_str().ok());
        let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let Some(theirs) = theirs.and_then(|it| it.duration_since(UNIX_EPOCH).ok()) else {
            return false;
        };
        let theirs_ms = u64::try_from(theirs.as_millis()).unwrap_or(u64::MAX);
        if theirs_ms.abs_diff(signed_ms) < SKEW_MIN_MS {
            return false;
        }
        let ours_ms = self.clock.unix_ms();
        let skew_ms = theirs_ms.wrapping_sub(ours_ms).cast_signed();
        let before_ms = self.skew_ms.swap(skew_ms, Ordering::Relaxed);
        // All that are in flight are refused at once.
        if SKEW_MIN_MS < skew_ms.abs_diff(before_ms) {
            let seconds = skew_ms / 1000;
            tracing::warn!(bucket = %self.bucket_url, seconds, "this machine's clock is wrong, or the store's: \
                requests are signed with the store's time from now on; set the clock");
        }
        true
    }

    fn object_uri(&self, key: &str) -> Result<String, Failure> {
        // URL parsers resolve such parts even when they are percent-encoded.
        if key.is_empty() || key.split('/').any(|part| part == "." || part == "..") {
            let why = "the key has a part \".\" or \"..\", which no URL can carry";
            return Err(Failure::Malformed(why.into()));
        }
        Ok(format!("{}/{}", self.bucket_url, utf8_percent_encode(key, &PATH_ENCODE)))
    }

    /// Sends a signed GET and returns the answer if it is a success.
    async fn send(
        &self,
        uri: String,
        headers: HeaderMap,
        watchdog: &mut Watchdog,
    ) -> Result<HttpResponse, Failure> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() =
            uri.parse().map_err(|e| Failure::Malformed(format!("{uri:?} is no URL: {e}")))?;
        *request.headers_mut() = headers;
        let (mut generation, mut signed_ms) = (None, 0);
        if let Some(credentials) = &self.credentials {
            let (credential, number) =
                watchdog.guard(credentials.get()).await.map_err(|failure| {
                    Failure::CredentialsUnavailable(format!(
                        "{}: {}",
                        credentials.origin,
                        failure.text()
                    ))
                })??;
            generation = Some(number);
            let (path, query) = (request.uri().path().to_owned(), request.uri().query());
            let query = query.unwrap_or_default().to_owned();
            signed_ms = self.signing_ms();
            self.signer
                .sign(&credential, signed_ms, &path, &query, request.headers_mut())
                .map_err(|why| Failure::CredentialsMissing(format!("cannot sign: {why}")))?;
        }
        let response = watchdog.guard(self.http.execute(request)).await?;
        let response = response.map_err(|error| http_failure(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        let failure = self.status_failure(response, watchdog).await;
        if generation.is_some() && failure.is_skewed() && self.take_time(signed_ms, &headers) {
            return Err(Failure::ClockSkewed(failure.text()));
        }
        match (&self.credentials, generation) {
            (Some(credentials), Some(generation))
                if failure.is_expired_token() && credentials.renew(generation) =>
            {
                Err(Failure::CredentialsUnavailable(failure.text()))
            }
            _ => Err(failure),
        }
    }

    async fn status_failure(&self, response: HttpResponse, watchdog: &mut Watchdog) -> Failure {
        let (parts, body) = response.into_parts();
        let mut answer = StatusAnswer {
            status: parts.status.as_u16(),
            retry_after: retry_after(&parts.headers),
            ..StatusAnswer::default()
        };
        // The status alone says enough if the document cannot be had.
        if let Ok(text) = read_text(body, ERROR_BYTES_MAX, watchdog).await {
            xml::parse_error(&text, &mut answer);
        }
        // The header names the bucket's region on every answer, also where the region is right.
        // A redirect to the right region is followed, where the signature is not valid: 403.
        let is_region_error = parts.status.is_redirection()
            || (parts.status == StatusCode::FORBIDDEN && self.credentials.is_some())
            || answer.code == "AuthorizationHeaderMalformed"
            || answer.code == "IllegalLocationConstraintException";
        if is_region_error && answer.region.is_none() {
            let region = parts.headers.get(BUCKET_REGION).and_then(|value| value.to_str().ok());
            answer.region = region.map(str::to_owned);
        }
        if !is_region_error || answer.region.as_deref() == Some(self.region.as_str()) {
            answer.region = None;
        }
        Failure::Status(answer)
    }
}

#[async_trait]
impl Backend for S3Backend {
    async fn get(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure> {
        let expected = range.end - range.start;
        let whole = expected == object.version.size;
        let mut headers = HeaderMap::with_capacity(8);
        if !whole {
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            headers.insert(RANGE, header(&text)?);
        }
        // A weak tag never matches (RFC 9110, 13.1.1): the answer's own tag is all there is to compare.
        if let Some(tag) = object.version.etag.text().filter(|tag| !tag.starts_with("W/")) {
            headers.insert(IF_MATCH, header(&format!("\"{tag}\""))?);
        }
        let mut watchdog = Watchdog::new(&self.clock, self.timeout, expected);
        let response = self.send(self.object_uri(&object.key)?, headers, &mut watchdog).await?;
        check_version(object, whole, &range, &response)?;
        let length_known = response.headers().contains_key(CONTENT_LENGTH);
        read_body(response.into_body(), expected, length_known, &mut watchdog).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage, Failure> {
        // The parameters are in the order of their names, as a signature wants them. Keys come
        // URL-encoded, or else XML could not carry control characters.
        let separator = if self.bucket_url.matches('/').count() > 2 { "" } else { "/" };
        let token = request.token.as_deref();
        let prefix = (!request.prefix.is_empty()).then_some(request.prefix.as_str());
        let parameters = [
            ("continuation-token", token),
            ("delimiter", request.delimiter.then_some("/")),
            ("encoding-type", Some("url")),
            ("list-type", Some("2")),
            ("max-keys", Some("1000")),
            ("prefix", prefix),
            ("start-after", request.after.as_deref().filter(|_| token.is_none())),
        ];
        let mut uri = format!("{}{separator}", self.bucket_url);
        let mut mark = '?';
        for (name, value) in parameters.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            let _ = write!(uri, "{mark}{name}={}", utf8_percent_encode(value, &QUERY_ENCODE));
            mark = '&';
        }
        let mut watchdog = Watchdog::new(&self.clock, self.timeout, LIST_BYTES_MAX as u64 / 16);
        let response = self.send(uri, HeaderMap::new(), &mut watchdog).await?;
        let text = read_text(response.into_body(), LIST_BYTES_MAX, &mut watchdog).await?;
        xml::parse_list(&text)
    }
}

fn header(text: &str) -> Result<HeaderValue, Failure> {
    HeaderValue::from_str(text)
        .map_err(|_| Failure::Malformed(format!("{text:?} cannot be sent as a header")))
}

/// A tag without quotes and without the mark of a weak one, for comparing: proxies add that mark when
/// they pass a body on.
fn tag_text(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

/// How long the store asks to wait; the form with a date is not used by object stores.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Makes sure that the answer is of the version and of the range asked for.
fn check_version(
    object: &Object,
    whole: bool,
    range: &Range<u64>,
    response: &HttpResponse,
) -> Result<(), Failure> {
    let text =
        |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(tag) = text(ETAG) {
        let (found, wanted) = (tag_text(tag), object.version.etag.text().unwrap_or_default());
        if !wanted.is_empty() && found != tag_text(&wanted) {
            return Err(Failure::Changed(format!("tag {found} instead of {wanted}")));
        }
    }
    let total = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let value = text(CONTENT_RANGE).unwrap_or_default();
            let (start, end, total) = content_range(value)
                .ok_or_else(|| Failure::Malformed(format!("content range {value:?}")))?;
            // Where the total differs, that says more.
            let same_total = total.is_none_or(|total| total == object.version.size);
            if same_total && (start, end) != (range.start, range.end) {
                return Err(Failure::Malformed(format!("range {value:?} for {range:?}")));
            }
            total
        }
        _ if !whole => {
            return Err(Failure::Malformed("the store ignores ranges".into()));
        }
        _ => text(CONTENT_LENGTH).and_then(|value| value.parse().ok()),
    };
    match total {
        Some(total) if total != object.version.size => {
            Err(Failure::Changed(format!("{total} bytes instead of {}", object.version.size)))
        }
        _ => Ok(()),
    }
}

/// Start, end (exclusive) and total of `bytes 0-9/100`; the total may be unknown.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    Some((start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()))
}
