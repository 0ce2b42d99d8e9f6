//! A large object that fills in pages: a sparse file and what is in it.
//!
//! Invariants: a page is present only after its bytes are in the file; the file is published, by
//! rename, when no page is missing and none is unverified, with the checksum combined from those of
//! the pages. One bad page of a file that a crash left is one page to fetch, never the whole object.

use std::sync::atomic::{AtomicU64, Ordering};

use feedline_model::page::{page_count, page_range};
use parking_lot::Mutex;

/// The next serial: of the process, so that nobody has to hand it round.
static SERIAL: AtomicU64 = AtomicU64::new(1);

/// One page of a partial object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    Missing,
    Present(u32),
    /// Recorded before an unclean stop: to be compared with its checksum before it is served.
    Unverified(u32),
}

#[derive(Debug)]
struct State {
    pages: Vec<Page>,
    missing: u64,
    /// The file is gone: whoever is still writing must not account for it.
    doomed: bool,
}

/// What is known of a partial object.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) size: u64,
    pub(crate) dir: u8,
    /// Tells it from an earlier one of the same object, whose file was another; never 0.
    pub(crate) serial: u64,
    state: Mutex<State>,
}

/// What adding a page led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// The object was dropped meanwhile.
    Doomed,
    /// Pages are missing, or to be verified.
    Partly,
    /// That was the last one: checksum of the whole.
    Whole(u32),
}

impl Partial {
    pub(crate) fn new(size: u64, dir: u8) -> Self {
        let missing = page_count(size);
        let pages = vec![Page::Missing; usize::try_from(missing).expect("pages fit in memory")];
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        Self { size, dir, serial, state: Mutex::new(State { pages, missing, doomed: false }) }
    }

    /// `Some(None)`: present; `Some(Some(crc))`: present if it verifies; `None`: missing.
    pub(crate) fn present(&self, page: u64) -> Option<Option<u32>> {
        let state = self.state.lock();
        match state.pages.get(usize::try_from(page).ok()?)? {
            Page::Missing => None,
            Page::Present(_) => Some(None),
            Page::Unverified(crc) => Some(Some(*crc)),
        }
    }

    /// The checksum of a page that is here.
    pub(crate) fn crc(&self, page: u64) -> Option<u32> {
        match self.state.lock().pages.get(usize::try_from(page).ok()?)? {
            Page::Missing => None,
            Page::Present(crc) | Page::Unverified(crc) => Some(*crc),
        }
    }

    pub(crate) fn has(&self, page: u64) -> bool {
        self.present(page).is_some()
    }

    /// Adds a page. `account` runs under the lock unless the object is doomed.
    pub(crate) fn add(&self, page: u64, crc: u32, account: impl FnOnce()) -> Added {
        let mut state = self.state.lock();
        if state.doomed {
            return Added::Doomed;
        }
        state.put(page, Page::Present(crc));
        account();
        state.whole_crc(self.size).map_or(Added::Partly, Added::Whole)
    }

    /// Restores a page from the log.
    pub(crate) fn restore(&self, page: u32, crc: u32, verified: bool) {
        let kind = if verified { Page::Present(crc) } else { Page::Unverified(crc) };
        self.state.lock().put(u64::from(page), kind);
    }

    /// A page has been compared with its checksum. `Some`: it was the last one that had to be, and
    /// none is missing; the checksum of the whole.
    pub(crate) fn verified(&self, page: u64) -> Option<u32> {
        let mut state = self.state.lock();
        let slot = state.pages.get_mut(usize::try_from(page).ok()?)?;
        let Page::Unverified(crc) = *slot else { return None };
        *slot = Page::Present(crc);
        if state.doomed { None } else { state.whole_crc(self.size) }
    }

    /// A page is not as it should be: it counts as missing again, unless it was written anew since
    /// it was looked at, when [`present`](Self::present) said `looked`. False: it was.
    pub(crate) fn lose(&self, page: u64, looked: Option<u32>) -> bool {
        let mut state = self.state.lock();
        let now = usize::try_from(page).ok().and_then(|page| state.pages.get(page).copied());
        let same = match now {
            Some(Page::Unverified(crc)) => looked == Some(crc),
            Some(Page::Present(_)) => looked.is_none(),
            Some(Page::Missing) | None => false,
        };
        if same {
            state.put(page, Page::Missing);
        }
        same
    }

    /// The file goes away. False if it was going already.
    pub(crate) fn doom(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().doomed, true)
    }

    /// The pages that are here with their checksums, and whether any is unverified.
    pub(crate) fn pages(&self) -> Vec<(u32, u32)> {
        let state = self.state.lock();
        let numbered = (0_u32..).zip(&state.pages);
        let present = numbered.filter_map(|(number, page)| match page {
            Page::Missing => None,
            Page::Present(crc) | Page::Unverified(crc) => Some((number, *crc)),
        });
        present.collect()
    }

    pub(crate) fn is_unverified(&self) -> bool {
        self.state.lock().pages.iter().any(|page| matches!(page, Page::Unverified(_)))
    }

    /// Bytes of content that are here.
    pub(crate) fn present_bytes(&self) -> u64 {
        let lengths = self.pages().into_iter().map(|(page, _)| {
            let range = page_range(u64::from(page), self.size);
            range.end - range.start
        });
        lengths.sum()
    }
}

impl State {
    fn put(&mut self, page: u64, kind: Page) {
        let number = usize::try_from(page).unwrap_or(usize::MAX);
        if let Some(slot) = self.pages.get_mut(number) {
            let before = std::mem::replace(slot, kind);
            self.missing += u64::from(kind == Page::Missing && before != Page::Missing);
            self.missing -= u64::from(kind != Page::Missing && before == Page::Missing);
        }
    }

    /// The checksum of the whole, once every page is present and none is to be verified. Costs a
    /// walk over the pages, but only when none is missing.
    fn whole_crc(&self, size: u64) -> Option<u32> {
        if self.missing > 0 {
            return None;
        }
        (0..).zip(&self.pages).try_fold(0, |whole, (number, page)| {
            let Page::Present(crc) = page else { return None };
            let range = page_range(number, size);
            let length = usize::try_from(range.end - range.start).expect("a page");
            Some(crc32c::crc32c_combine(whole, *crc, length))
        })
    }
}
