//! FUSE over io_uring through the kernel. These tests switch it on and back; mounts of others are not
//! concerned, since only a mount that asks for it gets it. On a kernel that cannot, each says so.
//!
//! All other tests of mounts run over it too with `FEEDLINE_TEST_TRANSPORT=uring`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Bed, Map, pause};
use feedline_mount::{MountConfig, OpenMode, Transport, Unmount};
use feedline_testkit::object_bytes;
use parking_lot::{Mutex, MutexGuard};

const TTL: Duration = Duration::from_secs(600);
const SIZE: u64 = 128_000;
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

static ALONE: Mutex<()> = Mutex::new(());

/// The kernel's switch, as the test wants it; put back when dropped. One test at a time has it.
struct Switch {
    before: String,
    _alone: MutexGuard<'static, ()>,
}

impl Switch {
    /// `None` on a kernel that cannot, or where it may not be switched (a read-only `/sys`).
    fn set(on: bool) -> Option<Self> {
        let alone = ALONE.lock();
        let Ok(before) = fs::read_to_string(SWITCH) else {
            eprintln!("kernel without FUSE over io_uring: {SWITCH} does not exist");
            return None;
        };
        if let Err(error) = fs::write(SWITCH, if on { "Y" } else { "N" }) {
            eprintln!("kernel with FUSE over io_uring, which may not be switched here: {error}");
            return None;
        }
        Some(Self { before, _alone: alone })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        fs::write(SWITCH, self.before.trim()).unwrap();
    }
}

fn uring(config: &mut MountConfig) {
    config.transport = Transport::Uring;
}

/// Every request but FORGET came over a ring.
fn assert_over_rings(bed: &Bed) {
    // A RELEASE may be on its way.
    bed.until("as many requests over rings as there were", || {
        let stats = bed.stats();
        let forgotten = stats.requests["forget"];
        stats.ring_requests > 0 && stats.ring_requests == stats.requests_total() - forgotten
    });
}

/// Names of this process's queue threads.
fn queue_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| name(task.unwrap())).filter(|n| n.starts_with("mount-ring")).count()
}

#[test]
fn opens_reads_maps_and_listings_over_rings_give_the_right_bytes_and_names() {
    let Some(_on) = Switch::set(true) else { return };
    let bed = Bed::new(TTL, uring);
    let sizes = [0, 1, 4_096, SIZE, 3_000_000, 9_000_000];
    for size in sizes {
        bed.put_cached(&format!("d/hit{size}"), size, size);
        bed.put(&format!("d/miss{size}"), size, size);
    }
    for (size, kind) in sizes.iter().flat_map(|size| [(*size, "hit"), (*size, "miss")]) {
        let path = bed.path(&format!("d/{kind}{size}"));
        let expected = object_bytes(size, size);
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert!(fs::read(&path).unwrap() == expected, "{kind} of {size} bytes");
        let file = File::open(&path).unwrap();
        let mut end = vec![0; 5_000];
        let from = size.saturating_sub(4_000);
        let read = file.read_at(&mut end, from).unwrap();
        assert!(end[..read] == expected[from as usize..]);
        if size > 0 {
            assert!(Map::new(&file, true).bytes() == expected);
        }
    }
    let mut names: Vec<_> = fs::read_dir(bed.path("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut expected: Vec<_> =
        sizes.iter().flat_map(|size| [format!("hit{size}"), format!("miss{size}")]).collect();
    expected.sort();
    assert_eq!(names, expected);
    assert!(fs::metadata(bed.path("d/absent")).is_err());
    assert!(fs::write(bed.path("d/new"), "x").is_err());
    let stats = bed.stats();
    assert_eq!(stats.passthrough_opens, 2 * sizes.len() as u64);
    assert_eq!(stats.cached_opens, 2 * sizes.len() as u64);
    assert_over_rings(&bed);
}

#[test]
fn a_directory_of_thousands_is_listed_and_walked_over_rings() {
    let Some(_on) = Switch::set(true) else { return };
    let bed = Bed::new(TTL, uring);
    for index in 0..3_000_u64 {
        bed.put(&format!("d/file-{index:05}"), 1, index);
    }
    let mut seen = 0;
    for entry in fs::read_dir(bed.path("d")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let index: u64 = name.strip_prefix("file-").unwrap().parse().unwrap();
        assert_eq!(entry.metadata().unwrap().len(), index);
        seen += 1;
    }
    assert_eq!(seen, 3_000);
    assert!(bed.requests("readdirplus") > 1);
    assert_over_rings(&bed);
}

#[test]
fn far_more_readers_than_slots_wait_for_the_bucket_and_all_get_their_bytes() {
    let Some(_on) = Switch::set(true) else { return };
    // 65 slots a queue, and one read ahead at a time.
    let bed = Bed::new(TTL, |config| {
        uring(config);
        config.max_background = 1;
    });
    let readers = 100 * std::thread::available_parallelism().unwrap().get() as u64;
    for seed in 0..readers {
        bed.put(&format!("d/{seed}"), seed, SIZE);
    }
    let hold = bed.source.hold();
    std::thread::scope(|scope| {
        let read = |seed: u64| {
            let path = bed.path(&format!("d/{seed}"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == object_bytes(seed, SIZE)))
        };
        let readers: Vec<_> = (0..readers).map(read).collect();
        bed.runtime.block_on(bed.source.wait_for_reads(1));
        drop(hold);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_over_rings(&bed);
}

#[test]
fn an_abort_and_a_drop_with_requests_in_flight_end_them_and_every_thread() {
    let Some(_on) = Switch::set(true) else { return };
    for abort in [true, false] {
        let mut bed = Bed::new(TTL, uring);
        for seed in 0..20 {
            bed.put(&format!("{seed}"), seed, SIZE);
        }
        let _hold = bed.source.hold();
        let cat = |seed: u64| {
            let mut cat = Command::new("cat");
            cat.arg(bed.path(&format!("{seed}"))).stdout(Stdio::null()).stderr(Stdio::null());
            cat.spawn().unwrap()
        };
        let mut readers: Vec<Child> = (0..20).map(cat).collect();
        bed.runtime.block_on(bed.source.wait_for_reads(20));
        assert!(queue_threads() > 0);
        if abort {
            bed.mount().unmount(Unmount::Abort).unwrap();
            bed.runtime.block_on(bed.mount().wait());
        } else {
            bed.mount = None;
        }
        for reader in &mut readers {
            assert_eq!(reader.wait().unwrap().code(), Some(1), "cat saw an error");
        }
        bed.until("the reads' end", || bed.source.in_flight() == 0);
        bed.until("the queue threads' end", || queue_threads() == 0);
    }
}

#[test]
fn eight_readers_of_cached_and_missing_files_for_a_while_never_see_a_wrong_byte() {
    let Some(_on) = Switch::set(true) else { return };
    let bed = Bed::new(TTL, uring);
    for seed in 0..64 {
        if seed % 2 == 0 {
            bed.put_cached(&format!("{seed}"), seed, SIZE + seed);
        } else {
            bed.put(&format!("{seed}"), seed, SIZE + seed);
        }
    }
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let bed = &bed;
            scope.spawn(move || {
                for step in 0..400_u64 {
                    let seed = (reader * 17 + step * 29) % 64;
                    let bytes = fs::read(bed.path(&format!("{seed}"))).unwrap();
                    assert!(bytes == object_bytes(seed, SIZE + seed), "{seed}");
                }
            });
        }
    });
    bed.settle();
    assert_over_rings(&bed);
    let stats = bed.stats();
    assert_eq!(stats.passthrough_opens + stats.cached_opens, 8 * 400);
}

#[test]
fn the_choice_is_told_with_its_reason() {
    let Some(off) = Switch::set(false) else { return };
    // Not through `Bed::new`, which insists on what was asked for.
    let mut bed = Bed::new(TTL, |config| config.transport = Transport::Classic);
    bed.mount = None;
    bed.config.transport = Transport::Uring;
    let mount = bed.start().unwrap();
    let (transport, reason) = mount.transport();
    assert_eq!(transport, Transport::Classic);
    assert!(reason.unwrap().contains("enable_uring"), "{reason:?}");
    drop((mount, off));
    let Some(_on) = Switch::set(true) else { return };
    for asked in [Transport::Classic, Transport::Auto] {
        let bed = Bed::new(TTL, |config| config.transport = asked);
        assert_eq!(bed.mount().transport(), (Transport::Classic, None));
        bed.put("a", 1, SIZE);
        assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
        assert_eq!(bed.stats().ring_requests, 0);
    }
    for open in [OpenMode::Passthrough, OpenMode::None] {
        let bed =
            Bed::new(TTL, |config| (config.open, config.transport) = (open, Transport::Uring));
        bed.put("a", 1, SIZE);
        assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
        assert_over_rings(&bed);
    }
}

/// Not a test: the daemon that [`a_killed_daemon_leaves_nothing_that_hangs`] kills.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn daemon() {
    let at = PathBuf::from(std::env::var_os("FEEDLINE_TEST_MOUNTPOINT").unwrap());
    let bed = Bed::new(TTL, |config| {
        uring(config);
        config.mountpoint = at;
    });
    bed.put_cached("hit", 1, SIZE);
    bed.put("miss", 2, SIZE);
    let _hold = bed.source.hold();
    println!("\nserving");
    bed.runtime.block_on(bed.source.wait_for_reads(1));
    println!("\nasked");
    loop {
        pause(Duration::from_secs(1));
    }
}

/// Unmounts what a killed daemon leaves.
struct Leftover<'a>(&'a Path);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_killed_daemon_leaves_nothing_that_hangs() {
    let Some(_on) = Switch::set(true) else { return };
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let _leftover = Leftover(dir.path());
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "daemon", "--ignored", "--nocapture"])
        .env("FEEDLINE_TEST_MOUNTPOINT", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let mut wait_for = |word: &str| assert!(said.any(|line| line.unwrap() == word), "{word}");
    wait_for("serving");
    let hit = File::open(dir.path().join("hit")).unwrap();
    let mut reader = Command::new("cat")
        .arg(dir.path().join("miss"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("asked");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(reader.wait().unwrap().code(), Some(1), "cat saw an error");
    let error = fs::metadata(dir.path().join("other")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let mut bytes = vec![0; SIZE as usize];
    hit.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == object_bytes(1, SIZE), "the kernel reads it alone");
    // A new mount clears the dead one.
    let bed = Bed::new(TTL, |config| {
        uring(config);
        config.mountpoint = dir.path().to_owned();
    });
    bed.put_cached("a", 3, SIZE);
    assert!(fs::read(dir.path().join("a")).unwrap() == object_bytes(3, SIZE));
}
