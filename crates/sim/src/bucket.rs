//! The bucket: objects that are a function of the seed, a door to it for each node, and a count of what it was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::page::{PAGE_BYTES, page_count, page_range};
use feedline_model::{BlockSource, Clock, ETag, Object, Priority, ReadError, SourceId, Version};
use parking_lot::Mutex;

use crate::clock::{HostClock, SimClock};
use crate::promise::Promise;
use crate::rng::Rng;
use crate::trace::Trace;

/// The one bucket.
pub(crate) const SOURCE: SourceId = SourceId(7);

/// The least time before a throttled request is tried again, as by the store.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A page: the object's place, and which page of it.
pub(crate) type Page = (usize, u64);

/// One object and its bytes.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) object: Object,
    pub(crate) bytes: Bytes,
}

impl Content {
    /// Object `place` of a bucket, of so many bytes.
    pub(crate) fn new(place: usize, size: u64, rng: &Rng) -> Self {
        let mut rng = rng.fork(place as u64);
        let etag = ETag::parse(&format!("{:016x}{:016x}", rng.next(), rng.next()));
        let words = size.div_ceil(8);
        let bytes: Vec<u8> = (0..words).flat_map(|_| rng.next().to_le_bytes()).collect();
        let bytes = Bytes::from(bytes).slice(..usize::try_from(size).expect("in memory"));
        let version = Version { size, modified_ms: 1_700_000_000_000 + place as i64, etag };
        let key = format!("train/{place:05}").into();
        Self { object: Object { source: SOURCE, key, version }, bytes }
    }

    pub(crate) fn pages(&self) -> u64 {
        page_count(self.object.version.size)
    }

    pub(crate) fn slice(&self, range: &Range<u64>) -> Bytes {
        let at = |at: u64| usize::try_from(at).expect("in memory");
        self.bytes.slice(at(range.start)..at(range.end))
    }
}

/// What is the matter with the bucket, for everybody.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Weather {
    /// Added to every request.
    pub(crate) extra: Duration,
    /// It says 503: requests wait for better times, as long as the store's retries last.
    pub(crate) is_throttling: bool,
    /// It gives errors.
    pub(crate) is_failing: bool,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    weather: Weather,
    refused: BTreeSet<usize>,
    in_flight: BTreeSet<(usize, Page)>,
    gets: BTreeMap<Page, u64>,
    is_spoilt: bool,
    /// When a node last heard an error about an object.
    errors: BTreeMap<(usize, usize), Duration>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) contents: Vec<Content>,
    latency_ms: (u64, u64),
    clock: SimClock,
    trace: Trace,
    state: Mutex<State>,
}

impl Bucket {
    pub(crate) fn new(
        contents: Vec<Content>,
        latency_ms: (u64, u64),
        rng: Rng,
        clock: SimClock,
        trace: Trace,
    ) -> Arc<Self> {
        let state = State {
            rng,
            weather: Weather::default(),
            refused: BTreeSet::new(),
            in_flight: BTreeSet::new(),
            gets: BTreeMap::new(),
            is_spoilt: false,
            errors: BTreeMap::new(),
        };
        Arc::new(Self { contents, latency_ms, clock, trace, state: Mutex::new(state) })
    }

    /// As a node reaches it.
    pub(crate) fn door(self: &Arc<Self>, node: usize, clock: HostClock) -> Arc<dyn BlockSource> {
        Arc::new(Door { bucket: Arc::clone(self), node, clock })
    }

    /// The place of the object with this key.
    pub(crate) fn place(&self, key: &str) -> usize {
        let number = key.rsplit('/').next().and_then(|text| text.parse().ok());
        number.filter(|place| *place < self.contents.len()).expect("a key of this bucket")
    }

    pub(crate) fn weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.state.lock().weather);
    }

    /// This node's credentials are good for nothing, or good again.
    pub(crate) fn refuse(&self, node: usize, is_refused: bool) {
        let refused = &mut self.state.lock().refused;
        if is_refused {
            refused.insert(node)
        } else {
            refused.remove(&node)
        };
    }

    /// The first byte of the first object is another one from now on, as a test wants it.
    pub(crate) fn spoil(&self) {
        self.state.lock().is_spoilt = true;
    }

    fn bytes(&self, place: usize, range: &Range<u64>) -> Bytes {
        let bytes = self.contents[place].slice(range);
        if place == 0 && range.start == 0 && self.state.lock().is_spoilt {
            let mut spoilt = bytes.to_vec();
            spoilt[0] ^= 1;
            return spoilt.into();
        }
        bytes
    }

    /// All is well again.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.weather = Weather::default();
        state.refused.clear();
    }

    /// Requests so far.
    pub(crate) fn gets_total(&self) -> u64 {
        self.state.lock().gets.values().sum()
    }

    /// Requests for each page so far.
    pub(crate) fn gets(&self) -> BTreeMap<Page, u64> {
        self.state.lock().gets.clone()
    }

    /// Pages on their way to anybody.
    pub(crate) fn in_flight(&self) -> usize {
        self.state.lock().in_flight.len()
    }

    /// True if this node was told of an error about the object since then.
    pub(crate) fn has_failed(&self, node: usize, place: usize, since: Duration) -> bool {
        self.state.lock().errors.get(&(node, place)).is_some_and(|at| since <= *at)
    }
}

#[derive(Debug)]
struct Door {
    bucket: Arc<Bucket>,
    node: usize,
    clock: HostClock,
}

/// A request under way, until dropped.
struct InFlight<'a> {
    bucket: &'a Bucket,
    what: (usize, Page),
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.bucket.state.lock().in_flight.remove(&self.what);
    }
}

impl Door {
    /// Notes the request: the page, and how long the answer takes.
    fn arrive(&self, object: &Object, range: &Range<u64>) -> (InFlight<'_>, Duration) {
        let bucket = &*self.bucket;
        let place = bucket.place(&object.key);
        let content = &bucket.contents[place];
        let page = (place, range.start / PAGE_BYTES);
        let what = (self.node, page);
        if content.object != *object || *range != page_range(page.1, object.version.size) {
            bucket.trace.complain(
                Promise::WholePages,
                format_args!("n{} asks for {range:?} of {}", self.node, object.key),
            );
        }
        bucket.trace.note(format_args!("n{} GET {page:?}", self.node));
        let mut state = bucket.state.lock();
        *state.gets.entry(page).or_default() += 1;
        let is_first = state.in_flight.insert(what);
        let (low, high) = bucket.latency_ms;
        let latency = state.rng.ms(low..=high) + state.weather.extra;
        drop(state);
        if !is_first {
            bucket.trace.complain(
                Promise::OneFlight,
                format_args!("n{} has two flights of {page:?}", self.node),
            );
        }
        (InFlight { bucket, what }, latency)
    }

    fn fail(&self, object: &Object, error: ReadError) -> ReadError {
        let place = self.bucket.place(&object.key);
        let now = self.bucket.clock.now();
        self.bucket.state.lock().errors.insert((self.node, place), now);
        error
    }
}

#[async_trait]
impl BlockSource for Door {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        _: Priority,
    ) -> Result<Bytes, ReadError> {
        let (_in_flight, latency) = self.arrive(object, &range);
        self.clock.sleep(latency).await;
        loop {
            let (weather, is_refused) = {
                let state = self.bucket.state.lock();
                (state.weather, state.refused.contains(&self.node))
            };
            let location: Arc<str> = format!("sim://{}", object.key).into();
            if is_refused {
                let error = ReadError::Forbidden { location, cause: "refused".into() };
                return Err(self.fail(object, error));
            }
            if weather.is_failing {
                let (cause, after) = ("failing".into(), Duration::from_secs(1));
                let error = ReadError::Unavailable { location, cause, after };
                return Err(self.fail(object, error));
            }
            if !weather.is_throttling {
                return Ok(self.bucket.bytes(self.bucket.place(&object.key), &range));
            }
            self.clock.sleep(RETRY_AFTER).await;
        }
    }
}
