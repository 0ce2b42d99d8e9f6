//! A node with a cache in memory over a shared bucket, and a peer that says what a test wants.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_cluster::wire::{HELLO_PATH, HelloAnswer, WIRE, WIRE_HEADER, summed};
use feedline_cluster::{
    Cluster, ClusterConfig, ClusterParts, Entropy, Guest, Link, LocalCopies, NodeId, Sources, Tcp,
    Tls, Token, Versions,
};
use feedline_model::{
    BlockSource, CachedFile, CheckedSource, Clock, Object, ObjectHolder, ObjectId, ObjectIndex,
    Priority, Push, ReadError, Residence, SourceId, Summed,
};
use feedline_testkit::{MemorySource, RealClock, object_bytes};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::runtime::Handle;

pub(crate) const SOURCE: SourceId = SourceId(7);

/// How long anything may take before a test fails: generous, for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A cache in memory that fetches each object once.
#[derive(Debug)]
pub(crate) struct MemoryCache {
    next: Arc<dyn BlockSource>,
    kept: Mutex<HashMap<ObjectId, Arc<tokio::sync::Mutex<Option<Bytes>>>>>,
    complete: Mutex<HashMap<ObjectId, ()>>,
    /// What it hands out is a byte too short: the contract of a cache is broken.
    pub(crate) cuts: AtomicBool,
    /// What it hands out has a bit turned since its checksum was compared, as by bad memory.
    pub(crate) flips: AtomicBool,
    /// What it has it gives after so long, as from a bad disk.
    pub(crate) slow_ms: AtomicU64,
}

impl MemoryCache {
    /// As after an eviction.
    pub(crate) fn forget(&self, object: &Object) {
        self.complete.lock().remove(&object.id());
        self.kept.lock().remove(&object.id());
    }
}

#[async_trait]
impl BlockSource for MemoryCache {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let id = object.id();
        let slot = Arc::clone(self.kept.lock().entry(id).or_default());
        let mut slot = slot.lock().await;
        let slow_ms = self.slow_ms.load(Ordering::Relaxed);
        if slot.is_some() && 0 < slow_ms {
            RealClock::new().sleep(Duration::from_millis(slow_ms)).await;
        }
        if slot.is_none() {
            let whole = self.next.read(object, 0..object.version.size, priority).await?;
            *slot = Some(whole);
            self.complete.lock().insert(id, ());
        }
        let whole = slot.as_ref().unwrap();
        Ok(whole.slice(range.start as usize..range.end as usize))
    }
}

#[async_trait]
impl CheckedSource for MemoryCache {
    async fn read_checked(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Summed, ReadError> {
        let mut bytes = self.read(object, range, priority).await?;
        if self.cuts.load(Ordering::Relaxed) {
            bytes = bytes.slice(1..);
        }
        let mut read = summed(bytes);
        if self.flips.load(Ordering::Relaxed) {
            let mut bytes = read.bytes.to_vec();
            bytes[100] ^= 1;
            read.bytes = bytes.into();
        }
        Ok(read)
    }

    async fn read_here(&self, object: &Object, range: Range<u64>) -> Option<Summed> {
        if !self.contains(&object.id()) {
            return None;
        }
        self.read_checked(object, range, Priority::Fill).await.ok()
    }
}

impl ObjectIndex for MemoryCache {
    fn open(&self, _: &Object) -> Option<CachedFile> {
        None
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.complete.lock().contains_key(id)
    }

    fn touch(&self, _: &ObjectId) {}

    fn push(&self, _: &Object, _: Push) -> Residence {
        Residence::Unknown
    }

    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    fn set_holder(&self, _: Arc<dyn ObjectHolder>) {}
}

/// A node that has joined.
pub(crate) struct Node {
    pub(crate) cluster: Cluster,
    pub(crate) cache: Arc<MemoryCache>,
    pub(crate) link: Arc<Link>,
}

/// How a test's nodes are set up.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) token: Option<&'static str>,
    pub(crate) wire: Versions,
    pub(crate) quota_bytes: u64,
    pub(crate) age: Duration,
    pub(crate) local_copies: LocalCopies,
    pub(crate) answer_max: Duration,
    pub(crate) serve_bytes_max: u64,
    /// Of the keys that are mounted.
    pub(crate) prefix: &'static str,
    pub(crate) guest: Option<Guest>,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) sources: Sources,
    /// Besides the addresses that are given at the start.
    pub(crate) peers: Vec<String>,
    /// Of the processes that a node has been.
    pub(crate) life: u64,
    /// The real one, if none.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            token: None,
            wire: Versions::OURS,
            quota_bytes: 1 << 30,
            age: Duration::ZERO,
            local_copies: LocalCopies::Auto,
            answer_max: Duration::from_secs(40),
            serve_bytes_max: 64 << 20,
            prefix: "",
            guest: None,
            tls: None,
            sources: Sources::default(),
            peers: Vec::new(),
            life: 0,
            clock: None,
        }
    }
}

pub(crate) fn entropy() -> Entropy {
    // Different for each call, which is all that these tests need.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Entropy::new(|bytes| {
        for part in bytes.chunks_mut(8) {
            let next = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).to_le_bytes();
            part.copy_from_slice(&next[..part.len()]);
        }
    })
}

impl Plan {
    /// Starts node `number` at `address`.
    pub(crate) fn start(
        &self,
        number: u64,
        address: SocketAddr,
        peers: &[SocketAddr],
        bucket: Arc<dyn BlockSource>,
    ) -> Node {
        let link = Link::new(bucket);
        let cache = Arc::new(MemoryCache {
            next: Arc::clone(&link) as _,
            kept: Mutex::default(),
            complete: Mutex::default(),
            cuts: AtomicBool::new(false),
            flips: AtomicBool::new(false),
            slow_ms: AtomicU64::new(0),
        });
        let config = ClusterConfig {
            node: NodeId(number),
            instance: number * 1_000 + self.life,
            version: "test".into(),
            wire: self.wire,
            quota_bytes: self.quota_bytes,
            age: self.age,
            listen: address,
            peers: peers.iter().map(ToString::to_string).chain(self.peers.clone()).collect(),
            token: self.token.map(|token| Token::read(token.as_bytes()).unwrap()),
            local_copies: self.local_copies,
            serve_bytes_max: self.serve_bytes_max,
            answer_max: self.answer_max,
        };
        let parts = ClusterParts {
            blocks: Arc::clone(&cache) as _,
            index: Arc::clone(&cache) as _,
            mounted: vec![(SOURCE, "other/".into()), (SOURCE, self.prefix.into())],
            net: Arc::new(Tcp(Handle::current())),
            tls: self.tls.clone(),
            clock: self.clock.clone().unwrap_or_else(|| RealClock::shared()),
            entropy: entropy(),
            guest: self.guest.clone(),
            sources: self.sources.clone(),
            runtime: Handle::current(),
        };
        let cluster = Cluster::start(config, parts, Arc::clone(&link)).unwrap();
        Node { cluster, cache, link }
    }
}

impl Node {
    pub(crate) async fn knows(&self, members: usize) {
        eventually("all members to be known", || self.cluster.epoch().members().len() == members)
            .await;
    }

    /// Reads through the node's cache, and compares.
    pub(crate) async fn reads(&self, object: &Object, seed: u64) {
        let size = object.version.size;
        let read = self.cache.read(object, 0..size, Priority::Demand).await.unwrap();
        assert!(read == object_bytes(seed, size), "wrong bytes of {}", object.key);
    }
}

/// Addresses of this machine that nobody else has: a port that was free a moment ago may not be now,
/// but all of 127.0.0.0/8 is ours.
pub(crate) fn addresses<const N: usize>() -> [SocketAddr; N] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let pid = u64::from(std::process::id());
    std::array::from_fn(|_| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let parts = [16 + pid % 224, pid / 224 % 256, 1 + next % 250];
        let [b, c, d] = parts.map(|part| u8::try_from(part).unwrap());
        SocketAddr::from(([127, b, c, d], 20_000 + u16::try_from(next / 250).unwrap()))
    })
}

/// Three nodes that know each other, over one bucket.
pub(crate) async fn three(plan: &Plan) -> ([Node; 3], Arc<MemorySource>) {
    let bucket = MemorySource::new(SOURCE);
    let addresses = addresses::<3>();
    let nodes = std::array::from_fn(|at| {
        plan.start(at as u64 + 1, addresses[at], &addresses, Arc::clone(&bucket) as _)
    });
    for node in &nodes {
        node.knows(3).await;
    }
    (nodes, bucket)
}

pub(crate) fn objects(bucket: &MemorySource, count: u64, size: u64) -> Vec<Object> {
    (0..count).map(|seed| bucket.insert_seeded(&format!("o/{seed}"), seed, size)).collect()
}

#[expect(clippy::disallowed_methods, reason = "real time, for work on real sockets")]
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// An answer with this header comes without a version.
pub(crate) const NO_WIRE: &str = "x-no-wire";

/// What a peer of a test says to a read.
pub(crate) type Says = Arc<dyn Fn() -> Response<Body> + Send + Sync>;

/// The same, by the HTTP in which the read comes.
pub(crate) type LaneSays = Arc<dyn Fn(http::Version) -> Option<Response<Body>> + Send + Sync>;

/// A peer that greets like a node with nearly all of the weight, and answers reads as it is told.
pub(crate) struct FakePeer {
    pub(crate) address: SocketAddr,
    pub(crate) reads: Arc<AtomicU64>,
}

impl FakePeer {
    pub(crate) async fn start(wire: u32, says: Says) -> Self {
        Self::speaking(wire, Arc::new(move |_| Some(says())), false).await
    }

    /// As it answers a read that comes by one HTTP or the other; `None`: it closes the connection.
    pub(crate) async fn with_lanes(says: LaneSays) -> Self {
        Self::speaking(WIRE, says, true).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test owns its tasks")]
    async fn speaking(wire: u32, says: LaneSays, has_lanes: bool) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reads = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&reads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (says, counted) = (Arc::clone(&says), Arc::clone(&counted));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (says, counted) = (Arc::clone(&says), Arc::clone(&counted));
                    async move {
                        let version = request.version();
                        let path = request.uri().path().to_owned();
                        // Or HTTP/1.1 closes the connection.
                        request.into_body().collect().await.unwrap();
                        let mut response = if path == HELLO_PATH {
                            hello(wire)
                        } else {
                            counted.fetch_add(1, Ordering::Relaxed);
                            says(version).ok_or("closed")?
                        };
                        let headers = response.headers_mut();
                        // What answers for an older node knows nothing of versions.
                        if headers.remove(NO_WIRE).is_none() {
                            headers.entry(WIRE_HEADER).or_insert(wire.into());
                        }
                        Ok::<_, &str>(response)
                    }
                });
                tokio::spawn(async move {
                    let mut builder = auto::Builder::new(TokioExecutor::new());
                    if !has_lanes {
                        builder = builder.http2_only();
                    }
                    // Ends as the test wants it to.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, reads }
    }

    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

fn hello(wire: u32) -> Response<Body> {
    let answer = HelloAnswer {
        wire: WIRE,
        version: "fake".into(),
        node: 99,
        instance: 99,
        // Against a node's gigabyte: it owns everything.
        quota_bytes: 1 << 62,
        age_ms: None,
        says_at_once: false,
    };
    let _ = wire;
    Response::new(whole(serde_json::to_vec(&answer).unwrap()))
}
