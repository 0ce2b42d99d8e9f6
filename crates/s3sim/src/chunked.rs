//! The `aws-chunked` body encoding: what boto3, the AWS CLI and rclone wrap uploads in.
//!
//! Each chunk is `length in hex[;chunk-signature=...]`, CRLF, the bytes, CRLF; a chunk of length 0
//! ends the body and may be followed by trailers with checksums. Trailers are read over: what a
//! checksum would prove here, TCP on the loopback does.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::error::S3Error;
use crate::sigv4::header;

/// True if the body of a request with these headers is wrapped.
pub(crate) fn is_chunked(headers: &HeaderMap) -> bool {
    header(headers, "x-amz-content-sha256").starts_with("STREAMING-")
        || header(headers, "content-encoding").split(',').any(|one| one.trim() == "aws-chunked")
}

/// Unwraps a body.
///
/// # Errors
///
/// `IncompleteBody` if a chunk is cut off or malformed, or if there are more or fewer bytes than
/// `x-amz-decoded-content-length` says.
pub(crate) fn decode(mut body: Bytes, headers: &HeaderMap) -> Result<Bytes, S3Error> {
    let malformed = || S3Error::incomplete_body("a chunk is cut off or malformed");
    let mut decoded = BytesMut::with_capacity(body.len());
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").ok_or_else(malformed)?;
        let head = body.split_to(end);
        body.advance(2);
        let head = std::str::from_utf8(&head).map_err(|_| malformed())?;
        let length = head.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(length, 16).map_err(|_| malformed())?;
        if length == 0 {
            break;
        }
        if body.len() < length.saturating_add(2) {
            return Err(malformed());
        }
        decoded.extend_from_slice(&body.split_to(length));
        if !body.starts_with(b"\r\n") {
            return Err(malformed());
        }
        body.advance(2);
    }
    let promised = header(headers, "x-amz-decoded-content-length");
    if !promised.is_empty() && promised != decoded.len().to_string() {
        return Err(S3Error::incomplete_body(format!("{} bytes of {promised}", decoded.len())));
    }
    Ok(decoded.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn promise(bytes: &'static str) -> HeaderMap {
        let value = http::HeaderValue::from_static(bytes);
        HeaderMap::from_iter([(
            http::HeaderName::from_static("x-amz-decoded-content-length"),
            value,
        )])
    }

    #[test]
    fn signed_chunks_with_trailers_are_unwrapped() {
        let body = "5;chunk-signature=00\r\nhello\r\n6\r\n\r\nworl\r\n0\r\nx-amz-checksum-crc32:AA\r\n\r\n";
        let decoded = decode(Bytes::from_static(body.as_bytes()), &promise("11"));
        assert_eq!(decoded.expect("well-formed"), "hello\r\nworl");
    }

    #[test]
    fn a_body_that_is_cut_off_is_refused_at_every_length() {
        let body = Bytes::from_static(b"5\r\nhello\r\n6\r\n world\r\n0\r\n");
        assert!(decode(body.clone(), &promise("11")).is_ok());
        assert!(decode(body.clone(), &promise("12")).is_err());
        for end in 0..body.len() {
            assert!(decode(body.slice(..end), &promise("11")).is_err(), "cut at {end}");
        }
    }
}
