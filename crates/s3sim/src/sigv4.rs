//! Checks AWS Signature Version 4, in the header or in the query (presigned).
//!
//! Deliberately absent: expiry of what is presigned, and the chain of chunk signatures in streamed uploads; the
//! signature of their head is checked like any other.

use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::error::S3Error;
use crate::object::basic;
use crate::target::Target;

/// What SigV4 leaves unescaped in a query.
const STRICT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What SigV4 leaves unescaped in a path: also the slash.
const PATH: &AsciiSet = &STRICT.remove(b'/');

/// How far the time of a signature may be from ours: S3's own limit.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// The key pair that requests must be signed with.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

/// The parts of a signature, wherever they were sent.
struct Claim {
    credential: String,
    signed_headers: String,
    signature: String,
    time: String,
    payload_hash: String,
}

/// Lowercase hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 as lowercase hexadecimal digits.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// The value of a header as text; empty if it is absent.
pub(crate) fn header(headers: &HeaderMap, name: &str) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .unwrap_or_default()
        .into()
}

fn claim(parts: &Parts, target: &Target) -> Option<Claim> {
    if target.param("X-Amz-Algorithm") == Some("AWS4-HMAC-SHA256") {
        let param = |name: &str| target.param(name).map(str::to_owned);
        return Some(Claim {
            credential: param("X-Amz-Credential")?,
            signed_headers: param("X-Amz-SignedHeaders")?,
            signature: param("X-Amz-Signature")?,
            time: param("X-Amz-Date")?,
            payload_hash: "UNSIGNED-PAYLOAD".into(),
        });
    }
    let authorization = header(&parts.headers, "authorization");
    let fields = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let field = |name: &str| {
        let mut pairs = fields.split(',').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value.to_owned())
    };
    Some(Claim {
        credential: field("Credential")?,
        signed_headers: field("SignedHeaders")?,
        signature: field("Signature")?,
        time: header(&parts.headers, "x-amz-date"),
        payload_hash: header(&parts.headers, "x-amz-content-sha256"),
    })
}

fn canonical_request(parts: &Parts, target: &Target, claim: &Claim) -> String {
    let encode = |text: &str| utf8_percent_encode(text, STRICT).to_string();
    let mut query: Vec<(String, String)> = target
        .query
        .iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| (encode(name), encode(value)))
        .collect();
    query.sort();
    let query: Vec<String> =
        query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut headers = String::new();
    for name in claim.signed_headers.split(';') {
        let values: Vec<String> = parts
            .headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let path = utf8_percent_encode(&target.path, PATH);
    let (method, query) = (&parts.method, query.join("&"));
    let (signed, payload) = (&claim.signed_headers, &claim.payload_hash);
    format!("{method}\n{path}\n{query}\n{headers}\n{signed}\n{payload}")
}

/// Checks that a request was signed with `credentials`.
pub(crate) fn verify(
    parts: &Parts,
    target: &Target,
    credentials: &Credentials,
) -> Result<(), S3Error> {
    let claim = claim(parts, target)
        .ok_or_else(|| S3Error::access_denied("Anonymous access is forbidden here"))?;
    let (access_key, scope) = claim.credential.split_once('/').unwrap_or_default();
    if access_key != credentials.access_key {
        let message = "The AWS access key Id you provided does not exist in our records.";
        return Err(S3Error::new(http::StatusCode::FORBIDDEN, "InvalidAccessKeyId", message));
    }
    let request = sha256_hex(canonical_request(parts, target, &claim).as_bytes());
    let text = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{request}", claim.time);
    let first = format!("AWS4{}", credentials.secret_key).into_bytes();
    let key = scope.split('/').fold(first, |key, part| hmac(&key, part));
    if hex(&hmac(&key, &text)) != claim.signature {
        let message = "The request signature we calculated does not match the signature you \
                       provided. Check your key and signing method.";
        return Err(S3Error::new(http::StatusCode::FORBIDDEN, "SignatureDoesNotMatch", message));
    }
    let now = SystemTime::now();
    // What is presigned has a life of its own.
    let is_presigned = target.param("X-Amz-Algorithm").is_some();
    if !is_presigned && !(basic(now - SKEW_MAX)..=basic(now + SKEW_MAX)).contains(&claim.time) {
        let message = "The difference between the request time and the current time is too large.";
        return Err(S3Error::new(http::StatusCode::FORBIDDEN, "RequestTimeTooSkewed", message));
    }
    Ok(())
}
