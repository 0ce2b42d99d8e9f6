//! ListObjects, versions 1 and 2.

use std::fmt::Write;
use std::ops::Bound;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::S3Error;
use crate::object::{Entry, iso8601};
use crate::store::Keys;
use crate::target::{Target, decode};
use crate::xml;

/// S3 never lists more in one page.
const KEYS_MAX: usize = 1_000;

/// What a page is asked for.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    delimiter: String,
    keys_max: usize,
    url: bool,
    v2: bool,
    after: String,
    token: Option<Cursor>,
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cursor {
    Key(String),
    /// A common prefix: all keys that begin with it are done.
    Prefix(String),
}

impl Cursor {
    fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Prefix(text) => text,
        }
    }

    fn token(&self) -> String {
        let kind = if matches!(self, Self::Key(_)) { 'k' } else { 'p' };
        format!("{kind}{}", utf8_percent_encode(self.text(), NON_ALPHANUMERIC))
    }

    fn parse(token: &str) -> Result<Self, S3Error> {
        match (token.get(..1), token.get(1..)) {
            (Some("k"), Some(key)) => Ok(Self::Key(decode(key)?)),
            (Some("p"), Some(prefix)) => Ok(Self::Prefix(decode(prefix)?)),
            _ => Err(S3Error::invalid_argument("The continuation token provided is incorrect")),
        }
    }
}

/// A page as found.
#[derive(Debug, Default)]
pub(crate) struct Page {
    keys: Vec<(String, Entry)>,
    prefixes: Vec<String>,
    /// Set if there is more.
    next: Option<Cursor>,
}

/// The first text after all that begin with `prefix`; `None` if there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // `..=` on chars steps over the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

impl Query {
    pub(crate) fn parse(target: &Target) -> Result<Self, S3Error> {
        let param = |name: &str| target.param(name).unwrap_or("").to_owned();
        let keys_max = match target.param("max-keys") {
            None | Some("") => KEYS_MAX,
            Some(number) => number
                .parse::<usize>()
                .map_err(|_| S3Error::invalid_argument("max-keys is not a number"))?
                .min(KEYS_MAX),
        };
        let v2 = target.param("list-type") == Some("2");
        let token = target.param("continuation-token").map(Cursor::parse).transpose()?;
        Ok(Self {
            prefix: param("prefix"),
            delimiter: param("delimiter"),
            keys_max,
            url: target.param("encoding-type") == Some("url"),
            v2,
            after: if v2 { param("start-after") } else { param("marker") },
            token,
        })
    }

    /// True if this page begins a listing.
    pub(crate) fn is_first(&self) -> bool {
        self.token.is_none() && (self.v2 || self.after.is_empty())
    }

    /// Where the keys of this page begin; `None` if past the end.
    fn start(&self) -> Option<Bound<String>> {
        let start = match &self.token {
            Some(Cursor::Key(key)) => Bound::Excluded(key.clone()),
            Some(Cursor::Prefix(prefix)) => Bound::Included(after_prefix(prefix)?),
            // The marker of version 1 may be a common prefix of the page before.
            None if !self.v2
                && !self.delimiter.is_empty()
                && self.after.len() > self.prefix.len()
                && self.after.ends_with(&self.delimiter) =>
            {
                Bound::Included(after_prefix(&self.after)?)
            }
            None => Bound::Excluded(self.after.clone()),
        };
        let (Bound::Included(text) | Bound::Excluded(text)) = &start else { return Some(start) };
        let before =
            text.as_str() < self.prefix.as_str() || self.after.is_empty() && text.is_empty();
        Some(if before { Bound::Included(self.prefix.clone()) } else { start })
    }

    /// Collects a page. A common prefix costs one search, however many keys it stands for.
    pub(crate) fn collect(&self, keys: &Keys<'_>) -> Page {
        let mut page = Page::default();
        let mut start = if self.keys_max == 0 { None } else { self.start() };
        let mut last = None;
        while let Some(bound) = start.take() {
            for (key, entry) in keys.from(bound.as_ref().map(String::as_str)) {
                let Some(rest) = key.strip_prefix(self.prefix.as_str()) else { break };
                if page.keys.len() + page.prefixes.len() == self.keys_max {
                    page.next = last;
                    return page;
                }
                let cut = if self.delimiter.is_empty() { None } else { rest.find(&self.delimiter) };
                let Some(at) = cut else {
                    last = Some(Cursor::Key(key.clone().into_owned()));
                    page.keys.push((key.into_owned(), entry));
                    continue;
                };
                let prefix = &key[..self.prefix.len() + at + self.delimiter.len()];
                page.prefixes.push(prefix.to_owned());
                last = Some(Cursor::Prefix(prefix.to_owned()));
                start = after_prefix(prefix).map(Bound::Included);
                break;
            }
        }
        page
    }

    /// Writes the answer.
    pub(crate) fn answer(&self, bucket: &str, page: &Page) -> String {
        let mut xml = String::with_capacity(256 + 300 * page.keys.len());
        xml.push_str(xml::DECLARATION);
        xml.push_str("<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        let mut field = |name: &str, text: &str| {
            let _ = write!(xml, "<{name}>{text}</{name}>"); // A String takes everything.
        };
        let key = |text: &str| xml::key(text, self.url);
        field("Name", &xml::escape(bucket));
        field("Prefix", &key(&self.prefix));
        field("MaxKeys", &self.keys_max.to_string());
        if !self.delimiter.is_empty() {
            field("Delimiter", &key(&self.delimiter));
        }
        if self.url {
            field("EncodingType", "url");
        }
        field("IsTruncated", if page.next.is_some() { "true" } else { "false" });
        if self.v2 {
            field("KeyCount", &(page.keys.len() + page.prefixes.len()).to_string());
            if !self.after.is_empty() {
                field("StartAfter", &key(&self.after));
            }
            if let Some(token) = &self.token {
                field("ContinuationToken", &xml::escape(&token.token()));
            }
            if let Some(next) = &page.next {
                field("NextContinuationToken", &xml::escape(&next.token()));
            }
        } else {
            field("Marker", &key(&self.after));
            if let Some(next) = &page.next {
                field("NextMarker", &key(next.text()));
            }
        }
        for (name, entry) in &page.keys {
            let (name, time, tag) = (key(name), iso8601(entry.modified()), entry.tag);
            let _ = write!(
                xml,
                "<Contents><Key>{name}</Key><LastModified>{time}</LastModified>\
                 <ETag>&quot;{tag}&quot;</ETag><Size>{}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                entry.size
            );
        }
        for prefix in &page.prefixes {
            let prefix = key(prefix);
            let _ = write!(xml, "<CommonPrefixes><Prefix>{prefix}</Prefix></CommonPrefixes>");
        }
        xml.push_str("</ListBucketResult>");
        xml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_after_a_prefix_follows_all_that_begin_with_it() {
        assert_eq!(after_prefix("a/").as_deref(), Some("a0"));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_prefix(""), None);
    }
}
