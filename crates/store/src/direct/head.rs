//! The head of a request, as it is sent.

use http::HeaderName;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::Scheme;
use object_store::client::HttpRequest;

const AGENT: &str = concat!("feedline/", env!("CARGO_PKG_VERSION"));

/// The head of a GET without a body.
pub(super) fn request(request: &HttpRequest) -> Vec<u8> {
    let mut head = Vec::with_capacity(1 << 10);
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    head.extend_from_slice(b"GET ");
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    let mut put = |name: &HeaderName, value: &[u8]| {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    let headers = request.headers();
    if !headers.contains_key(HOST) {
        put(&HOST, host(request).as_bytes());
    }
    for (name, value) in [(&USER_AGENT, AGENT), (&ACCEPT, "*/*")] {
        if !headers.contains_key(name) {
            put(name, value.as_bytes());
        }
    }
    headers.iter().for_each(|(name, value)| put(name, value.as_bytes()));
    head.extend_from_slice(b"\r\n");
    head
}

/// The host as a request names it: without the scheme's own port.
fn host(request: &HttpRequest) -> &str {
    let uri = request.uri();
    let Some(authority) = uri.authority() else { return "" };
    // Without a user's name.
    let text = authority.as_str();
    let text = text.rsplit_once('@').map_or(text, |(_, host)| host);
    let own = if uri.scheme() == Some(&Scheme::HTTPS) { ":443" } else { ":80" };
    text.strip_suffix(own).unwrap_or(text)
}
