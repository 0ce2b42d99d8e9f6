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

/// The number of cachestat(2) on every architecture that we build for.
const CACHESTAT: libc::c_long = 451;

/// Pages of the page cache that belong to this file: of the mount's own inode for a file of the
/// mount, whatever its mode, since that is where the kernel would keep a copy of its own.
#[expect(unsafe_code, reason = "cachestat(2) has no wrapper")]
fn cached_pages(file: &File) -> u64 {
    use std::os::fd::AsRawFd;
    let range = [0_u64; 2];
    let mut found = [0_u64; 5];
    // SAFETY: an open descriptor, and live memory of the sizes that cachestat(2) asks for.
    let result = unsafe {
        let range = range.as_ptr();
        libc::syscall(CACHESTAT, file.as_raw_fd(), range, found.as_mut_ptr(), 0)
    };
    assert_eq!(result, 0, "cachestat needs Linux 6.5");
    found[0]
}

#[test]
fn after_a_cold_read_the_kernels_own_copy_of_a_completed_file_is_dropped() {
    let bed = Bed::new(TTL, |_| {});
    bed.chain.publish.store(true, Ordering::Relaxed);
    let count = 1_000;
    for index in 0..count {
        bed.put(&format!("f{index}"), index, SIZE);
    }
    for index in 0..count {
        assert!(fs::read(bed.path(&format!("f{index}"))).unwrap() == object_bytes(index, SIZE));
    }
    bed.until("pages dropped", || bed.stats().invalidations >= count);
    let (mut ours, mut backing) = (0, 0);
    for index in 0..count {
        let key = format!("f{index}");
        ours += cached_pages(&File::open(bed.path(&key)).unwrap());
        let id = bed.source.object(&key).unwrap().id();
        backing += cached_pages(&File::open(bed.index.dir.join(id.to_string())).unwrap());
    }
    let set = count * SIZE.div_ceil(4096);
    assert!(ours <= set / 100, "{ours} pages of {set} are kept twice");
    // The copy that stays is the one that passthrough reads.
    assert_eq!(bed.stats().passthrough_opens, count);
    assert!(backing <= set, "{backing} pages for {set}");
}
