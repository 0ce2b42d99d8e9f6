//! One node's cache, in memory: pages with a quota, one flight for each, copies evicted before what is the node's own.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use feedline_cluster::Link;
use feedline_cluster::wire::summed;
use feedline_model::page::{PAGE_BYTES, page_range, pages_of};
use feedline_model::{
    BlockSource, CachedFile, CheckedSource, Clock as _, Keeping, Object, ObjectHolder, ObjectId,
    ObjectIndex, Ownership as _, Priority, Push, ReadError, Residence, Summed, Urgency,
};
use futures::FutureExt as _;
use futures::future::Shared;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::bucket::{Bucket, Page};
use crate::clock::HostClock;
use crate::promise::Promise;
use crate::sabotage::{Broken, Sabotage};
use crate::trace::Trace;

#[derive(Debug)]
struct Kept {
    pages: BTreeMap<u64, Bytes>,
    bytes: u64,
    number: u64,
    is_copy: bool,
}

/// What is on a node's disk: it outlives the node's processes.
#[derive(Debug)]
pub(crate) struct Disk {
    node: usize,
    quota_bytes: u64,
    used_bytes: u64,
    inserts: u64,
    /// When it was first used; not yet, if none.
    made_at: Option<Duration>,
    kept: BTreeMap<usize, Kept>,
    trace: Trace,
    broken: Broken,
}

impl Disk {
    pub(crate) fn new(node: usize, quota_bytes: u64, trace: Trace, broken: Broken) -> Self {
        let kept = BTreeMap::new();
        Self { node, quota_bytes, used_bytes: 0, inserts: 0, made_at: None, kept, trace, broken }
    }

    /// All is lost.
    pub(crate) fn wipe(&mut self) {
        self.kept.clear();
        self.used_bytes = 0;
        self.made_at = None;
    }

    /// How old it is when it is used now.
    pub(crate) fn age(&mut self, now: Duration) -> Duration {
        now - *self.made_at.get_or_insert(now)
    }

    pub(crate) fn quota_bytes(&self) -> u64 {
        self.quota_bytes
    }

    /// Another quota: what is too much goes.
    pub(crate) fn set_quota(&mut self, quota_bytes: u64) {
        self.quota_bytes = quota_bytes;
        while self.quota_bytes < self.used_bytes {
            let oldest = self.victim(true, None).expect("bytes are of somebody");
            self.evict(oldest);
        }
    }

    fn page(&self, (place, page): Page) -> Option<Bytes> {
        self.kept.get(&place)?.pages.get(&page).cloned()
    }

    pub(crate) fn is_complete(&self, place: usize, pages: u64) -> bool {
        self.kept.get(&place).is_some_and(|kept| kept.pages.len() as u64 == pages)
    }

    /// The oldest copy, or the oldest of all.
    fn victim(&self, takes_own: bool, but: Option<usize>) -> Option<usize> {
        let oldest = |of_copies: bool| {
            let kept = self.kept.iter().filter(|(place, _)| Some(**place) != but);
            let kept = kept.filter(|(_, kept)| kept.is_copy == of_copies);
            kept.min_by_key(|(_, kept)| kept.number).map(|(place, _)| *place)
        };
        oldest(true).or_else(|| takes_own.then(|| oldest(false)).flatten())
    }

    fn evict(&mut self, place: usize) {
        let gone = self.kept.remove(&place).expect("a victim is kept");
        self.used_bytes -= gone.bytes;
        self.trace.note(format_args!("n{} evicts {place}", self.node));
    }

    fn keep(&mut self, (place, page): Page, bytes: &Bytes, is_copy: bool) {
        if is_copy && self.broken.is(Sabotage::NoCopies) {
            return;
        }
        let length = bytes.len() as u64;
        let is_limited = !self.broken.is(Sabotage::NoQuota);
        while is_limited && self.quota_bytes < self.used_bytes + length {
            let Some(victim) = self.victim(!is_copy, Some(place)) else { return };
            self.evict(victim);
        }
        self.inserts += 1;
        let (number, pages) = (self.inserts, BTreeMap::new());
        let kept = self.kept.entry(place).or_insert(Kept { pages, bytes: 0, number, is_copy });
        if kept.pages.insert(page, bytes.clone()).is_some() {
            let what = format_args!("n{} keeps ({place}, {page}) twice", self.node);
            self.trace.complain(Promise::OneFlight, what);
            return;
        }
        kept.bytes += length;
        self.used_bytes += length;
        if self.quota_bytes < self.used_bytes {
            let (used, quota) = (self.used_bytes, self.quota_bytes);
            let what = format_args!("n{} keeps {used} bytes of {quota}", self.node);
            self.trace.complain(Promise::QuotaHeld, what);
        }
    }
}

type Outcome = Result<Bytes, ReadError>;

/// Whoever waits for one is woken in the order of asking: a channel that draws lots would not do.
type Flight = Shared<oneshot::Receiver<Outcome>>;

/// What whoever runs a flight needs of it.
type Boarded = (oneshot::Sender<Outcome>, Arc<Urgency>);

#[derive(Debug, Default)]
struct Flights {
    board: BTreeMap<Page, (Flight, Arc<Urgency>)>,
    tasks: JoinSet<()>,
}

fn flight(priority: Priority) -> (oneshot::Sender<Outcome>, Flight, Arc<Urgency>) {
    let (lands, flight) = oneshot::channel();
    (lands, flight.shared(), Arc::new(Urgency::new(priority)))
}

/// The cache of one life of a node.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) link: Arc<Link>,
    /// The bucket without asking anybody, for sabotage alone.
    door: Arc<dyn BlockSource>,
    broken: Broken,
    disk: Arc<Mutex<Disk>>,
    bucket: Arc<Bucket>,
    by_id: HashMap<ObjectId, usize>,
    runtime: Handle,
    flights: Mutex<Flights>,
}

impl Cache {
    pub(crate) fn new(
        link: Arc<Link>,
        (door, broken): (Arc<dyn BlockSource>, Broken),
        disk: Arc<Mutex<Disk>>,
        bucket: Arc<Bucket>,
        runtime: Handle,
    ) -> Arc<Self> {
        let ids = bucket.contents.iter().map(|content| content.object.id());
        let by_id = ids.zip(0..).collect();
        let flights = Mutex::default();
        Arc::new(Self { link, door, broken, disk, bucket, by_id, runtime, flights })
    }

    /// Everything under way ends: the process is gone.
    pub(crate) fn kill(&self) {
        let flights = std::mem::take(&mut *self.flights.lock());
        drop(flights);
    }

    pub(crate) fn has_page(&self, page: Page) -> bool {
        self.disk.lock().page(page).is_some()
    }

    /// True if all of an object is on disk.
    pub(crate) fn is_complete(&self, id: &ObjectId) -> bool {
        let Some(place) = self.by_id.get(id) else { return false };
        self.disk.lock().is_complete(*place, self.bucket.contents[*place].pages())
    }

    /// Fetches under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.lock().board.len()
    }

    async fn page(self: &Arc<Self>, page: Page, priority: Priority) -> Result<Bytes, ReadError> {
        let flight = {
            // On disk or on the board: what lands is kept before its flight ends.
            let mut flights = self.flights.lock();
            if let Some(bytes) = self.disk.lock().page(page) {
                return Ok(bytes);
            }
            match flights.board.get(&page) {
                Some((flight, urgency)) if !self.broken.is(Sabotage::NoSingleFlight) => {
                    urgency.raise(priority);
                    flight.clone()
                }
                _ => {
                    let (lands, flight, urgency) = flight(priority);
                    flights.board.insert(page, (flight.clone(), Arc::clone(&urgency)));
                    while flights.tasks.try_join_next().is_some() {}
                    let this = Arc::clone(self);
                    let task = async move { drop(lands.send(this.fly(page, &urgency).await)) };
                    flights.tasks.spawn_on(task, &self.runtime);
                    flight
                }
            }
        };
        match flight.await {
            Ok(outcome) => outcome,
            Err(_) => Err(ReadError::Unavailable {
                location: "sim://".into(),
                cause: "this node was killed".into(),
                after: Duration::ZERO,
            }),
        }
    }

    async fn fly(&self, page: Page, urgency: &Urgency) -> Result<Bytes, ReadError> {
        let object = &self.bucket.contents[page.0].object;
        let range = page_range(page.1, object.version.size);
        let result = match self.broken.is(Sabotage::PeersIgnored) {
            true => self.door.read_shared(object, range, urgency).await,
            false => self.link.read_shared(object, range, urgency).await,
        };
        self.land(page, &result);
        if self.broken.once(Sabotage::PartOfPage) {
            let _ = self.door.read_shared(object, 0..1, urgency).await;
        }
        result
    }

    /// A flight ends: what it brought is kept first.
    fn land(&self, page: Page, result: &Result<Bytes, ReadError>) {
        let object = &self.bucket.contents[page.0].object;
        let keeping = self.link.keeping(&object.id());
        let mut flights = self.flights.lock();
        if let Ok(bytes) = result
            && keeping != Keeping::Pass
        {
            self.disk.lock().keep(page, bytes, keeping == Keeping::Copy);
        }
        if !self.broken.once(Sabotage::FlightLeft) {
            flights.board.remove(&page);
        }
    }

    /// Fetches what is missing of these objects, as fill does: the node's own from the bucket, others from
    /// their owners in few requests, and what those do not give one by one. Its own are under way before
    /// others are asked: two nodes that fill would else wait for each other.
    pub(crate) async fn fill(self: &Arc<Self>, places: &[usize]) {
        let (mut waits, mut own) = (Vec::new(), Vec::new());
        {
            let mut flights = self.flights.lock();
            let mut mine = Vec::new();
            for &place in places {
                let content = &self.bucket.contents[place];
                let object = &content.object;
                for page in (0..content.pages()).map(|page| (place, page)) {
                    if self.disk.lock().page(page).is_some() {
                        continue;
                    }
                    if let Some((flight, _)) = flights.board.get(&page) {
                        waits.push(flight.clone());
                    } else if self.link.keeping(&object.id()) == Keeping::Own {
                        own.push(page);
                    } else {
                        let (lands, flight, urgency) = flight(Priority::Fill);
                        flights.board.insert(page, (flight.clone(), Arc::clone(&urgency)));
                        waits.push(flight);
                        mine.push((page, (lands, urgency)));
                    }
                }
            }
            flights.tasks.spawn_on(Arc::clone(self).batch(mine), &self.runtime);
        }
        let own = own.into_iter().map(|page| self.page(page, Priority::Fill));
        futures::future::join_all(own).await;
        for flight in waits {
            // An error: killed, as whoever waits here is.
            let _ = flight.await;
        }
    }

    async fn batch(self: Arc<Self>, mine: Vec<(Page, Boarded)>) {
        let (pages, boarded): (Vec<Page>, Vec<_>) = mine.into_iter().unzip();
        let (lands, urgencies): (Vec<_>, Vec<_>) =
            boarded.into_iter().map(|(lands, urgency)| (Mutex::new(Some(lands)), urgency)).unzip();
        let object = |page: Page| self.bucket.contents[page.0].object.clone();
        let range = |page: Page| page_range(page.1, object(page).version.size);
        let wanted: Vec<_> = pages.iter().map(|page| (object(*page), range(*page))).collect();
        let took = |at: usize, bytes: Bytes| {
            let result = Ok(bytes);
            self.land(pages[at], &result);
            drop(lands[at].lock().take().map(|lands| lands.send(result)));
        };
        let mut left = self.link.read_many(&wanted, Priority::Fill, took).await;
        left.sort_unstable();
        let one_by_one = left.into_iter().map(|at| {
            let (this, page, lands) = (&self, pages[at], lands[at].lock().take());
            let urgency = &urgencies[at];
            async move {
                let result = this.fly(page, urgency).await;
                drop(lands.map(|lands| lands.send(result)));
            }
        });
        futures::future::join_all(one_by_one).await;
    }

    pub(crate) async fn read(
        self: &Arc<Self>,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let place = self.bucket.place(&object.key);
        let cut = |page: u64, bytes: &Bytes| {
            let start = range.start.max(page * PAGE_BYTES) - page * PAGE_BYTES;
            let end = range.end.min((page + 1) * PAGE_BYTES) - page * PAGE_BYTES;
            let at = |at: u64| usize::try_from(at).expect("within a page").min(bytes.len());
            bytes.slice(at(start)..at(end))
        };
        let pages = pages_of(&range);
        if pages.end - pages.start == 1 {
            return Ok(cut(pages.start, &self.page((place, pages.start), priority).await?));
        }
        let mut whole = BytesMut::new();
        for page in pages {
            whole.extend_from_slice(&cut(page, &self.page((place, page), priority).await?));
        }
        Ok(whole.freeze())
    }
}

/// What a node's peers are served from: its cache, or lies, or a slow disk.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) cache: Arc<Cache>,
    /// What it gives is a byte too short, as of a file that was cut.
    pub(crate) lies: Arc<std::sync::atomic::AtomicBool>,
    /// What is here is given after so long.
    pub(crate) slow_ms: Arc<std::sync::atomic::AtomicU64>,
    pub(crate) clock: HostClock,
}

#[async_trait]
impl CheckedSource for Served {
    async fn read_checked(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Summed, ReadError> {
        let slow_ms = self.slow_ms.load(std::sync::atomic::Ordering::Relaxed);
        if 0 < slow_ms && self.has(&object.id(), &range) {
            self.clock.sleep(Duration::from_millis(slow_ms)).await;
        }
        let bytes = self.cache.read(object, range, priority).await?;
        let lies = self.lies.load(std::sync::atomic::Ordering::Relaxed);
        Ok(summed(if lies && !bytes.is_empty() { bytes.slice(1..) } else { bytes }))
    }

    async fn read_here(&self, object: &Object, range: Range<u64>) -> Option<Summed> {
        if !self.has(&object.id(), &range) {
            return None;
        }
        self.read_checked(object, range, Priority::Fill).await.ok()
    }
}

impl ObjectIndex for Served {
    fn open(&self, _: &Object) -> Option<CachedFile> {
        None
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.cache.is_complete(id)
    }

    fn has(&self, id: &ObjectId, range: &Range<u64>) -> bool {
        let Some(place) = self.cache.by_id.get(id) else { return false };
        pages_of(range).all(|page| self.cache.has_page((*place, page)))
    }

    fn touch(&self, _: &ObjectId) {}

    fn push(&self, _: &Object, _: Push) -> Residence {
        Residence::Unknown
    }

    fn free_bytes(&self) -> u64 {
        let disk = self.cache.disk.lock();
        disk.quota_bytes.saturating_sub(disk.used_bytes)
    }

    fn set_holder(&self, _: Arc<dyn ObjectHolder>) {}
}
