//! What other nodes are given: nothing that has rotted on the disk, and only that is dropped.

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use feedline_model::page::{PAGE_BYTES, page_range};
use feedline_model::{CheckedSource as _, Object, ObjectIndex as _, Priority};
use feedline_testkit::object_range;

use super::support::{
    Bench, QUOTA, config_at, copy_as_killed, expect_whole, file_of, read, settled,
};
use crate::Cache;
use crate::directory::partial_path;

/// Three pages.
const LARGE: u64 = 2 * PAGE_BYTES + 1_234;

/// Turns a bit of a file.
fn rot(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// A page as a peer gets it: the right bytes, and their checksum.
async fn lends(cache: &Cache, object: &Object, seed: u64, page: u64) {
    let range = page_range(page, object.version.size);
    let given = cache.read_checked(object, range.clone(), Priority::Demand).await.unwrap();
    assert!(given.bytes == object_range(seed, range), "wrong bytes of {}", object.key);
    assert_eq!(given.crc, crc32c::crc32c(&given.bytes));
}

async fn is_sound(cache: &Cache, object: &Object) {
    let report = cache.check(vec![object.id()], |_| ()).await;
    assert_eq!((report.progress.files, report.progress.corrupt), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_small_file_is_dropped_and_fetched_again() {
    for keep_pages in [true, false] {
        let bench = Bench::new();
        let mut config = bench.config(QUOTA);
        config.keep_pages = keep_pages;
        let cache = bench.open_config(config);
        let mut objects = bench.objects(3, 50_000);
        // The largest that is one page.
        objects.push(bench.source.insert_seeded("page", 3, PAGE_BYTES));
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        settled(&cache).await;
        bench.source.clear_log();
        // The file of one may be open already.
        read(&cache, &objects[0], 5..6).await;
        for rotten in [0, 1, 3] {
            rot(&file_of(&bench.dir(), &objects[rotten]), 40_000);
        }
        for (seed, object) in objects.iter().enumerate() {
            lends(&cache, object, seed as u64, 0).await;
        }
        assert_eq!(bench.source.reads_total(), 3, "{:?}", bench.source.log());
        assert_eq!(cache.stats().corrupt(), 3);
        settled(&cache).await;
        for (seed, object) in objects.iter().enumerate() {
            is_sound(&cache, object).await;
            lends(&cache, object, seed as u64, 0).await;
            assert!(cache.open(object).is_some());
        }
        assert_eq!((bench.source.reads_total(), cache.stats().corrupt()), (3, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_only_for_what_is_here_is_not_given_what_has_rotted() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let objects = bench.objects(2, 50_000);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    bench.source.clear_log();
    rot(&file_of(&bench.dir(), &objects[0]), 0);
    assert_eq!(cache.read_here(&objects[0], 0..50_000).await, None);
    let given = cache.read_here(&objects[1], 0..50_000).await.unwrap();
    assert!(given.bytes == object_range(1, 0..50_000));
    // A part has no checksum of its own, and is given without; nothing is made up beyond the end.
    let given = cache.read_here(&objects[1], 7..9).await.unwrap();
    assert_eq!(given.crc, crc32c::crc32c(&object_range(1, 7..9)));
    assert_eq!(cache.read_here(&objects[1], 0..50_001).await, None);
    assert!(!cache.contains(&objects[0].id()) && cache.contains(&objects[1].id()));
    assert!(!file_of(&bench.dir(), &objects[0]).exists());
    assert_eq!((bench.source.reads_total(), cache.stats().corrupt()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_page_of_an_object_that_is_here_in_part_is_one_page_to_fetch() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.source.insert_seeded("large", 7, LARGE);
    for page in [2, 0] {
        read(&cache, &object, page * PAGE_BYTES..page * PAGE_BYTES + 5).await;
    }
    settled(&cache).await;
    bench.source.clear_log();
    rot(&bench.dir().join(partial_path(&object.id())), 2 * PAGE_BYTES + 1_000);
    for page in [2, 0, 2, 0] {
        lends(&cache, &object, 7, page).await;
        settled(&cache).await;
    }
    assert_eq!(bench.source.reads_total(), 1, "{:?}", bench.source.log());
    assert_eq!(bench.source.reads_of_range("large", page_range(2, LARGE)), 1);
    assert_eq!(cache.stats().corrupt(), 1);
    is_sound(&cache, &object).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_page_of_a_complete_large_object_is_found_also_after_restarts() {
    for restarts in 0..3 {
        let bench = Bench::new();
        let object = bench.source.insert_seeded("large", 7, LARGE);
        let mut cache = bench.open(QUOTA);
        expect_whole(&cache, &object, 7).await;
        settled(&cache).await;
        assert!(cache.contains(&object.id()));
        for _ in 0..restarts {
            // First from the journal, then from a snapshot.
            cache.close().await;
            drop(cache);
            cache = bench.open(QUOTA);
            cache.shared.write_snapshot(&cache.shared.dirs[0]).unwrap();
        }
        bench.source.clear_log();
        let path = file_of(&bench.dir(), &object);
        lends(&cache, &object, 7, 1).await;
        rot(&path, PAGE_BYTES + 1_000);
        lends(&cache, &object, 7, 0).await;
        assert_eq!((bench.source.reads_total(), cache.stats().corrupt()), (0, 0));
        lends(&cache, &object, 7, 1).await;
        assert!(!path.exists(), "the rotten file is gone");
        assert_eq!(bench.source.reads_of_range("large", page_range(1, LARGE)), 1);
        assert_eq!(cache.stats().corrupt(), 1, "after {restarts} restarts");
        expect_whole(&cache, &object, 7).await;
        settled(&cache).await;
        assert_eq!(bench.source.reads_total(), 3, "the other pages went with it");
        is_sound(&cache, &object).await;
        assert!(cache.contains(&object.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_of_pages_go_with_their_object_and_outlive_a_kill() {
    let bench = Bench::new();
    let object = bench.source.insert_seeded("large", 7, LARGE);
    let cache = bench.open(QUOTA);
    expect_whole(&cache, &object, 7).await;
    settled(&cache).await;
    let known = |cache: &Cache| cache.shared.sums.lock().pages_total();
    assert_eq!(known(&cache), 3);
    let copy = bench.root.path().join("killed");
    copy_as_killed(&bench.dir(), &copy);
    assert_eq!(cache.free(vec![object.id()], false).await.objects, 1);
    assert_eq!(known(&cache), 0);
    drop(cache);
    bench.source.clear_log();
    let cache = bench.open_config(config_at(&copy, QUOTA));
    assert_eq!(known(&cache), 3);
    lends(&cache, &object, 7, 2).await;
    rot(&file_of(&copy, &object), LARGE - 1);
    lends(&cache, &object, 7, 2).await;
    assert_eq!(
        (bench.source.reads_of_range("large", page_range(2, LARGE)), cache.stats().corrupt()),
        (1, 1)
    );
    assert_eq!(known(&cache), 0, "it is here in part only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_sound_when_it_is_looked_at_again_stays() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let small = bench.objects(1, 50_000).remove(0);
    let large = bench.source.insert_seeded("large", 7, LARGE);
    expect_whole(&cache, &small, 0).await;
    expect_whole(&cache, &large, 7).await;
    let half = bench.source.insert_seeded("half", 8, LARGE);
    read(&cache, &half, 0..5).await;
    settled(&cache).await;
    // As if another reader had found rot a moment before, and the file had been fetched again since.
    for (object, seed) in [(&small, 0), (&large, 7), (&half, 8)] {
        let range = page_range(0, object.version.size);
        let crc = crc32c::crc32c(&object_range(seed, range));
        cache.shared.look_again(&object.id(), 0, crc).await;
        lends(&cache, object, seed, 0).await;
    }
    assert_eq!((bench.source.reads_total(), cache.stats().corrupt()), (1 + 3 + 1, 0));
}
