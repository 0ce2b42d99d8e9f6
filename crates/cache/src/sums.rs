//! The checksums of the pages of complete large objects: a record has room for that of the whole only.
//!
//! They are those that were taken when each page was fetched. Invariant: what is here of an id is right for any
//! copy of it, as an id is of one version; so nothing has to be forgotten in time, only in the end. Memory: 4
//! bytes a page and about 70 an object of more than one page.

use std::collections::HashMap;

use feedline_model::ObjectId;
use feedline_model::page::page_count;

/// By object, from the first page on.
#[derive(Debug, Default)]
pub(crate) struct Sums(HashMap<ObjectId, Vec<u32>>);

impl Sums {
    /// Those of all pages, in order; of an object that is not complete nothing is kept.
    pub(crate) fn put(&mut self, id: ObjectId, size: u64, pages: &[(u32, u32)]) {
        if pages.len() as u64 == page_count(size) {
            self.0.insert(id, pages.iter().map(|(_, crc)| *crc).collect());
        }
    }

    /// The next page as the log has it; one that is known already stays as it is.
    pub(crate) fn restore(&mut self, id: ObjectId, page: u32, crc: u32) {
        let pages = self.0.entry(id).or_default();
        if pages.len() == page as usize {
            pages.push(crc);
        }
    }

    pub(crate) fn page(&self, id: &ObjectId, page: u64) -> Option<u32> {
        self.0.get(id)?.get(usize::try_from(page).ok()?).copied()
    }

    /// As [`Partial::pages`](crate::partial::Partial::pages).
    pub(crate) fn pages(&self, id: &ObjectId) -> Vec<(u32, u32)> {
        (0..).zip(self.0.get(id).into_iter().flatten().copied()).collect()
    }

    pub(crate) fn forget(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Takes what another directory knows.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Pages of all objects. Cost: a walk over these.
    pub(crate) fn pages_total(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}
