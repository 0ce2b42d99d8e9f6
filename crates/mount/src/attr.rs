//! What `stat` shows, made from what a listing knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use feedline_model::VersionRef;

/// `st_blksize`: what programs size their buffers by. Python and `cat` then read a typical image
/// (110 KB) with one `read(2)` instead of two to four, and the buffer is still small enough for
/// malloc not to ask the kernel for every one of them.
const BLOCK_SIZE: u32 = 128 << 10;

/// `st_blksize` of a directory: the C library reads that much of it at once, and so much the kernel
/// then asks us for: 1,400 entries of a typical image's name instead of 700. A round trip costs as
/// much as 30 entries on a virtual machine, whose idle cores are slow to wake.
const DIRECTORY_BLOCK_SIZE: u32 = 256 << 10;

/// Directory or file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FileKind {
    /// A directory.
    Directory,
    /// An object.
    File,
}

/// The attributes of an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Attr {
    pub(crate) number: u64,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    /// In units of 512 bytes, as if the object were on this disk.
    pub(crate) blocks: u64,
    pub(crate) modified: SystemTime,
    /// Permission bits.
    pub(crate) mode: u16,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) block_size: u32,
}

/// Who owns everything, and which permission bits are taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) umask: u32,
}

impl Owner {
    /// The attributes of an object's inode.
    pub(crate) fn file(&self, number: u64, version: VersionRef<'_>) -> Attr {
        let millis = Duration::from_millis(version.modified_ms.unsigned_abs());
        let modified =
            if version.modified_ms < 0 { UNIX_EPOCH - millis } else { UNIX_EPOCH + millis };
        Attr {
            number,
            kind: FileKind::File,
            size: version.size,
            blocks: version.size.div_ceil(4096) * 8,
            modified,
            mode: self.masked(0o444),
            links: 1,
            uid: self.uid,
            gid: self.gid,
            block_size: BLOCK_SIZE,
        }
    }

    /// The attributes of a directory's inode.
    pub(crate) fn directory(&self, number: u64, modified: SystemTime) -> Attr {
        Attr {
            number,
            kind: FileKind::Directory,
            size: 0,
            blocks: 0,
            modified,
            mode: self.masked(0o555),
            // 2 without regard to subdirectories: `find` must not use the count to skip `stat`.
            links: 2,
            uid: self.uid,
            gid: self.gid,
            block_size: DIRECTORY_BLOCK_SIZE,
        }
    }

    fn masked(&self, mode: u32) -> u16 {
        (mode & !self.umask & 0o777) as u16
    }
}

/// A listing's time of change.
pub(crate) fn time_of(unix_ms: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(unix_ms)
}
