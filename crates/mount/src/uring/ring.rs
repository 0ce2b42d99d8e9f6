//! One io_uring that lends slots to the kernel and gets them back with requests in them.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use super::slot::{Lent, Slot};
use super::wire;

/// Submissions that wait to be handed over together. More than a queue thread answers in one turn.
const SUBMISSIONS: u32 = 64;

/// Marks the completion of the poll of the wake-up descriptor.
const WAKE: u64 = u64::MAX;

/// Places in the table of registered files.
const DEVICE: i32 = 0;
const WAKER: types::Fixed = types::Fixed(1);

/// `struct io_uring_sqe`, twice the usual length: the library's own builder leaves out `len`.
#[repr(C)]
struct Submission {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    command: u32,
    padding: u32,
    addr: u64,
    len: u32,
    command_flags: u32,
    user_data: u64,
    rest: [u32; 2],
    argument: [u8; 80],
}

const _: () = assert!(size_of::<Submission>() == size_of::<Entry128>());

/// What came out of the ring.
#[derive(Debug)]
pub(super) enum Event {
    /// A request is in the slot.
    Request(Slot),
    /// The kernel gave the slot back without a request, or would not take it.
    Lost(io::Error),
    /// Someone wrote to the wake-up descriptor.
    Wake,
}

/// A ring and the slots lent through it. Used by the thread that made it.
pub(super) struct Ring {
    ring: IoUring<Entry128, cqueue::Entry>,
    lent: Vec<Option<Lent>>,
    lent_count: usize,
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel cancels what it still has after the ring is closed, at its own time: the
        // memory must stay. Happens only when a queue thread gives up on a live connection.
        for lent in self.lent.iter_mut().filter_map(Option::take) {
            std::mem::forget(lent);
        }
    }
}

fn builder(slots: u32) -> io::Result<IoUring<Entry128, cqueue::Entry>> {
    IoUring::<Entry128, cqueue::Entry>::builder()
        .dontfork()
        .setup_single_issuer()
        // Requests are copied to us only while we wait for them, all that came at once.
        .setup_defer_taskrun()
        // A refused submission must not hold up the ones behind it.
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(slots.next_power_of_two().max(2 * SUBMISSIONS))
        .build(SUBMISSIONS)
}

/// True if this process may have rings at all: seccomp, `kernel.io_uring_disabled`.
pub(super) fn possible() -> io::Result<()> {
    builder(1).map(drop)
}

impl Ring {
    /// A ring for `slots` slots over the FUSE device, that a write to `waker` (an eventfd) wakes.
    pub(super) fn new(
        device: BorrowedFd<'_>,
        waker: BorrowedFd<'_>,
        slots: usize,
    ) -> io::Result<Self> {
        let ring = builder(slots as u32)?;
        ring.submitter().register_files(&[device.as_raw_fd(), waker.as_raw_fd()])?;
        let lent = (0..slots).map(|_| None).collect();
        let mut ring = Self { ring, lent, lent_count: 0 };
        ring.watch_waker()?;
        Ok(ring)
    }

    /// Slots lent to the kernel.
    pub(super) fn lent(&self) -> usize {
        self.lent_count
    }

    /// Registers slots with the queue of a CPU.
    ///
    /// # Errors
    ///
    /// The kernel's, for the call or for a slot. Requests that come meanwhile are put into `events`.
    pub(super) fn register(
        &mut self,
        slots: Vec<Slot>,
        queue: u16,
        events: &mut Vec<Event>,
    ) -> io::Result<()> {
        let parts: Vec<_> = slots.iter().map(Slot::parts).collect();
        for (slot, parts) in slots.into_iter().zip(&parts) {
            let addr = parts.as_ptr() as u64;
            let len = parts.len() as u32;
            self.submit(slot, wire::COMMAND_REGISTER, wire::command(0, queue), addr, len)?;
        }
        // Until here the kernel may read `parts`. What it does not take completes at once.
        self.ring.submit()?;
        let first = events.len();
        self.take(events)?;
        let lost = events.iter().skip(first).position(|event| matches!(event, Event::Lost(_)));
        match lost.map(|at| events.swap_remove(first + at)) {
            Some(Event::Lost(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Commits the answer in `slot` and lends it for the next request. The answer goes out with the
    /// next [`Ring::wait`].
    pub(super) fn commit(&mut self, slot: Slot, commit_id: u64, queue: u16) -> io::Result<()> {
        let command = wire::command(commit_id, queue);
        self.submit(slot, wire::COMMAND_COMMIT_AND_FETCH, command, 0, 0)
    }

    fn submit(
        &mut self,
        slot: Slot,
        command: u32,
        argument: [u8; 80],
        addr: u64,
        len: u32,
    ) -> io::Result<()> {
        let index = slot.index();
        let submission = Submission {
            opcode: opcode::UringCmd80::CODE,
            flags: 1, // IOSQE_FIXED_FILE
            ioprio: 0,
            fd: DEVICE,
            command,
            padding: 0,
            addr,
            len,
            command_flags: 0,
            user_data: index as u64,
            rest: [0; 2],
            argument,
        };
        #[expect(unsafe_code, reason = "the library's builder leaves out `len`")]
        // SAFETY: both are the kernel's `struct io_uring_sqe` with 128 bytes, integers only, so any
        // bits are valid for either.
        let entry = unsafe { std::mem::transmute::<Submission, Entry128>(submission) };
        self.lent[index] = Some(slot.lend());
        self.lent_count += 1;
        self.push(&entry)
    }

    fn push(&mut self, entry: &Entry128) -> io::Result<()> {
        loop {
            #[expect(unsafe_code, reason = "submissions name memory")]
            // SAFETY: the memory a submission names is a lent slot, kept in `lent` until the
            // completion; the descriptors are registered files, which live as long as the ring.
            let pushed = unsafe { self.ring.submission().push(entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn watch_waker(&mut self) -> io::Result<()> {
        // Multishot and edge-triggered: every write completes it again, so the counter of the
        // descriptor need not be read.
        let poll = opcode::PollAdd::new(WAKER, libc::POLLIN as u32).multi(true).build();
        self.push(&poll.user_data(WAKE).into())
    }

    /// Hands over what is to be submitted and waits for at least one event.
    ///
    /// # Errors
    ///
    /// The kernel's. The ring is of no use then.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            // Interrupted, or completions must be taken first.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(error),
        }
        self.take(events)
    }

    fn take(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let mut watched = true;
        for completion in self.ring.completion() {
            let (tag, result) = (completion.user_data(), completion.result());
            if tag == WAKE {
                watched &= cqueue::more(completion.flags());
                events.push(Event::Wake);
                continue;
            }
            let Some(lent) = self.lent.get_mut(tag as usize).and_then(Option::take) else {
                continue;
            };
            self.lent_count -= 1;
            #[expect(unsafe_code, reason = "memory shared with the kernel")]
            // SAFETY: this is the completion of the command with which the slot was lent.
            let slot = unsafe { lent.take_back() };
            events.push(match result {
                0 => Event::Request(slot),
                error => Event::Lost(io::Error::from_raw_os_error(-error)),
            });
        }
        if watched { Ok(()) } else { self.watch_waker() }
    }
}
