//! Making room: one hand per directory goes round the records and takes what was not used since
//! it last came by (SIEVE's hand and visited bit, over slots instead of a queue).
//!
//! Invariants: pinned objects and those that the holder will not let go are never taken; files
//! are unlinked here, in the background, never by a reader's thread.
//!
//! Deliberately absent: knowledge of scans and epochs; that is admission's business.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use feedline_model::ObjectId;

use crate::cache::{Cache, Shared};
use crate::directory::{Dir, object_path, partial_path};
use crate::disk::Trouble;
use crate::index::{Record, State};
use crate::journal::Entry;

/// Victims chosen under one lock of the index.
const BATCH: usize = 64;

/// Records looked at under one lock of the index: about 100 us.
const STEPS_PER_LOCK: usize = 16_384;

/// How many times the holder may say no before a round ends: when all is held, asking for all of
/// a million objects helps nobody.
const REFUSALS_MAX: usize = 4096;

/// What `Cache::free` did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Objects dropped.
    pub objects: u64,
    /// Bytes on disk given back.
    pub bytes: u64,
    /// Objects left because they are pinned.
    pub pinned: u64,
    /// Objects left because they are in use.
    pub in_use: u64,
}

impl Shared {
    /// Takes space, waiting for eviction if it must. False: none can be made now.
    pub(crate) async fn reserve(&self, dir: &Dir, bytes: u64) -> bool {
        let mut swept = dir.swept.subscribe();
        let mut stop = self.stop.subscribe();
        tokio::select! {
            _ = swept.wait_for(|swept| *swept) => {}
            _ = stop.wait_for(|stop| *stop) => return false,
        }
        let mut rounds = dir.round.subscribe();
        let mut last_try = false;
        loop {
            if dir.try_reserve(bytes) {
                if dir.used() > dir.high_water() {
                    dir.kick.notify_one();
                }
                return true;
            }
            let hopeless = bytes > dir.object_limit() || dir.is_barren(self.now_ms());
            if hopeless || last_try || dir.is_set_aside() || *self.stop.borrow() {
                return false;
            }
            let before = rounds.borrow_and_update().number;
            dir.wanted.fetch_add(bytes, Ordering::AcqRel);
            dir.kick.notify_one();
            // The round under way may have begun before this wish: the one after counts.
            let done = tokio::select! {
                done = rounds.wait_for(|round| round.number > before) => {
                    done.is_ok_and(|round| round.freed)
                }
                _ = stop.wait_for(|stop| *stop) => false,
            };
            dir.wanted.fetch_sub(bytes, Ordering::AcqRel);
            last_try = !done;
        }
    }

    /// After a write: keep below the marks, and the journal short.
    pub(crate) fn after_write(self: &Arc<Self>, dir: &Arc<Dir>) {
        if dir.used() > dir.high_water() {
            dir.kick.notify_one();
        }
        if dir.is_snapshot_due() && !self.is_closing() {
            let (shared, dir) = (self.clone(), dir.clone());
            self.tasks.spawn_blocking_on(
                move || {
                    if let Err(error) = shared.write_snapshot(&dir) {
                        dir.note(&error, shared.now_ms());
                    }
                },
                &self.handle,
            );
        }
    }

    /// The evictor of one directory; ends with the cache.
    pub(crate) fn start_evictor(self: &Arc<Self>, dir: Arc<Dir>) {
        let weak = Arc::downgrade(self);
        let mut stop = self.stop.subscribe();
        let handle = self.handle.clone();
        let task = async move {
            loop {
                tokio::select! {
                    () = dir.kick.notified() => {}
                    _ = stop.wait_for(|stop| *stop) => return,
                }
                let (weak, dir) = (Weak::clone(&weak), dir.clone());
                let round = move || {
                    if let Some(shared) = weak.upgrade() {
                        shared.evict_round(&dir);
                    }
                };
                if handle.spawn_blocking(round).await.is_err() {
                    return;
                }
            }
        };
        self.tasks.spawn_on(task, &self.handle);
    }

    /// Evicts down to the low mark and what is wanted, or until no victim is found.
    fn evict_round(&self, dir: &Dir) {
        let wanted = dir.wanted.load(Ordering::Acquire);
        let is_due = dir.used() > dir.high_water() || wanted > 0;
        // Never more than a quarter beyond the mark at once: waiters come back for more.
        let target = dir.low_water().saturating_sub(wanted.min(dir.object_limit() / 4));
        let mut freed = false;
        let (mut steps, mut refusals) = (0, 0);
        let mut starved = false;
        while is_due && dir.used() > target && refusals < REFUSALS_MAX {
            let victims = self.victims(dir, &mut steps);
            if victims.is_empty() {
                starved = true;
                break;
            }
            for id in victims {
                if dir.used() <= target {
                    break;
                }
                if self.evict(dir, &id) {
                    freed = true;
                } else {
                    refusals += 1;
                }
            }
            dir.flush();
        }
        if !freed && (starved || refusals > 0) {
            dir.set_barren(self.now_ms());
        }
        dir.round.send_modify(|round| {
            round.number += 1;
            round.freed = freed || !is_due;
        });
    }

    /// The next victims; empty after the hand has been round twice (the first time clears bits).
    fn victims(&self, dir: &Dir, steps: &mut usize) -> Vec<ObjectId> {
        let mut victims = Vec::new();
        loop {
            let mut index = self.index.lock();
            let slots = index.slots();
            for _ in 0..STEPS_PER_LOCK {
                if *steps > 2 * slots || victims.len() == BATCH {
                    return victims;
                }
                *steps += 1;
                let slot = dir.hand.load(Ordering::Relaxed);
                let slot = if slot >= slots { 0 } else { slot };
                dir.hand.store(slot + 1, Ordering::Relaxed);
                let Some(record) = index.at_mut(slot) else { continue };
                let has_file = matches!(record.state(), State::Complete | State::Partial);
                if record.dir != dir.number || !has_file || record.is_pinned() {
                    continue;
                }
                if record.is_visited() {
                    record.set_visited(false);
                } else {
                    victims.push(record.id);
                }
            }
        }
    }

    fn is_let_go(&self, id: &ObjectId) -> bool {
        let holder = self.holder.read().clone();
        holder.is_none_or(|holder| holder.let_go(id))
    }

    fn evict(&self, dir: &Dir, id: &ObjectId) -> bool {
        let evictable = |record: &Record| record.dir == dir.number && !record.is_pinned();
        let gone = self.is_let_go(id) && self.remove(id, evictable).is_some();
        if gone {
            dir.evicted.add(1);
        }
        gone
    }

    /// Drops what there is of an object if `only_if` still holds for its record. A pin stays as a
    /// wish. Unlinks: not for a reader's fast path.
    pub(crate) fn remove(
        &self,
        id: &ObjectId,
        only_if: impl FnOnce(&Record) -> bool,
    ) -> Option<Record> {
        let stripe = self.stripe(id).lock();
        let mut index = self.index.lock();
        let record = *index.get(id)?;
        let has_file = matches!(record.state(), State::Complete | State::Partial);
        if !has_file || !only_if(&record) {
            return None;
        }
        let dir = self.dir(record.dir);
        let partial = self.partials.lock().remove(id);
        let mut left = None;
        if record.is_pinned() {
            let mut wish = Record::new(*id, 0, record.dir, State::Wished);
            wish.set_pinned(true);
            index.put(wish);
            dir.log(&Entry::Put(wish));
            left = Some(wish);
        } else {
            index.remove(id);
            dir.log(&Entry::Remove(*id));
        }
        drop(index);
        // After the index: `Partial::add` takes the two the other way round.
        if let Some(partial) = partial {
            partial.doom();
        }
        self.forget_file(&record, left.as_ref());
        drop(stripe);
        Some(record)
    }

    fn forget_file(&self, record: &Record, left: Option<&Record>) {
        let dir = self.dir(record.dir);
        self.open_files.forget(&record.id);
        dir.records.fetch_sub(1, Ordering::Relaxed);
        if left.is_some() {
            dir.records.fetch_add(1, Ordering::Relaxed);
        }
        let path = if record.state() == State::Complete {
            self.objects[usize::from(record.dir)].fetch_sub(1, Ordering::Relaxed);
            object_path(&record.id)
        } else {
            partial_path(&record.id)
        };
        match dir.disk.unlink(&path) {
            Ok(()) => dir.release(record.disk_bytes()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                dir.release(record.disk_bytes());
            }
            Err(error) => {
                if dir.note(&error, self.now_ms()) != Trouble::Sick {
                    tracing::warn!(dir = %dir.path.display(), %error, "cannot remove a file");
                }
            }
        }
    }
}

impl Cache {
    /// Drops the cached copies of these objects; pinned ones only if `force`, those in use never.
    pub async fn free(&self, ids: Vec<ObjectId>, force: bool) -> Freed {
        let shared = self.shared.clone();
        let free = move || {
            let mut freed = Freed::default();
            for id in ids {
                let Some(record) = shared.index.lock().get(&id).copied() else { continue };
                if !matches!(record.state(), State::Complete | State::Partial) {
                    continue;
                }
                if record.is_pinned() && !force {
                    freed.pinned += 1;
                } else if !shared.is_let_go(&id) {
                    freed.in_use += 1;
                } else if let Some(record) = shared.remove(&id, |now| force || !now.is_pinned()) {
                    freed.objects += 1;
                    freed.bytes += record.disk_bytes();
                }
            }
            shared.dirs.iter().for_each(|dir| {
                dir.clear_barren();
                dir.flush();
            });
            freed
        };
        self.shared.handle.spawn_blocking(free).await.unwrap_or_default()
    }

    /// Keeps these objects from eviction, also those that are not here yet. Survives restarts.
    /// Returns how many were not pinned before.
    pub async fn pin(&self, ids: Vec<ObjectId>) -> u64 {
        self.set_pins(ids, true).await
    }

    /// Gives these objects back to eviction. Returns how many were pinned.
    pub async fn unpin(&self, ids: Vec<ObjectId>) -> u64 {
        self.set_pins(ids, false).await
    }

    /// Gives every object back to eviction, also those whose names nobody knows any more: versions
    /// that were replaced, wishes that never came true. Returns how many were pinned. Cost: one
    /// pass over the index under its lock, about 5 ms a million objects.
    pub async fn unpin_all(&self) -> u64 {
        let pinned = {
            let index = self.shared.index.lock();
            let records = (0..index.slots()).filter_map(|slot| index.at(slot));
            records.filter(|record| record.is_pinned()).map(|record| record.id).collect()
        };
        self.set_pins(pinned, false).await
    }

    async fn set_pins(&self, ids: Vec<ObjectId>, on: bool) -> u64 {
        let shared = self.shared.clone();
        let set = move || {
            let changed = ids.iter().filter(|id| shared.set_pin(id, on)).count();
            for dir in &shared.dirs {
                dir.clear_barren();
                dir.flush();
                shared.after_write(dir);
            }
            changed as u64
        };
        self.shared.handle.spawn_blocking(set).await.unwrap_or(0)
    }
}

impl Shared {
    fn set_pin(&self, id: &ObjectId, on: bool) -> bool {
        let wish_dir = self.place_wish(id);
        let mut index = self.index.lock();
        if let Some(record) = index.get_mut(id) {
            if record.is_pinned() == on {
                return false;
            }
            record.set_pinned(on);
            let record = *record;
            let dir = self.dir(record.dir);
            if record.state() == State::Wished {
                index.remove(id);
                dir.log(&Entry::Remove(*id));
                dir.records.fetch_sub(1, Ordering::Relaxed);
            } else {
                dir.log(&Entry::Put(record));
            }
            return true;
        }
        let (true, Some(number)) = (on, wish_dir) else { return false };
        let mut wish = Record::new(*id, 0, number, State::Wished);
        wish.set_pinned(true);
        index.put(wish);
        let dir = self.dir(number);
        dir.log(&Entry::Put(wish));
        dir.records.fetch_add(1, Ordering::Relaxed);
        true
    }
}
