//! What the cluster is told and handed: settings, and the world outside.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_model::{CheckedSource, Clock, ObjectIndex, SourceId};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::net::Net;
use crate::placement::NodeId;
use crate::sources::Sources;
use crate::tls::Tls;
use crate::token::{Nonce, Token};
use crate::versions::Versions;

/// Whether a node keeps what others own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalCopies {
    /// As long as there is space that nothing of its own needs.
    #[default]
    Auto,
    /// As if it were its own.
    Always,
    /// Not at all.
    Never,
}

/// Settings, all resolved.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// This node.
    pub node: NodeId,
    /// Drawn at random at this start.
    pub instance: u64,
    /// Version of the binary, for people.
    pub version: String,
    /// Of the protocol, that it speaks with others.
    pub wire: Versions,
    /// What this node may keep, in bytes: its weight.
    pub quota_bytes: u64,
    /// How long its cache has existed.
    pub age: Duration,
    /// Where peers reach this node.
    pub listen: SocketAddr,
    /// `HOST:PORT` of every node, this one included under whatever name; or `dns://NAME:PORT`, whose
    /// addresses are the nodes.
    pub peers: Vec<String>,
    /// What all nodes must know.
    pub token: Option<Token>,
    /// Whether what others own is kept here.
    pub local_copies: LocalCopies,
    /// The most bytes on their way to peers. At least one item always fits.
    pub serve_bytes_max: u64,
    /// How long a peer that is alive may wait for the bucket before we ask it ourselves.
    pub answer_max: Duration,
}

/// The world outside.
#[derive(Debug, Clone)]
pub struct ClusterParts {
    /// This node's cache: what peers are served from.
    pub blocks: Arc<dyn CheckedSource>,
    /// What is complete in it.
    pub index: Arc<dyn ObjectIndex>,
    /// The buckets mounted here, each with a prefix of its keys: nothing else is served.
    pub mounted: Vec<(SourceId, String)>,
    /// How other nodes are reached.
    pub net: Arc<dyn Net>,
    /// With what this node proves over `net` to be one, and by what it knows the others; `None`: no TLS.
    pub tls: Option<Arc<Tls>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, good enough for secrets.
    pub entropy: Entropy,
    /// Who else is served on the port.
    pub guest: Option<Guest>,
    /// Who is asked for nodes.
    pub sources: Sources,
    /// Where tasks run.
    pub runtime: Handle,
}

/// Why a body ended before its time.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer on the node's port.
pub type PortBody = UnsyncBoxBody<Bytes, BodyError>;

type Answer = BoxFuture<'static, Response<PortBody>>;

/// Who answers what comes over the node's port and is not for peers.
#[derive(Clone)]
pub struct Guest(Arc<dyn Fn(Request<Incoming>) -> Answer + Send + Sync>);

impl Guest {
    /// Everything that no peer asks is answered by `answer`.
    pub fn new(answer: impl Fn(Request<Incoming>) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    pub(crate) fn answer(&self, request: Request<Incoming>) -> Answer {
        (self.0)(request)
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guest(..)")
    }
}

type FillBytes = dyn Fn(&mut [u8]) + Send + Sync;

/// Where unpredictable bytes come from.
#[derive(Clone)]
pub struct Entropy(Arc<FillBytes>);

impl Entropy {
    /// Bytes as `fill` writes them.
    pub fn new(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    pub(crate) fn nonce(&self) -> Nonce {
        let mut nonce = [0; 32];
        (self.0)(&mut nonce);
        nonce
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}

/// What `work` gives, or `None` after `limit`.
pub(crate) async fn within<T>(
    clock: &dyn Clock,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep(limit) => None,
    }
}

/// Lets hyper spawn on the runtime that was handed in.
#[derive(Debug, Clone)]
pub(crate) struct OnRuntime(pub(crate) Handle);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for OnRuntime {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
