//! What data loaders do, counted in requests; slow reads beside fast ones; memory.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bed, Map};
use feedline_testkit::object_bytes;

const TTL: Duration = Duration::from_secs(600);
const SIZE: u64 = 128_000;

fn is_terminal(file: &File) -> bool {
    rustix::termios::isatty(file)
}

/// PIL: open, fstat, ioctl(TCGETS), lseek, reads of 4 K, 60 K, 64 K.
fn torch(bed: &Bed, key: &str) -> Vec<u8> {
    let mut file = File::open(bed.path(key)).unwrap();
    let size = file.metadata().unwrap().len() as usize;
    assert!(!is_terminal(&file));
    assert_eq!(file.stream_position().unwrap(), 0);
    let mut bytes = vec![0; size];
    let (first, rest) = bytes.split_at_mut(4 << 10);
    file.read_exact(first).unwrap();
    for part in rest.chunks_mut(60 << 10) {
        file.read_exact(part).unwrap();
    }
    bytes
}

/// DALI: open, fstat, mmap(PRIVATE), close, madvise(WILLNEED), page faults, munmap.
fn dali(bed: &Bed, key: &str) -> Vec<u8> {
    let file = File::open(bed.path(key)).unwrap();
    let map = Map::new(&file, false);
    drop(file);
    map.will_need();
    map.bytes().to_vec()
}

#[test]
fn a_loader_on_cached_files_sends_open_and_release_and_nothing_for_the_bytes() {
    let bed = Bed::new(TTL, |_| {});
    for index in 0..20 {
        bed.put_cached(&format!("t{index}"), index, SIZE);
        bed.put_cached(&format!("d{index}"), index, SIZE);
    }
    for index in 0..20 {
        assert!(torch(&bed, &format!("t{index}")) == object_bytes(index, SIZE));
        assert!(dali(&bed, &format!("d{index}")) == object_bytes(index, SIZE));
    }
    bed.settle();
    let requests = bed.stats().requests;
    let of = |name: &str| requests[name];
    assert_eq!((of("open"), of("release"), of("lookup")), (40, 40, 40));
    assert_eq!(of("ioctl"), 20, "torch asks whether it is a terminal");
    // The one GETATTR may be for the root, before its first lookup.
    assert!(of("read") == 0 && of("getattr") <= 1, "{requests:?}");
}

#[test]
fn a_loader_on_files_not_cached_yet_fetches_each_once_and_reads_ahead() {
    let bed = Bed::new(TTL, |_| {});
    bed.chain.publish.store(true, Ordering::Relaxed);
    for index in 0..20 {
        bed.put(&format!("t{index}"), index, SIZE);
        bed.put(&format!("d{index}"), index, SIZE);
    }
    for index in 0..20 {
        assert!(torch(&bed, &format!("t{index}")) == object_bytes(index, SIZE));
        assert!(dali(&bed, &format!("d{index}")) == object_bytes(index, SIZE));
    }
    let requests = bed.stats().requests;
    assert!(requests["read"] <= 20 * 4 + 20 * 2, "{requests:?}");
}

#[test]
fn opening_does_not_fetch() {
    let bed = Bed::new(TTL, |_| {});
    bed.put("a", 1, SIZE);
    for _ in 0..10 {
        let file = File::open(bed.path("a")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
    }
    assert_eq!(bed.source.reads_total(), 0);
}

#[test]
fn reads_that_wait_for_the_bucket_do_not_hold_up_anything_else() {
    let bed = Bed::new(TTL, |config| config.threads = 2);
    bed.put("slow", 1, SIZE);
    bed.put_cached("fast", 2, SIZE);
    fs::metadata(bed.path("fast")).unwrap();
    let hold = bed.source.hold();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..16)
            .map(|index| {
                let path = bed.path("slow");
                scope.spawn(move || {
                    let mut bytes = [0; 100];
                    let file = File::open(path).unwrap();
                    file.read_exact_at(&mut bytes, index * 5_000).unwrap();
                    bytes
                })
            })
            .collect();
        bed.runtime.block_on(bed.source.wait_for_reads(1));
        assert!(fs::read(bed.path("fast")).unwrap() == object_bytes(2, SIZE));
        assert_eq!(fs::read_dir(&bed.root).unwrap().count(), 2);
        assert!(bed.runtime.block_on(bed.mount().ping(Duration::from_secs(5))));
        hold.release();
        for (index, reader) in waiting.into_iter().enumerate() {
            let start = index * 5_000;
            let expected = &object_bytes(1, SIZE)[start..start + 100];
            assert_eq!(reader.join().unwrap(), expected);
        }
    });
}

fn cached_kib() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("Cached:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Pages of the file that are in memory, by `mincore`.
fn resident_pages(file: &File) -> usize {
    let map = Map::new(file, true);
    map.resident()
}

#[test]
fn after_a_cold_read_the_kernels_own_copy_of_a_completed_file_is_dropped() {
    let bed = Bed::new(TTL, |_| {});
    bed.chain.publish.store(true, Ordering::Relaxed);
    let count = 400;
    for index in 0..count {
        bed.put(&format!("f{index}"), index, SIZE);
    }
    let before = cached_kib();
    for index in 0..count {
        assert!(fs::read(bed.path(&format!("f{index}"))).unwrap() == object_bytes(index, SIZE));
    }
    bed.until("pages dropped", || bed.stats().invalidations >= count);
    let grown = cached_kib() - before;
    let set = (count * SIZE / 1024) as i64;
    // Other processes use the page cache too, so the bound is loose: two copies would be 2.0.
    assert!(grown < set * 3 / 2, "{grown} KiB for a set of {set} KiB");
    // And the copy that stays is the one that passthrough reads.
    let file = File::open(bed.path("f0")).unwrap();
    assert_eq!(resident_pages(&file), SIZE.div_ceil(4096) as usize);
    assert_eq!(bed.stats().passthrough_opens, 1);
}
