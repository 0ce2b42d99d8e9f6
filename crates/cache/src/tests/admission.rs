//! What is kept when not all fits: through the whole cache, over real files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use feedline_model::{
    BlockSource as _, Foresight, NextUse, Object, ObjectId, ObjectIndex as _, Priority,
};
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::support::{Bench, eventually, settled};
use crate::Cache;

const QUOTA: u64 = 16 << 20;

/// Blocks of 16 KiB exactly, so that what fits is known.
const SIZE: u64 = 16 << 10;

/// Objects that fit beside the fan-out directories and the index, measured by filling.
async fn capacity(bench: &Bench) -> u64 {
    let cache = bench.open(QUOTA);
    let mut filler = Job::new(bench, "filler", 1200);
    // The second time takes what was in use for writes under way.
    for _ in 0..2 {
        filler.epoch(&cache).await;
    }
    let here = cache.stats().objects();
    assert!((800..1100).contains(&here), "{here}");
    cache.close().await;
    drop(cache);
    std::fs::remove_dir_all(bench.dir()).unwrap();
    here
}

async fn read_whole(cache: &Cache, object: &Object, priority: Priority) {
    cache.read(object, 0..object.version.size, priority).await.unwrap();
}

/// Waits until what was fetched is on disk, or given up: what lingers in memory counts too.
async fn landed(cache: &Cache) {
    eventually("what was fetched to be written or given up", || {
        let stats = cache.stats();
        stats.misses == stats.objects() + stats.evicted() + stats.not_kept
    })
    .await;
}

/// Now and then: a reader that the disk keeps up with, however slow it is today.
async fn pace(cache: &Cache, at: usize) {
    if at.is_multiple_of(32) {
        landed(cache).await;
    }
}

/// One use, as the mount does it. Returns true for a hit. Nothing lingers: other readers' pages
/// push each other out of memory at once.
async fn uses(cache: &Cache, object: &Object) -> bool {
    let here = cache.open(object).is_some();
    if !here {
        read_whole(cache, object, Priority::Demand).await;
        cache.shared.flights.shed();
    }
    here
}

struct Job {
    objects: Vec<Object>,
    random: StdRng,
}

impl Job {
    fn new(bench: &Bench, name: &str, count: u64) -> Self {
        let insert = |n| bench.source.insert_seeded(&format!("{name}/{n}"), n, SIZE);
        Self { objects: (0..count).map(insert).collect(), random: StdRng::seed_from_u64(count) }
    }

    fn shuffled(&mut self) -> Vec<Object> {
        self.objects.shuffle(&mut self.random);
        self.objects.clone()
    }

    /// One epoch in random order; returns the share of hits.
    #[expect(clippy::cast_precision_loss, reason = "a share of thousands")]
    async fn epoch(&mut self, cache: &Cache) -> f64 {
        let mut hits = 0;
        for (at, object) in self.shuffled().iter().enumerate() {
            hits += u64::from(uses(cache, object).await);
            pace(cache, at).await;
        }
        landed(cache).await;
        hits as f64 / self.objects.len() as f64
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_of_twice_the_cache_gets_half_its_reads_from_it() {
    let bench = Bench::new();
    let capacity = capacity(&bench).await;
    let cache = bench.open(QUOTA);
    let mut job = Job::new(&bench, "a", 2 * capacity);
    assert!(job.epoch(&cache).await < 0.01);
    let mut sum = 0.0;
    for _ in 0..4 {
        sum += job.epoch(&cache).await;
    }
    assert!(sum / 4.0 >= 0.95 * 0.5, "{}", sum / 4.0);
    // Nothing was evicted for its equal: at most what a growing index took.
    assert!(cache.stats().evicted() <= capacity / 20, "{:?}", cache.stats());
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_job_changes_the_old_data_set_goes_by_itself() {
    let bench = Bench::new();
    let capacity = capacity(&bench).await;
    let cache = bench.open(QUOTA);
    let mut old = Job::new(&bench, "old", 2 * capacity);
    for _ in 0..3 {
        old.epoch(&cache).await;
    }
    let mut new = Job::new(&bench, "new", capacity * 3 / 4);
    let mut last = 0.0;
    for _ in 0..9 {
        last = new.epoch(&cache).await;
    }
    assert!(last > 0.95, "{last}");
    cache.close().await;
}

/// Knows the order of one data set, as far as it was told.
#[derive(Debug, Default)]
struct Order {
    /// The uses of each object, the next one last.
    uses: Mutex<HashMap<ObjectId, Vec<u64>>>,
    now: AtomicU64,
    asked: AtomicU64,
}

impl Order {
    fn new(orders: &[Vec<Object>]) -> Arc<Self> {
        let order = Self::default();
        let mut uses: HashMap<ObjectId, Vec<u64>> = HashMap::new();
        for (at, object) in (0..).zip(orders.iter().flatten()) {
            uses.entry(object.id()).or_default().push(at);
        }
        uses.values_mut().for_each(|uses| uses.reverse());
        *order.uses.lock() = uses;
        Arc::new(order)
    }

    fn used(&self, object: &Object) {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.uses.lock().get_mut(&object.id()).unwrap().pop();
    }
}

impl Foresight for Order {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.uses.lock().get(id).map(|uses| uses.last().copied()) {
            None => NextUse::Unknown,
            Some(None) => NextUse::After(u64::MAX),
            Some(Some(at)) => NextUse::After(at.saturating_sub(self.now.load(Ordering::Relaxed))),
        }
    }
}

/// Knows the data set, not the order.
#[derive(Debug, Default)]
struct Sets {
    /// The epoch in which each object was last read.
    read: Mutex<HashMap<ObjectId, u64>>,
    /// The epoch of each object's data set, by the start of its key, here by its id.
    epoch: Mutex<HashMap<ObjectId, u64>>,
    asked: AtomicU64,
}

impl Sets {
    fn begin(&self, job: &Job, epoch: u64) {
        self.epoch.lock().extend(job.objects.iter().map(|object| (object.id(), epoch)));
    }

    fn end(&self, job: &Job) {
        let mut epoch = self.epoch.lock();
        job.objects.iter().for_each(|object| _ = epoch.remove(&object.id()));
    }

    fn used(&self, object: &Object) {
        let id = object.id();
        let epoch = self.epoch.lock()[&id];
        self.read.lock().insert(id, epoch);
    }
}

impl Foresight for Sets {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match (self.epoch.lock().get(id), self.read.lock().get(id)) {
            (None, _) => NextUse::Unknown,
            (Some(epoch), Some(read)) if epoch == read => NextUse::NextEpoch,
            _ => NextUse::ThisEpoch,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_known_order_and_fill_more_is_hit_than_fits() {
    const AHEAD: usize = 64;
    let bench = Bench::new();
    let capacity = capacity(&bench).await;
    let cache = bench.open(QUOTA);
    let mut job = Job::new(&bench, "a", 2 * capacity);
    let epochs: Vec<_> = (0..4).map(|_| job.shuffled()).collect();
    let order = Order::new(&epochs);
    cache.set_foresight(order.clone());
    let all = epochs.concat();
    let (mut hits, mut late) = (0, 0);
    bench.source.clear_log();
    for (at, object) in all.iter().enumerate() {
        if let Some(ahead) = all.get(at + AHEAD).filter(|ahead| !cache.contains(&ahead.id())) {
            read_whole(&cache, ahead, Priority::Fill).await;
            cache.shared.flights.shed();
        }
        pace(&cache, at).await;
        order.used(object);
        let hit = uses(&cache, object).await;
        if at >= job.objects.len() {
            hits += u64::from(hit);
            late += 1;
        }
    }
    settled(&cache).await;
    #[expect(clippy::cast_precision_loss, reason = "a share of thousands")]
    let rate = hits as f64 / f64::from(late);
    assert!(rate >= 1.2 * 0.5, "{rate}");
    // Nor does it cost the bucket more: an epoch fetches what cannot be here, and little else.
    let epoch = 2 * capacity;
    let fetched = bench.source.reads_total() as u64;
    assert!(fetched <= epoch + 3 * (epoch * 11 / 20), "{fetched} of {epoch}");
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_of_a_job_that_is_over_makes_room_at_once_and_one_in_use_does_not() {
    let bench = Bench::new();
    let capacity = capacity(&bench).await;
    let cache = bench.open(QUOTA);
    let mut old = Job::new(&bench, "old", 2 * capacity);
    let sets = Arc::new(Sets::default());
    cache.set_foresight(sets.clone());
    for epoch in 1..4 {
        sets.begin(&old, epoch);
        let mut hits = 0;
        for (at, object) in old.shuffled().iter().enumerate() {
            pace(&cache, at).await;
            let before = sets.asked.load(Ordering::Relaxed);
            sets.used(object);
            hits += u64::from(uses(&cache, object).await);
            let asked = sets.asked.load(Ordering::Relaxed) - before;
            assert!(asked <= 20_000, "a refusal asked {asked} questions");
        }
        landed(&cache).await;
        assert!(epoch == 1 || hits * 100 >= capacity * 93, "{hits} of {capacity}");
    }
    let asked = sets.asked.load(Ordering::Relaxed);
    assert!(asked <= 6 * capacity * 50, "{asked} questions for {} uses", 6 * capacity);
    sets.end(&old);
    let mut new = Job::new(&bench, "new", capacity * 3 / 4);
    for epoch in 1..3 {
        sets.begin(&new, epoch);
        let mut hits = 0;
        for (at, object) in new.shuffled().iter().enumerate() {
            pace(&cache, at).await;
            sets.used(object);
            hits += u64::from(uses(&cache, object).await);
        }
        landed(&cache).await;
        // Half of it came in the first epoch already; without foresight nothing would have.
        assert!(epoch == 1 || hits * 2 >= capacity * 3 / 4, "{hits} of {}", capacity * 3 / 4);
    }
    cache.close().await;
}
