//! A large object that fills in pages: a sparse file and what is in it.
//!
//! Invariants: a page is present only after its bytes are in the file; the file is published, by
//! rename, when no page is missing, with the checksum combined from those of the pages.

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
    /// Pages are missing.
    Partly,
    /// That was the last one: checksum of the whole, and whether some page is unverified.
    Whole { crc: u32, unverified: bool },
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
        if state.missing > 0 {
            return Added::Partly;
        }
        let mut whole = 0;
        let mut unverified = false;
        for (number, page) in state.pages.iter().enumerate() {
            let range = page_range(number as u64, self.size);
            let length = usize::try_from(range.end - range.start).expect("a page");
            let crc = match page {
                Page::Present(crc) => *crc,
                Page::Unverified(crc) => {
                    unverified = true;
                    *crc
                }
                Page::Missing => continue,
            };
            whole = crc32c::crc32c_combine(whole, crc, length);
        }
        Added::Whole { crc: whole, unverified }
    }

    /// Restores a page from the log.
    pub(crate) fn restore(&self, page: u32, crc: u32, verified: bool) {
        let kind = if verified { Page::Present(crc) } else { Page::Unverified(crc) };
        self.state.lock().put(u64::from(page), kind);
    }

    /// A page has been compared with its checksum.
    pub(crate) fn verified(&self, page: u64) {
        let mut state = self.state.lock();
        if let Some(page) = state.pages.get_mut(usize::try_from(page).unwrap_or(usize::MAX))
            && let Page::Unverified(crc) = *page
        {
            *page = Page::Present(crc);
        }
    }

    /// A page is not as it should be: it counts as missing again.
    pub(crate) fn lose(&self, page: u64) {
        self.state.lock().put(page, Page::Missing);
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
}
