//! The links of the read chain and what they say to each other.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::directory::Directory;
use crate::error::ReadError;
use crate::object::{Object, ObjectId, SourceId, Version};
use crate::urgency::Urgency;

/// How urgent a read is. Someone waits for a demand read; a fill read gives way to it everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Priority {
    /// In the background: read-ahead, fill, load.
    Fill,
    /// A process waits for these bytes now.
    Demand,
}

/// Where the bytes of an object come from.
///
/// Every link of the read path is one of these: the cache, the peer that owns the object, the
/// object store. A link knows only the next one, so links are tested and re-ordered one at a time.
#[async_trait]
pub trait BlockSource: fmt::Debug + Send + Sync {
    /// Reads `range`, in bytes from the start of `object`; it must lie within the object.
    ///
    /// Returns exactly the bytes of the range, all of the one version asked for, or an error. Many
    /// tasks may read the same object at once. Dropping the future leaks nothing and cancels
    /// nobody else's read.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; each variant says what the caller should do.
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError>;

    /// As [`BlockSource::read`], for a read that others may join: it may become more urgent while it is under way.
    /// A link that does nothing about that may leave it.
    ///
    /// # Errors
    ///
    /// As those of [`BlockSource::read`].
    async fn read_shared(
        &self,
        object: &Object,
        range: Range<u64>,
        urgency: &Urgency,
    ) -> Result<Bytes, ReadError> {
        self.read(object, range, urgency.priority()).await
    }
}

/// Bytes of an object and their checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summed {
    /// The bytes.
    pub bytes: Bytes,
    /// CRC-32C of them.
    pub crc: u32,
}

/// A cache as others than this node's own readers are served from it: what rots on its disk must not
/// spread.
#[async_trait]
pub trait CheckedSource: fmt::Debug + Send + Sync {
    /// As [`BlockSource::read`], and with the checksum, so that it is taken once.
    ///
    /// What comes from a disk is compared with what was recorded when it was fetched, if that is known of
    /// exactly this range. A copy that is not as it was fetched is dropped, and the next link asked.
    ///
    /// # Errors
    ///
    /// As those of [`BlockSource::read`]; a copy that was dropped is none.
    async fn read_checked(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Summed, ReadError>;

    /// The same if the bytes are on the disk here and as they were fetched, else `None`. The next link is not
    /// asked for them, and the object does not count as used.
    async fn read_here(&self, object: &Object, range: Range<u64>) -> Option<Summed>;
}

/// One page of a listing to ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// Only keys that start with this text.
    pub prefix: String,
    /// True: keys with a `/` after the prefix are folded into [`ListPage::prefixes`].
    pub delimiter: bool,
    /// Begin after this name rather than with the first one; for a request without `token`. A store that
    /// cannot skip lists the names before it as well.
    pub after: Option<String>,
    /// The [`ListPage::next`] of the page before, or `None` for the first.
    pub token: Option<String>,
}

/// One object as a listing gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// The whole key, exactly as the store has it: it may be no valid path.
    pub key: String,
    /// The version listed.
    pub version: Version,
}

/// One page of a listing: at most 1,000 names on most stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, in the store's order (S3: bytes of the key).
    pub objects: Vec<ListedObject>,
    /// Folded prefixes, each with its final `/`.
    pub prefixes: Vec<String>,
    /// What to pass for the page after this one; `None` when this is the last.
    pub next: Option<String>,
}

/// Lists the keys of one source.
#[async_trait]
pub trait Lister: fmt::Debug + Send + Sync {
    /// Fetches one page. Cost: one LIST request, plus retries.
    ///
    /// # Errors
    ///
    /// See [`ReadError`]; [`ReadError::NotFound`] means that the bucket is missing, never that
    /// the prefix is empty.
    async fn list(&self, request: &ListRequest) -> Result<ListPage, ReadError>;

    /// The source that it lists.
    fn source(&self) -> SourceId;
}

/// A complete object on this node's disk, open for reading.
#[derive(Debug, Clone)]
pub struct CachedFile {
    /// Exactly the object's bytes, from offset 0.
    pub file: Arc<File>,
    /// Bytes.
    pub size: u64,
}

/// Where the bytes of an object are on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence {
    /// In the page cache, or on their way into it.
    Memory,
    /// On the disk: so many of the bytes looked at are not in the page cache.
    Disk(u64),
    /// Not complete here, not to be trusted before it is verified, or nobody can tell.
    Unknown,
}

/// What to do about an object's bytes that are on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Push {
    /// Nothing: say where they are.
    Look,
    /// Start reading them into the page cache.
    Read,
}

/// Which objects are complete on this node, and where.
pub trait ObjectIndex: fmt::Debug + Send + Sync {
    /// Opens the object's file if the object is complete and sound here; marks it used.
    ///
    /// `None` is a miss, not a failure: read through [`BlockSource`] instead. Never blocks on the
    /// network; after an unclean stop the first open of an object reads it once to verify it.
    /// Cost of a hit: one `open(2)`, one `fstat(2)`.
    fn open(&self, object: &Object) -> Option<CachedFile>;

    /// True if the object is complete here. Memory only.
    fn contains(&self, id: &ObjectId) -> bool;

    /// True if these bytes of the object are here, though others may be missing. Memory only. An index that
    /// knows nothing of parts may leave it.
    fn has(&self, id: &ObjectId, range: &Range<u64>) -> bool {
        let _ = range;
        self.contains(id)
    }

    /// What to wait for if a small object is on its way here. `None`: it is complete, large, or nobody
    /// fetches it, and nothing is fetched because of this call. Memory only.
    fn arrival(&self, object: &Object) -> Option<Arrival> {
        let _ = object;
        None
    }

    /// Marks an object used without opening it. Memory only.
    fn touch(&self, id: &ObjectId);

    /// Says where the bytes of a complete object are and, if so asked, starts reading those on the
    /// disk into the page cache, so that a reader finds them there. Does not wait for them; verifies
    /// nothing and marks nothing used. Of a large object only the beginning counts.
    ///
    /// Cost: one `open(2)` and two more system calls; the open may wait for the disk, so this is not
    /// for request threads.
    fn push(&self, object: &Object, push: Push) -> Residence;

    /// Bytes on disk that can still be added before anything would have to be evicted for them.
    /// Memory only; a snapshot, outdated as soon as it is given.
    fn free_bytes(&self) -> u64;

    /// Registers who may hold an object's file; asked before every eviction. At most one.
    fn set_holder(&self, holder: Arc<dyn ObjectHolder>);
}

/// Completes when an object that was on its way is complete here, or is given up.
pub type Arrival = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Someone who keeps cached files in use beyond a single read: the mount, with its backing ids.
pub trait ObjectHolder: fmt::Debug + Send + Sync {
    /// Asks to let go of an object that is about to be evicted.
    ///
    /// True: nothing holds it any more, its file may be unlinked and its space is free at once.
    /// False: it is in use; choose another victim. Called from the cache's own thread, never under
    /// a lock of the cache.
    fn let_go(&self, id: &ObjectId) -> bool;
}

/// One process's use of one object, as the mount sees it.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The thread that asks, as the kernel names it (a FUSE request carries the thread's id).
    pub process: u32,
    /// The directory's path in the tree.
    pub parent: &'a Arc<str>,
    /// The object; its name is the last part of its key.
    pub object: &'a Object,
    /// It was complete here when it was asked for.
    pub is_hit: bool,
}

/// Somebody who watches what is read: fill, which reads ahead of the loader.
pub trait AccessObserver: fmt::Debug + Send + Sync {
    /// An object was opened or, where opens do not reach the daemon, read from its start.
    ///
    /// Called in a request thread before the answer, for every open: it must neither block nor take
    /// more than about a microsecond. May be called twice for one use.
    fn accessed(&self, access: Access<'_>);
}

/// Somebody who may know when objects will be needed again: asked by eviction.
pub trait Foresight: fmt::Debug + Send + Sync {
    /// When the object is needed next. Memory only, about a microsecond; called for each candidate
    /// of an eviction, without a lock of the cache.
    fn next_use(&self, id: &ObjectId) -> NextUse;
}

/// When an object is needed next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextUse {
    /// Nothing is known: the object belongs to no data set that is being read.
    Unknown,
    /// After this many opens, over all processes that read its data set. Exact where the order is
    /// known.
    After(u64),
    /// It belongs to a data set that is being read in an unknown order, and was not yet read in this
    /// epoch: it will be, at some time before the epoch ends.
    ThisEpoch,
    /// It belongs to a data set that is being read, and was read in this epoch already: not again
    /// before the next one.
    NextEpoch,
    /// Whenever it is needed, another node has it: this is a copy of what that node keeps for all.
    Elsewhere,
}

/// Somebody who knows which objects are this node's to keep: asked before an object is kept, and by
/// eviction.
pub trait Ownership: fmt::Debug + Send + Sync {
    /// Whose the object is. Memory only, about a microsecond; called without a lock of the cache.
    fn keeping(&self, id: &ObjectId) -> Keeping;

    /// True if any object is ever [`Keeping::Copy`]: else eviction need not ask.
    fn has_copies(&self) -> bool;
}

/// Whose an object is among the nodes that share a cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeping {
    /// This node keeps it for all.
    Own,
    /// Another node keeps it: a copy here goes before anything of our own.
    Copy,
    /// Another node keeps it, and nothing is to be kept here.
    Pass,
}

/// The bucket as a tree of directories.
///
/// A path is relative to the root of the tree, without a slash at either end; the root is `""`.
#[async_trait]
pub trait Tree: fmt::Debug + Send + Sync {
    /// The complete listing of `path` if it is known and no older than the metadata TTL.
    /// Memory only: `None` means "ask [`Tree::list`]", not "absent".
    fn peek(&self, path: &str) -> Option<Arc<Directory>>;

    /// The complete listing of `path`, from memory or from the store. `Ok(None)`: no such
    /// directory. Joins a listing of the same path that is already under way. When the store does
    /// not answer, an outdated listing is returned rather than an error.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    async fn list(&self, path: &str) -> Result<Option<Arc<Directory>>, ReadError>;

    /// Marks the listing of `path` as outdated: the next [`Tree::list`] asks the store.
    fn expire(&self, path: &str);
}
