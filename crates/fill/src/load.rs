//! Loading: single files brought into the cache because somebody said so, each with an answer.
//!
//! Fill runs ahead of readers and may leave out what it likes; a load must say of each file what became
//! of it. So [`Loader::load`] waits until a file is on disk, and tells a file that is not kept from one
//! that is. All loads of a node share one loader: its window is that of fill, and says how many requests
//! are worth having under way; its reads have fill's priority, beneath every demand read.
//!
//! # Invariants
//!
//! - Nothing is fetched that is complete here.
//! - A cache that keeps nothing more is found out after a few fetches in vain, and then asked only
//!   now and then. A load takes the place of what nobody will read again, of nothing else: that is the
//!   cache's own rule for fill.
//! - [`drive`] has a bounded number of files under way, however many there are.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use feedline_model::page::{page_count, page_range};
use feedline_model::{BlockSource, Clock, Object, ObjectIndex, Priority, ReadError};
use futures::stream::{self, FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::rate::Rate;
use crate::window::Window;

/// Files of one load under way at once, on all nodes together: some batches for each of a few nodes, and
/// a few MB of names.
pub const FILES_AT_ONCE: usize = 1_024;

/// Pages of one large file fetched at once, as a read of it would.
const PAGES_AT_ONCE: usize = 8;

/// Files fetched at once while there is no free space: each may be in vain.
const TIGHT_AT_ONCE: usize = 8;

/// After so many files in a row that were not kept, the cache is full.
const REFUSALS: u32 = 16;

/// How often a full cache is asked again: what is in it may have died since.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// What a load must know of the cache beyond what readers do.
#[async_trait]
pub trait Keeper: fmt::Debug + Send + Sync {
    /// Completes when nothing of the object is being fetched or written any more; true if it is complete
    /// here then.
    async fn is_kept(&self, object: &Object) -> bool;
}

/// Components.
#[derive(Debug, Clone)]
pub struct LoadParts {
    /// What is here already, and how much room there is.
    pub index: Arc<dyn ObjectIndex>,
    /// Where to fetch through: the cache.
    pub blocks: Arc<dyn BlockSource>,
    /// The cache again.
    pub keeper: Arc<dyn Keeper>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Fetches in flight at most.
    pub window_max: usize,
}

/// What became of a file that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// It was here.
    Here,
    /// It was fetched and is here now.
    Fetched,
    /// It is not here: the cache keeps nothing more.
    NoRoom,
}

/// Brings files into this node's cache.
#[derive(Debug)]
pub struct Loader {
    parts: LoadParts,
    slots: Slots,
    room: Room,
}

impl Loader {
    /// Starts nothing: work is done by who calls [`Loader::load`].
    #[must_use]
    pub fn new(parts: LoadParts) -> Arc<Self> {
        let slots = Slots::new(parts.window_max);
        Arc::new(Self { slots, room: Room::default(), parts })
    }

    /// Brings one file in and waits until it is on disk. Dropping it gives up; what is in flight still
    /// arrives.
    ///
    /// # Errors
    ///
    /// When the bucket does not give it; see [`ReadError`].
    pub async fn load(&self, object: &Object) -> Result<Loaded, ReadError> {
        let size = object.version.size;
        if self.is_here(object) {
            return Ok(Loaded::Here);
        }
        let Some(_place) = self.enter(size).await else { return Ok(Loaded::NoRoom) };
        let pages = (0..page_count(size)).map(|page| self.fetch(object, page));
        let mut pages = stream::iter(pages).buffered(PAGES_AT_ONCE);
        while let Some(fetched) = pages.next().await {
            fetched?;
        }
        if self.parts.keeper.is_kept(object).await {
            self.room.refusals.store(0, Ordering::Relaxed);
            Ok(Loaded::Fetched)
        } else {
            self.room.refusals.fetch_add(1, Ordering::Relaxed);
            Ok(Loaded::NoRoom)
        }
    }

    /// True if nothing has to be fetched. Memory only.
    #[must_use]
    pub fn is_here(&self, object: &Object) -> bool {
        object.version.size == 0 || self.parts.index.contains(&object.id())
    }

    async fn fetch(&self, object: &Object, page: u64) -> Result<(), ReadError> {
        let slot = self.slots.take().await;
        let clock = &self.parts.clock;
        let started = clock.monotonic();
        let range = page_range(page, object.version.size);
        let read = self.parts.blocks.read(object, range, Priority::Fill).await;
        match &read {
            Ok(_) => slot.came_back(clock.monotonic().saturating_sub(started)),
            Err(ReadError::Unavailable { .. }) => slot.failed(),
            Err(_) => {}
        }
        read.map(drop)
    }

    /// A place for so many bytes, at once where there is free space. `None`: the cache is full.
    async fn enter(&self, size: u64) -> Option<Place<'_>> {
        let room = &self.room;
        let mut place = Place::new(room, size);
        let is_short = || self.parts.index.free_bytes() < room.held.load(Ordering::Relaxed);
        if !is_short() {
            return Some(place);
        }
        let is_full = || REFUSALS <= room.refusals.load(Ordering::Relaxed);
        let is_probe = is_full() && self.is_probe();
        if is_full() && !is_probe {
            return None;
        }
        place.tight = Some(Arc::clone(&room.tight).acquire_owned().await.ok()?);
        // Those that waited hear what became of those before them.
        if is_short() && is_full() && !is_probe {
            return None;
        }
        Some(place)
    }

    /// True for one file in a while.
    fn is_probe(&self) -> bool {
        let now = self.parts.clock.monotonic();
        let mut next = self.room.next_probe.lock();
        let is_due = *next <= now;
        if is_due {
            *next = now + PROBE_EVERY;
        }
        is_due
    }
}

/// How the cache takes what is brought.
#[derive(Debug)]
struct Room {
    /// Bytes of files under way.
    held: AtomicU64,
    /// Files in a row that were not kept.
    refusals: AtomicU32,
    next_probe: Mutex<Duration>,
    tight: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            held: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            next_probe: Mutex::default(),
            tight: Arc::new(Semaphore::new(TIGHT_AT_ONCE)),
        }
    }
}

/// The bytes of a file under way, until dropped.
struct Place<'a> {
    room: &'a Room,
    bytes: u64,
    /// Held while there is no free space.
    tight: Option<OwnedSemaphorePermit>,
}

impl<'a> Place<'a> {
    fn new(room: &'a Room, bytes: u64) -> Self {
        room.held.fetch_add(bytes, Ordering::Relaxed);
        Self { room, bytes, tight: None }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.room.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Fetches in flight: as many as the window says now.
#[derive(Debug)]
struct Slots {
    state: Mutex<SlotState>,
    free: Semaphore,
}

#[derive(Debug)]
struct SlotState {
    window: Window,
    /// Slots that exist, in use or not.
    size: usize,
    /// Of those, to go when they come back.
    surplus: usize,
}

impl Slots {
    fn new(max: usize) -> Self {
        let window = Window::new(max);
        let size = window.size();
        let free = Semaphore::new(size);
        Self { state: Mutex::new(SlotState { window, size, surplus: 0 }), free }
    }

    async fn take(&self) -> Slot<'_> {
        self.free.acquire().await.expect("never closed").forget();
        Slot { slots: self }
    }

    /// Follows the window after `change`.
    fn adapt(&self, change: impl FnOnce(&mut Window)) {
        let mut state = self.state.lock();
        change(&mut state.window);
        let wanted = state.window.size();
        let now = state.size - state.surplus;
        if now < wanted {
            // Those that were to go may stay.
            let kept = state.surplus.min(wanted - now);
            state.surplus -= kept;
            let more = wanted - now - kept;
            state.size += more;
            self.free.add_permits(more);
        } else {
            state.surplus += now - wanted;
        }
    }
}

/// One fetch in flight, until dropped.
struct Slot<'a> {
    slots: &'a Slots,
}

impl Slot<'_> {
    fn came_back(&self, took: Duration) {
        let is_full = self.slots.free.available_permits() == 0;
        self.slots.adapt(|window| window.came_back(took, is_full));
    }

    fn failed(&self) {
        self.slots.adapt(Window::failed);
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        if 0 < state.surplus {
            state.surplus -= 1;
            state.size -= 1;
        } else {
            self.slots.free.add_permits(1);
        }
    }
}

/// How fast one load may go: bytes a second over everything it fetches.
#[derive(Debug)]
pub struct Pace {
    rate: Mutex<Rate>,
    clock: Arc<dyn Clock>,
}

impl Pace {
    /// 0: as fast as it goes.
    #[must_use]
    pub fn new(bytes_per_s: u64, clock: Arc<dyn Clock>) -> Self {
        Self { rate: Mutex::new(Rate::new(bytes_per_s)), clock }
    }

    /// Completes when a fetch of so many bytes may start.
    pub async fn wait(&self, bytes: u64) {
        let wait = {
            let now = self.clock.monotonic();
            let mut rate = self.rate.lock();
            let wait = rate.wait(now);
            rate.spend(bytes, now);
            wait
        };
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
    }

    /// So many bytes had not to be fetched.
    pub fn give_back(&self, bytes: u64) {
        self.rate.lock().give_back(bytes);
    }
}

/// Does `one` for everything that comes, at most [`FILES_AT_ONCE`] at once, and hands each outcome to
/// `done`. Ends when nothing more comes and all is done.
pub async fn drive<T, F: Future>(
    mut entries: mpsc::Receiver<T>,
    one: impl Fn(T) -> F,
    mut done: impl FnMut(F::Output),
) {
    let mut under_way = FuturesUnordered::new();
    let mut more = true;
    while more || !under_way.is_empty() {
        tokio::select! {
            entry = entries.recv(), if more && under_way.len() < FILES_AT_ONCE => match entry {
                Some(entry) => under_way.push(one(entry)),
                None => more = false,
            },
            Some(outcome) = under_way.next(), if !under_way.is_empty() => done(outcome),
        }
    }
}

#[cfg(test)]
mod tests;
