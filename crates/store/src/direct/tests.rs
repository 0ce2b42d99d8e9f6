//! The client against a server over a socket that says whatever a test writes down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_testkit::RealClock;
use futures::StreamExt as _;
use http::{HeaderValue, Method};
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

use super::{DirectConfig, client, has_proxy};

/// One answer, in the pieces in which it is sent (an empty one is a pause), and whether the connection stays open after it.
#[derive(Debug, Clone)]
struct Said {
    pieces: Vec<Vec<u8>>,
    stays: bool,
}

fn said(text: &str) -> Said {
    Said { pieces: vec![text.as_bytes().to_vec()], stays: true }
}

fn last(text: &str) -> Said {
    Said { stays: false, ..said(text) }
}

/// What the server has seen.
#[derive(Debug, Default)]
struct Seen {
    requests: Vec<String>,
    connections: usize,
    ended: usize,
}

struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

/// Answers the requests, on whatever connections they come, with `answers` in turn; then closes.
async fn server(answers: Vec<Said>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let answers = Arc::new(Mutex::new(answers.into_iter()));
    let by_server = Arc::clone(&seen);
    Handle::current().spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            by_server.lock().connections += 1;
            let (seen, answers) = (Arc::clone(&by_server), Arc::clone(&answers));
            Handle::current().spawn(async move {
                talk(stream, &seen, || answers.lock().next()).await;
                seen.lock().ended += 1;
            });
        }
    });
    Server { address, seen }
}

async fn talk(mut stream: TcpStream, seen: &Mutex<Seen>, next: impl Fn() -> Option<Said>) {
    // Or small pieces would go out together.
    stream.set_nodelay(true).expect("a socket");
    loop {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        seen.lock().requests.push(String::from_utf8(request).expect("text"));
        let Some(Said { pieces, stays }) = next() else { return };
        for piece in pieces {
            if piece.is_empty() {
                RealClock::shared().sleep(IDLE / 8).await;
            }
            if stream.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if !stays {
            return;
        }
    }
}

/// Notes what it was asked, and answers 418.
#[derive(Debug, Default)]
struct Others(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl HttpService for Others {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.lock().push(format!("{} {}", request.method(), request.uri()));
        let mut response = HttpResponse::new(HttpResponseBody::from(Bytes::new()));
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        Ok(response)
    }
}

struct Bed {
    server: Server,
    client: HttpClient,
    others: Arc<Mutex<Vec<String>>>,
}

const IDLE: Duration = Duration::from_millis(200);

async fn bed(answers: Vec<Said>) -> Bed {
    let server = server(answers).await;
    let others = Others::default();
    let asked = Arc::clone(&others.0);
    let config = DirectConfig {
        url: format!("http://{}/bucket", server.address).parse().expect("a URL"),
        connect_timeout: Duration::from_secs(5),
        idle_timeout: IDLE,
        idle_max: 2,
        authorities: Vec::new(),
        others: HttpClient::new(others),
        clock: RealClock::shared(),
        tasks: Handle::current(),
    };
    Bed { server, client: client(config).expect("a client"), others: asked }
}

impl Bed {
    fn request(&self, path: &str) -> HttpRequest {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = format!("http://{}{path}", self.server.address).parse().expect("URL");
        request
    }

    async fn open(&self) -> Result<HttpResponse, HttpError> {
        self.client.execute(self.request("/bucket/k")).await
    }

    /// The pieces of the body of an answer.
    async fn pieces(&self) -> Result<Vec<Bytes>, HttpError> {
        let body = self.open().await?.into_body().bytes_stream();
        body.collect::<Vec<_>>().await.into_iter().collect()
    }

    async fn body(&self) -> Result<String, HttpError> {
        let whole = self.pieces().await?.concat();
        Ok(String::from_utf8(whole).expect("text"))
    }

    fn connections(&self) -> usize {
        self.server.seen.lock().connections
    }

    async fn fails(&self) -> (HttpErrorKind, String) {
        let error = self.pieces().await.expect_err("no such answer is right");
        (error.kind(), crate::http::with_sources(&error))
    }
}

#[tokio::test]
async fn every_framing_is_read_however_it_comes_and_the_connection_is_used_again() {
    let mut rng = StdRng::seed_from_u64(1);
    let text: String = (0..9_000).map(|at| char::from(b'a' + (at % 23) as u8)).collect();
    let chunked = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1f40;name=value\r\n{}\r\n3E8\r\n{}\r\n0\r\n\
         x-a: 1\r\nx-b: 2\r\n\r\n",
        &text[..8_000],
        &text[8_000..]
    );
    let length = format!("HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{text}");
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    let empty = "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n".to_owned();
    let same = "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let nothing = "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_owned();
    let zero = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n000\r\n\r\n".to_owned();
    let all = [
        (chunked.clone(), &*text),
        (length.clone(), &*text),
        (format!("{hints}{chunked}"), &*text),
        (format!("{hints}{length}"), &*text),
        (empty, ""),
        (same, ""),
        (nothing, ""),
        (zero, ""),
    ];
    let mut answers = Vec::new();
    for longest in [1, 7, 1_000, 100_000] {
        for (answer, _) in &all {
            let mut rest = answer.as_bytes();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let (piece, left) = rest.split_at(rng.random_range(1..=longest).min(rest.len()));
                pieces.push(piece.to_vec());
                rest = left;
            }
            answers.push(Said { pieces, stays: true });
        }
    }
    let count = answers.len();
    let bed = bed(answers).await;
    for number in 0..count {
        let (answer, right) = &all[number % all.len()];
        assert_eq!(bed.body().await.expect("is right"), *right, "{answer:.60}");
    }
    assert_eq!(bed.connections(), 1);
    assert_eq!(bed.server.seen.lock().requests.len(), count);
}

#[tokio::test]
async fn a_body_is_one_buffer_of_its_size_and_a_long_one_comes_in_pieces() {
    let answer = |bytes: usize| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
        Said { pieces: vec![head.into_bytes(), vec![b'x'; bytes]], stays: true }
    };
    let bed = bed(vec![answer(256 << 10), answer((512 << 10) + 1)]).await;
    let one = bed.pieces().await.expect("is right");
    assert_eq!(one.iter().map(Bytes::len).collect::<Vec<_>>(), [256 << 10]);
    // Of its size, so that nothing is held which nobody counts.
    let buffer = Vec::from(one.into_iter().next().expect("one"));
    assert_eq!(buffer.capacity(), 256 << 10);
    let pieces = bed.pieces().await.expect("is right");
    assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [256 << 10, 256 << 10, 1]);
}

#[tokio::test]
async fn a_connection_that_the_server_does_not_keep_is_not_used_again() {
    let bed = bed(vec![
        said("HTTP/1.1 200 OK\r\nconnection: foo, Close\r\ncontent-length: 2\r\n\r\nab"),
        said("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\ncd"),
        last("HTTP/1.1 200 OK\r\n\r\nto the end"),
        // More than was asked for, which must not be taken for the next answer.
        said("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nefHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nX"),
        said("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\ngh"),
    ])
    .await;
    for right in ["ab", "cd", "to the end", "ef", "gh"] {
        assert_eq!(bed.body().await.expect("is right"), right);
    }
    assert_eq!(bed.connections(), 5);
}

#[tokio::test]
async fn a_connection_closed_between_two_requests_is_no_failure() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
    // The server is gone before the next request, or goes when it sees it.
    for (first, second) in [(last(answer), said(answer)), (said(answer), last(""))] {
        let bed = bed(vec![first, second, said(answer)]).await;
        assert_eq!(bed.body().await.expect("is right"), "a");
        assert_eq!(bed.body().await.expect("is tried on another connection"), "a");
        assert_eq!(bed.connections(), 2);
    }
}

#[tokio::test]
async fn what_comes_on_an_idle_connection_is_no_answer() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
    let stray = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
    let mut first = said(answer);
    first.pieces.extend([Vec::new(), stray.as_bytes().to_vec()]);
    let bed = bed(vec![first, said(answer)]).await;
    assert_eq!(bed.body().await.expect("is right"), "a");
    RealClock::shared().sleep(IDLE / 2).await;
    assert_eq!(bed.open().await.expect("a head").status(), 200);
    assert_eq!(bed.connections(), 2);
}

#[tokio::test]
async fn what_a_new_connection_does_not_answer_fails() {
    let bed = bed(vec![last(""), last("HTTP/1.1 200")]).await;
    for _ in 0..2 {
        let (kind, why) = bed.fails().await;
        assert_eq!(kind, HttpErrorKind::Interrupted);
        assert!(why.contains("closed before an answer"), "{why}");
    }
    assert_eq!(bed.connections(), 2);
}

#[tokio::test]
async fn a_body_that_ends_early_fails_and_says_so() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cuts =
        ["", "a", "a\r\n", "a\r\n01234", "a\r\n0123456789", "1\r\na\r\n", "0\r\n", "0\r\nx: y\r\n"];
    let mut answers: Vec<_> = cuts.iter().map(|cut| last(&format!("{chunked}{cut}"))).collect();
    answers.push(last("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234"));
    let count = answers.len();
    let bed = bed(answers).await;
    for _ in 0..count {
        let (kind, why) = bed.fails().await;
        assert_eq!(kind, HttpErrorKind::Interrupted);
        assert!(why.contains("end of file before message length"), "{why}");
    }
    assert_eq!(bed.connections(), count);
}

#[tokio::test]
async fn what_is_no_answer_fails_at_once_and_its_connection_is_not_used_again() {
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n");
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let bad = [
        "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
        "HTTP/1.1 99 Low\r\n\r\n".to_owned(),
        "HTTP/2 200 OK\r\n\r\n".to_owned(),
        format!("{head}content-length: +5\r\n\r\nabcde"),
        format!("{head}content-length: -5\r\n\r\nabcde"),
        format!("{head}content-length: \r\n\r\nabcde"),
        format!("{head}content-length: 99999999999999999999\r\n\r\nabcde"),
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nabcde"),
        format!("{head}content-length: 5, 5\r\n\r\nabcde"),
        format!("{head}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}{many}\r\n"),
        format!("{head}x: {}\r\n\r\n", "y".repeat(70 << 10)),
        format!("{chunked}\r\n"),
        format!("{chunked}+1\r\na\r\n0\r\n\r\n"),
        format!("{chunked}-1\r\na\r\n0\r\n\r\n"),
        format!("{chunked}1g\r\na\r\n0\r\n\r\n"),
        format!("{chunked}10000000000000000\r\na\r\n0\r\n\r\n"),
        format!("{chunked}1\r\nab\r\n0\r\n\r\n"),
        format!("{chunked}{}", "0".repeat(20 << 10)),
        format!("{chunked}0\r\n{}\r\n", format!("{}\r\n", "t".repeat(1 << 10)).repeat(100)),
    ];
    // None of them closes the connection: nobody may wait for more.
    let bed = bed(bad.iter().map(|text| said(text)).collect()).await;
    for text in &bad {
        let failed = tokio::time::timeout(Duration::from_secs(20), bed.fails()).await;
        let (kind, why) = failed.unwrap_or_else(|_| panic!("waits: {text:.90}"));
        assert_eq!(kind, HttpErrorKind::Decode, "{text:.90}: {why}");
    }
    assert_eq!(bed.connections(), bad.len());
}

#[tokio::test]
async fn who_goes_away_in_the_middle_takes_the_connection_along() {
    let answer = said("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab");
    let bed =
        bed(vec![answer.clone(), answer, last("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nc")])
            .await;
    // With the head alone, and with a part of the body.
    drop(bed.open().await.expect("a head"));
    let mut body = bed.open().await.expect("a head").into_body().bytes_stream();
    let waiting = tokio::time::timeout(Duration::from_millis(50), body.next()).await;
    assert!(waiting.is_err(), "the rest never comes");
    drop(body);
    assert_eq!(bed.body().await.expect("is right"), "c");
    assert_eq!(bed.connections(), 3);
}

#[tokio::test]
async fn idle_connections_are_few_and_are_closed_in_time() {
    let answer = said("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na");
    let bed = bed(vec![answer; 8]).await;
    // Four at once, of which two are kept.
    let four = futures::future::join_all((0..4).map(|_| bed.open())).await;
    for response in four {
        let body = response.expect("a head").into_body().bytes_stream();
        assert_eq!(body.count().await, 1);
    }
    assert_eq!(bed.connections(), 4);
    let all_closed = async {
        while bed.server.seen.lock().ended < 4 {
            RealClock::shared().sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_closed).await.expect("nobody uses them");
    assert_eq!(bed.body().await.expect("on a new one"), "a");
    assert_eq!(bed.connections(), 5);
}

#[tokio::test]
async fn what_is_no_get_of_this_host_and_what_is_elsewhere_goes_the_other_way() {
    let moved =
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://other/\r\ncontent-length: 0\r\n\r\n";
    let mute = "HTTP/1.1 301 Moved Permanently\r\ncontent-length: 0\r\n\r\n";
    let bed = bed(vec![said(moved), said(mute)]).await;
    let here = bed.server.address;
    let mut head = bed.request("/bucket/k");
    *head.method_mut() = Method::HEAD;
    let mut put = HttpRequest::new(HttpRequestBody::from(b"x".to_vec()));
    *put.uri_mut() = bed.request("/bucket/k").uri().clone();
    let mut other = bed.request("/");
    *other.uri_mut() = "http://localhost:1/".parse().expect("a URL");
    let mut safe = bed.request("/");
    *safe.uri_mut() = format!("https://{here}/").parse().expect("a URL");
    for request in [head, put, other, safe, bed.request("/moved")] {
        assert_eq!(bed.client.execute(request).await.expect("answers").status(), 418);
    }
    // One that says nothing of where is for the caller to understand.
    assert_eq!(bed.open().await.expect("answers").status(), 301);
    let expected = [
        format!("HEAD http://{here}/bucket/k"),
        format!("GET http://{here}/bucket/k"),
        "GET http://localhost:1/".to_owned(),
        format!("GET https://{here}/"),
        format!("GET http://{here}/moved"),
    ];
    assert_eq!(*bed.others.lock(), expected);
}

#[tokio::test]
async fn a_request_says_what_it_was_given_and_who_asks() {
    let bed = bed(vec![said("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"); 2]).await;
    let mut request = bed.request("/bucket/a%20b?list-type=2&prefix=%2F");
    request.headers_mut().insert("x-amz-date", HeaderValue::from_static("now"));
    request.headers_mut().insert("accept", HeaderValue::from_static("text/xml"));
    bed.client.execute(request).await.expect("answers");
    let seen = bed.server.seen.lock().requests.remove(0);
    let expected = format!(
        "GET /bucket/a%20b?list-type=2&prefix=%2F HTTP/1.1\r\nhost: {}\r\nuser-agent: feedline/{}\r\n\
         x-amz-date: now\r\naccept: text/xml\r\n\r\n",
        bed.server.address,
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(seen, expected);
    // The scheme's own port is not part of the name, and a user's name is never sent.
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    for (url, host) in [
        ("https://s3.example:443/", "s3.example"),
        ("https://s3.example:80/", "s3.example:80"),
        ("http://me@s3.example:80/", "s3.example"),
        ("http://[::1]:9000/", "[::1]:9000"),
    ] {
        *request.uri_mut() = url.parse().expect("a URL");
        let head = String::from_utf8(super::head::request(&request)).expect("text");
        assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
    }
}

#[test]
fn a_proxy_is_seen_in_small_letters_and_in_capitals() {
    for name in ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        assert!(has_proxy(|it| it == name));
    }
    assert!(!has_proxy(|it| it == "no_proxy"));
}
