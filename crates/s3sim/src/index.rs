//! The sorted keys of a bucket, kept in memory so that a LIST costs its page and not a walk.
//!
//! Built by the first LIST, then kept up to date by every write through the server. Changes made
//! to the folder by other means are noticed by the times of its directories: each LIST looks at
//! those it covers, and one that has changed brings about a new walk. A file that is rewritten in
//! place changes no directory; `rescan` is for that.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::Path;

use crate::folder;
use crate::object::Entry;

/// One bucket's keys.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: BTreeMap<Box<str>, Entry>,
    /// The folder's directories, each with a slash at its end (the bucket's own is empty), and
    /// their times as of the walk or our last write.
    directories: BTreeMap<Box<str>, (i64, i64)>,
}

impl Index {
    /// Walks a folder.
    pub(crate) fn scan(dir: &Path) -> io::Result<Self> {
        let mut directories = BTreeMap::new();
        let mut entries = Vec::new();
        folder::walk(
            dir,
            &mut |prefix, stamp| {
                directories.insert(prefix.into(), stamp);
            },
            &mut |key, entry| entries.push((key.into_boxed_str(), entry)),
        )?;
        Ok(Self { entries: entries.into_iter().collect(), directories })
    }

    pub(crate) fn insert(&mut self, key: &str, entry: Entry) {
        self.entries.insert(key.into(), entry);
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    /// Takes note of the directories above `key` as they are after our own write.
    pub(crate) fn wrote(&mut self, dir: &Path, key: &str) {
        let slashes = key.match_indices('/').map(|(at, _)| at + 1);
        for end in std::iter::once(0).chain(slashes) {
            let prefix = &key[..end];
            match folder::stamp(&dir.join(prefix)) {
                Some(stamp) => self.directories.insert(prefix.into(), stamp),
                None => self.directories.remove(prefix),
            };
        }
    }

    /// True if a directory that keys with `prefix` may lie in has changed behind our back.
    pub(crate) fn is_stale(&self, dir: &Path, prefix: &str) -> bool {
        let mut base = prefix.rfind('/').map_or("", |at| &prefix[..=at]);
        // A directory that we do not know may have been made; then the one above it has changed.
        while !base.is_empty() && !self.directories.contains_key(base) {
            let above = base.trim_end_matches('/').rfind('/').map_or(0, |at| at + 1);
            base = &base[..above];
        }
        let from = (Bound::Included(base), Bound::Unbounded);
        let mut covered =
            self.directories.range::<str, _>(from).take_while(|(name, _)| name.starts_with(base));
        covered.any(|(name, stamp)| folder::stamp(&dir.join(&**name)) != Some(*stamp))
    }

    /// Keys after `after` (or from it on, if included), in the order of their bytes.
    pub(crate) fn from<'a>(
        &'a self,
        start: Bound<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Entry)> {
        self.entries.range::<str, _>((start, Bound::Unbounded)).map(|(key, entry)| (&**key, entry))
    }
}
