//! One queue thread: takes requests out of its ring, has them served, and commits the answers.
//!
//! An answer may be given by any thread at any time. It is put into a list, and the queue thread,
//! which alone may submit, is woken unless it gave the answer itself.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::event::EventfdFlags;

use super::ring::{Event, Ring};
use super::slot::{PAYLOAD_BYTES, Slot};
use super::wire::{self, Request};
use crate::errno::Errno;

/// Payloads that stay resident in a thread's idle slots, together. The kernel lends the slot used last
/// first, so these serve most large answers without new pages.
const RESIDENT_BYTES: usize = 8 * PAYLOAD_BYTES;

thread_local! {
    /// The address of the `Answers` that this thread works for.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
}

/// An answer on its way to the kernel.
#[derive(Debug)]
struct Answer {
    slot: Slot,
    queue: u16,
    commit_id: u64,
}

/// Where answers wait for the queue thread. Never more than the thread has slots.
#[derive(Debug)]
pub(super) struct Answers {
    ready: Mutex<Vec<Answer>>,
    waker: OwnedFd,
    end: AtomicBool,
    stop: AtomicBool,
}

impl Answers {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        let waker = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (end, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { ready: Mutex::default(), waker, end, stop })
    }

    fn push(&self, answer: Answer) {
        let mut ready = self.ready.lock();
        ready.push(answer);
        let first = ready.len() == 1;
        drop(ready);
        // The thread itself looks here before it waits; whoever was first has woken it.
        if first && WORKS_FOR.get() != std::ptr::from_ref(self).addr() {
            self.wake();
        }
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
    }

    /// Tells the thread that the connection has ended: it ends when the kernel has nothing of it.
    pub(super) fn end(&self) {
        self.end.store(true, Ordering::Release);
        self.wake();
    }

    /// Tells the thread to end at once. What the kernel still has is never freed.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }
}

/// The one answer that a request is owed. Dropped without one, it answers EIO.
#[derive(Debug)]
pub(super) struct Reply {
    slot: Option<Slot>,
    request: Request,
    queue: u16,
    answers: Arc<Answers>,
}

impl Reply {
    fn new(slot: Slot, queue: u16, answers: &Arc<Answers>) -> Self {
        let request = Request::of(slot.head());
        Self { slot: Some(slot), request, queue, answers: Arc::clone(answers) }
    }

    /// What is asked.
    pub(super) fn request(&self) -> Request {
        self.request
    }

    /// The offset and size of a READ, READDIR or READDIRPLUS.
    pub(super) fn read_range(&self) -> (u64, u32) {
        self.slot.as_ref().map_or((0, 0), |slot| wire::read_range(slot.head()))
    }

    /// The name a LOOKUP asks for.
    pub(super) fn name(&self) -> &[u8] {
        let payload = self.slot.as_ref().map_or(&[][..], |s| s.payload(self.request.payload_len));
        payload.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Room for an answer of at most `len` bytes. Overwrites what the request brought.
    pub(super) fn payload(&mut self, len: usize) -> &mut [u8] {
        self.slot.as_mut().map_or(&mut [], |slot| slot.payload_mut(len))
    }

    /// Answers with the first `len` bytes of the payload.
    pub(super) fn ok(mut self, len: usize) {
        self.send(0, len);
    }

    /// Answers with `bytes`.
    pub(super) fn bytes(mut self, bytes: &[u8]) {
        let payload = self.payload(bytes.len());
        payload.copy_from_slice(bytes);
        self.send(0, bytes.len());
    }

    /// Answers with an error.
    pub(super) fn error(mut self, errno: Errno) {
        self.send(errno.0, 0);
    }

    fn send(&mut self, errno: i32, len: usize) {
        let Some(mut slot) = self.slot.take() else { return };
        wire::answer(slot.head_mut(), self.request.unique, errno, len);
        self.answers.push(Answer { slot, queue: self.queue, commit_id: self.request.commit_id });
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(libc::EIO, 0);
    }
}

/// A queue thread's own state.
pub(super) struct Queue {
    ring: Ring,
    answers: Arc<Answers>,
    /// The queue (CPU) of each slot.
    queues: Vec<u16>,
    /// Slots that still come and go.
    live: usize,
    /// Payload bytes that lent slots keep resident.
    resident: usize,
    events: Vec<Event>,
}

impl Queue {
    /// Makes the ring and registers `entries` slots for each of `queues`. Called by the thread that
    /// then runs it.
    pub(super) fn start(
        device: &OwnedFd,
        answers: Arc<Answers>,
        entries: &[(u16, usize)],
    ) -> io::Result<Self> {
        let queues: Vec<u16> =
            entries.iter().flat_map(|(queue, count)| std::iter::repeat_n(*queue, *count)).collect();
        let mut slots = super::slot::slots(queues.len())?;
        let mut events = Vec::new();
        let mut ring = Ring::new(device.as_fd(), answers.waker.as_fd(), queues.len())?;
        for (queue, count) in entries.iter().rev() {
            ring.register(slots.split_off(slots.len() - count), *queue, &mut events)?;
        }
        WORKS_FOR.set(Arc::as_ptr(&answers).addr());
        let live = queues.len();
        Ok(Self { ring, answers, queues, live, resident: 0, events })
    }

    /// Serves until the connection ends or is said to have.
    ///
    /// # Errors
    ///
    /// If the ring failed, or the kernel gave entries up on a connection that goes on.
    pub(super) fn run(&mut self, serve: impl Fn(Reply)) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            // Registering may have brought requests already, so these come before the first wait.
            let mut events = std::mem::take(&mut self.events);
            for event in events.drain(..) {
                match event {
                    Event::Wake => {}
                    Event::Lost(error) => self.lost(error)?,
                    Event::Request(slot) => serve(self.reply(slot)),
                }
            }
            self.events = events;
            std::mem::swap(&mut *self.answers.ready.lock(), &mut ready);
            for answer in ready.drain(..) {
                self.resident += answer.slot.filled();
                self.ring.commit(answer.slot, answer.commit_id, answer.queue)?;
            }
            let ended = self.answers.end.load(Ordering::Acquire) && self.ring.lent() == 0;
            if self.live == 0 || ended || self.answers.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            self.ring.wait(&mut self.events)?;
        }
    }

    fn reply(&mut self, mut slot: Slot) -> Reply {
        self.resident -= slot.filled().min(self.resident);
        if self.resident > RESIDENT_BYTES {
            slot.shrink();
        }
        let queue = self.queues[slot.index()];
        Reply::new(slot, queue, &self.answers)
    }

    fn lost(&mut self, error: io::Error) -> io::Result<()> {
        self.live -= 1;
        match error.raw_os_error() {
            // How a connection ends: entries that wait, commits that come late, and a commit whose
            // request the kernel has just ended.
            Some(libc::ENOTCONN | libc::ECONNABORTED | libc::ENODEV | libc::ENOENT) => Ok(()),
            _ => Err(error),
        }
    }
}
