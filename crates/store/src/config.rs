//! Which store to open and how: values as given, checked once.
//!
//! # Invariants
//!
//! - Credentials are never part of it: they come from [`Environment`], whose values never print.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The variables that stores read, captured once so that tests can own them.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The process's variables that matter here: `AWS_*`, `GOOGLE_*`, `AZURE_*` and `HOME`.
    #[must_use]
    pub fn from_process() -> Self {
        let wanted = |name: &str| {
            ["AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| name.starts_with(prefix))
                || name == "HOME"
        };
        Self::from_pairs(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .filter(|(name, _)| wanted(name)),
        )
    }

    /// Exactly these variables.
    pub fn from_pairs<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self { variables: pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect() }
    }

    /// The value of `name`; an empty one counts as unset, as it does for the AWS tools.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables whose name starts with `prefix`.
    pub(crate) fn with_prefix<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.variables
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Which store, and how to talk to it.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `s3://bucket[/prefix]`, `gs://bucket[/prefix]`, `az://container[/prefix]` (account and key
    /// from `AZURE_*`) or `file:///directory`.
    pub url: String,
    /// The address of an S3-compatible store, such as `http://127.0.0.1:9000`; `http` is then
    /// allowed. Otherwise `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` or the profile's, then AWS.
    pub endpoint: Option<String>,
    /// Otherwise `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile's, then `us-east-1`.
    pub region: Option<String>,
    /// The bucket in the path instead of the host name. Default: on with an endpoint, and for AWS
    /// when the bucket's name is no host name's label (a dot, upper case, an underscore).
    pub path_style: Option<bool>,
    /// Requests without a signature, for public buckets.
    pub anonymous: bool,
    /// PEM file of certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// A try is given up when nothing came for this long.
    pub request_timeout: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// From the first try of a read or a listing to the start of the last.
    pub retry_budget: Duration,
    /// The most requests in flight.
    pub requests_in_flight_max: usize,
    /// Where credentials and defaults come from.
    pub environment: Environment,
}

impl StoreConfig {
    /// The defaults for `url`, with this process's environment.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            path_style: None,
            anonymous: false,
            ca_file: None,
            // S3 answers in well under a second; ten mean that this connection will not.
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            // As long as a training step can wait without its watchdog firing; a guess.
            retry_budget: Duration::from_secs(30),
            // 10 Gb/s of 110 KB objects at 30 ms need about 370 in flight.
            requests_in_flight_max: 384,
            environment: Environment::from_process(),
        }
    }
}

/// Why a store cannot be opened: something in the configuration must change.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message covers the fields")]
pub enum OpenError {
    #[error(
        "{url:?} is no store: {why}; write s3://bucket/prefix, gs://bucket, az://container or file:///directory"
    )]
    Url { url: String, why: String },
    #[error("endpoint {endpoint:?}: {why}; write http://host:port or https://host")]
    Endpoint { endpoint: String, why: String },
    #[error("certificate file {path}: {why}")]
    Certificate { path: String, why: String },
    #[error("profile {profile:?}: {why}")]
    Profile { profile: String, why: String },
    #[error("{location}: {why}")]
    Client { location: String, why: String },
}

/// The scheme of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    S3,
    Gcs,
    Azure,
    File,
}

/// A URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreUrl {
    pub(crate) scheme: Scheme,
    /// Bucket or container; for a folder its absolute path.
    pub(crate) bucket: String,
    /// Empty, or ends in `/`.
    pub(crate) prefix: String,
}

impl StoreUrl {
    /// Reads a URL. Plain text after the scheme, not percent-encoded: keys are shown as they are.
    pub(crate) fn parse(url: &str) -> Result<Self, OpenError> {
        let error = |why: &str| OpenError::Url { url: url.to_owned(), why: why.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| error("it has no scheme"))?;
        let scheme = match scheme {
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "azure" => Scheme::Azure,
            "file" => Scheme::File,
            _ => return Err(error("the scheme is not known")),
        };
        if scheme == Scheme::File {
            if !rest.starts_with('/') {
                return Err(error("a folder must be an absolute path"));
            }
            let bucket = rest.trim_end_matches('/');
            let bucket = if bucket.is_empty() { "/" } else { bucket }.to_owned();
            return Ok(Self { scheme, bucket, prefix: String::new() });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:$".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(valid) {
            return Err(error("the bucket's name is empty or has characters that no bucket has"));
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { scheme, bucket: bucket.to_owned(), prefix })
    }

    /// What messages call it: `s3://bucket`.
    pub(crate) fn base(&self) -> String {
        match self.scheme {
            Scheme::S3 => format!("s3://{}", self.bucket),
            Scheme::Gcs => format!("gs://{}", self.bucket),
            Scheme::Azure => format!("az://{}", self.bucket),
            Scheme::File => format!("file://{}", self.bucket.trim_end_matches('/')),
        }
    }

    /// What the source's id is the hash of: the same bucket at another endpoint is another one.
    pub(crate) fn canonical(&self, endpoint: Option<&str>) -> String {
        match endpoint {
            Some(endpoint) => format!("{}?endpoint={endpoint}", self.base()),
            None => self.base(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = StoreUrl::parse("s3://data/imagenet/train//").expect("valid");
        assert_eq!((url.bucket.as_str(), url.prefix.as_str()), ("data", "imagenet/train/"));
        assert_eq!(url.canonical(None), "s3://data");
        assert_eq!(url.canonical(Some("http://h:1")), "s3://data?endpoint=http://h:1");
        let url = StoreUrl::parse("file:///tmp/x/").expect("valid");
        assert_eq!((url.bucket.as_str(), url.prefix.as_str()), ("/tmp/x", ""));
        for bad in ["data", "ftp://data", "s3://", "s3:///x", "file://x", "s3://a b"] {
            assert!(StoreUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_the_environment_never_print() {
        let environment = Environment::from_pairs([("AWS_SECRET_ACCESS_KEY", "hunter2")]);
        let mut config = StoreConfig::new("s3://b");
        config.environment = environment;
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
