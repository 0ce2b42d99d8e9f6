//! XML answers, as S3 writes them.

use std::fmt::Write;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The first line of every answer.
pub(crate) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// What `encoding-type=url` leaves as it is.
const URL: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*').remove(b'/');

/// Escapes text. Control characters become references: XML 1.0 has no word for most of them, and
/// S3 writes them so; `encoding-type=url` is how a client gets them whole.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => {
                let _ = write!(escaped, "&#x{:x};", u32::from(c)); // A String takes everything.
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Escapes a key for a listing, as its `encoding-type` asks.
pub(crate) fn key(text: &str, url: bool) -> String {
    if url { utf8_percent_encode(text, URL).to_string() } else { escape(text) }
}

/// One element with text.
pub(crate) fn tag(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}
