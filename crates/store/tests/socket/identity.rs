//! TLS under a private authority, web identity, and answers that no simulator gives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{BUCKET, KEYS, Rig, config, listed, open, rig};
use feedline_model::{ListRequest, Lister as _, ReadError};
use feedline_store::{RetryCause, StoreConfig};
use feedline_testkit::conformance::ObjectFixture as _;
use feedline_testkit::object_bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const FIRST: ListRequest =
    ListRequest { prefix: String::new(), delimiter: true, after: None, token: None };

/// A server that ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers each connection's one request with `answer(number)`.
pub(crate) async fn canned(answer: impl Fn(usize) -> String + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    let task = Handle::current().spawn(async move {
        for number in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&buffer[..length]),
                }
            }
            seen.lock().push(String::from_utf8_lossy(&request).into_owned());
            // The client may be gone already.
            let _ = stream.write_all(answer(number).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Server { address, requests, task }
}

pub(crate) fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    )
}

/// TLS for `localhost` in front of a plain server. The file holds its certificate.
async fn tls_front(backend: SocketAddr) -> (Server, tempfile::NamedTempFile) {
    let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("signed");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), signed.cert.pem()).expect("written");
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let tls = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let task = Handle::current().spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                // A client that does not trust us hangs up: part of the test.
                let Ok(mut outer) = acceptor.accept(stream).await else { return };
                let mut inner = TcpStream::connect(backend).await.expect("the backend is up");
                let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    (Server { address, requests: Arc::default(), task }, file)
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_when_named() {
    let rig = rig();
    rig.put("k", object_bytes(1, 9)).await;
    let (front, ca_file) = tls_front(rig.sim.address()).await;
    let endpoint = format!("https://localhost:{}", front.address.port());
    let mut config = config("s3://bucket", &endpoint, &KEYS);
    config.ca_file = Some(ca_file.path().to_owned());
    assert_eq!(listed(&open(&config), "k").await.version.size, 9);

    let untrusting = StoreConfig { ca_file: None, ..config };
    let error = open(&untrusting).list(&FIRST).await.expect_err("not trusted");
    assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("--ca-file"), "{error}");
}

pub(crate) fn sts_answer() -> String {
    let body = "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
        <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>test-key</AccessKeyId>\
        <SecretAccessKey>test-secret</SecretAccessKey><SessionToken>session</SessionToken>\
        <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
        </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>";
    http("200 OK", "", body)
}

/// A store whose credentials come from a token service that answers as told.
pub(crate) async fn with_web_identity(
    rig: &Rig,
    answer: impl Fn(usize) -> String + Send + 'static,
) -> (Server, Server, StoreConfig, [tempfile::NamedTempFile; 2]) {
    let sts = canned(answer).await;
    let (front, ca_file) = tls_front(sts.address).await;
    let token = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(token.path(), "the-token").expect("written");
    let sts_url = format!("https://localhost:{}", front.address.port());
    let mut config = config(
        "s3://bucket",
        &rig.sim.endpoint(),
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().to_str().expect("text")),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/train"),
            ("AWS_ENDPOINT_URL_STS", &sts_url),
        ],
    );
    config.ca_file = Some(ca_file.path().to_owned());
    config.request_timeout = Duration::from_secs(5);
    (sts, front, config, [token, ca_file])
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_keys_once() {
    let rig = rig();
    rig.put("k", object_bytes(1, 9)).await;
    let (sts, _front, config, _files) = with_web_identity(&rig, |_| sts_answer()).await;
    let store = open(&config);
    for _ in 0..3 {
        assert_eq!(listed(&store, "k").await.version.size, 9);
    }
    let requests = sts.requests.lock().clone();
    assert_eq!(requests.len(), 1, "the keys were not kept: {requests:?}");
    assert!(requests[0].contains("AssumeRoleWithWebIdentity"), "{requests:?}");
}

#[tokio::test]
async fn a_token_service_that_refuses_is_final_and_one_that_fails_is_not() {
    let rig = rig();
    rig.put("k", object_bytes(1, 9)).await;
    let refuse =
        |_| http("400 Bad Request", "", "<Error><Code>InvalidIdentityToken</Code></Error>");
    let (_sts, _front, config, _files) = with_web_identity(&rig, refuse).await;
    let error = open(&config).list(&FIRST).await.expect_err("refused");
    assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("web identity"), "{error}");
    assert!(!error.to_string().contains("the-token"), "{error}");

    let fail_first = |number| match number {
        // More than the credential provider itself repeats.
        0..4 => http("503 Service Unavailable", "", ""),
        _ => sts_answer(),
    };
    let (_sts, _front, config, _files) = with_web_identity(&rig, fail_first).await;
    let store = open(&config);
    assert_eq!(listed(&store, "k").await.version.size, 9);
    assert!(store.stats().retries(RetryCause::Credentials) > 0);
}

#[tokio::test]
async fn another_region_is_named() {
    let body = "<Error><Code>PermanentRedirect</Code><Message>use the endpoint</Message></Error>";
    let headers = "x-amz-bucket-region: eu-west-1\r\n";
    let server = canned(move |_| http("301 Moved Permanently", headers, body)).await;
    let store = open(&config("s3://bucket", &format!("http://{}", server.address), &KEYS));
    let error = store.list(&FIRST).await.expect_err("elsewhere");
    assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("set --region eu-west-1"), "{error}");

    let body =
        "<Error><Code>AuthorizationHeaderMalformed</Code><Region>ap-south-1</Region></Error>";
    let server = canned(move |_| http("400 Bad Request", "", body)).await;
    let store = open(&config("s3://bucket", &format!("http://{}", server.address), &KEYS));
    let error = store.list(&FIRST).await.expect_err("elsewhere");
    assert!(error.to_string().contains("set --region ap-south-1"), "{error}");
}

#[tokio::test]
async fn what_is_no_s3_is_rejected() {
    let server = canned(|_| http("200 OK", "", "<html><body>It works!</body></html>")).await;
    let store = open(&config("s3://bucket", &format!("http://{}", server.address), &KEYS));
    let error = store.list(&FIRST).await.expect_err("no S3");
    assert!(matches!(error, ReadError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("is this an S3 endpoint"), "{error}");
}

#[tokio::test]
async fn a_listing_in_mid_air_is_repeated_and_retry_after_is_honoured() {
    let server = canned(|number| match number {
        0 => http("503 Slow Down", "retry-after: 1\r\n", ""),
        1 => "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n<ListBucket".to_owned(),
        _ => http(
            "200 OK",
            "",
            "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        ),
    })
    .await;
    let store = open(&config("s3://bucket", &format!("http://{}", server.address), &KEYS));
    let clock = feedline_testkit::RealClock::new();
    store.list(&FIRST).await.expect("listed in the end");
    let spent = feedline_model::Clock::monotonic(&clock);
    assert!(spent >= Duration::from_secs(1), "came back after {spent:?}");
    assert_eq!(server.requests.lock().len(), 3);
    assert!(
        server.requests.lock()[0]
            .contains(&format!("GET /{BUCKET}?delimiter=%2F&encoding-type=url&list-type=2"))
    );
}

#[tokio::test]
async fn without_any_credentials_the_error_says_where_to_put_them() {
    let rig = rig();
    // A metadata service that refuses the connection stands for a machine that has none.
    let variables = [("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")];
    let mut config = config("s3://bucket", &rig.sim.endpoint(), &variables);
    config.request_timeout = Duration::from_secs(5);
    let error = open(&config).list(&FIRST).await.expect_err("no credentials");
    assert!(matches!(error, ReadError::Forbidden { .. }), "{error}");
    assert!(error.to_string().contains("AWS_PROFILE"), "{error}");
}
