//! Making room: who wants it, until when, and how files go; which objects go says `worth`, and
//! `hunt` finds them.
//!
//! Invariants: pinned objects and those that the holder will not let go are never taken; files
//! are unlinked here, in the background, never by a reader's thread. A refusal is cheap: while a
//! search would find nothing, nobody waits for one.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use feedline_model::{Keeping, NextUse, ObjectId, Priority};

use crate::cache::{Cache, Shared};
use crate::directory::{Dir, Round, object_path, partial_path};
use crate::disk::Trouble;
use crate::hunt::{Candidate, Outcome, Shelf};
use crate::index::{Record, State};
use crate::journal::Entry;
use crate::worth::{Claim, Side, Victim, own_use};

/// What takes the dead before anybody asks for their space.
const BACKGROUND: Claim = Claim {
    next: NextUse::Unknown,
    priority: Priority::Fill,
    chance: false,
    must: false,
    side: Side::Alone,
};

/// Searches that freed nothing, after which a claim is refused: what came to the one that was under way
/// behind its back is found by the next.
const FRUITLESS_MAX: u32 = 3;

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

/// What the hand of a directory may take: whole and partial objects that are not pinned.
struct DirShelf<'a> {
    shared: &'a Shared,
    dir: u8,
}

impl Shelf for DirShelf<'_> {
    fn slots(&self) -> usize {
        self.shared.index.lock().slots()
    }

    fn look(&self, range: Range<usize>, found: &mut Vec<Candidate>) {
        // The end of the cache waits for nobody's search.
        if *self.shared.stop.borrow() {
            return;
        }
        let time = self.shared.worth.time();
        let index = self.shared.index.lock();
        for slot in range {
            let Some(record) = index.at(slot) else { continue };
            let has_file = matches!(record.state(), State::Complete | State::Partial);
            if record.dir == self.dir && has_file && !record.is_pinned() {
                found.push(Candidate { id: record.id, idle: index.idle(slot, time) });
            }
        }
    }
}

impl Shared {
    /// Takes space, waiting for eviction if that may help. False: `claim` gets none now. It is asked for
    /// only where space is short: it costs a question to foresight, which then begins to keep tables.
    pub(crate) async fn reserve(
        &self,
        dir: &Dir,
        bytes: u64,
        claim: impl FnOnce() -> Claim,
    ) -> bool {
        let mut swept = dir.swept.subscribe();
        let mut stop = self.stop.subscribe();
        tokio::select! {
            _ = swept.wait_for(|swept| *swept) => {}
            _ = stop.wait_for(|stop| *stop) => return false,
        }
        let mut rounds = dir.round.subscribe();
        let mut fruitless = 0;
        if dir.try_reserve(bytes) {
            self.kick_if_due(dir);
            return true;
        }
        let claim = claim();
        loop {
            if dir.try_reserve(bytes) {
                self.kick_if_due(dir);
                return true;
            }
            let hopeless = bytes > dir.object_limit() || self.is_in_vain(dir, &claim);
            if hopeless || fruitless == FRUITLESS_MAX || dir.is_set_aside() || *self.stop.borrow() {
                return false;
            }
            // A search under way does not know of this claim: what it finds says nothing.
            let before = {
                let mut claims = dir.claims.lock();
                claims.waiting.push((claim, bytes));
                claims.begun
            };
            dir.kick.notify_one();
            let done = tokio::select! {
                done = rounds.wait_for(|round| round.number > before) => {
                    done.is_ok_and(|round| round.freed)
                }
                _ = stop.wait_for(|stop| *stop) => false,
            };
            fruitless += u32::from(!done);
        }
    }

    /// True if a search for the claim would find nothing, as far as is known.
    fn is_in_vain(&self, dir: &Dir, claim: &Claim) -> bool {
        claim.steps().iter().flatten().all(|step| dir.hunt.is_paused(step, &self.worth))
    }

    /// Wakes the evictor if there is more here than should be, or may be something dead.
    fn kick_if_due(&self, dir: &Dir) {
        let used = dir.used();
        let over = used > dir.object_limit();
        if over || used > dir.high_water() && !dir.hunt.is_paused(&BACKGROUND, &self.worth) {
            dir.kick.notify_one();
        }
    }

    /// After a write: keep below the marks, and the journal short.
    pub(crate) fn after_write(self: &Arc<Self>, dir: &Arc<Dir>) {
        self.kick_if_due(dir);
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
                let (weak, searched) = (Weak::clone(&weak), dir.clone());
                let round = move || {
                    if let Some(shared) = weak.upgrade() {
                        shared.evict_round(&searched);
                    }
                };
                if let Err(error) = handle.spawn_blocking(round).await {
                    if error.is_cancelled() {
                        return;
                    }
                    // Who waits for the round is told that nothing was freed, and the next one may do better.
                    tracing::error!(%error, "a search for space failed");
                    let begun = dir.claims.lock().begun;
                    dir.round.send_modify(|it| *it = Round { number: begun, freed: false });
                }
            }
        };
        self.tasks.spawn_on(task, &self.handle);
    }

    /// Makes room for the claims that wait, as far as something yields to them; takes the dead in
    /// the background; and keeps the quota when the index has grown or the disk is full.
    fn evict_round(&self, dir: &Dir) {
        let (number, claims) = {
            let mut claims = dir.claims.lock();
            claims.begun += 1;
            (claims.begun, std::mem::take(&mut claims.waiting))
        };
        let wanted = dir.index_wanted.swap(0, Ordering::AcqRel);
        // A disk that was full keeps some space free, as the next write needs it.
        let is_full = dir.is_full(self.now_ms());
        let most = if is_full { dir.low_water() } else { dir.object_limit() };
        let must = most.min(dir.quota_bytes.saturating_sub(wanted));
        let all = Claim::must();
        let all = if self.has_copies() { all.of_own() } else { all };
        let mut freed = self.make_room(dir, &all, must);
        // Never more than a quarter beyond the mark at once, but as much as the largest claim: who waits
        // comes back for more, and must then have got what it was told that there is.
        let limit = dir.object_limit();
        let largest = claims.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let most_at_once = largest.max(limit / 4);
        let (mut needed, mut fits) = (0, false);
        for (claim, bytes) in &claims {
            needed = (needed + bytes).min(most_at_once);
            let floor = limit.saturating_sub(needed);
            if dir.used() > floor && !self.is_in_vain(dir, claim) {
                freed |= self.make_room(dir, claim, floor);
            }
            // There is room for it now: if somebody else is quicker, it comes back.
            fits |= dir.used() <= floor;
        }
        let is_due = dir.used() > dir.high_water();
        if is_due && !dir.hunt.is_paused(&BACKGROUND, &self.worth) {
            freed |= self.take(dir, &BACKGROUND, limit);
        }
        dir.flush();
        dir.round.send_modify(|round| *round = Round { number, freed: freed || fits });
    }

    /// Evicts what yields to the claim until no more than `floor` bytes are used.
    fn make_room(&self, dir: &Dir, claim: &Claim, floor: u64) -> bool {
        let mut freed = false;
        for step in claim.steps().into_iter().flatten() {
            if dir.used() <= floor {
                break;
            }
            if step.must || !dir.hunt.is_paused(&step, &self.worth) {
                freed |= self.take(dir, &step, floor);
            }
        }
        freed
    }

    /// One step of that. Beneath what compares itself with the living come the dead, and in any number.
    fn take(&self, dir: &Dir, claim: &Claim, floor: u64) -> bool {
        let below = if claim.compares() { 0 } else { dir.margin() };
        let floor = floor.saturating_sub(below);
        let shelf = DirShelf { shared: self, dir: dir.number };
        let mut evict = |id: &ObjectId| {
            if !self.evict(dir, id) {
                Outcome::Refused
            } else if dir.used() <= floor {
                Outcome::Enough
            } else {
                Outcome::Gone
            }
        };
        let has_copies = self.has_copies();
        let victim = |id: &ObjectId| {
            if claim.asks_copies() {
                // When it is needed says nothing here, and is dear to ask.
                let is_copy = has_copies && self.keeping(id) == Keeping::Copy;
                let next = if is_copy { NextUse::Elsewhere } else { NextUse::Unknown };
                return Victim { next, is_kept_for_all: !is_copy };
            }
            let next = self.next_use(id);
            if !has_copies {
                next.into()
            } else if self.keeping(id) != Keeping::Copy {
                Victim { next: own_use(next), is_kept_for_all: true }
            } else if next == NextUse::Unknown && !claim.must {
                // A copy of no data set that is being read is a stray as any other.
                next.into()
            } else {
                NextUse::Elsewhere.into()
            }
        };
        dir.hunt.run(&self.worth, &shelf, &victim, claim, &mut evict)
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
        self.sums.lock().forget(id);
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
                dir.hunt.resume();
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
                dir.hunt.resume();
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
