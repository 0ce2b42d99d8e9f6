//! When things go wrong: a bucket that does not answer, readers that are killed, panics, files that
//! the cache drops, mounts on top. Through the kernel.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bed, pause};
use feedline_mount::{MountError, OpenMode, Unmount};
use feedline_testkit::object_bytes;

const TTL: Duration = Duration::from_secs(600);
const SIZE: u64 = 128_000;

/// A process that reads a file, and is gone when the test ends.
struct Reader(Child);

impl Reader {
    fn of(path: &Path) -> Self {
        let mut cat = Command::new("cat");
        cat.arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        Self(cat.spawn().unwrap())
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn a_reader_that_waits_for_a_dead_bucket_dies_when_killed() {
    for open in [OpenMode::Passthrough, OpenMode::None] {
        let bed = Bed::new(TTL, |config| config.open = open);
        bed.put("a", 1, SIZE);
        let _hold = bed.source.hold();
        let mut reader = Reader::of(&bed.path("a"));
        bed.runtime.block_on(bed.source.wait_for_reads(1));
        assert!(!reader.has_ended());
        reader.0.kill().unwrap();
        bed.until("the reader's death", || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", reader.0.id())).unwrap();
            stat.contains(") Z ")
        });
        assert!(reader.has_ended());
    }
}

#[test]
fn an_unmount_does_not_wait_for_reads_of_a_dead_bucket_and_neither_do_they() {
    for open in [OpenMode::Passthrough, OpenMode::None] {
        let bed = Bed::new(TTL, |config| config.open = open);
        bed.put("a", 1, SIZE);
        let _hold = bed.source.hold();
        let mut reader = Reader::of(&bed.path("a"));
        bed.runtime.block_on(bed.source.wait_for_reads(1));
        assert!(matches!(bed.mount().unmount(Unmount::Normal), Err(MountError::Busy { .. })));
        bed.mount().unmount(Unmount::Abort).unwrap();
        bed.runtime.block_on(bed.mount().wait());
        bed.until("the reader's end", || bed.source.in_flight() == 0);
        let status = reader.0.wait().unwrap();
        assert_eq!(status.code(), Some(1), "cat saw an error");
    }
}

#[test]
fn dropping_a_mount_with_reads_of_a_dead_bucket_under_way_ends_them() {
    let mut bed = Bed::new(TTL, |_| {});
    bed.put("a", 1, SIZE);
    let _hold = bed.source.hold();
    let mut reader = Reader::of(&bed.path("a"));
    bed.runtime.block_on(bed.source.wait_for_reads(1));
    bed.mount = None;
    assert_eq!(reader.0.wait().unwrap().code(), Some(1), "cat saw an error");
    bed.until("the read's end", || bed.source.in_flight() == 0);
}

#[test]
fn a_panic_costs_one_request_and_holds_nothing() {
    let bed = Bed::new(TTL, |config| config.threads = 2);
    let object = bed.put_cached("a", 1, SIZE);
    bed.put("b", 2, SIZE);
    bed.index.panics.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        let error = File::open(bed.path("a")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    bed.index.panics.store(false, Ordering::Relaxed);
    assert!(bed.index.evict(&object.id()), "not in use");
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
    let file = File::open(bed.path("b")).unwrap();
    bed.chain.panics.store(true, Ordering::Relaxed);
    let error = file.read_at(&mut [0; 10], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    bed.chain.panics.store(false, Ordering::Relaxed);
    let mut bytes = [0; 10];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, object_bytes(2, SIZE)[..10]);
}

#[test]
fn while_the_bucket_is_down_an_outdated_listing_serves_and_is_not_asked_for_at_every_step() {
    let bed = Bed::new(Duration::from_millis(200), |_| {});
    bed.put_cached("d/a", 1, SIZE);
    assert!(fs::read(bed.path("d/a")).unwrap() == object_bytes(1, SIZE));
    bed.tree.down.store(true, Ordering::Relaxed);
    pause(Duration::from_millis(300));
    let before = bed.tree.lists.load(Ordering::Relaxed);
    for _ in 0..500 {
        assert_eq!(fs::metadata(bed.path("d/a")).unwrap().len(), SIZE);
        assert!(fs::metadata(bed.path("d/absent")).is_err());
        assert_eq!(fs::read_dir(bed.path("d")).unwrap().count(), 1);
    }
    assert!(fs::read(bed.path("d/a")).unwrap() == object_bytes(1, SIZE));
    // Root, directory, its attributes, the absent name: once per 200 ms (the listing's own TTL,
    // being shorter than a second), where every step used to ask: 1,500 and more.
    let asked = bed.tree.lists.load(Ordering::Relaxed) - before;
    assert!((1..200).contains(&asked), "{asked} listings");
    bed.tree.down.store(false, Ordering::Relaxed);
    bed.put("d/b", 2, SIZE);
    bed.until("the new name", || fs::metadata(bed.path("d/b")).is_ok());
}

#[test]
fn a_file_that_the_cache_found_corrupt_is_not_served_through_an_idle_backing_id() {
    let bed = Bed::new(TTL, |_| {});
    let object = bed.put("a", 1, SIZE);
    bed.index.complete(&object, &object_bytes(99, SIZE));
    drop(File::open(bed.path("a")).unwrap());
    bed.settle();
    bed.index.drop_corrupt(&object.id());
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
    let stats = bed.stats();
    assert_eq!((stats.passthrough_opens, stats.cached_opens), (1, 1));
}

#[test]
fn no_descriptor_of_a_cached_file_stays_open_in_the_daemon() {
    let bed = Bed::new(TTL, |_| {});
    let sizes = [0, 1, SIZE, 4 << 20, (4 << 20) + 1, 9_000_000];
    for size in sizes {
        bed.put_cached(&format!("f{size}"), size, size);
    }
    let files: Vec<File> =
        sizes.iter().map(|size| File::open(bed.path(&format!("f{size}"))).unwrap()).collect();
    for (file, size) in files.iter().zip(sizes) {
        let mut bytes = vec![0; size as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == object_bytes(size, size));
    }
    assert_eq!(bed.stats().passthrough_opens, sizes.len() as u64);
    let open = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        fs::read_link(entry.unwrap().path()).ok().filter(|path| path.starts_with(&bed.index.dir))
    });
    assert_eq!(open.count(), 0, "the kernel holds them, we do not");
}

#[test]
fn names_of_255_bytes_spaces_and_any_script_are_shown_and_found() {
    let bed = Bed::new(TTL, |_| {});
    let names = [
        "n".repeat(255),
        "\u{1f980}".repeat(63),
        "a b\tc".into(),
        "\u{e9}".into(),
        "e\u{301}".into(),
    ];
    for (seed, name) in names.iter().enumerate() {
        bed.put_cached(&format!("d/{name}"), seed as u64, 1_000);
    }
    let mut shown: Vec<_> = fs::read_dir(bed.path("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    shown.sort();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(shown, sorted);
    for (seed, name) in names.iter().enumerate() {
        let bytes = fs::read(bed.path(&format!("d/{name}"))).unwrap();
        assert!(bytes == object_bytes(seed as u64, 1_000), "{name}");
    }
    use std::os::unix::ffi::OsStrExt;
    let error = fs::metadata(bed.path("d").join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_mountpoint_may_be_a_link_to_a_name_with_spaces() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let real = dir.path().join("with a space");
    fs::create_dir(&real).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let bed = Bed::new(TTL, |config| config.mountpoint = link.clone());
    bed.put_cached("a", 1, SIZE);
    assert_eq!(bed.mount().mountpoint(), real);
    assert!(fs::read(real.join("a")).unwrap() == object_bytes(1, SIZE));
    assert!(matches!(bed.start().unwrap_err(), MountError::InUse { .. }));
    bed.mount().unmount(Unmount::Normal).unwrap();
    bed.runtime.block_on(bed.mount().wait());
    assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
}

#[test]
fn a_mount_covered_by_another_is_not_taken_for_unmounted() {
    let bed = Bed::new(TTL, |_| {});
    let (path, flags) = (bed.root.as_path(), rustix::mount::MountFlags::empty());
    rustix::mount::mount("cover", path, "tmpfs", flags, None).unwrap();
    let error = bed.mount().unmount(Unmount::Normal).unwrap_err();
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()).unwrap();
    assert!(matches!(error, MountError::Covered { .. }), "{error}");
    assert!(bed.mount().is_alive());
    bed.mount().unmount(Unmount::Normal).unwrap();
    bed.runtime.block_on(bed.mount().wait());
}

#[test]
fn dropping_a_mount_that_lives_on_under_another_does_not_wait_for_ever() {
    let mut bed = Bed::new(TTL, |_| {});
    let (root, flags) = (bed.root.clone(), rustix::mount::UnmountFlags::DETACH);
    let cover = rustix::mount::MountFlags::empty();
    rustix::mount::mount("cover", &root, "tmpfs", cover, None).unwrap();
    bed.mount = None;
    rustix::mount::unmount(&root, flags).unwrap();
    // Ours is below, served or (where the control file system is mounted) aborted.
    rustix::mount::unmount(&root, flags).unwrap();
}
