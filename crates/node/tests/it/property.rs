//! Property: whatever is read in whatever order, fill and oracle change no byte, ask the bucket for
//! nothing twice, and stay within every limit.
//!
//! A case is drawn from its seed: a data set, a cache larger or smaller than it, limits, refusals of the
//! bucket, readers and what each reads how. It runs over the whole chain but the mount: namespace,
//! fill, cache, and store over a simulated bucket; readers do what the mount does for a process. A
//! failure shows its case, which the same seed draws again.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_cache::{Cache, CacheConfig, CacheDirConfig};
use feedline_fill::{Fill, FillConfig, FillParts, FillStatus, Liveness, OrderHint};
use feedline_model::clock::Sleep;
use feedline_model::page::{PAGE_BYTES, page_count, page_range, pages_of};
use feedline_model::{
    Access, AccessObserver as _, BlockSource, Clock, Object, ObjectIndex as _, Priority, ReadError,
    Tree as _,
};
use feedline_namespace::{Listing, Mounted, Namespace, NamespaceConfig};
use feedline_oracle::{dali_order, distributed_order, shard};
use feedline_s3sim::{FaultKind, FaultRule, S3Sim, Verb};
use feedline_store::{Environment, Store, StoreConfig};
use feedline_testkit::{RealClock, object_bytes};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::common::BUCKET;

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// How much faster than real time the chain's clock goes: back-offs of seconds pass in a moment.
const HURRY: u32 = 20;

/// Longer than any case takes by that clock: a try given up for a slow machine's sake would be a
/// request too many, and no read may fail.
const LONG: Duration = Duration::from_secs(100_000);

/// In whose order files are read.
#[derive(Debug, Clone, Copy)]
enum Order {
    Dali,
    Distributed,
    Listed,
    /// Another one in each epoch, or the first part of it.
    Random {
        part: f64,
    },
    /// Any file at any time, again and again, in pieces, or opened and not read.
    Hostile,
}

/// How a file is used.
#[derive(Debug, Clone, Copy)]
enum How {
    Whole,
    Part,
    Backwards,
    OpenOnly,
}

/// What a seed stands for.
#[derive(Debug)]
struct Case {
    seed: u64,
    /// Keys and sizes, in the order in which loaders list them.
    files: Vec<(String, u64)>,
    quota_bytes: u64,
    buffer_bytes: u64,
    requests_max: usize,
    /// To the first byte of an answer.
    latency: Duration,
    /// The share of GETs that is answered 503 or 500.
    refused: f64,
    fill: bool,
    oracle: bool,
    wrong_hint: bool,
    order: Order,
    processes: usize,
    epochs: u32,
}

impl Case {
    /// A case whose data fit into the cache with room to spare.
    fn with_room(seed: u64) -> Self {
        let mut case = Self::draw(seed, 20..160, 1..40_000);
        case.quota_bytes = [48 << 20, 1 << 30][seed as usize % 2];
        case
    }

    /// A case in which fill cannot have everything here before the order is recognised, however the
    /// machine's time is shared.
    fn slow_and_known(seed: u64) -> Self {
        Self {
            requests_max: 3,
            latency: Duration::from_millis(15),
            refused: 0.0,
            fill: true,
            oracle: true,
            wrong_hint: false,
            order: Order::Dali,
            processes: 1,
            ..Self::with_room(seed)
        }
    }

    /// A case with about twice as much data as the cache takes.
    fn without_room(seed: u64) -> Self {
        let mut case = Self::draw(seed, 100..180, 60_000..200_000);
        case.quota_bytes = [8 << 20, 10 << 20][seed as usize % 2];
        case
    }

    fn draw(seed: u64, count: Range<usize>, size: Range<u64>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let (folders, count) = (rng.random_range(1..=6), rng.random_range(count));
        let large = [PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, PAGE_BYTES + 1_234_567];
        let files = (0..count).map(|at| {
            let size = match rng.random_range(0..60) {
                0..4 => 0,
                4 => large[rng.random_range(0..large.len())],
                _ => rng.random_range(size.clone()),
            };
            (format!("train/n{:02}/{at:04}.jpg", at * folders / count), size)
        });
        Self {
            seed,
            files: files.collect(),
            quota_bytes: 0,
            buffer_bytes: [PAGE_BYTES, 16 << 20, 128 << 20][rng.random_range(0..3)],
            requests_max: [3, 24, 384][rng.random_range(0..3)],
            latency: Duration::ZERO,
            refused: [0.0, 0.0, 0.1, 0.3][rng.random_range(0..4)],
            fill: rng.random_bool(0.85),
            oracle: rng.random_bool(0.85),
            wrong_hint: rng.random_bool(0.2),
            order: match rng.random_range(0..6) {
                0 => Order::Dali,
                1 => Order::Distributed,
                2 => Order::Listed,
                3 => Order::Random { part: 1.0 },
                4 => Order::Random { part: rng.random_range(0.2..0.8) },
                _ => Order::Hostile,
            },
            processes: rng.random_range(1..=4),
            epochs: rng.random_range(1..=3),
        }
    }

    /// What a process reads in an epoch.
    fn uses(&self, process: usize, epoch: u32) -> Vec<(usize, How)> {
        let (count, all) = (self.files.len(), self.processes);
        let mut rng = StdRng::seed_from_u64(self.seed ^ u64::from(epoch) << 32);
        let wide = |order: &[u32]| order.iter().map(|at| *at as usize).collect::<Vec<_>>();
        let places = match self.order {
            Order::Dali => wide(&dali_order(count)[shard(count, process, all)]),
            Order::Distributed => wide(&distributed_order(count, epoch, process, all)),
            Order::Listed => shard(count, process, all).collect(),
            Order::Random { part } => {
                let mut places: Vec<usize> = (0..count).collect();
                places.shuffle(&mut rng);
                places.truncate((count as f64 * part) as usize);
                places.into_iter().skip(process).step_by(all).collect()
            }
            Order::Hostile => {
                let mut rng = StdRng::seed_from_u64(self.seed + process as u64);
                let draw = |_| {
                    let how = [How::Whole, How::Part, How::Backwards, How::OpenOnly];
                    (rng.random_range(0..count), how[rng.random_range(0..how.len())])
                };
                return (0..count).map(draw).collect();
            }
        };
        places.into_iter().map(|place| (place, How::Whole)).collect()
    }
}

/// Real time, hurried.
#[derive(Debug)]
struct Hurried(RealClock);

impl Clock for Hurried {
    fn monotonic(&self) -> Duration {
        self.0.monotonic() * HURRY
    }

    fn unix_ms(&self) -> u64 {
        self.0.unix_ms()
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.0.sleep(duration / HURRY)
    }
}

/// What was asked of the store. What must not be is noted down here, since a panic in a task of the
/// cache would be lost.
#[derive(Debug, Default)]
struct Asked {
    /// By key and start.
    under_way: HashSet<(Arc<str>, u64)>,
    bytes: u64,
    bytes_max: u64,
    /// Successes.
    fetched: BTreeMap<(Arc<str>, u64), u64>,
    wrong: Vec<String>,
}

/// The store, watched.
#[derive(Debug)]
struct Watched {
    store: Arc<Store>,
    asked: Arc<Mutex<Asked>>,
}

/// A fetch under way; it may be dropped before its end.
struct UnderWay {
    asked: Arc<Mutex<Asked>>,
    page: (Arc<str>, u64),
    bytes: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut asked = self.asked.lock();
        asked.under_way.remove(&self.page);
        asked.bytes -= self.bytes;
    }
}

#[async_trait]
impl BlockSource for Watched {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let (page, bytes) = ((Arc::clone(&object.key), range.start), range.end - range.start);
        let _under_way = {
            let mut asked = self.asked.lock();
            if !asked.under_way.insert(page.clone()) {
                asked.wrong.push(format!("{page:?} was asked for while it was under way"));
            }
            if range != page_range(range.start / PAGE_BYTES, object.version.size) {
                asked.wrong.push(format!("{page:?}: {range:?} is no page"));
            }
            asked.bytes += bytes;
            asked.bytes_max = asked.bytes_max.max(asked.bytes);
            UnderWay { asked: Arc::clone(&self.asked), page: page.clone(), bytes }
        };
        let read = self.store.read(object, range, priority).await;
        match &read {
            Ok(_) => *self.asked.lock().fetched.entry(page).or_default() += 1,
            Err(error) => self.asked.lock().wrong.push(format!("{page:?}: {error}")),
        }
        read
    }
}

/// One file of the data set, as the readers know it.
struct File {
    parent: Arc<str>,
    object: Object,
    content: Bytes,
}

/// The chain of a case.
struct Bed {
    case: Case,
    sim: S3Sim,
    store: Arc<Store>,
    cache: Arc<Cache>,
    fill: Arc<Fill>,
    files: Vec<File>,
    asked: Arc<Mutex<Asked>>,
    dir: tempfile::TempDir,
}

impl Bed {
    async fn new(case: Case) -> Self {
        let sim = S3Sim::builder().empty().latency(case.latency).credentials(KEYS[0].1, KEYS[1].1);
        let sim = sim.start().unwrap();
        let mut contents = BTreeMap::new();
        for (at, (key, size)) in case.files.iter().enumerate() {
            let content = object_bytes(case.seed << 20 | at as u64, *size);
            sim.put_object(BUCKET, key, &content);
            contents.insert(key.clone(), content);
        }
        let clock: Arc<dyn Clock> = Arc::new(Hurried(RealClock::new()));
        let handle = tokio::runtime::Handle::current();
        let config = StoreConfig {
            endpoint: Some(sim.endpoint()),
            request_timeout: LONG,
            connect_timeout: LONG,
            retry_budget: LONG,
            requests_in_flight_max: case.requests_max,
            environment: Environment::from_pairs(KEYS),
            ..StoreConfig::new(format!("s3://{BUCKET}"))
        };
        let store = Store::open(&config, Arc::clone(&clock), handle.clone(), case.seed).unwrap();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let next = Arc::new(Watched { store: Arc::clone(&store), asked: Arc::clone(&asked) });
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let place = CacheDirConfig { dir: dir.path().join("cache"), quota_bytes: case.quota_bytes };
        let config =
            CacheConfig { buffer_bytes: case.buffer_bytes, ..CacheConfig::new(vec![place]) };
        let cache = Cache::open(config, next, Arc::clone(&clock), handle.clone()).unwrap();
        let namespace = NamespaceConfig {
            mounts: vec![Mounted {
                tree_path: String::new(),
                lister: Arc::clone(&store) as _,
                prefix: String::new(),
            }],
            metadata_ttl: LONG,
            listing: Listing::Lazy,
            state_file: None,
            lists_max: 8,
            directories_max: 1_000,
        };
        let namespace = Namespace::open(namespace, Arc::clone(&clock), handle.clone()).unwrap();
        let files = list(&namespace, &case, &contents).await;
        let settings = FillConfig {
            enabled: case.fill,
            oracle: case.oracle,
            window_max: (case.requests_max * 7 / 8).max(1),
            ..FillConfig::default()
        };
        let parts = FillParts {
            tree: Arc::new(namespace),
            index: Arc::clone(&cache) as _,
            blocks: Arc::clone(&cache) as _,
            ownership: None,
            memory: None,
            clock,
            runtime: handle,
            liveness: Liveness::new(|_| true),
        };
        let fill = Fill::start(settings, parts);
        cache.set_foresight(fill.foresight());
        let rule = |kind| FaultRule::probability(kind, case.refused / 2.0).for_verb(Verb::Get);
        if case.refused > 0.0 {
            let slow = feedline_s3sim::Faults::from(rule(FaultKind::SlowDown));
            sim.set_faults(slow.and(rule(FaultKind::InternalError)));
        }
        Self { case, sim, store, cache, fill, files, asked, dir }
    }

    /// All epochs, the processes of each side by side, then what is under way to its end.
    async fn run(&self) {
        if self.case.wrong_hint && self.case.oracle {
            let mut places: Vec<u32> = (0..self.files.len() as u32).collect();
            places.shuffle(&mut StdRng::seed_from_u64(!self.case.seed));
            self.fill.hint("train", 1, &OrderHint::Positions(places)).unwrap();
        }
        for epoch in 0..self.case.epochs {
            let processes = (0..self.case.processes).map(|process| self.process(process, epoch));
            futures::future::join_all(processes).await;
        }
        self.fill.stop().await;
        let clock = RealClock::new();
        for _ in 0..6_000 {
            if self.cache.stats().flights == 0 {
                return;
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
        panic!("fetches that do not end: {:?}", self.cache.stats());
    }

    async fn process(&self, process: usize, epoch: u32) {
        let mut rng = StdRng::seed_from_u64(self.case.seed ^ process as u64);
        for (place, how) in self.case.uses(process, epoch) {
            let File { parent, object, content } = &self.files[place];
            let is_hit = self.cache.contains(&object.id());
            let thread = u32::try_from(process).expect("few") + 100;
            self.fill.accessed(Access { process: thread, parent, object, is_hit });
            let cached = self.cache.open(object);
            for range in ranges(how, object.version.size, &mut rng) {
                let at = range.start as usize..range.end as usize;
                let bytes = match &cached {
                    Some(cached) => {
                        let mut bytes = vec![0; at.len()];
                        cached.file.read_exact_at(&mut bytes, range.start).unwrap();
                        bytes.into()
                    }
                    None => self.cache.read(object, range, Priority::Demand).await.unwrap(),
                };
                assert!(bytes == content[at.clone()], "{} {at:?}: other bytes", object.key);
            }
            self.check_limits();
        }
    }

    /// What must hold at any moment.
    fn check_limits(&self) {
        let (case, stats) = (&self.case, self.cache.stats());
        assert!(stats.used_bytes() <= case.quota_bytes, "{stats:?}");
        assert!(stats.budget_used_bytes <= case.buffer_bytes, "{stats:?}");
        assert!(self.store.limiter().in_flight() <= case.requests_max);
    }

    /// What must hold at the end. Returns what fill did.
    async fn check(&self) -> FillStatus {
        self.check_limits();
        let (case, stats, asked) = (&self.case, self.sim.stats(), self.asked.lock());
        assert_eq!(asked.wrong, Vec::<String>::new());
        assert!(asked.bytes_max <= case.buffer_bytes, "{} bytes in flight", asked.bytes_max);
        let most = stats.in_flight_max;
        assert!(most <= case.requests_max as u64, "{most} requests in flight");
        // What the store gave is what the bucket gave: nothing was fetched past it.
        let answered = |status| stats.by_status.get(&status).copied().unwrap_or(0);
        let fetched: u64 = asked.fetched.values().sum();
        assert_eq!(answered(200) + answered(206) - stats.list, fetched, "{stats:?}");
        let used = self.cache.stats().used_bytes();
        let on_disk = bytes_on_disk(&self.dir.path().join("cache"));
        assert!(on_disk <= used, "{on_disk} bytes on disk, {used} known of");
        self.fill.status()
    }

    /// Each page once at most, and all that was read.
    fn check_once(&self) {
        let asked = self.asked.lock();
        let twice: Vec<_> = asked.fetched.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "fetched twice: {twice:?}");
        let uses = (0..self.case.epochs)
            .flat_map(|epoch| (0..self.case.processes).map(move |process| (process, epoch)));
        for (place, how) in uses.flat_map(|(process, epoch)| self.case.uses(process, epoch)) {
            let object = &self.files[place].object;
            let pages = match how {
                How::Whole | How::Backwards => 0..page_count(object.version.size),
                How::Part | How::OpenOnly => 0..0,
            };
            for page in pages {
                let page = (Arc::clone(&object.key), page * PAGE_BYTES);
                assert!(asked.fetched.contains_key(&page), "{page:?} came from nowhere");
            }
        }
    }
}

/// The pieces in which a file is read.
fn ranges(how: How, size: u64, rng: &mut StdRng) -> Vec<Range<u64>> {
    match how {
        How::OpenOnly => Vec::new(),
        How::Whole => std::iter::once(0..size).filter(|all| !all.is_empty()).collect(),
        How::Part if size > 1 => {
            let from = rng.random_range(0..size - 1);
            let to = rng.random_range(from + 1..=size);
            debug_assert!(!pages_of(&(from..to)).is_empty());
            std::iter::once(from..to).collect()
        }
        How::Part => Vec::new(),
        How::Backwards => {
            let step = (size / 5).max(1_000);
            let starts = (0..size.div_ceil(step)).rev().map(|piece| piece * step);
            starts.map(|from| from..(from + step).min(size)).collect()
        }
    }
}

/// Lists every folder, as loaders do before they read.
async fn list(namespace: &Namespace, case: &Case, contents: &BTreeMap<String, Bytes>) -> Vec<File> {
    let mut files = Vec::new();
    for path in ["", "train"] {
        assert!(namespace.list(path).await.unwrap().is_some());
    }
    for (key, _) in &case.files {
        let (parent, name) = key.rsplit_once('/').expect("in a folder");
        let folder = namespace.list(parent).await.unwrap().expect("a folder");
        let object = folder.find(name).and_then(|at| folder.object(at)).expect("is listed");
        files.push(File { parent: parent.into(), object, content: contents[key].clone() });
    }
    files
}

/// Bytes on disk below `path`, when nothing is being written there; files may still be going.
fn bytes_on_disk(path: &Path) -> u64 {
    let own = std::fs::symlink_metadata(path).map_or(0, |found| found.blocks() * 512);
    let Ok(entries) = std::fs::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| bytes_on_disk(&entry.path())).sum::<u64>()
}

/// Runs the cases; files that fill fetched, and cases in which the order was recognised.
fn run(cases: impl Iterator<Item = Case>, check: impl Fn(&Bed)) -> (u64, u64) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let (mut filled, mut recognised) = (0, 0);
    for case in cases {
        // Shown when a test fails: the last one is the culprit.
        println!("seed {}: {} files, {:?}", case.seed, case.files.len(), Short(&case));
        runtime.block_on(async {
            let bed = Bed::new(case).await;
            bed.run().await;
            let status = bed.check().await;
            check(&bed);
            bed.cache.close().await;
            filled += status.files;
            recognised += u64::from(status.scans.iter().any(|scan| scan.known_after > 0));
        });
    }
    (filled, recognised)
}

/// A case without its files.
struct Short<'a>(&'a Case);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { quota_bytes, buffer_bytes, requests_max, refused, .. } = self.0;
        let Case { fill, oracle, wrong_hint, order, processes, epochs, .. } = self.0;
        write!(
            f,
            "quota {quota_bytes}, buffer {buffer_bytes}, requests {requests_max}, refused {refused}, \
             fill {fill}, oracle {oracle}, wrong hint {wrong_hint}, {order:?}, {processes} \
             processes, {epochs} epochs"
        )
    }
}

#[test]
fn with_room_no_byte_is_wrong_nothing_is_fetched_twice_and_every_limit_holds() {
    let cases = (0..16).map(Case::with_room).chain([Case::slow_and_known(0)]);
    let (filled, recognised) = run(cases, Bed::check_once);
    assert!(100 < filled && 0 < recognised, "fill: {filled} files, orders: {recognised}");
}

#[test]
fn without_room_no_byte_is_wrong_and_every_limit_holds() {
    let (filled, _) = run((1_000..1_006).map(Case::without_room), |_| ());
    assert!(20 < filled, "fill: {filled} files");
}
