//! Who is let in: the token, replays, and what is said without a hello.

use std::sync::Arc;

use bytes::Bytes;
use feedline_cluster::wire::{
    Challenge, HELLO_PATH, Hello, Item, READ_PATH, ReadRequest, WIRE, WIRE_HEADER, hex,
};
use feedline_cluster::{Guest, PeerState};
use feedline_testkit::MemorySource;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::common::{Node, Plan, SOURCE, addresses, eventually, objects, three};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn with(token: Option<&'static str>) -> Plan {
    Plan { token, ..Plan::default() }
}

/// One connection of somebody who speaks the protocol by hand.
pub(crate) struct Stranger(pub(crate) SendRequest<Full<Bytes>>);

impl Stranger {
    pub(crate) async fn connect(node: &Node) -> Self {
        Self::over(tokio::net::TcpStream::connect(node.cluster.address()).await.unwrap()).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test owns its tasks")]
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        wire: u32,
        body: Vec<u8>,
    ) -> (StatusCode, Vec<u8>) {
        let request = Request::post(format!("http://peer{path}"))
            .header(WIRE_HEADER, wire)
            .body(Full::new(body.into()))
            .unwrap();
        let response = self.0.send_request(request).await.unwrap();
        assert_eq!(response.headers()[WIRE_HEADER], WIRE.to_string());
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    pub(crate) async fn hello(&mut self, proof: Option<String>) -> (StatusCode, Vec<u8>) {
        let hello = Hello {
            wire: WIRE,
            version: "stranger".into(),
            node: 5,
            instance: 5,
            quota_bytes: 1,
            nonce: hex(&[7; 32]),
            proof,
            passed_by: false,
        };
        self.post(HELLO_PATH, WIRE, serde_json::to_vec(&hello).unwrap()).await
    }
}

pub(crate) fn read_of(node: &Node, bucket: &MemorySource) -> Vec<u8> {
    let _ = node;
    let object = bucket.insert_seeded("secret", 1, 100);
    let items = vec![Item::new(&object, &object.id(), &(0..100))];
    serde_json::to_vec(&ReadRequest { demand: true, only_cached: false, items }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_the_same_token_share() {
    let (nodes, bucket) = three(&with(Some(TOKEN))).await;
    let objects = objects(&bucket, 30, 1_000);
    for node in &nodes {
        for (seed, object) in objects.iter().enumerate() {
            node.reads(object, seed as u64).await;
        }
    }
    assert_eq!(bucket.reads_total(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_disagree_about_the_token_stay_apart_and_read_on() {
    for (ours, theirs, why) in [
        (Some(TOKEN), Some(OTHER), "another token"),
        (Some(TOKEN), None, "asks for no token"),
        (None, Some(TOKEN), "wants the cluster's token"),
    ] {
        let bucket = MemorySource::new(SOURCE);
        let [a, b] = addresses::<2>();
        let first = with(ours).start(1, a, &[a, b], Arc::clone(&bucket) as _);
        let second = with(theirs).start(2, b, &[a, b], Arc::clone(&bucket) as _);
        let peer = || {
            let peers = first.cluster.status().peers;
            peers.into_iter().find(|peer| peer.address == b.to_string()).unwrap()
        };
        eventually("the refusal", || {
            peer().state == PeerState::Down && peer().trouble.is_some_and(|it| it.contains(why))
        })
        .await;
        for (seed, object) in objects(&bucket, 10, 1_000).iter().enumerate() {
            first.reads(object, seed as u64).await;
        }
        assert_eq!((first.cluster.epoch().members().len(), bucket.reads_total()), (1, 10));
        assert_eq!(second.cluster.status().served, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_without_a_hello_nor_with_a_proof_that_was_heard_elsewhere() {
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let node = with(Some(TOKEN)).start(1, a, &[a], Arc::clone(&bucket) as _);
    let read = read_of(&node, &bucket);
    let mut stranger = Stranger::connect(&node).await;
    assert_eq!(stranger.post(READ_PATH, WIRE, read.clone()).await.0, StatusCode::UNAUTHORIZED);
    let (status, said) = stranger.hello(None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let first: Challenge = serde_json::from_slice(&said).unwrap();
    assert!(!String::from_utf8_lossy(&said).contains(TOKEN));
    // The server's own proof, sent back, is none.
    assert_eq!(stranger.hello(Some(first.proof.clone())).await.0, StatusCode::FORBIDDEN);
    // A nonce is good for one proof: the next hello gets another.
    let (status, said) = stranger.hello(Some(first.proof.clone())).await;
    let second: Challenge = serde_json::from_slice(&said).unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_ne!((&first.nonce, &first.proof), (&second.nonce, &second.proof));
    assert_eq!(stranger.post(READ_PATH, WIRE, read).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(bucket.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_lets_in_on_its_own_connection_only() {
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let node = with(Some(TOKEN)).start(1, a, &[a], Arc::clone(&bucket) as _);
    let read = read_of(&node, &bucket);
    let prove = |said: &[u8]| {
        let challenge: Challenge = serde_json::from_slice(said).unwrap();
        let theirs = feedline_cluster::wire::from_hex(&challenge.nonce).unwrap();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(TOKEN.as_bytes()).unwrap();
        mac.update(b"feedline peer 1 client");
        mac.update(&[7; 32]);
        mac.update(&theirs);
        hex(&mac.finalize().into_bytes())
    };
    let mut honest = Stranger::connect(&node).await;
    let proof = prove(&honest.hello(None).await.1);
    assert_eq!(honest.hello(Some(proof.clone())).await.0, StatusCode::OK);
    assert_eq!(honest.post(READ_PATH, WIRE, read.clone()).await.0, StatusCode::OK);
    // Recorded, and played to the same node again.
    let mut replay = Stranger::connect(&node).await;
    assert_eq!(replay.hello(Some(proof.clone())).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(replay.hello(Some(proof)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(replay.post(READ_PATH, WIRE, read).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_no_use_are_refused_in_words() {
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let node = with(None).start(1, a, &[a], Arc::clone(&bucket) as _);
    let mut stranger = Stranger::connect(&node).await;
    let (status, said) = stranger.post(HELLO_PATH, 2, b"{}".to_vec()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&said).contains("version 2"), "{said:?}");
    assert_eq!(stranger.hello(None).await.0, StatusCode::OK);
    for (path, body, expected) in [
        (READ_PATH, b"{".to_vec(), StatusCode::BAD_REQUEST),
        (READ_PATH, br#"{"demand":true,"items":[]}"#.to_vec(), StatusCode::BAD_REQUEST),
        (READ_PATH, vec![b' '; 3 << 20], StatusCode::PAYLOAD_TOO_LARGE),
        ("/", Vec::new(), StatusCode::NOT_FOUND),
        ("/peer/other", Vec::new(), StatusCode::NOT_FOUND),
    ] {
        let (status, said) = stranger.post(path, WIRE, body).await;
        assert_eq!(status, expected, "{path}: {}", String::from_utf8_lossy(&said));
    }
}

#[tokio::test]
async fn the_guest_hears_what_no_peer_says_and_nothing_else() {
    let guest = Guest::new(|request| {
        let said = format!("{} {}", request.method(), request.uri().path());
        let body = Full::new(Bytes::from(said)).map_err(|never| match never {}).boxed_unsync();
        Box::pin(async { Response::new(body) })
    });
    let plan = Plan { guest: Some(guest), ..with(Some(TOKEN)) };
    let bucket = MemorySource::new(SOURCE);
    let [address] = addresses();
    let node = plan.start(1, address, &[address], Arc::clone(&bucket) as _);
    let mut stranger = Stranger::connect(&node).await;
    // A peer's call is a peer's call, before a hello as well.
    let read = read_of(&node, &bucket);
    let (status, _) = stranger.post(READ_PATH, WIRE, read).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = stranger.post(READ_PATH, WIRE + 1, Vec::new()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    for (method, path) in [("GET", "/b/key"), ("PUT", "/peer"), ("GET", READ_PATH), ("POST", "/")] {
        let request = Request::builder().method(method).uri(format!("http://node{path}"));
        let request = request.body(Full::default()).unwrap();
        let response = stranger.0.send_request(request).await.unwrap();
        assert!(!response.headers().contains_key(WIRE_HEADER));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), format!("{method} {path}"));
    }
}
