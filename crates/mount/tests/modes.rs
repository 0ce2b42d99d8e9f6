//! The mode of an inode over every overlap of opens, mappings, completions and evictions: never
//! EIO, never a wrong byte. Through the kernel.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::{Bed, Map};
use feedline_mount::OpenMode;
use feedline_testkit::object_bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const TTL: Duration = Duration::from_secs(600);
const SIZE: u64 = 300_000;

fn all(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn read_pread_and_both_kinds_of_mmap_give_the_objects_bytes_in_both_modes() {
    let bed = Bed::new(TTL, |_| {});
    assert_eq!(bed.mount().open_mode(), (OpenMode::Passthrough, None));
    for (index, size) in [0, 1, 4095, 4096, 4097, 110_000, 5_000_000].into_iter().enumerate() {
        let seed = index as u64;
        bed.put_cached(&format!("hit-{size}"), seed, size);
        bed.put(&format!("miss-{size}"), seed, size);
        let expected = object_bytes(seed, size);
        for name in [format!("hit-{size}"), format!("miss-{size}")] {
            let mut file = File::open(bed.path(&name)).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
            assert!(all(&mut file) == expected, "{name}: read");
            let mut tail = [0; 100];
            let read = file.read_at(&mut tail, size.saturating_sub(50)).unwrap();
            assert_eq!(&tail[..read], &expected[size.saturating_sub(50) as usize..], "{name}");
            assert_eq!(file.read_at(&mut tail, size + 10).unwrap(), 0, "{name}: past the end");
            if size > 0 {
                assert!(Map::new(&file, false).bytes() == expected, "{name}: private");
                assert!(Map::new(&file, true).bytes() == expected, "{name}: shared");
            }
        }
    }
    let stats = bed.stats();
    assert_eq!((stats.passthrough_opens, stats.cached_opens), (7, 7));
}

#[test]
fn a_file_completed_while_open_stays_cached_for_all_and_is_passthrough_afterwards() {
    let bed = Bed::new(TTL, |_| {});
    let object = bed.put("a", 1, SIZE);
    let expected = object_bytes(1, SIZE);
    let mut first = File::open(bed.path("a")).unwrap();
    bed.index.complete(&object, &expected);
    let mut second = File::open(bed.path("a")).unwrap();
    assert!(all(&mut second) == expected);
    assert!(all(&mut first) == expected);
    assert_eq!(bed.stats().cached_opens, 2);
    drop((first, second));
    bed.settle();
    assert!(all(&mut File::open(bed.path("a")).unwrap()) == expected);
    assert_eq!(bed.stats().passthrough_opens, 1);
}

#[test]
fn an_open_waits_for_a_small_file_that_is_on_its_way() {
    let bed = Bed::new(TTL, |_| {});
    let object = bed.put("a", 1, SIZE);
    let expected = object_bytes(1, SIZE);
    bed.index.coming.lock().insert(object.id(), Some(expected.to_vec()));
    assert!(all(&mut File::open(bed.path("a")).unwrap()) == expected);
    assert_eq!(bed.stats().passthrough_opens, 1);
    assert_eq!(bed.stats().requests["read"], 0);
}

#[test]
fn after_an_open_has_waited_in_vain_none_waits() {
    let bed = Bed::new(TTL, |_| {});
    let waits = |number: u64| {
        let name = format!("f{number}");
        let object = bed.put(&name, number, SIZE);
        bed.index.coming.lock().insert(object.id(), None);
        let before = bed.index.awaited.load(Ordering::Relaxed);
        assert!(all(&mut File::open(bed.path(&name)).unwrap()) == object_bytes(number, SIZE));
        before < bed.index.awaited.load(Ordering::Relaxed)
    };
    assert!(waits(0));
    // A slow machine may need more than the pause for one open.
    assert!((1..20).any(|number| !waits(number)));
    assert_eq!(bed.stats().passthrough_opens, 0);
}

#[test]
fn a_mapping_of_a_cached_handle_that_outlives_it_keeps_the_mode() {
    let bed = Bed::new(TTL, |_| {});
    let object = bed.put("a", 1, SIZE);
    let expected = object_bytes(1, SIZE);
    let file = File::open(bed.path("a")).unwrap();
    let map = Map::new(&file, true);
    assert!(map.bytes()[..10] == expected[..10]);
    drop(file);
    bed.index.complete(&object, &expected);
    assert!(all(&mut File::open(bed.path("a")).unwrap()) == expected);
    assert_eq!(bed.stats().passthrough_opens, 0, "the mapping counts as an open handle");
    assert!(map.bytes() == expected);
    drop(map);
    bed.settle();
    assert!(all(&mut File::open(bed.path("a")).unwrap()) == expected);
    assert_eq!(bed.stats().passthrough_opens, 1);
}

/// The kernel hands a mapping of a passthrough handle over to the backing file and lets go of the
/// handle: the mapping is no handle of ours any more, and needs none.
#[test]
fn a_passthrough_mapping_outlives_its_handle_and_the_eviction_of_its_file() {
    let bed = Bed::new(TTL, |_| {});
    let object = bed.put_cached("a", 1, SIZE);
    let expected = object_bytes(1, SIZE);
    let file = File::open(bed.path("a")).unwrap();
    let map = Map::new(&file, false);
    assert!(!bed.index.evict(&object.id()), "in use while the handle is open");
    drop(file);
    bed.until("the handle's RELEASE", || bed.requests("release") == 1);
    assert!(bed.index.evict(&object.id()), "only an idle backing id is left");
    let mut fetched_anew = File::open(bed.path("a")).unwrap();
    assert!(all(&mut fetched_anew) == expected, "in cached mode, beside the mapping");
    assert!(map.bytes() == expected, "faulted in after the eviction");
    assert_eq!(bed.stats().cached_opens, 1);
}

#[test]
fn the_observer_learns_who_opened_what_in_both_modes() {
    for open in [OpenMode::Passthrough, OpenMode::None] {
        let bed = Bed::new(TTL, |config| config.open = open);
        bed.put_cached("d/hit", 1, SIZE);
        bed.put("d/miss", 2, SIZE);
        for name in ["d/miss", "d/hit"] {
            assert_eq!(all(&mut File::open(bed.path(name)).unwrap()).len() as u64, SIZE);
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let seen = |key: &str, is_hit| (thread, "d".to_owned(), key.to_owned(), is_hit);
        let expected = [seen("d/miss", false), seen("d/hit", true)];
        assert_eq!(*bed.accesses.0.lock(), expected, "{open}");
    }
}

#[test]
fn a_hot_reopen_takes_the_backing_id_of_the_open_before() {
    let bed = Bed::new(TTL, |_| {});
    bed.put_cached("a", 1, SIZE);
    for _ in 0..5 {
        assert!(all(&mut File::open(bed.path("a")).unwrap()) == object_bytes(1, SIZE));
        bed.settle();
    }
    assert_eq!(bed.index.opens.load(Ordering::Relaxed), 1);
    assert_eq!(bed.index.touches.load(Ordering::Relaxed), 4);
    assert_eq!(bed.stats().reused_opens, 4);
}

#[test]
fn idle_backing_ids_stay_within_their_bound() {
    let bed = Bed::new(TTL, |config| config.idle_backing_max = 10);
    for index in 0..200 {
        bed.put_cached(&format!("f{index:03}"), index, 5_000);
    }
    for round in 0..2 {
        for index in 0..200 {
            let mut file = File::open(bed.path(&format!("f{index:03}"))).unwrap();
            assert!(all(&mut file) == object_bytes(index, 5_000), "round {round}");
        }
    }
    assert!(bed.stats().backing_ids <= 12, "{}", bed.stats().backing_ids);
}

#[test]
fn a_read_ahead_hint_on_a_passthrough_handle_is_answered() {
    let bed = Bed::new(TTL, |_| {});
    bed.put_cached("a", 1, SIZE);
    let mut file = File::open(bed.path("a")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed).unwrap();
    Map::new(&file, false).will_need();
    bed.until("the hint's READ", || bed.requests("read") > 0);
    assert!(all(&mut file) == object_bytes(1, SIZE));
}

/// One file with what threads do to it at random.
fn disturb(bed: &Bed, rng: &mut StdRng, objects: &[(feedline_model::Object, u64)]) {
    let (object, seed) = &objects[rng.random_range(0..objects.len())];
    let size = object.version.size;
    match rng.random_range(0..10) {
        0 => {
            bed.index.evict(&object.id());
        }
        1 => bed.index.complete(object, &object_bytes(*seed, size)),
        _ => {
            let mut file = File::open(bed.path(&object.key)).expect("open: never EIO");
            let expected = object_bytes(*seed, size);
            if rng.random_bool(0.5) {
                let map = Map::new(&file, rng.random_bool(0.5));
                drop(file);
                if rng.random_bool(0.3) {
                    map.will_need();
                }
                assert!(map.bytes() == expected, "mapped bytes of {}", object.key);
            } else if rng.random_bool(0.5) {
                assert!(all(&mut file) == expected, "bytes of {}", object.key);
            }
        }
    }
}

#[test]
fn eight_threads_of_random_opens_maps_completions_and_evictions_never_fail() {
    let bed = Arc::new(Bed::new(TTL, |config| config.idle_backing_max = 6));
    let objects: Arc<Vec<_>> = (0..12)
        .map(|seed| (bed.put(&format!("f{seed}"), seed, 10_000 + seed * 7_919), seed))
        .collect::<Vec<_>>()
        .into();
    let failed = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..8)
        .map(|seed| {
            let (bed, objects) = (Arc::clone(&bed), Arc::clone(&objects));
            let (failed, done) = (Arc::clone(&failed), Arc::clone(&done));
            std::thread::Builder::new()
                .spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed);
                    while done.fetch_add(1, Ordering::Relaxed) < 12_000
                        && !failed.load(Ordering::Relaxed)
                    {
                        let step = std::panic::AssertUnwindSafe(|| {
                            disturb(&bed, &mut rng, &objects);
                        });
                        if let Err(panic) = std::panic::catch_unwind(step) {
                            failed.store(true, Ordering::Relaxed);
                            std::panic::resume_unwind(panic);
                        }
                    }
                })
                .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().expect("a thread saw an error or a wrong byte");
    }
    let stats = bed.stats();
    assert_eq!(stats.errors, 0);
    assert!(stats.passthrough_opens > 100 && stats.cached_opens > 100, "{stats:?}");
}
