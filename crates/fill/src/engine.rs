//! The loop: takes what was reported, decides what to fetch next, keeps the window full.
//!
//! One task owns the fetches in flight. The state is behind a lock because status and eviction look
//! at it; the task holds it for at most [`LOOKS`] candidates at a time.

mod beside;
mod keep;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use feedline_model::page::{PAGE_BYTES, page_count, page_range};
use feedline_model::{Access, AccessObserver, Keeping, Object, Priority, ReadError};
use feedline_oracle::Outcome;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{FillConfig, FillParts};
use crate::groups::{Beside, Groups, is_inside, parent_of};
use crate::push::Done;
use crate::rate::Rate;
use crate::rest::Rest;
use crate::scan::Scan;
use crate::set::DataSet;
use crate::status::FillStatus;
use crate::watch::{Seen, Watch};
use crate::window::Window;

/// Data sets watched at once; the one read longest ago goes first.
const SCANS_MAX: usize = 16;

/// Candidates looked at under one lock: about a millisecond where all are cached.
const LOOKS: usize = 1_024;

/// Accesses are taken in batches this far apart: waking the engine for each open of a hot file would
/// cost as much as the open.
const BATCH: Duration = Duration::from_millis(3);

/// How often readers are looked after.
const TICK: Duration = Duration::from_secs(1);

/// A set that nobody has read for so long is forgotten.
const FORGET: Duration = Duration::from_secs(3_600);

/// What is left free for demand reads and for what is in flight.
const FREE_RESERVE: u64 = 32 << 20;

/// A set is built anew at most this often when files are read that it does not know.
const REBUILD: Duration = Duration::from_secs(2);

/// What the loop and its users share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: FillConfig,
    pub(crate) parts: FillParts,
    pub(crate) watch: Watch,
    pub(crate) state: Mutex<State>,
    /// Eviction asks for next uses.
    pub(crate) wants_ids: AtomicBool,
    stop: watch::Sender<bool>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    files: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    in_flight: AtomicU64,
    window: AtomicU64,
    pushed_files: AtomicU64,
    pushed_bytes: AtomicU64,
}

/// Data sets, the one read last in front.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) scans: Vec<Scan>,
    groups: Groups,
    rebuilt: Duration,
    /// The number of the last scan begun.
    last_number: u64,
}

impl State {
    /// Takes away the scans that `by` replaces, which goes on from what they know: those of folders in
    /// its folder, or of that folder as it was listed before.
    pub(crate) fn replace(&mut self, by: &mut Scan) {
        self.scans.retain(|scan| {
            let (root, new) = (&*scan.set.root, &*by.set.root);
            let goes = if by.flat { root == new } else { is_inside(root, new) };
            if goes {
                by.take_over(scan);
            }
            !goes
        });
    }

    /// Puts a scan in front; the one read longest ago goes if there are too many.
    pub(crate) fn insert(&mut self, scan: Scan) {
        self.scans.insert(0, scan);
        self.scans.truncate(SCANS_MAX);
    }
}

impl Shared {
    /// A scan of `set` as the settings want it, with a number of its own.
    pub(crate) fn new_scan(
        &self,
        state: &mut State,
        set: DataSet,
        flat: bool,
        now: Duration,
    ) -> Scan {
        state.last_number += 1;
        Scan::new(state.last_number, set, flat, &self.config, now)
    }
}

/// Watches, predicts and fetches ahead. Ends when dropped.
#[derive(Debug)]
pub struct Fill {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What one fetch is about.
struct Piece {
    /// The number of the scan.
    scan: u64,
    position: u32,
    object: Object,
    page: u64,
}

impl Piece {
    fn range(&self) -> Range<u64> {
        page_range(self.page, self.object.version.size)
    }
}

/// A fetch that has ended.
struct Landed {
    piece: Piece,
    took: Duration,
    outcome: Result<u64, ReadError>,
}

impl Fill {
    /// Starts the loop on the runtime of `parts`.
    #[must_use]
    pub fn start(config: FillConfig, parts: FillParts) -> Arc<Self> {
        let runtime = parts.runtime.clone();
        let shared = Arc::new(Shared {
            config,
            parts,
            watch: Watch::default(),
            state: Mutex::default(),
            wants_ids: AtomicBool::new(false),
            stop: watch::Sender::new(false),
            counters: Counters::default(),
        });
        let task = runtime.spawn(Engine::new(Arc::clone(&shared)).run());
        Arc::new(Self { shared, task: Mutex::new(Some(task)) })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Ends the loop; fetches in flight go on in the cache and are not waited for.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let task = self.task.lock().take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "fill did not end cleanly");
        }
    }

    /// Somebody wants nothing kept of `path` and below it: data sets there are forgotten until they are read again,
    /// or what was just read and freed would be fetched once more. Fetches in flight go on. A data set of which
    /// `path` is a part stays.
    pub fn forget(&self, path: &str) {
        let mut state = self.shared.state.lock();
        self.shared.watch.forget(|folder| is_inside(folder, path));
        state.groups.forget(path);
        state.scans.retain(|scan| !is_inside(&scan.set.root, path));
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> FillStatus {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let watched = !self.shared.watch.ignores_hits();
        let state = self.shared.state.lock();
        FillStatus {
            scans: state.scans.iter().map(|scan| scan.status(watched)).collect(),
            in_flight: get(&counters.in_flight),
            window: get(&counters.window),
            files: get(&counters.files),
            bytes: get(&counters.bytes),
            failed: get(&counters.failed),
            pushed_files: get(&counters.pushed_files),
            pushed_bytes: get(&counters.pushed_bytes),
            dropped: self.shared.watch.dropped(),
        }
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

impl AccessObserver for Fill {
    fn accessed(&self, access: Access<'_>) {
        self.shared.watch.report(&access);
    }
}

/// What belongs to the task alone.
struct Engine {
    shared: Arc<Shared>,
    window: Window,
    rate: Rate,
    in_flight: FuturesUnordered<BoxFuture<'static, Landed>>,
    /// What oracles think about, in blocking threads; one thing at a time for each set.
    thinking: FuturesUnordered<BoxFuture<'static, (u64, Option<Outcome>)>>,
    /// Pushes into the page cache, in blocking threads; see `push`.
    pushes: FuturesUnordered<BoxFuture<'static, (u64, Option<Done>)>>,
    /// What was learned of sets in an earlier life, and what is kept for a later one; see `keep`.
    recalls: FuturesUnordered<BoxFuture<'static, (u64, Option<Vec<u32>>)>>,
    keeps: FuturesUnordered<BoxFuture<'static, ()>>,
    in_flight_bytes: u64,
    /// Pages of large objects that are to follow.
    pages: Vec<Piece>,
}

impl Engine {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            window: Window::new(shared.config.window_max),
            rate: Rate::new(shared.config.rate_bytes_per_s),
            in_flight: FuturesUnordered::new(),
            thinking: FuturesUnordered::new(),
            pushes: FuturesUnordered::new(),
            recalls: FuturesUnordered::new(),
            keeps: FuturesUnordered::new(),
            in_flight_bytes: 0,
            pages: Vec::new(),
            shared,
        }
    }

    fn now(&self) -> Duration {
        self.shared.parts.clock.monotonic()
    }

    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let clock = Arc::clone(&shared.parts.clock);
        let mut stop = shared.stop.subscribe();
        let mut tick = clock.sleep(TICK);
        let mut batch = clock.sleep(Duration::ZERO);
        let mut waiting_for_batch = false;
        loop {
            let delay = self.top_up();
            let held_up = async {
                match delay {
                    // Others first: what was looked at had nothing to fetch.
                    Some(Duration::ZERO) => tokio::task::yield_now().await,
                    Some(delay) => clock.sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                Some(landed) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.landed(landed);
                    // What else has come back: one turn for all of it.
                    while let Some(Some(landed)) =
                        futures::FutureExt::now_or_never(self.in_flight.next())
                    {
                        self.landed(landed);
                    }
                }
                () = shared.watch.reported(), if !waiting_for_batch => {
                    waiting_for_batch = true;
                    batch = clock.sleep(BATCH);
                }
                () = &mut batch, if waiting_for_batch => {
                    waiting_for_batch = false;
                    self.take_reports();
                    self.recall();
                    self.look();
                    self.push();
                    self.think();
                }
                Some((number, done)) = self.pushes.next(), if !self.pushes.is_empty() => {
                    self.pushed(number, done.as_ref());
                    self.push();
                }
                Some((number, outcome)) = self.thinking.next(), if !self.thinking.is_empty() => {
                    self.thought(number, outcome);
                    self.think();
                }
                Some((number, order)) = self.recalls.next(), if !self.recalls.is_empty() => {
                    self.recalled(number, order);
                    self.think();
                }
                Some(()) = self.keeps.next(), if !self.keeps.is_empty() => {}
                () = held_up => {}
                () = &mut tick => {
                    tick = clock.sleep(TICK);
                    self.look_after();
                    self.keep();
                }
            }
        }
        self.keep_all().await;
    }

    /// Takes what was reported and gives each access to its data set.
    fn take_reports(&mut self) {
        let now = self.now();
        for seen in self.shared.watch.take() {
            self.see(&seen, now);
        }
        let liveness = &self.shared.parts.liveness;
        let mut state = self.shared.state.lock();
        for scan in
            state.scans.iter_mut().filter_map(|scan| scan.take_newcomer(now).then_some(scan))
        {
            scan.look_after(now, |process| liveness.is_alive(process));
        }
    }

    fn see(&self, seen: &Seen, now: Duration) {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let known = state.scans.iter().position(|scan| scan.set.has_folder(&seen.parent));
        if let Some(at) = known {
            let scan = &mut state.scans[at];
            if let Some(position) = scan.set.position(&seen.parent, &seen.object) {
                scan.accessed(seen, position, now, || self.keeping(&seen.object));
                state.scans[..=at].rotate_right(1);
                return;
            }
            // Listed anew since, with other files or versions.
            if now < state.rebuilt + REBUILD {
                return;
            }
            let (root, flat) = (Arc::clone(&scan.set.root), scan.flat);
            self.begin(state, &root, flat, std::slice::from_ref(seen), now);
            return;
        }
        let scans = &state.scans;
        let sets_in = |parent: &str| {
            let inside = scans.iter().filter(|scan| parent_of(&scan.set.root) == Some(parent));
            let beside = inside.map(|scan| Beside {
                root: Arc::clone(&scan.set.root),
                flat: scan.flat,
                same_reader: scan.is_read_by(seen.process),
            });
            beside.collect()
        };
        if let Some(wanted) = state.groups.accessed(seen, sets_in) {
            self.begin(state, &wanted.root, wanted.flat, &wanted.seen, now);
        }
    }

    /// Makes a set, which replaces those that lie in it, and tells it the accesses that led to it.
    fn begin(&self, state: &mut State, root: &str, flat: bool, seen: &[Seen], now: Duration) {
        state.rebuilt = now;
        let Some(set) = DataSet::build(&*self.shared.parts.tree, root, flat) else {
            state.scans.retain(|scan| *scan.set.root != *root);
            return;
        };
        tracing::info!(
            root,
            files = set.len(),
            folders = set.folders(),
            "a data set is being read"
        );
        let mut scan = self.shared.new_scan(state, set, flat, now);
        state.replace(&mut scan);
        for seen in seen {
            if let Some(position) = scan.set.position(&seen.parent, &seen.object) {
                scan.accessed(seen, position, now, || self.keeping(&seen.object));
            }
        }
        state.insert(scan);
    }

    /// Readers that have ended, sets that nobody reads, tables that eviction wants.
    fn look_after(&mut self) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        let liveness = &self.shared.parts.liveness;
        state.scans.retain(|scan| now.saturating_sub(scan.last_access()) < FORGET);
        for scan in &mut state.scans {
            scan.look_after(now, |process| liveness.is_alive(process));
            if scan.rest == Rest::Full {
                scan.rest = Rest::No;
            }
        }
        if self.shared.wants_ids.load(Ordering::Relaxed) {
            // One a tick: a hash for each of a million files is a quarter of a second.
            let _ = state.scans.iter_mut().any(Scan::index_ids);
        }
        self.choose_reports(&mut state);
        drop(state);
        self.look();
    }

    /// Looks for files of sets that are read in the page cache, where it is time for that.
    fn look(&self) {
        let now = self.now();
        let mut state = self.shared.state.lock();
        for scan in &mut state.scans {
            if let Some(job) = scan.look(now, &*self.shared.parts.index) {
                self.start_push(scan.number, job);
            }
        }
    }

    /// Whether accesses of what is here are to be reported: not while they are of no use to anybody.
    fn choose_reports(&self, state: &mut State) {
        let ignore = !state.scans.is_empty()
            && !state.scans.iter().any(Scan::wants_hits)
            && !self.shared.wants_ids.load(Ordering::Relaxed);
        if !ignore && self.shared.watch.ignores_hits() {
            state.scans.iter_mut().for_each(Scan::seen_again);
        }
        self.shared.watch.ignore_hits(ignore);
    }

    /// Starts fetches until the window is full. `Some`: the rate holds them up for so long.
    fn top_up(&mut self) -> Option<Duration> {
        let shared = Arc::clone(&self.shared);
        let mut looks = LOOKS;
        while self.has_room() && looks > 0 {
            let wait = self.rate.wait(self.now());
            if !wait.is_zero() {
                return Some(wait);
            }
            let next = self.pages.pop().or_else(|| self.pick(&shared, &mut looks));
            let Some(piece) = next else { break };
            self.fetch(piece);
        }
        self.shared.counters.in_flight.store(self.in_flight.len() as u64, Ordering::Relaxed);
        self.shared.counters.window.store(self.window.size() as u64, Ordering::Relaxed);
        // Looked at enough for one turn: others first, then on.
        (looks == 0).then_some(Duration::ZERO)
    }

    /// True while another fetch may start. What is known to be read next is fetched in any case, in less
    /// than a moment and by somebody who waits: giving way to demand reads would only make more of these.
    fn has_room(&self) -> bool {
        let in_flight = self.in_flight.len();
        in_flight < self.window.size()
            || (in_flight < self.window.foreseen_min()
                && self.free_bytes() > 0
                && self.shared.state.lock().scans.first_mut().is_some_and(Scan::foresees))
    }

    /// What the cache takes without eviction, beyond what is under way.
    fn free_bytes(&self) -> u64 {
        let free = self.shared.parts.index.free_bytes();
        free.saturating_sub(self.in_flight_bytes + FREE_RESERVE)
    }

    /// The next file to fetch: of the set read last that has any.
    fn pick(&self, shared: &Shared, looks: &mut usize) -> Option<Piece> {
        let index = &shared.parts.index;
        let mut state = shared.state.lock();
        for scan in &mut state.scans {
            let free = self.free_bytes();
            while let Some((position, is_predicted)) = scan.next(looks, free == 0) {
                let Some(object) = scan.object(position) else { continue };
                // Whoever keeps it: what is known to be read next is wanted here.
                let keeping = if is_predicted { Keeping::Own } else { self.keeping(&object) };
                match keeping {
                    Keeping::Copy if scan.leaves_to_owners() => {
                        scan.leave(position);
                        continue;
                    }
                    Keeping::Pass => continue,
                    Keeping::Own | Keeping::Copy => {}
                }
                let size = object.version.size;
                if size == 0 || index.contains(&object.id()) || !self.is_wanted(scan, position) {
                    continue;
                }
                if free < size {
                    // Eviction will ask what may go for it.
                    scan.index_ids();
                    if !scan.take_swap() {
                        scan.put_back(position, is_predicted);
                        break;
                    }
                }
                scan.started(position, size);
                return Some(Piece { scan: scan.number, position, object, page: 0 });
            }
        }
        None
    }

    /// Who keeps it, among nodes that share a cache.
    fn keeping(&self, object: &Object) -> Keeping {
        let ownership = self.shared.parts.ownership.as_ref();
        ownership.map_or(Keeping::Own, |ownership| ownership.keeping(&object.id()))
    }

    fn is_wanted(&self, scan: &Scan, position: u32) -> bool {
        let patterns = &self.shared.config.patterns;
        patterns.is_empty() || {
            let path = scan.set.path(position).unwrap_or_default();
            patterns.iter().any(|pattern| pattern.matches(&path))
        }
    }

    fn fetch(&mut self, piece: Piece) {
        let range = piece.range();
        let length = range.end - range.start;
        self.in_flight_bytes += length;
        let now = self.now();
        self.rate.spend(length, now);
        let (blocks, clock) =
            (Arc::clone(&self.shared.parts.blocks), Arc::clone(&self.shared.parts.clock));
        self.in_flight.push(Box::pin(async move {
            let read = blocks.read(&piece.object, range, Priority::Fill).await;
            // Not the bytes: they are on their way to the disk, and would be held twice.
            let outcome = read.map(|bytes| bytes.len() as u64);
            let took = clock.monotonic().saturating_sub(now);
            Landed { piece, took, outcome }
        }));
    }

    fn landed(&mut self, landed: Landed) {
        let full = self.in_flight.len() + 1 >= self.window.size();
        let Landed { piece, took, outcome } = landed;
        let range = piece.range();
        self.in_flight_bytes -= range.end - range.start;
        let counters = &self.shared.counters;
        let error = match outcome {
            Ok(bytes) => {
                counters.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.window.came_back(took, full);
                if piece.page + 1 < page_count(piece.object.version.size) {
                    self.pages.push(Piece { page: piece.page + 1, ..piece });
                } else {
                    counters.files.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
            Err(error) => error,
        };
        counters.failed.fetch_add(1, Ordering::Relaxed);
        let again = matches!(error, ReadError::Unavailable { .. });
        if again {
            self.window.failed();
        }
        tracing::debug!(%error, "fill: a fetch failed");
        let mut state = self.shared.state.lock();
        if let Some(scan) = state.scans.iter_mut().find(|scan| scan.number == piece.scan) {
            scan.failed(piece.position, again);
        }
    }
}

/// Pages of large objects are fetched one after another; this is how much one may be ahead.
const _: () = assert!(PAGE_BYTES <= FREE_RESERVE);
