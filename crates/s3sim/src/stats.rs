//! Counters: what clients asked for and what they got.
//!
//! A request is counted when its head has arrived, whatever becomes of it, so that a retry counts
//! twice, as it would on a bill. Requests to `/__stats` and `/__faults` are not counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// What a request is counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// GET of an object, whole or in part.
    Get,
    /// HEAD of an object or a bucket.
    Head,
    /// Any other GET: keys, buckets, parts, the location of a bucket.
    List,
    /// PUT: objects, parts, copies, buckets.
    Put,
    /// POST: multipart uploads begun or completed, many keys deleted.
    Post,
    /// DELETE: objects, uploads, buckets.
    Delete,
}

/// How many verbs there are; the length of the table of counters.
const VERBS: usize = 6;

/// A copy of the counters since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// GETs of objects.
    pub get: u64,
    /// HEADs.
    pub head: u64,
    /// LISTs and the other questions about buckets.
    pub list: u64,
    /// PUTs.
    pub put: u64,
    /// POSTs.
    pub post: u64,
    /// DELETEs.
    pub delete: u64,
    /// Bytes of bodies handed to connections; heads are not counted.
    pub bytes_out: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Requests being served now.
    pub in_flight: u64,
    /// The most requests that were served at one time.
    pub in_flight_max: u64,
    /// Answers by HTTP status. A connection dropped without an answer counts as status 0.
    pub by_status: BTreeMap<u16, u64>,
}

impl Stats {
    /// All requests of all verbs.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.get + self.head + self.list + self.put + self.post + self.delete
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    verbs: [AtomicU64; VERBS],
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    by_status: Mutex<BTreeMap<u16, u64>>,
    /// GETs by `bucket/key`. Bounded by the keys that exist: only a GET that finds its object counts.
    gets: Mutex<HashMap<String, u64>>,
}

impl Counters {
    pub(crate) fn begin(self: &Arc<Self>, verb: Verb) -> Ticket {
        self.verbs[verb as usize].fetch_add(1, Relaxed);
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.in_flight_max.fetch_max(now, Relaxed);
        Ticket(Arc::clone(self))
    }

    pub(crate) fn status(&self, status: u16) {
        *self.by_status.lock().entry(status).or_default() += 1;
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn got(&self, bucket: &str, key: &str) {
        *self.gets.lock().entry(format!("{bucket}/{key}")).or_default() += 1;
    }

    pub(crate) fn gets_by_key(&self) -> HashMap<String, u64> {
        self.gets.lock().clone()
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let verb = |verb: Verb| self.verbs[verb as usize].load(Relaxed);
        Stats {
            get: verb(Verb::Get),
            head: verb(Verb::Head),
            list: verb(Verb::List),
            put: verb(Verb::Put),
            post: verb(Verb::Post),
            delete: verb(Verb::Delete),
            bytes_out: self.bytes_out.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            in_flight_max: self.in_flight_max.load(Relaxed),
            by_status: self.by_status.lock().clone(),
        }
    }

    /// Everything to zero, but for the requests still being served.
    pub(crate) fn reset(&self) {
        for verb in &self.verbs {
            verb.store(0, Relaxed);
        }
        self.bytes_out.store(0, Relaxed);
        self.bytes_in.store(0, Relaxed);
        self.in_flight_max.store(self.in_flight.load(Relaxed), Relaxed);
        self.by_status.lock().clear();
        self.gets.lock().clear();
    }
}

/// A request in flight; dropped when its answer has been handed over or given up.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Counters>);

impl Ticket {
    pub(crate) fn counters(&self) -> &Counters {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
