//! Reading what is here: complete files, pages of partial ones, and verification before the first
//! serve after an unclean stop.
//!
//! Invariant: any doubt (absent, wrong size, short, wrong checksum) drops the copy and is a miss,
//! never an error and never bytes.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use feedline_model::page::page_range;
use feedline_model::{CachedFile, Object, ObjectId};
use parking_lot::Mutex;

use crate::cache::Shared;
use crate::directory::{Dir, object_path, partial_path};
use crate::disk::Trouble;
use crate::index::{Record, State};
use crate::partial::Partial;

/// Files kept open between reads: the streams of a few hundred readers, well below the usual
/// limit of 1,024 descriptors.
const OPEN_FILES_MAX: usize = 256;

/// The largest file that is read in the task that asks: a copy of a tenth of a millisecond.
const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// Bytes read at a time to verify a file.
const VERIFY_BYTES: u64 = 256 << 10;

#[derive(Debug, Default)]
struct OpenState {
    files: HashMap<ObjectId, (u64, Arc<File>)>,
    order: VecDeque<ObjectId>,
}

/// Files that were read lately, open; first in, first out. Each is of one serial: that of its
/// [`Partial`](crate::partial::Partial), or 0 for a complete object. A partial object that is
/// dropped and begun again is another file, with holes elsewhere.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    state: Mutex<OpenState>,
}

impl OpenFiles {
    fn get(&self, id: &ObjectId, serial: u64) -> Option<Arc<File>> {
        let state = self.state.lock();
        let (of, file) = state.files.get(id)?;
        (*of == serial).then(|| file.clone())
    }

    fn put(&self, id: ObjectId, serial: u64, file: Arc<File>) {
        let mut state = self.state.lock();
        let mut closed = state.files.insert(id, (serial, file));
        if closed.is_none() {
            state.order.push_back(id);
            if state.order.len() > OPEN_FILES_MAX {
                closed = state.order.pop_front().and_then(|old| state.files.remove(&old));
            }
        }
        drop(state);
        drop(closed);
    }

    /// Forgets a file that is about to go; its space is free once its readers are done.
    pub(crate) fn forget(&self, id: &ObjectId) {
        let mut state = self.state.lock();
        let closed = state.files.remove(id);
        if closed.is_some() {
            state.order.retain(|other| other != id);
        }
        drop(state);
        drop(closed);
    }
}

fn zeroed(range: &Range<u64>) -> Vec<u8> {
    vec![0; usize::try_from(range.end - range.start).expect("a read fits in memory")]
}

impl Shared {
    pub(crate) fn dir(&self, number: u8) -> &Arc<Dir> {
        &self.dirs[usize::from(number)]
    }

    /// Opens a complete object; see `ObjectIndex::open`.
    pub(crate) fn open_complete(&self, object: &Object) -> Option<CachedFile> {
        let id = object.id();
        let record = self.use_complete(&id)?;
        let file = self.open_sound(&id, &record, object.version.size)?;
        self.counters.hits.add(1);
        Some(CachedFile { file: Arc::new(file), size: record.size() })
    }

    /// Opens the file of `record`, checks its size and, after an unclean stop, its content.
    fn open_sound(&self, id: &ObjectId, record: &Record, size: u64) -> Option<File> {
        let dir = self.dir(record.dir);
        let checked = dir.disk.open(&object_path(id), false).and_then(|file| {
            let found = dir.disk.extent(&file)?.size;
            let sound = found == record.size()
                && found == size
                && (!record.is_unverified() || self.is_sound(dir, &file, record)?);
            Ok(sound.then_some(file))
        });
        match checked {
            Ok(Some(file)) => {
                if record.is_unverified() {
                    self.mark_verified(id, record);
                }
                Some(file)
            }
            Ok(None) => {
                self.drop_corrupt(id, record);
                None
            }
            Err(error) => {
                self.read_failed(id, record, &error);
                None
            }
        }
    }

    /// The file of `record` has been compared with its checksum.
    pub(crate) fn mark_verified(&self, id: &ObjectId, record: &Record) {
        if let Some(now) = self.index.lock().get_mut(id)
            && (now.dir, now.crc, now.state()) == (record.dir, record.crc, State::Complete)
        {
            now.set_unverified(false);
            self.dir(record.dir).set_stale();
        }
    }

    /// True if there is a file of the object.
    fn has_file(&self, id: &ObjectId) -> bool {
        let has_file = |record: &Record| matches!(record.state(), State::Complete | State::Partial);
        self.index.lock().get(id).is_some_and(has_file)
    }

    /// True if the file's content has the recorded checksum.
    pub(crate) fn is_sound(&self, dir: &Dir, file: &File, record: &Record) -> io::Result<bool> {
        self.is_sound_while(dir, file, record, &|| true)
    }

    /// As `is_sound`; an error before the next piece if it is not wanted any more.
    pub(crate) fn is_sound_while(
        &self,
        dir: &Dir,
        file: &File,
        record: &Record,
        is_wanted: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let mut buffer = zeroed(&(0..record.size().min(VERIFY_BYTES)));
        let (mut at, mut crc) = (0, 0);
        while at < record.size() {
            if !is_wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let length = (record.size() - at).min(VERIFY_BYTES);
            let part = &mut buffer[..usize::try_from(length).expect("at most a buffer")];
            match dir.disk.read_at(file, part, at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                done => done?,
            }
            crc = crc32c::crc32c_append(crc, part);
            at += length;
        }
        Ok(crc == record.crc)
    }

    /// Drops a copy that is not what it should be; not one that was fetched anew since.
    pub(crate) fn drop_corrupt(&self, id: &ObjectId, record: &Record) {
        let dir = self.dir(record.dir);
        let key = |record: &Record| (record.dir, record.crc, record.is_unverified());
        let same = |now: &Record| key(now) == key(record);
        if self.remove(id, same).is_some() {
            dir.corrupt.add(1);
            tracing::warn!(dir = %dir.path.display(), %id,
                "a cached file is not as it was written; dropped, it will be fetched again");
            dir.flush();
        }
    }

    /// A read of a complete file failed: a sick disk is set aside, a bad file dropped.
    pub(crate) fn read_failed(&self, id: &ObjectId, record: &Record, error: &io::Error) {
        let dir = self.dir(record.dir);
        let gone = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof);
        if dir.note(error, self.now_ms()) == Trouble::File && gone {
            self.drop_corrupt(id, record);
        }
    }

    /// The bytes of `range`, within `page`, from disk; `None` is a miss. If it `compares`, with their checksum
    /// where one is recorded of just them.
    pub(crate) async fn read_local(
        self: &Arc<Self>,
        object: &Object,
        id: &ObjectId,
        page: u64,
        range: Range<u64>,
        compares: bool,
    ) -> Option<(Bytes, Option<u32>)> {
        let record = self.usable_record(id)?;
        let recorded = if compares { self.recorded(&record, page, &range) } else { None };
        let bytes = match record.state() {
            State::Complete => self.read_complete(object, id, record, range).await?,
            State::Partial => self.read_partial(object, id, record, page, range).await?,
            State::Free | State::Wished => return None,
        };
        if let Some(crc) = recorded
            && crc32c::crc32c(&bytes) != crc
        {
            self.look_again(id, page, crc).await;
            return None;
        }
        self.counters.hits.add(1);
        self.counters.hit_bytes.add(bytes.len() as u64);
        Some((bytes, recorded))
    }

    /// The bytes if they are in memory already, read without waiting for the disk.
    fn read_hot(&self, dir: &Dir, id: &ObjectId, serial: u64, range: &Range<u64>) -> Option<Bytes> {
        if !self.keep_pages {
            return None;
        }
        let file = self.open_files.get(id, serial)?;
        let mut buffer = zeroed(range);
        dir.disk.read_hot(&file, &mut buffer, range.start).then(|| buffer.into())
    }

    /// The whole of a small file that is in memory, name and all, without waiting for the disk. It is not
    /// kept open: who reads a file at once does not come back for more of it.
    fn read_whole_hot(&self, record: &Record, range: &Range<u64>) -> Option<Bytes> {
        let is_whole = range.start == 0 && range.end == record.size();
        if !self.keep_pages || !is_whole || WHOLE_BYTES_MAX < record.size() {
            return None;
        }
        let disk = &self.dir(record.dir).disk;
        let file = disk.open_hot(&object_path(&record.id))?;
        if disk.extent(&file).ok()?.size != record.size() {
            return None;
        }
        let mut buffer = zeroed(range);
        disk.read_hot(&file, &mut buffer, 0).then(|| buffer.into())
    }

    async fn read_complete(
        self: &Arc<Self>,
        object: &Object,
        id: &ObjectId,
        record: Record,
        range: Range<u64>,
    ) -> Option<Bytes> {
        if !record.is_unverified() {
            let hot = self.read_hot(self.dir(record.dir), id, 0, &range);
            // A switch to another thread and back costs as much as all else of a small read.
            if let Some(bytes) = hot.or_else(|| self.read_whole_hot(&record, &range)) {
                return Some(bytes);
            }
        }
        let (shared, id, size) = (self.clone(), *id, object.version.size);
        let read = self.handle.spawn_blocking(move || {
            let file = match shared.open_files.get(&id, 0).filter(|_| !record.is_unverified()) {
                Some(file) => file,
                None => {
                    let file = Arc::new(shared.open_sound(&id, &record, size)?);
                    shared.open_files.put(id, 0, file.clone());
                    if !shared.has_file(&id) {
                        // Removed meanwhile: an open file would keep its space.
                        shared.open_files.forget(&id);
                    }
                    file
                }
            };
            let mut buffer = zeroed(&range);
            match shared.dir(record.dir).disk.read_at(&file, &mut buffer, range.start) {
                Ok(()) => Some(Bytes::from(buffer)),
                Err(error) => {
                    shared.read_failed(&id, &record, &error);
                    None
                }
            }
        });
        read.await.ok().flatten()
    }

    async fn read_partial(
        self: &Arc<Self>,
        object: &Object,
        id: &ObjectId,
        record: Record,
        page: u64,
        range: Range<u64>,
    ) -> Option<Bytes> {
        let partial = self.partials.lock().get(id).cloned()?;
        let crc_to_verify = partial.present(page)?;
        if crc_to_verify.is_none() {
            self.read_ahead(object, *id, page);
            if let Some(bytes) = self.read_hot(self.dir(record.dir), id, partial.serial, &range) {
                return Some(bytes);
            }
        }
        let (shared, id) = (self.clone(), *id);
        let read = self.handle.spawn_blocking(move || {
            let dir = shared.dir(record.dir);
            match shared.read_page_of(dir, &id, &partial, page, &range, crc_to_verify) {
                Ok(Some(bytes)) => return Some(bytes),
                // Dropped, begun anew or completed meanwhile: nothing is wrong with the page.
                _ if !shared.is_current(&id, &partial) => return None,
                Ok(None) => {}
                Err(error) => {
                    if dir.note(&error, shared.now_ms()) == Trouble::Sick {
                        return None;
                    }
                }
            }
            if partial.lose(page, crc_to_verify) {
                dir.set_stale();
                dir.corrupt.add(1);
            }
            None
        });
        read.await.ok().flatten()
    }

    /// True if this is what is known of the object now: its file is the one at the partial path.
    pub(crate) fn is_current(&self, id: &ObjectId, partial: &Arc<Partial>) -> bool {
        self.partials.lock().get(id).is_some_and(|now| Arc::ptr_eq(now, partial))
    }

    /// The bytes of `range` from the page of a partial object; `None` if they are not as recorded
    /// or not there any more.
    pub(crate) fn read_page_of(
        &self,
        dir: &Dir,
        id: &ObjectId,
        partial: &Arc<Partial>,
        page: u64,
        range: &Range<u64>,
        crc_to_verify: Option<u32>,
    ) -> io::Result<Option<Bytes>> {
        let file = match self.open_files.get(id, partial.serial) {
            Some(file) => file,
            None => {
                let file = Arc::new(dir.disk.open(&partial_path(id), false)?);
                // After the open: the path may have come to name a newer file, with other holes.
                if !self.is_current(id, partial) {
                    return Ok(None);
                }
                self.open_files.put(*id, partial.serial, file.clone());
                if !self.has_file(id) {
                    self.open_files.forget(id);
                }
                file
            }
        };
        let wanted = match crc_to_verify {
            Some(_) => page_range(page, partial.size),
            None => range.clone(),
        };
        let start = wanted.start;
        let mut buffer = zeroed(&wanted);
        dir.disk.read_at(&file, &mut buffer, start)?;
        let Some(crc) = crc_to_verify else { return Ok(Some(buffer.into())) };
        if crc32c::crc32c(&buffer) != crc {
            return Ok(None);
        }
        let whole = partial.verified(page);
        dir.set_stale();
        if let Some(crc) = whole {
            self.complete_verified(dir, *id, partial, crc, &file);
        }
        let at = |offset: u64| usize::try_from(offset - start).expect("in a page");
        Ok(Some(Bytes::from(buffer).slice(at(range.start)..at(range.end))))
    }
}
