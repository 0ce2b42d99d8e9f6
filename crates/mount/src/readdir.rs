//! Directories, in batches, straight from the listing.
//!
//! # Offsets
//!
//! There are no directory handles (no-opendir), so an offset says all: which listing (23 bits of
//! when it changed and how long it is) and which entry comes next (40 bits). A reader that comes
//! back after the listing was replaced goes on in the one it began with, which is kept for that:
//! no entry is lost or doubled. The last [`BEGUN_MAX`] listings that were left in the middle are
//! kept per directory, until someone reads them to the end or the kernel forgets the directory. A
//! reader older than that goes on at the same place of the current listing, and may then miss an
//! entry or see one twice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use feedline_model::Directory;

use crate::ahead::{FIRST, Made};
use crate::attr::FileKind;
use crate::errno::Errno;
use crate::handler::{FILE_ATTR_TTL, Found, Handler};
use crate::inode::{Identity, Kind};

/// Listings kept per directory for readers in the middle of them: the current one and two before.
const BEGUN_MAX: usize = 3;

/// Bits of an offset that say which entry: a trillion entries; the sign bit stays 0.
const INDEX_BITS: u32 = 40;

/// `.` and `..` come first.
const DOTS: u64 = 2;

/// Entries made ahead of an answer, and how many entries that may have.
struct Ready {
    made: VecDeque<Made>,
    count_max: usize,
}

/// Takes the entries of a batch.
pub(crate) trait Batch: Send + 'static {
    /// True if entries come with attributes, which counts as a lookup of each.
    const PLUS: bool;

    /// Takes an entry without attributes. False if there is no room for it.
    fn add(&mut self, number: u64, next: u64, kind: FileKind, name: &str) -> bool;

    /// Takes an entry with attributes. False if there is no room for it.
    fn add_plus(&mut self, found: &Found, next: u64, name: &str) -> bool;

    /// Answers the request.
    fn finish(self, result: Result<(), Errno>);
}

/// Which listing an offset belongs to. Equal entries, equal tag.
fn tag(listing: &Directory) -> u64 {
    let mixed =
        (listing.changed_ms ^ ((listing.len() as u64) << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // 23 bits, so that an offset stays positive as the kernel's signed type.
    mixed >> (INDEX_BITS + 1)
}

impl<B: Send + Sync + 'static> Handler<B> {
    /// Fills `batch` with the entries of a directory from `offset` on.
    pub(crate) fn readdir<D: Batch>(self: &Arc<Self>, number: u64, offset: u64, batch: D) {
        let path = match self.directory_path(number) {
            Ok(path) => path,
            Err(errno) => return batch.finish(Err(errno)),
        };
        self.with_listing(&path, move |handler, listing| match listing {
            Err(errno) => batch.finish(Err(errno)),
            Ok(current) => {
                let listing = handler.listing_at(number, offset, current);
                handler.fill(number, &listing, offset, batch);
            }
        });
    }

    /// The listing that a reader at `offset` goes on with.
    fn listing_at(&self, number: u64, offset: u64, current: Arc<Directory>) -> Arc<Directory> {
        let wanted = offset >> INDEX_BITS;
        if offset == 0 || tag(&current) == wanted {
            return current;
        }
        let Ok(inode) = self.inode(number) else { return current };
        let Kind::Directory { begun, .. } = &inode.kind else { return current };
        let kept = begun.lock().iter().find(|old| tag(old) == wanted).cloned();
        kept.unwrap_or(current)
    }

    /// Keeps `listing` while someone is in the middle of it.
    fn keep(&self, number: u64, listing: &Arc<Directory>, in_the_middle: bool) {
        let Ok(inode) = self.inode(number) else { return };
        let Kind::Directory { begun, .. } = &inode.kind else { return };
        let mut begun = begun.lock();
        begun.retain(|kept| tag(kept) != tag(listing));
        if in_the_middle {
            if begun.len() == BEGUN_MAX {
                begun.remove(0);
            }
            begun.push(Arc::clone(listing));
        }
    }

    fn fill<D: Batch>(&self, number: u64, listing: &Arc<Directory>, offset: u64, mut batch: D) {
        let base = tag(listing) << INDEX_BITS;
        let first = offset & ((1 << INDEX_BITS) - 1);
        let ttl = self.fresh(listing);
        let end = listing.len() as u64 + DOTS;
        let mut made = self.made::<D>(number, listing, first);
        let until = first.saturating_add(made.count_max as u64).min(end);
        let mut next = first;
        while next < until {
            let after = base | (next + 1);
            let added = match next.checked_sub(DOTS) {
                None => self.add_dot(number, listing, next, after, &mut batch),
                Some(index) => {
                    let made = made.made.front().copied();
                    self.add_entry(listing, index as usize, made, after, ttl, &mut batch)
                }
            };
            if !added {
                break;
            }
            if DOTS <= next {
                made.made.pop_front();
            }
            next += 1;
        }
        self.keep(number, listing, next < end);
        batch.finish(Ok(()));
        self.make_ahead::<D>(number, listing, next, made);
    }

    /// What was made ahead for a reader at `first`, and how many entries to answer with.
    fn made<D: Batch>(&self, number: u64, listing: &Arc<Directory>, first: u64) -> Ready {
        let index = first.saturating_sub(DOTS) as usize;
        let taken = if D::PLUS { self.ahead.take(number, listing, index) } else { None };
        let count_max = match &taken {
            Some(made) => made.len().max(FIRST),
            None if first == 0 && self.makes_ahead::<D>(listing, FIRST) => FIRST,
            None => usize::MAX,
        };
        Ready { made: taken.unwrap_or_default().into(), count_max }
    }

    /// True if it is worth it to go on beyond `index`, and another thread takes requests meanwhile.
    fn makes_ahead<D: Batch>(&self, listing: &Directory, index: usize) -> bool {
        D::PLUS && self.parts.threads > 1 && index < listing.len()
    }

    /// Makes the entries that the reader will ask for next, after those left over from this answer.
    fn make_ahead<D: Batch>(&self, number: u64, listing: &Arc<Directory>, next: u64, left: Ready) {
        let left = Vec::from(left.made);
        let index = next.saturating_sub(DOTS) as usize;
        let back = match self.ahead.turn() {
            Some(turn) if next >= DOTS && self.makes_ahead::<D>(listing, index) => {
                let make = |index| self.file_entry(listing, index);
                self.ahead.fill(turn, number, listing, index, left, make)
            }
            _ => left,
        };
        self.take_back(back);
    }

    fn add_dot<D: Batch>(
        &self,
        number: u64,
        listing: &Directory,
        index: u64,
        next: u64,
        batch: &mut D,
    ) -> bool {
        let (name, number) = if index == 0 {
            (".", number)
        } else {
            let parent: Arc<str> =
                listing.path.rsplit_once('/').map_or("", |(parent, _)| parent).into();
            ("..", Identity::Directory(&parent).number())
        };
        if !D::PLUS {
            return batch.add(number, next, FileKind::Directory, name);
        }
        // The kernel takes neither a lookup nor attributes from these two.
        let attr = self.parts.owner.directory(number, crate::attr::time_of(listing.changed_ms));
        let (attr_ttl, entry_ttl) = (Duration::ZERO, Duration::ZERO);
        batch.add_plus(&Found::Entry { attr, attr_ttl, entry_ttl }, next, name)
    }

    fn add_entry<D: Batch>(
        &self,
        listing: &Arc<Directory>,
        index: usize,
        made: Option<Made>,
        next: u64,
        ttl: Duration,
        batch: &mut D,
    ) -> bool {
        let name = listing.name(index);
        if D::PLUS {
            if let Some(attr) = made.flatten() {
                let found = Found::Entry { attr, attr_ttl: FILE_ATTR_TTL, entry_ttl: ttl };
                return batch.add_plus(&found, next, name);
            }
            let found = self.entry(listing, index, ttl);
            let added = batch.add_plus(&found, next, name);
            if let (false, Found::Entry { attr, .. }) = (added, found) {
                self.forget(attr.number, 1);
            }
            return added;
        }
        let (number, kind) = match listing.object_ref(index) {
            Some(object) => {
                let (id, parent) = (object.id(), &listing.path);
                (Identity::File { object, id: &id, parent }.number(), FileKind::File)
            }
            None => {
                let path: Arc<str> = listing.child_path(name).into();
                (Identity::Directory(&path).number(), FileKind::Directory)
            }
        };
        batch.add(number, next, kind, name)
    }
}
