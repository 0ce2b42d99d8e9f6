//! The loader over a shelf, and the bounds of a load of very many files.

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;

use feedline_model::ObjectId;
use feedline_model::page::PAGE_BYTES;
use feedline_testkit::{FakeClock, MemorySource, RealClock};

use super::*;
use crate::testing::{SOURCE, Shelf};

/// A cache's word for what is on a shelf; refuses what it is told to.
#[derive(Debug)]
struct Keeps {
    shelf: Arc<Shelf>,
    refused: Mutex<HashSet<ObjectId>>,
    refuses_all: Mutex<bool>,
}

#[async_trait]
impl Keeper for Keeps {
    async fn is_kept(&self, object: &Object) -> bool {
        let refuses = *self.refuses_all.lock() || self.refused.lock().contains(&object.id());
        self.shelf.contains(&object.id()) && !refuses
    }
}

struct Bed {
    source: Arc<MemorySource>,
    shelf: Arc<Shelf>,
    keeps: Arc<Keeps>,
    loader: Arc<Loader>,
}

fn bed(clock: Arc<dyn Clock>) -> Bed {
    let source = MemorySource::new(SOURCE);
    let shelf = Shelf::new(Arc::clone(&source));
    let keeps = Arc::new(Keeps {
        shelf: Arc::clone(&shelf),
        refused: Mutex::default(),
        refuses_all: Mutex::default(),
    });
    let loader = Loader::new(LoadParts {
        index: Arc::clone(&shelf) as _,
        blocks: Arc::clone(&shelf) as _,
        keeper: Arc::clone(&keeps) as _,
        clock,
        window_max: 64,
    });
    Bed { source, shelf, keeps, loader }
}

#[tokio::test]
async fn a_file_is_fetched_once_and_then_here() {
    let bed = bed(RealClock::shared());
    let large = bed.source.insert_seeded("large", 1, 3 * PAGE_BYTES + 1);
    let empty = bed.source.insert_seeded("empty", 1, 0);
    assert_eq!(bed.loader.load(&large).await, Ok(Loaded::Fetched));
    assert_eq!(bed.source.reads("large"), 4, "page by page");
    assert_eq!(bed.loader.load(&large).await, Ok(Loaded::Here));
    assert_eq!(bed.loader.load(&empty).await, Ok(Loaded::Here));
    assert_eq!(bed.source.reads_total(), 4);
    assert!(bed.source.log().iter().all(|read| read.priority == Priority::Fill));
    let error = MemorySource::unavailable();
    let other = bed.source.insert_seeded("other", 1, 10);
    bed.source.fail_next(1, &error);
    assert_eq!(bed.loader.load(&other).await, Err(error));
}

#[tokio::test]
async fn a_full_cache_is_found_out_after_a_few_files_and_asked_again_later() {
    let clock = FakeClock::new();
    let bed = bed(clock.shared());
    clock.advance(Duration::from_secs(60));
    bed.shelf.set_free_bytes(0);
    *bed.keeps.refuses_all.lock() = true;
    let objects: Vec<_> =
        (0..1_000).map(|at| bed.source.insert_seeded(&format!("o/{at}"), at, 10)).collect();
    let loads = objects.iter().map(|object| bed.loader.load(object));
    let loaded: Vec<_> = stream::iter(loads).buffer_unordered(200).collect().await;
    assert!(loaded.iter().all(|loaded| *loaded == Ok(Loaded::NoRoom)));
    let fetched = bed.source.reads_total();
    let most = REFUSALS as usize + TIGHT_AT_ONCE + 1;
    assert!((REFUSALS as usize..=most).contains(&fetched), "{fetched} fetched in vain");
    // Something has died since: the next file that asks finds out.
    *bed.keeps.refuses_all.lock() = false;
    bed.shelf.free_all();
    let before = bed.source.reads_total();
    assert_eq!(bed.loader.load(&objects[0]).await, Ok(Loaded::NoRoom), "asked a moment ago");
    assert_eq!(bed.source.reads_total(), before);
    clock.advance(PROBE_EVERY);
    assert_eq!(bed.loader.load(&objects[0]).await, Ok(Loaded::Fetched));
    assert_eq!(bed.loader.load(&objects[1]).await, Ok(Loaded::Fetched));
}

#[tokio::test]
async fn fetches_in_flight_follow_the_window_both_ways() {
    let slots = Slots::new(64);
    let first = slots.state.lock().window.size();
    let mut taken = Vec::new();
    for _ in 0..first {
        taken.push(slots.take().await);
    }
    assert_eq!(slots.free.available_permits(), 0);
    taken[0].failed();
    let fewer = slots.state.lock().window.size();
    assert!(fewer < first);
    taken.clear();
    assert_eq!(slots.free.available_permits(), fewer);
    // Every slot in use and every answer quick: it grows again, to the limit and no further.
    for _ in 0..10_000 {
        while 0 < slots.free.available_permits() {
            taken.push(slots.take().await);
        }
        taken[0].came_back(Duration::from_millis(25));
        taken.pop();
    }
    taken.clear();
    let state = slots.state.lock();
    assert_eq!((state.window.size(), state.surplus), (64, 0));
    assert_eq!((state.size, slots.free.available_permits()), (64, 64));
}

#[tokio::test]
async fn a_pace_holds_over_many_files_and_gives_back_what_was_not_fetched() {
    let clock = FakeClock::new();
    clock.advance(Duration::from_secs(10));
    let pace = Pace::new(1_000, clock.shared());
    let start = clock.monotonic();
    clock
        .run(async {
            for _ in 0..20 {
                pace.wait(500).await;
            }
        })
        .await;
    let took = clock.monotonic() - start;
    assert!((9.0..=10.0).contains(&took.as_secs_f64()), "{took:?} for 10 kB at 1 kB/s");
    pace.give_back(10_000);
    let start = clock.monotonic();
    clock.run(pace.wait(500)).await;
    assert_eq!(clock.monotonic(), start, "there is credit");
}

#[tokio::test]
async fn two_hundred_thousand_files_are_never_in_memory_together() {
    const FILES: usize = 200_000;
    const QUEUE: usize = 256;
    let (out, entries) = mpsc::channel(QUEUE);
    let (sent, begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let most = AtomicUsize::new(0);
    let lister = async {
        for at in 0..FILES {
            out.send(format!("train/n{:04}/{at:08}.jpg", at / 1_000)).await.expect("a receiver");
            let known = sent.fetch_add(1, Ordering::Relaxed) + 1 - ended.load(Ordering::Relaxed);
            most.fetch_max(known, Ordering::Relaxed);
        }
        drop(out);
    };
    let slow = Semaphore::new(16);
    let one = |name: String| {
        begun.fetch_add(1, Ordering::Relaxed);
        let slow = &slow;
        async move {
            let _permit = slow.acquire().await;
            tokio::task::yield_now().await;
            name.len()
        }
    };
    let mut bytes = 0;
    let driver = drive(entries, one, |length| {
        bytes += length;
        ended.fetch_add(1, Ordering::Relaxed);
    });
    tokio::join!(lister, driver);
    assert_eq!((begun.into_inner(), ended.into_inner()), (FILES, FILES));
    assert_eq!(bytes, FILES * "train/n0000/00000000.jpg".len());
    let most = most.into_inner();
    // The queue, what is under way, and the one that waits to get into the queue.
    assert!(most <= QUEUE + FILES_AT_ONCE + 2, "{most} known at once");
    assert!(QUEUE + FILES_AT_ONCE / 2 < most, "the bound was never met: {most}");
}
