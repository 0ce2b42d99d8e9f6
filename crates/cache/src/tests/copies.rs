//! Where nodes share a cache: what other nodes keep is a copy here, and goes before our own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use feedline_model::{
    BlockSource as _, Foresight, Keeping, NextUse, Object, ObjectId, ObjectIndex as _, Ownership,
    Priority,
};
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::support::{Bench, settled};
use crate::Cache;

const QUOTA: u64 = 16 << 20;

/// Blocks of 16 KiB exactly, so that about 900 fit.
const SIZE: u64 = 16 << 10;

/// These are ours; all others are another node's.
#[derive(Debug)]
struct Ours(HashSet<ObjectId>, Keeping);

impl Ownership for Ours {
    fn keeping(&self, id: &ObjectId) -> Keeping {
        if self.0.contains(id) { Keeping::Own } else { self.1 }
    }

    fn has_copies(&self) -> bool {
        self.1 == Keeping::Copy
    }
}

/// What is known of the next use of objects, in ways that differ from one time to the next.
#[derive(Debug, Clone, Copy)]
enum Known {
    Nothing,
    Sets,
    Orders,
    Some,
}

#[derive(Debug)]
struct Seer(Known, AtomicU64);

impl Foresight for Seer {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        let asked = self.1.fetch_add(1, Ordering::Relaxed);
        let dice = (id.hash64() ^ asked).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        match (self.0, dice % 4) {
            (Known::Nothing, _) | (Known::Some, 0) => NextUse::Unknown,
            (Known::Orders, 0 | 1) => NextUse::After(u64::MAX),
            (Known::Orders, _) | (Known::Some, 1) => NextUse::After(dice % 1_000),
            (Known::Sets, 0 | 1) | (Known::Some, 2) => NextUse::ThisEpoch,
            (Known::Sets | Known::Some, _) => NextUse::NextEpoch,
        }
    }
}

async fn read_all(cache: &Cache, objects: &[Object]) {
    for (at, object) in objects.iter().enumerate() {
        cache.read(object, 0..object.version.size, Priority::Demand).await.unwrap();
        if at % 32 == 31 {
            settled(cache).await;
        }
    }
    settled(cache).await;
    cache.shared.flights.shed();
}

fn here(cache: &Cache, objects: &[Object]) -> usize {
    objects.iter().filter(|object| cache.contains(&object.id())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_make_room_for_our_own_and_never_the_other_way_round() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let insert = |name: &'static str, count: u64| -> Vec<Object> {
        let one = |n| bench.source.insert_seeded(&format!("{name}/{n}"), n, SIZE);
        (0..count).map(one).collect()
    };
    let (copies, own, more) = (insert("copy", 1_200), insert("own", 400), insert("more", 600));
    let ids = own.iter().map(Object::id).collect();
    cache.set_ownership(Arc::new(Ours(ids, Keeping::Copy)));
    // Copies fill what is free, and nothing goes for their equals.
    read_all(&cache, &copies).await;
    let full = here(&cache, &copies);
    assert!((700..1_100).contains(&full), "{full}");
    read_all(&cache, &own).await;
    assert_eq!(here(&cache, &own), 400);
    assert!(here(&cache, &copies) < full - 300);
    // Others' objects take the place of none of ours, however many come.
    read_all(&cache, &more).await;
    assert_eq!(here(&cache, &own), 400);
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_to_be_kept_is_handed_on_and_lingers_for_the_next_read_of_it() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let objects = bench.objects(20, SIZE);
    let ids = objects[..10].iter().map(Object::id).collect();
    cache.set_ownership(Arc::new(Ours(ids, Keeping::Pass)));
    for object in &objects {
        // A loader reads a file in several pieces: one fetch.
        for range in [0..4_096, 4_096..SIZE] {
            let read = cache.read(object, range.clone(), Priority::Demand).await.unwrap();
            assert_eq!(read.len() as u64, range.end - range.start);
        }
    }
    settled(&cache).await;
    let stats = cache.stats();
    assert_eq!((stats.misses, stats.objects(), stats.not_kept), (20, 10, 0), "{stats:?}");
    assert_eq!((here(&cache, &objects[..10]), here(&cache, &objects[10..])), (10, 0));
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fill_brought_for_its_owner_is_not_held_here() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let objects = bench.objects(2, SIZE);
    cache.set_ownership(Arc::new(Ours(HashSet::new(), Keeping::Pass)));
    for (object, priority) in objects.iter().zip([Priority::Fill, Priority::Demand]) {
        cache.read(object, 0..SIZE, priority).await.unwrap();
        settled(&cache).await;
        cache.read(object, 0..SIZE, Priority::Demand).await.unwrap();
        settled(&cache).await;
    }
    // The first was fetched twice; what somebody read lingers.
    assert_eq!(cache.stats().misses, 3);
    cache.close().await;
}

/// Reads sixteen at a time, of our own and of ten times as many copies, some of which are hot. Returns
/// which of our own were read.
async fn read_at_random(
    cache: &Cache,
    own: &[Object],
    copies: &[Object],
    seed: u64,
) -> HashSet<ObjectId> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut read = HashSet::new();
    for _ in 0..150 {
        let mut batch = Vec::new();
        for _ in 0..16 {
            let from = match random.random_range(0..4) {
                0 => &copies[..100],
                1 => copies,
                _ => own,
            };
            let object = from.choose(&mut random).expect("some");
            let is_fill = random.random_ratio(1, 4);
            let priority = if is_fill { Priority::Fill } else { Priority::Demand };
            batch.push(cache.read(object, 0..SIZE, priority));
            read.insert(object.id());
        }
        join_all(batch).await.into_iter().for_each(|done| drop(done.unwrap()));
        settled(cache).await;
        cache.shared.flights.shed();
    }
    read.retain(|id| own.iter().any(|object| object.id() == *id));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_node_owns_stays_as_long_as_it_fits_whatever_comes_and_whatever_is_known() {
    let kinds = [Known::Nothing, Known::Sets, Known::Orders, Known::Some];
    for (seed, known) in (0..).zip(kinds) {
        let bench = Bench::new();
        let cache = bench.open(QUOTA);
        let insert = |name: &'static str, count: u64| -> Vec<Object> {
            let one = |n| bench.source.insert_seeded(&format!("{name}/{n}"), n, SIZE);
            (0..count).map(one).collect()
        };
        // Three quarters of what fits, as in a data set of three quotas on four nodes.
        let (own, copies) = (insert("own", 650), insert("copy", 6_500));
        let ids = own.iter().map(Object::id).collect();
        cache.set_ownership(Arc::new(Ours(ids, Keeping::Copy)));
        cache.set_foresight(Arc::new(Seer(known, AtomicU64::default())));
        let read = read_at_random(&cache, &own, &copies, seed).await;
        let gone = read.iter().filter(|id| !cache.contains(id)).count();
        let again = own.iter().filter(|object| bench.source.reads(&object.key) > 1).count();
        let counts = (read.len(), here(&cache, &copies), cache.stats().evicted());
        assert!(counts.0 > 450 && counts.1 > 100 && counts.2 > 0, "{known:?}: {counts:?}");
        assert_eq!((gone, again), (0, 0), "{known:?}, seed {seed}: of {}", read.len());
        cache.close().await;
    }
}
