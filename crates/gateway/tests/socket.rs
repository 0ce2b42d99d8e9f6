//! The server and the client over a real Unix socket, with an `Admin` that answers from constants.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use feedline_gateway::api::{
    CheckEvent, HINT_BYTES_MAX, Health, HintAnswer, HintOrder, HintRequest, LoadFailure,
    LoadRequest, LoadState, LoadStatus, LsEntry, NodeSummary, PathQuery, SettingInfo, Status,
    Usage,
};
use feedline_gateway::{Admin, ApiError, Client, ClientError, Lines, Server, ServerError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Fake {
    sent: AtomicU64,
    client_gone: Notify,
    asked_to_stop: AtomicBool,
    serving: AtomicBool,
}

fn entry(path: String) -> LsEntry {
    LsEntry {
        path,
        directory: false,
        size: 5,
        modified_ms: 1,
        etag: None,
        location: None,
        cached_bytes: 0,
        cached: false,
        pinned: false,
        ..LsEntry::default()
    }
}

fn job(id: &str, path: &str) -> LoadStatus {
    LoadStatus {
        id: id.into(),
        path: path.into(),
        manifest: false,
        metadata_only: false,
        replicas: 1,
        bandwidth_bytes_per_s: 0,
        state: LoadState::Loading,
        reason: None,
        files: 3,
        bytes: 30,
        files_total: Some(4),
        bytes_total: None,
        cached: 1,
        cached_bytes: 10,
        loaded: 1,
        loaded_bytes: 10,
        failed: 1,
        failed_bytes: 10,
        failed_by: [("gone".to_owned(), 1)].into(),
        nodes: 1,
        passed_by: Default::default(),
        started_ms: 5,
        elapsed_s: 1.5,
        bytes_per_s: 6.5,
        eta_s: None,
        node: None,
    }
}

#[async_trait]
impl Admin for Fake {
    fn health(&self) -> Health {
        let serving = self.serving.load(Ordering::SeqCst);
        Health { state: if serving { "serving" } else { "starting" }.into(), pid: 42 }
    }

    async fn status(&self) -> Status {
        Status { pid: 42, requests: [("GET".to_owned(), 3)].into(), ..Default::default() }
    }

    async fn nodes(&self) -> Vec<NodeSummary> {
        vec![NodeSummary { address: "a:1".into(), ..Default::default() }]
    }

    async fn config(&self) -> Vec<SettingInfo> {
        vec![SettingInfo {
            name: "buffer".into(),
            value: "128MiB".into(),
            source: "default".into(),
            help: "h".into(),
        }]
    }

    /// `many`: endless. `half`: fails after one entry. Otherwise as many entries as the path says.
    async fn ls(&self, query: PathQuery, out: Lines<LsEntry>) -> Result<(), ApiError> {
        match query.path.as_str() {
            "many" => {
                while out.send(entry("x".repeat(200))).await {
                    self.sent.fetch_add(1, Ordering::SeqCst);
                }
                self.client_gone.notify_one();
            }
            "half" => {
                out.send(entry("first".into())).await;
                return Err(ApiError::unavailable("the bucket went away"));
            }
            "absent" => return Err(ApiError::not_found("absent: no such file or directory")),
            count => {
                for index in 0..count.parse::<u32>().unwrap() {
                    out.send(entry(format!("{index}"))).await;
                }
            }
        }
        Ok(())
    }

    async fn stat(&self, query: PathQuery) -> Result<LsEntry, ApiError> {
        Ok(entry(query.path))
    }

    async fn du(&self, _: PathQuery) -> Result<Usage, ApiError> {
        Ok(Usage { files: 1, ..Default::default() })
    }

    async fn free(&self, query: PathQuery) -> Result<Usage, ApiError> {
        Ok(Usage { files: 2, bytes: query.path.len() as u64, ..Default::default() })
    }

    async fn pin(&self, _: PathQuery) -> Result<Usage, ApiError> {
        Err(ApiError::bad_request("no"))
    }

    async fn unpin(&self, _: PathQuery) -> Result<Usage, ApiError> {
        Err(ApiError::internal("oops"))
    }

    async fn check(&self, _: PathQuery, out: Lines<CheckEvent>) -> Result<(), ApiError> {
        out.send(CheckEvent::Corrupt { path: "a".into(), detail: "bad".into(), node: None }).await;
        out.send(CheckEvent::Done { files: 1, bytes: 2, corrupt: 1 }).await;
        Ok(())
    }

    async fn hint(&self, request: HintRequest) -> Result<HintAnswer, ApiError> {
        let sum = match &request.order {
            HintOrder::Positions(positions) => positions.iter().map(|at| u64::from(*at)).sum(),
            HintOrder::Files(_) => return Err(ApiError::not_found(request.path)),
            HintOrder::TorchSeeds(seeds) => seeds[0],
        };
        Ok(HintAnswer { files: request.order.len() as u64, matched: sum })
    }

    async fn load(&self, request: LoadRequest) -> Result<LoadStatus, ApiError> {
        Ok(job("new", &request.path))
    }

    async fn loads(&self) -> Vec<LoadStatus> {
        vec![job("b", ""), job("a", "")]
    }

    async fn load_status(&self, id: String) -> Result<LoadStatus, ApiError> {
        Err(ApiError::not_found(format!("{id}: no such load")))
    }

    async fn load_stop(&self, id: String) -> Result<LoadStatus, ApiError> {
        Ok(job(&id, "stopped"))
    }

    async fn load_retry(&self, id: String) -> Result<LoadStatus, ApiError> {
        Ok(job(&id, "again"))
    }

    async fn load_failed(&self, id: String, out: Lines<LoadFailure>) -> Result<(), ApiError> {
        out.send(LoadFailure { path: id, reason: "gone".into() }).await;
        Ok(())
    }

    fn shutdown(&self) {
        self.asked_to_stop.store(true, Ordering::SeqCst);
    }
}

struct Setup {
    fake: Arc<Fake>,
    server: Server,
    client: Client,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    let fake = Arc::new(Fake::default());
    let listen = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(fake.clone(), &socket, listen, &Handle::current()).unwrap();
    let client = Client::new(&socket, "/mnt/data");
    Setup { fake, server, client, socket, _dir: dir }
}

fn query(path: &str) -> PathQuery {
    PathQuery { path: path.into(), recursive: true, cached: false, node_only: false }
}

#[tokio::test]
async fn every_endpoint_answers_over_the_socket() {
    let s = setup();
    assert_eq!(s.client.health().await.unwrap().pid, 42);
    assert_eq!(s.client.status().await.unwrap().requests["GET"], 3);
    assert_eq!(s.client.config().await.unwrap()[0].name, "buffer");
    let odd = "a b/ü%&=?#+c";
    assert_eq!(s.client.stat(&query(odd)).await.unwrap().path, odd);
    assert_eq!(s.client.du(&query("")).await.unwrap().files, 1);
    assert_eq!(s.client.free(&query("abc")).await.unwrap().bytes, 3);
    let mut events = s.client.check(&query("")).await.unwrap();
    assert!(matches!(events.next().await.unwrap(), Some(CheckEvent::Corrupt { .. })));
    assert!(matches!(events.next().await.unwrap(), Some(CheckEvent::Done { corrupt: 1, .. })));
    assert!(events.next().await.unwrap().is_none());
    assert!(
        s.client.metrics().await.unwrap().contains("feedline_store_requests_total{verb=\"GET\"} 3")
    );
    let request = LoadRequest { path: odd.into(), replicas: 2, ..Default::default() };
    assert_eq!(s.client.load(&request).await.unwrap(), job("new", odd));
    assert_eq!(s.client.loads().await.unwrap(), [job("b", ""), job("a", "")]);
    let absent = s.client.load_status(odd).await.unwrap_err().to_string();
    assert_eq!(absent, format!("{odd}: no such load"));
    assert_eq!(s.client.load_stop("x").await.unwrap().path, "stopped");
    assert_eq!(s.client.load_retry("x").await.unwrap().path, "again");
    let mut failed = s.client.load_failed(odd).await.unwrap();
    assert_eq!(failed.next().await.unwrap().unwrap().path, odd);
    assert!(failed.next().await.unwrap().is_none());
    s.client.shutdown().await.unwrap();
    assert!(s.fake.asked_to_stop.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_long_answer_arrives_whole_and_in_order() {
    let s = setup();
    let mut items = s.client.ls(&query("20000")).await.unwrap();
    let mut count = 0;
    while let Some(item) = items.next().await.unwrap() {
        assert_eq!(item.path, count.to_string());
        count += 1;
    }
    assert_eq!(count, 20_000);
    let mut none = s.client.ls(&query("0")).await.unwrap();
    assert!(none.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_the_work() {
    let s = setup();
    let mut items = s.client.ls(&query("many")).await.unwrap();
    assert!(items.next().await.unwrap().is_some());
    drop(items);
    s.fake.client_gone.notified().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_bounded_memory() {
    let s = setup();
    let items = s.client.ls(&query("many")).await.unwrap();
    // The queue, one chunk and the socket buffers are full when nothing more is taken for a while.
    let mut last = u64::MAX;
    loop {
        let sent = s.fake.sent.load(Ordering::SeqCst);
        if sent == last {
            break;
        }
        last = sent;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(last < 20_000, "{last} entries were taken for a client that reads none");
    drop(items);
}

#[tokio::test]
async fn an_error_keeps_its_words_before_and_within_a_long_answer() {
    let s = setup();
    let error = s.client.ls(&query("absent")).await.unwrap_err();
    assert_eq!(error.to_string(), "absent: no such file or directory");
    assert!(matches!(error, ClientError::Api(ApiError { kind, .. }) if kind == "not_found"));
    let mut items = match s.client.ls(&query("half")).await {
        Ok(items) => items,
        Err(error) => panic!("{error}"),
    };
    assert!(items.next().await.unwrap().is_some());
    assert_eq!(items.next().await.unwrap_err().to_string(), "the bucket went away");
    assert_eq!(s.client.pin(&query("")).await.unwrap_err().to_string(), "no");
    assert_eq!(s.client.unpin(&query("")).await.unwrap_err().to_string(), "oops");
}

#[tokio::test]
async fn nobody_listening_is_said_in_the_operators_words() {
    let client = Client::new("/nonexistent/admin.sock", "/mnt/data");
    let error = client.status().await.unwrap_err();
    assert_eq!(error.to_string(), "no feedline daemon serves /mnt/data");
}

#[tokio::test]
async fn the_socket_is_private_a_live_one_is_refused_a_stale_one_replaced() {
    let s = setup();
    let mode = std::fs::metadata(&s.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Server::start(s.fake.clone(), &s.socket, None, &Handle::current());
    assert!(matches!(again.unwrap_err(), ServerError::InUse { .. }));

    let stale = s.socket.with_file_name("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let server = Server::start(s.fake.clone(), &stale, None, &Handle::current()).unwrap();
    assert_eq!(Client::new(&stale, "x").health().await.unwrap().pid, 42);
    server.stop().await;
    assert!(!stale.exists(), "the socket goes with the server");

    let file = s.socket.with_file_name("file");
    std::fs::write(&file, "mine").unwrap();
    let refused = Server::start(s.fake.clone(), &file, None, &Handle::current());
    assert!(matches!(refused.unwrap_err(), ServerError::NotASocket { .. }));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    s.server.stop().await;
    assert!(s.client.health().await.is_err());
}

async fn http_get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_tcp_address_serves_metrics_and_health_and_nothing_else() {
    let s = setup();
    let address = s.server.metrics_address().unwrap();
    assert!(http_get(address, "/metrics").await.contains("feedline_uptime_seconds"));
    assert!(http_get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(http_get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
    s.fake.serving.store(true, Ordering::SeqCst);
    assert!(http_get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(http_get(address, "/v1/config").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_hint_of_a_million_positions_arrives_whole() {
    let s = setup();
    let hint = |order| HintRequest { path: "train".into(), from: 7, order };
    let positions: Vec<u32> = (0..1_000_000).collect();
    let answer = s.client.hint(&hint(HintOrder::Positions(positions))).await.unwrap();
    assert_eq!(answer, HintAnswer { files: 1_000_000, matched: 499_999_500_000 });
    let answer = s.client.hint(&hint(HintOrder::TorchSeeds(vec![u64::MAX]))).await.unwrap();
    assert_eq!(answer, HintAnswer { files: 1, matched: u64::MAX });
    let error = s.client.hint(&hint(HintOrder::Files(vec!["a".into()]))).await.unwrap_err();
    assert!(matches!(error, ClientError::Api(ApiError { kind, .. }) if kind == "not_found"));
}

/// Posts this to `/v1/hint` with its length, or the one said instead, and returns the answer.
async fn post_hint(s: &Setup, head: &str, body: &[u8]) -> String {
    let mut stream = tokio::net::UnixStream::connect(&s.socket).await.unwrap();
    let head = format!("POST /v1/hint HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_hint_that_makes_no_sense_is_refused_with_what_it_should_be() {
    let s = setup();
    for body in [
        &br#"{"path": "train"}"#[..],
        br#"{"path": "train", "order": {}}"#,
        br#"{"path": "train", "order": {"files": ["a"], "positions": [1]}}"#,
        br#"{"path": "train", "order": {"positions": [-1]}}"#,
        br#"{"path": "train", "order": {"positions": [4294967296]}}"#,
        br#"{"path": "train", "order": {"files": [1]}}"#,
        b"{\"path\": \"train\", \"order\": {\"files\": [\"\xff\"]}}",
        br#"{"path": "train", "order": {"positions": [1]}, "more": 1}"#,
        b"",
    ] {
        let answer = post_hint(&s, &format!("content-length: {}", body.len()), body).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("torch_seeds") && answer.contains("bad_request"), "{answer}");
    }
    let answer = post_hint(&s, "transfer-encoding: chunked", b"0\r\n\r\n").await;
    assert!(answer.contains("Content-Length"), "{answer}");
    let long = format!("content-length: {}", HINT_BYTES_MAX + 1);
    let answer = post_hint(&s, &long, b"").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("positions"), "{answer}");
}

#[tokio::test]
async fn a_hint_whose_sender_stalls_makes_only_large_ones_wait() {
    let s = setup();
    let mut stalled = tokio::net::UnixStream::connect(&s.socket).await.unwrap();
    let head =
        format!("POST /v1/hint HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 127 << 20);
    stalled.write_all(head.as_bytes()).await.unwrap();
    let small = HintRequest { path: String::new(), from: 0, order: HintOrder::TorchSeeds(vec![7]) };
    assert_eq!(s.client.hint(&small).await.unwrap().matched, 7);
    let large =
        HintRequest { path: "x".repeat(2 << 20), from: 0, order: HintOrder::TorchSeeds(vec![8]) };
    let waiting = s.client.hint(&large);
    // When its sender is gone the room is free again.
    drop(stalled);
    assert_eq!(waiting.await.unwrap().matched, 8);
}
