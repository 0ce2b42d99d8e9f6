//! The index over time: loaded at the start, snapshot when the journal is long, files it does not
//! know removed after an unclean stop, all written at a clean one.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use feedline_model::ObjectId;
use feedline_model::page::PAGE_BYTES;

use crate::cache::Shared;
use crate::config::CacheError;
use crate::directory::{
    Dir, Found, JOURNAL, SNAPSHOT, SNAPSHOT_NEW, blocks, object_path, partial_path,
};
use crate::index::{Index, Record, State};
use crate::journal::{self, Entry, PUT_BYTES, PageEntry, SnapshotWriter};
use crate::partial::Partial;
use crate::sums::Sums;

/// Records copied under one lock of the index while a snapshot is taken: 270 KB.
const SNAPSHOT_STEP: usize = 8192;

/// Records that may come while a snapshot is written; with their bytes it fits in the headroom that
/// every directory keeps free, so that a full cache need not evict for its index.
const SNAPSHOT_GROWTH: u64 = 2048;

/// Bytes of an encoded page in a snapshot.
const PAGE_ENTRY_BYTES: u64 = 25;

fn read_whole(dir: &Dir, name: &str) -> io::Result<Option<Vec<u8>>> {
    let mut file = match dir.disk.open(name, false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The id that a file's name spells, if it does.
fn id_of_name(name: &str) -> Option<ObjectId> {
    let mut bytes = [0; 16];
    if name.len() != 32 || !name.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&name[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(ObjectId(bytes))
}

/// What one directory's index says.
#[derive(Default)]
struct Loaded {
    index: Index,
    partials: HashMap<ObjectId, Arc<Partial>>,
    sums: Sums,
}

/// Which of two copies to keep: a whole one, a trusted one; pages beat a mere wish.
fn rank(record: &Record) -> (u8, bool) {
    let state = match record.state() {
        State::Free | State::Wished => 0,
        State::Partial => 1,
        State::Complete => 2,
    };
    (state, !record.is_unverified())
}

/// Reads snapshot and journal. A journal that is whole goes on; else a snapshot is due.
fn load_dir(dir: &Dir) -> io::Result<Loaded> {
    let mut loaded = Loaded::default();
    if dir.found == Found::Fresh {
        return Ok(loaded);
    }
    let snapshot = read_whole(dir, SNAPSHOT)?.unwrap_or_default();
    let log = read_whole(dir, JOURNAL)?.unwrap_or_default();
    let mut journal = dir.journal.lock();
    journal.snapshot_bytes = blocks(snapshot.len() as u64);
    dir.account(journal.snapshot_bytes);
    loaded.index.reserve(snapshot.len() / usize::try_from(PUT_BYTES).expect("33"));
    let trusted = dir.found == Found::Clean;
    let mut apply = |entry| apply_entry(&mut loaded, entry, trusted);
    let generation = journal::read_snapshot(&snapshot, dir.number, &mut apply);
    let sound = generation
        .is_some_and(|generation| journal::replay(&log, generation, dir.number, &mut apply));
    journal.generation = generation.unwrap_or(0);
    if sound {
        journal.file = Some(dir.disk.open(JOURNAL, true)?);
        journal.bytes = log.len() as u64;
        dir.account(blocks(journal.bytes));
    } else {
        if trusted {
            // It says clean, yet the index is not whole: trust nothing that was loaded.
            for slot in 0..loaded.index.slots() {
                if let Some(record) = loaded.index.at_mut(slot) {
                    record.set_unverified(true);
                }
            }
        }
        dir.swept.send_replace(false);
    }
    if !trusted {
        dir.set_stale();
    }
    Ok(loaded)
}

impl Shared {
    /// Fills the index from all directories.
    pub(crate) fn load(&self) -> Result<(), CacheError> {
        for dir in &self.dirs {
            let fail = |action: &'static str| {
                move |error: io::Error| CacheError::Io { dir: dir.path.clone(), action, error }
            };
            let loaded = load_dir(dir).map_err(fail("read its index"))?;
            self.merge(loaded);
        }
        self.account_records();
        for dir in &self.dirs {
            let fail = |error: io::Error| CacheError::Io {
                dir: dir.path.clone(),
                action: "write its index",
                error,
            };
            // Else the journal that was there goes on.
            if dir.journal.lock().file.is_none() {
                self.write_snapshot(dir).map_err(fail)?;
            }
            dir.flush();
        }
        Ok(())
    }

    /// Adds what one directory holds. Of an object in two directories the better copy stays.
    fn merge(&self, loaded: Loaded) {
        let mut index = self.index.lock();
        let mut partials = self.partials.lock();
        self.sums.lock().merge(loaded.sums);
        if index.slots() == 0 {
            *index = loaded.index;
            *partials = loaded.partials;
            return;
        }
        index.reserve(loaded.index.slots());
        for record in (0..loaded.index.slots()).filter_map(|slot| loaded.index.at(slot)) {
            let id = record.id;
            let other = index.get(&id).copied();
            let (mut winner, loser) = match other {
                Some(other) if rank(&other) >= rank(record) => (other, Some(*record)),
                other => (*record, other),
            };
            if let Some(loser) = loser {
                self.dir(loser.dir).log(&Entry::Remove(id));
                self.unlink_extra(&loser);
                if loser.is_pinned() && !winner.is_pinned() {
                    winner.set_pinned(true);
                    self.dir(winner.dir).log(&Entry::Put(winner));
                }
            }
            index.put(winner);
            if winner.dir == record.dir {
                partials.remove(&id);
                if let Some(partial) = loaded.partials.get(&id) {
                    partials.insert(id, partial.clone());
                }
            }
        }
    }

    /// Removes the file of the copy that is not used; one that stays is accounted for.
    fn unlink_extra(&self, loser: &Record) {
        let dir = self.dir(loser.dir);
        let path = match loser.state() {
            State::Complete => object_path(&loser.id),
            State::Partial => partial_path(&loser.id),
            State::Free | State::Wished => return,
        };
        match dir.disk.unlink(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                dir.account(loser.disk_bytes());
                dir.note(&error, self.now_ms());
            }
            _ => {}
        }
    }

    /// Counts records and space per directory once everything is loaded.
    fn account_records(&self) {
        let mut index = self.index.lock();
        for slot in 0..index.slots() {
            let Some(record) = index.at_mut(slot) else { continue };
            let dir = self.dir(record.dir);
            dir.records.fetch_add(1, Ordering::Relaxed);
            match record.state() {
                State::Complete => {
                    self.objects[usize::from(record.dir)].fetch_add(1, Ordering::Relaxed);
                }
                State::Partial => {
                    // What a crash cut short was not accounted.
                    let now = dir.disk.disk_bytes(&partial_path(&record.id));
                    record.set_disk_bytes(now.max(record.disk_bytes()));
                }
                State::Free | State::Wished => continue,
            }
            dir.account(record.disk_bytes());
        }
    }

    /// Starts what runs beside the reads.
    pub(crate) fn start_background(self: &Arc<Self>) {
        for dir in &self.dirs {
            self.start_evictor(dir.clone());
            if !*dir.swept.borrow() {
                let (weak, dir) = (Arc::downgrade(self), dir.clone());
                let sweep = move || {
                    if let Some(shared) = weak.upgrade() {
                        shared.sweep(&dir);
                    }
                    dir.swept.send_replace(true);
                };
                self.tasks.spawn_blocking_on(sweep, &self.handle);
            }
        }
        if self.scrub_bytes_per_s > 0 {
            self.start_scrub();
        }
    }

    /// Removes files that the index does not know, so that the quota holds for what is on disk.
    fn sweep(&self, dir: &Dir) {
        let mut removed = 0_u64;
        let folders = (0..256).map(|byte| format!("objects/{byte:02x}"));
        for folder in folders.chain(std::iter::once("partial/pages".to_owned())) {
            if *self.stop.borrow() {
                return;
            }
            match self.sweep_folder(dir, &folder) {
                Ok(count) => removed += count,
                Err(error) => {
                    dir.note(&error, self.now_ms());
                }
            }
        }
        if removed > 0 {
            tracing::info!(dir = %dir.path.display(), removed,
                "removed files that were being written when the cache was last stopped");
        }
    }

    fn sweep_folder(&self, dir: &Dir, folder: &str) -> io::Result<u64> {
        let mut removed = 0;
        for entry in std::fs::read_dir(dir.path.join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let path = format!("{folder}/{name}");
            let Some(id) = id_of_name(&name) else {
                // Not ours by name: accounted, but nobody's to delete.
                dir.account(dir.disk.disk_bytes(&path));
                continue;
            };
            // Under the stripe: nobody publishes this id between the look and the unlink.
            let _stripe = self.stripe(&id).lock();
            let known = self.index.lock().get(&id).copied().is_some_and(|record| {
                let expected = match record.state() {
                    State::Complete => object_path(&id),
                    State::Partial => partial_path(&id),
                    State::Free | State::Wished => String::new(),
                };
                record.dir == dir.number && expected == path
            });
            if !known {
                dir.disk.unlink(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Writes the index of one directory anew and starts an empty journal after it. Changes go on
    /// meanwhile: they are in the journal after the snapshot, and replaying is idempotent.
    pub(crate) fn write_snapshot(&self, dir: &Dir) -> io::Result<()> {
        let generation = {
            let mut journal = dir.journal.lock();
            if journal.paused || dir.is_set_aside() {
                return Ok(());
            }
            journal.paused = true;
            journal.generation + 1
        };
        let pages: usize = {
            let partials = self.partials.lock();
            let of_dir = partials.values().filter(|partial| partial.dir == dir.number);
            of_dir.map(|partial| partial.pages().len()).sum()
        };
        // Of all directories: an estimate from above.
        let pages = pages + self.sums.lock().pages_total();
        let records = dir.records.load(Ordering::Relaxed) + SNAPSHOT_GROWTH;
        let space = blocks(records * PUT_BYTES + pages as u64 * PAGE_ENTRY_BYTES);
        let written = if dir.try_reserve_index(space) {
            let written = self.write_snapshot_file(dir, generation);
            if let Ok(size) = &written {
                dir.account(*size);
            }
            dir.release(space);
            written.map(Some)
        } else {
            dir.index_wanted.store(space, Ordering::Release);
            dir.kick.notify_one();
            Ok(None)
        };
        let mut journal = dir.journal.lock();
        journal.paused = false;
        if !matches!(written, Ok(Some(_))) {
            // What was forgotten for its sake is in no journal.
            dir.set_stale();
        }
        let Some(size) = written? else { return dir.append(&mut journal).map(drop) };
        dir.release(journal.snapshot_bytes);
        journal.snapshot_bytes = size;
        dir.restart_journal(&mut journal, generation).inspect_err(|_| dir.set_stale())?;
        dir.append(&mut journal).map(drop)
    }

    /// Returns the bytes on disk of the new snapshot.
    fn write_snapshot_file(&self, dir: &Dir, generation: u64) -> io::Result<u64> {
        let file = dir.disk.create(SNAPSHOT_NEW)?;
        let mut writer = SnapshotWriter::default();
        let mut at = 0;
        let mut write = |file: &File, piece: &[u8]| {
            dir.disk.write_at(file, piece, at)?;
            at += piece.len() as u64;
            io::Result::Ok(())
        };
        write(&file, &writer.header(generation))?;
        // What is logged before this point is in the index, and so in the snapshot.
        {
            let _index = self.index.lock();
            dir.forget_pending();
            dir.clear_stale();
        }
        let mut slot = 0;
        loop {
            let (records, slots) = {
                let index = self.index.lock();
                let end = (slot + SNAPSHOT_STEP).min(index.slots());
                let records = (slot..end).filter_map(|slot| index.at(slot));
                let of_dir = records.filter(|record| record.dir == dir.number);
                (of_dir.copied().collect::<Vec<_>>(), index.slots())
            };
            // Without the index: `Partial::add` takes it while it holds its pages.
            let mut piece = Vec::with_capacity(records.len() * PUT_BYTES as usize);
            for record in &records {
                self.encode_record(record, &mut piece);
            }
            writer.add(&piece);
            write(&file, &piece)?;
            slot += SNAPSHOT_STEP;
            if slot >= slots {
                break;
            }
        }
        write(&file, &writer.trailer())?;
        file.sync_all()?;
        let size = file.metadata()?.blocks() * 512;
        dir.disk.rename(SNAPSHOT_NEW, SNAPSHOT)?;
        Ok(size)
    }

    fn encode_record(&self, record: &Record, out: &mut Vec<u8>) {
        let mut record = *record;
        let partial = match record.state() {
            State::Partial => self.partials.lock().get(&record.id).cloned(),
            _ => None,
        };
        let unverified = partial.as_ref().is_some_and(|partial| partial.is_unverified());
        record.set_unverified(record.is_unverified() || unverified);
        journal::encode(&Entry::Put(record), out);
        let pages = match partial {
            Some(partial) => partial.pages(),
            // Complete, or by now.
            None if record.size() > PAGE_BYTES => self.sums.lock().pages(&record.id),
            None => Vec::new(),
        };
        for (page, crc) in pages {
            journal::encode(&Entry::Page(PageEntry { id: record.id, page, crc }), out);
        }
    }

    /// The end of a clean stop: what is not in the journal yet, and the marker. Nothing is synced;
    /// see [`Found`] for why that is enough.
    pub(crate) fn write_clean(&self) {
        for dir in self.dirs.iter().filter(|dir| !dir.is_set_aside()) {
            let done = if dir.is_stale() { self.write_snapshot(dir) } else { Ok(()) };
            let done = done.and_then(|()| {
                let is_whole = dir.append(&mut dir.journal.lock())? && !dir.is_stale();
                // An index that found no space, or a sweep cut short, leaves no clean end.
                if is_whole && *dir.swept.borrow() { dir.mark_clean() } else { Ok(()) }
            });
            if let Err(error) = done {
                tracing::warn!(dir = %dir.path.display(), %error,
                    "the cache index could not be written; it will be verified at the next start");
            }
        }
    }
}

/// Brings one entry of the log into the index.
fn apply_entry(loaded: &mut Loaded, entry: Entry, trusted: bool) {
    let Loaded { index, partials, sums } = loaded;
    match entry {
        Entry::Put(mut record) => {
            record.set_unverified(record.is_unverified() || !trusted);
            match record.state() {
                State::Partial => {
                    // Known already: only its record has changed, as by a pin.
                    let new = || Arc::new(Partial::new(record.size(), record.dir));
                    let known = partials.entry(record.id).or_insert_with(new);
                    if known.size != record.size() {
                        *known = new();
                    }
                }
                State::Free => return,
                State::Wished => {
                    partials.remove(&record.id);
                    sums.forget(&record.id);
                }
                State::Complete if !partials.is_empty() => {
                    if let Some(partial) = partials.remove(&record.id) {
                        sums.put(record.id, partial.size, &partial.pages());
                    }
                }
                State::Complete => {}
            }
            index.put(record);
        }
        Entry::Remove(id) => {
            partials.remove(&id);
            sums.forget(&id);
            index.remove(&id);
        }
        Entry::Page(PageEntry { id, page, crc }) => {
            let Some(record) = index.get(&id) else { return };
            if let Some(partial) = partials.get(&id) {
                partial.restore(page, crc, !record.is_unverified());
            } else if record.state() == State::Complete {
                sums.restore(id, page, crc);
            }
        }
    }
}
