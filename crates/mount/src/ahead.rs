//! The next batch of a directory, made while the reader digests the last one.
//!
//! A walk takes turns: the kernel makes an inode and a dentry of each entry of a batch (2.5 us each),
//! then waits while the daemon makes its own of the next batch (0.7 us each), and one of two cores is
//! always idle. So the thread that answered a batch goes on and makes the inodes of the next entries,
//! and the request for them finds them made.
//!
//! # Invariants
//!
//! - Each inode in a slot has one lookup that the slot owns. It becomes the kernel's when the entry is
//!   answered, and is taken back when the slot is given up; so a slot never makes an inode vanish under
//!   the kernel, nor keeps one for longer than the slot lives.
//! - At most [`SLOTS_MAX`] slots of [`ENTRIES_MAX`] entries; the oldest goes first.
//! - At most one thread makes entries ahead, so that another is free to take requests, and it stops
//!   within [`CHUNK`] entries when the reader asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use feedline_model::Directory;
use parking_lot::Mutex;

use crate::attr::Attr;

/// Entries in the first answer to a reader: few, so that it begins to digest them while the next ones
/// are made, and enough that the round trip (20 us) is small beside them.
pub(crate) const FIRST: usize = 64;

/// Entries made ahead, at most: a little more than the 800 that the kernel takes with one request (128
/// KiB, which is what the C library asks for given our block size).
const ENTRIES_MAX: usize = 1_024;

/// Directories for which entries are kept: as many as there are readers worth it on a small machine.
const SLOTS_MAX: usize = 4;

/// Entries made between two looks at whether the reader is there.
const CHUNK: usize = 32;

/// The attributes of an entry's inode, if that was made: an object's. What is said of a directory is
/// found out when it is said.
pub(crate) type Made = Option<Attr>;

#[derive(Debug)]
struct Slot {
    ticket: u64,
    directory: u64,
    listing: Arc<Directory>,
    /// The entry of the listing that the first one made is.
    first: usize,
    made: Vec<Made>,
}

/// The entries made ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    slots: Mutex<(VecDeque<Slot>, u64)>,
    busy: AtomicBool,
}

/// Who may make entries ahead: one at a time.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Ahead {
    /// The turn to make entries ahead, unless someone has it.
    pub(crate) fn turn(&self) -> Option<Turn<'_>> {
        (!self.busy.swap(true, Ordering::Acquire)).then(|| Turn(&self.busy))
    }

    /// Takes what was made of a directory's listing from entry `first` on.
    pub(crate) fn take(
        &self,
        directory: u64,
        listing: &Arc<Directory>,
        first: usize,
    ) -> Option<Vec<Made>> {
        let mut slots = self.slots.lock();
        let at = slots.0.iter().position(|slot| {
            slot.directory == directory
                && slot.first == first
                && Arc::ptr_eq(&slot.listing, listing)
        })?;
        slots.0.remove(at).map(|slot| slot.made)
    }

    /// Makes entries from `first` on with `make`, after those `made` already, until there are enough,
    /// the listing ends, or the reader takes them. Returns what must be taken back.
    pub(crate) fn fill(
        &self,
        _turn: Turn<'_>,
        directory: u64,
        listing: &Arc<Directory>,
        first: usize,
        made: Vec<Made>,
        mut make: impl FnMut(usize) -> Made,
    ) -> Vec<Made> {
        let from = first + made.len();
        let end = (first + ENTRIES_MAX).min(listing.len());
        let (ticket, given_up) = {
            let mut slots = self.slots.lock();
            slots.1 += 1;
            let ticket = slots.1;
            let full = slots.0.len() == SLOTS_MAX;
            let oldest = if full { slots.0.pop_front() } else { None };
            let listing = Arc::clone(listing);
            slots.0.push_back(Slot { ticket, directory, listing, first, made });
            (ticket, oldest.map_or_else(Vec::new, |slot| slot.made))
        };
        let mut chunk = Vec::with_capacity(CHUNK);
        for index in from..end {
            chunk.push(make(index));
            if (chunk.len() == CHUNK || index + 1 == end) && !self.add(ticket, &mut chunk) {
                break;
            }
        }
        // Empty unless the reader came for them.
        chunk.extend(given_up);
        chunk
    }

    /// Moves `chunk` to its slot. False if the slot is gone.
    fn add(&self, ticket: u64, chunk: &mut Vec<Made>) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.0.iter_mut().find(|slot| slot.ticket == ticket) else {
            return false;
        };
        slot.made.append(chunk);
        true
    }

    /// Gives up what was made of a directory that the kernel forgot.
    pub(crate) fn give_up(&self, directory: u64) -> Vec<Made> {
        let mut slots = self.slots.lock();
        let (gone, kept): (VecDeque<_>, _) =
            slots.0.drain(..).partition(|slot| slot.directory == directory);
        slots.0 = kept;
        gone.into_iter().flat_map(|slot| slot.made).collect()
    }
}

#[cfg(test)]
mod tests {
    use feedline_model::DirectoryBuilder;

    use super::*;

    fn listing(len: usize) -> Arc<Directory> {
        let mut builder = DirectoryBuilder::new();
        (0..len).for_each(|index| builder.directory(&format!("{index:06}")));
        Arc::new(builder.build("", None, 0, 0).0)
    }

    fn fill(ahead: &Ahead, directory: u64, listing: &Arc<Directory>, first: usize) -> usize {
        let turn = ahead.turn().expect("nobody has it");
        ahead.fill(turn, directory, listing, first, Vec::new(), |_| None).len()
    }

    #[test]
    fn what_was_made_is_taken_once_and_only_for_its_place_in_its_listing() {
        let ahead = Ahead::default();
        let (listed, other) = (listing(100), listing(100));
        assert_eq!(fill(&ahead, 7, &listed, 60), 0);
        assert!(ahead.take(8, &listed, 60).is_none());
        assert!(ahead.take(7, &other, 60).is_none());
        assert!(ahead.take(7, &listed, 61).is_none());
        assert_eq!(ahead.take(7, &listed, 60).expect("made").len(), 40);
        assert!(ahead.take(7, &listed, 60).is_none());
    }

    #[test]
    fn slots_and_their_entries_are_bounded_and_what_falls_out_is_given_back() {
        let ahead = Ahead::default();
        let listed = listing(5_000);
        for directory in 0..SLOTS_MAX as u64 {
            assert_eq!(fill(&ahead, directory, &listed, 0), 0);
        }
        assert_eq!(fill(&ahead, 99, &listed, 0), ENTRIES_MAX, "the oldest falls out");
        assert!(ahead.take(0, &listed, 0).is_none());
        assert_eq!(ahead.give_up(1).len(), ENTRIES_MAX);
        assert!(ahead.take(1, &listed, 0).is_none());
        assert_eq!(ahead.take(2, &listed, 0).expect("kept").len(), ENTRIES_MAX);
    }

    #[test]
    fn a_reader_that_comes_early_takes_what_there_is_and_the_rest_is_given_back() {
        let ahead = Ahead::default();
        let listed = listing(1_000);
        let mut taken = 0;
        let turn = ahead.turn().expect("nobody has it");
        let back = ahead.fill(turn, 1, &listed, 0, Vec::new(), |index| {
            assert!(ahead.turn().is_none(), "one at a time");
            if index == 3 * CHUNK + 5 {
                taken = ahead.take(1, &listed, 0).expect("some are made").len();
            }
            None
        });
        assert_eq!((taken, back.len()), (3 * CHUNK, CHUNK));
        assert!(ahead.turn().is_some());
    }
}
