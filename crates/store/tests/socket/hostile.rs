//! Answers that a store, a proxy or a gateway may give and that must never become wrong bytes.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{KEYS, config, listed, open, rig};
use crate::identity::{Server, canned, http, sts_answer, with_web_identity};
use bytes::Bytes;
use feedline_model::{
    BlockSource as _, ETag, ListRequest, Lister as _, Object, Priority, ReadError, Version,
};
use feedline_store::{RetryCause, Store, Verb};

const FIRST: ListRequest =
    ListRequest { prefix: String::new(), delimiter: true, after: None, token: None };

const EMPTY_LISTING: &str = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";

fn store_on(server: &Server) -> Arc<Store> {
    let mut config = config("s3://bucket", &format!("http://{}", server.address), &KEYS);
    config.retry_budget = Duration::from_secs(1);
    open(&config)
}

/// An object of ten bytes with the tag `"x"`.
fn object(store: &Store) -> Object {
    let version = Version { size: 10, modified_ms: 0, etag: ETag::parse("\"x\"") };
    Object { source: store.source(), key: "k".into(), version }
}

/// Reads `range` of the object from a server that always gives this answer.
async fn read(answer: String, range: std::ops::Range<u64>) -> Result<Bytes, ReadError> {
    let server = canned(move |_| answer.clone()).await;
    let store = store_on(&server);
    store.read(&object(&store), range, Priority::Demand).await
}

#[tokio::test]
async fn another_range_than_the_one_asked_for_is_refused() {
    let whole = read(http("200 OK", "etag: \"x\"\r\n", "0123456789"), 2..5).await;
    assert!(matches!(whole, Err(ReadError::Rejected { .. })), "{whole:?}");
    for content_range in [
        "bytes 3-5/10",
        "bytes 3-5/*",
        "bytes 2-18446744073709551615/*",
        "bytes */10",
        "",
        "3-5/10",
    ] {
        let headers = format!("etag: \"x\"\r\ncontent-range: {content_range}\r\n");
        let part = read(http("206 Partial Content", &headers, "345"), 2..5).await;
        assert!(matches!(part, Err(ReadError::Rejected { .. })), "{content_range}: {part:?}");
    }
    let headers = "content-range: bytes 2-4/11\r\n";
    let longer = read(http("206 Partial Content", headers, "234"), 2..5).await;
    assert!(matches!(longer, Err(ReadError::Changed { .. })), "{longer:?}");
    for total in ["10", "*"] {
        let headers = format!("content-range: bytes 2-4/{total}\r\n");
        let part = read(http("206 Partial Content", &headers, "234"), 2..5).await;
        assert_eq!(part.expect("as asked"), "234");
    }
}

#[tokio::test]
async fn a_longer_body_of_unknown_length_is_not_cut_to_fit() {
    let chunked = |body: &str| {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        format!("{head}a\r\n0123456789\r\n{body}0\r\n\r\n")
    };
    assert_eq!(read(chunked(""), 0..10).await.expect("exact"), "0123456789");
    let longer = read(chunked("1\r\nX\r\n"), 0..10).await;
    assert!(matches!(longer, Err(ReadError::Changed { .. })), "{longer:?}");
}

#[tokio::test]
async fn an_encoded_object_is_delivered_as_it_is_stored() {
    let headers = "etag: \"x\"\r\ncontent-encoding: gzip\r\n";
    let server = canned(move |_| http("200 OK", headers, "0123456789")).await;
    let store = store_on(&server);
    let bytes = store.read(&object(&store), 0..10, Priority::Demand).await;
    assert_eq!(bytes.expect("not decoded"), "0123456789");
    let request = server.requests.lock()[0].to_ascii_lowercase();
    assert!(!request.contains("accept-encoding"), "{request}");
    assert!(request.contains("if-match: \"x\""), "{request}");
}

#[tokio::test]
async fn weak_tags_are_compared_but_never_sent() {
    let listing = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>k</Key>\
        <LastModified>2024-01-01T00:00:00Z</LastModified><ETag>W/&quot;x&quot;</ETag>\
        <Size>10</Size></Contents></ListBucketResult>";
    let server = canned(move |number| match number {
        0 => http("200 OK", "", listing),
        1 => http("200 OK", "etag: W/\"x\"\r\n", "0123456789"),
        _ => http("200 OK", "etag: W/\"y\"\r\n", "0123456789"),
    })
    .await;
    let store = store_on(&server);
    let weak = listed(&store, "k").await;
    store.read(&weak, 0..10, Priority::Demand).await.expect("the same tag");
    assert!(!server.requests.lock()[1].to_ascii_lowercase().contains("if-match"));
    let other = store.read(&weak, 0..10, Priority::Demand).await;
    assert!(matches!(other, Err(ReadError::Changed { .. })), "{other:?}");
    // A proxy that marks a strong tag as weak.
    let marked = read(http("200 OK", "etag: W/\"x\"\r\n", "0123456789"), 0..10).await;
    assert_eq!(marked.expect("the same tag"), "0123456789");
}

#[tokio::test]
async fn an_error_page_of_a_gateway_is_repeated_by_its_status() {
    let page = "<!doctype html><html><body>Bad gateway<br></body></html>";
    let server = canned(move |number| match number {
        0 => http("502 Bad Gateway", "content-type: text/html\r\n", page),
        1 => http("522 Origin", "retry-after: 99999999999999999999\r\n", page),
        _ => http("200 OK", "etag: \"x\"\r\n", "0123456789"),
    })
    .await;
    let store = store_on(&server);
    store.read(&object(&store), 0..10, Priority::Demand).await.expect("served in the end");
    assert_eq!(store.stats().retries(RetryCause::Status502), 1);
    assert_eq!(store.stats().retries(RetryCause::Status500), 1);
}

#[tokio::test]
async fn a_redirect_to_another_region_names_it() {
    let body = "<Error><Code>AccessDenied</Code></Error>";
    let headers = "x-amz-bucket-region: eu-west-1\r\n";
    let there = canned(move |_| http("403 Forbidden", headers, body)).await;
    let location = format!("location: http://{}/bucket\r\n", there.address);
    let here = canned(move |_| http("307 Temporary Redirect", &location, "")).await;
    let error = store_on(&here).list(&FIRST).await.expect_err("elsewhere");
    assert!(error.to_string().contains("set --region eu-west-1"), "{error}");
    let sent = there.requests.lock().join("").to_ascii_lowercase();
    assert!(!sent.contains("authorization"), "a signature went to another host: {sent}");
}

const SKEWED: &str = "<Error><Code>RequestTimeTooSkewed</Code><Message>m</Message></Error>";

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the store's clock is this machine's")]
async fn a_wrong_clock_is_named() {
    // Without a date, and with ours: there is no other time to sign with.
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    for headers in [String::new(), format!("date: {now}\r\n"), "date: nonsense\r\n".into()] {
        let error =
            read(http("403 Forbidden", &headers, SKEWED), 0..10).await.expect_err("refused");
        assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
        assert!(error.to_string().contains("clock"), "{error}");
    }
}

#[tokio::test]
async fn where_the_clocks_differ_the_store_s_time_is_signed_with() {
    let date = "date: Tue, 03 Jan 2034 04:05:06 GMT\r\n";
    let server = canned(move |number| match number {
        0 => http("403 Forbidden", date, SKEWED),
        _ => http("200 OK", "", EMPTY_LISTING),
    })
    .await;
    let store = store_on(&server);
    store.list(&FIRST).await.expect("the second try is right");
    store.list(&FIRST).await.expect("and so are those after it");
    let requests = server.requests.lock().clone();
    let signed: Vec<bool> =
        requests.iter().map(|it| it.contains("x-amz-date: 20340103T0405")).collect();
    assert_eq!(signed, [false, true, true], "{requests:#?}");
    assert_eq!(store.stats().retries(RetryCause::Credentials), 1);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = silent.local_addr().expect("bound");
    let mut config = config("s3://bucket", &format!("http://{address}"), &KEYS);
    config.request_timeout = Duration::from_millis(200);
    config.retry_budget = Duration::from_millis(500);
    let store = open(&config);
    let error = store.read(&object(&store), 0..10, Priority::Demand).await.expect_err("silent");
    assert!(matches!(error, ReadError::Unavailable { .. }), "{error}");
    assert!(store.stats().retries(RetryCause::Timeout) > 0);
}

/// A server that calls the first `count` tokens expired.
async fn expiring(count: usize) -> Server {
    let body = "<Error><Code>ExpiredToken</Code><Message>m</Message></Error>";
    canned(move |number| match number {
        number if number < count => http("400 Bad Request", "", body),
        _ => http("200 OK", "", EMPTY_LISTING),
    })
    .await
}

#[tokio::test]
async fn an_expired_token_of_a_profile_is_read_again_once() {
    for (expired, served) in [(1, true), (usize::MAX, false)] {
        let server = expiring(expired).await;
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |token: &str| {
            let text = format!(
                "[default]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token={token}\n"
            );
            std::fs::write(file.path(), text).expect("written");
        };
        write("old-token");
        let path = file.path().to_str().expect("text");
        let variables = [("AWS_SHARED_CREDENTIALS_FILE", path)];
        let endpoint = format!("http://{}", server.address);
        let store = open(&config("s3://bucket", &endpoint, &variables));
        write("new-token");
        let result = store.list(&FIRST).await;
        let requests = server.requests.lock().clone();
        assert_eq!(requests.len(), 2, "{requests:?}");
        assert!(requests[0].contains("old-token") && requests[1].contains("new-token"));
        match result {
            Ok(_) => assert!(served, "refused twice"),
            Err(error) => {
                assert!(!served && matches!(error, ReadError::Forbidden { .. }), "{error}");
                assert!(error.to_string().contains("expired"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn an_expired_token_of_a_web_identity_is_exchanged_anew() {
    let (rig, server) = (rig(), expiring(1).await);
    let (sts, _front, mut config, _files) = with_web_identity(&rig, |_| sts_answer()).await;
    config.endpoint = Some(format!("http://{}", server.address));
    let store = open(&config);
    store.list(&FIRST).await.expect("listed with the new token");
    assert_eq!(sts.requests.lock().len(), 2, "the token service was not asked again");
    assert_eq!(store.stats().requests(Verb::List), 2);
}
