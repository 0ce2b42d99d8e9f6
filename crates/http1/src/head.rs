//! Heads of answers, as they came.

use std::io;

use bytes::{Buf as _, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, response};

use crate::invalid;

/// Room for a head: that of S3 has some 500 bytes. What of a body comes with it is copied, so it is no more.
pub(crate) const HEAD_BYTES: usize = 4 << 10;

/// A longer head is refused.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Headers of an answer at most; S3 sends a dozen, and each metadata entry of an object is one more.
const HEADERS_MAX: usize = 128;

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    /// To the end of the connection.
    Rest,
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) parts: response::Parts,
    pub(crate) framing: Framing,
    /// The server keeps the connection open.
    pub(crate) is_kept: bool,
}

/// Takes the head of an answer from `read`; `None` if it is not whole yet.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] if that is no head of HTTP/1.
pub(crate) fn answer(read: &mut BytesMut) -> io::Result<Option<Answer>> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(read).map_err(|why| invalid(format!("no answer: {why}")))?;
        let httparse::Status::Complete(bytes) = parsed else {
            let too_long = HEAD_BYTES_MAX <= read.len();
            return if too_long {
                Err(invalid("the head of the answer is too long"))
            } else {
                Ok(None)
            };
        };
        let code = head.code.unwrap_or(0);
        // More is to come: nobody has asked for 101.
        if (100..200).contains(&code) && code != 101 {
            read.advance(bytes);
            continue;
        }
        let answer = taken(&head)?;
        read.advance(bytes);
        return Ok(Some(answer));
    }
}

fn taken(head: &httparse::Response<'_, '_>) -> io::Result<Answer> {
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for header in &*head.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let value = HeaderValue::from_bytes(header.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(invalid(format!("a header {:?} that cannot be", header.name)));
        };
        headers.append(name, value);
    }
    let status = StatusCode::from_u16(head.code.unwrap_or(0));
    let status = status.map_err(|_| invalid("a status that cannot be"))?;
    let is_new = head.version == Some(1);
    let framing = framing(status, &headers)?;
    let is_kept = is_new && framing != Framing::Rest && !says_close(&headers);
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = status;
    parts.version = if is_new { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers = headers;
    Ok(Answer { parts, framing, is_kept })
}

/// RFC 9112, 6.3.
fn framing(status: StatusCode, headers: &HeaderMap) -> io::Result<Framing> {
    if status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
        return Ok(Framing::Length(0));
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        let is_chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if !is_chunked || encodings.next().is_some() {
            return Err(invalid("a transfer encoding that nobody asked for"));
        }
        return Ok(Framing::Chunked);
    }
    let mut length = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.to_str().unwrap_or_default().trim();
        // A sign is no digit, though a number may be parsed with it.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let this = text.parse::<u64>().ok().filter(|_| digits);
        let this = this.ok_or_else(|| invalid(format!("a content length of {text:?}")))?;
        if length.is_some_and(|before| before != this) {
            return Err(invalid("two content lengths"));
        }
        length = Some(this);
    }
    Ok(length.map_or(Framing::Rest, Framing::Length))
}

/// True if the server closes the connection after this answer.
fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|it| it.trim().eq_ignore_ascii_case("close"))
    })
}
