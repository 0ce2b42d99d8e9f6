//! Disk trouble: full below the quota, sick, and never a read error or a wrong byte.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use feedline_model::ObjectIndex as _;
use feedline_model::page::PAGE_BYTES;
use feedline_testkit::object_bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;

use super::support::{
    Bench, QUOTA, SmallDisk, config_at, copy_as_killed, du, eventually, expect_whole, file_of,
    read, run, settled,
};
use crate::disk::{Disk, Extent, RealDisk};

/// A real disk that fails every read, or every write, with the error number set; 0 is sound.
#[derive(Debug)]
struct FaultyDisk {
    real: RealDisk,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    read: AtomicI32,
    write: AtomicI32,
    /// Runs once, before the next file is opened for reading.
    before_open: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Runs once, after the next read, before its bytes are looked at.
    after_read: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

fn fail(number: &AtomicI32) -> io::Result<()> {
    match number.load(Ordering::SeqCst) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &str) -> io::Result<File> {
        self.real.create(path)
    }
    fn create_new(&self, path: &str) -> io::Result<File> {
        self.real.create_new(path)
    }
    fn open(&self, path: &str, write: bool) -> io::Result<File> {
        let before = if write { None } else { self.faults.before_open.lock().take() };
        if let Some(before) = before {
            before();
        }
        self.real.open(path, write)
    }
    fn open_hot(&self, path: &str) -> Option<File> {
        if self.faults.before_open.lock().is_some() { None } else { self.real.open_hot(path) }
    }
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        fail(&self.faults.write)?;
        self.real.write_at(file, bytes, offset)
    }
    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        fail(&self.faults.read)?;
        let read = self.real.read_at(file, buffer, offset);
        let after = self.faults.after_read.lock().take();
        if let Some(after) = after {
            after();
        }
        read
    }
    fn read_hot(&self, file: &File, buffer: &mut [u8], offset: u64) -> bool {
        fail(&self.faults.read).is_ok() && self.real.read_hot(file, buffer, offset)
    }
    fn missing(&self, file: &File, length: u64) -> Option<u64> {
        self.real.missing(file, length)
    }
    fn read_ahead(&self, file: &File, length: u64) -> io::Result<()> {
        fail(&self.faults.read)?;
        self.real.read_ahead(file, length)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.real.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        self.real.unlink(path)
    }
    fn extent(&self, file: &File) -> io::Result<Extent> {
        self.real.extent(file)
    }
    fn disk_bytes(&self, path: &str) -> u64 {
        self.real.disk_bytes(path)
    }
}

/// A cache of one directory on a disk that fails when told.
fn open_faulty(bench: &Bench) -> (Arc<crate::Cache>, Arc<Faults>) {
    open_faulty_at(bench, &bench.dir())
}

fn open_faulty_at(bench: &Bench, dir: &Path) -> (Arc<crate::Cache>, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let disk_of = |_: usize, root: OwnedFd| -> Arc<dyn Disk> {
        Arc::new(FaultyDisk { real: RealDisk::new(root, true), faults: faults.clone() })
    };
    (bench.open_on(config_at(dir, QUOTA), &disk_of), faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_nobody_waits_for_ends_at_the_next_piece() {
    let bench = Bench::new();
    let (cache, faults) = open_faulty(&bench);
    let object = bench.source.insert_seeded("o", 1, 3 << 20);
    expect_whole(&cache, &object, 1).await;
    settled(&cache).await;
    let held = Arc::strong_count(&cache.shared);
    // Given a check that has read the first of three pieces,
    let (go_on, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let (has_begun, hooks) = (Arc::new(AtomicBool::new(false)), Arc::clone(&faults));
    let begun = Arc::clone(&has_begun);
    *faults.after_read.lock() = Some(Box::new(move || {
        // Taken by the next read, if there is one.
        *hooks.after_read.lock() = Some(Box::new(|| ()));
        begun.store(true, Ordering::SeqCst);
        let _ = wait.recv();
    }));
    let mut check = Box::pin(cache.check(vec![object.id()], |_| ()));
    assert!(check.as_mut().now_or_never().is_none());
    eventually("the first piece to be read", || has_begun.load(Ordering::SeqCst)).await;
    // when it is given up, then its thread ends without another read, and nothing is held against the file.
    drop(check);
    go_on.send(()).unwrap();
    eventually("the thread to end", || Arc::strong_count(&cache.shared) <= held).await;
    assert!(faults.after_read.lock().take().is_some(), "it read on");
    assert!(cache.open(&object).is_some());
    let report = cache.check(vec![object.id()], |_| ()).await;
    assert_eq!((report.progress.files, report.progress.corrupt), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_begun_anew_under_a_reader_shows_it_no_hole() {
    let bench = Bench::new();
    let (cache, faults) = open_faulty(&bench);
    let object = bench.source.insert_seeded("big", 3, 3 * PAGE_BYTES);
    read(&cache, &object, 0..10).await;
    settled(&cache).await;
    // Between the reader's look at the pages and its open, the object goes and another page comes.
    let (other, again) = (cache.clone(), object.clone());
    *faults.before_open.lock() = Some(Box::new(move || {
        tokio::runtime::Handle::current().block_on(async move {
            assert_eq!(other.free(vec![again.id()], false).await.objects, 1);
            read(&other, &again, PAGE_BYTES..PAGE_BYTES + 10).await;
            settled(&other).await;
        });
    }));
    let bytes = read(&cache, &object, 0..10).await;
    assert_eq!(bytes, object_bytes(3, 3 * PAGE_BYTES).slice(0..10));
    assert!(faults.before_open.lock().is_none());
    settled(&cache).await;
    assert_eq!(cache.stats().corrupt(), 0);
    expect_whole(&cache, &object, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_page_of_a_large_object_is_one_page_to_fetch_also_when_the_last_one_comes_meanwhile()
{
    let bench = Bench::new();
    let object = bench.source.insert_seeded("big", 7, 4 * PAGE_BYTES);
    let cache = bench.open(QUOTA);
    for page in [3, 1, 0] {
        read(&cache, &object, page * PAGE_BYTES..page * PAGE_BYTES + 5).await;
    }
    settled(&cache).await;
    let copy = bench.root.path().join("killed");
    copy_as_killed(&bench.dir(), &copy);
    let path = copy.join(crate::directory::partial_path(&object.id()));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&path, bytes).unwrap();
    bench.source.clear_log();
    let (cache, faults) = open_faulty_at(&bench, &copy);
    // Between the read of the bad page and the look at it, the page that was missing comes.
    let (other, again) = (cache.clone(), object.clone());
    *faults.after_read.lock() = Some(Box::new(move || {
        tokio::runtime::Handle::current().block_on(async move {
            read(&other, &again, 2 * PAGE_BYTES..2 * PAGE_BYTES + 5).await;
            settled(&other).await;
        });
    }));
    assert_eq!(read(&cache, &object, 0..5).await, object_bytes(7, 4 * PAGE_BYTES).slice(0..5));
    settled(&cache).await;
    assert_eq!((cache.stats().corrupt(), bench.source.reads_total()), (1, 2));
    assert_eq!(cache.cached_bytes(&object.id()), 4 * PAGE_BYTES);
    assert!(!cache.contains(&object.id()), "two pages have not been verified");
    expect_whole(&cache, &object, 7).await;
    assert!(cache.contains(&object.id()), "every page is here and verified");
    assert!(cache.open(&object).is_some());
    assert_eq!((cache.stats().corrupt(), bench.source.reads_total()), (1, 2));
}

fn two_dirs(bench: &Bench) -> crate::CacheConfig {
    let mut config = bench.config(QUOTA);
    let dir = bench.root.path().join("other");
    config.dirs.push(crate::CacheDirConfig { dir, quota_bytes: QUOTA });
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sick_directory_is_set_aside_and_the_other_goes_on() {
    for on_write in [false, true] {
        let bench = Bench::new();
        let faults = Arc::new(Faults::default());
        let disk_of = |number: usize, root: OwnedFd| -> Arc<dyn Disk> {
            let real = RealDisk::new(root, true);
            let faults = if number == 0 { faults.clone() } else { Arc::default() };
            Arc::new(FaultyDisk { real, faults })
        };
        let cache = bench.open_on(two_dirs(&bench), &disk_of);
        let objects = bench.objects(60, 20_000);
        let big = bench.source.insert_seeded("big", 3, 2 * PAGE_BYTES);
        for (seed, object) in objects[..30].iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        settled(&cache).await;
        let sick = if on_write { &faults.write } else { &faults.read };
        sick.store(rustix::io::Errno::IO.raw_os_error(), Ordering::SeqCst);
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        expect_whole(&cache, &big, 3).await;
        settled(&cache).await;
        let stats = cache.stats();
        assert!(stats.dirs[0].state.starts_with("set aside: "), "{stats:?}");
        assert_eq!(stats.dirs[1].state, "ok");
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        settled(&cache).await;
        assert!(objects.iter().all(|object| cache.open(object).is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_leaves_no_file_also_of_what_is_pinned_and_not_here() {
    let bench = Bench::new();
    let (cache, faults) = open_faulty(&bench);
    let objects = bench.objects(2, 20_000);
    // Of the pinned one the index has a record already: a wish.
    cache.pin(vec![objects[0].id()]).await;
    faults.write.store(rustix::io::Errno::NOSPC.raw_os_error(), Ordering::SeqCst);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    for object in &objects {
        assert!(!file_of(&bench.dir(), object).exists(), "bytes that nobody accounts for");
        assert!(!cache.contains(&object.id()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_filling_for_a_while_and_reads_go_on() {
    let bench = Bench::new();
    let disk = SmallDisk::new(bench.root.path(), 24);
    let dir = disk.mountpoint.join("cache");
    let cache = bench.open_config(config_at(&dir, 1 << 30));
    let objects = bench.objects(300, 150_000);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    eventually("the disk to be full", || cache.stats().dirs[0].state == "full").await;
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    assert!(cache.stats().objects() > 20, "{:?}", cache.stats());
    eventually("the cache to shrink", || cache.stats().evicted() > 0).await;
    bench.clock.advance(Duration::from_secs(31));
    assert_eq!(cache.stats().dirs[0].state, "ok");
    let new = bench.source.insert_seeded("new", 1, 1000);
    expect_whole(&cache, &new, 1).await;
    eventually("filling to go on", || cache.contains(&new.id())).await;
    cache.close().await;
    drop(cache);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_set_aside_comes_back_with_the_next_start_and_one_copy_stays() {
    let bench = Bench::new();
    let faults = Arc::new(Faults::default());
    let disk_of = |number: usize, root: OwnedFd| -> Arc<dyn Disk> {
        let faults = if number == 0 { faults.clone() } else { Arc::default() };
        Arc::new(FaultyDisk { real: RealDisk::new(root, true), faults })
    };
    let config = two_dirs(&bench);
    let cache = bench.open_on(config.clone(), &disk_of);
    let objects = bench.objects(40, 20_000);
    let big = bench.source.insert_seeded("big", 3, 3 * PAGE_BYTES);
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    read(&cache, &big, 0..5).await;
    settled(&cache).await;
    let first = cache.stats().dirs[0].objects;
    assert!(first > 0);
    for fault in [&faults.read, &faults.write] {
        fault.store(rustix::io::Errno::ROFS.raw_os_error(), Ordering::SeqCst);
    }
    // Everything is fetched again and kept in the other directory, also what was half here.
    for _ in 0..2 {
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
        expect_whole(&cache, &big, 3).await;
        settled(&cache).await;
    }
    let stats = cache.stats();
    assert!(stats.dirs[0].state.contains("Read-only"), "{stats:?}");
    assert_eq!(stats.dirs[1].objects, 41, "{stats:?}");
    cache.close().await;
    assert!(!config.dirs[0].dir.join("clean").exists());
    assert!(config.dirs[1].dir.join("clean").exists());
    drop(cache);
    bench.source.clear_log();
    let cache = bench.open_config(config.clone());
    eventually("the sweep to end", || *cache.shared.dirs[0].swept.borrow()).await;
    let stats = cache.stats();
    assert_eq!((stats.dirs[0].state.as_str(), stats.objects()), ("ok", 41), "{stats:?}");
    assert!(stats.dirs[0].used_bytes >= du(&config.dirs[0].dir));
    assert!(stats.dirs[0].used_bytes <= du(&config.dirs[0].dir) + (64 << 10), "{stats:?}");
    for (seed, object) in objects.iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    expect_whole(&cache, &big, 3).await;
    assert_eq!(bench.source.reads_total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_made_read_only_never_fails_a_read() {
    let bench = Bench::new();
    let disk = SmallDisk::new(bench.root.path(), 32);
    let cache = bench.open_config(config_at(&disk.mountpoint.join("cache"), 16 << 20));
    let objects = bench.objects(10, 20_000);
    for (seed, object) in objects[..5].iter().enumerate() {
        expect_whole(&cache, object, seed as u64).await;
    }
    settled(&cache).await;
    // What the kernel does to an ext4 with an error; a plain remount would find it busy.
    run(Command::new("mount").args(["-o", "remount,abort"]).arg(&disk.mountpoint));
    for _ in 0..2 {
        for (seed, object) in objects.iter().enumerate() {
            expect_whole(&cache, object, seed as u64).await;
        }
    }
    eventually("it to be set aside", || cache.stats().dirs[0].state.starts_with("set aside: "))
        .await;
    assert!(cache.open(&objects[0]).is_none());
    expect_whole(&cache, &objects[0], 0).await;
    cache.close().await;
    drop(cache);
}

/// An overlayfs below `root`, mounted; unmounted when dropped.
struct Overlay {
    mountpoint: PathBuf,
}

impl Overlay {
    fn new(root: &Path) -> Self {
        let [lower, upper, work, mountpoint] = ["lower", "upper", "work", "merged"].map(|name| {
            let path = root.join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run(Command::new("mount").args(["-t", "overlay", "-o", &options, "none"]).arg(&mountpoint));
        Self { mountpoint }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn overlayfs_and_a_read_only_place_are_refused_with_the_reason() {
    let bench = Bench::new();
    let open = |dir: &Path| {
        let (clock, handle) = (bench.clock.shared(), tokio::runtime::Handle::current());
        let opened = crate::Cache::open(config_at(dir, QUOTA), bench.source.clone(), clock, handle);
        opened.map(|_| ()).unwrap_err()
    };
    let overlay = Overlay::new(bench.root.path());
    let dir = overlay.mountpoint.join("cache");
    let refused = open(&dir);
    assert!(matches!(refused, crate::CacheError::FileSystem { kind: "overlayfs", .. }));
    assert!(refused.to_string().contains("local disk"), "{refused}");
    assert!(!dir.exists(), "what was refused was left behind");
    let disk = SmallDisk::new(bench.root.path(), 16);
    let kept = disk.mountpoint.join("kept");
    drop(bench.open_config(config_at(&kept, QUOTA)));
    disk.make_read_only().await;
    for dir in [kept, disk.mountpoint.join("new")] {
        let refused = open(&dir).to_string();
        assert!(refused.contains("Read-only file system"), "{refused}");
        assert!(refused.contains(&dir.display().to_string()), "{refused}");
    }
}
