//! One read, followed: is it here, is somebody fetching it, else fetch it.
//!
//! [`Cache`] is what others hold; [`Shared`] is what its tasks hold. When the last `Cache` is
//! dropped without [`Cache::close`], background work stops and the next open verifies.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use feedline_model::page::{PAGE_BYTES, page_count, page_range, pages_of};
use feedline_model::{
    Arrival, BlockSource, CachedFile, Clock, Foresight, Keeping, NextUse, Object, ObjectHolder,
    ObjectId, ObjectIndex, Ownership, Priority, Push, ReadError, Residence,
};
use futures::StreamExt as _;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::budget::Budget;
use crate::config::{CacheConfig, CacheError};
use crate::directory::Dir;
use crate::disk::{Disk, RealDisk};
use crate::flight::{Boarding, Flights};
use crate::index::{Index, State};
use crate::local::OpenFiles;
use crate::partial::Partial;
use crate::readahead::ReadAhead;
use crate::stats::{CacheStats, Counters, DirStats};
use crate::sums::Sums;
use crate::worth::Worth;
use crate::writes::Writes;

/// Directories of one cache at most: a record has one byte for the number.
const DIRS_MAX: usize = 250;

/// Pages of one read fetched at once: enough to fill a fast link, and one read of a huge range
/// cannot take the whole budget.
const PAGES_AT_ONCE: usize = 8;

/// Locks that order publishing and removing of one object; a power of two far above the writers.
const STRIPES: usize = 64;

/// A node's cache on disk. See the crate's head.
pub struct Cache {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("dirs", &self.shared.dirs).finish_non_exhaustive()
    }
}

/// What the cache's tasks share.
pub(crate) struct Shared {
    pub(crate) dirs: Vec<Arc<Dir>>,
    pub(crate) index: Mutex<Index>,
    pub(crate) partials: Mutex<HashMap<ObjectId, Arc<Partial>>>,
    pub(crate) sums: Mutex<Sums>,
    pub(crate) flights: Flights,
    pub(crate) budget: Arc<Budget>,
    pub(crate) linger_bytes: u64,
    pub(crate) writes: Writes,
    stripes: Vec<Mutex<()>>,
    pub(crate) open_files: OpenFiles,
    pub(crate) readahead: ReadAhead,
    pub(crate) holder: RwLock<Option<Arc<dyn ObjectHolder>>>,
    pub(crate) foresight: RwLock<Option<Arc<dyn Foresight>>>,
    pub(crate) ownership: RwLock<Option<Arc<dyn Ownership>>>,
    pub(crate) worth: Worth,
    pub(crate) next: Arc<dyn BlockSource>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) handle: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: watch::Sender<bool>,
    closing: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) objects: Vec<AtomicU64>,
    pub(crate) scrub_bytes_per_s: u64,
    pub(crate) keep_pages: bool,
}

/// How much of a budget may linger: half of what makes it tight, so that what is handed on one after
/// the other is not copied for it; and a few pages, of a small budget a quarter.
fn linger_bytes(buffer_bytes: u64) -> u64 {
    (buffer_bytes / 8).max((buffer_bytes / 4).min(4 * PAGE_BYTES))
}

impl Cache {
    /// Opens the directories and loads their indexes. Blocks on the disk: a second for a million
    /// objects, no walk.
    ///
    /// # Errors
    ///
    /// See [`CacheError`]: a directory in use, foreign, on an unfit file system or not writable.
    pub fn open(
        config: CacheConfig,
        next: Arc<dyn BlockSource>,
        clock: Arc<dyn Clock>,
        handle: Handle,
    ) -> Result<Arc<Self>, CacheError> {
        let keep_pages = config.keep_pages;
        let disk_of = move |_: usize, root: OwnedFd| -> Arc<dyn Disk> {
            Arc::new(RealDisk::new(root, keep_pages))
        };
        Self::open_on(config, next, clock, handle, &disk_of)
    }

    /// As [`Cache::open`], on other disks than the real ones.
    pub(crate) fn open_on(
        config: CacheConfig,
        next: Arc<dyn BlockSource>,
        clock: Arc<dyn Clock>,
        handle: Handle,
        disk_of: &dyn Fn(usize, OwnedFd) -> Arc<dyn Disk>,
    ) -> Result<Arc<Self>, CacheError> {
        if config.dirs.is_empty() {
            return Err(CacheError::NoDirectory);
        }
        if let Some(extra) = config.dirs.get(DIRS_MAX) {
            return Err(CacheError::TooMany { dir: extra.dir.clone(), max: DIRS_MAX });
        }
        let mut dirs = Vec::new();
        for (number, dir) in config.dirs.iter().enumerate() {
            let disk = |root| disk_of(number, root);
            let number = u8::try_from(number).expect("checked above");
            dirs.push(Arc::new(Dir::open(number, dir, &disk)?));
        }
        let keep_pages = config.keep_pages;
        let buffer_bytes = config.buffer_bytes.max(PAGE_BYTES);
        let shared = Arc::new(Shared {
            objects: dirs.iter().map(|_| AtomicU64::new(0)).collect(),
            dirs,
            index: Mutex::default(),
            partials: Mutex::default(),
            sums: Mutex::default(),
            flights: Flights::default(),
            budget: Budget::new(buffer_bytes),
            linger_bytes: linger_bytes(buffer_bytes),
            writes: Writes::default(),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            open_files: OpenFiles::default(),
            readahead: ReadAhead::default(),
            holder: RwLock::new(None),
            foresight: RwLock::new(None),
            ownership: RwLock::new(None),
            worth: Worth::default(),
            next,
            clock,
            handle,
            tasks: TaskTracker::new(),
            stop: watch::Sender::new(false),
            closing: AtomicBool::new(false),
            counters: Counters::default(),
            scrub_bytes_per_s: config.scrub_bytes_per_s,
            keep_pages,
        });
        shared.load()?;
        shared.start_background();
        Ok(Arc::new(Self { shared }))
    }

    /// Registers who may know what is needed next; at most one. Without, or as long as it knows
    /// nothing, ages decide; see `worth`.
    pub fn set_foresight(&self, foresight: Arc<dyn Foresight>) {
        *self.shared.foresight.write() = Some(foresight);
    }

    /// Registers who knows which objects are this node's to keep; at most one. Without, all are.
    pub fn set_ownership(&self, ownership: Arc<dyn Ownership>) {
        *self.shared.ownership.write() = Some(ownership);
    }

    /// Stops filling, waits for what is being written, writes the index and marks the directories
    /// as cleanly stopped. Reads still work afterwards, past the cache.
    pub async fn close(&self) {
        let shared = &self.shared;
        if shared.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.stop.send_replace(true);
        shared.flights.shed();
        shared.tasks.close();
        shared.tasks.wait().await;
        let shared = self.shared.clone();
        let done = self.shared.handle.spawn_blocking(move || shared.write_clean()).await;
        if let Err(error) = done {
            tracing::error!(%error, "the cache could not be closed cleanly");
        }
    }

    /// True if the object is pinned, or will be when it comes.
    #[must_use]
    pub fn is_pinned(&self, id: &ObjectId) -> bool {
        self.shared.index.lock().get(id).is_some_and(|record| record.is_pinned())
    }

    /// Completes when nothing of the object is being fetched or written any more; true if it is complete
    /// here then. What of it waits in memory for another reader, because it could not be kept, is given
    /// up, so that the next read tries again. Cost: a look at each page.
    pub async fn is_kept(&self, object: &Object) -> bool {
        let (shared, id) = (&self.shared, object.id());
        for page in 0..page_count(object.version.size) {
            if let Some(flight) = shared.flights.get(&(id, page)) {
                flight.settled().await;
            }
        }
        let is_kept = object.version.size == 0 || self.contains(&id);
        if !is_kept {
            shared.flights.shed_object(&id);
        }
        is_kept
    }

    /// Bytes of the object's content that are here. Memory only.
    #[must_use]
    pub fn cached_bytes(&self, id: &ObjectId) -> u64 {
        let state = self.shared.usable_record(id).map(|record| (record.state(), record.size()));
        match state {
            Some((State::Complete, size)) => size,
            Some((State::Partial, _)) => {
                let partial = self.shared.partials.lock().get(id).cloned();
                partial.map_or(0, |partial| partial.present_bytes())
            }
            _ => 0,
        }
    }

    /// Counters and sizes. Cost: a walk over the index to count pins.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let now_ms = shared.now_ms();
        let mut pinned = vec![0; shared.dirs.len()];
        let mut partial = vec![0; shared.dirs.len()];
        {
            let index = shared.index.lock();
            for record in (0..index.slots()).filter_map(|slot| index.at(slot)) {
                let dir = usize::from(record.dir);
                pinned[dir] += u64::from(record.is_pinned());
                partial[dir] += u64::from(record.state() == State::Partial);
            }
        }
        let dirs = shared.dirs.iter().enumerate().map(|(number, dir)| DirStats {
            dir: dir.path.clone(),
            quota_bytes: dir.quota_bytes,
            used_bytes: dir.used(),
            objects: shared.objects[number].load(Ordering::Relaxed),
            partial_objects: partial[number],
            pinned: pinned[number],
            state: dir.state_text(now_ms),
            evicted: dir.evicted.get(),
            corrupt: dir.corrupt.get(),
        });
        let counters = &shared.counters;
        CacheStats {
            dirs: dirs.collect(),
            hits: counters.hits.get(),
            hit_bytes: counters.hit_bytes.get(),
            misses: counters.misses.get(),
            fetched_bytes: counters.fetched_bytes.get(),
            joined: counters.joined.get(),
            not_kept: counters.not_kept.get(),
            readahead_pages: counters.readahead_pages.get(),
            flights: shared.flights.len() as u64,
            budget_used_bytes: shared.budget.in_use(),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
        // Flights under way hold the shared part; what lingers must not hold its budget.
        self.shared.flights.shed();
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        // From 1: zero means "never" in the directories.
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The lock that orders publishing and removing the files of `id`.
    pub(crate) fn stripe(&self, id: &ObjectId) -> &Mutex<()> {
        &self.stripes[usize::from(id.0[15]) % STRIPES]
    }

    /// The record, unless its directory is set aside.
    pub(crate) fn usable_record(&self, id: &ObjectId) -> Option<crate::index::Record> {
        let record = *self.index.lock().get(id)?;
        (!self.dirs[usize::from(record.dir)].is_set_aside()).then_some(record)
    }

    /// When the object is needed next, as far as anybody knows.
    pub(crate) fn next_use(&self, id: &ObjectId) -> NextUse {
        let foresight = self.foresight.read().clone();
        foresight.map_or(NextUse::Unknown, |foresight| foresight.next_use(id))
    }

    /// Whose the object is.
    pub(crate) fn keeping(&self, id: &ObjectId) -> Keeping {
        let ownership = self.ownership.read().clone();
        ownership.map_or(Keeping::Own, |ownership| ownership.keeping(id))
    }

    /// True if some of what is here may be copies of what other nodes keep.
    pub(crate) fn has_copies(&self) -> bool {
        self.ownership.read().as_ref().is_some_and(|ownership| ownership.has_copies())
    }

    /// Marks used; returns the record if the object is complete on a usable directory.
    pub(crate) fn use_complete(&self, id: &ObjectId) -> Option<crate::index::Record> {
        let is_complete = |record: &crate::index::Record| {
            let usable = !self.dirs[usize::from(record.dir)].is_set_aside();
            usable && record.state() == State::Complete
        };
        if !self.index.lock().get(id).is_some_and(is_complete) {
            // The read that follows is the use.
            return None;
        }
        let time = self.worth.used(id, 0);
        self.index.lock().touch(id, time).copied().filter(is_complete)
    }

    /// True if the page can be read from disk.
    pub(crate) fn has_page(&self, id: &ObjectId, page: u64) -> bool {
        match self.usable_record(id).map(|record| record.state()) {
            Some(State::Complete) => true,
            Some(State::Partial) => {
                let partial = self.partials.lock().get(id).cloned();
                partial.is_some_and(|partial| partial.has(page))
            }
            _ => false,
        }
    }

    /// One page's part of a read. If it `compares`, with the checksum as far as that is known: see `lend`.
    pub(crate) async fn read_page(
        self: &Arc<Self>,
        object: &Object,
        id: ObjectId,
        page: u64,
        range: Range<u64>,
        priority: Priority,
        compares: bool,
    ) -> Result<(Bytes, Option<u32>), ReadError> {
        let size = object.version.size;
        let start = page_range(page, size).start;
        // A page is used once, however many reads it takes.
        let is_use = priority == Priority::Demand && range.start == start;
        let time = if is_use { self.worth.used(&id, page) } else { self.worth.time() };
        if priority == Priority::Demand {
            self.index.lock().touch(&id, time);
        }
        // Twice: a file found bad is dropped, and the page then fetched.
        for _ in 0..2 {
            let local = self.read_local(object, &id, page, range.clone(), compares).await;
            if let Some(found) = local {
                return Ok(found);
            }
            if self.is_closing() {
                break;
            }
            let flight = match self.flights.board((id, page), priority, || self.has_page(&id, page))
            {
                Boarding::Here => continue,
                Boarding::Joined(flight) => {
                    self.counters.joined.add(1);
                    flight
                }
                Boarding::Opened(flight) => {
                    if priority == Priority::Demand && !is_use {
                        self.worth.used(&id, page);
                    }
                    self.launch(object.clone(), id, page, flight.clone());
                    flight
                }
            };
            if priority == Priority::Demand {
                self.read_ahead(object, id, page);
            }
            let bytes = flight.wait().await?;
            let (from, to) = (range.start - start, range.end - start);
            let at = |offset: u64| usize::try_from(offset).expect("a page fits in memory");
            return Ok((bytes.slice(at(from)..at(to)), None));
        }
        Ok((self.next.read(object, range, priority).await?, None))
    }

    /// Fetches the pages that a sequential reader will want, as far as the budget is idle.
    pub(crate) fn read_ahead(self: &Arc<Self>, object: &Object, id: ObjectId, page: u64) {
        let pages = page_count(object.version.size);
        if pages < 2 || self.is_closing() {
            return;
        }
        for ahead in self.readahead.observe(&id, page, pages) {
            if !self.budget.has(PAGE_BYTES) {
                return;
            }
            let key = (id, ahead);
            let boarding = self.flights.board(key, Priority::Fill, || self.has_page(&id, ahead));
            if let Boarding::Opened(flight) = boarding {
                self.counters.readahead_pages.add(1);
                self.launch(object.clone(), id, ahead, flight);
            }
        }
    }
}

#[async_trait]
impl BlockSource for Cache {
    async fn read(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Bytes, ReadError> {
        let size = object.version.size;
        if range.start > range.end || range.end > size {
            return Err(ReadError::Rejected {
                location: object.key.clone(),
                cause: format!("bytes {range:?} of an object of {size}").into(),
            });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let shared = &self.shared;
        let id = object.id();
        let pages = pages_of(&range);
        if pages.end - pages.start == 1 {
            let read = shared.read_page(object, id, pages.start, range, priority, false);
            return Ok(read.await?.0);
        }
        let parts = pages.map(|page| {
            let whole = page_range(page, size);
            let part = range.start.max(whole.start)..range.end.min(whole.end);
            shared.read_page(object, id, page, part, priority, false)
        });
        let mut parts = futures::stream::iter(parts).buffered(PAGES_AT_ONCE);
        let length = usize::try_from(range.end - range.start).expect("fits in memory");
        let mut bytes = BytesMut::with_capacity(length);
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?.0);
        }
        Ok(bytes.freeze())
    }
}

impl ObjectIndex for Cache {
    fn open(&self, object: &Object) -> Option<CachedFile> {
        self.shared.open_complete(object)
    }

    fn contains(&self, id: &ObjectId) -> bool {
        self.shared.usable_record(id).is_some_and(|record| record.state() == State::Complete)
    }

    fn has(&self, id: &ObjectId, range: &Range<u64>) -> bool {
        pages_of(range).all(|page| self.shared.has_page(id, page))
    }

    fn arrival(&self, object: &Object) -> Option<Arrival> {
        if object.version.size > PAGE_BYTES {
            return None;
        }
        let flight = self.shared.flights.get(&(object.id(), 0))?;
        if flight.is_settled() {
            return None;
        }
        flight.urgency.raise(Priority::Demand);
        Some(Box::pin(async move { flight.settled().await }))
    }

    fn touch(&self, id: &ObjectId) {
        let time = self.shared.worth.used(id, 0);
        self.shared.index.lock().touch(id, time);
    }

    fn push(&self, object: &Object, push: Push) -> Residence {
        self.shared.push(object, push)
    }

    fn free_bytes(&self) -> u64 {
        let now_ms = self.shared.now_ms();
        let usable = |dir: &&Arc<Dir>| !dir.is_set_aside() && !dir.is_full(now_ms);
        let free = |dir: &Arc<Dir>| dir.high_water().saturating_sub(dir.used());
        self.shared.dirs.iter().filter(usable).map(free).sum()
    }

    fn set_holder(&self, holder: Arc<dyn ObjectHolder>) {
        *self.shared.holder.write() = Some(holder);
    }
}
