//! A real kernel mount over fakes: objects in memory, listings made from them, and an index of
//! complete objects in a temporary directory on a real file system.

#![expect(dead_code, reason = "each test file uses its own part")]
#![expect(clippy::unwrap_used, reason = "only tests use this")]
#![expect(clippy::disallowed_methods, reason = "tests wait for the kernel in real time")]

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use feedline_model::{
    Access, AccessObserver, Arrival, BlockSource, CachedFile, Clock, Directory, DirectoryBuilder,
    Object, ObjectHolder, ObjectId, ObjectIndex, Priority, Push, ReadError, Residence, SourceId,
    Tree,
};
use feedline_mount::{
    Capacity, CapacityProvider, Mount, MountConfig, MountHandle, MountParts, MountStats, Transport,
    Unmount,
};
use feedline_testkit::{MemorySource, RealClock, object_bytes};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const SOURCE: SourceId = SourceId(7);

/// The transport that `FEEDLINE_TEST_TRANSPORT` names: `classic` (the default) or `uring`, for which
/// the kernel must have it switched on. A test may ask for another.
fn transport() -> Transport {
    match std::env::var("FEEDLINE_TEST_TRANSPORT").as_deref() {
        Ok("uring") => Transport::Uring,
        Ok("classic") | Err(_) => Transport::Classic,
        Ok(other) => panic!("FEEDLINE_TEST_TRANSPORT is neither classic nor uring: {other}"),
    }
}

/// The tree of the objects given to it.
#[derive(Debug)]
pub(crate) struct TestTree {
    clock: Arc<dyn Clock>,
    ttl_ms: AtomicU64,
    bucket: Mutex<BTreeMap<String, Object>>,
    known: Mutex<HashMap<String, Arc<Directory>>>,
    pub(crate) lists: AtomicUsize,
    /// The bucket does not answer: the listing known is given, however old.
    pub(crate) down: AtomicBool,
}

impl TestTree {
    pub(crate) fn insert(&self, object: &Object) {
        self.bucket.lock().insert(object.key.to_string(), object.clone());
    }

    pub(crate) fn remove(&self, key: &str) {
        self.bucket.lock().remove(key);
    }

    fn build(&self, path: &str) -> Option<Directory> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut builder = DirectoryBuilder::new();
        let mut any = path.is_empty();
        for (key, object) in self.bucket.lock().range(prefix.clone()..) {
            let Some(rest) = key.strip_prefix(&prefix) else { break };
            any = true;
            match rest.split_once('/') {
                Some((directory, _)) => builder.directory(directory),
                None => builder.file(rest, object.version.clone()),
            }
        }
        let (now, ttl) = (self.clock.unix_ms(), self.ttl_ms.load(Ordering::Relaxed));
        any.then(|| builder.build(path, Some((SOURCE, prefix.as_str().into())), now, ttl).0)
    }
}

#[async_trait::async_trait]
impl Tree for TestTree {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        let known = self.known.lock().get(path).cloned()?;
        (known.fresh_ms(self.clock.unix_ms()) > 0).then_some(known)
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed) {
            let known = self.known.lock().get(path).cloned();
            return known.map(Some).ok_or_else(MemorySource::unavailable);
        }
        let Some(mut listing) = self.build(path) else {
            self.known.lock().remove(path);
            return Ok(None);
        };
        let mut known = self.known.lock();
        if let Some(old) = known.get(path)
            && old.same_entries(&listing)
        {
            listing.changed_ms = old.changed_ms;
        }
        let listing = Arc::new(listing);
        known.insert(path.to_owned(), Arc::clone(&listing));
        Ok(Some(listing))
    }

    fn expire(&self, path: &str) {
        self.known.lock().remove(path);
    }
}

/// Complete objects, one file each.
#[derive(Debug)]
pub(crate) struct TestIndex {
    this: Weak<Self>,
    pub(crate) dir: PathBuf,
    files: Mutex<HashMap<ObjectId, (PathBuf, u64)>>,
    holder: Mutex<Option<Arc<dyn ObjectHolder>>>,
    pub(crate) opens: AtomicUsize,
    pub(crate) touches: AtomicUsize,
    /// What is on its way: its bytes, which come soon after an open asked, or `None`: never.
    pub(crate) coming: Mutex<HashMap<ObjectId, Option<Vec<u8>>>>,
    /// Opens that asked for something on its way.
    pub(crate) awaited: AtomicUsize,
    /// Every call to `open` panics.
    pub(crate) panics: AtomicBool,
}

impl TestIndex {
    /// As the cache does with a file found corrupt: forgotten and unlinked, nobody is asked.
    pub(crate) fn drop_corrupt(&self, id: &ObjectId) {
        let (path, _) = self.files.lock().remove(id).unwrap();
        fs::remove_file(path).unwrap();
    }

    pub(crate) fn complete(&self, object: &Object, bytes: &[u8]) {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("tmp-{serial}"));
        let path = self.dir.join(object.id().to_string());
        fs::write(&temporary, bytes).unwrap();
        fs::rename(&temporary, &path).unwrap();
        self.files.lock().insert(object.id(), (path, object.version.size));
    }

    /// As the cache does: asks the holder, then forgets and unlinks.
    pub(crate) fn evict(&self, id: &ObjectId) -> bool {
        let holder = self.holder.lock().clone();
        let Some((path, size)) = self.files.lock().remove(id) else { return false };
        if holder.is_none_or(|holder| holder.let_go(id)) {
            let _ = fs::remove_file(path);
            return true;
        }
        self.files.lock().insert(*id, (path, size));
        false
    }
}

impl ObjectIndex for TestIndex {
    fn open(&self, object: &Object) -> Option<CachedFile> {
        assert!(!self.panics.load(Ordering::Relaxed), "a panic that the test asked for");
        self.opens.fetch_add(1, Ordering::Relaxed);
        let (path, size) = self.files.lock().get(&object.id()).cloned()?;
        let file = File::open(path).ok()?;
        (file.metadata().ok()?.len() == size).then(|| CachedFile { file: Arc::new(file), size })
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.files.lock().contains_key(id)
    }

    fn arrival(&self, object: &Object) -> Option<Arrival> {
        let bytes = self.coming.lock().get(&object.id()).cloned()?;
        self.awaited.fetch_add(1, Ordering::Relaxed);
        let (index, object) = (self.this.upgrade()?, object.clone());
        Some(Box::pin(async move {
            let Some(bytes) = bytes else { return std::future::pending().await };
            tokio::time::sleep(Duration::from_millis(5)).await;
            index.complete(&object, &bytes);
        }))
    }

    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    fn touch(&self, _id: &ObjectId) {
        self.touches.fetch_add(1, Ordering::Relaxed);
    }

    fn push(&self, _object: &Object, _push: Push) -> Residence {
        Residence::Unknown
    }

    fn set_holder(&self, holder: Arc<dyn ObjectHolder>) {
        *self.holder.lock() = Some(holder);
    }
}

/// The read chain: the index, then the source; an object read whole is published if so asked.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) source: Arc<MemorySource>,
    index: Arc<TestIndex>,
    pub(crate) publish: AtomicBool,
    /// Every read panics.
    pub(crate) panics: AtomicBool,
}

#[async_trait::async_trait]
impl BlockSource for Chain {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        assert!(!self.panics.load(Ordering::Relaxed), "a panic that the test asked for");
        let path = self.index.files.lock().get(&object.id()).map(|(path, _)| path.clone());
        if let Some(bytes) = path.and_then(|path| fs::read(path).ok()) {
            return Ok(Bytes::from(bytes).slice(range.start as usize..range.end as usize));
        }
        if !self.publish.load(Ordering::Relaxed) {
            return self.source.read(object, range, priority).await;
        }
        let whole = self.source.read(object, 0..object.version.size, priority).await?;
        self.index.complete(object, &whole);
        Ok(whole.slice(range.start as usize..range.end as usize))
    }
}

/// What the mount reported: the thread, the directory, the key, whether it was a hit.
#[derive(Debug, Default)]
pub(crate) struct Accesses(pub(crate) Mutex<Vec<(u32, String, String, bool)>>);

impl AccessObserver for Accesses {
    fn accessed(&self, access: Access<'_>) {
        let (parent, key) = (access.parent.to_string(), access.object.key.to_string());
        self.0.lock().push((access.process, parent, key, access.is_hit));
    }
}

/// A mount that is always taken away again.
pub(crate) struct Bed {
    pub(crate) mount: Option<MountHandle>,
    pub(crate) tree: Arc<TestTree>,
    pub(crate) index: Arc<TestIndex>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) source: Arc<MemorySource>,
    pub(crate) accesses: Arc<Accesses>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Runtime,
    pub(crate) config: MountConfig,
    pub(crate) root: PathBuf,
    _dirs: (TempDir, TempDir),
}

impl Bed {
    /// Mounts an empty tree; `adjust` may change the settings.
    pub(crate) fn new(ttl: Duration, adjust: impl FnOnce(&mut MountConfig)) -> Self {
        assert!(
            rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists(),
            "this test mounts through the kernel: it needs root and /dev/fuse"
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clock = RealClock::shared();
        let mountpoint = tempfile::tempdir_in("/var/tmp").unwrap();
        let cache = tempfile::tempdir_in("/var/tmp").unwrap();
        let source = MemorySource::new(SOURCE);
        let tree = Arc::new(TestTree {
            clock: Arc::clone(&clock),
            ttl_ms: AtomicU64::new(ttl.as_millis() as u64),
            bucket: Mutex::default(),
            known: Mutex::default(),
            lists: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        });
        let index = Arc::new_cyclic(|this| TestIndex {
            this: Weak::clone(this),
            dir: cache.path().to_owned(),
            files: Mutex::default(),
            holder: Mutex::default(),
            opens: AtomicUsize::new(0),
            touches: AtomicUsize::new(0),
            coming: Mutex::default(),
            awaited: AtomicUsize::new(0),
            panics: AtomicBool::new(false),
        });
        let chain = Arc::new(Chain {
            source: Arc::clone(&source),
            index: Arc::clone(&index),
            publish: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        });
        let mut config = MountConfig::new(mountpoint.path());
        config.cache_dirs = vec![cache.path().to_owned()];
        config.fs_name = "s3://bucket/prefix".into();
        config.transport = transport();
        adjust(&mut config);
        let root = mountpoint.path().to_owned();
        let dirs = (mountpoint, cache);
        let mut bed = Self {
            mount: None,
            tree,
            index,
            chain,
            source,
            accesses: Arc::default(),
            clock,
            runtime,
            config,
            root,
            _dirs: dirs,
        };
        bed.mount = Some(bed.start().unwrap());
        if bed.config.transport == Transport::Uring {
            assert_eq!(bed.mount().transport(), (Transport::Uring, None));
        }
        bed
    }

    pub(crate) fn start(&self) -> Result<MountHandle, feedline_mount::MountError> {
        let parts = MountParts {
            tree: Arc::clone(&self.tree) as _,
            index: Arc::clone(&self.index) as _,
            blocks: Arc::clone(&self.chain) as _,
            observer: Some(Arc::clone(&self.accesses) as _),
            clock: Arc::clone(&self.clock),
            runtime: self.runtime.handle().clone(),
            capacity: CapacityProvider::new(|| Capacity {
                bytes_total: 1 << 30,
                bytes_free: 0,
                files: 3,
            }),
        };
        Mount::start(&self.config, parts)
    }

    pub(crate) fn mount(&self) -> &MountHandle {
        self.mount.as_ref().unwrap()
    }

    /// Puts an object into the bucket and the tree.
    pub(crate) fn put(&self, key: &str, seed: u64, size: u64) -> Object {
        let object = self.source.insert_seeded(key, seed, size);
        self.tree.insert(&object);
        self.tree.expire(key.rsplit_once('/').map_or("", |(directory, _)| directory));
        object
    }

    /// The same, complete in the cache.
    pub(crate) fn put_cached(&self, key: &str, seed: u64, size: u64) -> Object {
        let object = self.put(key, seed, size);
        self.index.complete(&object, &object_bytes(seed, size));
        object
    }

    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(crate) fn stats(&self) -> MountStats {
        self.mount().stats()
    }

    pub(crate) fn requests(&self, name: &str) -> u64 {
        self.stats().requests[name]
    }

    /// Waits until `done`, at most ten seconds.
    pub(crate) fn until(&self, what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(Instant::now() < end, "not within 10 s: {what}");
            pause(Duration::from_millis(2));
        }
    }

    /// Waits until every RELEASE the kernel owes has arrived: it sends them in the background.
    pub(crate) fn settle(&self) {
        self.until("releases", || {
            let stats = self.stats();
            stats.requests["release"] >= stats.passthrough_opens + stats.cached_opens
        });
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            let _ = mount.unmount(Unmount::Abort);
        }
    }
}

pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// A file mapping of the whole file.
pub(crate) struct Map {
    start: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: the mapping is read-only memory, valid until dropped, from any thread.
#[expect(unsafe_code, reason = "a mapping")]
unsafe impl Send for Map {}

impl Map {
    #[expect(unsafe_code, reason = "a mapping")]
    pub(crate) fn new(file: &File, shared: bool) -> Self {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let len = file.metadata().unwrap().len() as usize;
        let flags = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, flags, file, 0) }.unwrap();
        Self { start, len }
    }

    #[expect(unsafe_code, reason = "a mapping")]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped readable for `len` bytes, and immutable: the file's inode is one version.
        unsafe { std::slice::from_raw_parts(self.start.cast::<u8>(), self.len) }
    }

    /// Pages of it that are in memory.
    #[expect(unsafe_code, reason = "a mapping")]
    pub(crate) fn resident(&self) -> usize {
        let mut pages = vec![0_u8; self.len.div_ceil(4096)];
        // SAFETY: our own mapping, and one byte per page of it.
        let result = unsafe { libc::mincore(self.start, self.len, pages.as_mut_ptr()) };
        assert_eq!(result, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    #[expect(unsafe_code, reason = "a mapping")]
    pub(crate) fn will_need(&self) {
        // SAFETY: advice on our own mapping.
        unsafe { rustix::mm::madvise(self.start, self.len, rustix::mm::Advice::WillNeed) }.unwrap();
    }
}

impl Drop for Map {
    #[expect(unsafe_code, reason = "a mapping")]
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and nobody borrows it any more.
        unsafe { rustix::mm::munmap(self.start, self.len) }.unwrap();
    }
}
