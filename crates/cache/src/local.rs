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

/// Files kept open between reads: the streams of a few hundred readers, well below the usual
/// limit of 1,024 descriptors.
const OPEN_FILES_MAX: usize = 256;

/// Bytes read at a time to verify a file.
const VERIFY_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
struct OpenState {
    files: HashMap<ObjectId, Arc<File>>,
    order: VecDeque<ObjectId>,
}

/// Files that were read lately, open; first in, first out.
#[derive(Debug, Default)]
pub(crate) struct OpenFiles {
    state: Mutex<OpenState>,
}

impl OpenFiles {
    fn get(&self, id: &ObjectId) -> Option<Arc<File>> {
        self.state.lock().files.get(id).cloned()
    }

    fn put(&self, id: ObjectId, file: Arc<File>) {
        let mut state = self.state.lock();
        let mut closed = None;
        if state.files.insert(id, file).is_none() {
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
                if record.is_unverified()
                    && let Some(record) = self.index.lock().get_mut(id)
                {
                    record.set_unverified(false);
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

    /// True if the file's content has the recorded checksum.
    pub(crate) fn is_sound(&self, dir: &Dir, file: &File, record: &Record) -> io::Result<bool> {
        let mut buffer = vec![0; VERIFY_BYTES];
        let (mut at, mut crc) = (0, 0);
        while at < record.size() {
            let length = (record.size() - at).min(VERIFY_BYTES as u64);
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

    /// Drops a copy that is not what it should be.
    pub(crate) fn drop_corrupt(&self, id: &ObjectId, record: &Record) {
        let dir = self.dir(record.dir);
        let same = |now: &Record| now.dir == record.dir && now.crc == record.crc;
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

    /// The bytes of `range`, within `page`, from disk; `None` is a miss.
    pub(crate) async fn read_local(
        self: &Arc<Self>,
        object: &Object,
        id: &ObjectId,
        page: u64,
        range: Range<u64>,
    ) -> Option<Bytes> {
        self.index.lock().get_mut(id)?.set_visited(true);
        let record = self.usable_record(id)?;
        let bytes = match record.state() {
            State::Complete => self.read_complete(object, id, record, range).await?,
            State::Partial => self.read_partial(object, id, record, page, range).await?,
            State::Free | State::Wished => return None,
        };
        self.counters.hits.add(1);
        self.counters.hit_bytes.add(bytes.len() as u64);
        Some(bytes)
    }

    /// The bytes if they are in memory already, read without waiting for the disk.
    fn read_hot(&self, dir: &Dir, id: &ObjectId, range: &Range<u64>) -> Option<Bytes> {
        if !self.keep_pages {
            return None;
        }
        let file = self.open_files.get(id)?;
        let mut buffer = zeroed(range);
        dir.disk.read_hot(&file, &mut buffer, range.start).then(|| buffer.into())
    }

    async fn read_complete(
        self: &Arc<Self>,
        object: &Object,
        id: &ObjectId,
        record: Record,
        range: Range<u64>,
    ) -> Option<Bytes> {
        if !record.is_unverified()
            && let Some(bytes) = self.read_hot(self.dir(record.dir), id, &range)
        {
            return Some(bytes);
        }
        let (shared, id, size) = (self.clone(), *id, object.version.size);
        let read = self.handle.spawn_blocking(move || {
            let file = match shared.open_files.get(&id).filter(|_| !record.is_unverified()) {
                Some(file) => file,
                None => {
                    let file = Arc::new(shared.open_sound(&id, &record, size)?);
                    shared.open_files.put(id, file.clone());
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
            if let Some(bytes) = self.read_hot(self.dir(record.dir), id, &range) {
                return Some(bytes);
            }
        }
        let (shared, id) = (self.clone(), *id);
        let read = self.handle.spawn_blocking(move || {
            let dir = shared.dir(record.dir);
            let read = || -> io::Result<Option<Bytes>> {
                let file = match shared.open_files.get(&id) {
                    Some(file) => file,
                    None => match dir.disk.open(&partial_path(&id), false) {
                        // Completed meanwhile: the same file under its final name.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            Arc::new(dir.disk.open(&object_path(&id), false)?)
                        }
                        opened => Arc::new(opened?),
                    },
                };
                let whole = page_range(page, partial.size);
                let wanted = if crc_to_verify.is_some() { whole.clone() } else { range.clone() };
                let mut buffer = zeroed(&wanted);
                dir.disk.read_at(&file, &mut buffer, wanted.start)?;
                let Some(crc) = crc_to_verify else { return Ok(Some(buffer.into())) };
                if crc32c::crc32c(&buffer) != crc {
                    return Ok(None);
                }
                partial.verified(page);
                let at = |offset: u64| usize::try_from(offset - whole.start).expect("in a page");
                Ok(Some(Bytes::from(buffer).slice(at(range.start)..at(range.end))))
            };
            match read() {
                Ok(Some(bytes)) => return Some(bytes),
                Ok(None) => {}
                Err(error) => {
                    if dir.note(&error, shared.now_ms()) == Trouble::Sick {
                        return None;
                    }
                }
            }
            partial.lose(page);
            dir.corrupt.add(1);
            None
        });
        read.await.ok().flatten()
    }
}
