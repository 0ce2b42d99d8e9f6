//! What we tell the kernel unasked: drop these pages, drop this name.
//!
//! A notice waits for locks that a request of ours may hold, so it is sent from a thread of its
//! own: never from a request thread, never under a lock.
//!
//! # Invariants
//!
//! - The queue is bounded and nobody waits for it: a notice that finds it full is dropped. That
//!   costs memory (pages kept twice) or time (a name lives until its TTL), never a wrong byte.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::Clock;
use tokio::sync::mpsc;

/// Notices that may wait. A burst is at most the files closed while the thread drops the pages of
/// one, and each costs 24 bytes or a name.
pub(crate) const QUEUE_MAX: usize = 16_384;

/// How long to wait before asking again whether an object is complete. A small object is published
/// within milliseconds of its last read; what is not complete after [`TRIES`] is a large object
/// that fills slowly, whose pages go when it is next opened.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How often to ask.
const TRIES: u32 = 30;

/// Something to tell the kernel.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The last handle of a file served by us is closed: once the object is complete on disk, the
    /// kernel's own copy of its pages is the second one in memory, and goes.
    DropPages(u64),
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

/// What to do with a [`Notice::DropPages`] now.
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
        } else if waiting.is_empty() {
            queue.recv().await
        } else {
            tokio::select! {
                next = queue.recv() => next,
                () = clock.sleep(RETRY_AFTER) => {
                    retry(&mut waiting, &recipient);
                    continue;
                }
            }
        };
        match next {
            None => return,
            Some(Notice::Shrink) => shrinking = shrinking.or(Some(0)),
            Some(Notice::DropName { directory, name }) => recipient.drop_name(directory, &name),
            Some(Notice::DropPages(inode)) => match recipient.pages_of(inode) {
                Pages::Drop => recipient.drop_pages(inode),
                Pages::NotYet if waiting.len() < QUEUE_MAX => waiting.push_back((inode, TRIES)),
                Pages::NotYet | Pages::Keep => {}
            },
        }
    }
}

/// Has the names of one part dropped. Gives the next part.
fn shrink(recipient: &impl Recipient, part: usize) -> Option<usize> {
    for (directory, name) in recipient.surplus(part)? {
        recipient.drop_name(directory, &name);
    }
    Some(part + 1)
}

fn retry(waiting: &mut VecDeque<(u64, u32)>, recipient: &impl Recipient) {
    for _ in 0..waiting.len() {
        let Some((inode, tries)) = waiting.pop_front() else { return };
        match recipient.pages_of(inode) {
            Pages::Drop => recipient.drop_pages(inode),
            Pages::NotYet if tries > 1 => waiting.push_back((inode, tries - 1)),
            Pages::NotYet | Pages::Keep => {}
        }
    }
}
