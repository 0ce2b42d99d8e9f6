//! The life of a mount: modes, dead and foreign mounts in the way, unmounting.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::{Bed, Map};
use feedline_mount::{MountError, OpenMode, Unmount};
use feedline_testkit::object_bytes;

const TTL: Duration = Duration::from_secs(600);
const SIZE: u64 = 128_000;

#[test]
fn without_open_hot_files_cost_no_request_at_all() {
    let bed = Bed::new(TTL, |config| config.open = OpenMode::None);
    assert_eq!(bed.mount().open_mode(), (OpenMode::None, None));
    bed.put_cached("a", 1, SIZE);
    bed.put("b", 2, SIZE);
    for key in ["a", "b"] {
        let seed = if key == "a" { 1 } else { 2 };
        assert!(fs::read(bed.path(key)).unwrap() == object_bytes(seed, SIZE));
        assert!(
            Map::new(&File::open(bed.path(key)).unwrap(), true).bytes() == object_bytes(seed, SIZE)
        );
    }
    let before = bed.stats().requests_total();
    for _ in 0..10 {
        assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
        assert!(fs::read(bed.path("b")).unwrap() == object_bytes(2, SIZE));
    }
    let requests = bed.stats().requests;
    assert_eq!(requests.values().sum::<u64>(), before, "{requests:?}");
    assert_eq!((requests["open"], requests["release"]), (1, 0));
}

#[test]
fn an_object_larger_than_a_page_is_read_whole_without_open() {
    let bed = Bed::new(TTL, |config| config.open = OpenMode::None);
    bed.put_cached("big", 1, 9_000_000);
    assert!(fs::read(bed.path("big")).unwrap() == object_bytes(1, 9_000_000));
    assert!(bed.requests("read") < 40, "READs of up to 1 MiB: {}", bed.requests("read"));
}

/// An overlay file system: the kernel takes no backing file from one.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let part = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let data = format!(
            "lowerdir={},upperdir={},workdir={}",
            part("lower"),
            part("upper"),
            part("work")
        );
        let data = std::ffi::CString::new(data).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", part("merged"), "overlay", flags, data.as_c_str()).unwrap();
        Self(dir)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        let _ = rustix::mount::unmount(self.0.path().join("merged"), flags);
    }
}

#[test]
fn a_cache_on_a_stacked_file_system_falls_back_with_the_reason() {
    let overlay = Overlay::new();
    let merged = overlay.0.path().join("merged");
    let bed = Bed::new(TTL, |config| config.cache_dirs = vec![merged]);
    let (mode, reason) = bed.mount().open_mode();
    assert_eq!(mode, OpenMode::None);
    assert!(reason.unwrap().contains("stacked file system"), "{reason:?}");
    bed.put_cached("a", 1, SIZE);
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
}

#[test]
fn a_mountpoint_in_use_missing_or_a_file_is_refused_with_the_way_out() {
    let mut bed = Bed::new(TTL, |_| {});
    let error = bed.start().unwrap_err();
    assert!(matches!(error, MountError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("umount"), "{error}");
    bed.put("a", 1, 10);
    bed.config.mountpoint = bed.path("missing/deeper");
    assert!(matches!(bed.start().unwrap_err(), MountError::Mountpoint { .. }));
    bed.config.mountpoint = bed.path("a");
    assert!(matches!(bed.start().unwrap_err(), MountError::Mountpoint { .. }));
}

#[test]
fn a_mount_whose_daemon_is_gone_is_cleared() {
    let mut bed = Bed::new(TTL, |_| {});
    bed.put_cached("a", 1, SIZE);
    bed.mount().unmount(Unmount::Normal).unwrap();
    bed.runtime.block_on(bed.mount().wait());
    bed.mount = None;
    // What a crashed daemon leaves: a mount whose device nobody holds.
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    use std::os::fd::AsRawFd;
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let data = std::ffi::CString::new(data).unwrap();
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("dead", &bed.root, "fuse.feedline", flags, data.as_c_str()).unwrap();
    drop(device);
    let error = fs::metadata(&bed.root).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    bed.mount = Some(bed.start().unwrap());
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
}

#[test]
fn a_busy_mount_refuses_detaches_when_told_and_ends_with_its_last_file() {
    let bed = Bed::new(TTL, |_| {});
    bed.put_cached("hit", 1, SIZE);
    bed.put("miss", 2, SIZE);
    let (hit, miss) = (File::open(bed.path("hit")).unwrap(), File::open(bed.path("miss")).unwrap());
    let error = bed.mount().unmount(Unmount::Normal).unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    assert!(bed.mount().is_alive());
    bed.mount().unmount(Unmount::Lazy).unwrap();
    assert_eq!(fs::read_dir(&bed.root).unwrap().count(), 0, "detached");
    let mut bytes = vec![0; SIZE as usize];
    hit.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == object_bytes(1, SIZE));
    miss.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == object_bytes(2, SIZE));
    drop((hit, miss));
    bed.runtime.block_on(bed.mount().wait());
    assert!(!bed.mount().is_alive());
}

#[test]
fn an_aborted_mount_ends_at_once_and_passthrough_files_stay_readable() {
    let bed = Bed::new(TTL, |_| {});
    bed.put_cached("hit", 1, SIZE);
    let hit = File::open(bed.path("hit")).unwrap();
    bed.mount().unmount(Unmount::Abort).unwrap();
    bed.runtime.block_on(bed.mount().wait());
    let mut bytes = vec![0; SIZE as usize];
    hit.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == object_bytes(1, SIZE));
}

#[test]
fn after_the_end_the_mount_holds_no_file_of_the_cache() {
    let mut bed = Bed::new(TTL, |_| {});
    let object = bed.put_cached("a", 1, SIZE);
    assert!(fs::read(bed.path("a")).unwrap() == object_bytes(1, SIZE));
    bed.mount().unmount(Unmount::Normal).unwrap();
    bed.runtime.block_on(bed.mount().wait());
    bed.mount = None;
    assert!(bed.index.evict(&object.id()), "the mount holds no file any more");
}

#[test]
fn the_mount_table_and_statfs_show_what_was_configured() {
    let bed = Bed::new(TTL, |_| {});
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(bed.root.to_str().unwrap())).unwrap();
    assert!(line.starts_with("s3://bucket/prefix "), "{line}");
    assert!(line.contains(" fuse.feedline ro,nosuid,nodev,noatime"), "{line}");
    let statfs = rustix::fs::statfs(&bed.root).unwrap();
    assert_eq!(statfs.f_blocks as u64 * statfs.f_bsize as u64, 1 << 30);
    assert_eq!((statfs.f_files, statfs.f_bavail), (3, 0));
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(&bed.root).unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let read_ahead =
        fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(read_ahead.trim(), "1024");
}
