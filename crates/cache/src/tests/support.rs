//! What the cache's tests share: a cache in a temporary directory over a store in memory.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use feedline_model::{BlockSource as _, Foresight, NextUse, Object, ObjectId, Priority, SourceId};
use feedline_testkit::{FakeClock, MemorySource, object_bytes};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::disk::Disk;
use crate::{Cache, CacheConfig, CacheDirConfig};

/// Plenty for tests that are not about space.
pub(super) const QUOTA: u64 = 256 << 20;

pub(super) struct Bench {
    pub(super) root: TempDir,
    pub(super) source: Arc<MemorySource>,
    pub(super) clock: FakeClock,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            root: tempfile::tempdir_in("/var/tmp").unwrap(),
            source: MemorySource::new(SourceId(1)),
            clock: FakeClock::new(),
        }
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    pub(super) fn config(&self, quota_bytes: u64) -> CacheConfig {
        config_at(&self.dir(), quota_bytes)
    }

    pub(super) fn open(&self, quota_bytes: u64) -> Arc<Cache> {
        self.open_config(self.config(quota_bytes))
    }

    pub(super) fn open_config(&self, config: CacheConfig) -> Arc<Cache> {
        Cache::open(config, self.source.clone(), self.clock.shared(), Handle::current()).unwrap()
    }

    pub(super) fn open_on(
        &self,
        config: CacheConfig,
        disk_of: &dyn Fn(usize, OwnedFd) -> Arc<dyn Disk>,
    ) -> Arc<Cache> {
        let clock = self.clock.shared();
        Cache::open_on(config, self.source.clone(), clock, Handle::current(), disk_of).unwrap()
    }

    /// `count` objects of `size` bytes; object i has seed i.
    pub(super) fn objects(&self, count: u64, size: u64) -> Vec<Object> {
        (0..count).map(|seed| self.source.insert_seeded(&format!("o/{seed}"), seed, size)).collect()
    }
}

pub(super) fn config_at(dir: &Path, quota_bytes: u64) -> CacheConfig {
    let mut config = CacheConfig::new(vec![CacheDirConfig { dir: dir.to_owned(), quota_bytes }]);
    config.scrub_bytes_per_s = 0;
    config
}

/// Reads the whole object and compares it with the bytes of `seed`.
pub(super) async fn expect_whole(cache: &Cache, object: &Object, seed: u64) {
    let size = object.version.size;
    let read = cache.read(object, 0..size, Priority::Demand).await.unwrap();
    assert!(read == object_bytes(seed, size), "wrong bytes of {}", object.key);
}

pub(super) async fn read(cache: &Cache, object: &Object, range: std::ops::Range<u64>) -> Bytes {
    cache.read(object, range, Priority::Demand).await.unwrap()
}

/// A foresight for tests that need evictions: each object is needed when it is first asked about,
/// which is when it comes, and of no data set from then on.
#[derive(Debug, Default)]
pub(super) struct OnlyTheNewest(Mutex<HashSet<ObjectId>>);

impl Foresight for OnlyTheNewest {
    fn next_use(&self, id: &ObjectId) -> NextUse {
        if self.0.lock().insert(*id) { NextUse::ThisEpoch } else { NextUse::Unknown }
    }
}

/// Waits until everything fetched is on disk or given up.
pub(super) async fn settled(cache: &Cache) {
    eventually("flights to end", || cache.stats().flights == 0).await;
}

/// Waits for a condition that has no event of its own; gives up after a minute.
#[expect(clippy::disallowed_methods, reason = "real time, for work on real disks")]
pub(super) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..30_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("waited a minute for {what}");
}

/// Bytes on disk below `dir`, as `du --block-size=1` counts them. Files that go meanwhile count 0.
pub(super) fn du(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let own = std::fs::symlink_metadata(dir).map_or(0, |meta| meta.blocks() * 512);
    let Ok(entries) = std::fs::read_dir(dir) else { return own };
    let below = entries.flatten().map(|entry| {
        let path = entry.path();
        if path.is_dir() {
            du(&path)
        } else {
            std::fs::symlink_metadata(&path).map_or(0, |meta| meta.blocks() * 512)
        }
    });
    own + below.sum::<u64>()
}

/// Copies a cache directory as a kill at this moment would leave it.
pub(super) fn copy_as_killed(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success() || to.join("lock").exists());
}

/// The file of a complete object.
pub(super) fn file_of(dir: &Path, object: &Object) -> PathBuf {
    dir.join(crate::directory::object_path(&object.id()))
}

/// A small ext4 in a file, mounted; unmounted when dropped.
pub(super) struct SmallDisk {
    pub(super) mountpoint: PathBuf,
}

impl SmallDisk {
    pub(super) fn new(root: &Path, mib: u64) -> Self {
        let image = root.join("image");
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mountpoint = root.join("small");
        std::fs::create_dir(&mountpoint).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg("-m0").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mountpoint));
        Self { mountpoint }
    }

    /// Makes it read-only, once nobody has a file of it open for writing: tasks of a cache that was
    /// dropped do for a moment, and so do children of other tests before their `exec`.
    pub(super) async fn make_read_only(&self) {
        eventually("a disk that nobody writes to", || {
            let mut remount = Command::new("mount");
            remount.args(["-o", "remount,ro"]).arg(&self.mountpoint);
            remount.output().expect("mount is installed").status.success()
        })
        .await;
    }

    /// Bytes of data on it, at one moment, files that are unlinked and still open included.
    pub(super) fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mountpoint).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mountpoint).status();
    }
}

pub(super) fn run(command: &mut Command) {
    let output = command.output().expect("the program must be installed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed (this test needs root): {text}");
}
