//! The quota: never exceeded, room made in the background, pins and holders respected.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::page::PAGE_BYTES;
use feedline_model::{
    BlockSource as _, Foresight as _, ObjectHolder, ObjectId, ObjectIndex as _, Priority,
};
use feedline_testkit::object_bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;

use super::support::{
    Bench, OnlyTheNewest, SmallDisk, config_at, du, eventually, expect_whole, read, settled,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_quota_holds_on_disk_while_many_fill_at_once() {
    let bench = Bench::new();
    let quota = 24 << 20;
    // A file system of its own, because it alone knows what is used at one moment: a walk counts
    // files twice that move while it walks.
    let disk = Arc::new(SmallDisk::new(bench.root.path(), 64));
    let before = disk.used();
    let dir = disk.mountpoint.join("cache");
    let cache = bench.open_config(config_at(&dir, quota));
    cache.set_foresight(Arc::new(OnlyTheNewest::default()));
    let objects: Vec<_> = (0..1500_u64)
        .map(|seed| bench.source.insert_seeded(&format!("q/{seed}"), seed, 5000 + seed % 97 * 1500))
        .collect();
    let big = bench.source.insert_seeded("big", 9, 3 * PAGE_BYTES);
    let done = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicU64::new(0));
    let sampler = {
        let (done, most, disk) = (done.clone(), most.clone(), disk.clone());
        tokio::runtime::Handle::current().spawn_blocking(move || {
            while !done.load(Ordering::Acquire) {
                most.fetch_max(disk.used() - before, Ordering::AcqRel);
            }
        })
    };
    let reads = objects.iter().enumerate().map(|(seed, object)| {
        let (cache, big) = (&cache, &big);
        async move {
            expect_whole(cache, object, seed as u64).await;
            if seed % 300 == 0 {
                expect_whole(cache, big, 9).await;
            }
        }
    });
    futures::stream::iter(reads).buffer_unordered(32).collect::<Vec<_>>().await;
    settled(&cache).await;
    done.store(true, Ordering::Release);
    sampler.await.unwrap();
    let stats = cache.stats();
    let most = most.load(Ordering::Acquire);
    assert!(most <= quota, "{most} bytes on disk with a quota of {quota}");
    assert!(most > quota / 2, "the cache was hardly filled: {most}");
    assert!(stats.evicted() > 300, "{stats:?}");
    assert!(du(&dir) <= stats.used_bytes(), "{} {stats:?}", du(&dir));
    cache.close().await;
    assert!(disk.used() - before <= quota);
    drop(cache);
}

#[derive(Debug, Default)]
struct Holder {
    held: HashSet<ObjectId>,
    asked: Mutex<HashSet<ObjectId>>,
}

impl ObjectHolder for Holder {
    fn let_go(&self, id: &ObjectId) -> bool {
        self.asked.lock().insert(*id);
        !self.held.contains(id)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_leaves_what_is_pinned_or_held() {
    let bench = Bench::new();
    let cache = bench.open(16 << 20);
    let objects = bench.objects(400, 100_000);
    for (seed, object) in objects[..40].iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    let ids: Vec<_> = objects.iter().map(feedline_model::Object::id).collect();
    cache.pin(ids[..20].to_vec()).await;
    let held = ids[20..40].iter().copied().collect();
    let holder = Arc::new(Holder { held, asked: Mutex::default() });
    cache.set_holder(holder.clone());
    cache.set_foresight(Arc::new(OnlyTheNewest::default()));
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    assert!(cache.stats().evicted() > 100, "{:?}", cache.stats());
    assert!(ids[..40].iter().all(|id| cache.contains(id)), "a pinned or held object went");
    let asked = holder.asked.lock();
    assert!(ids[..20].iter().all(|id| !asked.contains(id)), "asked about a pinned object");
    assert!(!asked.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_pinned_objects_are_served_without_being_kept() {
    let bench = Bench::new();
    let cache = bench.open(8 << 20);
    let objects = bench.objects(120, 100_000);
    cache.pin(objects.iter().map(feedline_model::Object::id).collect()).await;
    for round in 0..2 {
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        settled_or_lingering(&cache).await;
        assert_eq!(cache.stats().evicted(), 0, "round {round}");
    }
    assert!(cache.stats().not_kept > 0);
    assert!(du(&bench.dir()) <= 8 << 20);
    // The parts of an object that is not kept cost one fetch, not one each.
    let last = objects.last().unwrap();
    assert!(!cache.contains(&last.id()));
    let before = bench.source.reads_total();
    for at in (0..100_000).step_by(10_000) {
        read(&cache, last, at..at + 10_000).await;
    }
    assert!(bench.source.reads_total() <= before + 1);
    // Once unpinned, room can be made again.
    assert_eq!(cache.unpin_all().await, objects.len() as u64);
    assert_eq!(cache.unpin_all().await, 0);
    let foresight = Arc::new(OnlyTheNewest::default());
    objects.iter().for_each(|object| _ = foresight.next_use(&object.id()));
    cache.set_foresight(foresight);
    let new = bench.source.insert_seeded("new", 1, 100_000);
    expect_whole(&cache, &new, 1).await;
    eventually("the new object to be kept", || cache.contains(&new.id())).await;
}

/// Flights that could not be kept stay for a while: wait until all have landed.
async fn settled_or_lingering(cache: &crate::Cache) {
    eventually("flights to land", || {
        let stats = cache.stats();
        stats.misses == stats.dirs[0].objects + stats.not_kept + stats.evicted()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_quota_is_served() {
    let bench = Bench::new();
    let cache = bench.open(10 << 20);
    let size = 6 * PAGE_BYTES + 5;
    let object = bench.source.insert_seeded("huge", 3, size);
    let all = object_bytes(3, size);
    for at in (0..size).step_by(3 << 20) {
        let end = (at + (3 << 20)).min(size);
        let bytes = cache.read(&object, at..end, Priority::Demand).await.unwrap();
        assert!(bytes == all.slice(at as usize..end as usize));
        assert!(du(&bench.dir()) <= 10 << 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_directories_share_by_quota() {
    let bench = Bench::new();
    let mut config = bench.config(64 << 20);
    let other =
        crate::CacheDirConfig { dir: bench.root.path().join("other"), quota_bytes: 192 << 20 };
    config.dirs.push(other);
    let cache = bench.open_config(config.clone());
    let objects = bench.objects(400, 10_000);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    let stats = cache.stats();
    assert_eq!(stats.objects(), 400);
    assert!((60..=140).contains(&stats.dirs[0].objects), "{stats:?}");
    cache.close().await;
    drop(cache);
    let cache = bench.open_config(config);
    assert!(objects.iter().all(|object| cache.open(object).is_some()));
    assert_eq!(cache.stats().dirs[0].objects, stats.dirs[0].objects);
}

#[tokio::test]
async fn who_brings_objects_in_hears_which_are_kept_and_may_try_again() {
    let bench = Bench::new();
    let cache = bench.open(24 << 20);
    let objects = bench.objects(40, 1 << 20);
    let mut kept = Vec::new();
    for object in &objects {
        cache.read(object, 0..1 << 20, Priority::Fill).await.unwrap();
        let is_kept = cache.is_kept(object).await;
        assert_eq!(is_kept, cache.contains(&object.id()), "it is said when it is so");
        kept.push(is_kept);
    }
    let count = kept.iter().filter(|kept| **kept).count();
    assert!((10..30).contains(&count), "{count} of 40 MiB in 24 MiB");
    assert!(objects.iter().zip(&kept).all(|(object, kept)| cache.contains(&object.id()) == *kept));
    // With room for it, one that was not kept is fetched again, and does not only linger in memory.
    let missed = kept.iter().position(|kept| !kept).unwrap();
    cache.free(objects[..missed].iter().map(feedline_model::Object::id).collect(), false).await;
    cache.read(&objects[missed], 0..1 << 20, Priority::Fill).await.unwrap();
    assert!(cache.is_kept(&objects[missed]).await);
    assert_eq!(bench.source.reads(&objects[missed].key), 2);
    let empty = bench.source.insert_seeded("empty", 1, 0);
    assert!(cache.is_kept(&empty).await, "there is nothing to keep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_larger_than_what_a_small_cache_has_left_is_given_up_and_not_waited_for() {
    let bench = Bench::new();
    // Room for one page beside the fan-out directories, and for more than a quarter of the quota, but
    // not for another page.
    let cache = bench.open(2 * PAGE_BYTES);
    let objects = bench.objects(2, PAGE_BYTES);
    cache.pin(vec![objects[0].id()]).await;
    expect_whole(&cache, &objects[0], 0).await;
    settled(&cache).await;
    let used = cache.stats().used_bytes();
    assert!(used + PAGE_BYTES > 2 * PAGE_BYTES && used + PAGE_BYTES / 2 < 2 * PAGE_BYTES, "{used}");
    expect_whole(&cache, &objects[1], 1).await;
    settled(&cache).await;
    let stats = cache.stats();
    assert_eq!((stats.objects(), stats.not_kept), (1, 1), "{stats:?}");
    cache.close().await;
}
