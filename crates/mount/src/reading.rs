//! READ: bytes for a handle that we serve (and for read-ahead hints on any handle).
//!
//! An object that is complete here is read in the request thread, from memory or from disk: handing
//! it to another thread costs a tenth of the CPU of the read. One request thread at least never
//! waits for a disk, so that a slow or sick one holds up nothing else; what finds no turn is read in
//! a blocking thread. The thread of a ring hands every such READ on: it serves all requests of its CPU.
//! Anything else is asked of the read chain, in a task: a request thread never
//! waits for the store.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use feedline_model::page::PAGE_BYTES;
use feedline_model::{Object, Priority, ReadError};
use rustix::io::ReadWriteFlags;

use crate::errno::Errno;
use crate::handler::Handler;
use crate::inode::{Identity, Inode, Kind};
use crate::notice::Notice;
use crate::stats::add;

/// `RWF_DONTCACHE` (Linux 6.14): the kernel keeps the answer's pages for the inode, so the file's
/// own need not stay.
const DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

thread_local! {
    /// The request thread's buffer; grows to the largest READ (1 MiB).
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Request threads that may wait for a disk at once.
#[derive(Debug)]
pub(crate) struct DiskTurns {
    waiting: AtomicUsize,
    max: usize,
}

/// Leave for one request thread to wait for a disk, while it lives.
#[derive(Debug)]
pub(crate) struct DiskTurn<'a>(&'a DiskTurns);

impl DiskTurns {
    /// All of `threads` but one.
    pub(crate) fn new(threads: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), max: threads.saturating_sub(1) }
    }

    /// A turn, or `None` if all are taken.
    pub(crate) fn take(&self) -> Option<DiskTurn<'_>> {
        let one_more = |waiting| (waiting < self.max).then_some(waiting + 1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.waiting.fetch_update(set, fetch, one_more).ok().map(|_| DiskTurn(self))
    }
}

impl Drop for DiskTurn<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<B: Send + Sync + 'static> Handler<B> {
    /// Reads up to `size` bytes at `offset` for `process`; fewer only at the end of the object.
    pub(crate) fn read(
        self: &Arc<Self>,
        number: u64,
        process: u32,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let inode = match self.inode(number) {
            Ok(inode) => inode,
            Err(errno) => return reply(Err(errno)),
        };
        let Kind::File { object, .. } = &inode.kind else { return reply(Err(Errno::ISDIR)) };
        let length = object.version.size;
        let range = offset.min(length)..offset.saturating_add(u64::from(size)).min(length);
        if range.is_empty() {
            return reply(Ok(&[]));
        }
        add(&self.counters.read_bytes, range.end - range.start);
        inode.has_pages.store(true, Ordering::Relaxed);
        let here = self.has_local_file(&inode);
        if offset == 0 && !self.is_passthrough() {
            // Opens do not reach us: the read from the start stands for one.
            self.report(process, &inode.kind, here);
        }
        if !here {
            return self.read_chain(inode, range, reply);
        }
        if self.is_over_ring() {
            let handler = Arc::clone(self);
            self.parts.runtime.spawn_blocking(move || match handler.local_file(&inode) {
                Some(file) => handler.read_waiting(inode, &file, range, reply),
                None => handler.read_chain(inode, range, reply),
            });
            return;
        }
        match self.local_file(&inode) {
            Some(file) => self.read_local(inode, file, range, reply),
            None => self.read_chain(inode, range, reply),
        }
    }

    /// True if the object is complete here, and small enough to be opened for each READ.
    fn has_local_file(&self, inode: &Inode<B>) -> bool {
        let Kind::File { object, id, .. } = &inode.kind else { return false };
        object.version.size <= PAGE_BYTES && self.parts.index.contains(id)
    }

    /// The complete file.
    fn local_file(&self, inode: &Inode<B>) -> Option<Arc<File>> {
        let Kind::File { object, .. } = &inode.kind else { return None };
        self.parts.index.open(object).map(|cached| cached.file)
    }

    fn read_local(
        self: &Arc<Self>,
        inode: Arc<Inode<B>>,
        file: Arc<File>,
        range: Range<u64>,
        reply: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let reply = BUFFER.with_borrow_mut(|buffer| {
            let size = (range.end - range.start) as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let buffer = &mut buffer[..size];
            // Pages are in memory or the call returns at once.
            let mut slices = [IoSliceMut::new(buffer)];
            let read = rustix::io::preadv2(&file, &mut slices, range.start, ReadWriteFlags::NOWAIT);
            let read = read == Ok(size)
                || self
                    .disk_turns
                    .take()
                    .is_some_and(|_turn| read_full(&file, buffer, range.start).is_ok());
            if read {
                add(&self.counters.read_bytes_local, size as u64);
                reply(Ok(buffer));
                return None;
            }
            Some(reply)
        });
        let Some(reply) = reply else { return };
        let handler = Arc::clone(self);
        self.parts.runtime.spawn_blocking(move || {
            handler.read_waiting(inode, &file, range, reply);
        });
    }

    /// Reads in this thread, which may wait for the disk.
    fn read_waiting(
        self: &Arc<Self>,
        inode: Arc<Inode<B>>,
        file: &File,
        range: Range<u64>,
        reply: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let mut buffer = vec![0; (range.end - range.start) as usize];
        match read_full(file, &mut buffer, range.start) {
            Ok(()) => {
                add(&self.counters.read_bytes_local, buffer.len() as u64);
                reply(Ok(&buffer));
            }
            // A sick disk is a miss; the chain knows where else to look.
            Err(_) => self.read_chain(inode, range, reply),
        }
    }

    fn read_chain(
        self: &Arc<Self>,
        inode: Arc<Inode<B>>,
        range: Range<u64>,
        reply: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let handler = Arc::clone(self);
        self.parts.runtime.spawn(async move {
            let Kind::File { object, parent, .. } = &inode.kind else {
                return reply(Err(Errno::ISDIR));
            };
            let read = handler.parts.blocks.read(object, range, Priority::Demand);
            match handler.while_mounted(read).await {
                Ok(Ok(bytes)) => reply(Ok(&bytes)),
                Ok(Err(error)) => {
                    handler.learn(&error, object, parent);
                    reply(Err(handler.errno(&error)));
                }
                Err(errno) => reply(Err(errno)),
            }
        });
    }

    /// An object that is not what the listing says makes the listing outdated.
    fn learn(&self, error: &ReadError, object: &Object, parent: &Arc<str>) {
        match error {
            ReadError::Changed { .. } | ReadError::NotFound { .. } => {}
            ReadError::Forbidden { .. }
            | ReadError::Unavailable { .. }
            | ReadError::Rejected { .. } => return,
        }
        self.parts.tree.expire(parent);
        let Some(directory) = self.inodes.find(&Identity::Directory(parent)) else { return };
        let name = object.key.rsplit('/').next().unwrap_or(&object.key).into();
        self.notify(Notice::DropName { directory: directory.number, name });
    }
}

/// Fills `buffer` from `offset`, without leaving pages behind where the kernel can do that.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    let mut flags = DONTCACHE;
    while done < buffer.len() {
        let mut slices = [IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(file, &mut slices, offset + done as u64, flags) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) if !flags.is_empty() => {
                flags = ReadWriteFlags::empty();
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_thread_never_waits_for_a_disk() {
        let turns = DiskTurns::new(3);
        let first = turns.take().expect("two may wait");
        let second = turns.take().expect("two may wait");
        assert!(turns.take().is_none(), "the third takes other requests");
        drop(first);
        let _third = turns.take().expect("one is back");
        drop(second);
        assert!(DiskTurns::new(1).take().is_none());
    }
}
