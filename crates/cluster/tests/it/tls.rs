//! TLS between nodes: who is let in, what those hear who are not, and certificates that are renewed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_cluster::wire::{READ_PATH, WIRE};
use feedline_cluster::{Guest, PeerState, Tls, TlsFiles};
use feedline_testkit::authority::{FUTURE, NOW, PAST};
use feedline_testkit::{Authority, MemorySource, NodeFiles, RealClock};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::common::{Node, Plan, SOURCE, addresses, eventually, objects};
use crate::trust::{Stranger, TOKEN, read_of};

/// The files of a node, which a test may change under it.
type Shared = Arc<Mutex<NodeFiles>>;

fn as_read(files: &NodeFiles) -> TlsFiles {
    let bytes = |text: &String| text.clone().into_bytes();
    TlsFiles { ca: bytes(&files.ca), cert: bytes(&files.cert), key: bytes(&files.key) }
}

fn tls_of(files: &Shared) -> Arc<Tls> {
    let (files, first) = (Arc::clone(files), as_read(&files.lock()));
    let read = move || Ok(as_read(&files.lock()));
    Arc::new(Tls::new(first, read, RealClock::shared()).unwrap())
}

fn shared(files: NodeFiles) -> Shared {
    Arc::new(Mutex::new(files))
}

pub(crate) fn with(files: NodeFiles) -> Plan {
    Plan { tls: Some(tls_of(&shared(files))), ..Plan::default() }
}

fn why_not(files: &NodeFiles) -> String {
    Tls::new(as_read(files), || Err("not read".into()), RealClock::shared()).unwrap_err()
}

/// What a client knows that checks names, as those of S3 do.
fn client(ca: &str, own: Option<&NodeFiles>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let cert = CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn sealed(node: &Node, config: ClientConfig) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(node.cluster.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// What the guest says to everybody.
const HELLO_GUEST: &str = "a guest is served";

fn guest() -> Guest {
    Guest::new(|_| {
        let body = Full::new(Bytes::from(HELLO_GUEST)).map_err(|never| match never {});
        let body = body.boxed_unsync();
        Box::pin(async { Response::new(body) })
    })
}

async fn asks_as_guest(stranger: &mut Stranger) -> (StatusCode, String) {
    let request = Request::get("http://node/b/key").body(Full::default()).unwrap();
    let response = stranger.0.send_request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn trouble(of: &Node, with: std::net::SocketAddr) -> Option<String> {
    let peers = of.cluster.status().peers;
    let peer = peers.into_iter().find(|peer| peer.address == with.to_string())?;
    (peer.state == PeerState::Down).then_some(peer.trouble)?
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_authority_read_through_each_other() {
    let (authority, bucket) = (Authority::new(), MemorySource::new(SOURCE));
    for token in [None, Some(TOKEN)] {
        let at = addresses::<3>();
        let start = |number: usize| {
            let plan = Plan { token, ..with(authority.node(NOW)) };
            plan.start(number as u64 + 1, at[number], &at, Arc::clone(&bucket) as _)
        };
        let nodes = [0, 1, 2].map(start);
        let before = bucket.reads_total();
        for node in &nodes {
            node.knows(3).await;
        }
        let small = objects(&bucket, 30, 110_000);
        let large = bucket.insert_seeded("large", 5, 900_000);
        for node in &nodes {
            for (seed, object) in small.iter().enumerate() {
                node.reads(object, seed as u64).await;
            }
            node.reads(&large, 5).await;
        }
        assert_eq!(bucket.reads_total() - before, 31, "each once");
        let status = nodes[0].cluster.status();
        assert_eq!(status.tls.unwrap().expires_unix_s, 4_733_510_400, "2120-01-01");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_do_not_trust_each_other_say_why_and_read_on() {
    let (ours, other) = (Authority::new(), Authority::new());
    let plain = Plan::default;
    for (second, said_of_it, said_to_it) in [
        (with(other.node(NOW)), "its certificate is not signed by our ca.crt", "not signed by"),
        (
            with(ours.node(PAST)),
            "its certificate expired on 2021-01-01",
            "your certificate expired",
        ),
        (with(ours.node(FUTURE)), "not valid before 2110-01-01", "your certificate is not valid"),
        (plain(), "it does not speak TLS", "this port speaks TLS"),
        (
            Plan { token: Some(TOKEN), ..with(ours.node(NOW)) },
            "wants the cluster's token",
            "asks for no token",
        ),
    ] {
        let bucket = MemorySource::new(SOURCE);
        let [a, b] = addresses::<2>();
        let first = with(ours.node(NOW)).start(1, a, &[a, b], Arc::clone(&bucket) as _);
        let second = second.start(2, b, &[a, b], Arc::clone(&bucket) as _);
        for (node, peer, why) in [(&first, b, said_of_it), (&second, a, said_to_it)] {
            eventually(why, || trouble(node, peer).is_some_and(|it| it.contains(why))).await;
        }
        for (seed, object) in objects(&bucket, 10, 1_000).iter().enumerate() {
            first.reads(object, seed as u64).await;
        }
        assert_eq!((first.cluster.epoch().members().len(), bucket.reads_total()), (1, 10));
        assert_eq!(second.cluster.status().served, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_nodes_certificate_a_client_is_a_guest_and_no_more() {
    let (ours, other) = (Authority::new(), Authority::new());
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let plan = Plan { guest: Some(guest()), ..with(ours.node(NOW)) };
    let node = plan.start(1, a, &[a], Arc::clone(&bucket) as _);
    let read = read_of(&node, &bucket);
    let ca = ours.certificate();
    for (own, why) in [
        (None, "you showed no certificate"),
        (Some(other.node(NOW)), "your certificate is not signed by this node's ca.crt"),
        (Some(ours.node(PAST)), "your certificate expired on 2021-01-01 00:00 UTC"),
        (Some(ours.server_only()), "your certificate is not for both ends"),
    ] {
        let mut stranger = Stranger::over(sealed(&node, client(ca, own.as_ref())).await).await;
        assert_eq!(asks_as_guest(&mut stranger).await, (StatusCode::OK, HELLO_GUEST.into()));
        let (status, said) = stranger.hello(None).await;
        let said = String::from_utf8_lossy(&said).into_owned();
        assert_eq!((status, said.contains(why)), (StatusCode::FORBIDDEN, true), "{said}");
        let (status, _) = stranger.post(READ_PATH, WIRE, read.clone()).await;
        assert_eq!(status, StatusCode::FORBIDDEN);
    }
    let own = ours.node(NOW);
    let mut honest = Stranger::over(sealed(&node, client(ca, Some(&own))).await).await;
    assert_eq!(honest.post(READ_PATH, WIRE, read.clone()).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(honest.hello(None).await.0, StatusCode::OK);
    assert_eq!(honest.post(READ_PATH, WIRE, read).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_speak_tls_is_told_so_and_served_nothing() {
    let bucket = MemorySource::new(SOURCE);
    let [a] = addresses::<1>();
    let plan = Plan { guest: Some(guest()), ..with(Authority::new().node(NOW)) };
    let node = plan.start(1, a, &[a], Arc::clone(&bucket) as _);
    let read = read_of(&node, &bucket);
    let mut stranger = Stranger::connect(&node).await;
    let (status, said) = asks_as_guest(&mut stranger).await;
    assert_eq!((status, said.contains("speaks TLS: use https")), (StatusCode::FORBIDDEN, true));
    assert_eq!(stranger.hello(None).await.0, StatusCode::FORBIDDEN);
    assert_eq!(stranger.post(READ_PATH, WIRE, read).await.0, StatusCode::FORBIDDEN);
    // The older protocol as well.
    let mut stream = TcpStream::connect(a).await.unwrap();
    stream.write_all(b"GET /b/key HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut said = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 403") && said.contains("use https"), "{said}");
    assert_eq!(bucket.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_open_connections_and_say_nothing_delay_nobody() {
    let (authority, bucket) = (Authority::new(), MemorySource::new(SOURCE));
    let [a, b] = addresses::<2>();
    let start = |number, own| {
        let plan = with(authority.node(NOW));
        plan.start(number, own, &[a, b], Arc::clone(&bucket) as _)
    };
    let first = start(1, a);
    let mut silent = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(a).await.unwrap();
        // Half of them begin as a client does, and stop.
        if number % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await.unwrap();
        }
        silent.push(stream);
    }
    // One after the other they would take a quarter of an hour.
    let second = start(2, b);
    second.knows(2).await;
    first.knows(2).await;
    for (seed, object) in objects(&bucket, 20, 1_000).iter().enumerate() {
        second.reads(object, seed as u64).await;
        first.reads(object, seed as u64).await;
    }
    assert_eq!(bucket.reads_total(), 20);
    // And they are not kept for ever.
    let mut said = Vec::new();
    for mut stream in silent {
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut said);
        // Ended in order or reset, but ended.
        let _ = tokio::time::timeout(crate::common::PATIENCE, read).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_files_are_used_in_both_directions_and_broken_ones_are_not() {
    let (old, new) = (Authority::new(), Authority::new());
    let bucket = MemorySource::new(SOURCE);
    let [a, b] = addresses::<2>();
    let files = shared(old.node(NOW));
    let tls = tls_of(&files);
    let plan = Plan { tls: Some(Arc::clone(&tls)), ..Plan::default() };
    let first = plan.start(1, a, &[a, b], Arc::clone(&bucket) as _);
    sealed(&first, client(old.certificate(), None)).await;
    // Half of the new files is there: a key that belongs to nothing.
    files.lock().key = new.node(NOW).key;
    tls.look();
    let said = tls.status().trouble.unwrap();
    assert!(said.contains("tls.key does not belong to tls.crt"), "{said}");
    sealed(&first, client(old.certificate(), None)).await;
    // Now all are there; nobody calls: the node looks by itself.
    *files.lock() = new.node(NOW);
    eventually("the new certificate to be used", || tls.status().trouble.is_none()).await;
    sealed(&first, client(new.certificate(), None)).await;
    // A node that knows the new authority alone is let in, and lets this one in.
    let second = with(new.node(NOW)).start(2, b, &[a, b], Arc::clone(&bucket) as _);
    second.knows(2).await;
    first.knows(2).await;
    for (seed, object) in objects(&bucket, 10, 1_000).iter().enumerate() {
        first.reads(object, seed as u64).await;
        second.reads(object, seed as u64).await;
    }
    assert_eq!(bucket.reads_total(), 10);
}

#[test]
fn files_that_make_no_node_are_refused_by_name_and_not_shown() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.node(NOW);
    let change = |change: fn(&mut NodeFiles, &NodeFiles)| {
        let mut files = good.clone();
        change(&mut files, &other.node(NOW));
        why_not(&files)
    };
    for (said, expected) in [
        (change(|files, _| files.ca = "hunter2".into()), "ca.crt holds no certificate"),
        (change(|files, _| files.cert.clear()), "tls.crt holds no certificate"),
        (
            change(|files, _| files.key = "-----BEGIN hunter2".into()),
            "tls.key holds no private key",
        ),
        (
            change(|files, other| files.key = other.key.clone()),
            "tls.key does not belong to tls.crt",
        ),
        (change(|files, other| files.ca = other.ca.clone()), "tls.crt is not signed by ca.crt"),
        (why_not(&ours.server_only()), "tls.crt is not for both ends"),
    ] {
        assert!(said.starts_with(expected), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_certificate_that_ends_soon_is_spoken_of_in_time() {
    let files = as_read(&Authority::new().node(NOW));
    let end = Duration::from_secs(4_733_510_400);
    let day = Duration::from_secs(24 * 60 * 60);
    for (left, said) in [(8, None), (6, Some("expires on 2120-01-01"))] {
        let clock = Arc::new(At(end - day * left));
        let tls = Tls::new(files.clone(), || Err("not read".into()), clock).unwrap();
        let trouble = tls.status().trouble;
        assert_eq!(trouble.is_some(), said.is_some(), "{left} days: {trouble:?}");
        assert!(trouble.unwrap_or_default().contains(said.unwrap_or_default()));
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct At(Duration);

impl feedline_model::Clock for At {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap()
    }

    fn sleep(&self, _: Duration) -> feedline_model::clock::Sleep {
        Box::pin(std::future::pending())
    }
}
