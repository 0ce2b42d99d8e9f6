//! What survives a stop: clean, killed, torn, tampered with.

use std::time::Duration;

use feedline_model::ObjectIndex as _;
use feedline_model::page::PAGE_BYTES;
use feedline_testkit::object_bytes;

use super::support::{
    Bench, QUOTA, config_at, copy_as_killed, eventually, expect_whole, file_of, read, settled,
};
use crate::CacheError;

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_asks_the_store_for_nothing() {
    let bench = Bench::new();
    let objects = bench.objects(50, 30_000);
    let big = bench.source.insert_seeded("big", 7, 5 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    for page in [4, 1] {
        read(&cache, &big, page * PAGE_BYTES..page * PAGE_BYTES + 5).await;
    }
    settled(&cache).await;
    let used = cache.stats().used_bytes();
    cache.close().await;
    drop(cache);
    bench.source.clear_log();
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        assert!(cache.open(object).is_some());
        expect_whole(&cache, object, seed as u64).await;
    }
    assert_eq!(cache.cached_bytes(&big.id()), 2 * PAGE_BYTES);
    for page in [4, 1] {
        let at = page * PAGE_BYTES;
        let bytes = read(&cache, &big, at..at + 5).await;
        assert_eq!(bytes, object_bytes(7, 5 * PAGE_BYTES).slice(at as usize..at as usize + 5));
    }
    assert_eq!(bench.source.reads_total(), 0);
    let again = cache.stats().used_bytes();
    assert!(again.abs_diff(used) <= 64 << 10, "{used} bytes became {again}");
    expect_whole(&cache, &big, 7).await;
    settled(&cache).await;
    assert_eq!(bench.source.reads_total(), 3, "only the pages that were missing");
    assert!(cache.open(&big).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_what_was_published_is_verified_and_served() {
    let bench = Bench::new();
    let objects = bench.objects(40, 50_000);
    let big = bench.source.insert_seeded("big", 7, 3 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    read(&cache, &big, 0..5).await;
    read(&cache, &big, 2 * PAGE_BYTES..2 * PAGE_BYTES + 5).await;
    settled(&cache).await;
    let copy = bench.root.path().join("killed");
    copy_as_killed(&bench.dir(), &copy);
    // A bit flip, a short file, a long one, a missing one, a stranger; a bad page.
    let flip = |path: &std::path::Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&file_of(&copy, &objects[0]), 40_000);
    std::fs::write(file_of(&copy, &objects[1]), &object_bytes(1, 50_000)[..49_999]).unwrap();
    std::fs::write(file_of(&copy, &objects[2]), object_bytes(2, 50_001)).unwrap();
    std::fs::remove_file(file_of(&copy, &objects[3])).unwrap();
    let orphan = copy.join("objects/ab/ab000000000000000000000000000000");
    std::fs::write(&orphan, vec![1; 100_000]).unwrap();
    flip(&copy.join(crate::directory::partial_path(&big.id())), 100);
    bench.source.clear_log();
    let cache = bench.open_config(config_at(&copy, QUOTA));
    for (seed, object) in objects.iter().enumerate() {
        assert_eq!(cache.open(object).is_some(), seed > 3, "object {seed}");
        expect_whole(&cache, object, seed as u64).await;
    }
    expect_whole(&cache, &big, 7).await;
    settled(&cache).await;
    assert_eq!(bench.source.reads_total(), 4 + 2, "{:?}", bench.source.log());
    assert_eq!(cache.stats().corrupt(), 5);
    eventually("the orphan to go", || !orphan.exists()).await;
    assert!(objects.iter().all(|object| cache.open(object).is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_record_in_the_place_of_another_is_replaced_and_not_written_over() {
    let bench = Bench::new();
    let objects = bench.objects(2, 50_000);
    let cache = bench.open(QUOTA);
    let stranger = file_of(&bench.dir(), &objects[0]);
    std::fs::write(&stranger, b"somebody reads this").unwrap();
    let held = std::fs::File::open(&stranger).unwrap();
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    for (seed, object) in objects.iter().enumerate() {
        assert!(cache.open(object).is_some());
        assert_eq!(
            std::fs::read(file_of(&bench.dir(), object)).unwrap(),
            object_bytes(seed as u64, 50_000)
        );
    }
    assert_eq!(std::io::read_to_string(held).unwrap(), "somebody reads this");
    let left = std::fs::read_dir(bench.dir().join("partial")).unwrap();
    let left = left.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
    assert_eq!(left.count(), 0, "a temporary file was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_torn_at_any_byte_of_its_tail_loses_at_most_its_tail() {
    let bench = Bench::new();
    let objects = bench.objects(6, 2000);
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
        settled(&cache).await;
    }
    let journal = std::fs::read(bench.dir().join("index.journal")).unwrap();
    let tail = journal.len() - 90..journal.len();
    for cut in tail.step_by(3) {
        let copy = bench.root.path().join(format!("torn-{cut}"));
        copy_as_killed(&bench.dir(), &copy);
        std::fs::write(copy.join("index.journal"), &journal[..cut]).unwrap();
        bench.source.clear_log();
        let cache = bench.open_config(config_at(&copy, QUOTA));
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        settled(&cache).await;
        assert!((1..=3).contains(&bench.source.reads_total()), "cut at {cut}");
        drop(cache);
        std::fs::remove_dir_all(copy).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_an_empty_cache_and_its_files_go() {
    let bench = Bench::new();
    let objects = bench.objects(5, 2000);
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    cache.close().await;
    drop(cache);
    std::fs::write(bench.dir().join("index.snapshot"), b"garbage").unwrap();
    let cache = bench.open(QUOTA);
    let path = file_of(&bench.dir(), &objects[0]);
    eventually("the files to go", || !path.exists()).await;
    bench.source.clear_log();
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    assert_eq!(bench.source.reads_total(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_survive_restarts_also_for_what_is_not_here_yet() {
    let bench = Bench::new();
    let objects = bench.objects(2, 2000);
    let cache = bench.open(QUOTA);
    expect_whole(&cache, &objects[0], 0).await;
    settled(&cache).await;
    let ids: Vec<_> = objects.iter().map(feedline_model::Object::id).collect();
    assert_eq!(cache.pin(ids.clone()).await, 2);
    assert_eq!(cache.pin(ids.clone()).await, 0);
    cache.close().await;
    drop(cache);
    let cache = bench.open(QUOTA);
    assert!(ids.iter().all(|id| cache.is_pinned(id)));
    assert!(!cache.contains(&ids[1]));
    expect_whole(&cache, &objects[1], 1).await;
    settled(&cache).await;
    assert!(cache.contains(&ids[1]) && cache.is_pinned(&ids[1]));
    assert_eq!(cache.free(ids.clone(), false).await.pinned, 2);
    assert_eq!(cache.free(ids.clone(), true).await.objects, 2);
    assert!(cache.is_pinned(&ids[0]) && !cache.contains(&ids[0]));
    assert_eq!(cache.unpin(ids.clone()).await, 2);
    assert_eq!(cache.stats().dirs[0].pinned, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_refused_with_the_reason() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let open = |config| {
        let clock = bench.clock.shared();
        let handle = tokio::runtime::Handle::current();
        crate::Cache::open(config, bench.source.clone(), clock, handle).map(|_| ())
    };
    let locked = open(bench.config(QUOTA)).unwrap_err().to_string();
    assert!(locked.contains(&format!("pid {}", std::process::id())), "{locked}");
    let foreign = bench.root.path().join("photos");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("cat.jpg"), b"meow").unwrap();
    let refused = open(config_at(&foreign, QUOTA)).unwrap_err();
    assert!(matches!(&refused, CacheError::Foreign { .. }), "{refused}");
    assert!(refused.to_string().contains("cat.jpg"));
    assert!(foreign.join("cat.jpg").exists());
    let small = open(config_at(&bench.root.path().join("small"), 1000)).unwrap_err();
    assert!(matches!(small, CacheError::QuotaTooSmall { .. }), "{small}");
    let missing = open(config_at(&bench.root.path().join("a/b"), QUOTA)).unwrap_err();
    assert!(matches!(missing, CacheError::Io { .. }), "{missing}");
    drop(cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_finds_a_flipped_bit_at_its_pace() {
    let bench = Bench::new();
    let objects = bench.objects(3, 1 << 20);
    let mut config = bench.config(QUOTA);
    config.scrub_bytes_per_s = 1 << 20;
    let cache = bench.open_config(config);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    let path = file_of(&bench.dir(), &objects[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut slept = Duration::ZERO;
    while cache.stats().corrupt() == 0 {
        slept += bench.clock.advance_to_next().await;
        assert!(slept < Duration::from_secs(300), "the scrub never found it");
    }
    assert!(slept >= Duration::from_secs(60), "found it before it was due: {slept:?}");
    assert!(!cache.contains(&objects[1].id()));
    expect_whole(&cache, &objects[1], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrub_takes_its_time_over_tiny_files_too() {
    let bench = Bench::new();
    let objects = bench.objects(33, 10);
    let mut config = bench.config(QUOTA);
    config.scrub_bytes_per_s = 64 << 10;
    let cache = bench.open_config(config);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    let path = file_of(&bench.dir(), &objects[32]);
    std::fs::write(&path, b"other byte").unwrap();
    let mut slept = Duration::ZERO;
    while cache.stats().corrupt() == 0 {
        slept += bench.clock.advance_to_next().await;
        assert!(slept < Duration::from_secs(300), "the scrub never found it");
    }
    // A minute, and a second for each file before; the index has them in any order.
    let order = cache.shared.index.lock();
    let before = (0..33).find(|slot| order.at(*slot).is_none()).expect("it was dropped");
    assert!(slept >= Duration::from_secs(60 + before as u64), "{before} files in {slept:?}");
}

/// Makes the clean marker one of another boot.
fn reboot(dir: &std::path::Path) {
    let marker = dir.join("clean");
    assert!(marker.exists(), "not a clean stop");
    std::fs::write(marker, "00000000-0000-0000-0000-000000000000\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_is_trusted_in_its_boot_and_verified_object_by_object_in_the_next() {
    let bench = Bench::new();
    let objects = bench.objects(3, 30_000);
    let big = bench.source.insert_seeded("big", 7, 2 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    read(&cache, &big, 0..5).await;
    cache.close().await;
    drop(cache);
    // A crash lost the tail of two files that were never synced.
    let torn = file_of(&bench.dir(), &objects[0]);
    let mut bytes = std::fs::read(&torn).unwrap();
    bytes[20_000..].fill(0);
    std::fs::write(&torn, &bytes).unwrap();
    std::fs::write(bench.dir().join(crate::directory::partial_path(&big.id())), b"short").unwrap();
    for rebooted in [false, true, true] {
        if rebooted {
            reboot(&bench.dir());
        }
        let cache = bench.open(QUOTA);
        assert!(objects.iter().all(|object| cache.contains(&object.id())));
        if rebooted {
            bench.source.clear_log();
            for (seed, object) in objects.iter().enumerate() {
                expect_whole(&cache, object, seed as u64).await;
            }
            expect_whole(&cache, &big, 7).await;
            settled(&cache).await;
        }
        cache.close().await;
    }
    assert_eq!(bench.source.reads_total(), 0, "repaired the first time: {:?}", bench.source.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_unclean_start_left_unverified_is_not_trusted_after_a_clean_stop() {
    let bench = Bench::new();
    let object = bench.objects(1, 30_000).remove(0);
    let cache = bench.open(QUOTA);
    expect_whole(&cache, &object, 0).await;
    settled(&cache).await;
    let copy = bench.root.path().join("killed");
    copy_as_killed(&bench.dir(), &copy);
    std::fs::write(file_of(&copy, &object), vec![1; 30_000]).unwrap();
    for _ in 0..2 {
        let cache = bench.open_config(config_at(&copy, QUOTA));
        eventually("the sweep to end", || *cache.shared.dirs[0].swept.borrow()).await;
        cache.close().await;
    }
    assert!(copy.join("clean").exists());
    let cache = bench.open_config(config_at(&copy, QUOTA));
    expect_whole(&cache, &object, 0).await;
    assert_eq!(cache.stats().corrupt(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_with_nothing_to_say_writes_no_index_and_a_pin_keeps_the_pages() {
    use std::os::unix::fs::MetadataExt as _;
    let bench = Bench::new();
    let big = bench.source.insert_seeded("big", 7, 3 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    read(&cache, &big, 0..5).await;
    settled(&cache).await;
    cache.pin(vec![big.id()]).await;
    cache.close().await;
    drop(cache);
    let files = ["index.snapshot", "index.journal"].map(|name| bench.dir().join(name));
    let look = || {
        files.each_ref().map(|file| {
            let meta = std::fs::metadata(file).unwrap();
            (meta.ino(), meta.mtime_nsec(), meta.len())
        })
    };
    let before = look();
    for _ in 0..2 {
        let cache = bench.open(QUOTA);
        assert_eq!(cache.cached_bytes(&big.id()), PAGE_BYTES);
        assert!(cache.is_pinned(&big.id()));
        cache.close().await;
    }
    assert_eq!(look(), before);
}
