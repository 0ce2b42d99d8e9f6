//! Pushes into the page cache: what is looked at, what is read, and what is left alone.

use std::fs::File;
use std::path::Path;

use feedline_model::page::PAGE_BYTES;
use feedline_model::{Object, ObjectIndex as _, Push, Residence};

use super::support::{
    Bench, QUOTA, config_at, copy_as_killed, eventually, expect_whole, file_of, settled,
};

/// Writes out the file of an object and gives back its pages.
fn drop_pages(dir: &Path, object: &Object) {
    let file = File::open(file_of(dir, object)).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_disk_is_read_into_memory_and_counts_as_no_use() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let sizes = [1, 4_096, 110_000, 3 * PAGE_BYTES];
    for (seed, size) in (0..).zip(sizes) {
        let object = bench.source.insert_seeded(&format!("o/{size}"), seed, size);
        assert_eq!(cache.push(&object, Push::Read), Residence::Unknown, "not here yet");
        expect_whole(&cache, &object, seed).await;
        settled(&cache).await;
        assert_eq!(cache.push(&object, Push::Look), Residence::Memory, "{size}: just written");
        drop_pages(&bench.dir(), &object);
        // Of a large one the beginning counts.
        let counted = size.min(8 << 20);
        let hits = cache.stats().hits;
        for _ in 0..2 {
            assert_eq!(cache.push(&object, Push::Look), Residence::Disk(counted), "{size}");
        }
        assert_eq!(cache.push(&object, Push::Read), Residence::Disk(counted), "{size}");
        // On their way is as good as there.
        eventually("memory", || cache.push(&object, Push::Look) == Residence::Memory).await;
        assert_eq!(cache.stats().hits, hits, "{size}");
        expect_whole(&cache, &object, seed).await;
    }
    assert_eq!(cache.stats().corrupt(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn read_replies_get_none_and_a_file_to_be_verified_is_left_alone() {
    let bench = Bench::new();
    let object = bench.objects(1, 110_000).remove(0);
    let mut config = bench.config(QUOTA);
    config.keep_pages = false;
    let cache = bench.open_config(config);
    expect_whole(&cache, &object, 0).await;
    settled(&cache).await;
    drop_pages(&bench.dir(), &object);
    assert_eq!(cache.push(&object, Push::Read), Residence::Unknown, "it would be there twice");
    let copy = bench.root.path().join("killed");
    copy_as_killed(&bench.dir(), &copy);
    let cache = bench.open_config(config_at(&copy, QUOTA));
    assert!(cache.contains(&object.id()));
    assert_eq!(cache.push(&object, Push::Read), Residence::Unknown, "nobody has verified it");
    expect_whole(&cache, &object, 0).await;
    assert_ne!(cache.push(&object, Push::Look), Residence::Unknown, "now it is");
}
