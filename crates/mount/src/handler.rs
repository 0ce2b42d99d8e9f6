//! The file system itself: plain requests in, answers out, no transport.
//!
//! Every method that may have to wait takes its reply as a closure: it is called at once when the
//! answer is in memory, else later from a task on the runtime. A request thread never waits.
//!
//! # Invariants
//!
//! - The listing is the only source of names, sizes and times: no request goes to the store for
//!   them, and a listing that is known and fresh is answered from memory in the request thread.
//! - The kernel may keep a name for as long as the listing it came from is fresh, and no longer. An
//!   object's attributes never change, since its inode is one version.
//! - An inode serves the bytes of its own version or ESTALE, never another version's.
//!
//! # Deliberately absent
//!
//! - No FUSE: `fuse.rs` translates. `B` is whatever the transport calls a backing id.
//! - No caching and no retrying of bytes: that is the read chain's.
//!
//! # Reading order
//!
//! Names and attributes here; directories in `readdir.rs`, opens in `opening.rs`, bytes in
//! `reading.rs`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use feedline_model::{
    Access, AccessObserver, BlockSource, Clock, Directory, EntryKind, ObjectIndex, ReadError, Tree,
};
use hashbrown::HashSet;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::ahead::{Ahead, Made};
use crate::attr::{Attr, Owner, time_of};
use crate::errno::Errno;
use crate::inode::{Identity, Inode, InodeTable, Kind, ROOT, SHARDS};
use crate::notice::{Closed, Notice};
use crate::opening::{IdleRing, Patience};
use crate::reading::DiskTurns;
use crate::stats::{Counters, MountStats, add};

/// How long the kernel may keep the attributes of an object's inode: they never change, so any long
/// time will do. A day bounds what a wrong clock could do.
pub(crate) const FILE_ATTR_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the kernel may keep what an outdated listing says, unless the listing's own TTL is
/// shorter. Without it every step of every path would be a request while the bucket is down; a
/// second is the most by which a change is seen later than the TTL promises.
const OUTDATED_TTL_MS: u64 = 1_000;

/// The longest name, as on every Linux file system.
const NAME_MAX: usize = 255;

/// Objects whose trouble was logged and is not logged again. When the set is full it starts anew.
const LOGGED_MAX: usize = 1_024;

/// Everything the handler talks to.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) tree: Arc<dyn Tree>,
    pub(crate) index: Arc<dyn ObjectIndex>,
    pub(crate) blocks: Arc<dyn BlockSource>,
    pub(crate) observer: Option<Arc<dyn AccessObserver>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Handle,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) owner: Owner,
    pub(crate) idle_backing_max: usize,
    pub(crate) inodes_max: usize,
    /// Request threads.
    pub(crate) threads: usize,
}

/// The answer to a lookup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// The name exists: its inode, how long the attributes and how long the name may be kept.
    Entry { attr: Attr, attr_ttl: Duration, entry_ttl: Duration },
    /// The name does not exist, and will not for this long.
    Absent { ttl: Duration },
}

/// The file system.
#[derive(Debug)]
pub(crate) struct Handler<B> {
    pub(crate) parts: Parts,
    pub(crate) inodes: InodeTable<B>,
    pub(crate) idle: IdleRing,
    pub(crate) ahead: Ahead,
    pub(crate) disk_turns: DiskTurns,
    pub(crate) patience: Patience,
    pub(crate) closed: Closed,
    pub(crate) counters: Counters,
    /// Decided once, before the first request: opens hand out cached files.
    pub(crate) passthrough: OnceLock<bool>,
    /// Decided once, before the first request: requests come over rings.
    pub(crate) over_ring: OnceLock<bool>,
    /// The first backing id that could not be made was logged.
    pub(crate) backing_trouble: AtomicBool,
    /// True when the connection has ended: nobody waits for an answer any more.
    pub(crate) ended: watch::Sender<bool>,
    /// The kernel is being asked to forget.
    shrinking: AtomicBool,
    logged: Mutex<HashSet<(Box<str>, i32)>>,
}

impl<B: Send + Sync + 'static> Handler<B> {
    /// A handler that knows the root.
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let idle = IdleRing::new(parts.idle_backing_max);
        let disk_turns = DiskTurns::new(parts.threads);
        Arc::new(Self {
            parts,
            inodes: InodeTable::new(),
            idle,
            ahead: Ahead::default(),
            disk_turns,
            patience: Patience::default(),
            closed: Closed::default(),
            counters: Counters::default(),
            passthrough: OnceLock::new(),
            over_ring: OnceLock::new(),
            backing_trouble: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            shrinking: AtomicBool::new(false),
            logged: Mutex::default(),
        })
    }

    /// What `work` gives, or EIO at once when the connection ends: a reply that waits for the
    /// bucket would keep the device open after the unmount.
    pub(crate) async fn while_mounted<T>(&self, work: impl Future<Output = T>) -> Result<T, Errno> {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            biased;
            done = work => Ok(done),
            _ = ended.wait_for(|ended| *ended) => Err(Errno::IO),
        }
    }

    /// Counters now.
    pub(crate) fn stats(&self) -> MountStats {
        self.counters.snapshot(self.inodes.len(), self.idle.len())
    }

    /// The inode with this number. ESTALE if it was forgotten, which the kernel never asks for.
    pub(crate) fn inode(&self, number: u64) -> Result<Arc<Inode<B>>, Errno> {
        self.inodes.get(number).ok_or(Errno::STALE)
    }

    /// Looks `name` up in the directory `parent`.
    pub(crate) fn lookup(
        self: &Arc<Self>,
        parent: u64,
        name: &[u8],
        reply: impl FnOnce(Result<Found, Errno>) + Send + 'static,
    ) {
        let path = match self.directory_path(parent) {
            Ok(path) => path,
            Err(errno) => return reply(Err(errno)),
        };
        if name.len() > NAME_MAX {
            return reply(Err(Errno::NAMETOOLONG));
        }
        // Every name of a listing is UTF-8, so another one is absent.
        let Ok(name) = std::str::from_utf8(name) else { return reply(Err(Errno::NOENT)) };
        let name: Box<str> = name.into();
        self.with_listing(&path, move |handler, listing| {
            reply(listing.map(|listing| handler.find(&listing, &name)));
        });
    }

    fn find(&self, listing: &Arc<Directory>, name: &str) -> Found {
        let ttl = self.fresh(listing);
        match listing.find(name) {
            None => Found::Absent { ttl },
            Some(index) => self.entry(listing, index, ttl),
        }
    }

    /// The entry at `index`; counts a lookup by the kernel.
    pub(crate) fn entry(&self, listing: &Arc<Directory>, index: usize, ttl: Duration) -> Found {
        if let Some(attr) = self.file_entry(listing, index) {
            return Found::Entry { attr, attr_ttl: FILE_ATTR_TTL, entry_ttl: ttl };
        }
        let path: Arc<str> = listing.child_path(listing.entry(index).name).into();
        let inode = self.inodes.look_up(&Identity::Directory(&path));
        let (modified, attr_ttl) = self.directory_times(&path, listing);
        let attr = self.parts.owner.directory(inode.number, modified);
        Found::Entry { attr, attr_ttl: attr_ttl.min(ttl), entry_ttl: ttl }
    }

    /// The attributes of the object at `index`, `None` if that is a directory; counts a lookup.
    pub(crate) fn file_entry(&self, listing: &Directory, index: usize) -> Option<Attr> {
        let object = listing.object_ref(index)?;
        let id = object.id();
        let identity = Identity::File { object, id: &id, parent: &listing.path };
        let inode = self.inodes.look_up(&identity);
        if self.parts.inodes_max < self.inodes.len() {
            self.shrink();
        }
        Some(self.parts.owner.file(inode.number, object.version))
    }

    /// Has the kernel asked to forget, unless that is under way.
    fn shrink(&self) {
        if !self.shrinking.swap(true, Ordering::Relaxed)
            && self.parts.notices.try_send(Notice::Shrink).is_err()
        {
            self.shrinking.store(false, Ordering::Relaxed);
        }
    }

    /// Part `part` of the names that the kernel is to drop so that it remembers an eighth less than it
    /// may: not every new inode then asks again. `None`: there are no more.
    pub(crate) fn surplus(&self, part: usize) -> Option<Vec<(u64, Box<str>)>> {
        if SHARDS <= part {
            self.shrinking.store(false, Ordering::Relaxed);
            return None;
        }
        let surplus = self.inodes.surplus(part, self.parts.inodes_max / 8 * 7);
        let name = |inode: Arc<Inode<B>>| {
            let Kind::File { object, parent, .. } = &inode.kind else { return None };
            let directory = self.inodes.find(&Identity::Directory(parent))?;
            let name = object.key.rsplit('/').next().unwrap_or(&object.key);
            Some((directory.number, name.into()))
        };
        Some(surplus.into_iter().filter_map(name).collect())
    }

    /// The time of modification of the directory `path`, an entry of `parent`, and for how long
    /// it may be kept.
    ///
    /// The kernel keeps what it read of a directory until that time changes. So while the directory
    /// has no fresh listing, its time must differ from any given before: the nanoseconds carry when
    /// the parent was listed, and nothing has to be listed for a mere `stat`.
    fn directory_times(&self, path: &str, parent: &Directory) -> (SystemTime, Duration) {
        if let Some(own) = self.parts.tree.peek(path) {
            return (time_of(own.changed_ms), self.fresh(&own));
        }
        // Never 0, which is what a listing's own time has.
        let nanos = 1 + parent.listed_ms % 999_999;
        (time_of(parent.changed_ms) + Duration::from_nanos(nanos), self.fresh(parent))
    }

    /// How long the kernel may rely on `listing`. An outdated one is what the tree gives while the
    /// store does not answer: see [`OUTDATED_TTL_MS`].
    pub(crate) fn fresh(&self, listing: &Directory) -> Duration {
        let least = OUTDATED_TTL_MS.min(listing.ttl_ms);
        Duration::from_millis(listing.fresh_ms(self.parts.clock.unix_ms()).max(least))
    }

    /// The attributes of an inode and how long they may be kept.
    pub(crate) fn getattr(
        self: &Arc<Self>,
        number: u64,
        reply: impl FnOnce(Result<(Attr, Duration), Errno>) + Send + 'static,
    ) {
        let inode = match self.inode(number) {
            Ok(inode) => inode,
            Err(errno) => return reply(Err(errno)),
        };
        match &inode.kind {
            Kind::File { object, .. } => {
                reply(Ok((self.parts.owner.file(number, object.version.as_ref()), FILE_ATTR_TTL)));
            }
            Kind::Directory { path, .. } => self.directory_attr(number, path, reply),
        }
    }

    fn directory_attr(
        self: &Arc<Self>,
        number: u64,
        path: &Arc<str>,
        reply: impl FnOnce(Result<(Attr, Duration), Errno>) + Send + 'static,
    ) {
        // The parent answers if it can: a listing of a directory is fetched to be read, not for a
        // `stat`.
        if number != ROOT && self.parts.tree.peek(path).is_none() {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let name = path.rsplit_once('/').map_or(&**path, |(_, name)| name);
            if let Some(parent) = self.parts.tree.peek(parent) {
                let entry = parent.find(name).map(|index| parent.entry(index).kind);
                if !matches!(entry, Some(EntryKind::Directory)) {
                    return reply(Err(Errno::NOENT));
                }
                let (modified, ttl) = self.directory_times(path, &parent);
                return reply(Ok((self.parts.owner.directory(number, modified), ttl)));
            }
        }
        self.with_listing(path, move |handler, listing| {
            reply(listing.map(|listing| {
                let modified = time_of(listing.changed_ms);
                (handler.parts.owner.directory(number, modified), handler.fresh(&listing))
            }));
        });
    }

    /// The kernel forgets `count` lookups of an inode.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        let gone = self.inodes.forget(number, count);
        if let Some(Kind::Directory { .. }) = gone.as_ref().map(|inode| &inode.kind) {
            self.take_back(self.ahead.give_up(number));
        }
    }

    /// Takes back the lookups of entries that were made ahead for nothing.
    pub(crate) fn take_back(&self, made: Vec<Made>) {
        for attr in made.into_iter().flatten() {
            drop(self.inodes.forget(attr.number, 1));
        }
    }

    /// The path of the directory with this inode number.
    pub(crate) fn directory_path(&self, number: u64) -> Result<Arc<str>, Errno> {
        match &self.inode(number)?.kind {
            Kind::Directory { path, .. } => Ok(Arc::clone(path)),
            Kind::File { .. } => Err(Errno::NOTDIR),
        }
    }

    /// Calls `then` with the listing of `path`: at once if it is in memory, else from a task.
    pub(crate) fn with_listing(
        self: &Arc<Self>,
        path: &Arc<str>,
        then: impl FnOnce(&Arc<Self>, Result<Arc<Directory>, Errno>) + Send + 'static,
    ) {
        if let Some(listing) = self.parts.tree.peek(path) {
            return then(self, Ok(listing));
        }
        let (handler, path) = (Arc::clone(self), Arc::clone(path));
        self.parts.runtime.spawn(async move {
            let listing = match handler.while_mounted(handler.parts.tree.list(&path)).await {
                Ok(Ok(Some(listing))) => Ok(listing),
                Ok(Ok(None)) => Err(Errno::NOENT),
                Ok(Err(error)) => Err(handler.errno(&error)),
                Err(errno) => Err(errno),
            };
            then(&handler, listing);
        });
    }

    /// The errno of `error`, whose cause is logged once per object and kind.
    pub(crate) fn errno(&self, error: &ReadError) -> Errno {
        let errno = Errno::from(error);
        add(&self.counters.errors, 1);
        let mut logged = self.logged.lock();
        if logged.len() >= LOGGED_MAX {
            logged.clear();
        }
        if logged.insert((error.location().into(), errno.0)) {
            drop(logged);
            tracing::warn!(errno = errno.0, "{error}");
        }
        errno
    }

    /// Tells the observer, if there is one, that a process uses a file.
    pub(crate) fn report(&self, process: u32, kind: &Kind, is_hit: bool) {
        if let (Some(observer), Kind::File { object, parent, .. }) = (&self.parts.observer, kind) {
            observer.accessed(Access { process, parent, object, is_hit });
        }
    }

    /// Queues a notice; one that finds the queue full is dropped.
    pub(crate) fn notify(&self, notice: Notice) {
        let _ = self.parts.notices.try_send(notice);
    }

    /// True if opens hand out cached files.
    pub(crate) fn is_passthrough(&self) -> bool {
        self.passthrough.get().copied().unwrap_or(false)
    }

    /// True if requests come over rings.
    pub(crate) fn is_over_ring(&self) -> bool {
        self.over_ring.get().copied().unwrap_or(false)
    }

    /// True the first time.
    pub(crate) fn first_backing_trouble(&self) -> bool {
        !self.backing_trouble.swap(true, Ordering::Relaxed)
    }
}
