//! AWS Signature Version 4 of a GET, in memory only.
//!
//! object_store's signer is right and costs 10 us for each request: it parses the URL again and derives
//! the day's key anew. Here the URL's parts are known and the key is kept for its day.
//!
//! # Source
//!
//! AWS, "Create a signed AWS API request" (Signature Version 4).

use std::fmt::Write as _;
use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::AwsCredential;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

type HmacSha256 = Hmac<Sha256>;

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// SHA-256 of no bytes: the body of every GET.
const EMPTY_HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Room for the names of all headers that are signed: `host`, `if-match`, `range` and ours.
const NAMES_BYTES: usize = 96;

/// The key of one day and one secret, ready to sign.
struct DayKey {
    day: String,
    credential: Arc<AwsCredential>,
    key: HmacSha256,
}

/// Signs requests to one host in one region.
pub(crate) struct Signer {
    /// As the client sends it: without the scheme's own port.
    host: String,
    region: String,
    latest: Mutex<Option<DayKey>>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not print.
        f.debug_struct("Signer").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Signer {
    pub(crate) fn new(host: String, region: String) -> Self {
        Self { host, region, latest: Mutex::default() }
    }

    /// Adds the headers of a signature. `path` is percent-encoded as sent; `query` is, too, and is
    /// sorted by name. `headers` holds nothing but headers in lower case that are signed as well.
    ///
    /// # Errors
    ///
    /// What in the credentials cannot be sent as a header; never the value.
    pub(crate) fn sign(
        &self,
        credential: &Arc<AwsCredential>,
        unix_ms: u64,
        path: &str,
        query: &str,
        headers: &mut HeaderMap,
    ) -> Result<(), String> {
        let time = timestamp(unix_ms);
        let day = &time[..8];
        let value = |text: &str, what: &str| {
            HeaderValue::from_str(text).map_err(|_| format!("{what} has characters no header has"))
        };
        headers.insert(DATE, value(&time, "the date")?);
        headers.insert(CONTENT_HASH, HeaderValue::from_static(EMPTY_HASH));
        if let Some(token) = &credential.token {
            headers.insert(TOKEN, value(token, "the session token")?);
        }
        let mut named: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        named.push(("host", self.host.as_bytes()));
        named.sort_unstable();
        let mut signed = String::with_capacity(NAMES_BYTES);
        let mut canonical = Sha256::new();
        for part in ["GET\n", path, "\n", query, "\n"] {
            canonical.update(part);
        }
        for (name, value) in named {
            for part in [name.as_bytes(), b":", value.trim_ascii(), b"\n"] {
                canonical.update(part);
            }
            let _ = write!(signed, "{}{name}", if signed.is_empty() { "" } else { ";" });
        }
        for part in ["\n", &signed, "\n", EMPTY_HASH] {
            canonical.update(part);
        }
        let region = &self.region;
        let mut mac = self.day_key(day, credential);
        for part in ["AWS4-HMAC-SHA256\n", &time, "\n", day, "/", region, "/s3/aws4_request\n"] {
            mac.update(part.as_bytes());
        }
        mac.update(hex(&canonical.finalize()).as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        let key_id = &credential.key_id;
        let text = format!(
            "AWS4-HMAC-SHA256 Credential={key_id}/{day}/{region}/s3/aws4_request, \
             SignedHeaders={signed}, Signature={signature}"
        );
        headers.insert(AUTHORIZATION, value(&text, "the access key")?);
        Ok(())
    }

    /// The key of this day, kept until the day or the credentials change.
    fn day_key(&self, day: &str, credential: &Arc<AwsCredential>) -> HmacSha256 {
        let mut latest = self.latest.lock();
        if let Some(known) = latest.as_ref()
            && known.day == day
            && Arc::ptr_eq(&known.credential, credential)
        {
            return known.key.clone();
        }
        let secret = format!("AWS4{}", credential.secret_key);
        let mut key = hmac(secret.as_bytes());
        for part in [day, &self.region, "s3", "aws4_request"] {
            key.update(part.as_bytes());
            key = hmac(&key.finalize().into_bytes());
        }
        let (day, credential) = (day.to_owned(), credential.clone());
        *latest = Some(DayKey { day, credential, key: key.clone() });
        key
    }
}

fn hmac(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("a key of any length will do")
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// `20130524T000000Z`.
fn timestamp(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    // The civil calendar with years that begin in March, which puts the leap day at their end.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2013-05-24T00:00:00Z, the day of AWS's examples.
    const EXAMPLE_MS: u64 = 1_369_353_600_000;

    fn credential(token: Option<&str>) -> Arc<AwsCredential> {
        Arc::new(AwsCredential {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(str::to_owned),
        })
    }

    fn signature(signer: &Signer, path: &str, query: &str, mut headers: HeaderMap) -> String {
        let keys = credential(None);
        signer.sign(&keys, EXAMPLE_MS, path, query, &mut headers).expect("signed");
        let text = headers[AUTHORIZATION].to_str().expect("text").to_owned();
        text.rsplit_once('=').expect("a signature").1.to_owned()
    }

    #[test]
    fn it_signs_as_the_examples_of_aws_do() {
        let signer = Signer::new("examplebucket.s3.amazonaws.com".into(), "us-east-1".into());
        let range =
            HeaderMap::from_iter([(http::header::RANGE, HeaderValue::from_static("bytes=0-9"))]);
        let expected = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        // Twice: with a new key of the day, and with the kept one.
        for _ in 0..2 {
            assert_eq!(signature(&signer, "/test.txt", "", range.clone()), expected);
        }
        let listed = signature(&signer, "/", "max-keys=2&prefix=J", HeaderMap::new());
        assert_eq!(listed, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
    }

    #[test]
    fn times_are_written_as_signatures_want_them() {
        assert_eq!(timestamp(EXAMPLE_MS), "20130524T000000Z");
        assert_eq!(timestamp(951_827_696_999), "20000229T123456Z");
        assert_eq!(timestamp(1_704_067_199_000), "20231231T235959Z");
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_named_but_not_shown() {
        let signer = Signer::new("h".into(), "r".into());
        let keys = credential(Some("hunter2\n"));
        let why = signer.sign(&keys, 0, "/", "", &mut HeaderMap::new()).expect_err("refused");
        assert!(why.contains("session token") && !why.contains("hunter2"), "{why}");
    }
}
