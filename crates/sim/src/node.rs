//! A node through all of its lives: what stays is its disk, its id and what its readers have read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use feedline_cluster::{
    Cluster, ClusterConfig, ClusterParts, Entropy, Link, LocalCopies, Net, NodeId, PeerState,
    Sources, Token, Versions,
};
use feedline_model::Clock as _;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::bucket::{Bucket, SOURCE};
use crate::cache::{Cache, Disk, Served};
use crate::clock::HostClock;
use crate::directory::{Directory, Remembered};
use crate::job::{ForPeers, Job, Living, Record, State};
use crate::plan::Step;
use crate::promise::Promise;
use crate::reader::{Reader, Reads};
use crate::rng::Rng;
use crate::sabotage::Broken;
use crate::trace::Trace;

/// How long a peer that is alive may wait for the bucket.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// As the smallest buffer of a real node gives.
const SERVE_BYTES_MAX: u64 = 16 << 20;

/// How often a node looks whether it has joined.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    /// Where nodes find each other; `None`: all know all addresses.
    pub(crate) directory: Option<Arc<Directory>>,
    pub(crate) living: Arc<Mutex<Living>>,
    pub(crate) broken: Broken,
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
    /// It knows as many members as are to be there before anything begins.
    has_joined: Arc<AtomicBool>,
    /// Its load, if it has one.
    loads: JoinSet<()>,
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
    pub(crate) slow_ms: Arc<AtomicU64>,
    pub(crate) rng: Rng,
    pub(crate) work: Vec<Work>,
    pub(crate) fill_at_once: usize,
    pub(crate) life: Option<Life>,
    /// Its load, if it ever began one.
    pub(crate) job: Option<Arc<Mutex<Record>>>,
    pub(crate) remembered: Arc<Remembered>,
    /// Where it was last, and with what quota.
    pub(crate) place: usize,
    pub(crate) quota_bytes: u64,
}

impl Node {
    /// Starts the node's process; its readers go on where they were.
    pub(crate) fn start(&mut self, common: &Common) {
        let door = common.bucket.door(self.number, self.clock.clone());
        let link = Link::new(Arc::clone(&door));
        let cache = Cache::new(
            Arc::clone(&link),
            (door, common.broken.clone()),
            Arc::clone(&self.disk),
            Arc::clone(&common.bucket),
            common.runtime.clone(),
        );
        let served = Arc::new(Served {
            cache: Arc::clone(&cache),
            lies: Arc::clone(&self.lies),
            slow_ms: Arc::clone(&self.slow_ms),
            clock: self.clock.clone(),
        });
        let token = b"one secret of forty bytes for all nodes.";
        let config = ClusterConfig {
            node: NodeId(self.id),
            instance: self.rng.next(),
            version: "sim".into(),
            wire: Versions::OURS,
            quota_bytes: self.quota_bytes,
            age: self.disk.lock().age(self.clock.sim.now()),
            listen: common.addresses[self.place],
            peers: match &common.directory {
                Some(_) => Vec::new(),
                None => common.addresses.iter().map(ToString::to_string).collect(),
            },
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
            sources: self.sources(common),
            runtime: common.runtime.clone(),
        };
        match Cluster::start(config, parts, link) {
            Ok(cluster) => {
                let cluster = Arc::new(cluster);
                let (of_peers, broken) = (Arc::clone(&cache), common.broken.clone());
                cluster.serve_loads(Arc::new(ForPeers { cache: of_peers, broken }));
                let mut readers = JoinSet::new();
                let has_joined = Arc::new(AtomicBool::new(false));
                let boot = self.boot(common, &cluster, &cache, Arc::clone(&has_joined));
                readers.spawn_on(boot, &common.runtime);
                let loads = JoinSet::new();
                self.life = Some(Life { cluster, cache, _readers: readers, has_joined, loads });
                if self.has_job(State::Running) {
                    self.load(common);
                }
            }
            Err(error) => common
                .trace
                .complain(Promise::NodesStart, format_args!("n{}: {error}", self.number)),
        }
    }

    fn sources(&self, common: &Common) -> Sources {
        let directory = common.directory.as_ref();
        let memory = directory.map(|_| Arc::clone(&self.remembered) as _);
        let directory = directory.map(|it| it.door(self.number, self.clock.clone()));
        Sources { directory, memory, ..Sources::default() }
    }

    /// True if it has a load, and that is in this state.
    pub(crate) fn has_job(&self, state: State) -> bool {
        self.job.as_ref().is_some_and(|job| job.lock().state == state)
    }

    /// Begins its load, or goes on with it. Nothing if it does not live: then at its next start.
    pub(crate) fn load(&mut self, common: &Common) {
        let record = Arc::clone(self.job.get_or_insert_default());
        record.lock().state = State::Running;
        let Some(life) = &mut self.life else { return };
        let job = Job {
            node: self.number,
            record,
            cluster: Arc::clone(&life.cluster),
            cache: Arc::clone(&life.cache),
            bucket: Arc::clone(&common.bucket),
            living: Arc::clone(&common.living),
            clock: self.clock.clone(),
            trace: common.trace.clone(),
            broken: common.broken.clone(),
        };
        let (clock, has_joined) = (self.clock.clone(), Arc::clone(&life.has_joined));
        life.loads.abort_all();
        let task = async move {
            while !has_joined.load(Ordering::Relaxed) {
                clock.sleep(LOOK_EVERY).await;
            }
            job.run().await;
        };
        life.loads.spawn_on(task, &common.runtime);
    }

    /// Stops its load, if one is running.
    pub(crate) fn stop_load(&mut self) {
        if self.has_job(State::Running) {
            self.job.iter().for_each(|job| job.lock().state = State::Stopped);
            self.life.iter_mut().for_each(|life| life.loads.abort_all());
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
        has_joined: Arc<AtomicBool>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let readers: Vec<_> =
            self.work.iter().map(|work| self.reader(common, work, cache)).collect();
        let (cluster, members_first) = (Arc::clone(cluster), common.members_first);
        let fill = fill(common, (self.number, self.fill_at_once), Arc::clone(cache));
        let clock = self.clock.clone();
        async move {
            cluster.settle().await;
            while cluster.epoch().members().len() < members_first {
                clock.sleep(LOOK_EVERY).await;
            }
            drop(cluster);
            has_joined.store(true, Ordering::Relaxed);
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
            broken: common.broken.clone(),
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
