//! The layout of requests and answers, as the kernel's `fuse.h` fixes it. Plain bytes, no pointers.
//!
//! Only what comes over a ring to a read-only file system that keeps no handles. Numbers are in the
//! machine's own byte order.
//!
//! ```text
//!  head, 288 bytes:   0  request: length, opcode, unique, inode, user, group, process
//!                        answer:  length, error, unique
//!                   128  first argument of the request, in its own layout
//!                   256  flags, commit id, length of the payload
//!  payload:         the other arguments (a name), or the answer
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::attr::{Attr, FileKind};

/// Bytes of the head of a ring entry.
pub(super) const HEAD_BYTES: usize = 288;
const ARGUMENT_AT: usize = 128;
const COMMIT_ID_AT: usize = 264;
const PAYLOAD_LEN_AT: usize = 272;

/// `struct fuse_out_header`, counted in an answer's length.
const ANSWER_BYTES: u32 = 16;

/// Registers a ring entry.
pub(super) const COMMAND_REGISTER: u32 = 1;
/// Commits the answer in a ring entry, and lends the entry to the kernel for the next request.
pub(super) const COMMAND_COMMIT_AND_FETCH: u32 = 2;

/// Keep the pages of earlier opens.
pub(super) const OPEN_KEEP_CACHE: u32 = 1 << 1;
/// Send no FLUSH at close.
pub(super) const OPEN_NO_FLUSH: u32 = 1 << 5;
/// The kernel reads the backing file.
pub(super) const OPEN_PASSTHROUGH: u32 = 1 << 7;

/// Opcodes.
pub(super) mod op {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
}

/// The head of a ring entry.
pub(super) type Head = [u8; HEAD_BYTES];

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(number)
}

/// What every request says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    /// The inode.
    pub(super) number: u64,
    /// The thread that asks.
    pub(super) process: u32,
    /// Names the answer when it is committed.
    pub(super) commit_id: u64,
    pub(super) payload_len: usize,
}

impl Request {
    /// Reads a head that the kernel filled.
    pub(super) fn of(head: &Head) -> Self {
        Self {
            opcode: u32_at(head, 4),
            unique: u64_at(head, 8),
            number: u64_at(head, 16),
            process: u32_at(head, 32),
            commit_id: u64_at(head, COMMIT_ID_AT),
            payload_len: u32_at(head, PAYLOAD_LEN_AT) as usize,
        }
    }
}

/// The offset and size of a READ, READDIR or READDIRPLUS.
pub(super) fn read_range(head: &Head) -> (u64, u32) {
    (u64_at(head, ARGUMENT_AT + 8), u32_at(head, ARGUMENT_AT + 16))
}

/// Writes the head of an answer: an errno or 0, and how much of the payload is used.
pub(super) fn answer(head: &mut Head, unique: u64, errno: i32, payload_len: usize) {
    let len = payload_len as u32;
    head[..4].copy_from_slice(&(ANSWER_BYTES + len).to_ne_bytes());
    head[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    head[8..16].copy_from_slice(&unique.to_ne_bytes());
    head[PAYLOAD_LEN_AT..PAYLOAD_LEN_AT + 4].copy_from_slice(&len.to_ne_bytes());
}

/// The command's own part of a submission: flags, commit id, queue.
pub(super) fn command(commit_id: u64, queue: u16) -> [u8; 80] {
    let mut command = [0; 80];
    command[8..16].copy_from_slice(&commit_id.to_ne_bytes());
    command[16..18].copy_from_slice(&queue.to_ne_bytes());
    command
}

/// Writes numbers and bytes one after the other. What does not fit is a bug and panics.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Starts at the beginning of `into`.
    pub(super) fn new(into: &'a mut [u8]) -> Self {
        Self { into, at: 0 }
    }

    /// Goes on at `at`.
    pub(super) fn resume(into: &'a mut [u8], at: usize) -> Self {
        Self { into, at }
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> usize {
        self.at
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn u32s(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.bytes(&number.to_ne_bytes());
        }
    }

    fn u64s(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.bytes(&number.to_ne_bytes());
        }
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let (seconds, nanos) = time(attr.modified);
        self.u64s(&[attr.number, attr.size, attr.blocks, seconds, seconds, seconds]);
        self.u32s(&[nanos, nanos, nanos, mode(attr), attr.links, attr.uid, attr.gid, 0]);
        self.u32s(&[attr.block_size, 0]);
    }

    /// `struct fuse_attr_out`.
    pub(super) fn attr_out(&mut self, attr: &Attr, ttl: Duration) {
        self.u64s(&[ttl.as_secs()]);
        self.u32s(&[ttl.subsec_nanos(), 0]);
        self.attr(attr);
    }

    /// `struct fuse_entry_out`. Inode numbers are not used again, so one generation is enough.
    pub(super) fn entry_out(&mut self, attr: &Attr, attr_ttl: Duration, entry_ttl: Duration) {
        self.u64s(&[attr.number, 0, entry_ttl.as_secs(), attr_ttl.as_secs()]);
        self.u32s(&[entry_ttl.subsec_nanos(), attr_ttl.subsec_nanos()]);
        self.attr(attr);
    }

    /// `struct fuse_entry_out` of a name that does not exist, and will not for `ttl`.
    pub(super) fn absent(&mut self, ttl: Duration) {
        self.u64s(&[0, 0, ttl.as_secs(), 0]);
        self.u32s(&[ttl.subsec_nanos(), 0]);
        self.bytes(&[0; 88]);
    }

    /// `struct fuse_open_out`, without a handle of ours.
    pub(super) fn open_out(&mut self, flags: u32, backing: u32) {
        self.u64s(&[0]);
        self.u32s(&[flags, backing]);
    }

    /// `struct fuse_kstatfs` in blocks of `block` bytes.
    pub(super) fn statfs_out(&mut self, total: u64, free: u64, files: u64, block: u32) {
        self.u64s(&[total, free, free, files, 0]);
        self.u32s(&[block, 255, block, 0, 0, 0, 0, 0, 0, 0]);
    }

    /// True if `more` bytes fit.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.into.len() - self.at >= more
    }

    /// `struct fuse_dirent`: [`dirent_bytes`] long.
    pub(super) fn dirent(&mut self, number: u64, next: u64, kind: FileKind, name: &str) {
        self.u64s(&[number, next]);
        self.u32s(&[name.len() as u32, type_bits(kind) >> 12]);
        self.bytes(name.as_bytes());
        let padding = self.at.next_multiple_of(8) - self.at;
        self.bytes(&[0; 8][..padding]);
    }
}

/// Bytes of `struct fuse_entry_out`.
pub(super) const ENTRY_BYTES: usize = 128;

/// Bytes of a name in a batch.
pub(super) fn dirent_bytes(name: &str) -> usize {
    (24 + name.len()).next_multiple_of(8)
}

fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Directory => libc::S_IFDIR,
        FileKind::File => libc::S_IFREG,
    }
}

fn mode(attr: &Attr) -> u32 {
    type_bits(attr.kind) | u32::from(attr.mode)
}

/// Seconds (two's complement if before 1970) and nanoseconds.
fn time(time: SystemTime) -> (u64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs(), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let (seconds, nanos) = (before.as_secs() as i64, before.subsec_nanos());
            match nanos {
                0 => (-seconds as u64, 0),
                nanos => ((-seconds - 1) as u64, 1_000_000_000 - nanos),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr() -> Attr {
        Attr {
            number: 7,
            kind: FileKind::File,
            size: 110_000,
            blocks: 216,
            modified: UNIX_EPOCH + Duration::new(5, 9),
            mode: 0o444,
            links: 1,
            uid: 3,
            gid: 4,
            block_size: 131_072,
        }
    }

    #[test]
    fn every_structure_has_the_kernels_length() {
        let mut buffer = [0; 512];
        let mut length = |write: fn(&mut Writer<'_>)| {
            let mut writer = Writer::new(&mut buffer);
            write(&mut writer);
            writer.written()
        };
        assert_eq!(length(|w| w.attr_out(&attr(), Duration::ZERO)), 104);
        assert_eq!(length(|w| w.entry_out(&attr(), Duration::ZERO, Duration::ZERO)), ENTRY_BYTES);
        assert_eq!(length(|w| w.absent(Duration::ZERO)), ENTRY_BYTES);
        assert_eq!(length(|w| w.open_out(0, 0)), 16);
        assert_eq!(length(|w| w.statfs_out(1, 2, 3, 4096)), 80);
        for name in ["a", "12345678", "123456789"] {
            let mut writer = Writer::new(&mut buffer);
            writer.dirent(1, 2, FileKind::File, name);
            assert_eq!(writer.written(), dirent_bytes(name));
        }
    }

    #[test]
    fn an_entry_says_what_the_kernel_reads() {
        let mut buffer = [0; ENTRY_BYTES];
        Writer::new(&mut buffer).entry_out(&attr(), Duration::new(1, 2), Duration::new(3, 4));
        let number = |at| u64_at(&buffer, at);
        assert_eq!([0, 8, 16, 24].map(number), [7, 0, 3, 1]);
        assert_eq!((u32_at(&buffer, 32), u32_at(&buffer, 36)), (4, 2));
        assert_eq!([40, 48, 56, 64].map(number), [7, 110_000, 216, 5]);
        assert_eq!((u32_at(&buffer, 88), u32_at(&buffer, 100)), (9, 0o100_444));
        assert_eq!([104, 108, 112, 116, 120].map(|at| u32_at(&buffer, at)), [1, 3, 4, 0, 131_072]);
    }

    #[test]
    fn a_time_before_1970_is_a_negative_second_and_a_positive_rest() {
        assert_eq!(time(UNIX_EPOCH - Duration::from_millis(250)), (-1_i64 as u64, 750_000_000));
        assert_eq!(time(UNIX_EPOCH - Duration::from_secs(2)), (-2_i64 as u64, 0));
    }

    #[test]
    fn a_request_is_read_and_its_answer_written_in_place() {
        let mut head = [0; HEAD_BYTES];
        head[4..8].copy_from_slice(&op::READ.to_ne_bytes());
        head[8..16].copy_from_slice(&42_u64.to_ne_bytes());
        head[16..24].copy_from_slice(&7_u64.to_ne_bytes());
        head[32..36].copy_from_slice(&99_u32.to_ne_bytes());
        head[136..144].copy_from_slice(&4096_u64.to_ne_bytes());
        head[144..148].copy_from_slice(&512_u32.to_ne_bytes());
        head[264..272].copy_from_slice(&43_u64.to_ne_bytes());
        let request = Request::of(&head);
        let expected = Request {
            opcode: op::READ,
            unique: 42,
            number: 7,
            process: 99,
            commit_id: 43,
            payload_len: 0,
        };
        assert_eq!(request, expected);
        assert_eq!(read_range(&head), (4096, 512));
        answer(&mut head, 42, libc::EIO, 0);
        assert_eq!((u32_at(&head, 0), u32_at(&head, 4) as i32), (16, -libc::EIO));
        answer(&mut head, 42, 0, 100);
        assert_eq!((u32_at(&head, 0), u32_at(&head, 272)), (116, 100));
    }
}
