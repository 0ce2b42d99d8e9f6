//! Where nodes share a cache: what other nodes keep is a copy here, and goes before our own.

use std::collections::HashSet;
use std::sync::Arc;

use feedline_model::{
    BlockSource as _, Keeping, Object, ObjectId, ObjectIndex as _, Ownership, Priority,
};

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
    // Nearly: in a search of a few samples one may find no copy.
    read_all(&cache, &own).await;
    let kept = here(&cache, &own);
    assert!(kept >= 380, "{kept} of 400 of our own");
    assert!(here(&cache, &copies) < full - 300);
    // Others' objects take the place of none of ours, however many come.
    read_all(&cache, &more).await;
    assert_eq!(here(&cache, &own), kept);
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
