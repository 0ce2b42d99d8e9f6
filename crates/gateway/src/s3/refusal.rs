//! Answers that need no S3 call: refusals, as S3 writes errors.

use std::time::Duration;

use bytes::Bytes;
use feedline_model::Clock;
use http::header::{CONNECTION, CONTENT_TYPE, EXPECT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use super::S3Body;

/// Of a request that is refused, so much is read, so that its client reads the answer rather than a
/// reset: the body of most calls, and a small upload.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long that may take.
const BODY_WITHIN: Duration = Duration::from_secs(5);

/// Reads the body of a request that will be refused, unless the client waits to be told to send it. False: not
/// all of it was read, and the connection is of no use for another request.
pub(super) async fn take_body(clock: &dyn Clock, request: Request<Incoming>) -> bool {
    if request.headers().contains_key(EXPECT) {
        return false;
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    tokio::select! {
        taken = body => taken.is_ok(),
        () = clock.sleep(BODY_WITHIN) => false,
    }
}

/// Says that the connection ends with this answer: a client that finds out by itself may have sent another
/// request by then.
pub(super) fn last(mut response: Response<S3Body>) -> Response<S3Body> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An error as S3 writes it.
pub(super) fn answer(status: StatusCode, code: &str, message: &str) -> Response<S3Body> {
    let message = message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}\
         </Message></Error>"
    );
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
