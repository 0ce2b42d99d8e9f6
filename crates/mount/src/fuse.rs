//! FUSE on the `fuser` crate: each request is translated, passed to the handler, and its answer
//! translated back. No logic. With rings (`uring`), only INIT, FORGET and INTERRUPT come this way.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request as FuseRequest, TimeOrNow,
    WriteFlags,
};

use crate::attr::{Attr, FileKind};
use crate::backing::Backing;
use crate::config::CapacityProvider;
use crate::errno::Errno;
use crate::handler::{Found, Handler};
use crate::mode::Grant;
use crate::opening::OpenReply;
use crate::readdir::Batch;
use crate::stats::{Request, add};

/// The largest READ: 256 pages, the kernel's usual ceiling.
pub(crate) const READ_MAX_BYTES: u32 = 1 << 20;

/// Inode numbers are not used again for another identity, so one generation is enough.
const GENERATION: Generation = Generation(0);

/// The unit of `statfs`.
pub(crate) const STATFS_BLOCK: u64 = 4096;

/// What the mount asks of the kernel at INIT, and what the kernel is able to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InitOptions {
    pub(crate) passthrough: bool,
    pub(crate) no_opendir: bool,
    pub(crate) max_background: u16,
    pub(crate) ring: bool,
}

/// What the kernel can do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Able {
    pub(crate) passthrough: bool,
    /// It now waits for rings.
    pub(crate) ring: bool,
}

/// The adapter.
#[derive(Debug)]
pub(crate) struct Fuse {
    pub(crate) handler: Arc<Handler<Backing>>,
    pub(crate) options: InitOptions,
    pub(crate) capacity: CapacityProvider,
    /// For backing ids; nothing, if the mount was made without root.
    pub(crate) device: Weak<OwnedFd>,
    /// Set at INIT.
    pub(crate) able: Arc<OnceLock<Able>>,
}

impl Fuse {
    fn count(&self, request: Request) {
        self.handler.counters.count(request);
    }

    /// Runs `serve` so that a panic costs one request and not the request thread: the reply that
    /// is dropped by it answers EIO.
    fn shielded(&self, serve: impl FnOnce()) {
        if std::panic::catch_unwind(AssertUnwindSafe(serve)).is_err() {
            add(&self.handler.counters.errors, 1);
            tracing::error!("a request ended in a panic and was answered with EIO; this is a bug");
        }
    }
}

fn fuse_errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.0)
}

fn fuse_kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::File => FileType::RegularFile,
    }
}

fn fuse_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.modified,
        mtime: attr.modified,
        ctime: attr.modified,
        crtime: attr.modified,
        kind: fuse_kind(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: attr.block_size,
        flags: 0,
    }
}

/// The attributes that go with "no such name, and remember that": inode number 0.
fn absent() -> FileAttr {
    let attr = Attr {
        number: 0,
        kind: FileKind::File,
        size: 0,
        blocks: 0,
        modified: SystemTime::UNIX_EPOCH,
        mode: 0,
        links: 0,
        uid: 0,
        gid: 0,
        block_size: 0,
    };
    fuse_attr(&attr)
}

/// An OPEN that is owed an answer.
struct Open {
    reply: ReplyOpen,
    device: Weak<OwnedFd>,
}

impl OpenReply<Backing> for Open {
    fn register(&self, file: &File) -> io::Result<Backing> {
        Backing::new(&self.device, file)
    }

    fn answer(self, result: Result<Grant<Backing>, Errno>) {
        let reply = self.reply;
        // NOFLUSH: no FLUSH request at close. KEEP_CACHE beside passthrough is EIO.
        let flags = FopenFlags::FOPEN_NOFLUSH;
        match result {
            Ok(Grant::Cached) => {
                reply.opened(FileHandle(0), flags | FopenFlags::FOPEN_KEEP_CACHE);
            }
            Ok(Grant::Passthrough(backing)) => {
                #[expect(unsafe_code, reason = "the library knows only the ids it made")]
                // SAFETY: the id is of this connection and open while `backing` lives; what wraps
                // it is taken apart below, without closing it.
                let wrapped = unsafe { reply.wrap_backing(backing.id()) };
                reply.opened_passthrough(FileHandle(0), flags, &wrapped);
                let _ = wrapped.into_raw();
            }
            Err(errno) => reply.error(fuse_errno(errno)),
        }
    }
}

impl Batch for ReplyDirectory {
    const PLUS: bool = false;

    fn add(&mut self, number: u64, next: u64, kind: FileKind, name: &str) -> bool {
        !ReplyDirectory::add(self, INodeNo(number), next, fuse_kind(kind), name)
    }

    fn add_plus(&mut self, found: &Found, next: u64, name: &str) -> bool {
        match found {
            Found::Entry { attr, .. } => Batch::add(self, attr.number, next, attr.kind, name),
            Found::Absent { .. } => true,
        }
    }

    fn finish(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

impl Batch for ReplyDirectoryPlus {
    const PLUS: bool = true;

    fn add(&mut self, _number: u64, _next: u64, _kind: FileKind, _name: &str) -> bool {
        true
    }

    fn add_plus(&mut self, found: &Found, next: u64, name: &str) -> bool {
        let Found::Entry { attr, attr_ttl, entry_ttl } = found else { return true };
        // One time for both; the entry's is the shorter one for an object.
        let ttl = attr_ttl.min(entry_ttl);
        let attr = fuse_attr(attr);
        !ReplyDirectoryPlus::add(self, attr.ino, next, name, ttl, &attr, GENERATION)
    }

    fn finish(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(errno) => self.error(fuse_errno(errno)),
        }
    }
}

/// Requests that would change something.
macro_rules! read_only {
    ($($name:ident($($argument:ty),*) -> $reply:ty;)*) => {
        $(fn $name(&self, _: &FuseRequest, $(_: $argument,)* reply: $reply) {
            self.count(Request::Other);
            reply.error(fuse_errno(Errno::ROFS));
        })*
    };
}

impl Filesystem for Fuse {
    fn init(&mut self, _req: &FuseRequest, config: &mut KernelConfig) -> io::Result<()> {
        let able = config.capabilities();
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_PARALLEL_DIROPS
            // Every batch with attributes, not READDIRPLUS_AUTO: that gives them to the first batch
            // only if names are listed before the first `stat`, and the rest is a LOOKUP each.
            | InitFlags::FUSE_DO_READDIRPLUS
            // The kernel compares a directory's time of change before it uses entries it kept.
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO;
        if self.options.no_opendir {
            wanted |= InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        }
        let passthrough = able.contains(InitFlags::FUSE_PASSTHROUGH);
        let ring = self.options.ring && able.contains(InitFlags::FUSE_OVER_IO_URING);
        if ring {
            wanted |= InitFlags::FUSE_OVER_IO_URING;
        }
        let _ = self.able.set(Able { passthrough, ring });
        if self.options.passthrough && passthrough {
            wanted |= InitFlags::FUSE_PASSTHROUGH;
            let _ = config.set_max_stack_depth(1);
        }
        let _ = config.add_capabilities(wanted & able);
        let _ = config.set_max_background(self.options.max_background);
        let _ = config.set_congestion_threshold(self.options.max_background / 4 * 3);
        // Also bounds READ: fuser derives `max_pages` from it.
        let _ = config.set_max_write(READ_MAX_BYTES);
        Ok(())
    }

    fn lookup(&self, _req: &FuseRequest, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count(Request::Lookup);
        let answer = move |found| match found {
            Ok(Found::Entry { attr, attr_ttl, entry_ttl }) => {
                reply.entry_with_ttls(&attr_ttl, &entry_ttl, &fuse_attr(&attr), GENERATION);
            }
            Ok(Found::Absent { ttl }) if ttl > Duration::ZERO => {
                reply.entry(&ttl, &absent(), GENERATION);
            }
            Ok(Found::Absent { .. }) => reply.error(fuse_errno(Errno::NOENT)),
            Err(errno) => reply.error(fuse_errno(errno)),
        };
        self.shielded(|| self.handler.lookup(parent.0, name.as_bytes(), answer));
    }

    fn forget(&self, _req: &FuseRequest, ino: INodeNo, nlookup: u64) {
        self.count(Request::Forget);
        self.shielded(|| self.handler.forget(ino.0, nlookup));
    }

    fn getattr(&self, _: &FuseRequest, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.count(Request::Getattr);
        let answer = move |result| match result {
            Ok((attr, ttl)) => reply.attr(&ttl, &fuse_attr(&attr)),
            Err(errno) => reply.error(fuse_errno(errno)),
        };
        self.shielded(|| self.handler.getattr(ino.0, answer));
    }

    fn readlink(&self, _req: &FuseRequest, _ino: INodeNo, reply: ReplyData) {
        self.count(Request::Other);
        reply.error(fuse_errno(Errno::INVAL));
    }

    fn open(&self, req: &FuseRequest, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Request::Open);
        if !self.handler.is_passthrough() {
            // Once for the whole mount: the kernel then opens alone and keeps the pages.
            return reply.error(fuse_errno(Errno::NOSYS));
        }
        let open = Open { reply, device: Weak::clone(&self.device) };
        self.shielded(|| self.handler.open(ino.0, req.pid(), open));
    }

    fn read(
        &self,
        req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Request::Read);
        let answer = move |result: Result<&[u8], Errno>| match result {
            Ok(bytes) => reply.data(bytes),
            Err(errno) => reply.error(fuse_errno(errno)),
        };
        self.shielded(|| self.handler.read(ino.0, req.pid(), offset, size, answer));
    }

    fn release(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Nobody waits for this answer. Counted when done: who sees the count may evict at once.
        self.shielded(|| self.handler.release(ino.0));
        self.count(Request::Release);
        reply.ok();
    }

    fn flush(&self, _: &FuseRequest, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.count(Request::Other);
        reply.error(fuse_errno(Errno::NOSYS));
    }

    fn fsync(&self, _: &FuseRequest, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.count(Request::Other);
        reply.ok();
    }

    fn fsyncdir(&self, _: &FuseRequest, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.count(Request::Other);
        reply.ok();
    }

    fn opendir(&self, _req: &FuseRequest, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.count(Request::Opendir);
        if self.options.no_opendir {
            reply.error(fuse_errno(Errno::NOSYS));
        } else {
            reply.opened(FileHandle(0), FopenFlags::empty());
        }
    }

    fn readdir(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.count(Request::Readdir);
        self.shielded(|| self.handler.readdir(ino.0, offset, reply));
    }

    fn readdirplus(
        &self,
        _req: &FuseRequest,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.count(Request::Readdirplus);
        self.shielded(|| self.handler.readdir(ino.0, offset, reply));
    }

    fn statfs(&self, _req: &FuseRequest, _ino: INodeNo, reply: ReplyStatfs) {
        self.count(Request::Statfs);
        self.shielded(|| {
            let capacity = self.capacity.now();
            let blocks = capacity.bytes_total.div_ceil(STATFS_BLOCK);
            let free = capacity.bytes_free / STATFS_BLOCK;
            let block = STATFS_BLOCK as u32;
            reply.statfs(blocks, free, free, capacity.files, 0, block, 255, block);
        });
    }

    fn getxattr(&self, _: &FuseRequest, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        self.count(Request::Xattr);
        reply.error(fuse_errno(Errno::NOSYS));
    }

    fn listxattr(&self, _: &FuseRequest, _: INodeNo, _: u32, reply: ReplyXattr) {
        self.count(Request::Xattr);
        reply.error(fuse_errno(Errno::NOSYS));
    }

    fn access(&self, _: &FuseRequest, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        self.count(Request::Other);
        reply.error(fuse_errno(Errno::NOSYS));
    }

    fn ioctl(
        &self,
        _: &FuseRequest,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        self.count(Request::Ioctl);
        reply.error(fuse_errno(Errno::NOTTY));
    }

    fn lseek(&self, _: &FuseRequest, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        self.count(Request::Other);
        reply.error(fuse_errno(Errno::NOSYS));
    }

    fn setattr(
        &self,
        _: &FuseRequest,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.count(Request::Other);
        reply.error(fuse_errno(Errno::ROFS));
    }

    read_only! {
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry;
        unlink(INodeNo, &OsStr) -> ReplyEmpty;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate;
        write(INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>)
            -> ReplyWrite;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty;
    }
}
