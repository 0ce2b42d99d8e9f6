//! Fill as a whole: accesses in, reads of the next link out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use feedline_model::page::PAGE_BYTES;
use feedline_model::{
    Access, AccessObserver as _, Clock, Keeping, NextUse, Object, ObjectId, ObjectIndex as _,
    Ownership, Priority,
};
use feedline_oracle::dali_order;
use feedline_testkit::{MemorySource, RealClock};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::runtime::Handle;

use crate::push::FILES_AHEAD;
use crate::testing::{FixedTree, SOURCE, Shelf};
use crate::{Fill, FillConfig, FillParts, FillStatus, Liveness, OrderHint, OrderMemory};

mod forget;
mod hints;
mod memory;

/// A data set behind a fill.
struct Bed {
    fill: Arc<Fill>,
    source: Arc<MemorySource>,
    shelf: Arc<Shelf>,
    objects: Vec<Object>,
    alive: Arc<AtomicBool>,
}

/// `folders` class folders of `files` files of `size` bytes below `train`.
fn bed_of(folders: usize, files: usize, size: u64, config: FillConfig) -> Bed {
    bed_among(folders, files, size, config, None)
}

/// Among nodes that share a cache: every fourth file is this node's to keep, and what becomes of the
/// others.
#[derive(Debug)]
struct Fourth(HashSet<ObjectId>, Keeping);

impl Ownership for Fourth {
    fn keeping(&self, id: &ObjectId) -> Keeping {
        if self.0.contains(id) { Keeping::Own } else { self.1 }
    }

    fn has_copies(&self) -> bool {
        self.1 == Keeping::Copy
    }
}

fn bed_among(
    folders: usize,
    files: usize,
    size: u64,
    config: FillConfig,
    others: Option<Keeping>,
) -> Bed {
    bed_with(folders, files, size, config, others, None)
}

fn bed_with(
    folders: usize,
    files: usize,
    size: u64,
    config: FillConfig,
    others: Option<Keeping>,
    memory: Option<Arc<dyn OrderMemory>>,
) -> Bed {
    let source = MemorySource::new(SOURCE);
    let mut objects = Vec::new();
    for folder in 0..folders {
        for file in 0..files {
            let key = format!("train/c{folder:03}/{file:05}.jpg");
            objects.push(source.insert_seeded(&key, 1, size));
        }
    }
    let tree = FixedTree::of(objects.iter().map(|o| (&*o.key, o.version.clone())));
    let shelf = Shelf::new(Arc::clone(&source));
    let alive = Arc::new(AtomicBool::new(true));
    let is_alive = Arc::clone(&alive);
    let parts = FillParts {
        tree: Arc::new(tree),
        index: Arc::clone(&shelf) as _,
        blocks: Arc::clone(&shelf) as _,
        ownership: others.map(|others| {
            let own = objects.iter().step_by(4).map(Object::id).collect();
            Arc::new(Fourth(own, others)) as _
        }),
        memory,
        clock: Arc::new(RealClock::new()) as Arc<dyn Clock>,
        runtime: Handle::current(),
        liveness: Liveness::new(move |_| is_alive.load(Ordering::SeqCst)),
    };
    Bed { fill: Fill::start(config, parts), source, shelf, objects, alive }
}

fn bed(folders: usize, files: usize) -> Bed {
    bed_of(folders, files, 100, FillConfig::default())
}

impl Bed {
    fn access(&self, process: u32, index: usize) {
        let object = &self.objects[index];
        let parent = object.key.rsplit_once('/').expect("in a folder").0.into();
        let is_hit = self.shelf.contains(&object.id());
        self.fill.accessed(Access { process, parent: &parent, object, is_hit });
    }

    /// An order that no sampler has.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.objects.len()).collect();
        order.shuffle(&mut StdRng::seed_from_u64(11));
        order
    }

    /// The first accesses of that order.
    fn scatter(&self, count: usize) {
        self.order()[..count].iter().for_each(|index| self.access(1, *index));
    }

    async fn until(&self, what: &str, done: impl Fn(&FillStatus) -> bool) -> FillStatus {
        for _ in 0..10_000 {
            let status = self.fill.status();
            if done(&status) {
                return status;
            }
            RealClock::new().sleep(Duration::from_millis(2)).await;
        }
        panic!("not within 20 s: {what}: {:?}", self.fill.status());
    }

    /// Waits until no fetch is in flight and the set is in this state.
    async fn until_state(&self, state: &str) -> FillStatus {
        let is_so = |status: &FillStatus| {
            status.in_flight == 0 && status.scans.first().is_some_and(|scan| scan.state == state)
        };
        self.until(state, is_so).await
    }

    fn reads_by_key(&self) -> HashMap<Arc<str>, usize> {
        let mut reads = HashMap::new();
        for read in self.source.log() {
            assert_eq!(read.priority, Priority::Fill);
            *reads.entry(read.key).or_default() += 1;
        }
        reads
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_brings_every_file_once() {
    let bed = bed(5, 100);
    bed.scatter(8);
    let status = bed.until_state("complete").await;
    assert_eq!((status.files, status.failed), (500, 0));
    let scan = &status.scans[0];
    assert_eq!((&*scan.root, scan.files, scan.handled), ("train", 500, 500));
    let reads = bed.reads_by_key();
    assert!(reads.len() == 500 && reads.values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_fetched_again() {
    let bed = bed(5, 100);
    bed.objects[..450].iter().for_each(|object| bed.shelf.keep(object.id()));
    bed.scatter(8);
    bed.until_state("complete").await;
    assert_eq!(bed.reads_by_key().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_freed_is_fetched_again_when_it_is_read_again() {
    let bed = bed(5, 100);
    bed.scatter(8);
    bed.until_state("complete").await;
    bed.shelf.free_all();
    bed.source.clear_log();
    // Some accesses of what is known to be complete are not reported while all hit; these miss.
    bed.scatter(20);
    bed.until("all again", |status| status.files == 1_000).await;
    assert_eq!(bed.reads_by_key().len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_a_few_files_fetches_nothing() {
    let bed = bed(5, 100);
    bed.scatter(7);
    // A ninth and tenth access of the same files are no evidence either.
    bed.scatter(7);
    RealClock::new().sleep(Duration::from_millis(100)).await;
    assert!(bed.fill.status().scans.is_empty());
    assert_eq!(bed.source.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn fill_runs_ahead_of_the_reads_by_a_bounded_number_of_files() {
    let bed = bed(4, 2_000);
    bed.scatter(8);
    let first = bed.until_state("waiting for reads").await;
    assert!((2_048..=2_400).contains(&first.files), "{}", first.files);
    bed.scatter(100);
    bed.until_state("complete").await;
    assert_eq!(bed.reads_by_key().len(), 8_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_fetches_nothing_and_still_knows_what_is_read() {
    let bed = bed_of(5, 100, 100, FillConfig { enabled: false, ..FillConfig::default() });
    bed.scatter(20);
    let status = bed.until_state("off").await;
    assert!(0 < status.scans[0].read);
    assert_eq!(bed.source.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_chooses_the_files() {
    let patterns = vec![glob::Pattern::new("train/c00[12]/*").expect("a pattern")];
    let bed = bed_of(5, 100, 100, FillConfig { patterns, ..FillConfig::default() });
    bed.scatter(8);
    bed.until_state("complete").await;
    let reads = bed.reads_by_key();
    assert_eq!(reads.len(), 200);
    assert!(reads.keys().all(|key| key.contains("/c001/") || key.contains("/c002/")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_stops_it_and_space_lets_it_go_on() {
    let bed = bed(5, 100);
    bed.shelf.set_free_bytes(1_000);
    bed.scatter(8);
    let status = bed.until_state("cache full").await;
    assert_eq!(status.files, 0);
    bed.shelf.set_free_bytes(u64::MAX);
    bed.until_state("complete").await;
    assert_eq!(bed.reads_by_key().len(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_cache_what_was_read_makes_room_for_what_was_not() {
    let config = FillConfig { oracle: false, ..FillConfig::default() };
    let bed = bed_of(5, 100, 100, config);
    bed.shelf.set_free_bytes(0);
    let order = bed.order();
    order[..100].iter().for_each(|index| bed.shelf.keep(bed.objects[*index].id()));
    bed.scatter(100);
    let status = bed.until_state("cache full").await;
    // As many as were read, none of them among those.
    let reads = bed.reads_by_key();
    assert!((80..=100).contains(&reads.len()), "{}", reads.len());
    assert_eq!(status.files, reads.len() as u64);
    assert!(order[..100].iter().all(|index| !reads.contains_key(&bed.objects[*index].key)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_cache_a_known_order_is_fetched_a_little_ahead_and_not_as_far_as_it_may() {
    let bed = bed_of(1, 1_000, 100, FillConfig { window_max: 1, ..FillConfig::default() });
    bed.shelf.set_free_bytes(0);
    (900..1_000).for_each(|index| bed.shelf.keep(bed.objects[index].id()));
    let hold = bed.source.hold();
    bed.backwards(0, 100);
    bed.until("a verdict", |status| status.scans.first().is_some_and(|it| it.order == "reversed"))
        .await;
    hold.release();
    bed.until_state("cache full").await;
    let ahead = |from: usize, to: usize| {
        let reads = bed.reads_by_key();
        (from..to).filter(|turn| reads.contains_key(&bed.objects[999 - turn].key)).count()
    };
    // One may have been asked for before the verdict.
    assert_eq!(ahead(100, 164), 64);
    assert!(ahead(164, 1_000) <= 1, "{} too far ahead", ahead(164, 1_000));
    bed.backwards(100, 30);
    bed.until("the window to move on", |_| ahead(164, 194) == 30).await;
    assert!(ahead(194, 1_000) <= 1, "{} too far ahead", ahead(194, 1_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_one_folder_counts_when_its_parent_becomes_the_set() {
    let bed = bed_of(2, 100, 100, FillConfig { enabled: false, ..FillConfig::default() });
    (0..60).for_each(|index| bed.access(1, index));
    let read = |status: &FillStatus| status.scans.first().map_or(0, |scan| scan.read);
    let status = bed.until("the flat set", |status| read(status) == 60).await;
    assert_eq!((&*status.scans[0].root, status.scans[0].files), ("train/c000", 100));
    (100..110).for_each(|index| bed.access(2, index));
    let status = bed.until("the whole set", |status| read(status) == 70).await;
    assert_eq!((status.scans.len(), &*status.scans[0].root), (1, "train"));
    assert_eq!(status.scans[0].readers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cache_that_nothing_hits_is_left_alone() {
    let bed = bed(5, 100);
    bed.shelf.set_free_bytes(0);
    bed.scatter(300);
    bed.until_state("cache full").await;
    assert_eq!(bed.source.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_part_gets_no_other_part_into_a_full_cache() {
    let config = FillConfig { oracle: false, ..FillConfig::default() };
    let bed = bed_of(5, 100, 100, config);
    bed.shelf.set_free_bytes(0);
    let part = bed.order()[..100].to_vec();
    part.iter().for_each(|index| bed.shelf.keep(bed.objects[*index].id()));
    for _ in 0..5 {
        part.iter().for_each(|index| bed.access(1, *index));
    }
    bed.until_state("cache full").await;
    // It is found out in the second epoch; by then as many were fetched as were read.
    assert!(bed.source.reads_total() <= 100, "{}", bed.source.reads_total());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_comes_page_by_page() {
    let bed = bed_of(2, 5, 2 * PAGE_BYTES + 10, FillConfig::default());
    (0..10).for_each(|index| bed.access(1, index));
    let status = bed.until_state("complete").await;
    assert_eq!((status.files, status.bytes), (10, 10 * (2 * PAGE_BYTES + 10)));
    let reads = bed.source.log();
    assert_eq!(reads.len(), 30);
    assert!(reads.iter().all(|read| read.range.end - read.range.start <= PAGE_BYTES));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fetch_is_tried_again_if_that_may_help_and_never_for_ever() {
    let bed = bed(2, 10);
    let keys: Vec<_> = bed.objects.iter().map(|object| Arc::clone(&object.key)).collect();
    bed.source.fail_key(&keys[0], 1, &MemorySource::unavailable());
    bed.source.fail_key(&keys[1], 10, &MemorySource::unavailable());
    bed.source.remove(&keys[2]);
    bed.scatter(10);
    bed.until_state("complete").await;
    let status = bed.until("both tried thrice", |status| status.failed == 1 + 3 + 1).await;
    assert_eq!(status.files, 18);
    let reads = bed.reads_by_key();
    assert_eq!((reads[&keys[0]], reads[&keys[1]], reads[&keys[2]]), (2, 3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_known_is_the_order_of_the_fetches() {
    // Few fetches at a time show the order; from the end to the start, which no sweep does.
    let bed = bed_of(1, 800, 100, FillConfig { window_max: 1, ..FillConfig::default() });
    let hold = bed.source.hold();
    (0..40).for_each(|turn| bed.access(3, 799 - turn));
    let known = |status: &FillStatus| status.scans.first().is_some_and(|scan| scan.known_after > 0);
    let status = bed.until("a verdict", known).await;
    assert_eq!(status.scans[0].order, "reversed");
    hold.release();
    bed.until_state("complete").await;
    let log = bed.source.log();
    let numbers: Vec<usize> = log
        .iter()
        .map(|read| bed.objects.iter().position(|o| o.key == read.key).expect("of the set"))
        .collect();
    // What was in flight before the verdict came in the order of the sweep.
    let from = numbers.iter().position(|number| *number == 759).expect("the next of the reader");
    assert!(from <= 300, "{from}");
    let next: Vec<usize> = (0..100).map(|step| 759 - step).collect();
    assert_eq!(numbers[from..from + 100], next);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_known_order_what_others_keep_and_nobody_here_reads_is_left_to_them() {
    let config = FillConfig { window_max: 1, ..FillConfig::default() };
    let bed = bed_among(1, 800, 100, config, Some(Keeping::Copy));
    let hold = bed.source.hold();
    let order = dali_order(800);
    let shard = &order[..200];
    shard[..60].iter().for_each(|at| bed.access(3, *at as usize));
    let known = |status: &FillStatus| status.scans.first().is_some_and(|scan| scan.known_after > 0);
    bed.until("a verdict", known).await;
    hold.release();
    bed.until_state("complete").await;
    let reads = bed.reads_by_key();
    let is_read = |at: usize| reads.contains_key(&bed.objects[at].key);
    let next: Vec<usize> = shard[60..].iter().map(|at| *at as usize).collect();
    assert!(next.iter().all(|at| is_read(*at)), "all that is read next");
    assert!((0..800).step_by(4).all(is_read), "all that is this node's to keep");
    let others = (0..800).filter(|at| at % 4 != 0 && !next.contains(at) && is_read(*at)).count();
    // Where its shard ends cannot be seen from one reader: it is taken to go on for a while.
    assert!(others <= 250, "{others} of 495 that others keep and read");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_beyond_the_ends_of_the_shards_is_left_to_others_until_a_reader_goes_on() {
    let config = FillConfig { window_max: 1, ..FillConfig::default() };
    let bed = bed_among(1, 1_600, 100, config, Some(Keeping::Copy));
    let hold = bed.source.hold();
    // The readers of two shards of eight, as on one node of four.
    let order = dali_order(1_600);
    for turn in 0..60 {
        bed.access(3, order[800 + turn] as usize);
        bed.access(4, order[1_000 + turn] as usize);
    }
    let both = |status: &FillStatus| {
        status.scans.first().is_some_and(|scan| scan.order.contains("8 shards"))
    };
    bed.until("a verdict on both", both).await;
    hold.release();
    bed.until_state("complete").await;
    let shards: HashSet<usize> = order[800..1_200].iter().map(|at| *at as usize).collect();
    let is_others = |at: &usize| !at.is_multiple_of(4) && !shards.contains(at);
    let reads = bed.reads_by_key();
    let is_read = |at: &usize| reads.contains_key(&bed.objects[*at].key);
    // One may have been asked for before the verdict.
    let others: Vec<usize> = (0..1_600).filter(is_others).filter(is_read).collect();
    assert!(others.len() <= 1, "{others:?} are others' to keep and to read");
    for turn in 60..205 {
        bed.access(4, order[1_000 + turn] as usize);
    }
    let next: Vec<usize> = order[1_205..1_400].iter().map(|at| *at as usize).collect();
    let is_read = |at: &usize| bed.reads_by_key().contains_key(&bed.objects[*at].key);
    bed.until("what comes after its shard", |_| next.iter().all(is_read)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_order_that_stays_unknown_what_others_keep_is_copied_after_all() {
    let bed = bed_among(5, 100, 100, FillConfig::default(), Some(Keeping::Copy));
    bed.scatter(8);
    bed.until_state("complete").await;
    assert_eq!(bed.reads_by_key().len(), 125, "its own at first");
    bed.scatter(120);
    bed.until("all", |_| bed.reads_by_key().len() == 500).await;
    bed.until_state("complete").await;
    assert!(bed.reads_by_key().values().all(|count| *count == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_kept_here_is_left_to_its_owner_and_missed_without_consequence() {
    let bed = bed_among(5, 100, 100, FillConfig::default(), Some(Keeping::Pass));
    bed.scatter(8);
    bed.until_state("complete").await;
    bed.scatter(240);
    // Every fourth of what was read may be a hit, which is not reported while all is here.
    bed.until("they were seen", |status| status.scans[0].read >= 160).await;
    bed.until_state("complete").await;
    assert_eq!(bed.reads_by_key().len(), 125, "what is its own");
    assert_eq!(bed.source.reads_total(), 125, "once");
}

/// A set that is complete here before anybody reads, and not in memory.
fn kept(config: FillConfig) -> Bed {
    let bed = bed_of(1, 3_000, 100, config);
    bed.objects.iter().for_each(|object| bed.shelf.keep(object.id()));
    bed
}

impl Bed {
    /// Accesses from the last file to the first, beginning with number `from` of these.
    fn backwards(&self, from: usize, count: usize) {
        (from..from + count).for_each(|turn| self.access(3, self.objects.len() - 1 - turn));
    }

    /// The numbers of the files pushed, counted from the last one.
    fn pushed(&self) -> Vec<usize> {
        let number = |key: &Arc<str>| self.objects.iter().rev().position(|it| it.key == *key);
        self.shelf.pushed().iter().map(|key| number(key).expect("of the set")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_next_is_pushed_in_the_order_of_the_reads() {
    let bed = kept(FillConfig::default());
    bed.backwards(0, 40);
    let last = |bed: &Bed| bed.pushed().into_iter().max();
    let status = bed.until("pushes", |_| last(&bed) == Some(40 + FILES_AHEAD - 1)).await;
    let set = &status.scans[0];
    assert_eq!((&*set.push, &*set.order, set.watched), ("ahead", "reversed", true));
    // Four jobs of sixteen files run at once, so a file may come that much early or late; one whose
    // thread the machine forgets for a while comes later still.
    let pushed = bed.pushed();
    let first = *pushed.iter().min().expect("some");
    assert!(first <= 40, "{first}");
    let is_near = |(place, number): &(usize, &usize)| (first + place).abs_diff(**number) < 64;
    let near = pushed.iter().enumerate().filter(is_near).count();
    assert!(pushed.len() / 2 < near, "{near} of {} in order: {pushed:?}", pushed.len());
    bed.backwards(40, 100);
    bed.until("as many more", |_| last(&bed) == Some(140 + FILES_AHEAD - 1)).await;
    let all = 140 + FILES_AHEAD - first;
    let status = bed.until("all of them", |it| it.pushed_files == all as u64).await;
    assert_eq!((status.files, status.pushed_bytes), (0, 100 * all as u64));
    assert_eq!(bed.pushed().into_iter().collect::<HashSet<_>>().len(), all, "none twice");
    assert_eq!(bed.source.reads_total(), 0, "nothing was asked of the bucket");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_memory_is_not_pushed_and_soon_nobody_watches() {
    let bed = kept(FillConfig::default());
    bed.objects.iter().for_each(|object| bed.shelf.bring_in(object.id()));
    bed.backwards(0, 100);
    let asleep = |status: &FillStatus| {
        status.scans.first().is_some_and(|set| set.push == "in memory" && !set.watched)
    };
    bed.until("sleep", asleep).await;
    bed.backwards(100, 200);
    bed.until("still asleep", asleep).await;
    assert_eq!(bed.fill.status().pushed_files, 0);
    // The pages go, and the reads go on: a few of the accesses that are not reported show it.
    bed.shelf.drop_pages();
    for turn in 30..2_000 {
        bed.backwards(turn % 300 * 10, 10);
        if bed.fill.status().pushed_files >= 100 {
            return;
        }
        RealClock::new().sleep(Duration::from_millis(10)).await;
    }
    panic!("not woken: {:?}", bed.fill.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_order_and_a_switch_push_nothing() {
    let bed = kept(FillConfig::default());
    bed.scatter(1_000);
    let looked = |status: &FillStatus| {
        status.scans.first().is_some_and(|set| set.state == "complete" && set.read > 900)
    };
    let status = bed.until("the accesses", looked).await;
    assert_eq!((&*status.scans[0].push, status.pushed_files), ("order unknown", 0));
    let off = [
        FillConfig { oracle: false, ..FillConfig::default() },
        FillConfig { enabled: false, ..FillConfig::default() },
        FillConfig { push_bytes_max: 0, ..FillConfig::default() },
    ];
    for config in off {
        let bed = kept(config);
        bed.backwards(0, 100);
        let status = bed.until("no watch", |it| it.scans.first().is_some_and(|it| !it.watched));
        assert_eq!(status.await.scans[0].push, "off");
        assert_eq!(bed.shelf.looks(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eviction_learns_what_is_still_to_be_read() {
    let config = FillConfig { oracle: false, ..FillConfig::default() };
    let bed = bed_of(5, 100, 100, config);
    bed.scatter(50);
    bed.until_state("complete").await;
    let known = |index: usize| bed.fill.next_use(&bed.objects[index].id());
    let _ = known(0);
    bed.until("the table", |_| known(0) != NextUse::Unknown).await;
    bed.access(1, 7);
    bed.until("the access", |_| known(7) == NextUse::NextEpoch).await;
    let unread = (0..500).filter(|index| known(*index) == NextUse::ThisEpoch).count();
    assert!((440..=460).contains(&unread), "{unread}");
    let mut stranger = bed.objects[0].clone();
    stranger.key = "other".into();
    assert_eq!(bed.fill.next_use(&stranger.id()), NextUse::Unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_with_the_node() {
    let bed = bed(5, 100);
    let hold = bed.source.hold();
    bed.scatter(8);
    bed.until("fetches", |status| status.in_flight > 0).await;
    bed.alive.store(false, Ordering::SeqCst);
    bed.fill.stop().await;
    drop(hold);
    bed.scatter(100);
    RealClock::new().sleep(Duration::from_millis(50)).await;
    assert!(bed.source.reads_total() <= 64, "nothing was started after the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_bucket_holds_back_what_may_wait_and_not_what_is_known_to_be_read_next() {
    for (is_known, in_flight) in [(true, 32), (false, 4)] {
        let bed = bed_of(1, 2_000, 100, FillConfig { window_max: 64, ..FillConfig::default() });
        let slow_down = |ms| bed.source.delay(RealClock::shared(), Duration::from_millis(ms));
        slow_down(2);
        if is_known {
            let hint = OrderHint::Positions((0..2_000).rev().collect());
            bed.fill.hint("train", 0, &hint).expect("positions");
        } else {
            bed.scatter(8);
        }
        bed.until("a time to compare with", |status| status.files >= 64).await;
        slow_down(200);
        let narrow = |status: &FillStatus| status.window == 4 && status.in_flight == in_flight;
        bed.until("the narrowest window", narrow).await;
    }
}
