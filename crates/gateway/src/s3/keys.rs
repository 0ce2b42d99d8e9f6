//! Who may read: the key pairs, and requests whose signature does not matter.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use http::{Request, Uri};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};

/// Who may read through the endpoint.
#[derive(Debug, Clone)]
pub enum S3Access {
    /// Who signs with one of these.
    Keys(S3Keys),
    /// Everybody who reaches the port; signatures are not looked at.
    Anonymous,
    /// Nobody, for this reason, which says what to configure.
    Closed(&'static str),
}

impl S3Access {
    /// One word for status and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Keys(_) => "keys",
            Self::Anonymous => "anonymous",
            Self::Closed(_) => "closed",
        }
    }
}

/// Key pairs. Printing them shows how many there are.
#[derive(Clone)]
pub struct S3Keys(Arc<HashMap<String, SecretKey>>);

impl fmt::Debug for S3Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Keys({})", self.0.len())
    }
}

impl S3Keys {
    /// Reads a file of key pairs: on each line an access key, blanks, and its secret key. Empty lines
    /// and those that start with `#` are passed over.
    ///
    /// # Errors
    ///
    /// What is wrong with which line, without what the line holds.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (Some(access), Some(secret), None) = (words.next(), words.next(), words.next())
            else {
                return Err(format!("line {number} is not ACCESS_KEY SECRET_KEY"));
            };
            if keys.insert(access.to_owned(), SecretKey::from(secret)).is_some() {
                return Err(format!("line {number} has the access key of a line before it"));
            }
        }
        if keys.is_empty() {
            return Err("holds no key: write ACCESS_KEY SECRET_KEY, one pair a line".into());
        }
        Ok(Self(Arc::new(keys)))
    }
}

#[async_trait::async_trait]
impl S3Auth for S3Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.get(access_key).cloned().ok_or_else(|| {
            s3_error!(InvalidAccessKeyId, "The access key is none of those in the file s3-keys")
        })
    }
}

/// The request as if nobody had signed it: SDKs sign with whatever keys they find.
pub(super) fn without_signature<B>(mut request: Request<B>) -> Request<B> {
    request.headers_mut().remove(AUTHORIZATION);
    let signs = |pair: &str| {
        let name = pair.split('=').next().unwrap_or(pair);
        name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
            || ["Signature", "AWSAccessKeyId", "Expires"].contains(&name)
    };
    let uri = request.uri();
    let Some(query) = uri.query().filter(|query| query.split('&').any(signs)) else {
        return request;
    };
    let kept: Vec<_> = query.split('&').filter(|pair| !signs(pair)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    let target = format!("{}{mark}{}", uri.path(), kept.join("&"));
    let mut parts = uri.clone().into_parts();
    // Parts of a valid target are one.
    if let Ok(target) = PathAndQuery::try_from(target) {
        parts.path_and_query = Some(target);
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}
