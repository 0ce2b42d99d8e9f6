//! Several directories: one copy of an object, whatever each directory's index says.

use std::path::PathBuf;

use feedline_model::{Object, ObjectId, ObjectIndex as _};

use super::support::{Bench, QUOTA, du, eventually, expect_whole, file_of, settled};
use crate::{CacheConfig, CacheDirConfig};

fn config(bench: &Bench, names: &[&str]) -> CacheConfig {
    let dir = |name: &&str| CacheDirConfig { dir: path(bench, name), quota_bytes: QUOTA };
    let mut config = CacheConfig::new(names.iter().map(dir).collect());
    config.scrub_bytes_per_s = 0;
    config
}

fn path(bench: &Bench, name: &str) -> PathBuf {
    bench.root.path().join(name)
}

fn ids(objects: &[Object]) -> Vec<ObjectId> {
    objects.iter().map(Object::id).collect()
}

/// Fills the directory with the objects, as a cache of its own.
async fn fill(bench: &Bench, name: &str, objects: &[Object]) {
    let cache = bench.open_config(config(bench, &[name]));
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_one_stays_and_the_other_gives_its_space_back() {
    let bench = Bench::new();
    let objects = bench.objects(40, 50_000);
    fill(&bench, "a", &objects).await;
    let empty = {
        fill(&bench, "b", &[]).await;
        du(&path(&bench, "b"))
    };
    fill(&bench, "b", &objects).await;
    bench.source.clear_log();
    for round in 0..2 {
        let cache = bench.open_config(config(&bench, &["a", "b"]));
        for (seed, object) in objects.iter().enumerate() {
            let copies = ["a", "b"].map(|name| file_of(&path(&bench, name), object).exists());
            assert!(copies[0] != copies[1], "round {round} object {seed}: {copies:?}");
            assert!(cache.open(object).is_some());
        }
        let stats = cache.stats();
        assert_eq!(stats.objects(), 40, "round {round}");
        for (dir, name) in stats.dirs.iter().zip(["a", "b"]) {
            let on_disk = du(&path(&bench, name));
            assert!(dir.used_bytes >= on_disk, "round {round}: {dir:?} has {on_disk}");
            assert!(dir.used_bytes - on_disk <= 64 << 10, "round {round}: {dir:?} has {on_disk}");
        }
        assert!(stats.dirs[1].used_bytes < empty + (128 << 10), "{stats:?}");
        cache.close().await;
    }
    assert_eq!(bench.source.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_in_one_directory_leaves_the_copy_of_another() {
    let bench = Bench::new();
    let objects = bench.objects(10, 20_000);
    fill(&bench, "a", &objects).await;
    fill(&bench, "b", &objects).await;
    let cache = bench.open_config(config(&bench, &["b"]));
    assert_eq!(cache.free(ids(&objects[..5]), false).await.objects, 5);
    cache.close().await;
    drop(cache);
    for order in [["a", "b"], ["b", "a"]] {
        let cache = bench.open_config(config(&bench, &order));
        assert!(objects.iter().all(|object| cache.open(object).is_some()), "{order:?}");
        cache.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_wish_joins_the_copy_in_another_directory_and_ends_with_it() {
    let bench = Bench::new();
    let objects = bench.objects(8, 20_000);
    let ids = ids(&objects);
    fill(&bench, "a", &objects).await;
    let cache = bench.open_config(config(&bench, &["b"]));
    assert_eq!(cache.pin(ids.clone()).await, 8);
    cache.close().await;
    drop(cache);
    let cache = bench.open_config(config(&bench, &["a", "b"]));
    assert!(objects.iter().all(|object| cache.open(object).is_some()));
    assert!(ids.iter().all(|id| cache.is_pinned(id)));
    assert_eq!(cache.unpin(ids.clone()).await, 8);
    cache.close().await;
    drop(cache);
    let cache = bench.open_config(config(&bench, &["a", "b"]));
    assert!(ids.iter().all(|id| !cache.is_pinned(id) && cache.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_remembered_in_one_directory_does_not_outlive_the_object_in_another() {
    let bench = Bench::new();
    let objects = bench.objects(30, 20_000);
    let ids = ids(&objects);
    let cache = bench.open_config(config(&bench, &["b"]));
    assert_eq!(cache.pin(ids.clone()).await, 30);
    cache.close().await;
    drop(cache);
    // Placement now sends about half of them to the other directory.
    let cache = bench.open_config(config(&bench, &["a", "b"]));
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    assert!(cache.stats().dirs[0].objects > 0);
    assert_eq!(cache.unpin(ids.clone()).await, 30);
    cache.close().await;
    drop(cache);
    let cache = bench.open_config(config(&bench, &["a", "b"]));
    eventually("all to be here", || ids.iter().all(|id| cache.contains(id))).await;
    assert!(ids.iter().all(|id| !cache.is_pinned(id)), "a pin came back");
}
