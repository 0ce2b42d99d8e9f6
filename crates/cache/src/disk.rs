//! The boundary to the file system: every operation on a cached file goes through [`Disk`].
//!
//! Invariant: a read or a write is whole or an error. Paths are relative to the directory's root,
//! so that a directory that is moved or mounted over does not change under the cache.
//!
//! Deliberately absent: what an error means for the directory (see [`Trouble`] and `directory`).

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, ReadWriteFlags};

/// Linux 6.14: the pages leave the page cache when the transfer is done.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What an IO error means for the directory it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// No space although the quota is not reached: do not fill for a while.
    Full,
    /// The device or the file system is sick: set the directory aside.
    Sick,
    /// This file only (gone, too many open files): nothing follows for the directory.
    File,
}

impl Trouble {
    pub(crate) fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::Full,
            Some(
                Errno::IO
                | Errno::ROFS
                | Errno::NODEV
                | Errno::NXIO
                | Errno::UCLEAN
                | Errno::NOTCONN
                | Errno::STALE
                | Errno::ACCESS
                | Errno::PERM,
            ) => Self::Sick,
            _ => Self::File,
        }
    }
}

/// Size and space of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// Bytes of content.
    pub(crate) size: u64,
    /// Bytes on disk.
    pub(crate) disk_bytes: u64,
}

/// File operations of one cache directory. Replaced by tests that inject faults.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// Creates or empties a file, for reading and writing.
    fn create(&self, path: &str) -> io::Result<File>;
    /// Creates a file that must not be there, for reading and writing.
    fn create_new(&self, path: &str) -> io::Result<File>;
    /// Opens a file for reading, and for writing if `write`.
    fn open(&self, path: &str, write: bool) -> io::Result<File>;
    /// Opens a file for reading if that needs nothing from the disk, as far as the kernel tells.
    fn open_hot(&self, path: &str) -> Option<File>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Fills all of `buffer` from `offset`; the file's end is `UnexpectedEof`.
    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// As `read_at` if all of it is in the page cache; else false, without waiting for the disk.
    fn read_hot(&self, file: &File, buffer: &mut [u8], offset: u64) -> bool;
    /// How many of the first `length` bytes, more than none, are not in the page cache; `None` if
    /// nobody can tell.
    fn missing(&self, file: &File, length: u64) -> Option<u64>;
    /// Starts reading those of the first `length` bytes into the page cache that are not there.
    fn read_ahead(&self, file: &File, length: u64) -> io::Result<()>;
    /// Moves a file to another name, replacing what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Size and space of an open file.
    fn extent(&self, file: &File) -> io::Result<Extent>;
    /// Bytes on disk of whatever `path` names; 0 if there is nothing.
    fn disk_bytes(&self, path: &str) -> u64;
}

/// Bytes that the kernel reads ahead for one call at least, whatever the disk: its limit is the disk's
/// read-ahead, of which this is the usual setting, or its largest request if that is more.
const READ_AHEAD_BYTES: u64 = 128 << 10;

/// `cachestat(2)`: Linux 6.5, the same number on every architecture but Alpha.
const SYS_CACHESTAT: libc::c_long = 451;

/// How many of the first `length` bytes are in the page cache, or on their way into it; `None` if the
/// kernel does not tell. Reads nothing.
fn in_page_cache(file: &File, length: u64) -> Option<u64> {
    // `struct cachestat_range` (offset and length) and `struct cachestat` (the cached pages, and four
    // counts that nobody needs) of `linux/mman.h`.
    let range = [0_u64, length];
    let mut stat = [0_u64; 5];
    #[expect(unsafe_code, reason = "no crate offers this call")]
    // SAFETY: the descriptor is open, and both pointers are to live values laid out as the kernel's.
    let done = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0)
    };
    let bytes = stat[0].saturating_mul(rustix::param::page_size() as u64);
    (done == 0).then_some(bytes.min(length))
}

/// The real file system below one directory.
#[derive(Debug)]
pub(crate) struct RealDisk {
    root: OwnedFd,
    keep_pages: bool,
    dontcache: AtomicBool,
    /// The kernel can open what it has in memory (Linux 5.12) and the files are ours.
    opens_cached: AtomicBool,
}

impl RealDisk {
    pub(crate) fn new(root: OwnedFd, keep_pages: bool) -> Self {
        let (dontcache, opens_cached) = (AtomicBool::new(!keep_pages), AtomicBool::new(true));
        Self { root, keep_pages, dontcache, opens_cached }
    }

    fn make(&self, path: &str, if_there: OFlags) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | if_there;
        Ok(rustix::fs::openat(&self.root, path, flags, Mode::from_raw_mode(0o600))?.into())
    }

    /// Runs a transfer with `DONTCACHE` if wanted and supported, else plain.
    fn transfer(
        &self,
        mut call: impl FnMut(ReadWriteFlags) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        if self.dontcache.load(Ordering::Relaxed) {
            match call(DONTCACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                    self.dontcache.store(false, Ordering::Relaxed);
                }
                done => return done,
            }
        }
        call(ReadWriteFlags::empty())
    }

    /// True if pages must be given back by hand: not wanted, and the kernel lacks `DONTCACHE`.
    fn gives_back(&self) -> bool {
        !self.keep_pages && !self.dontcache.load(Ordering::Relaxed)
    }
}

impl Disk for RealDisk {
    fn create(&self, path: &str) -> io::Result<File> {
        self.make(path, OFlags::TRUNC)
    }

    fn create_new(&self, path: &str) -> io::Result<File> {
        self.make(path, OFlags::EXCL)
    }

    fn open(&self, path: &str, write: bool) -> io::Result<File> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let flags = access | OFlags::CLOEXEC | OFlags::NOATIME;
        match rustix::fs::openat(&self.root, path, flags, Mode::empty()) {
            // NOATIME is the owner's privilege; a directory handed over between users lacks it.
            Err(Errno::PERM) => {
                let flags = access | OFlags::CLOEXEC;
                Ok(rustix::fs::openat(&self.root, path, flags, Mode::empty())?.into())
            }
            opened => Ok(opened?.into()),
        }
    }

    fn open_hot(&self, path: &str) -> Option<File> {
        if !self.opens_cached.load(Ordering::Relaxed) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME;
        match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::CACHED) {
            Ok(file) => Some(file.into()),
            Err(Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                self.opens_cached.store(false, Ordering::Relaxed);
                None
            }
            // AGAIN: a name or an inode is not in memory.
            Err(_) => None,
        }
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let rest = &bytes[done..];
            match self
                .transfer(|flags| rustix::io::pwritev2(file, &[IoSlice::new(rest)], at, flags))
            {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.gives_back() {
            // Only clean pages can be dropped, so the writing back is waited for first.
            rustix::fs::fdatasync(file)?;
            let length = std::num::NonZeroU64::new(bytes.len() as u64);
            let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = &mut buffer[done..];
            match self.transfer(|flags| {
                rustix::io::preadv2(file, &mut [IoSliceMut::new(rest)], at, flags)
            }) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.gives_back() {
            let length = std::num::NonZeroU64::new(buffer.len() as u64);
            let _ = rustix::fs::fadvise(file, offset, length, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }

    fn read_hot(&self, file: &File, buffer: &mut [u8], offset: u64) -> bool {
        let length = buffer.len();
        let read = rustix::io::preadv2(
            file,
            &mut [IoSliceMut::new(buffer)],
            offset,
            ReadWriteFlags::NOWAIT,
        );
        read == Ok(length)
    }

    fn missing(&self, file: &File, length: u64) -> Option<u64> {
        if let Some(cached) = in_page_cache(file, length) {
            return Some(length - cached);
        }
        // An older kernel, or one told to refuse the call. What is asked for may come in by that.
        let last = length.checked_sub(1)?;
        let is_hot = [0, last].iter().all(|at| self.read_hot(file, &mut [0], *at));
        Some(if is_hot { 0 } else { length })
    }

    fn read_ahead(&self, file: &File, length: u64) -> io::Result<()> {
        let mut at = 0;
        while at < length {
            let part = std::num::NonZeroU64::new(READ_AHEAD_BYTES.min(length - at));
            rustix::fs::fadvise(file, at, part, rustix::fs::Advice::WillNeed)?;
            at += READ_AHEAD_BYTES;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn extent(&self, file: &File) -> io::Result<Extent> {
        let meta = file.metadata()?;
        Ok(Extent { size: meta.len(), disk_bytes: meta.blocks() * 512 })
    }

    fn disk_bytes(&self, path: &str) -> u64 {
        rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }
}
