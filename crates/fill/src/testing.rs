//! A tree of fixed listings and a cache that keeps everything, for the tests of this crate.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use feedline_model::{
    BlockSource, CachedFile, Directory, DirectoryBuilder, ETag, Object, ObjectHolder, ObjectId,
    ObjectIndex, Priority, Push, ReadError, Residence, SourceId, Tree, Version,
};
use feedline_testkit::MemorySource;
use parking_lot::Mutex;

/// The source of every object.
pub(crate) const SOURCE: SourceId = SourceId(7);

/// Bytes of every file.
pub(crate) const SIZE: u64 = 1_000;

/// Listings of the folders that the given keys lie in.
#[derive(Debug)]
pub(crate) struct FixedTree {
    listings: Mutex<BTreeMap<String, Arc<Directory>>>,
}

impl FixedTree {
    /// Every file is of [`SIZE`] bytes.
    pub(crate) fn new(keys: &[&str]) -> Self {
        let version = || Version { size: SIZE, modified_ms: 1, etag: ETag::Absent };
        Self::of(keys.iter().map(|key| (*key, version())))
    }

    /// Files in these versions.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = (&'a str, Version)>) -> Self {
        let files: BTreeMap<&str, Version> = files.into_iter().collect();
        let mut folders: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
        for key in files.keys() {
            let mut path = String::new();
            let parts: Vec<&str> = key.split('/').collect();
            for (at, part) in parts.iter().enumerate() {
                let (files, below) = folders.entry(path.clone()).or_default();
                if at + 1 == parts.len() {
                    files.insert((*part).to_owned());
                } else {
                    below.insert((*part).to_owned());
                    path = if path.is_empty() { (*part).into() } else { format!("{path}/{part}") };
                }
            }
        }
        let listings = folders.into_iter().map(|(path, (names, below))| {
            let mut builder = DirectoryBuilder::new();
            below.iter().for_each(|name| builder.directory(name));
            let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
            for name in &names {
                builder.file(name, files[&*format!("{prefix}{name}")].clone());
            }
            let origin = Some((SOURCE, prefix.into()));
            (path.clone(), Arc::new(builder.build(&path, origin, 1, u64::MAX / 2).0))
        });
        Self { listings: Mutex::new(listings.collect()) }
    }
}

#[async_trait::async_trait]
impl Tree for FixedTree {
    fn peek(&self, path: &str) -> Option<Arc<Directory>> {
        self.listings.lock().get(path).cloned()
    }

    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError> {
        Ok(self.peek(path))
    }

    fn expire(&self, _path: &str) {}
}

/// A cache that keeps everything it reads, and writes down what was read.
#[derive(Debug)]
pub(crate) struct Shelf {
    next: Arc<MemorySource>,
    kept: Mutex<HashSet<ObjectId>>,
    free_bytes: AtomicU64,
    /// Of those kept, in the page cache.
    in_memory: Mutex<HashSet<ObjectId>>,
    /// The keys of the files that were pushed.
    pushed: Mutex<Vec<Arc<str>>>,
    looks: AtomicU64,
}

impl Shelf {
    pub(crate) fn new(next: Arc<MemorySource>) -> Arc<Self> {
        Arc::new(Self {
            next,
            kept: Mutex::default(),
            free_bytes: AtomicU64::new(u64::MAX),
            in_memory: Mutex::default(),
            pushed: Mutex::default(),
            looks: AtomicU64::new(0),
        })
    }

    /// The keys of the files that were pushed so far, in order.
    pub(crate) fn pushed(&self) -> Vec<Arc<str>> {
        self.pushed.lock().clone()
    }

    /// How often somebody asked where a file is.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::SeqCst)
    }

    /// Forgets the pages of every file.
    pub(crate) fn drop_pages(&self) {
        self.in_memory.lock().clear();
    }

    /// As if the file had been read.
    pub(crate) fn bring_in(&self, id: ObjectId) {
        self.in_memory.lock().insert(id);
    }

    pub(crate) fn set_free_bytes(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn free_all(&self) {
        self.kept.lock().clear();
    }

    pub(crate) fn keep(&self, id: ObjectId) {
        self.kept.lock().insert(id);
    }
}

#[async_trait::async_trait]
impl BlockSource for Shelf {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let bytes = self.next.read(object, range.clone(), priority).await?;
        if range.end == object.version.size {
            self.bring_in(object.id());
            self.keep(object.id());
        }
        Ok(bytes)
    }
}

impl ObjectIndex for Shelf {
    fn open(&self, _object: &Object) -> Option<CachedFile> {
        None
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.kept.lock().contains(id)
    }

    fn touch(&self, _id: &ObjectId) {}

    fn push(&self, object: &Object, push: Push) -> Residence {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let id = object.id();
        if !self.contains(&id) {
            return Residence::Unknown;
        }
        if self.in_memory.lock().contains(&id) {
            return Residence::Memory;
        }
        if push == Push::Read {
            self.pushed.lock().push(Arc::clone(&object.key));
            self.bring_in(id);
        }
        Residence::Disk(object.version.size)
    }

    fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::SeqCst)
    }

    fn set_holder(&self, _holder: Arc<dyn ObjectHolder>) {}
}
