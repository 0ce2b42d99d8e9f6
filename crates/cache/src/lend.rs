//! Reading for other nodes: what is on the disk is compared with the checksum of its fetch before it goes out.
//!
//! A node's own readers are served by the kernel from the file itself, and only the scrub and `check` find what
//! has rotted. What goes to another node would be kept there under a checksum of its own, and look sound for
//! ever. Its checksum has to be taken for the wire anyway, so all that this adds is a comparison.
//!
//! # Invariants
//!
//! - Bytes that differ from what was recorded are not given out: the copy is dropped as by a check, and the
//!   bytes are fetched.
//! - Before anything is dropped it is read once more: what was found may be a file that was replaced meanwhile.
//!
//! # Deliberately absent
//!
//! - No comparison of a range that is not exactly one page: it would have to be read whole. Nodes ask each
//!   other for whole pages.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use feedline_model::page::{PAGE_BYTES, page_range, pages_of};
use feedline_model::{
    BlockSource as _, CheckedSource, Object, ObjectId, Priority, ReadError, Summed,
};

use crate::cache::{Cache, Shared};
use crate::directory::object_path;
use crate::disk::Trouble;
use crate::index::{Record, State};

impl Shared {
    /// What was recorded of exactly this range when it was fetched.
    pub(crate) fn recorded(&self, record: &Record, page: u64, range: &Range<u64>) -> Option<u32> {
        if *range != page_range(page, record.size()) {
            return None;
        }
        match record.state() {
            State::Complete if record.size() <= PAGE_BYTES => Some(record.crc),
            State::Complete => self.sums.lock().page(&record.id, page),
            State::Partial => {
                let partial = self.partials.lock().get(&record.id).cloned();
                partial.and_then(|partial| partial.crc(page))
            }
            State::Free | State::Wished => None,
        }
    }

    /// What was read of a page does not have its checksum: drops it unless it has by now.
    pub(crate) async fn look_again(self: &Arc<Self>, id: &ObjectId, page: u64, crc: u32) {
        let (shared, id) = (self.clone(), *id);
        let look = self.handle.spawn_blocking(move || {
            // A file that is open since before it was replaced would be read for ever.
            shared.open_files.forget(&id);
            let Some(record) = shared.usable_record(&id) else { return };
            match record.state() {
                State::Complete => shared.look_at_complete(&id, &record, page, crc),
                State::Partial => shared.look_at_partial(&id, &record, page, crc),
                State::Free | State::Wished => {}
            }
        });
        if let Err(error) = look.await {
            tracing::error!(%error, "a cached file could not be looked at again");
        }
    }

    fn look_at_complete(&self, id: &ObjectId, record: &Record, page: u64, crc: u32) {
        let disk = &self.dir(record.dir).disk;
        let range = page_range(page, record.size());
        let mut buffer = vec![0; usize::try_from(range.end - range.start).expect("a page")];
        let read = disk
            .open(&object_path(id), false)
            .and_then(|file| disk.read_at(&file, &mut buffer, range.start));
        match read {
            Ok(()) if crc32c::crc32c(&buffer) == crc => {}
            Ok(()) => self.drop_corrupt(id, record),
            Err(error) => self.read_failed(id, record, &error),
        }
    }

    fn look_at_partial(&self, id: &ObjectId, record: &Record, page: u64, crc: u32) {
        let Some(partial) = self.partials.lock().get(id).cloned() else { return };
        let Some(looked) = partial.present(page) else { return };
        let dir = self.dir(record.dir);
        let range = page_range(page, partial.size);
        match self.read_page_of(dir, id, &partial, page, &range, Some(crc)) {
            Ok(Some(_)) => return,
            _ if !self.is_current(id, &partial) => return,
            Ok(None) => {}
            Err(error) => {
                if dir.note(&error, self.now_ms()) == Trouble::Sick {
                    return;
                }
            }
        }
        if partial.lose(page, looked) {
            dir.set_stale();
            dir.corrupt.add(1);
            tracing::warn!(dir = %dir.path.display(), %id, page,
                "a page of a cached file is not as it was written; it will be fetched again");
        }
    }
}

#[async_trait]
impl CheckedSource for Cache {
    async fn read_checked(
        &self,
        object: &Object,
        range: Range<u64>,
        priority: Priority,
    ) -> Result<Summed, ReadError> {
        let page = page_within(object, &range);
        let (bytes, crc) = match page {
            Some(page) => {
                let read = self.shared.read_page(object, object.id(), page, range, priority, true);
                read.await?
            }
            None => (self.read(object, range, priority).await?, None),
        };
        let crc = crc.unwrap_or_else(|| crc32c::crc32c(&bytes));
        Ok(Summed { bytes, crc })
    }

    async fn read_here(&self, object: &Object, range: Range<u64>) -> Option<Summed> {
        let (page, id) = (page_within(object, &range)?, object.id());
        let (bytes, crc) = self.shared.read_local(object, &id, page, range, true).await?;
        let crc = crc.unwrap_or_else(|| crc32c::crc32c(&bytes));
        Some(Summed { bytes, crc })
    }
}

/// The page in which a range of the object lies, if it is in one.
fn page_within(object: &Object, range: &Range<u64>) -> Option<u64> {
    let pages = pages_of(range);
    let is_sound = range.start < range.end && range.end <= object.version.size;
    (is_sound && pages.end - pages.start == 1).then_some(pages.start)
}
