//! The listings known, in memory.
//!
//! # Invariants
//!
//! - At most `directories_max` listings; beyond that the least recently used go.
//! - When a newer listing of a directory lacks a directory, everything known below that is gone
//!   too, at once: no path is known that its parent's listing denies.
//! - The lock is held for map operations only, never while listings are compared or awaited.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use feedline_model::{Directory, EntryKind};
use parking_lot::RwLock;

use crate::gather::DirectoryListing;
use crate::kept::{Content, Kept};
use crate::rules::HiddenCounts;
use crate::state::Snapshot;

/// When full, the table gives up this part of its entries at once, so that looking for the least
/// recently used costs little per insertion.
const EVICT_FRACTION: usize = 16;

#[derive(Debug)]
struct Entry {
    path: Arc<str>,
    content: Content,
    hidden: HiddenCounts,
    /// Somebody knows that the listing is wrong.
    expired: AtomicBool,
    /// When it was last used, in uses of the table.
    used: AtomicU64,
    /// Somebody asked for it besides those that go over everything once.
    wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    by_path: BTreeMap<Arc<str>, Entry>,
    entries: u64,
    hidden: [u64; 8],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    inner: RwLock<Inner>,
    uses: AtomicU64,
    directories_max: usize,
    evicted: AtomicU64,
}

/// A listing as known.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) directory: Arc<Directory>,
    pub(crate) expired: bool,
}

/// Sizes, for the statistics.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableStats {
    pub(crate) directories: u64,
    pub(crate) entries: u64,
    pub(crate) hidden: [u64; 8],
    pub(crate) evicted: u64,
}

/// What an insertion did.
#[derive(Debug)]
pub(crate) struct Inserted {
    /// The listing now in the table: the new one, or one that is newer still.
    pub(crate) directory: Arc<Directory>,
    /// Paths that are no longer known, because the new listing denies them.
    pub(crate) removed: Vec<Arc<str>>,
    /// False if the table already had a newer one.
    pub(crate) stored: bool,
}

impl Entry {
    fn is(&self, kept: &Arc<Kept>) -> bool {
        matches!(&self.content, Content::Kept(there) if Arc::ptr_eq(there, kept))
    }
}

impl Inner {
    fn count(&mut self, entry: &Entry, sign: i64) {
        let add = |total: &mut u64, amount: u64| {
            *total = total.wrapping_add_signed(sign * i64::try_from(amount).unwrap_or(i64::MAX));
        };
        add(&mut self.entries, entry.content.count());
        for (total, amount) in self.hidden.iter_mut().zip(entry.hidden) {
            add(total, u64::from(amount));
        }
    }

    fn remove(&mut self, path: &str) -> Option<Arc<str>> {
        let (path, entry) = self.by_path.remove_entry(path)?;
        self.count(&entry, -1);
        Some(path)
    }

    fn insert(&mut self, entry: Entry) {
        let before = self.by_path.get(&entry.path);
        if before.is_some_and(|before| before.wanted.load(Ordering::Relaxed)) {
            entry.wanted.store(true, Ordering::Relaxed);
        }
        self.remove(&Arc::clone(&entry.path));
        self.count(&entry, 1);
        self.by_path.insert(Arc::clone(&entry.path), entry);
    }

    /// Removes `path` and all below it.
    fn remove_subtree(&mut self, path: &str, removed: &mut Vec<Arc<str>>) {
        removed.extend(self.remove(path));
        // Everything below sorts between "path/" and "path0": '0' follows '/'.
        let (from, to) = (format!("{path}/"), format!("{path}0"));
        let bounds = (Bound::Included(from.as_str()), Bound::Excluded(to.as_str()));
        let under: Vec<Arc<str>> =
            self.by_path.range::<str, _>(bounds).map(|(path, _)| Arc::clone(path)).collect();
        removed.extend(under.iter().filter_map(|path| self.remove(path)));
    }
}

/// True if `directory` shows a directory called `name`.
pub(crate) fn has_directory(directory: &Directory, name: &str) -> bool {
    directory
        .find(name)
        .is_some_and(|index| matches!(directory.entry(index).kind, EntryKind::Directory))
}

/// The paths of directories that `old` shows and `new` does not.
fn gone(old: &Directory, new: &Directory) -> Vec<String> {
    old.iter()
        .filter(|entry| entry.kind == EntryKind::Directory && !has_directory(new, entry.name))
        .map(|entry| old.child_path(entry.name))
        .collect()
}

impl Table {
    pub(crate) fn new(directories_max: usize) -> Self {
        let (inner, uses, evicted) = Default::default();
        Self { inner, uses, directories_max, evicted }
    }

    /// Listings kept at most.
    pub(crate) fn directories_max(&self) -> usize {
        self.directories_max
    }

    /// The listing of `path` if it is in memory, of whatever age; counts as a use.
    pub(crate) fn get(&self, path: &str) -> Option<Found> {
        match self.find(path)? {
            (Content::Known(directory), expired) => Some(Found { directory, expired }),
            (Content::Kept(_), _) => None,
        }
    }

    /// The listing of `path`, wherever it is, and whether it is known to be wrong; counts as a use.
    pub(crate) fn find(&self, path: &str) -> Option<(Content, bool)> {
        let inner = self.inner.read();
        let entry = inner.by_path.get(path)?;
        entry.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some((entry.content.clone(), entry.expired.load(Ordering::Relaxed)))
    }

    /// The listing of `path` if it lies on disk, and what it hides.
    pub(crate) fn kept(&self, path: &str) -> Option<(Arc<Kept>, HiddenCounts)> {
        let inner = self.inner.read();
        let entry = inner.by_path.get(path)?;
        match &entry.content {
            Content::Kept(kept) => Some((Arc::clone(kept), entry.hidden)),
            Content::Known(_) => None,
        }
    }

    /// Notes that somebody needs the listing of `path` in memory.
    pub(crate) fn want(&self, path: &str) {
        if let Some(entry) = self.inner.read().by_path.get(path) {
            entry.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// Puts where it lies on disk in the place of a listing in memory, if that is still there and
    /// nobody [wants](Table::want) it.
    pub(crate) fn rest(&self, directory: &Arc<Directory>, kept: Kept) {
        let mut inner = self.inner.write();
        if let Some(entry) = inner.by_path.get_mut(&directory.path)
            && matches!(&entry.content, Content::Known(there) if Arc::ptr_eq(there, directory))
            && !entry.wanted.load(Ordering::Relaxed)
        {
            entry.content = Content::Kept(Arc::new(kept));
        }
    }

    /// Puts `content` in the place of what lies on disk as `kept`, if that is still there.
    pub(crate) fn replace(&self, path: &str, kept: &Arc<Kept>, content: Content) {
        let mut inner = self.inner.write();
        if let Some(entry) = inner.by_path.get_mut(path).filter(|entry| entry.is(kept)) {
            entry.content = content;
        }
    }

    /// Removes what lies on disk as `kept`, if that is still there. True if it was.
    pub(crate) fn remove_kept(&self, path: &str, kept: &Arc<Kept>) -> bool {
        let mut inner = self.inner.write();
        let there = inner.by_path.get(path).is_some_and(|entry| entry.is(kept));
        if there {
            inner.remove(path);
        }
        there
    }

    /// True if there is a listing of `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.inner.read().by_path.contains_key(path)
    }

    /// Marks a listing as known to be wrong.
    pub(crate) fn expire(&self, path: &str) {
        if let Some(entry) = self.inner.read().by_path.get(path) {
            entry.expired.store(true, Ordering::Relaxed);
        }
    }

    /// Puts a listing in, unless a newer one is there. An identical one keeps `changed_ms`.
    pub(crate) fn insert(&self, listing: DirectoryListing) -> Inserted {
        let DirectoryListing { mut directory, hidden, .. } = listing;
        let taken_ms = directory.changed_ms;
        loop {
            let old = self.get(&directory.path).map(|found| found.directory);
            let mut lost = Vec::new();
            if let Some(old) = &old {
                if directory.listed_ms < old.listed_ms {
                    let directory = Arc::clone(old);
                    return Inserted { directory, removed: Vec::new(), stored: false };
                }
                let same = directory.share_entries(old);
                directory.changed_ms = if same { old.changed_ms } else { taken_ms };
                if !same {
                    lost = gone(old, &directory);
                }
            }
            let mut inner = self.inner.write();
            let now_there = inner.by_path.get(&directory.path).map(|entry| &entry.content);
            let unchanged = match (&old, now_there) {
                (None, None | Some(Content::Kept(_))) => true,
                (Some(old), Some(Content::Known(there))) => Arc::ptr_eq(old, there),
                _ => false,
            };
            if !unchanged {
                continue;
            }
            let mut removed = Vec::new();
            for path in lost {
                inner.remove_subtree(&path, &mut removed);
            }
            let directory = Arc::new(directory);
            let used = self.uses.fetch_add(1, Ordering::Relaxed).into();
            let expired = AtomicBool::new(false);
            let (path, content) = (Arc::clone(&directory.path), Content::Known(directory.clone()));
            let wanted = AtomicBool::new(false);
            inner.insert(Entry { path, content, hidden, expired, used, wanted });
            self.evict(&mut inner);
            return Inserted { directory, removed, stored: true };
        }
    }

    /// Puts in what lies on disk.
    pub(crate) fn restore(&self, path: Arc<str>, kept: Arc<Kept>, hidden: HiddenCounts) {
        let used = self.uses.fetch_add(1, Ordering::Relaxed).into();
        let expired = AtomicBool::new(false);
        let (content, wanted) = (Content::Kept(kept), AtomicBool::new(false));
        let mut inner = self.inner.write();
        inner.insert(Entry { path, content, hidden, expired, used, wanted });
        self.evict(&mut inner);
    }

    fn evict(&self, inner: &mut Inner) {
        let len = inner.by_path.len();
        if len <= self.directories_max {
            return;
        }
        let count = (self.directories_max / EVICT_FRACTION).max(len - self.directories_max);
        let mut by_use: Vec<(u64, Arc<str>)> = inner
            .by_path
            .iter()
            .map(|(path, entry)| (entry.used.load(Ordering::Relaxed), Arc::clone(path)))
            .collect();
        by_use.select_nth_unstable(count - 1);
        for (_, path) in &by_use[..count] {
            inner.remove(path);
        }
        self.evicted.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Removes `path` and all below it; returns the paths removed.
    pub(crate) fn remove_subtree(&self, path: &str) -> Vec<Arc<str>> {
        let mut removed = Vec::new();
        self.inner.write().remove_subtree(path, &mut removed);
        removed
    }

    /// Everything known, for a rewrite of the state file.
    pub(crate) fn snapshot(&self) -> Vec<Snapshot> {
        let of = |entry: &Entry| Snapshot {
            path: Arc::clone(&entry.path),
            content: entry.content.clone(),
            hidden: entry.hidden,
        };
        self.inner.read().by_path.values().map(of).collect()
    }

    pub(crate) fn stats(&self) -> TableStats {
        let inner = self.inner.read();
        TableStats {
            directories: inner.by_path.len() as u64,
            entries: inner.entries,
            hidden: inner.hidden,
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }
}
