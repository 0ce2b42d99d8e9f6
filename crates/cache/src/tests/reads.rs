//! Hits, misses, single flight, read-ahead, and the read chain's contract.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use feedline_model::page::PAGE_BYTES;
use feedline_model::{BlockSource, Object, ObjectIndex as _, Priority, ReadError, Urgency};
use feedline_testkit::conformance;
use feedline_testkit::{MemorySource, object_bytes};
use futures::FutureExt as _;

use super::support::{Bench, QUOTA, eventually, expect_whole, read, settled};
use crate::Cache;

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_the_contract_of_the_read_chain() {
    for keep_pages in [true, false] {
        let bench = Bench::new();
        let mut config = bench.config(QUOTA);
        config.keep_pages = keep_pages;
        let cache = bench.open_config(config);
        conformance::block_source(cache.clone(), &bench.source).await;
        cache.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_cost_one_get_and_a_dropped_one_cancels_nobody() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.objects(1, 110_000).remove(0);
    let hold = bench.source.hold();
    let mut first = cache.read(&object, 0..16_384, Priority::Demand);
    assert!(first.as_mut().now_or_never().is_none());
    drop(first);
    let readers: Vec<_> = (0..100_u64)
        .map(|reader| {
            let (cache, object) = (cache.clone(), object.clone());
            tokio::runtime::Handle::current().spawn(async move {
                let range = reader * 1000..reader * 1000 + 1000;
                (reader, read(&cache, &object, range).await)
            })
        })
        .collect();
    eventually("all to join", || cache.stats().joined == 100).await;
    hold.release();
    let all = object_bytes(0, 110_000);
    for reader in readers {
        let (reader, bytes) = reader.await.unwrap();
        assert_eq!(bytes, all.slice(reader as usize * 1000..reader as usize * 1000 + 1000));
    }
    settled(&cache).await;
    assert_eq!(bench.source.reads_total(), 1);
    assert_eq!(bench.source.reads_of_range("o/0", 0..110_000), 1);
    let file = cache.open(&object).expect("kept");
    assert_eq!(file.size, 110_000);
    assert_eq!(std::fs::read(super::support::file_of(&bench.dir(), &object)).unwrap(), all);
    expect_whole(&cache, &object, 0).await;
    assert_eq!(bench.source.reads_total(), 1);
}

/// Gives nothing to a fill before somebody waits for it.
#[derive(Debug)]
struct OnDemand(Arc<MemorySource>);

#[async_trait]
impl BlockSource for OnDemand {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        self.read_shared(object, range, &Urgency::new(priority)).await
    }

    async fn read_shared(
        &self,
        object: &Object,
        range: Range<u64>,
        urgency: &Urgency,
    ) -> Result<Bytes, ReadError> {
        urgency.until_demand().await;
        self.0.read(object, range, urgency.priority()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_fetches_hears_when_a_demand_read_joins_a_fill() {
    let bench = Bench::new();
    let next = Arc::new(OnDemand(bench.source.clone()));
    let (clock, runtime) = (bench.clock.shared(), tokio::runtime::Handle::current());
    let cache = Cache::open(bench.config(QUOTA), next, clock, runtime).unwrap();
    let objects = bench.objects(2, 10_000);
    let mut fills: Vec<_> =
        objects.iter().map(|object| cache.read(object, 0..10_000, Priority::Fill)).collect();
    assert!(fills.iter_mut().all(|fill| fill.as_mut().now_or_never().is_none()));
    // Its request is under way, not only queued.
    eventually("both to be fetched", || cache.stats().misses == 2).await;
    // Somebody reads the one, and waits for the arrival of the other.
    let arrival = cache.arrival(&objects[0]).expect("a fill is under way");
    let demand = cache.read(&objects[1], 0..10, Priority::Demand).await;
    assert_eq!(demand.unwrap(), object_bytes(1, 10_000).slice(..10));
    arrival.await;
    for (seed, fill) in (0..).zip(fills) {
        assert_eq!(fill.await.unwrap(), object_bytes(seed, 10_000));
    }
    assert_eq!((cache.stats().misses, bench.source.reads_total()), (2, 2));
    settled(&cache).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_arrival_finds_the_file_and_has_fetched_nothing() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let [small, unknown, large] = [("s", 110_000), ("u", 10), ("l", PAGE_BYTES + 1)]
        .map(|(key, size)| bench.source.insert_seeded(key, 1, size));
    assert!(cache.arrival(&small).is_none(), "nobody fetches it");
    let hold = bench.source.hold();
    let mut reads = [&small, &large].map(|object| cache.read(object, 0..1, Priority::Fill));
    reads.iter_mut().for_each(|read| assert!(read.as_mut().now_or_never().is_none()));
    let mut arrival = cache.arrival(&small).expect("on its way");
    assert!(arrival.as_mut().now_or_never().is_none());
    assert!(cache.arrival(&unknown).is_none() && cache.arrival(&large).is_none());
    hold.release();
    arrival.await;
    assert!(cache.contains(&small.id()), "written by the time it is said to be here");
    assert!(cache.arrival(&small).is_none());
    settled(&cache).await;
    assert_eq!(bench.source.reads_of_range("u", 0..10), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arrival_ends_with_a_fetch_that_fails() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.objects(1, 1000).remove(0);
    bench.source.fail_next(1, &MemorySource::unavailable());
    let hold = bench.source.hold();
    let mut read = cache.read(&object, 0..10, Priority::Fill);
    assert!(read.as_mut().now_or_never().is_none());
    let arrival = cache.arrival(&object).expect("on its way");
    hold.release();
    arrival.await;
    assert!(read.await.is_err() && !cache.contains(&object.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_reaches_all_who_wait_and_is_not_kept() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.objects(1, 1000).remove(0);
    bench.source.fail_next(1, &MemorySource::unavailable());
    let failed = cache.read(&object, 0..10, Priority::Demand).await;
    assert!(matches!(failed, Err(ReadError::Unavailable { .. })), "{failed:?}");
    eventually("the budget to be given back", || cache.stats().budget_used_bytes == 0).await;
    assert_eq!(cache.stats().flights, 0);
    expect_whole(&cache, &object, 0).await;
    let outside = cache.read(&object, 0..1001, Priority::Demand).await;
    assert!(matches!(outside, Err(ReadError::Rejected { .. })), "{outside:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_in_random_order_become_one_file() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let size = 9 * PAGE_BYTES + 777;
    let object = bench.source.insert_seeded("big", 5, size);
    let all = object_bytes(5, size);
    for page in [7, 2, 9, 0, 5, 3] {
        let at = page * PAGE_BYTES;
        let bytes = read(&cache, &object, at..at + 700).await;
        assert_eq!(bytes, all.slice(at as usize..at as usize + 700));
    }
    settled(&cache).await;
    assert!(cache.open(&object).is_none(), "a hole must not be opened");
    assert_eq!(cache.cached_bytes(&object.id()), 5 * PAGE_BYTES + 777);
    assert_eq!(bench.source.reads_total(), 6);
    for page in [8, 1, 4, 6] {
        let at = page * PAGE_BYTES;
        read(&cache, &object, at + 1..at + 2).await;
    }
    settled(&cache).await;
    assert_eq!(bench.source.reads_total(), 10, "each page once");
    assert!(cache.open(&object).is_some());
    let file = std::fs::read(super::support::file_of(&bench.dir(), &object)).unwrap();
    assert!(file == all);
    let report = cache.check(vec![object.id()], |_| ()).await;
    assert_eq!((report.progress.files, report.progress.corrupt), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_reader_is_read_ahead_of_and_a_random_one_is_not() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.source.insert_seeded("big", 5, 12 * PAGE_BYTES);
    for page in [3, 8, 5, 1] {
        read(&cache, &object, page * PAGE_BYTES..page * PAGE_BYTES + 10).await;
        settled(&cache).await;
    }
    assert_eq!(bench.source.reads_total(), 4);
    for page in [9, 10] {
        read(&cache, &object, page * PAGE_BYTES..page * PAGE_BYTES + 10).await;
    }
    settled(&cache).await;
    let log = bench.source.log();
    let last = log.last().unwrap();
    assert_eq!(log.len(), 7, "{log:?}");
    assert!(
        log.iter().any(|read| read.priority == Priority::Fill
            && read.range == (11 * PAGE_BYTES..12 * PAGE_BYTES)),
        "{last:?}"
    );
    let again = bench.source.insert_seeded("stream", 6, 12 * PAGE_BYTES);
    let all = object_bytes(6, 12 * PAGE_BYTES);
    for at in (0..12 * PAGE_BYTES).step_by(1 << 20) {
        let bytes = read(&cache, &again, at..at + (1 << 20)).await;
        assert_eq!(bytes, all.slice(at as usize..at as usize + (1 << 20)));
    }
    settled(&cache).await;
    assert_eq!(bench.source.reads("stream"), 12, "each page once");
    assert!(cache.stats().readahead_pages >= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kept_pages_the_page_cache_holds_little_of_what_was_filled() {
    let bench = Bench::new();
    let mut config = bench.config(QUOTA);
    config.keep_pages = false;
    let cache = bench.open_config(config);
    let objects = bench.objects(100, 400_000);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    let resident = || -> u64 {
        let files = objects.iter().map(|object| super::support::file_of(&bench.dir(), object));
        let output = std::process::Command::new("fincore")
            .args(["--bytes", "--noheadings", "--output", "RES"])
            .args(files)
            .output()
            .expect("fincore (util-linux) must be installed");
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).sum()
    };
    // Pages leave once they are written back, which the kernel has been told to start.
    eventually("the pages to leave", || resident() < 40_000_000 / 4).await;
    assert_eq!(bench.source.reads_total(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_in_memory_is_read_in_the_task_that_asks() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let (size, objects) = (110_000, bench.objects(1, 110_000));
    expect_whole(&cache, &objects[0], 0).await;
    settled(&cache).await;
    // Given a file whose pages are in memory, when all of it is read, then nothing is waited for;
    let mut whole = cache.read(&objects[0], 0..size, Priority::Demand);
    let read = whole.as_mut().now_or_never().expect("no other thread is asked").unwrap();
    assert!(read == object_bytes(0, size));
    // when only the disk has it, another thread waits for that;
    let path = super::support::file_of(&bench.dir(), &objects[0]);
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    expect_whole(&cache, &objects[0], 0).await;
    // and when it is not as it was written, it is fetched again.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size - 1).unwrap();
    expect_whole(&cache, &objects[0], 0).await;
    assert_eq!(bench.source.reads_total(), 2);
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_is_read_without_the_store_and_takes_no_record() {
    let bench = Bench::new();
    let cache = bench.open(QUOTA);
    let object = bench.source.insert_seeded("empty", 1, 0);
    assert_eq!(cache.read(&object, 0..0, Priority::Demand).await.unwrap().len(), 0);
    assert!(cache.open(&object).is_none() && !cache.contains(&object.id()));
    assert_eq!(cache.cached_bytes(&object.id()), 0);
    assert_eq!((bench.source.reads_total(), cache.stats().objects()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_of_a_large_object_is_told_page_by_page() {
    let bench = Bench::new();
    let object = bench.source.insert_seeded("big", 7, 4 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    read(&cache, &object, 3 * PAGE_BYTES..3 * PAGE_BYTES + 5).await;
    settled(&cache).await;
    let has = |range| cache.has(&object.id(), &range);
    assert!(has(3 * PAGE_BYTES..4 * PAGE_BYTES) && has(4 * PAGE_BYTES - 9..4 * PAGE_BYTES));
    assert!(!has(0..5) && !has(2 * PAGE_BYTES..4 * PAGE_BYTES));
    assert!(!cache.contains(&object.id()));
    expect_whole(&cache, &object, 7).await;
    settled(&cache).await;
    assert!(has(0..4 * PAGE_BYTES));
    let never = bench.source.insert_seeded("never", 8, 10);
    assert!(!cache.has(&never.id(), &(0..10)));
}
