//! What a request is about: bucket, key and query, from a path-style URL.

use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::error::S3Error;
use crate::stats::Verb;

/// A request's target, decoded. The bucket is empty for the list of buckets, the key for a bucket.
#[derive(Debug)]
pub(crate) struct Target {
    /// The whole path, decoded: what was signed.
    pub(crate) path: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) query: Vec<(String, String)>,
}

impl Target {
    /// # Errors
    ///
    /// `InvalidArgument` if the path is not UTF-8: S3 keys are.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, S3Error> {
        let path = decode(uri.path())?;
        let trimmed = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, key) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let mut query = Vec::new();
        for pair in uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Some clients write a blank of a query as a plus; a plus itself is always escaped.
            query.push((decode(name)?, decode(&value.replace('+', " "))?));
        }
        Ok(Self { path, bucket, key, query })
    }

    /// The value of a query parameter; empty for one that is only named, as in `?uploads`.
    pub(crate) fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.param(name).is_some()
    }

    /// What the request is counted as.
    pub(crate) fn verb(&self, method: &Method) -> Verb {
        match *method {
            Method::GET if self.key.is_empty() || self.has("uploadId") => Verb::List,
            Method::GET => Verb::Get,
            Method::HEAD => Verb::Head,
            Method::POST => Verb::Post,
            Method::DELETE => Verb::Delete,
            _ => Verb::Put,
        }
    }
}

/// Decodes percent escapes.
pub(crate) fn decode(text: &str) -> Result<String, S3Error> {
    let text = percent_decode_str(text).decode_utf8();
    Ok(text.map_err(|_| S3Error::invalid_argument("Not UTF-8"))?.into_owned())
}
