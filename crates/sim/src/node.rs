//! A node through all of its lives: what stays is its disk, its id and what its readers have read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use feedline_cluster::{
    Cluster, ClusterConfig, ClusterParts, Entropy, Link, LocalCopies, Net, NodeId, PeerState,
    Sources, Token,
};
use feedline_model::Clock as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::bucket::{Bucket, SOURCE};
use crate::cache::{Cache, Disk, Served};
use crate::clock::HostClock;
use crate::plan::Step;
use crate::reader::{Reader, Reads};
use crate::rng::Rng;
use crate::trace::Trace;

/// How long a peer that is alive may wait for the bucket.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// As the smallest buffer of a real node gives.
const SERVE_BYTES_MAX: u64 = 16 << 20;

/// What all nodes share.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) has_token: bool,
    pub(crate) local_copies: LocalCopies,
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) trace: Trace,
    pub(crate) runtime: Handle,
    pub(crate) reads: Arc<Mutex<Reads>>,
    /// The longest that a read may take.
    pub(crate) wait_max: Duration,
    /// Readers begin when a node knows so many members.
    pub(crate) members_first: usize,
}

/// One reader's work, and how far it has come over all of its lives.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) number: usize,
    pub(crate) steps: Arc<[Step]>,
    pub(crate) progress: Arc<AtomicUsize>,
}

impl Work {
    pub(crate) fn is_done(&self) -> bool {
        self.steps.len() <= self.progress.load(Ordering::Relaxed)
    }
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) cache: Arc<Cache>,
    _readers: JoinSet<()>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) id: u64,
    pub(crate) clock: HostClock,
    pub(crate) net: Arc<dyn Net>,
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) lies: Arc<AtomicBool>,
    pub(crate) rng: Rng,
    pub(crate) work: Vec<Work>,
    pub(crate) fill_at_once: usize,
    pub(crate) life: Option<Life>,
    /// Where it was last, and with what quota.
    pub(crate) place: usize,
    pub(crate) quota_bytes: u64,
}

impl Node {
    /// Starts the node's process; its readers go on where they were.
    pub(crate) fn start(&mut self, common: &Common) {
        let link = Link::new(common.bucket.door(self.number, self.clock.clone()));
        let cache = Cache::new(
            Arc::clone(&link),
            Arc::clone(&self.disk),
            Arc::clone(&common.bucket),
            common.runtime.clone(),
        );
        let served = Arc::new(Served { cache: Arc::clone(&cache), lies: Arc::clone(&self.lies) });
        let token = b"one secret of forty bytes for all nodes.";
        let config = ClusterConfig {
            node: NodeId(self.id),
            instance: self.rng.next(),
            version: "sim".into(),
            quota_bytes: self.quota_bytes,
            age: self.disk.lock().age(self.clock.sim.now()),
            listen: common.addresses[self.place],
            peers: common.addresses.iter().map(ToString::to_string).collect(),
            token: common.has_token.then(|| Token::read(token).expect("long enough")),
            local_copies: common.local_copies,
            serve_bytes_max: SERVE_BYTES_MAX,
            answer_max: ANSWER_MAX,
        };
        let parts = ClusterParts {
            blocks: Arc::clone(&served) as _,
            index: served as _,
            mounted: vec![(SOURCE, "train/".into())],
            net: Arc::clone(&self.net),
            tls: None,
            guest: None,
            clock: Arc::new(self.clock.clone()),
            entropy: self.entropy(),
            sources: Sources::default(),
            runtime: common.runtime.clone(),
        };
        match Cluster::start(config, parts, link) {
            Ok(cluster) => {
                let cluster = Arc::new(cluster);
                let mut readers = JoinSet::new();
                readers.spawn_on(self.boot(common, &cluster, &cache), &common.runtime);
                self.life = Some(Life { cluster, cache, _readers: readers });
            }
            Err(error) => common.trace.complain(format_args!("n{}: {error}", self.number)),
        }
    }

    fn entropy(&mut self) -> Entropy {
        let rng = Mutex::new(Rng::new(self.rng.next()));
        Entropy::new(move |bytes| {
            let mut rng = rng.lock();
            bytes.iter_mut().for_each(|byte| *byte = rng.next().to_le_bytes()[0]);
        })
    }

    /// Joins as a real node does, and then lets the readers go.
    fn boot(
        &self,
        common: &Common,
        cluster: &Arc<Cluster>,
        cache: &Arc<Cache>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let readers: Vec<_> =
            self.work.iter().map(|work| self.reader(common, work, cache)).collect();
        let (cluster, members_first) = (Arc::clone(cluster), common.members_first);
        let fill = fill(common, (self.number, self.fill_at_once), Arc::clone(cache));
        let clock = self.clock.clone();
        async move {
            cluster.settle().await;
            while cluster.epoch().members().len() < members_first {
                clock.sleep(Duration::from_millis(100)).await;
            }
            drop(cluster);
            let reads = futures::future::join_all(readers.into_iter().map(Reader::run));
            futures::future::join(reads, fill).await;
        }
    }

    pub(crate) fn reader(&self, common: &Common, work: &Work, cache: &Arc<Cache>) -> Reader {
        Reader {
            node: self.number,
            number: work.number,
            steps: Arc::clone(&work.steps),
            progress: Arc::clone(&work.progress),
            cache: Arc::clone(cache),
            bucket: Arc::clone(&common.bucket),
            clock: self.clock.clone(),
            trace: common.trace.clone(),
            reads: Arc::clone(&common.reads),
            wait_max: common.wait_max,
        }
    }

    /// Ends the process, if there is one. What it had on its way is gone, what is on its disk stays.
    pub(crate) fn stop(&mut self) {
        if let Some(life) = self.life.take() {
            life.cluster.stop();
            life.cache.kill();
            drop(life);
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.work.iter().all(Work::is_done)
    }
}

/// Fetches everything, in an order of the node's own.
fn fill(
    common: &Common,
    (node, at_once): (usize, usize),
    cache: Arc<Cache>,
) -> impl Future<Output = ()> + Send + 'static {
    let mut order: Vec<usize> = (0..common.bucket.contents.len()).collect();
    let by = node * 5 % order.len();
    order.rotate_left(by);
    async move {
        if 0 < at_once {
            for places in order.chunks(at_once) {
                cache.fill(places).await;
            }
        }
    }
}

impl Life {
    /// The nodes that this one places objects on: itself, and the members that answer.
    pub(crate) fn up(&self) -> Vec<(u64, u64)> {
        let status = self.cluster.status();
        let epoch = self.cluster.epoch();
        let own = epoch.member(status.node).map(|me| (me.node.0, me.quota_bytes));
        let peers = status.peers.iter().filter(|peer| peer.state == PeerState::Up);
        let peers = peers.filter_map(|peer| Some((peer.node?.0, peer.quota_bytes)));
        let mut up: Vec<_> = own.into_iter().chain(peers).collect();
        up.sort_unstable();
        up
    }

    /// What should be over when nobody reads, and is not.
    pub(crate) fn leftovers(&self) -> Option<String> {
        let status = self.cluster.status();
        let asked: Vec<_> = status.peers.iter().filter(|peer| 0 < peer.in_flight).collect();
        let flights = self.cache.in_flight();
        (!asked.is_empty() || 0 < flights).then(|| format!("{flights} flights, {asked:?}"))
    }
}
