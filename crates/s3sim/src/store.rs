//! Buckets and objects: files of a folder, with a layer in memory for what no folder can hold.
//!
//! A key is looked for in memory first, then in the folder. A write goes to the folder if a file
//! can stand there, else to memory; so `a//b`, `../x`, `a` beside `a/b` and markers `a/` are kept,
//! but only until the server ends. Without a root everything is kept in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::error::S3Error;
use crate::folder;
use crate::index::Index;
use crate::made_up::{self, MadeUp};
use crate::object::{Data, Entry, Found, StoredHeaders, Tag, unix_ms};

/// What is to be stored.
#[derive(Debug)]
pub(crate) enum Content {
    /// The bytes, in memory.
    Bytes(Bytes),
    /// A scratch file, already written.
    Scratch(PathBuf),
}

/// An object kept in memory.
#[derive(Debug)]
struct Held {
    entry: Entry,
    headers: StoredHeaders,
    bytes: Bytes,
}

/// One bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    dir: Option<PathBuf>,
    held: RwLock<BTreeMap<String, Held>>,
    /// `None` until the first LIST. Held while a write changes files, so that the two agree.
    index: Mutex<Option<Index>>,
    /// If it is, nothing else is in it.
    made_up: Option<MadeUp>,
}

/// The sorted keys of a bucket.
#[derive(Debug)]
pub(crate) enum Keys<'a> {
    Stored(&'a Index),
    MadeUp(MadeUp),
}

impl Keys<'_> {
    /// From `start` on, in the order of their bytes.
    pub(crate) fn from<'a>(
        &'a self,
        start: Bound<&'a str>,
    ) -> Box<dyn Iterator<Item = (Cow<'a, str>, Entry)> + 'a> {
        match self {
            Self::Stored(index) => {
                Box::new(index.from(start).map(|(key, entry)| (Cow::Borrowed(key), *entry)))
            }
            Self::MadeUp(all) => {
                Box::new(all.from(start).map(|(key, entry)| (Cow::Owned(key), entry)))
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.from(Bound::Unbounded).next().is_none()
    }
}

/// All buckets.
#[derive(Debug)]
pub(crate) struct Store {
    root: Option<PathBuf>,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    scratch_serial: AtomicU64,
}

/// S3 allows less; test buckets need more. What matters: one path part, none of ours, none hidden.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (1..=255).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with('.')
        && !name.starts_with("__")
}

impl Store {
    /// Serves the directories of `root` as buckets; without a root, memory alone.
    pub(crate) fn open(root: Option<PathBuf>) -> io::Result<Self> {
        if let Some(root) = &root {
            fs::create_dir_all(root)?;
            let scratch = root.join(folder::SCRATCH_DIR);
            // Left over from a server that was killed: nothing in it was ever promised.
            let _ = fs::remove_dir_all(&scratch);
        }
        Ok(Self { root, buckets: RwLock::default(), scratch_serial: AtomicU64::new(0) })
    }

    /// Adds the bucket of keys that are made up.
    pub(crate) fn make_up(&self, names: MadeUp) {
        let bucket = Bucket { made_up: Some(names), ..Bucket::new(None) };
        self.buckets.write().insert(made_up::BUCKET.to_owned(), Arc::new(bucket));
    }

    /// The path of a new scratch file; `None` if there is no folder.
    pub(crate) fn scratch(&self) -> io::Result<Option<PathBuf>> {
        let Some(root) = &self.root else { return Ok(None) };
        let dir = root.join(folder::SCRATCH_DIR);
        fs::create_dir_all(&dir)?;
        Ok(Some(dir.join(self.scratch_serial.fetch_add(1, Relaxed).to_string())))
    }

    pub(crate) fn remove_scratch_dir(&self) {
        if let Some(root) = &self.root {
            let _ = fs::remove_dir_all(root.join(folder::SCRATCH_DIR));
        }
    }

    pub(crate) fn bucket(&self, name: &str) -> Result<Arc<Bucket>, S3Error> {
        if let Some(bucket) = self.buckets.read().get(name) {
            return Ok(Arc::clone(bucket));
        }
        let dir = self.root.as_ref().map(|root| root.join(name)).filter(|dir| dir.is_dir());
        if dir.is_none() || !is_bucket_name(name) {
            return Err(S3Error::no_such_bucket());
        }
        let mut buckets = self.buckets.write();
        Ok(Arc::clone(buckets.entry(name.to_owned()).or_insert_with(|| Arc::new(Bucket::new(dir)))))
    }

    /// Makes a bucket; one that exists is left as it is.
    pub(crate) fn create_bucket(&self, name: &str) -> Result<(), S3Error> {
        if !is_bucket_name(name) {
            let message = format!("{name:?} is not a bucket name");
            return Err(S3Error::new(http::StatusCode::BAD_REQUEST, "InvalidBucketName", message));
        }
        let dir = self.root.as_ref().map(|root| root.join(name));
        if let Some(dir) = &dir {
            fs::create_dir_all(dir)?;
        }
        let mut buckets = self.buckets.write();
        buckets.entry(name.to_owned()).or_insert_with(|| Arc::new(Bucket::new(dir)));
        Ok(())
    }

    /// Removes an empty bucket.
    pub(crate) fn delete_bucket(&self, name: &str) -> Result<(), S3Error> {
        let bucket = self.bucket(name)?;
        if !bucket.list("", true, |keys| keys.is_empty())? {
            let message = "The bucket you tried to delete is not empty";
            return Err(S3Error::new(http::StatusCode::CONFLICT, "BucketNotEmpty", message));
        }
        if let Some(dir) = &bucket.dir {
            fs::remove_dir_all(dir)?;
        }
        self.buckets.write().remove(name);
        Ok(())
    }

    /// Names and times of all buckets, sorted.
    pub(crate) fn buckets(&self) -> io::Result<Vec<(String, SystemTime)>> {
        let mut names: BTreeMap<String, SystemTime> = BTreeMap::new();
        for (name, bucket) in self.buckets.read().iter() {
            if bucket.dir.is_none() {
                names.insert(name.clone(), SystemTime::UNIX_EPOCH);
            }
        }
        if let Some(root) = &self.root {
            for item in fs::read_dir(root)? {
                let item = item?;
                let Some(name) = item.file_name().to_str().map(str::to_owned) else { continue };
                let Ok(metadata) = fs::metadata(item.path()) else { continue };
                if metadata.is_dir() && is_bucket_name(&name) {
                    names.insert(name, metadata.modified()?);
                }
            }
        }
        Ok(names.into_iter().collect())
    }
}

impl Bucket {
    fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, held: RwLock::default(), index: Mutex::new(None), made_up: None }
    }

    /// An error if nothing can be stored here.
    pub(crate) fn refuse_writes(&self) -> Result<(), S3Error> {
        match self.made_up {
            Some(_) => Err(S3Error::not_implemented("a write to a bucket that is made up")),
            None => Ok(()),
        }
    }

    fn path_of(&self, key: &str) -> Option<(&Path, PathBuf)> {
        let dir = self.dir.as_deref()?;
        Some((dir, folder::path_of(dir, key)?))
    }

    /// Looks an object up and opens it.
    pub(crate) fn find(&self, key: &str) -> Result<Found, S3Error> {
        if let Some(all) = self.made_up {
            let (entry, bytes) = all.find(key).ok_or_else(S3Error::no_such_key)?;
            return Ok(Found { entry, headers: StoredHeaders::new(), data: Data::Memory(bytes) });
        }
        if let Some(held) = self.held.read().get(key) {
            let data = Data::Memory(held.bytes.clone());
            return Ok(Found { entry: held.entry, headers: held.headers.clone(), data });
        }
        let (_, path) = self.path_of(key).ok_or_else(S3Error::no_such_key)?;
        let (file, entry, headers) = folder::open(&path)?.ok_or_else(S3Error::no_such_key)?;
        Ok(Found { entry, headers, data: Data::File(Arc::new(file)) })
    }

    /// Stores an object under `tag`, whole or not at all, and returns what it became. `condition`
    /// is asked first, with the object as it is, and no other write comes between.
    pub(crate) fn put(
        &self,
        store: &Store,
        key: &str,
        content: Content,
        tag: Tag,
        headers: StoredHeaders,
        condition: impl FnOnce(Result<Found, S3Error>) -> Result<(), S3Error>,
    ) -> Result<Entry, S3Error> {
        self.refuse_writes()?;
        // Written before the lock is taken: only the rename happens under it.
        let place = self.path_of(key);
        let scratch = match (&content, &place) {
            (Content::Scratch(path), _) => Some(path.clone()),
            (Content::Bytes(bytes), Some(_)) => {
                let path = store.scratch()?.expect("a bucket with a directory has a root");
                folder::write_scratch(&path, bytes, tag, &headers)?;
                Some(path)
            }
            (Content::Bytes(_), None) => None,
        };
        let mut index = self.index.lock();
        if let Err(error) = condition(self.find(key)) {
            if let Some(path) = &scratch {
                fs::remove_file(path)?;
            }
            return Err(error);
        }
        if let (Some((dir, path)), Some(scratch)) = (&place, &scratch)
            && folder::publish(scratch, path)?
        {
            self.held.write().remove(key);
            let entry = folder::inspect(path)?.ok_or_else(|| S3Error::internal("just stored"))?;
            if let Some(index) = &mut *index {
                index.insert(key, entry);
                index.wrote(dir, key);
            }
            return Ok(entry);
        }
        let bytes = match content {
            Content::Bytes(bytes) => bytes,
            Content::Scratch(path) => fs::read(&path)?.into(),
        };
        if let Some(path) = scratch {
            fs::remove_file(path)?;
        }
        let modified_ms = unix_ms(SystemTime::now());
        let entry = Entry { size: bytes.len() as u64, modified_ms, tag };
        self.held.write().insert(key.to_owned(), Held { entry, headers, bytes });
        if let Some(index) = &mut *index {
            index.insert(key, entry);
        }
        Ok(entry)
    }

    /// Deletes an object; one that does not exist is no error, as on S3.
    pub(crate) fn delete(&self, key: &str) -> Result<(), S3Error> {
        self.refuse_writes()?;
        let mut index = self.index.lock();
        self.held.write().remove(key);
        if let Some((dir, path)) = self.path_of(key)
            && folder::remove(dir, &path)?
            && let Some(index) = &mut *index
        {
            index.wrote(dir, key);
        }
        if let Some(index) = &mut *index {
            index.remove(key);
        }
        Ok(())
    }

    /// Gives `look` the sorted keys. With `check`, changes made to the folder by other means below
    /// `prefix` are looked for first; the pages of one listing need that only once.
    pub(crate) fn list<T>(
        &self,
        prefix: &str,
        check: bool,
        look: impl FnOnce(&Keys<'_>) -> T,
    ) -> Result<T, S3Error> {
        if let Some(all) = self.made_up {
            return Ok(look(&Keys::MadeUp(all)));
        }
        let mut index = self.index.lock();
        let stale = match (&*index, &self.dir) {
            (None, _) => true,
            (Some(index), Some(dir)) => check && index.is_stale(dir, prefix),
            (Some(_), None) => false,
        };
        if stale {
            *index = Some(self.scan()?);
        }
        Ok(look(&Keys::Stored(index.as_ref().expect("scanned above"))))
    }

    fn scan(&self) -> io::Result<Index> {
        let mut index = match &self.dir {
            Some(dir) => Index::scan(dir)?,
            None => Index::default(),
        };
        for (key, held) in self.held.read().iter() {
            index.insert(key, held.entry);
        }
        Ok(index)
    }

    /// Forgets the sorted keys: the next LIST walks the folder.
    pub(crate) fn rescan(&self) {
        *self.index.lock() = None;
    }
}
