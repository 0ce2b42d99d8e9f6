//! What we tell the kernel unasked: drop these pages, drop this name.
//!
//! A notice waits for locks that a request of ours may hold, so it is sent from a thread of its
//! own: never from a request thread, never under a lock.
//!
//! Closed files are only noted down, and the thread looks at them now and then: woken for each, it
//! costs a switch between threads a file, and mostly finds that it came too early.
//!
//! # Invariants
//!
//! - The queue is bounded and nobody waits for it: a notice that finds it full is dropped, and so is a
//!   closed file. That costs memory (pages kept twice) or time (a name lives until its TTL), never a
//!   wrong byte.
//! - As long as a closed file is noted down, the thread looks again by itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::Clock;
use feedline_model::clock::Sleep;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Notices that may wait. A burst is at most the files closed while the thread drops the pages of
/// one, and each costs 24 bytes or a name.
pub(crate) const QUEUE_MAX: usize = 16_384;

/// How long after a file was closed it is asked whether its object is complete, and the unit of how
/// long after that it is asked again. A small object is published within milliseconds of its last read.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// For so many times [`LOOK_AFTER`] it is asked again, each time after twice as long. What is not
/// complete then is not kept, or a large object that fills slowly, whose pages go when it is next opened.
const LOOKS: u32 = 32;

/// Something to tell the kernel.
#[derive(Debug)]
pub(crate) enum Notice {
    /// There are [`Closed`] files where there were none.
    Closed,
    /// The entry `name` of the directory with this inode number is outdated.
    DropName {
        /// The directory.
        directory: u64,
        /// The entry.
        name: Box<str>,
    },
    /// The kernel remembers more inodes than it should.
    Shrink,
}

/// Inodes whose last handle of a file served by us is closed: once the object is complete on disk, the
/// kernel's own copy of its pages is the second one in memory, and goes.
#[derive(Debug, Default)]
pub(crate) struct Closed(Mutex<Vec<u64>>);

impl Closed {
    /// Notes an inode down. True: a [`Notice::Closed`] is due.
    pub(crate) fn add(&self, inode: u64) -> bool {
        let mut inodes = self.0.lock();
        let is_first = inodes.is_empty();
        if inodes.len() < QUEUE_MAX {
            inodes.push(inode);
        }
        is_first
    }

    /// All that were noted down since the last time.
    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// What to do with the pages of a closed file now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// The object is complete and nobody has it open: drop them.
    Drop,
    /// The object is not complete yet: ask again.
    NotYet,
    /// Opened again, or forgotten: nothing to do.
    Keep,
}

/// Who decides and who tells the kernel.
pub(crate) trait Recipient {
    /// See [`Closed::take`].
    fn closed(&self) -> Vec<u64>;
    /// Asked right before the pages of an inode are dropped.
    fn pages_of(&self, inode: u64) -> Pages;
    /// Tells the kernel to drop an inode's pages.
    fn drop_pages(&self, inode: u64);
    /// Tells the kernel to drop a name.
    fn drop_name(&self, directory: u64, name: &str);
    /// Part `part` of the names that the kernel is to drop because it remembers too much. `None`: that
    /// was the last part.
    fn surplus(&self, part: usize) -> Option<Vec<(u64, Box<str>)>>;
}

/// Works through the queue until every sender is gone.
pub(crate) async fn run(
    mut queue: mpsc::Receiver<Notice>,
    recipient: impl Recipient,
    clock: Arc<dyn Clock>,
) {
    let mut waiting: VecDeque<(u64, u32)> = VecDeque::new();
    // When closed files are looked at next; `None`: there are none.
    let mut look: Option<Sleep> = None;
    // The next part of the surplus, while the kernel is made to shrink.
    let mut shrinking: Option<usize> = None;
    loop {
        let next = if let Some(part) = shrinking {
            // Turn about with other notices, some of which a reader's memory waits for.
            shrinking = shrink(&recipient, part);
            match queue.try_recv() {
                Ok(notice) => Some(notice),
                Err(mpsc::error::TryRecvError::Empty) => continue,
                Err(mpsc::error::TryRecvError::Disconnected) => None,
            }
        } else if let Some(due) = &mut look {
            tokio::select! {
                // First, or a stream of other notices would keep the pages.
                biased;
                () = due => {
                    look_again(&mut waiting, &recipient);
                    let found = recipient.closed();
                    let is_over = found.is_empty() && waiting.is_empty();
                    look_first(&mut waiting, found, &recipient);
                    look = (!is_over).then(|| clock.sleep(LOOK_AFTER));
                    continue;
                }
                next = queue.recv() => next,
            }
        } else {
            queue.recv().await
        };
        match next {
            None => return,
            Some(Notice::Shrink) => shrinking = shrinking.or(Some(0)),
            Some(Notice::DropName { directory, name }) => recipient.drop_name(directory, &name),
            Some(Notice::Closed) => {}
        }
        // After any notice: the one about closed files may have found the queue full.
        look.get_or_insert_with(|| clock.sleep(LOOK_AFTER));
    }
}

/// Has the names of one part dropped. Gives the next part.
fn shrink(recipient: &impl Recipient, part: usize) -> Option<usize> {
    for (directory, name) in recipient.surplus(part)? {
        recipient.drop_name(directory, &name);
    }
    Some(part + 1)
}

/// Looks at files that were closed since the last time.
fn look_first(waiting: &mut VecDeque<(u64, u32)>, found: Vec<u64>, recipient: &impl Recipient) {
    for inode in found {
        look_at(inode, 0, waiting, recipient);
    }
}

/// Looks at those that were too early whose time has come: after 1, 2, 4, .. looks.
fn look_again(waiting: &mut VecDeque<(u64, u32)>, recipient: &impl Recipient) {
    for _ in 0..waiting.len() {
        let Some((inode, look)) = waiting.pop_front() else { return };
        if look.is_power_of_two() {
            look_at(inode, look, waiting, recipient);
        } else {
            waiting.push_back((inode, look + 1));
        }
    }
}

/// Looks at one after so many looks; it waits for the next one if it is too early.
fn look_at(inode: u64, look: u32, waiting: &mut VecDeque<(u64, u32)>, recipient: &impl Recipient) {
    match recipient.pages_of(inode) {
        Pages::Drop => recipient.drop_pages(inode),
        Pages::NotYet if look < LOOKS && waiting.len() < QUEUE_MAX => {
            waiting.push_back((inode, look + 1));
        }
        Pages::NotYet | Pages::Keep => {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Says the same of every inode.
    struct Says {
        pages: Cell<Pages>,
        looks: Cell<u32>,
        dropped: RefCell<Vec<u64>>,
    }

    impl Says {
        fn new(pages: Pages) -> Self {
            Self { pages: Cell::new(pages), looks: Cell::default(), dropped: RefCell::default() }
        }
    }

    impl Recipient for Says {
        fn closed(&self) -> Vec<u64> {
            Vec::new()
        }
        fn pages_of(&self, _: u64) -> Pages {
            self.looks.set(self.looks.get() + 1);
            self.pages.get()
        }
        fn drop_pages(&self, inode: u64) {
            self.dropped.borrow_mut().push(inode);
        }
        fn drop_name(&self, _: u64, _: &str) {}
        fn surplus(&self, _: usize) -> Option<Vec<(u64, Box<str>)>> {
            None
        }
    }

    #[test]
    fn one_notice_is_due_for_all_files_closed_since_the_last_look() {
        let closed = Closed::default();
        assert!(closed.add(1) && !closed.add(2));
        assert_eq!(closed.take(), [1, 2]);
        assert!(closed.add(3), "nobody would look at it");
        for inode in 0..2 * QUEUE_MAX as u64 {
            closed.add(inode);
        }
        assert_eq!(closed.take().len(), QUEUE_MAX);
    }

    #[test]
    fn what_is_never_complete_is_looked_at_seldom_and_then_given_up() {
        let (mut waiting, says) = (VecDeque::new(), Says::new(Pages::NotYet));
        look_first(&mut waiting, vec![7], &says);
        let mut rounds = 0;
        while !waiting.is_empty() {
            look_again(&mut waiting, &says);
            rounds += 1;
        }
        assert_eq!((rounds, says.looks.get()), (LOOKS, 7), "after 0, 1, 2, 4, 8, 16 and 32");
        assert!(says.dropped.borrow().is_empty());
    }

    #[test]
    fn what_is_complete_at_last_is_dropped() {
        let (mut waiting, says) = (VecDeque::new(), Says::new(Pages::NotYet));
        look_first(&mut waiting, vec![7, 8], &says);
        says.pages.set(Pages::Drop);
        look_again(&mut waiting, &says);
        assert_eq!((&*says.dropped.borrow(), waiting.len()), (&vec![7, 8], 0));
    }
}
