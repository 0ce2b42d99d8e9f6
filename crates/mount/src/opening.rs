//! OPEN and RELEASE, and letting go of a cached file.
//!
//! # Deliberately absent
//!
//! - An open never starts a fetch: a loader opens a thousand files ahead, and some are never read. The
//!   first READ fetches.
//! - An open never waits for a bucket that is slow: see [`Patience`].

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use feedline_model::page::PAGE_BYTES;
use feedline_model::{Arrival, CachedFile, Object, ObjectHolder, ObjectId};
use parking_lot::Mutex;

use crate::errno::Errno;
use crate::handler::Handler;
use crate::inode::{Inode, Kind};
use crate::mode::{Begin, Expired, Grant};
use crate::notice::{Notice, Pages};
use crate::stats::add;

/// Backing ids looked at when there is one too many. More than one, since the oldest may be in use;
/// few, since an open waits for it.
const EXPIRE_LOOKS: usize = 8;

/// The largest file of which an open has all of it read: who opens a larger one may want a part.
const BEGIN_BYTES_MAX: u64 = 1 << 20;

/// How long an open waits for a small file that is on its way. If it comes, the kernel alone reads it, from
/// pages that are there already; if not, its READ goes through us into a second copy of them. A
/// fetch of a near bucket takes 5 to 50 ms.
const ARRIVAL_WAIT: Duration = Duration::from_millis(100);

/// For how long no open waits after one has waited in vain.
const ARRIVAL_PAUSE: Duration = Duration::from_secs(2);

/// Whether opens wait for what is on its way.
///
/// A loader that opens far ahead of its reads must not be held up by a bucket that hangs: waiting in
/// vain costs each of its threads at most a twentieth of its time.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// Milliseconds of the monotonic clock from which on opens wait again.
    resumes_ms: AtomicU64,
}

impl Patience {
    fn has_any(&self, now: Duration) -> bool {
        u128::from(self.resumes_ms.load(Ordering::Relaxed)) <= now.as_millis()
    }

    fn lose(&self, now: Duration) {
        let resumes = (now + ARRIVAL_PAUSE).as_millis();
        self.resumes_ms.store(u64::try_from(resumes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Inodes with a backing id, oldest first: a clock with a second chance.
///
/// An entry may outlive its backing id (evicted, forgotten); it is dropped when it comes up.
#[derive(Debug)]
pub(crate) struct IdleRing {
    ring: Mutex<VecDeque<u64>>,
    max: usize,
}

impl IdleRing {
    /// A ring that is full with `max` backing ids.
    pub(crate) fn new(max: usize) -> Self {
        Self { ring: Mutex::default(), max }
    }

    /// Entries in the ring.
    pub(crate) fn len(&self) -> usize {
        self.ring.lock().len()
    }

    fn push(&self, number: u64) {
        self.ring.lock().push_back(number);
    }

    fn pop_surplus(&self) -> Option<u64> {
        let mut ring = self.ring.lock();
        if ring.len() > self.max { ring.pop_front() } else { None }
    }
}

/// How an open is answered.
pub(crate) trait OpenReply<B>: Send + 'static {
    /// Makes a backing id of a cached file: a cheap call to the kernel.
    fn register(&self, file: &File) -> io::Result<B>;

    /// Answers the request.
    fn answer(self, result: Result<Grant<B>, Errno>);
}

/// An open that is being decided. If it ends without a decision (a panic, the runtime's end), the
/// object must not count as in use for ever.
#[derive(Debug)]
struct Deciding<B>(Option<Arc<Inode<B>>>);

impl<B> Drop for Deciding<B> {
    fn drop(&mut self) {
        if let Some(inode) = self.0.take() {
            inode.open.lock().give_up();
        }
    }
}

/// Has the disk begin on a small file while its opener is still on its way to the first read.
///
/// What is in memory already costs a look at each of its pages. Only for the first open since the kernel
/// forgot the inode: it says nothing of a file that is read again and again.
fn begin_to_read(cached: &CachedFile) {
    if cached.size <= BEGIN_BYTES_MAX {
        // Of no consequence if it fails: the reads then wait for the disk.
        let all = std::num::NonZeroU64::new(cached.size);
        let _ = rustix::fs::fadvise(&cached.file, 0, all, rustix::fs::Advice::WillNeed);
    }
}

impl<B: Send + Sync + 'static> Handler<B> {
    /// Opens a file for `process`.
    pub(crate) fn open<R: OpenReply<B>>(self: &Arc<Self>, number: u64, process: u32, reply: R) {
        let inode = match self.inode(number) {
            Ok(inode) => inode,
            Err(errno) => return reply.answer(Err(errno)),
        };
        let Kind::File { object, id, .. } = &inode.kind else {
            return reply.answer(Err(Errno::ISDIR));
        };
        let complete = self.parts.index.contains(id);
        self.report(process, &inode.kind, complete);
        let begin = inode.open.lock().begin(complete);
        match begin {
            Begin::Join(grant) => {
                self.count_open(&grant, true);
                reply.answer(Ok(grant));
            }
            Begin::Reuse(backing) => {
                self.parts.index.touch(id);
                let grant = Grant::Passthrough(backing);
                self.count_open(&grant, true);
                reply.answer(Ok(grant));
            }
            Begin::Decide { outdated } => {
                drop(outdated);
                let large = object.version.size > PAGE_BYTES;
                let deciding = Deciding(Some(Arc::clone(&inode)));
                if !complete && let Some(arrival) = self.arrival(object) {
                    self.decide_on_arrival(reply, deciding, arrival);
                    return;
                }
                if large && complete {
                    // It may have to be verified first, which takes longer than a request thread
                    // may be away; a hop to another thread is nothing beside reading it.
                    let handler = Arc::clone(self);
                    self.parts.runtime.spawn_blocking(move || handler.decide(reply, deciding));
                } else {
                    self.decide(reply, deciding);
                }
            }
        }
    }

    /// What an open of the object waits for, if it waits.
    fn arrival(&self, object: &Object) -> Option<Arrival> {
        let waits = self.is_passthrough() && self.patience.has_any(self.parts.clock.monotonic());
        if waits { self.parts.index.arrival(object) } else { None }
    }

    fn decide_on_arrival<R: OpenReply<B>>(
        self: &Arc<Self>,
        reply: R,
        deciding: Deciding<B>,
        arrival: Arrival,
    ) {
        let handler = Arc::clone(self);
        self.parts.runtime.spawn(async move {
            let arrival = tokio::time::timeout(ARRIVAL_WAIT, arrival);
            if let Ok(Err(_)) = handler.while_mounted(arrival).await {
                handler.patience.lose(handler.parts.clock.monotonic());
            }
            handler.decide(reply, deciding);
        });
    }

    // `deciding` comes last so that it ends first: who sees the answer may at once evict.
    fn decide<R: OpenReply<B>>(&self, reply: R, mut deciding: Deciding<B>) {
        let candidate = match deciding.0.as_ref().map(|inode| &inode.kind) {
            Some(Kind::File { object, .. }) => self.candidate(object, &reply),
            _ => None,
        };
        let Some(inode) = deciding.0.take() else { return };
        let (grant, taken, late) = inode.open.lock().settle(candidate);
        drop(late);
        self.count_open(&grant, false);
        reply.answer(Ok(grant));
        if taken {
            self.idle.push(inode.number);
            self.expire_idle();
        }
    }

    fn candidate<R: OpenReply<B>>(&self, object: &Object, reply: &R) -> Option<B> {
        if !self.is_passthrough() {
            return None;
        }
        let cached = self.parts.index.open(object)?;
        match reply.register(&cached.file) {
            Ok(backing) => {
                begin_to_read(&cached);
                Some(backing)
            }
            Err(error) => {
                if self.first_backing_trouble() {
                    tracing::warn!(%error, "a cached file cannot be handed to the kernel; its \
                        reads are answered by the daemon (logged once)");
                }
                None
            }
        }
    }

    fn count_open(&self, grant: &Grant<B>, reused: bool) {
        match grant {
            Grant::Cached => add(&self.counters.cached_opens, 1),
            Grant::Passthrough(_) => {
                add(&self.counters.passthrough_opens, 1);
                add(&self.counters.reused_opens, u64::from(reused));
            }
        }
    }

    fn expire_idle(&self) {
        for _ in 0..EXPIRE_LOOKS {
            let Some(number) = self.idle.pop_surplus() else { return };
            let Some(inode) = self.inodes.get(number) else { continue };
            let expired = inode.open.lock().expire();
            match expired {
                Expired::Dropped(backing) => drop(backing),
                Expired::Kept => self.idle.push(number),
                Expired::Nothing => {}
            }
        }
    }

    /// A handle of a file is gone.
    pub(crate) fn release(&self, number: u64) {
        let Ok(inode) = self.inode(number) else { return };
        let last = inode.open.lock().release();
        if !last {
            return;
        }
        if self.is_passthrough()
            && inode.has_pages.load(Ordering::Relaxed)
            && self.closed.add(number)
        {
            self.notify(Notice::Closed);
        }
        drop(self.inodes.forget(number, 0));
    }

    /// Whether the kernel's pages of an inode, read through us, are a second copy by now.
    pub(crate) fn pages_of(&self, number: u64) -> Pages {
        let Ok(inode) = self.inode(number) else { return Pages::Keep };
        let Kind::File { id, .. } = &inode.kind else { return Pages::Keep };
        if inode.open.lock().is_cached() {
            return Pages::Keep;
        }
        if !self.parts.index.contains(id) {
            return Pages::NotYet;
        }
        if inode.has_pages.swap(false, Ordering::Relaxed) { Pages::Drop } else { Pages::Keep }
    }

    /// See [`ObjectHolder::let_go`].
    pub(crate) fn let_go(&self, id: &ObjectId) -> bool {
        let Some(inode) = self.inodes.find_object(id) else { return true };
        let given_up = inode.open.lock().let_go();
        // Dropping it closes the backing id: only now is the file's space free after an unlink.
        given_up.map(drop).is_ok()
    }
}

/// What the cache asks before an eviction. Weak: the cache outlives the mount.
#[derive(Debug)]
pub(crate) struct Holder<B>(pub(crate) std::sync::Weak<Handler<B>>);

impl<B: Send + Sync + std::fmt::Debug + 'static> ObjectHolder for Holder<B> {
    fn let_go(&self, id: &ObjectId) -> bool {
        self.0.upgrade().is_none_or(|handler| handler.let_go(id))
    }
}
