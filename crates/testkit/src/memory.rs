//! A link of the read chain over objects in memory, which counts, delays, holds and fails reads.
//!
//! # Invariants
//!
//! - It keeps the contract of `BlockSource` exactly, so it also passes the conformance suite; what
//!   a test injects is the only deviation.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::{BlockSource, Clock, ETag, Object, Priority, ReadError, SourceId, Version};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bytes_of::object_bytes;

/// One read as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// The object's key.
    pub key: Arc<str>,
    /// The bytes asked for.
    pub range: Range<u64>,
    /// How urgent.
    pub priority: Priority,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Arc<str>, (Version, Bytes)>,
    log: Vec<ReadRecord>,
    /// Errors for the next reads of any key, then of one key.
    failures: VecDeque<ReadError>,
    key_failures: HashMap<Arc<str>, VecDeque<ReadError>>,
    delay: Option<(Arc<dyn Clock>, Duration)>,
    hold: Option<watch::Receiver<bool>>,
}

/// Objects in memory as a `BlockSource`.
#[derive(Debug)]
pub struct MemorySource {
    source: SourceId,
    state: Mutex<State>,
    versions: AtomicU64,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
    arrived: watch::Sender<u64>,
}

/// Holds every read that arrives while it lives; dropping it lets them go on.
#[derive(Debug)]
pub struct Hold {
    release: watch::Sender<bool>,
}

impl Hold {
    /// A hold, and what the held wait on until it is true.
    pub(crate) fn new() -> (Self, watch::Receiver<bool>) {
        let (release, held) = watch::channel(false);
        (Self { release }, held)
    }

    /// Lets the held reads go on, as dropping does.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release.send_replace(true);
    }
}

impl MemorySource {
    /// Empty, under the id that its objects will carry.
    #[must_use]
    pub fn new(source: SourceId) -> Arc<Self> {
        Arc::new(Self {
            source,
            state: Mutex::default(),
            versions: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            arrived: watch::Sender::new(0),
        })
    }

    /// Stores `bytes` under `key`, replacing what was there by a new version.
    pub fn insert(&self, key: &str, bytes: Bytes) -> Object {
        let number = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let version = Version {
            size: bytes.len() as u64,
            modified_ms: 1_700_000_000_000 + i64::try_from(number).expect("few versions") * 1000,
            etag: ETag::parse(&format!("{number:032x}")),
        };
        let key: Arc<str> = key.into();
        self.state.lock().objects.insert(key.clone(), (version.clone(), bytes));
        Object { source: self.source, key, version }
    }

    /// Stores `object_bytes(seed, size)` under `key`.
    pub fn insert_seeded(&self, key: &str, seed: u64, size: u64) -> Object {
        self.insert(key, object_bytes(seed, size))
    }

    /// Removes an object; reads of it are then [`ReadError::NotFound`].
    pub fn remove(&self, key: &str) {
        self.state.lock().objects.remove(key);
    }

    /// The current version of `key`.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Object> {
        let state = self.state.lock();
        let (key, (version, _)) = state.objects.get_key_value(key)?;
        Some(Object { source: self.source, key: key.clone(), version: version.clone() })
    }

    /// Every read so far, in the order of arrival, failed and dropped ones included.
    #[must_use]
    pub fn log(&self) -> Vec<ReadRecord> {
        self.state.lock().log.clone()
    }

    /// How many reads of any object arrived.
    #[must_use]
    pub fn reads_total(&self) -> usize {
        self.state.lock().log.len()
    }

    /// How many reads of `key` arrived.
    #[must_use]
    pub fn reads(&self, key: &str) -> usize {
        self.state.lock().log.iter().filter(|read| &*read.key == key).count()
    }

    /// How many reads of exactly this range of `key` arrived.
    #[must_use]
    pub fn reads_of_range(&self, key: &str, range: Range<u64>) -> usize {
        let state = self.state.lock();
        state.log.iter().filter(|read| &*read.key == key && read.range == range).count()
    }

    /// Forgets the log, so that a test counts from here.
    pub fn clear_log(&self) {
        self.state.lock().log.clear();
    }

    /// Reads under way now.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// The most reads that were ever under way at once.
    #[must_use]
    pub fn in_flight_max(&self) -> usize {
        self.in_flight_max.load(Ordering::SeqCst)
    }

    /// Waits until `count` reads have arrived in all (the log's clearing does not count).
    pub async fn wait_for_reads(&self, count: u64) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|seen| *seen >= count).await.expect("the sender lives in self");
    }

    /// Holds every read that arrives from now on, until the answer is dropped.
    #[must_use]
    pub fn hold(&self) -> Hold {
        let (hold, held) = Hold::new();
        self.state.lock().hold = Some(held);
        hold
    }

    /// The next `times` reads of any key fail with `error`.
    pub fn fail_next(&self, times: usize, error: &ReadError) {
        self.state.lock().failures.extend(std::iter::repeat_n(error.clone(), times));
    }

    /// The next `times` reads of `key` fail with `error`.
    pub fn fail_key(&self, key: &str, times: usize, error: &ReadError) {
        let mut state = self.state.lock();
        let failures = state.key_failures.entry(key.into()).or_default();
        failures.extend(std::iter::repeat_n(error.clone(), times));
    }

    /// Every read from now on takes `delay` on `clock`.
    pub fn delay(&self, clock: Arc<dyn Clock>, delay: Duration) {
        self.state.lock().delay = Some((clock, delay));
    }

    /// An [`ReadError::Unavailable`] to inject.
    #[must_use]
    pub fn unavailable() -> ReadError {
        ReadError::Unavailable {
            location: "memory://test".into(),
            cause: "injected".into(),
            after: Duration::from_secs(1),
        }
    }

    fn answer(&self, object: &Object, range: &Range<u64>) -> Result<Bytes, ReadError> {
        let location: Arc<str> = format!("memory://test/{}", object.key).into();
        let state = self.state.lock();
        let Some((version, bytes)) = state.objects.get(&object.key) else {
            return Err(ReadError::NotFound { location, cause: "no such object".into() });
        };
        if *version != object.version {
            return Err(ReadError::Changed { location, cause: "another version".into() });
        }
        if range.start > range.end || range.end > version.size {
            let cause = format!("range {range:?} outside of {} bytes", version.size).into();
            return Err(ReadError::Rejected { location, cause });
        }
        let start = usize::try_from(range.start).expect("in memory");
        let end = usize::try_from(range.end).expect("in memory");
        Ok(bytes.slice(start..end))
    }
}

/// Counts a read as under way until it ends or is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl BlockSource for MemorySource {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.in_flight_max.fetch_max(now, Ordering::SeqCst);
        let _in_flight = InFlight(&self.in_flight);
        let (hold, delay, failure) = {
            let mut state = self.state.lock();
            let key = object.key.clone();
            state.log.push(ReadRecord { key, range: range.clone(), priority });
            let failure = match state.key_failures.get_mut(&object.key) {
                Some(failures) if !failures.is_empty() => failures.pop_front(),
                _ => state.failures.pop_front(),
            };
            (state.hold.clone(), state.delay.clone(), failure)
        };
        self.arrived.send_modify(|seen| *seen += 1);
        if let Some(mut hold) = hold {
            // An error means that the hold is gone, which lets the read go on just the same.
            let _ = hold.wait_for(|released| *released).await;
        }
        if let Some((clock, delay)) = delay {
            clock.sleep(delay).await;
        }
        match failure {
            Some(error) => Err(error),
            None => self.answer(object, &range),
        }
    }
}
