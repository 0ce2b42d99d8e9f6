//! A miss: fetch the page, answer, then write it behind.
//!
//! Invariants: space is reserved before a write; a record enters the index after its file has its
//! final name; a flight leaves the board after that. What cannot be kept is served all the same.

use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use feedline_model::page::{PAGE_BYTES, page_range};
use feedline_model::{Keeping, Object, ObjectId, Priority, ReadError};

use crate::budget::Permit;
use crate::cache::Shared;
use crate::directory::{Dir, GROWTH_BYTES, blocks, object_path, partial_path, writing_path};
use crate::disk::Trouble;
use crate::flight::Flight;
use crate::index::{Record, State, UNIT_BYTES};
use crate::journal::{Entry, PageEntry};
use crate::partial::{Added, Partial};
use crate::worth::Claim;
use crate::writes::{Write, Writer};

/// Space that a page of a sparse file may take beyond its own: extent tree and rounding.
const SPARSE_BYTES: u64 = 3 * UNIT_BYTES;

/// A flight whose bytes may have arrived, until they are on disk or given up.
pub(crate) struct Landed {
    /// Weak: what waits in the queue of a runtime that is gone must not keep the cache.
    shared: Weak<Shared>,
    object: Object,
    id: ObjectId,
    page: u64,
    flight: Arc<Flight>,
    bytes: Bytes,
    /// Held until the bytes are on disk.
    permit: Option<Permit>,
    /// A write has failed already: the directory may have been set aside for another.
    retried: bool,
    armed: bool,
}

/// Takes the flight off the board however it ends, and lands it if nobody has.
impl Drop for Landed {
    fn drop(&mut self) {
        if self.armed
            && let Some(shared) = self.shared.upgrade()
        {
            shared.flights.close(&(self.id, self.page));
        }
        if self.flight.is_pending() {
            self.flight.land(Err(unavailable(&self.object, "the fetch was given up")));
        }
        self.flight.settle();
    }
}

fn unavailable(object: &Object, cause: &str) -> ReadError {
    let after = Duration::from_secs(1);
    ReadError::Unavailable { location: object.key.clone(), cause: cause.into(), after }
}

impl Landed {
    /// True if the page is the whole object.
    fn is_small(&self) -> bool {
        self.object.version.size <= PAGE_BYTES
    }
}

/// The file into which a small object is written. Its final one at once, which saves renaming it: nobody
/// opens a file that has no record. Under a temporary name while a sweep removes what has no record,
/// and where there is a file already, which somebody may have open.
fn create_small(dir: &Dir, writer: usize, id: &ObjectId) -> io::Result<(String, File)> {
    if *dir.swept.borrow() {
        let path = object_path(id);
        match dir.disk.create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return Ok((path, created?)),
        }
    }
    let path = writing_path(writer, id);
    let file = dir.disk.create(&path)?;
    Ok((path, file))
}

impl Shared {
    /// Starts the task of a flight. It holds what it needs: nobody has to wait for it.
    pub(crate) fn launch(
        self: &Arc<Self>,
        object: Object,
        id: ObjectId,
        page: u64,
        flight: Arc<Flight>,
    ) {
        let shared = self.clone();
        let landed = Landed {
            shared: Arc::downgrade(self),
            object,
            id,
            page,
            flight,
            bytes: Bytes::new(),
            permit: None,
            retried: false,
            armed: true,
        };
        self.tasks.spawn_on(async move { shared.fly(landed).await }, &self.handle);
    }

    async fn fly(self: Arc<Self>, mut landed: Landed) {
        let flight = landed.flight.clone();
        let range = page_range(landed.page, landed.object.version.size);
        let length = range.end - range.start;
        let permit = loop {
            let priority = flight.urgency.priority();
            tokio::select! {
                permit = self.budget.acquire(length, priority, || self.flights.shed()) => {
                    break permit;
                }
                // Asked for again, this time in the demand queue.
                () = flight.urgency.until_demand(), if priority == Priority::Fill => {}
            }
        };
        self.counters.misses.add(1);
        let read = self.next.read_shared(&landed.object, range, &flight.urgency).await;
        let bytes = match read {
            Ok(bytes) if bytes.len() as u64 == length => bytes,
            Ok(bytes) => {
                let cause = format!("{} bytes instead of {length}", bytes.len());
                let error = unavailable(&landed.object, &cause);
                self.fail(landed, error);
                return;
            }
            Err(error) => {
                self.fail(landed, error);
                return;
            }
        };
        self.counters.fetched_bytes.add(length);
        // What came in one piece is a part of a connection's buffer, which is larger. While things wait
        // for the disk, that would be twice the budget.
        let bytes = if self.budget.is_tight() { Bytes::copy_from_slice(&bytes) } else { bytes };
        flight.land(Ok(bytes.clone()));
        landed.bytes = bytes;
        landed.permit = Some(permit);
        self.keep(landed).await;
    }

    /// Off the board first: who comes after the answer asks again.
    fn fail(&self, mut landed: Landed, error: ReadError) {
        self.flights.close(&(landed.id, landed.page));
        landed.armed = false;
        landed.flight.land(Err(error));
    }

    /// What cannot be kept stays for the next reader for a while, if memory allows.
    fn give_up(&self, landed: Landed) {
        self.counters.not_kept.add(1);
        self.pass_on(landed);
    }

    /// The same for what is not to be kept.
    fn pass_on(&self, mut landed: Landed) {
        if self.budget.has_waiters() || self.is_closing() {
            return;
        }
        if let Some(permit) = landed.permit.take() {
            landed.armed = false;
            self.flights.linger((landed.id, landed.page), permit, self.linger_bytes);
            if self.budget.has_waiters() || *self.stop.borrow() {
                self.flights.shed();
            }
        }
    }

    /// The directory for an object: weighted rendezvous over those that take writes now.
    fn place(&self, id: &ObjectId) -> Option<&Arc<Dir>> {
        let now_ms = self.now_ms();
        let score = |dir: &Dir| {
            // The finaliser of SplitMix64 over id and directory: uniform in 0..1, and with the
            // weight in the logarithm each directory gets its share of the quotas.
            let mut z = id.hash64() ^ dir.seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
            let (uniform, weight) =
                (((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64, dir.quota_bytes as f64);
            -weight / uniform.ln()
        };
        let usable = self.dirs.iter().filter(|dir| !dir.is_set_aside() && !dir.is_full(now_ms));
        usable.max_by(|a, b| score(a).total_cmp(&score(b)))
    }

    /// The directory in which a pin for an absent object is remembered.
    pub(crate) fn place_wish(&self, id: &ObjectId) -> Option<u8> {
        self.place(id).or_else(|| self.dirs.first()).map(|dir| dir.number)
    }

    /// Makes room for a page and queues it to be written behind.
    async fn keep(self: Arc<Self>, landed: Landed) {
        let id = landed.id;
        let keeping = self.keeping(&id);
        if keeping == Keeping::Pass {
            // What fill brought is at its owner now, which is what it was for: here it would push out
            // what a reader is in the middle of.
            if landed.flight.urgency.priority() == Priority::Demand {
                self.pass_on(landed);
            }
            return;
        }
        let partial = self.partials.lock().get(&id).cloned();
        let placed = match partial.map(|partial| self.dir(partial.dir)) {
            Some(dir) if !dir.is_set_aside() => (!dir.is_full(self.now_ms())).then_some(dir),
            // None, or what there is cannot be reached: another directory takes the object.
            _ => self.place(&id),
        };
        let Some(dir) = placed.cloned() else { return self.give_up(landed) };
        let extra = if landed.is_small() { 0 } else { SPARSE_BYTES };
        let reserved = blocks(landed.bytes.len() as u64) + GROWTH_BYTES + extra;
        let claim = || self.claim(&landed, keeping);
        if !self.reserve(&dir, reserved, claim).await {
            if !dir.warned_not_kept.swap(true, Ordering::AcqRel) {
                tracing::info!(dir = %dir.path.display(), quota_bytes = dir.quota_bytes,
                    "full of objects that are in use, pinned or needed again: others are served \
                     without being kept (said once)");
            }
            return self.give_up(landed);
        }
        let started = self.writes.push(Write { dir, reserved, landed });
        if let Some(writer) = started {
            let shared = self.clone();
            self.tasks.spawn_blocking_on(move || shared.write_all(writer), &self.handle);
        }
    }

    /// What right to a place an object has that a read brought.
    fn claim(&self, landed: &Landed, keeping: Keeping) -> Claim {
        let claim = self.worth.claim(
            &landed.id,
            self.next_use(&landed.id),
            landed.flight.urgency.priority(),
        );
        match keeping {
            Keeping::Copy => claim.of_copy(),
            Keeping::Own | Keeping::Pass if self.has_copies() => claim.of_own(),
            Keeping::Own | Keeping::Pass => claim,
        }
    }

    /// One writer: writes what is queued, until nothing is.
    fn write_all(self: Arc<Self>, mut writer: Writer) {
        while let Some(write) = self.writes.pop(&mut writer) {
            let Write { dir, mut reserved, mut landed } = write;
            let kept = self.write(&dir, writer.number(), &landed, &mut reserved);
            dir.release(reserved);
            self.after_write(&dir);
            if self.writes.is_empty() {
                // Before the flight ends: once all is quiet, all is in the journals.
                self.dirs.iter().for_each(|dir| dir.flush());
            } else {
                dir.flush_if_long();
            }
            if kept {
                if self.has_copies() && self.keeping(&landed.id) == Keeping::Copy {
                    dir.hunt.resume_copies();
                }
                continue;
            }
            if landed.retried {
                self.give_up(landed);
            } else {
                landed.retried = true;
                self.tasks.spawn_on(self.clone().keep(landed), &self.handle);
            }
        }
    }

    /// Writes a page, and takes from `reserved` what it accounts for. False: the write failed, and the
    /// directory has drawn the consequence.
    fn write(&self, dir: &Dir, writer: usize, landed: &Landed, reserved: &mut u64) -> bool {
        let (id, size) = (landed.id, landed.object.version.size);
        let written = if landed.is_small() {
            self.write_small(dir, id, writer, &landed.bytes, reserved)
        } else {
            self.write_page(dir, (id, size), landed.page, &landed.bytes, reserved)
        };
        written.unwrap_or_else(|error| {
            let trouble = dir.note(&error, self.now_ms());
            if trouble == Trouble::File && !landed.is_small() {
                // A partial file that cannot be opened or written is of no use.
                self.remove(&id, |record| record.state() == State::Partial);
            }
            false
        })
    }

    /// The last page that had to be has been verified and none is missing: the file, open as
    /// `file`, gets its final name. One that cannot is dropped, as it is by a write.
    pub(crate) fn complete_verified(
        &self,
        dir: &Dir,
        id: ObjectId,
        partial: &Arc<Partial>,
        crc: u32,
        file: &File,
    ) {
        let size = dir.disk.extent(file).map(|extent| extent.size);
        let published = size.and_then(|size| self.publish_partial(dir, id, partial, crc, size));
        if let Err(error) = published
            && dir.note(&error, self.now_ms()) == Trouble::File
        {
            self.remove(&id, |record| record.state() == State::Partial);
        }
        dir.flush();
    }

    fn write_small(
        &self,
        dir: &Dir,
        id: ObjectId,
        writer: usize,
        bytes: &Bytes,
        reserved: &mut u64,
    ) -> io::Result<bool> {
        let (path, file) = create_small(dir, writer, &id)?;
        let written = dir.disk.write_at(&file, bytes, 0).and_then(|()| dir.disk.extent(&file));
        let extent = match written {
            Ok(extent) => extent,
            Err(error) => {
                self.discard(dir, &id, &path);
                return Err(error);
            }
        };
        let mut record = Record::new(id, bytes.len() as u64, dir.number, State::Complete);
        record.crc = crc32c::crc32c(bytes);
        record.set_disk_bytes(extent.disk_bytes);
        self.publish(dir, &path, record, reserved)?;
        Ok(true)
    }

    /// Removes what was written of a small object, unless it is another writer's whole file by now. Best
    /// effort: what has no record is removed at a start.
    fn discard(&self, dir: &Dir, id: &ObjectId, path: &str) {
        let _stripe = self.stripe(id).lock();
        let record = self.index.lock().get(id).copied();
        // A mere wish of one that is pinned is no file.
        let is_whole = record
            .is_some_and(|record| record.state() == State::Complete && record.dir == dir.number);
        if !is_whole || path != object_path(id) {
            let _ = dir.disk.unlink(path);
        }
    }

    /// Gives a whole file its final name, if it has another one, and enters it in the index.
    fn publish(
        &self,
        dir: &Dir,
        from: &str,
        mut record: Record,
        reserved: &mut u64,
    ) -> io::Result<()> {
        let id = record.id;
        let stripe = self.stripe(&id).lock();
        let path = object_path(&id);
        if from != path
            && let Err(error) = dir.disk.rename(from, &path)
        {
            let _ = dir.disk.unlink(from);
            return Err(error);
        }
        // Accounted before the record can be found and evicted.
        dir.account_reserved(record.disk_bytes(), reserved);
        let mut index = self.index.lock();
        let before = index.get(&id).copied();
        if let Some(before) = &before {
            record.set_pinned(before.is_pinned());
        }
        index.put(record);
        dir.log(&Entry::Put(record));
        let moved_from = self.log_moved(before.as_ref(), &record);
        drop(index);
        self.count_replaced(before.as_ref(), Some(&record));
        drop(stripe);
        if let Some(other) = moved_from {
            other.flush();
        }
        dir.account_fanout(&id);
        Ok(())
    }

    /// A record that replaces one of another directory is the only one from now on: the other
    /// directory's log says so, or its copy (or mere wish) comes back with the next start.
    /// Returns the directory to flush.
    fn log_moved(&self, before: Option<&Record>, record: &Record) -> Option<&Arc<Dir>> {
        let other = self.dir(before.filter(|before| before.dir != record.dir)?.dir);
        other.log(&Entry::Remove(record.id));
        Some(other)
    }

    fn write_page(
        &self,
        dir: &Dir,
        (id, size): (ObjectId, u64),
        page: u64,
        bytes: &Bytes,
        reserved: &mut u64,
    ) -> io::Result<bool> {
        let path = partial_path(&id);
        let (partial, file) = {
            let _stripe = self.stripe(&id).lock();
            let known = self.partials.lock().get(&id).cloned();
            match known {
                // Begun meanwhile where placement sent it a moment ago: the next try goes there.
                Some(known) if known.dir != dir.number && !self.dir(known.dir).is_set_aside() => {
                    return Ok(false);
                }
                Some(partial) if partial.dir == dir.number => {
                    (partial, dir.disk.open(&path, true)?)
                }
                _ => {
                    let file = dir.disk.create(&path)?;
                    (self.enter_partial(dir, id, size), file)
                }
            }
        };
        dir.disk.write_at(&file, bytes, page * PAGE_BYTES)?;
        let extent = dir.disk.extent(&file)?;
        let crc = crc32c::crc32c(bytes);
        let added = partial.add(page, crc, || {
            let mut index = self.index.lock();
            let Some(record) = index.get_mut(&id) else { return };
            if record.state() != State::Partial || record.dir != dir.number {
                return;
            }
            let before = record.disk_bytes();
            // The tree of a sparse file's extents may grow when it is written back.
            record.set_disk_bytes((extent.disk_bytes + 2 * UNIT_BYTES).max(before));
            dir.account_reserved(record.disk_bytes() - before, reserved);
            let page = u32::try_from(page).expect("2^32 pages are 16 PiB");
            dir.log(&Entry::Page(PageEntry { id, page, crc }));
        });
        let Added::Whole(crc) = added else { return Ok(added == Added::Partly) };
        // Looked at again: another writer may have made the file longer since.
        let size = dir.disk.extent(&file)?.size;
        self.publish_partial(dir, id, &partial, crc, size)?;
        Ok(true)
    }

    /// A large object's first page: the caller holds the stripe.
    fn enter_partial(&self, dir: &Dir, id: ObjectId, size: u64) -> Arc<Partial> {
        let partial = Arc::new(Partial::new(size, dir.number));
        let mut record = Record::new(id, size, dir.number, State::Partial);
        let mut index = self.index.lock();
        let before = index.get(&id).copied();
        record.set_pinned(before.is_some_and(|before| before.is_pinned()));
        index.put(record);
        dir.log(&Entry::Put(record));
        let moved_from = self.log_moved(before.as_ref(), &record);
        let abandoned = self.partials.lock().insert(id, partial.clone());
        drop(index);
        // After the index: `Partial::add` takes the two the other way round.
        if let Some(abandoned) = abandoned {
            abandoned.doom();
        }
        self.count_replaced(before.as_ref(), Some(&record));
        if let Some(other) = moved_from {
            other.flush();
        }
        partial
    }

    fn publish_partial(
        &self,
        dir: &Dir,
        id: ObjectId,
        partial: &Arc<Partial>,
        crc: u32,
        file_size: u64,
    ) -> io::Result<()> {
        let stripe = self.stripe(&id).lock();
        let is_current = self.partials.lock().get(&id).is_some_and(|now| Arc::ptr_eq(now, partial));
        if !is_current {
            return Ok(());
        }
        if file_size != partial.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        dir.disk.rename(&partial_path(&id), &object_path(&id))?;
        // Before the record says that it is complete: a snapshot that finds it so writes them with it.
        let pages = partial.pages();
        self.sums.lock().put(id, partial.size, &pages);
        let mut index = self.index.lock();
        if let Some(record) = index.get_mut(&id) {
            let before = *record;
            record.set_state(State::Complete);
            record.crc = crc;
            record.set_unverified(false);
            let record = *record;
            dir.log(&Entry::Put(record));
            self.partials.lock().remove(&id);
            drop(index);
            self.count_replaced(Some(&before), Some(&record));
        }
        drop(stripe);
        dir.account_fanout(&id);
        Ok(())
    }

    /// Keeps the counts per directory, and gives back the space of a copy that was replaced.
    pub(crate) fn count_replaced(&self, before: Option<&Record>, after: Option<&Record>) {
        if let Some(record) = before {
            let dir = self.dir(record.dir);
            dir.records.fetch_sub(1, Ordering::Relaxed);
            if record.state() == State::Complete {
                self.objects[usize::from(record.dir)].fetch_sub(1, Ordering::Relaxed);
                // Replaced in place: the rename has freed the old file.
                if after.is_some_and(|after| after.dir == record.dir) {
                    dir.release(record.disk_bytes());
                }
            }
        }
        if let Some(record) = after {
            self.dir(record.dir).records.fetch_add(1, Ordering::Relaxed);
            if record.state() == State::Complete {
                self.objects[usize::from(record.dir)].fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
