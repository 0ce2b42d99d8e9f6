//! Bringing complete files into the page cache before somebody reads them.
//!
//! # Deliberately absent
//!
//! - No judgement of the copy: one that cannot be opened or is short is found by its reader, and one
//!   that is to be verified first is left alone, since to verify it is to read it anyway.
//! - No mark of use: a guess of what will be read is not a use.
//! - Nothing where reads are answered by the daemon: the kernel keeps FUSE's own pages then, and the
//!   data would be in memory twice.

use feedline_model::{Object, Push, Residence};

use crate::cache::Shared;
use crate::directory::object_path;
use crate::index::State;

/// Of a large object so much is looked at and pushed: once a reader has begun, the kernel's own
/// read-ahead keeps up with it.
const PUSH_BYTES_MAX: u64 = 8 << 20;

impl Shared {
    /// See `ObjectIndex::push`.
    pub(crate) fn push(&self, object: &Object, push: Push) -> Residence {
        if !self.keep_pages {
            return Residence::Unknown;
        }
        let id = object.id();
        let Some(record) = self.usable_record(&id) else { return Residence::Unknown };
        if record.state() != State::Complete || record.is_unverified() {
            return Residence::Unknown;
        }
        let disk = &self.dir(record.dir).disk;
        let Ok(file) = disk.open(&object_path(&id), false) else { return Residence::Unknown };
        let length = record.size().min(PUSH_BYTES_MAX);
        let Some(missing) = disk.missing(&file, length) else { return Residence::Unknown };
        if missing == 0 {
            return Residence::Memory;
        }
        match push {
            Push::Look => Residence::Disk(missing),
            Push::Read if disk.read_ahead(&file, length).is_ok() => Residence::Disk(missing),
            Push::Read => Residence::Unknown,
        }
    }
}
