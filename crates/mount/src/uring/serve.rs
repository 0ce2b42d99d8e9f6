//! Each request of a ring is translated, passed to the handler, and its answer translated back, as
//! `fuse.rs` does for the FUSE library. No logic.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::queue::Reply;
use super::wire::{self, Writer, op};
use crate::attr::FileKind;
use crate::backing::Backing;
use crate::config::CapacityProvider;
use crate::errno::Errno;
use crate::fuse::STATFS_BLOCK;
use crate::handler::{Found, Handler};
use crate::mode::Grant;
use crate::opening::OpenReply;
use crate::readdir::Batch;
use crate::stats::{Request, add};

/// More than any answer that is no data: an entry with attributes.
const SMALL_BYTES: usize = 256;

/// What requests are served with.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) handler: Arc<Handler<Backing>>,
    pub(crate) capacity: CapacityProvider,
    pub(crate) device: Weak<OwnedFd>,
    pub(crate) no_opendir: bool,
}

/// Answers with what `write` writes.
fn small(mut reply: Reply, write: impl FnOnce(&mut Writer<'_>)) {
    let mut writer = Writer::new(reply.payload(SMALL_BYTES));
    write(&mut writer);
    let len = writer.written();
    reply.ok(len);
}

impl Service {
    /// Serves one request. A panic costs that request: its answer is EIO.
    pub(super) fn serve(&self, reply: Reply) {
        let served = std::panic::catch_unwind(AssertUnwindSafe(|| self.dispatch(reply)));
        if served.is_err() {
            add(&self.handler.counters.errors, 1);
            tracing::error!("a request ended in a panic and was answered with EIO; this is a bug");
        }
    }

    fn dispatch(&self, reply: Reply) {
        let request = reply.request();
        let kind = kind_of(request.opcode);
        add(&self.handler.counters.ring_requests, 1);
        // A RELEASE is counted when done: who sees the count may evict at once.
        if kind != Request::Release {
            self.handler.counters.count(kind);
        }
        match request.opcode {
            op::LOOKUP => self.lookup(reply),
            op::GETATTR => self.getattr(reply),
            op::OPEN if self.handler.is_passthrough() => {
                let open = Open { reply, device: self.device.clone() };
                self.handler.open(request.number, request.process, open);
            }
            op::READ => self.read(reply),
            op::READDIR => self.readdir::<false>(reply),
            op::READDIRPLUS => self.readdir::<true>(reply),
            op::STATFS => self.statfs(reply),
            op::RELEASE => {
                self.handler.release(request.number);
                self.handler.counters.count(kind);
                reply.ok(0);
            }
            op::OPENDIR if !self.no_opendir => small(reply, |out| out.open_out(0, 0)),
            op::RELEASEDIR | op::FSYNC | op::FSYNCDIR | op::DESTROY => reply.ok(0),
            op::READLINK => reply.error(Errno::INVAL),
            op::IOCTL => reply.error(Errno::NOTTY),
            op::SETATTR | op::SYMLINK | op::MKNOD | op::MKDIR | op::UNLINK | op::RMDIR => {
                reply.error(Errno::ROFS);
            }
            op::RENAME | op::RENAME2 | op::LINK | op::WRITE | op::CREATE | op::FALLOCATE => {
                reply.error(Errno::ROFS);
            }
            op::SETXATTR | op::REMOVEXATTR => reply.error(Errno::ROFS),
            // For OPEN (without passthrough) and OPENDIR this decides for the whole mount: the
            // kernel does without. So it does with FLUSH, ACCESS, xattrs and what is new to us.
            _ => reply.error(Errno::NOSYS),
        }
    }

    fn lookup(&self, reply: Reply) {
        let name: Box<[u8]> = reply.name().into();
        self.handler.lookup(reply.request().number, &name, move |found| match found {
            Ok(Found::Entry { attr, attr_ttl, entry_ttl }) => {
                small(reply, |out| out.entry_out(&attr, attr_ttl, entry_ttl));
            }
            Ok(Found::Absent { ttl }) if ttl > Duration::ZERO => {
                small(reply, |out| out.absent(ttl));
            }
            Ok(Found::Absent { .. }) => reply.error(Errno::NOENT),
            Err(errno) => reply.error(errno),
        });
    }

    fn getattr(&self, reply: Reply) {
        self.handler.getattr(reply.request().number, move |result| match result {
            Ok((attr, ttl)) => small(reply, |out| out.attr_out(&attr, ttl)),
            Err(errno) => reply.error(errno),
        });
    }

    fn read(&self, reply: Reply) {
        let (request, (offset, size)) = (reply.request(), reply.read_range());
        let answer = move |result: Result<&[u8], Errno>| match result {
            Ok(bytes) => reply.bytes(bytes),
            Err(errno) => reply.error(errno),
        };
        self.handler.read(request.number, request.process, offset, size, answer);
    }

    fn readdir<const PLUS: bool>(&self, reply: Reply) {
        let (offset, size) = reply.read_range();
        let number = reply.request().number;
        let batch = Entries::<PLUS> { reply, used: 0, max: size as usize };
        self.handler.readdir(number, offset, batch);
    }

    fn statfs(&self, reply: Reply) {
        let capacity = self.capacity.now();
        let total = capacity.bytes_total.div_ceil(STATFS_BLOCK);
        let free = capacity.bytes_free / STATFS_BLOCK;
        small(reply, |out| out.statfs_out(total, free, capacity.files, STATFS_BLOCK as u32));
    }
}

/// What a request counts as.
fn kind_of(opcode: u32) -> Request {
    match opcode {
        op::LOOKUP => Request::Lookup,
        op::GETATTR => Request::Getattr,
        op::OPEN => Request::Open,
        op::READ => Request::Read,
        op::STATFS => Request::Statfs,
        op::RELEASE => Request::Release,
        op::GETXATTR | op::LISTXATTR => Request::Xattr,
        op::OPENDIR => Request::Opendir,
        op::READDIR => Request::Readdir,
        op::READDIRPLUS => Request::Readdirplus,
        op::IOCTL => Request::Ioctl,
        _ => Request::Other,
    }
}

/// An OPEN that is owed an answer.
struct Open {
    reply: Reply,
    device: Weak<OwnedFd>,
}

impl OpenReply<Backing> for Open {
    fn register(&self, file: &File) -> io::Result<Backing> {
        Backing::new(&self.device, file)
    }

    fn answer(self, result: Result<Grant<Backing>, Errno>) {
        // KEEP_CACHE beside passthrough is EIO.
        match result {
            Ok(Grant::Cached) => small(self.reply, |out| {
                out.open_out(wire::OPEN_KEEP_CACHE | wire::OPEN_NO_FLUSH, 0);
            }),
            Ok(Grant::Passthrough(backing)) => small(self.reply, |out| {
                out.open_out(wire::OPEN_PASSTHROUGH | wire::OPEN_NO_FLUSH, backing.id());
            }),
            Err(errno) => self.reply.error(errno),
        }
    }
}

/// A batch of names, with attributes if `PLUS`.
struct Entries<const PLUS: bool> {
    reply: Reply,
    used: usize,
    max: usize,
}

impl<const PLUS: bool> Entries<PLUS> {
    /// Writes an entry of `len` bytes, if there is room.
    fn put(&mut self, len: usize, write: impl FnOnce(&mut Writer<'_>)) -> bool {
        let mut writer = Writer::resume(self.reply.payload(self.max), self.used);
        if !writer.has_room(len) {
            return false;
        }
        write(&mut writer);
        self.used = writer.written();
        true
    }
}

impl<const PLUS: bool> Batch for Entries<PLUS> {
    const PLUS: bool = PLUS;

    fn add(&mut self, number: u64, next: u64, kind: FileKind, name: &str) -> bool {
        self.put(wire::dirent_bytes(name), |out| out.dirent(number, next, kind, name))
    }

    fn add_plus(&mut self, found: &Found, next: u64, name: &str) -> bool {
        let Found::Entry { attr, attr_ttl, entry_ttl } = found else { return true };
        self.put(wire::ENTRY_BYTES + wire::dirent_bytes(name), |out| {
            out.entry_out(attr, *attr_ttl, *entry_ttl);
            out.dirent(attr.number, next, attr.kind, name);
        })
    }

    fn finish(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.reply.ok(self.used),
            Err(errno) => self.reply.error(errno),
        }
    }
}
