//! What waits to be written, and the few writers that write it.
//!
//! A writer takes one page after another and ends when nothing is left, so that under load a file
//! costs no hand-over between threads. Invariants: what is queued is written by a writer that is
//! running or has been asked for; each writer's number is its own while it runs.
//!
//! Deliberately absent: a bound of its own. What is queued holds its share of the byte budget.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::directory::{Dir, WRITERS};
use crate::fill::Landed;

/// Pages waiting for each running writer before another starts: one writer is quicker than two
/// that share two cores with the readers, until a disk makes it wait.
const BACKLOG_PER_WRITER: usize = 4;

/// A page on its way to a directory.
pub(crate) struct Write {
    pub(crate) dir: Arc<Dir>,
    /// Space taken for it.
    pub(crate) reserved: u64,
    pub(crate) landed: Landed,
}

struct State {
    queue: VecDeque<Write>,
    /// Numbers of the writers that do not run.
    idle: Vec<usize>,
}

/// The queue.
pub(crate) struct Writes {
    state: Arc<Mutex<State>>,
}

impl Default for Writes {
    fn default() -> Self {
        let state = State { queue: VecDeque::new(), idle: (0..WRITERS).collect() };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

/// The right to write under a number; given back when dropped, also by a panic.
pub(crate) struct Writer {
    state: Arc<Mutex<State>>,
    number: Option<usize>,
}

impl Writer {
    /// Tells the running writers apart.
    pub(crate) fn number(&self) -> usize {
        self.number.expect("a writer that was told to end does not write")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.state.lock().idle.push(number);
        }
    }
}

impl Writes {
    /// Queues a page. `Some`: the caller starts this writer.
    pub(crate) fn push(&self, write: Write) -> Option<Writer> {
        let mut state = self.state.lock();
        state.queue.push_back(write);
        let running = WRITERS - state.idle.len();
        if running > 0 && state.queue.len() <= running * BACKLOG_PER_WRITER {
            return None;
        }
        let number = state.idle.pop()?;
        Some(Writer { state: self.state.clone(), number: Some(number) })
    }

    /// The next page; `None` ends the writer.
    pub(crate) fn pop(&self, writer: &mut Writer) -> Option<Write> {
        let mut state = self.state.lock();
        let next = state.queue.pop_front();
        if next.is_none()
            && let Some(number) = writer.number.take()
        {
            // Under the same lock: whoever queues from now on starts a writer.
            state.idle.push(number);
        }
        next
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }
}
